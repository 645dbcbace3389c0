"""When an alert is due, and that every receiver is tried."""

from __future__ import annotations

from collections import Counter
from typing import Any

from prefect.blocks.abstract import NotificationBlock
from pydantic import PrivateAttr

from etacore.loop.runtime import PollResult
from etacore.status import Status
from flows.notify import Alert, AlertRules, Receiver, send


def poll(**counts: int) -> PollResult:
    found = Counter({Status[name.upper()]: n for name, n in counts.items()})
    return PollResult(sum(found.values()), found, 0.01)


NONE, SOME, IDLE = poll(unknown_route=3), poll(ok=1, unknown_route=2), poll(unchanged=3, trip_finished=1)
EMPTY = PollResult(0, Counter(), 0.01)


def subjects(threshold: int, events: list[PollResult | str]) -> list[str | None]:
    rules = AlertRules(threshold, "eta")
    alerts = [rules.after_outage(e) if isinstance(e, str) else rules.after_poll(e) for e in events]
    return [alert.subject.removeprefix("eta: ") if alert else None for alert in alerts]


def test_an_outage_is_told_once_and_its_end_once():
    assert subjects(3, [NONE] * 6 + [SOME, SOME]) == [None, None, "no predictions"] + [None] * 3 + ["recovered", None]


def test_polls_must_follow_each_other():
    assert subjects(2, [NONE, SOME, NONE, SOME]) == [None] * 4


def test_unchanged_vehicles_are_not_zero_and_do_not_end_an_outage():
    assert subjects(2, [IDLE] * 5) == [None] * 5
    assert subjects(2, [NONE, IDLE, NONE, IDLE, SOME]) == [None, None, "no predictions", None, "recovered"]


def test_an_empty_database_has_words_of_its_own():
    rules = AlertRules(1, "eta")
    empty, none = rules.after_poll(EMPTY), rules.after_poll(NONE)
    assert empty is not None
    assert "producer" in empty.body
    assert none is not None
    assert "3 vehicles should have got a prediction and none did (unknown_route 3)" in none.body
    assert rules.after_poll(EMPTY) is None, "told already in this outage"


def test_vehicles_that_report_again_end_an_empty_database():
    assert subjects(1, [EMPTY, IDLE]) == ["no predictions", "recovered"]


def test_redis_away_counts():
    assert subjects(2, ["gone", "gone", "gone", SOME]) == [None, "no predictions", None, "recovered"]


def test_threshold_0_is_off():
    assert subjects(0, [NONE, EMPTY, "gone", SOME]) == [None] * 4


class Working(NotificationBlock):
    _got: list[tuple[str, str]] = PrivateAttr(default_factory=list)

    def notify(self, body, subject=None):
        self._got.append((body, subject or ""))


class Dead(NotificationBlock):
    def notify(self, body, subject=None):
        raise ConnectionError("https://hooks.example.com/secret-path")


def test_each_receiver_is_tried_and_a_dead_one_is_logged_without_its_address(caplog: Any):
    working = Working()
    receivers = [Receiver("dead/one", Dead()), Receiver("working/one", working), Receiver("dead/two", Dead())]
    assert send(Alert("subject", "body"), receivers) == 1
    assert working._got == [("body", "subject")]
    assert "dead/one" in caplog.text
    assert "dead/two" in caplog.text
    assert "secret-path" not in caplog.text
