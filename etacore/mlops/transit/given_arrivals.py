"""Arrivals that somebody else observed, and the runs that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.positions import Positions
from etacore.mlops.transit.service import is_repeated, service_days
from etacore.mlops.transit.tracks import Tracks

RULES: Final = {"first50m": "first_50m", "closest200m": "closest_200m"}
"""How others write our rules."""
GIVEN: Final = "given"
"""The rule of a file that names none."""
MAX_FROM_RUN_S: Final = 1800.0
"""An arrival of a frequency-based trip farther from the fixes of a run is of a run that was not seen."""

_REQUIRED: Final = ("trip_id", "vehicle_id", "stop_id", "stop_sequence", "arrival_ts")


def read_arrivals(path: str | Path) -> pl.DataFrame:
    """Read arrivals that somebody else observed.

    Parameters
    ----------
    path : str or Path
        Parquet with ``trip_id, vehicle_id, stop_id, stop_sequence, arrival_ts`` (POSIX seconds) and, if there are any,
        ``interp_ts`` (POSIX seconds) and ``method`` (the rule).

    Returns
    -------
    polars.DataFrame
        ``trip_id, vehicle_id, stop_id`` (text), ``stop_sequence`` (int64), ``rule_us`` and ``interp_us`` (int64, UTC;
        null where unknown, never both) and ``rule`` (text).

    Raises
    ------
    FeedError
        If the file is no Parquet file or lacks a column.
    """
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FeedError(f"{path} is no readable Parquet file ({str(error).splitlines()[0]})") from None
    if absent := [name for name in _REQUIRED if name not in frame.columns]:
        raise FeedError(f"{path} has no column {', '.join(absent)} (has: {', '.join(frame.columns)})")
    rule = pl.col("method").cast(pl.String).replace(RULES) if "method" in frame.columns else pl.lit(GIVEN)
    return frame.select(
        pl.col("trip_id", "vehicle_id", "stop_id").cast(pl.String),
        pl.col("stop_sequence").cast(pl.Int64),
        _microseconds("arrival_ts").alias("rule_us"),
        (_microseconds("interp_ts") if "interp_ts" in frame.columns else pl.lit(None, pl.Int64)).alias("interp_us"),
        rule.fill_null(GIVEN).alias("rule"),
    ).filter(pl.any_horizontal(pl.col("rule_us", "interp_us").is_not_null()))


def arrivals_of_runs(frame: pl.DataFrame, positions: Positions, feed: Feed, tracks: Tracks) -> pl.DataFrame:
    """The arrivals of a file with the runs that they belong to: those of vehicle and trip in whose time they lie.

    An arrival outside the time of every run is of the nearest one of its service day.

    Parameters
    ----------
    frame : polars.DataFrame
        What `read_arrivals` gave.
    positions, feed, tracks
        What vehicles, trips and runs refer to.

    Returns
    -------
    polars.DataFrame
        ``run`` (index of the track) and ``stop`` (0-based position in the pattern), once each and in this order, with
        ``rule_us``, ``interp_us`` and ``rule``.

    Raises
    ------
    FeedError
        If no row fits vehicle, trip, stop and run.
    """
    known = (
        frame.join(_numbers("trip_id", feed.trips.trip_id, "trip"), on="trip_id", maintain_order="left")
        .join(_numbers("vehicle_id", positions.vehicle_id.values, "vehicle"), on="vehicle_id", maintain_order="left")
        .with_columns(pattern=pl.col("trip").replace_strict(dict(enumerate(feed.trips.pattern_ix.tolist()))))
        .join(_stops(feed), on=["pattern", "stop_id", "stop_sequence"], maintain_order="left")
        .with_columns(at_us=pl.coalesce("interp_us", "rule_us"))
        .sort("at_us", maintain_order=True)
    )
    near = pl.concat([_nearest(known, _runs(positions, tracks), strategy) for strategy in ("backward", "forward")])
    trip, off_us = near["trip"].to_numpy(), near["off_us"].to_numpy()
    fits = service_days(near["at_us"].to_numpy(), trip, feed) == tracks.service_day[near["run"].to_numpy()]
    fits &= ~is_repeated(feed)[trip] | (off_us <= MAX_FROM_RUN_S * 1e6)
    near = near.filter(pl.Series(fits | (off_us == 0))).sort("off_us", maintain_order=True)
    if not len(near):
        raise FeedError(
            f"none of the {len(frame)} arrivals fits vehicle, trip, stop and time of positions and feed",
            hint=f"they have trips such as {frame['trip_id'][0]!r}" if len(frame) else None,
        )
    # An arrival goes to its nearest run, and a run takes the arrival that is nearest to it.
    arrival = ["trip", "vehicle", "stop", "at_us"]
    near = near.unique(arrival, keep="first", maintain_order=True).unique(["run", "stop"], keep="first")
    return near.sort("run", "stop").select("run", "stop", "rule_us", "interp_us", "rule")


def _nearest(arrivals: pl.DataFrame, runs: pl.DataFrame, strategy: Literal["backward", "forward"]) -> pl.DataFrame:
    """Arrivals with the last run that begins before them, or the first that does after them, and how far off it is."""
    near = arrivals.join_asof(
        runs,
        left_on="at_us",
        right_on="first_us",
        by=["trip", "vehicle"],
        strategy=strategy,
        check_sortedness=False,  # both are, and polars cannot tell with ``by``
    ).drop_nulls("run")
    outside_us = pl.max_horizontal(pl.col("first_us") - pl.col("at_us"), pl.col("at_us") - pl.col("last_us"), 0)
    return near.with_columns(off_us=outside_us)


def _runs(positions: Positions, tracks: Tracks) -> pl.DataFrame:
    time_us = positions.time_us[tracks.row]
    return pl.DataFrame(
        {
            "run": np.arange(len(tracks)),
            "trip": tracks.trip_ix,
            "vehicle": tracks.vehicle_code,
            "first_us": time_us[tracks.offset[:-1]],
            "last_us": time_us[tracks.offset[1:] - 1],
        }
    ).sort("first_us")


def _microseconds(name: str) -> pl.Expr:
    return (pl.col(name).cast(pl.Float64) * 1e6).round().cast(pl.Int64)


def _numbers(name: str, values: Sequence[str], number: str) -> pl.DataFrame:
    codes: npt.NDArray[Any] = np.arange(len(values), dtype=np.int32)
    return pl.DataFrame({name: pl.Series(list(values), dtype=pl.String), number: codes})


def _stops(feed: Feed) -> pl.DataFrame:
    """Position of a stop in a pattern by id and sequence."""
    lengths = [pattern.n_stops for pattern in feed.patterns]
    return pl.DataFrame(
        {
            "pattern": np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
            "stop": np.concatenate([np.arange(n) for n in lengths]) if lengths else np.empty(0, np.int64),
            "stop_id": [stop_id for pattern in feed.patterns for stop_id in pattern.stop_id],
            "stop_sequence": np.concatenate([p.stop_sequence for p in feed.patterns]).astype(np.int64)
            if lengths
            else np.empty(0, np.int64),
        }
    ).unique(["pattern", "stop_id", "stop_sequence"], keep="first", maintain_order=True)
