"""Typical seconds of each leg of a route, learned from the arrivals of a dataset.

A leg ends at a stop and begins at the stop before it in the pattern. Its time
is from arrival to arrival, so it holds the wait at the stop where it begins; but
not for the first leg of a pattern, where that wait is the layover.

What a training row is given comes from the other training days
(`typical_seconds_by_day`): with its own day in the table a model would learn
to trust a number that knows the answer. Validation, test and serving use the
table of all training days.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from etacore.errors import TrainingError
from etacore.models.travel_times import TypicalTimes

if TYPE_CHECKING:
    from etacore.mlops.dataset.layout import Dataset

MAX_LEG_S: Final = 3600.0
"""A longer way between neighbouring stops is no travel but a break, and is left out."""
PRIOR_N: Final = 5.0
"""An hour's mean is pulled to the leg's mean of all hours as if that had been seen this often in the hour."""
N_HOURS: Final = 24

_NEEDED: Final = (
    "pattern_id",
    "stop_ordinal",
    "stops_ahead",
    "leg_left",
    "along_route_distance_m",
    "service_date",
)
_TRIP: Final = ("service_date", "trip_id", "vehicle_id", "route_id", "pattern_id")
_VISIT: Final = (*_TRIP, "run_number")

Rows = NDArray[np.bool_] | NDArray[np.int64] | None


def take(dataset: Dataset, rows: Rows, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of some rows.

    Parameters
    ----------
    dataset : Dataset
        Where from.
    rows : ndarray of bool, shape (n_rows,), or of int64, shape (n,), or None
        A mask, row numbers in the order wanted, or None for all rows.
    columns : sequence of str
        Their names.
    """
    frame = dataset.frame.select(columns)
    if rows is None:
        return frame
    return frame.filter(pl.Series(rows)) if rows.dtype == np.bool_ else frame[rows]


def observed_legs(dataset: Dataset, rows: Rows = None) -> pl.DataFrame:
    """Every leg that was driven, once.

    Parameters
    ----------
    dataset : Dataset
        With the columns about patterns.
    rows : ndarray or None
        Rows whose arrivals may be looked at, as for `take`.

    Returns
    -------
    DataFrame
        ``service_date``, ``route_id``, ``stop_id`` at the end, ``hour`` (local, of the arrival at the stop before) and
        ``leg_s``. The arrival is the interpolated one where there is one. For the first leg of a pattern the time and
        the hour are those of the last fix in its first half: seconds to the arrival / share of the leg left.

    Raises
    ------
    TrainingError
        If the dataset does not know its patterns.
    """
    _check(dataset)
    frame = _with_arrival(dataset, rows)
    kept = ["service_date", "route_id", "stop_id", "hour", "leg_s"]
    legs = pl.concat([_between_arrivals(frame).select(kept), _first_legs(frame).select(kept)])
    return legs.filter((pl.col("leg_s") > 0) & (pl.col("leg_s") <= MAX_LEG_S))


def _with_arrival(dataset: Dataset, rows: Rows) -> pl.DataFrame:
    # In datasets of others and of old, a vehicle runs a trip once on a service date.
    run = pl.col("run_number") if "run_number" in dataset.frame.columns else pl.lit(1, pl.Int64)
    names = [*_TRIP, "stop_ordinal", "stop_id", "stops_ahead", "leg_left", "vp_ts", "hour", "actual_arrival"]
    names += [name for name in ("run_number", "interpolated_arrival") if name in dataset.frame.columns]
    arrival = pl.col("actual_arrival")
    if "interpolated_arrival" in dataset.frame.columns:
        arrival = pl.coalesce("interpolated_arrival", "actual_arrival")
    local = arrival.dt.convert_time_zone(dataset.time_zone).dt.hour().cast(pl.Int64)
    return take(dataset, rows, names).with_columns(arrival=arrival, arrival_hour=local, run_number=run)


def _between_arrivals(frame: pl.DataFrame) -> pl.DataFrame:
    order = [*_VISIT, "stop_ordinal", "stop_id"]
    same = pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in _VISIT)
    return (
        frame.group_by(order)
        .agg(pl.col("arrival", "arrival_hour").sort_by("arrival").first())
        .sort(order)
        .with_columns(
            follows=same
            & (pl.col("stop_ordinal") == pl.col("stop_ordinal").shift() + 1)
            & (pl.col("stop_ordinal") > 2),
            leg_s=(pl.col("arrival") - pl.col("arrival").shift()).dt.total_microseconds() / 1e6,
            hour=pl.col("arrival_hour").shift(),
        )
        .filter("follows")
    )


def _first_legs(frame: pl.DataFrame) -> pl.DataFrame:
    # Vehicles wait where a pattern begins, often unseen: what counts is the last fix in the first half of the leg.
    return (
        frame.filter((pl.col("stop_ordinal") == 2) & (pl.col("stops_ahead") == 1) & (pl.col("leg_left") >= 0.5))
        .sort([*_VISIT, "stop_id", "vp_ts"])
        .group_by([*_VISIT, "stop_id"], maintain_order=True)
        .last()
        .with_columns(
            leg_s=(pl.col("arrival") - pl.col("vp_ts")).dt.total_microseconds() / 1e6 / pl.col("leg_left"),
        )
    )


def fit_typical(dataset: Dataset, rows: Rows = None) -> TypicalTimes:
    """Mean seconds of the legs of all routes, by hour of the day.

    Parameters
    ----------
    dataset : Dataset
        With the columns about patterns.
    rows : ndarray or None
        Rows to learn from, as for `take`: those of training.

    Returns
    -------
    TypicalTimes
        By route, stop at the end of the leg, and local hour. With n legs of sum s in an hour and the mean m of all
        hours: ``(s + 5 m) / (n + 5)``.

    Raises
    ------
    TrainingError
        If the dataset does not know its patterns, or no leg was driven whole.
    """
    return _table(observed_legs(dataset, rows), _leg_lengths(dataset, rows), dataset.name)


def typical_seconds(dataset: Dataset, rows: Rows, table: TypicalTimes) -> NDArray[np.float64]:
    """The feature ``typical_travel_s``, computed as serving does.

    The share of the leg before the next stop that is still ahead, times that leg, then one leg after the other to the
    row's stop, at the hour of the row; share and legs are float32, the sum is float64.

    Parameters
    ----------
    dataset : Dataset
        With the columns about patterns.
    rows : ndarray or None
        As for `take`.
    table : TypicalTimes
        The model's.

    Returns
    -------
    ndarray of float64, shape (n,)
        Seconds; NaN where a leg is unknown.
    """
    _check(dataset)
    names = ["route_id", "pattern_id", "stop_ordinal", "stops_ahead", "leg_left", "hour"]
    frame = take(dataset, rows, names).with_columns(
        pl.struct("route_id", "pattern_id").rank("dense").sub(1).cast(pl.Int64).alias("group")
    )
    keys = frame.select("group", "route_id", "pattern_id").unique().sort("group")
    blocks = [table.legs(route, _pattern(dataset, pattern)) for _, route, pattern in keys.iter_rows()]
    if not blocks:
        return np.empty(0)
    legs = np.concatenate(blocks, axis=1)
    start = np.concatenate(([0], np.cumsum([block.shape[1] for block in blocks])[:-1]))
    ahead = frame["stops_ahead"].to_numpy()
    hour = frame["hour"].to_numpy()
    column = start[frame["group"].to_numpy()] + frame["stop_ordinal"].to_numpy() - ahead
    share = frame["leg_left"].fill_null(np.nan).to_numpy().astype(np.float32).astype(np.float64)
    seconds: NDArray[np.float64] = share * legs[hour, column]
    for j in range(1, int(ahead.max(initial=0))):
        more = np.flatnonzero(ahead > j)
        seconds[more] += legs[hour[more], column[more] + j]
    return seconds


def typical_seconds_by_day(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """`typical_seconds` for rows of training: those of a day from the table of all other days of `rows`.

    Parameters
    ----------
    dataset : Dataset
        With the columns about patterns.
    rows : ndarray of int64, shape (n,)
        Row numbers, as for `take`.

    Returns
    -------
    ndarray of float64, shape (n,)
        Seconds; NaN where a leg is unknown, and everywhere if there is but one day.
    """
    legs = observed_legs(dataset, rows)
    lengths = _leg_lengths(dataset, rows)
    days = take(dataset, rows, ["service_date"])["service_date"]
    seconds = np.full(len(rows), np.nan)
    for day in days.unique().sort().to_list():
        others = legs.filter(pl.col("service_date") != day)
        if others.height:
            mine = np.flatnonzero((days == day).to_numpy())
            seconds[mine] = typical_seconds(dataset, rows[mine], _table(others, lengths, dataset.name))
    return seconds


def _leg_lengths(dataset: Dataset, rows: Rows) -> pl.DataFrame:
    """Metres of each leg along the route: what lies between neighbouring stops as seen from one fix."""
    fix = [*_TRIP, "vp_ts"]
    same = pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in fix)
    first = (pl.col("stop_ordinal") == 2) & (pl.col("stops_ahead") == 1) & (pl.col("leg_left") >= 0.1)
    return (
        take(dataset, rows, [*fix, "stop_ordinal", "stop_id", "stops_ahead", "leg_left", "along_route_distance_m"])
        .sort([*fix, "stop_ordinal"])
        .with_columns(
            follows=same & (pl.col("stop_ordinal") == pl.col("stop_ordinal").shift() + 1),
            leg_m=pl.when(first)
            .then(pl.col("along_route_distance_m") / pl.col("leg_left"))
            .otherwise(pl.col("along_route_distance_m").diff()),
        )
        .filter(pl.col("follows") | first)
        .group_by("route_id", "stop_id")
        .agg(pl.col("leg_m").median())
    )


def _table(legs: pl.DataFrame, lengths: pl.DataFrame, name: str) -> TypicalTimes:
    if not legs.height:
        raise TrainingError(
            f"dataset {name} has no trip that was seen to arrive at two stops in a row: no typical times",
            hint="leave typical_travel_s out of the features",
        )
    keys = ["route_id", "stop_id"]
    # Sorted before it is summed: the same legs give the same bytes in whatever order they come.
    legs = legs.sort([*keys, "hour", "leg_s"])
    hours = legs.group_by([*keys, "hour"], maintain_order=True).agg(pl.col("leg_s").sum().alias("sum"), pl.len())
    means = (
        legs.group_by(keys, maintain_order=True)
        .agg(pl.col("leg_s").mean().alias("mean"))
        .join(lengths, on=keys, how="left")
        .sort(keys)
    )
    stop_ix = {(route, stop): i for i, (route, stop) in enumerate(means.select(keys).iter_rows())}
    mean = means["mean"].to_numpy()
    total, count = np.zeros((len(means), N_HOURS)), np.zeros((len(means), N_HOURS))
    for route, stop, hour, seconds, n in hours.iter_rows():
        total[stop_ix[route, stop], hour] = seconds
        count[stop_ix[route, stop], hour] = n
    typical = (total + PRIOR_N * mean[:, None]) / (count + PRIOR_N)
    routes: dict[str, dict[str, tuple[float, NDArray[np.float32]]]] = {}
    for i, (route, stop, leg_m) in enumerate(means.select(*keys, "leg_m").iter_rows()):
        seconds = typical[i].round(3).astype(np.float32)
        routes.setdefault(route, {})[stop] = (math.nan if leg_m is None else max(round(leg_m, 1), 0.0), seconds)
    return TypicalTimes(routes)


def _pattern(dataset: Dataset, pattern_id: str) -> tuple[str, ...]:
    try:
        return dataset.patterns[pattern_id]
    except KeyError:
        raise TrainingError(
            f"dataset {dataset.name} does not say which stops pattern {pattern_id!r} has", hint="build it anew"
        ) from None


def _check(dataset: Dataset) -> None:
    absent = [name for name in _NEEDED if name not in dataset.frame.columns]
    if absent:
        raise TrainingError(
            f"dataset {dataset.name} has no {', '.join(absent)}, and typical_travel_s needs them",
            hint="build the dataset with etacore dataset build, or leave typical_travel_s out",
        )
