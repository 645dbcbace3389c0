"""Every status, remark and hint has words for people."""

from __future__ import annotations

import pytest

from etacore.loop.reasons import HINTS, REASONS, REMARKS, age_text, cut, quoted
from etacore.status import Remark, Status, StopHint


def test_every_status_says_what_it_means_and_what_to_do() -> None:
    assert set(REASONS) == set(Status)
    assert all(reason.meaning for reason in REASONS.values())
    assert [status for status, reason in REASONS.items() if not reason.advice] == [Status.OK]


def test_every_remark_and_every_hint_has_words() -> None:
    assert set(REMARKS) == set(Remark)
    assert all(reason.meaning and reason.advice for reason in REMARKS.values())
    assert set(HINTS) == set(StopHint)


def test_no_two_statuses_say_the_same() -> None:
    assert len({reason.meaning for reason in REASONS.values()}) == len(Status)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (-75, "1 min 15 s"),
        (3_600, "1 h 0 min"),
        (7_384, "2 h 3 min"),
        (2 * 86_400 + 3 * 3_600 + 59, "2 d 3 h"),
    ],
)
def test_a_length_of_time_has_two_units(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


def test_text_from_outside_is_cut_and_harmless() -> None:
    assert cut("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert cut("x" * 100, 10) == "x" * 9 + "…"
    assert cut("\ud800") == "\\ud800"
    assert quoted({"a": 1}) == "'{'a': 1}'"
