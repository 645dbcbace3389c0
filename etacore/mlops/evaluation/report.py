"""An evaluation for people: Markdown, tables on the console, and a folder with everything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from etacore.errors import EvaluationError
from etacore.files import write_whole
from etacore.mlops.evaluation import document, plots, tables
from etacore.mlops.evaluation.results import Findings
from etacore.mlops.evaluation.tables import TextTable
from etacore.mlops.fitted_table import Column, FittedTable
from etacore.models.short_ids import short_ids

REPORT_FILE: Final = "report.md"
JSON_FILE: Final = "evaluation.json"


def to_markdown(evaluation: Findings, *, images: Iterable[str] = ()) -> str:
    """The whole report.

    Parameters
    ----------
    evaluation : Findings
        What to report.
    images : iterable of str
        File names of `etacore.mlops.evaluation.plots.PLOTS` to show, beside the report.
    """
    shown = set(images)
    lines = [f"# Evaluation on {evaluation.dataset}", "", evaluation.recommendation.text, "", *_facts(evaluation), ""]
    pictures = {name: f"![{title}]({name})" for name, title in plots.TITLES.items() if name in shown}
    for table, name in (
        (tables.leaderboard(evaluation), plots.LEADERBOARD),
        (tables.partial(evaluation), None),
        (tables.reasons(evaluation), None),
        (tables.eta_bands(evaluation), None),
        (tables.mbta_bands(evaluation), plots.ERROR_FAN),
        (tables.by_horizon(evaluation), plots.MAE_BY_HORIZON),
        (tables.by_route(evaluation), None),
        (tables.by_hour(evaluation), plots.BIAS_BY_HOUR),
        (tables.rolling(evaluation), plots.ROLLING),
        (tables.all_metrics(evaluation), None),
        (tables.legend(evaluation), None),
    ):
        if table is not None:
            lines += _markdown(table)
            if name in pictures:
                lines += [pictures[name], ""]
    return "\n".join(lines)


def _facts(evaluation: Findings) -> list[str]:
    config = evaluation.config
    days = ", ".join(map(str, evaluation.test_days))
    dropped = f" ({evaluation.n_dropped:,} more have no usable label)" if evaluation.n_dropped else ""
    return [
        f"- held-out days: {days} ({evaluation.days_from})",
        f"- {evaluation.n_rows:,} rows of {evaluation.n_trips:,} trips{dropped}; label: {config.label}; "
        f"time zone {evaluation.time_zone}",
        f"- decided by {evaluation.metric.name}; a candidate must be {100 * config.improvement_threshold:g} % better "
        "than the active model, with an interval that excludes no difference",
        f"- active model: {f'`{config.active_model}`' if config.active_model else 'none'}",
        f"- dataset SHA-256 `{evaluation.dataset_sha256}`, evaluated {evaluation.created_at:%Y-%m-%d %H:%M:%S} UTC",
    ]


def _markdown(table: TextTable) -> list[str]:
    rule = ["---"] * table.n_texts + ["---:"] * (len(table.headings) - table.n_texts)
    lines = [f"## {table.title}", ""]
    lines += [table.note, ""] if table.note else []
    lines += [_row(table.headings), _row(rule), *map(_row, table.rows), ""]
    return lines


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def print_evaluation(evaluation: Findings, console: Console) -> None:
    """Show the leaderboard, the partial results, the reasons and the recommendation."""
    console.print(
        f"{evaluation.n_rows:,} rows of {evaluation.n_trips:,} trips on {', '.join(map(str, evaluation.test_days))} "
        f"({escape(evaluation.days_from)}), label {evaluation.config.label}",
        highlight=False,
    )
    ids = short_ids(result.name for result in evaluation.models)
    by_title = {result.title: ids[result.name] for result in evaluation.models}
    for table in (
        tables.leaderboard(evaluation),
        tables.partial(evaluation),
        tables.rolling(evaluation),
        tables.reasons(evaluation),
    ):
        if table is not None:
            print_table(_with_ids(table, by_title), console)
    console.print(escape(evaluation.recommendation.text), style="bold", soft_wrap=True, highlight=False)
    if evaluation.recommendation.key is not None:
        console.print(f"etacore promote best, or {ids[evaluation.recommendation.key]}", style="dim", highlight=False)


def _with_ids(table: TextTable, ids: Mapping[str, str]) -> TextTable:
    """The table with the short id of each model in front, for commands that ask for one."""
    if table.headings[0] != "predictor":
        return table
    rows = tuple((ids.get(row[0], ""), *row) for row in table.rows)
    return replace(table, headings=("id", *table.headings), rows=rows, n_texts=table.n_texts + 1)


def print_table(table: TextTable, console: Console) -> None:
    """Show one table; without room the place goes first, which the order shows, then columns from the right."""
    columns = [
        Column(heading, "prose" if i < table.n_texts else "number", 0 if heading == "#" else len(table.headings) - i)
        for i, heading in enumerate(table.headings)
    ]
    console.print(FittedTable(columns, table.rows, title=table.title))
    if table.note:
        console.print(table.note, style="dim", highlight=False)
        console.print()


def write_evaluation(evaluation: Findings, folder: Path | str) -> list[Path]:
    """Write ``report.md``, ``evaluation.json`` and the plots; each file whole or not at all.

    Parameters
    ----------
    evaluation : Findings
        What to write.
    folder : Path
        Made if need be; files of these names are replaced.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    EvaluationError
        If it cannot be written.
    """
    folder = Path(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = plots.draw_all(evaluation)
        contents = {
            **pictures,
            JSON_FILE: document.to_json(evaluation),
            REPORT_FILE: to_markdown(evaluation, images=pictures).encode(),
        }
        for name, content in contents.items():
            write_whole(folder / name, content)
            written.append(folder / name)
    except OSError as err:
        raise EvaluationError(f"the report cannot be written to {folder}: {err.strerror or err}") from None
    return written
