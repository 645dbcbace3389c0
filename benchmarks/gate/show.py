"""What the gate found, for people (a table), for machines (JSON), and for the summary page of a CI run (Markdown)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.gate.budgets import Row
from benchmarks.gate.timing import Timed

SUMMARY_VARIABLE: Final = "GITHUB_STEP_SUMMARY"
FAILS: Final = ("over", "gone")
"""Against budgets. Between trees a kernel may go, what it did is still part of the whole."""
COLOURS: Final = {"over": "bold red", "gone": "bold red", "less": "green", "new": "yellow", "not compared": "dim"}
COUNT_HEAD: Final = ("workload", "kernel", "before", "now", "per", "now / before", "")
TIME_HEAD: Final = ("workload", "us a unit before", "now", "now / before", "99 % interval", "")
NUMBERS: Final = ("before", "now", "now / before", "us a unit before", "99 % interval")


def count_cells(row: Row) -> tuple[str, ...]:
    """A row of counts as text."""
    return (
        row.workload,
        row.kernel,
        _number(row.before),
        _number(row.now),
        row.unit,
        _ratio(row.ratio),
        row.verdict,
    )


def time_cells(timed: Timed) -> tuple[str, ...]:
    """A row of times as text."""
    return (
        timed.workload,
        f"{timed.before_s * 1e6:,.3f}",
        f"{timed.now_s * 1e6:,.3f}",
        _ratio(timed.ratio),
        f"{timed.low:.3f} to {timed.high:.3f}",
        timed.verdict,
    )


def print_tables(rows: Sequence[Row], timed: Sequence[Timed] = (), *, before: str) -> None:
    """Print both tables; `before` says what is compared with."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    for title, head, cells in _tables(rows, timed):
        if cells:
            table = Table(*head, title=title, caption=f"before: {before}")
            for name, column in zip(head, table.columns, strict=True):
                column.justify = "right" if name in NUMBERS else "left"
            for line in cells:
                table.add_row(*line, style=COLOURS.get(line[-1], ""))
            console.print(table)


def markdown(rows: Sequence[Row], timed: Sequence[Timed] = (), *, before: str, verdict: str) -> str:
    """Both tables as Markdown, with what they mean on top."""
    lines = ["### Performance gate", "", f"{verdict} Before: {before}", ""]
    for title, head, cells in _tables(rows, timed):
        if cells:
            lines += [f"**{title}**", "", _line(head), _line("--:" if name in NUMBERS else "---" for name in head)]
            lines += [_line((*line[:-1], _strong(line[-1]))) for line in cells]
            lines.append("")
    return "\n".join(lines)


def write_reports(
    rows: Sequence[Row], timed: Sequence[Timed], *, before: str, verdict: str, json: Path | None, table: Path | None
) -> None:
    """Write the files that were asked for, and the summary of a GitHub step if this is one."""
    text = markdown(rows, timed, before=before, verdict=verdict)
    if json is not None:
        facts = {
            "before": before,
            "verdict": verdict,
            "instructions": [asdict(row) | {"ratio": row.ratio} for row in rows],
            "times": [asdict(one) for one in timed],
        }
        json.write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    if table is not None:
        table.write_text(text)
    if summary := os.environ.get(SUMMARY_VARIABLE):
        with Path(summary).open("a") as file:
            file.write(text)


def in_one_line(rows: Sequence[Row], timed: Sequence[Timed] = (), *, fails: Sequence[str] = FAILS) -> str:
    """What came out, where rows with the verdicts `fails` fail."""
    failed = [row for row in rows if row.verdict in fails]
    slower = [one for one in timed if one.verdict == "over"]
    if not failed and not slower:
        n = sum(row.verdict in ("ok", "less") for row in rows)
        return f"{n} counts are within their limits{f', {len(timed)} times too' if timed else ''}."
    worst = [
        f"{row.kernel} in {row.workload!r} {row.verdict if row.now is None else _ratio(row.ratio)}" for row in failed
    ]
    worst += [f"time of {one.workload!r} {_ratio(one.ratio)}" for one in slower]
    return f"Over the limit: {'; '.join(worst)}."


def _tables(rows: Sequence[Row], timed: Sequence[Timed]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    return [
        ("Instructions", COUNT_HEAD, [count_cells(row) for row in rows]),
        ("Times", TIME_HEAD, [time_cells(one) for one in timed]),
    ]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _strong(verdict: str) -> str:
    return f"**{verdict}**" if verdict in FAILS else verdict


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
