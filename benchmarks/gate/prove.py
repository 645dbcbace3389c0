"""Proof that the gate works: an unchanged tree passes each time, and a kernel that was slowed down is caught."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.fleet import ROOT
from benchmarks.gate import budgets, show, timing, trees
from benchmarks.gate.budgets import Budgets, Row
from benchmarks.gate.callgrind import count
from benchmarks.gate.compare import check_all_ran
from benchmarks.gate.errors import GateError
from benchmarks.gate.running import Bundle, prepare

Say = Callable[[str], object]

FOREST_LIBRARY: Final = Path("etacore/mlops/bundling/forest_library.c")
FOREST_CALL: Final = "forest_rows_##name(X, n, out);"
WIDE_ROWS: Final = 20
"""The forest's wide kernel takes this many rows and more."""
# Three instructions a turn, in batches only: the narrow kernel stays as it was.
SLOW_DOWN: Final = """
static void slow_down(int64_t n)
{{
    if (n >= {rows})
        for (int64_t i = n * {turns}; i > 0; i--)
            __asm__ volatile("nop");
}}

#define PATH(name)"""
FOREST_WORKLOAD: Final = "forest, a batch"
FOREST_KERNEL: Final = "forest.Library.predict"
SLOWED_PYX: Final = "_select"


def copy_tree(target: Path) -> Path:
    """A copy of this tree's package, compiled as it is."""
    shutil.copytree(ROOT / "etacore", target / "etacore", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def slow_forest(target: Path, n_instructions_per_row: float) -> Path:
    """A copy of this tree whose forests execute so many instructions more for a row of a batch, on the AVX2 path."""
    tree = copy_tree(target)
    path = tree / FOREST_LIBRARY
    text = path.read_text()
    if text.count(FOREST_CALL) != 1 or "#define PATH(name)" not in text:
        raise GateError(f"{FOREST_LIBRARY} has changed, the proof cannot slow it down")
    text = re.sub(r"(forest_rows_##name\(X, n, out\);)( *)\\", r"\1 slow_down(n); \\", text)
    turns = round(n_instructions_per_row / 3)
    text = text.replace("#define PATH(name)", SLOW_DOWN.format(rows=WIDE_ROWS, turns=turns).strip("\n"), 1)
    # The portable path has no wide kernel and keeps its speed.
    text = text.replace("PATH(portable)\n", PORTABLE_AS_IT_WAS, 1)
    path.write_text(text)
    return tree


PORTABLE_AS_IT_WAS: Final = """#define slow_down(n)
PATH(portable)
#undef slow_down
"""


def unoptimised_kernel(target: Path, name: str = SLOWED_PYX) -> Path:
    """A copy of this tree in which one kernel was compiled with -O1 instead of -O3."""
    tree = copy_tree(target)
    sources = target / "src_ext" / "etacore" / "_kernels"
    sources.mkdir(parents=True)
    for source in (ROOT / "src_ext" / "etacore" / "_kernels").iterdir():
        if source.suffix == ".pxd" or source.stem == name:
            shutil.copy2(source, sources)
    setup = (ROOT / "setup.py").read_text()
    if '"-O3"' not in setup:
        raise GateError("setup.py has changed, the proof cannot compile a kernel with less optimisation")
    (target / "setup.py").write_text(setup.replace('"-O3"', '"-O1"'))
    trees.build(tree, f"the copy with a slow {name}")
    return tree


def judge_tree(
    tree: Path, allowed: Budgets, bundle: Bundle, *, sample: Path | None = None, only: str = "", disturb: int = 0
) -> list[Row]:
    """Hold a tree's counts against budgets; options as for `count`."""
    counted = count(bundle, tree=tree, sample=sample, only=only, disturb=disturb)
    check_all_ran(counted)
    rows = budgets.judge(counted.counts, allowed, budgets.toolchain(counted.forest_path))
    return [row for row in rows if only in row.workload]


def failing(rows: list[Row]) -> list[Row]:
    """Rows that fail the gate."""
    return [row for row in rows if row.verdict in show.FAILS]


def prove(folder: Path, times: int, say: Say) -> bool:
    """Run the whole proof, in copies of the tree below `folder`.

    Returns
    -------
    bool
        Whether the gate did what it should, each time.
    """
    bundle = prepare(ROOT)
    first = count(bundle, tree=ROOT)
    check_all_ran(first)
    allowed = budgets.record(first.counts, budgets.toolchain(first.forest_path))
    good = _unchanged(copy_tree(folder / "unchanged"), bundle, allowed, times, say)
    good &= _unchanged_times(folder / "unchanged", bundle, times, say)

    per_row = allowed.recorded[FOREST_WORKLOAD, FOREST_KERNEL][1]
    tree = slow_forest(folder / "forest", 0.10 * per_row)
    rows = judge_tree(tree, allowed, prepare(tree, folder / "cache"))
    good &= _caught("the forest's wide kernel, 10 % more instructions", rows, FOREST_KERNEL, {FOREST_WORKLOAD}, say)

    tree = unoptimised_kernel(folder / "kernel")
    rows = judge_tree(tree, allowed, bundle)
    where = {row.workload for row in rows if row.kernel.startswith(f"{SLOWED_PYX}.")}
    good &= _caught(f"{SLOWED_PYX} compiled with -O1", rows, f"{SLOWED_PYX}.", where, say)
    return good


def _unchanged(tree: Path, bundle: Bundle, allowed: Budgets, times: int, say: Say) -> bool:
    passed, spread = 0, 0.0
    for i in range(times):
        rows = judge_tree(tree, allowed, bundle, disturb=i)
        passed += not failing(rows)
        spread = max(spread, *(abs(row.ratio - 1) for row in rows if row.ratio is not None))
    say(
        f"unchanged tree, copied elsewhere, the heap laid out anew: {passed} of {times} pass; "
        f"largest change of a count {spread:.2%}"
    )
    return passed == times


def _unchanged_times(tree: Path, bundle: Bundle, times: int, say: Say) -> bool:
    passed = 0
    for _ in range(times):
        measured = timing.alternate(
            lambda: timing.measure(ROOT, bundle), lambda: timing.measure(tree, bundle), timing.MIN_PAIRS
        )
        passed += all(one.verdict != "over" for one in timing.compare(*measured))
    say(f"unchanged tree, timed beside itself: {passed} of {times} pass")
    return passed == times


def _caught(what: str, rows: list[Row], kernel: str, workloads: set[str], say: Say) -> bool:
    found = failing(rows)
    hit = [row for row in found if row.kernel.startswith(kernel)]
    elsewhere = [row for row in found if row.workload not in workloads]
    stray = [row for row in found if row.kernel != "whole" and not row.kernel.startswith(kernel)]
    good = bool(hit) and not elsewhere and not stray
    say(f"{what}: {'caught, and nothing else' if good else 'NOT AS EXPECTED'}. {show.in_one_line(rows)}")
    return good
