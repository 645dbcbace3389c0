"""What a workload is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Workload:
    """Work that is done again and again.

    Attributes
    ----------
    name : str
    size : int
        Units of work in a run.
    unit : str
        What a figure is given per: ``vehicle``, ``row``, ``call`` or ``route``.
    run : callable
        The work.
    prepare : callable
        Goes before each run, unmeasured.
    last : bool
        Whether `run` changes what the others work on, so that it can only be done once, at the end.
    """

    name: str
    size: int
    unit: str
    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing
    last: bool = False
