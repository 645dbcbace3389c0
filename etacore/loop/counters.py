"""What the loop counts, and who is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Protocol

from etacore.pipeline.engine import summarize
from etacore.status import Status


@dataclass(frozen=True, slots=True)
class PollResult:
    """What one poll did, or with events all turns of one poll interval; ``counts`` is by `Status`."""

    n_keys: int
    counts: Counter[Status]
    duration_s: float
    late_s: float = 0.0
    """How long after its time it began, seconds."""

    @property
    def n_due(self) -> int:
        """Vehicles that should have got a prediction.

        Not the unchanged, not those without a usable snapshot, and not those at the end of their trip.
        """
        missed = sum(self.counts[s] for s in Status if s >= Status.UNKNOWN_ROUTE and s != Status.TRIP_FINISHED)
        return self.counts[Status.OK] + missed


@dataclass(frozen=True, slots=True)
class Window:
    """Totals of a stretch of polls, for whoever reports them."""

    duration_s: float
    n_polls: int
    n_outages: int
    counts: Counter[Status]
    max_late_s: float = 0.0

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
        return f"{text} ({reasons})" if reasons else text


@dataclass(slots=True)
class RunSummary:
    """Totals of a whole run."""

    n_polls: int = 0
    n_outages: int = 0
    counts: Counter[Status] = field(default_factory=Counter)
    max_late_s: float = 0.0

    def add(self, result: PollResult) -> None:
        """One more poll."""
        self.n_polls += 1
        self.counts += result.counts
        self.max_late_s = max(self.max_late_s, result.late_s)


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


class Accounts:
    """Totals of a run and of the window in hand."""

    def __init__(self, window_seconds: float, observer: Observer) -> None:
        self.summary: Final = RunSummary()
        self._observer: Final = observer
        self._window_seconds: Final = window_seconds
        self._window = RunSummary()
        self._began = monotonic()

    def add(self, result: PollResult) -> None:
        """One more poll."""
        self.summary.add(result)
        self._window.add(result)
        self._observer.on_poll(result)

    def add_unfinished(self, counts: Counter[Status]) -> None:
        """What a poll had done when it failed; it counts as no poll."""
        self.summary.counts += counts
        self._window.counts += counts

    def add_outage(self, message: str, *, first: bool) -> None:
        """Redis could not be reached; only the first time of an outage counts."""
        if first:
            self.summary.n_outages += 1
            self._window.n_outages += 1
        self._observer.on_outage(message)

    @property
    def is_window_over(self) -> bool:
        """Whether a report is due."""
        return monotonic() - self._began >= self._window_seconds

    def report(self) -> None:
        """Report the window and begin the next one."""
        now = monotonic()
        totals, self._window = self._window, RunSummary()
        self._observer.on_window(
            Window(now - self._began, totals.n_polls, totals.n_outages, totals.counts, totals.max_late_s)
        )
        self._began = now
