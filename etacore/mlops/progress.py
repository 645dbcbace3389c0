"""How long work says how far it is: bars on a terminal, plain lines everywhere else, never both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: not known)."""

LINE_S: Final = 15.0
"""Seconds between two lines about one stage."""


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing."""


def stage_line(stage: str, done: int, total: int) -> str:
    """A stage and how far it is, in words."""
    amount = f"{done} of {total}" if total > 1 else str(done) if done > 1 else ""
    return f"{stage}: {amount}" if amount else stage


class LineProgress:
    """Says each stage once when it begins, and how far it is every `LINE_S` seconds while there is an end in sight.

    Parameters
    ----------
    say : callable
        Takes a line.
    clock : callable
        Seconds.
    """

    def __init__(self, say: Callable[[str], object], clock: Callable[[], float] = monotonic) -> None:
        self._say: Final = say
        self._clock: Final = clock
        self._stage: str | None = None
        self._said_at = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See `Progress`."""
        now = self._clock()
        if stage != self._stage:
            self._say(stage)
        elif total > done and now - self._said_at >= LINE_S:
            self._say(stage_line(stage, done, total))
        else:
            return
        self._stage, self._said_at = stage, now


@contextmanager
def console_progress(console: Console | None = None) -> Iterator[Progress]:
    """A bar for each stage on standard error; plain lines without a terminal.

    Parameters
    ----------
    console : Console, optional
        Where to show it.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield LineProgress(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        return
    bars = Bars(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    known: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in known:
            known[stage] = bars.add_task(stage, total=total or None)
        bars.update(known[stage], completed=done, total=total or None)

    with bars:
        yield show
