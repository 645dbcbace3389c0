"""What the loop counts, and who is told."""

from __future__ import annotations

from collections import Counter

import pytest

from etacore.loop import counters as counters_module
from etacore.loop.counters import Counters
from etacore.loop.observer import PollResult, Silent
from etacore.status import Remark, Status


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(counters_module, "monotonic", clock)
    return clock


class Observer(Silent):
    def __init__(self):
        self.polls, self.windows, self.outages = [], [], []

    def on_poll(self, result):
        self.polls.append(result)

    def on_window(self, window):
        self.windows.append(window)

    def on_outage(self, message):
        self.outages.append(message)


def poll(late_s=0.0, **counts):
    return PollResult(3, Counter({Status[name]: n for name, n in counts.items()}), 0.1, late_s)


def test_totals_of_a_run_and_of_its_windows(clock):
    observer = Observer()
    counters = Counters(10.0, observer)
    counters.add(poll(OK=2, late_s=0.5))
    counters.add(poll(OK=1, EXPIRED=1))
    counters.add_unfinished(Counter({Status.OK: 5}), Counter({Remark.PATTERN_GUESSED: 2}))
    odd = PollResult(1, Counter({Status.OK: 1}), 0.1, remarks=Counter({Remark.STOP_HINT_UNKNOWN: 1}))
    counters.add(odd)
    counters.add_outage("gone", first=True)
    counters.add_outage("gone", first=False)
    clock.now += 9
    assert not counters.is_window_over
    clock.now += 1
    assert counters.is_window_over
    counters.report()
    assert not counters.is_window_over
    counters.add(poll(OK=1))
    clock.now += 4
    counters.report()
    first, second = observer.windows
    assert (first.n_polls, first.n_outages, first.duration_s, first.max_late_s) == (3, 1, 10.0, 0.5)
    assert first.counts == {Status.OK: 9, Status.EXPIRED: 1}
    assert first.remarks == {Remark.PATTERN_GUESSED: 2, Remark.STOP_HINT_UNKNOWN: 1}
    assert first.line().endswith("(expired 1); odd: pattern_guessed 2, stop_hint_unknown 1")
    assert not second.remarks
    assert (second.n_polls, second.n_outages, second.duration_s, second.max_late_s) == (1, 0, 4.0, 0.0)
    assert second.counts == {Status.OK: 1}
    assert counters.summary.counts == {Status.OK: 10, Status.EXPIRED: 1}
    assert counters.summary.remarks == first.remarks
    assert (counters.summary.n_polls, counters.summary.n_outages) == (4, 1)
    assert len(observer.polls) == 4
    assert observer.outages == ["gone", "gone"]


def test_what_is_added_is_not_changed_afterwards(clock):
    counters, result = Counters(10.0, Silent()), poll(OK=2)
    for _ in range(3):
        counters.add(result)
    assert result.counts == {Status.OK: 2}
