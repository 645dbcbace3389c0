"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: not known)."""


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing."""


@contextmanager
def console_progress(console: Console | None = None) -> Iterator[Progress]:
    """A bar for each stage on standard error; lines without a terminal.

    Parameters
    ----------
    console : Console, optional
        Where to show it.
    """
    console = console or Console(stderr=True)
    bars = Bars(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    known: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in known:
            known[stage] = bars.add_task(stage, total=total or None)
            if not console.is_terminal:
                console.print(stage)
        bars.update(known[stage], completed=done, total=total or None)

    with bars:
        yield show
