"""Two source trees side by side: instructions and times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.fleet import ROOT
from benchmarks.gate import timing
from benchmarks.gate.budgets import HEADROOM, MIN_SHARE, Row, verdict_of
from benchmarks.gate.callgrind import WHOLE, Count, Counted, by_name, count
from benchmarks.gate.errors import GateError
from benchmarks.gate.running import Bundle, prepare
from benchmarks.gate.timing import Timed


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two trees.

    Attributes
    ----------
    rows : list of Row
        Instructions.
    timed : list of Timed
        Empty if no times were asked for.
    unknown : dict
        Workloads that the base cannot run, and why.
    """

    rows: list[Row]
    timed: list[Timed]
    unknown: dict[str, str]

    @property
    def over(self) -> list[Row | Timed]:
        """What takes more than it may."""
        rows: list[Row | Timed] = [*self.rows, *self.timed]
        return [row for row in rows if row.verdict == "over"]


def compare_trees(
    base: Path,
    head: Path = ROOT,
    *,
    bundle: Bundle | None = None,
    sample: Path | None = None,
    only: str = "",
    n_pairs: int = timing.N_PAIRS,
    tell: Callable[[str], object] = lambda _: None,
) -> Comparison:
    """Count and time all workloads with both trees.

    Parameters
    ----------
    base, head : Path
        Source trees with compiled kernels.
    bundle : Bundle, optional
        The model; default: the benchmark's, compiled by each tree with its own forest kernel.
    sample : Path, optional
        Sample of a fleet instead of the seeded one.
    only : str
        Only workloads with this in their name.
    n_pairs : int
        Processes of each tree to time, in alternation; 0: count only.
    tell : callable
        Called with a line of text at each step.

    Raises
    ------
    GateError
        If a tree cannot be measured.
    """
    trees = (base, head)
    tell("compiling the model")
    bundles = [bundle or prepare(tree) for tree in trees]
    tell("counting instructions")
    # Counts do not mind each other.
    with ThreadPoolExecutor(len(trees)) as pool:
        before, now = pool.map(lambda tree, its: count(its, tree=tree, sample=sample, only=only), trees, bundles)
    check_all_ran(now)
    timed = []
    if n_pairs:
        tell(f"timing {n_pairs} pairs of processes")
        time_base, time_head = (
            partial(timing.measure, tree, its, sample=sample, only=only)
            for tree, its in zip(trees, bundles, strict=True)
        )
        each = timing.alternate(time_base, time_head, n_pairs, lambda i: tell(f"timed {i} of {n_pairs} pairs"))
        timed = timing.compare(*each)
    return Comparison(compare_counts(before.counts, now.counts), timed, before.failed)


def check_all_ran(counted: Counted) -> None:
    """Raise a `GateError` if the tree at hand cannot run one of the workloads."""
    if counted.failed:
        name, reason = next(iter(counted.failed.items()))
        raise GateError(
            f"{len(counted.failed)} workloads fail, first {name!r}: {reason}",
            hint="make them fit the engine again: benchmarks/gate/workloads.py",
        )


def compare_counts(before: Sequence[Count], now: Sequence[Count], headroom: float = HEADROOM) -> list[Row]:
    """Instructions of kernels that matter in either tree; a kernel that only one has is part of the whole there."""
    known, rows = by_name(before), []
    for new in now:
        old = known.get(new.workload)
        matter = [*new.kernels(MIN_SHARE), *(old.kernels(MIN_SHARE) if old else ())]
        for kernel in (*dict.fromkeys(matter), WHOLE):
            a, b = old.per_unit(kernel) if old else None, new.per_unit(kernel)
            rows.append(Row(new.workload, kernel, new.unit, a, b, verdict_of(a, b, 1 + headroom)))
    return rows
