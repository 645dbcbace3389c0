"""What the loop tells while it runs, and to whom."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from etacore.pipeline.engine import summarize
from etacore.status import Remark, Status


@dataclass(frozen=True, slots=True)
class PollResult:
    """What one poll did, or with events all turns of one poll interval.

    Attributes
    ----------
    counts : Counter of Status
        What became of the vehicles.
    remarks : Counter of Remark
        What was odd about vehicles that were served all the same.
    """

    n_keys: int
    counts: Counter[Status]
    duration_s: float
    late_s: float = 0.0
    """How long after its time it began, seconds."""
    remarks: Counter[Remark] = field(default_factory=Counter)

    @property
    def n_due(self) -> int:
        """Vehicles that should have got a prediction.

        Not the unchanged, not those without a usable snapshot, not those at the end of their trip, and not those whose
        pattern would be a guess where guesses are not wanted.
        """
        not_due = (Status.TRIP_FINISHED, Status.GUESSED_PATTERN)
        missed = sum(self.counts[s] for s in Status if s >= Status.UNKNOWN_ROUTE and s not in not_due)
        return self.counts[Status.OK] + missed


@dataclass(frozen=True, slots=True)
class Window:
    """Totals of a stretch of polls, for whoever reports them."""

    duration_s: float
    n_polls: int
    n_outages: int
    counts: Counter[Status]
    max_late_s: float = 0.0
    remarks: Counter[Remark] = field(default_factory=Counter)

    def line(self) -> str:
        """One line for a log."""
        totals = summarize(self.counts)
        reasons = ", ".join(
            f"{status.label} {n}" for status, n in sorted(self.counts.items()) if status > Status.UNCHANGED and n
        )
        text = (
            f"{self.n_polls} polls in {self.duration_s:.1f} s: {totals['predicted']} predicted, "
            f"{totals['unchanged']} unchanged, {totals['rejected']} rejected, {totals['failed']} failed"
        )
        odd = ", ".join(f"{remark} {n}" for remark, n in sorted(self.remarks.items()) if n)
        return text + (f" ({reasons})" if reasons else "") + (f"; odd: {odd}" if odd else "")


class Observer(Protocol):
    """Whoever wants to know; called on the loop's thread, so it must be quick and must not raise."""

    def on_poll(self, result: PollResult) -> None:
        """After each poll."""

    def on_window(self, window: Window) -> None:
        """Every ``window_seconds``, and at the end."""

    def on_outage(self, message: str) -> None:
        """Each time that Redis could not be reached."""

    def on_refusal(self, model_key: str, message: str) -> None:
        """A model was not taken over; the one before goes on."""


class Silent:
    """An observer that does nothing; inherit from it to look at some things only."""

    def on_poll(self, result: PollResult) -> None:
        """Ignore."""

    def on_window(self, window: Window) -> None:
        """Ignore."""

    def on_outage(self, message: str) -> None:
        """Ignore."""

    def on_refusal(self, model_key: str, message: str) -> None:
        """Ignore."""
