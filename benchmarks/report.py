"""Run all benchmarks, print medians beside their peers, and hold them against the budgets.

``python -m benchmarks.report`` writes ``results/bench.json`` and
``results/bench.md``; its exit code is 1 when a figure is over its budget or
could not be measured, and that of pytest when a benchmark failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet import CACHE, ROOT
from benchmarks.measuring import OURS

RESULTS: Final = ROOT / "results"
BUDGETS: Final = Path(__file__).with_name("budgets.toml")
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
    "--benchmark-max-time=1.0",
    "--benchmark-min-rounds=7",
    "-q",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A median, in `unit`, of what `side` needs for `stage` on work of `size`."""

    stage: str
    size: int
    side: str
    unit: str
    value: float


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit: ``at_most`` for a figure, or ``times_as_fast`` as its peer."""

    name: str
    stage: str
    size: int
    side: str = OURS
    peer: str | None = None
    at_most: float | None = None
    times_as_fast: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.times_as_fast is None) or (self.peer is None) != (
            self.times_as_fast is None
        ):
            raise ValueError(f"budget {self.name!r} needs either at_most, or peer and times_as_fast")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a budget; ``measured`` is None if a figure is missing."""

    name: str
    limit: str
    measured: float | None
    within: bool


def read_figures(report: dict[str, Any]) -> list[Figure]:
    """Figures of a pytest-benchmark report, in its order."""
    figures = []
    for entry in report["benchmarks"]:
        info = entry["extra_info"]
        per_unit = entry["stats"]["median"] / info["size"] * 1e6
        figures.append(
            Figure(info["stage"], info["size"], info["side"], info["unit"], float(info.get("value", per_unit)))
        )
    return figures


def read_budgets(path: Path = BUDGETS) -> list[Budget]:
    """Budgets of a TOML file."""
    return [Budget(**entry) for entry in tomllib.loads(path.read_text())["budget"]]


def judge(figures: Iterable[Figure], budgets: Iterable[Budget]) -> list[Verdict]:
    """Hold figures against budgets; a figure that is missing is over its budget."""
    values = {(figure.stage, figure.size, figure.side): figure.value for figure in figures}
    verdicts = []
    for budget in budgets:
        own = values.get((budget.stage, budget.size, budget.side))
        if budget.at_most is not None:
            limit, measured = f"at most {budget.at_most:g}", own
            within = own is not None and own <= budget.at_most
        else:
            assert budget.peer is not None
            assert budget.times_as_fast is not None
            other = values.get((budget.stage, budget.size, budget.peer))
            measured = other / own if own and other else None
            limit = f"at least {budget.times_as_fast:g} times {budget.peer}"
            within = measured is not None and measured >= budget.times_as_fast
        verdicts.append(Verdict(budget.name, limit, measured, within))
    return verdicts


def rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Table rows: stage, size, our median, unit, and each peer with how many times as fast we are."""
    ours = {(figure.stage, figure.size): figure for figure in figures if figure.side == OURS}
    table: list[tuple[str, ...]] = []
    for (stage, size), own in ours.items():
        peers = [f for f in figures if (f.stage, f.size) == (stage, size) and f.side != OURS]
        for peer in peers or (None,):
            beside = (peer.side, f"{peer.value:.2f}", f"{peer.value / own.value:.2f}") if peer else ("", "", "")
            table.append((stage, f"{size:,}".replace(",", " "), f"{own.value:.2f}", own.unit, *beside))
    return table


HEAD: Final = ("stage", "size", "etacore", "unit", "beside", "its median", "times as fast")


def markdown(figures: Sequence[Figure], verdicts: Sequence[Verdict], machine: str) -> str:
    """The report as Markdown."""
    lines = [f"Medians, one core. {machine}", "", _line(HEAD), _line(["---"] * len(HEAD))]
    lines += [_line(row) for row in rows(figures)]
    lines += ["", "| budget | limit | measured | |", "| --- | --- | --- | --- |"]
    lines += [_line([v.name, v.limit, _number(v.measured), "ok" if v.within else "**over**"]) for v in verdicts]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def show(figures: Sequence[Figure], verdicts: Sequence[Verdict], machine: str) -> None:
    """Print both tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table(*HEAD, title="Medians", caption=machine)
    for name, column in zip(HEAD, table.columns, strict=True):
        column.justify = "right" if name in ("size", "etacore", "its median", "times as fast") else "left"
    for row in rows(figures):
        table.add_row(*row)
    console.print(table)
    budgets = Table("budget", "limit", "measured", "", title="Budgets")
    for verdict in verdicts:
        mark = "[green]ok[/]" if verdict.within else "[bold red]over[/]"
        budgets.add_row(verdict.name, verdict.limit, _number(verdict.measured), mark)
    console.print(budgets)


def describe_machine(report: dict[str, Any]) -> str:
    """Processor and versions, for the caption."""
    from importlib.metadata import version

    cpu = report.get("machine_info", {}).get("cpu", {}).get("brand_raw") or platform.processor()
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "orjson", "redis", "xgboost-cpu"))
    return f"{cpu}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {packages}"


def pin() -> None:
    """Keep this process, and what it measures, on one CPU; servers are put on the others."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(0, {cpus[-1]})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, unless given the JSON of an earlier run; print; judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--json", type=Path, help="report on this pytest-benchmark file instead of measuring")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for bench.json and bench.md")
    parser.add_argument("-k", dest="only", help="measure only these (as pytest -k); budgets are then not judged")
    given = parser.parse_args(arguments)
    source: Path | None = given.json
    if source is None:
        pin()
        source = CACHE / "pytest-benchmark.json"
        source.parent.mkdir(parents=True, exist_ok=True)
        select = ("-k", given.only) if given.only else ()
        run = subprocess.run([sys.executable, *PYTEST, *select, f"--benchmark-json={source}"], cwd=ROOT, check=False)
        if run.returncode:
            return run.returncode
    report = json.loads(source.read_text())
    figures, machine = read_figures(report), describe_machine(report)
    verdicts = [] if given.only else judge(figures, read_budgets())
    given.results.mkdir(parents=True, exist_ok=True)
    summary = {"machine": machine, "figures": [asdict(f) for f in figures], "budgets": [asdict(v) for v in verdicts]}
    (given.results / "bench.json").write_text(json.dumps(summary, indent=1) + "\n")
    (given.results / "bench.md").write_text(markdown(figures, verdicts, machine))
    show(figures, verdicts, machine)
    over = [verdict for verdict in verdicts if not verdict.within]
    for verdict in over:
        print(f"over budget: {verdict.name}: {_number(verdict.measured)}, limit {verdict.limit}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
