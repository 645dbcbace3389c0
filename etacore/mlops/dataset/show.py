"""A dataset in a few tables."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from etacore.mlops.dataset.columns import run_columns
from etacore.mlops.dataset.layout import Dataset
from etacore.mlops.dataset.report import days_table, text


def tables(dataset: Dataset) -> Iterator[Table]:
    """What it is, its columns with the share of unknown values, and its service dates."""
    yield _facts(dataset)
    yield _columns(dataset.frame)
    yield days_table(days(dataset.frame))


def days(frame: pl.DataFrame) -> list[dict[str, object]]:
    """Rows, trips and vehicles of each service date, in order."""
    by_day = frame.group_by("service_date").agg(
        pl.len().alias("rows"),
        pl.struct(run_columns(frame)).n_unique().alias("trips"),
        pl.col("vehicle_id").n_unique().alias("vehicles"),
    )
    return [row | {"service_date": row["service_date"].isoformat()} for row in by_day.sort("service_date").to_dicts()]


def _facts(dataset: Dataset) -> Table:
    frame = dataset.frame
    table = _table(f"Dataset {dataset.name}", "", "", head=False)
    facts = {
        "file": str(dataset.path),
        "sha256": dataset.sha256,
        "time zone": dataset.time_zone,
        "holiday region": dataset.holiday_region or "none",
        "distance_to_stop": dataset.distance.replace("_", " "),
        "rows": len(frame),
        "trips": frame.select(run_columns(frame)).n_unique(),
        "vehicles": frame["vehicle_id"].n_unique(),
        "routes": frame["route_id"].n_unique(),
        "stops": frame["stop_id"].n_unique(),
        "patterns": len(dataset.patterns) or "not told",
        "from": frame["vp_ts"].min(),
        "to": frame["vp_ts"].max(),
    }
    if "label_rule" in frame.columns:
        rules = frame["label_rule"].value_counts(sort=True)
        facts |= {f"label {rule}": n for rule, n in rules.iter_rows()}
    for name, value in facts.items():
        table.add_row(Text(name), Text(text(value)))
    return table


def _columns(frame: pl.DataFrame) -> Table:
    table = _table("Columns", "column", "type", "unknown", "least", "median", "most")
    for column in frame:
        shown = [""] * 3
        if column.dtype.is_numeric() and column.count():
            shown = [f"{value:.4g}" for value in column.cast(pl.Float64).quantile([0.0, 0.5, 1.0]) or ()]
        kind = "Time" if isinstance(column.dtype, pl.Datetime) else str(column.dtype)
        table.add_row(Text(column.name), kind, f"{column.null_count() / max(len(column), 1):.1%}", *shown)
    return table


def _table(title: str, *heads: str, head: bool = True) -> Table:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE, show_header=head)
    for name in heads:
        right = name in ("unknown", "least", "median", "most")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name == "column")
    return table
