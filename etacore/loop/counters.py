"""What the loop counts, over a whole run and over the window in hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from etacore.loop.observer import Observer, PollResult, Window
from etacore.status import Remark, Status


@dataclass(slots=True)
class RunSummary:
    """Totals of a whole run."""

    n_polls: int = 0
    n_outages: int = 0
    counts: Counter[Status] = field(default_factory=Counter)
    max_late_s: float = 0.0
    remarks: Counter[Remark] = field(default_factory=Counter)

    def add(self, result: PollResult) -> None:
        """One more poll."""
        self.n_polls += 1
        self.counts += result.counts
        self.remarks += result.remarks
        self.max_late_s = max(self.max_late_s, result.late_s)


class Counters:
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

    def add_unfinished(self, counts: Counter[Status], remarks: Counter[Remark]) -> None:
        """What a poll had done when it failed; it counts as no poll."""
        for totals in (self.summary, self._window):
            totals.counts += counts
            totals.remarks += remarks

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
            Window(
                now - self._began,
                totals.n_polls,
                totals.n_outages,
                totals.counts,
                totals.max_late_s,
                totals.remarks,
            )
        )
        self._began = now
