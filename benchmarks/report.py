"""Run all benchmarks, print medians beside their peers, and hold them against the budgets.

``python -m benchmarks.report`` writes ``results/bench.json``,
``results/bench.md`` and ``results/bench.png``; its exit code is 1 when a
figure is over its budget or could not be measured, and that of pytest when a
benchmark failed; the others are then reported. A goal that is not reached is said, and fails nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Figure, Ratio, Verdict, by_size, judge, ratio, read_budgets, read_figures
from benchmarks.fleet import CACHE, ROOT
from benchmarks.measuring import OURS
from benchmarks.picture import draw

RESULTS: Final = ROOT / "results"
PYTEST: Final = (
    "-m",
    "pytest",
    "benchmarks",
    "--override-ini=addopts=",
    "--override-ini=python_files=bench_*.py",
    "--override-ini=python_functions=bench_*",
    "--import-mode=importlib",
    "--benchmark-only",
    "--benchmark-quiet",
    "--benchmark-max-time=0.5",
    "--benchmark-min-rounds=7",
    "--durations=5",
    "-q",
)
COMMAND: Final = "python -m benchmarks.report"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report; columns named in `right` hold numbers."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    right: frozenset[str] = frozenset()


def tables(figures: Sequence[Figure]) -> list[Table]:
    """The figures: a table for each set of sizes, and one of what was measured at one or two sizes."""
    sized = by_size(figures)
    found = [_by_size(figures, sizes, stages) for sizes, stages in sized.items()]
    stages = {stage for names in sized.values() for stage in names}
    rest = [figure for figure in figures if figure.stage not in stages]
    return [*found, Table("Single figures", HEAD, rows(rest), NUMBERS)] if rest else found


def _by_size(figures: Sequence[Figure], sizes: tuple[int, ...], stages: Sequence[str]) -> Table:
    known = {(figure.stage, figure.side, figure.size): figure for figure in figures}
    lines: list[tuple[str, ...]] = []
    for stage in stages:
        sides = dict.fromkeys(side for its_stage, side, _ in known if its_stage == stage)
        for side in sorted(sides, key=lambda side: side != OURS):
            cells = [
                _cell(known.get((stage, OURS, size)), known.get((stage, side, size)), is_ours=side == OURS)
                for size in sizes
            ]
            lines.append((stage if side == OURS else "", side, *cells))
    unit = next(figure.unit for figure in figures if figure.stage == stages[0])
    columns = tuple(grouped(size) for size in sizes)
    title = f"{unit} by number of {unit.partition('/')[2]}s; beside a peer's, how many times as fast {OURS} is"
    return Table(title, ("stage", "", *columns), lines, frozenset(columns))


def _cell(own: Figure | None, figure: Figure | None, *, is_ours: bool) -> str:
    if figure is None:
        return ""
    return number(figure.value) if is_ours or own is None else f"{number(figure.value)} ({_times(ratio(own, figure))})"


def _times(ratio: Ratio) -> str:
    return f"{ratio.times:.0f}" if ratio.times >= 10 else f"{ratio.times:.2g}"


HEAD: Final = ("stage", "size", "etacore", "unit", "beside", "its median", "times as fast")
NUMBERS: Final = frozenset({"size", "etacore", "its median", "times as fast"})


def rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Table rows: stage, size, our median, unit, and each peer with how many times as fast we are."""
    ours = {(figure.stage, figure.size): figure for figure in figures if figure.side == OURS}
    table: list[tuple[str, ...]] = []
    for (stage, size), own in ours.items():
        peers = [f for f in figures if (f.stage, f.size) == (stage, size) and f.side != OURS]
        for peer in peers or (None,):
            beside = (peer.side, number(peer.value), f"{ratio(own, peer).times:.2f}") if peer else ("", "", "")
            table.append((stage, grouped(size), number(own.value), own.unit, *beside))
    return table


def budget_table(verdicts: Sequence[Verdict]) -> Table:
    """The verdicts: measured with the quartiles of its rounds, and how far off the goal."""
    lines: list[tuple[str, ...]] = [
        (v.name, v.limit, _measured(v), "" if v.goal is None else f"{v.goal:g}", _mark(v), _goal(v)) for v in verdicts
    ]
    return Table("Budgets", ("budget", "limit", "measured", "goal", "", "to the goal"), lines, frozenset({"goal"}))


def _mark(verdict: Verdict) -> str:
    return "ok" if verdict.within else "**over**"


def _goal(verdict: Verdict) -> str:
    if verdict.missed_by is None:
        return ""
    return f"missed by {100 * verdict.missed_by:.0f} %" if verdict.missed_by else "reached"


def _measured(verdict: Verdict) -> str:
    if verdict.measured is None:
        return "not measured"
    if verdict.low is None or verdict.high is None:
        return f"{verdict.measured:.2f}"
    return f"{verdict.measured:.2f} ({verdict.low:.2f} to {verdict.high:.2f})"


def number(value: float) -> str:
    """Three digits or four, whatever the size."""
    if value >= 1000:
        return grouped(round(value))
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def grouped(value: int) -> str:
    """A whole number with its thousands set apart."""
    return f"{value:,}".replace(",", " ")


def markdown(figures: Sequence[Figure], verdicts: Sequence[Verdict], machine: str) -> str:
    """The report as Markdown."""
    lines = [f"Medians, one core. {machine}"]
    for table in [*tables(figures), *([budget_table(verdicts)] if verdicts else [])]:
        rule = ["---:" if name in table.right else "---" for name in table.head]
        lines += ["", f"**{table.title}**", "", _line(table.head), _line(rule), *map(_line, table.rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def show(figures: Sequence[Figure], verdicts: Sequence[Verdict], machine: str) -> None:
    """Print all tables."""
    from rich.console import Console
    from rich.table import Table as RichTable

    marks = {"ok": "[green]ok[/]", "**over**": "[bold red]over[/]"}
    console = Console(width=None if sys.stdout.isatty() else 150)
    for table in [*tables(figures), *([budget_table(verdicts)] if verdicts else [])]:
        shown = RichTable(title=table.title)
        for name in table.head:
            shown.add_column(name, justify="right" if name in table.right else "left")
        for row in table.rows:
            shown.add_row(*(marks.get(cell, cell) for cell in row))
        console.print(shown)
    console.print(machine, style="italic")


def describe_machine(report: dict[str, Any]) -> str:
    """Processor, versions and when, for the caption."""
    info = report.get("machine_info", {})
    cpu = info.get("cpu", {})
    versions = ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items())
    when = str(report.get("datetime", "")).partition("T")[0]
    facts = (
        cpu.get("brand_raw"),
        f"{cpu['count']} CPUs" if "count" in cpu else "",
        f"forest path {info['forest_path']}" if "forest_path" in info else "",
        f"Python {info['python_version']}" if "python_version" in info else "",
        versions,
        when,
    )
    return ", ".join(fact for fact in facts if fact)


def pin() -> None:
    """Keep this process, and what it measures, on one CPU; servers are put on the others."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(0, {cpus[-1]})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, unless given the JSON of an earlier run; print; judge."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--json", type=Path, help="report on this pytest-benchmark file instead of measuring")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for bench.json, bench.md and bench.png")
    parser.add_argument("--picture", type=Path, help="where else to put the picture, such as docs/speed.png")
    parser.add_argument("-k", dest="only", help="measure only these (as pytest -k); budgets are then not judged")
    given = parser.parse_args(arguments)
    source: Path | None = given.json
    failed = 0
    if source is None:
        pin()
        source = CACHE / "pytest-benchmark.json"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.unlink(missing_ok=True)
        select = ("-k", given.only) if given.only else ()
        command = [sys.executable, *PYTEST, *select, f"--benchmark-json={source}"]
        failed = subprocess.run(command, cwd=ROOT, check=False).returncode
        if not (source.exists() and source.stat().st_size):
            return failed or 1
    report = json.loads(source.read_text())
    figures, machine = read_figures(report), describe_machine(report)
    verdicts = [] if given.only else judge(figures, read_budgets())
    _write(given.results, given.picture, figures, verdicts, report)
    show(figures, verdicts, machine)
    over = [verdict for verdict in verdicts if not verdict.within]
    for verdict in over:
        print(f"over budget: {verdict.name}: {_measured(verdict)}, limit {verdict.limit}", file=sys.stderr)
    return failed or (1 if over else 0)


def _write(
    results: Path,
    picture: Path | None,
    figures: Sequence[Figure],
    verdicts: Sequence[Verdict],
    report: dict[str, Any],
) -> None:
    machine = describe_machine(report)
    results.mkdir(parents=True, exist_ok=True)
    summary = {
        "machine": machine,
        "command": COMMAND,
        "figures": [asdict(figure) for figure in figures],
        "budgets": [asdict(verdict) for verdict in verdicts],
    }
    (results / "bench.json").write_text(json.dumps(summary, indent=1) + "\n")
    (results / "bench.md").write_text(markdown(figures, verdicts, machine))
    png = draw(figures, f"{machine}; {COMMAND}")
    if png is not None:
        for path in (results / "bench.png", picture):
            if path is not None:
                path.write_bytes(png)


if __name__ == "__main__":
    sys.exit(main())
