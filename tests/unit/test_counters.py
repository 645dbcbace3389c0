"""What the loop counts, and what it does not fetch."""

from __future__ import annotations

from collections import Counter

import pytest

from etacore.loop import aside as aside_module
from etacore.loop import counters as accounts_module
from etacore.loop.aside import SET_ASIDE_S, SetAside
from etacore.loop.counters import Accounts, PollResult, Silent
from etacore.status import Status


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (accounts_module, aside_module):
        monkeypatch.setattr(module, "monotonic", clock)
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
    accounts = Accounts(10.0, observer)
    accounts.add(poll(OK=2, late_s=0.5))
    accounts.add(poll(OK=1, EXPIRED=1))
    accounts.add_unfinished(Counter({Status.OK: 5}))
    accounts.add_outage("gone", first=True)
    accounts.add_outage("gone", first=False)
    clock.now += 9
    assert not accounts.is_window_over
    clock.now += 1
    assert accounts.is_window_over
    accounts.report()
    assert not accounts.is_window_over
    accounts.add(poll(OK=1))
    clock.now += 4
    accounts.report()
    first, second = observer.windows
    assert (first.n_polls, first.n_outages, first.duration_s, first.max_late_s) == (2, 1, 10.0, 0.5)
    assert first.counts == {Status.OK: 8, Status.EXPIRED: 1}
    assert (second.n_polls, second.n_outages, second.duration_s, second.max_late_s) == (1, 0, 4.0, 0.0)
    assert second.counts == {Status.OK: 1}
    assert accounts.summary.counts == {Status.OK: 9, Status.EXPIRED: 1}
    assert (accounts.summary.n_polls, accounts.summary.n_outages) == (3, 1)
    assert len(observer.polls) == 3
    assert observer.outages == ["gone", "gone"]


def test_what_is_added_is_not_changed_afterwards(clock):
    accounts, result = Accounts(10.0, Silent()), poll(OK=2)
    for _ in range(3):
        accounts.add(result)
    assert result.counts == {Status.OK: 2}


def test_keys_are_set_aside_for_a_while(clock):
    aside = SetAside()
    assert aside.sort([b"a"]) == ([b"a"], [], Counter())
    aside.add(b"a", Status.WRONG_TYPE)
    aside.add(b"c", Status.TOO_LARGE)
    assert aside.sort([b"b", b"d"]) == ([b"b", b"d"], [], Counter())
    reasons = Counter({Status.WRONG_TYPE: 1, Status.TOO_LARGE: 1})
    assert aside.sort([b"a", b"b", b"c"]) == ([b"b"], [b"a", b"c"], reasons)
    clock.now += 1.5 * SET_ASIDE_S
    assert aside.sort([b"a", b"b", b"c"]) == ([b"a", b"b", b"c"], [], Counter())
    assert len(aside) == 0


def test_what_was_set_aside_is_forgotten_though_it_is_never_asked_for_again(clock):
    aside = SetAside()
    for i in range(1_000):
        aside.add(b"%d" % i, Status.WRONG_TYPE)
        aside.sort([b"other"])
        clock.now += 1
    assert len(aside) <= 1.6 * SET_ASIDE_S + 1
