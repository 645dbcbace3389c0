"""Names for the vehicles of GTFS-Realtime messages, most of which have an id, and some none that is of use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from etacore.mlops.transit.left_out import LeftOut, quoted

CANDIDATES: Final = ("own_id", "run", "label", "entity_id", "message")
"""Columns of texts beside those of fixes: the names of a vehicle, best first, and which message it stood in."""


def name_vehicles(
    fixes: pl.DataFrame, left_out: LeftOut, file_names: Mapping[int, str], *, is_index: bool
) -> pl.DataFrame:
    """Name the vehicle of each fix, and leave out fixes that nothing names.

    The id of the descriptor names a vehicle, else the trip with its start, else the label, else the entity. What two
    entities of one message have, and are not one vehicle (they are at different places, and of different trips or at
    the same time), is no name, in none of the messages.

    Parameters
    ----------
    fixes : DataFrame
        With the columns `CANDIDATES`, ``time_us``, ``lat``, ``lon`` and ``vehicle_id``, which is filled.
    left_out : LeftOut
        Is added to: ``shared_vehicle_id``, ``no_vehicle_id``.
    file_names : mapping of int to str
        Of the column ``file``, for examples.
    is_index : bool
        Whether the ids of entities that are numbers are but places in a message: they name nothing then.
    """
    names: list[pl.Expr] = []
    for candidate in CANDIDATES[:-1]:
        shared = _shared(fixes, candidate)
        usable = pl.col(candidate).is_not_null()
        if len(shared):
            usable &= ~pl.col(candidate).is_in(shared.implode())
        if candidate == "entity_id" and is_index:
            usable &= ~pl.col(candidate).str.contains(r"^\d+$")
        if candidate == "own_id" and len(shared):
            passed_over = fixes.filter(pl.col("own_id").is_not_null() & ~usable)
            first = passed_over.row(0, named=True)
            example = f"{file_names[first['file']]} entity {first['row']}: vehicle id {quoted(first['own_id'])}"
            left_out.add("shared_vehicle_id", example, len(passed_over))
        names.append(pl.when(usable).then(pl.col(candidate)))
    named = fixes.with_columns(pl.coalesce(names).alias("vehicle_id"))
    if without := named["vehicle_id"].null_count():
        first = named.filter(pl.col("vehicle_id").is_null()).row(0, named=True)
        left_out.add("no_vehicle_id", f"{file_names[first['file']]} entity {first['row']}", without)
        named = named.drop_nulls("vehicle_id")
    return named


def _shared(fixes: pl.DataFrame, candidate: str) -> pl.Series:
    """Names that two vehicles of one message have."""
    groups = fixes.lazy().drop_nulls(candidate).group_by("message", candidate)
    n_runs = pl.col("run").fill_null("").n_unique()
    several = (
        groups.agg(
            pl.len().alias("n"),
            pl.struct("lat", "lon").n_unique().alias("n_places"),
            n_runs.alias("n_runs"),
            pl.col("time_us").n_unique().alias("n_times"),
        )
        .filter((pl.col("n_places") > 1) & ((pl.col("n_runs") > 1) | (pl.col("n_times") < pl.col("n"))))
        .collect()
    )
    return several[candidate].unique().sort()
