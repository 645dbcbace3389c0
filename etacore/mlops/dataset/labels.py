"""When vehicles were at the stops, ready to be joined to feature rows.

A run is one vehicle on one trip on one service day. Each run has a place for
every stop of its trip's pattern, so that the label of a row is found by
arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.arrivals import NO_ARRIVAL, Rule, observe_arrivals
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.positions import Positions
from etacore.mlops.transit.tracks import Tracks, service_days

GIVEN_RULES: Final = {"first50m": "first_50m", "closest200m": "closest_200m"}
"""How others write our rules."""

MAX_GAP_S: Final = 7200.0
"""Fixes farther apart than the longest time that is predicted do not tell how sure an arrival is."""

_I4 = npt.NDArray[np.int32]
_I8 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Arrivals of runs, one place per run and stop of its pattern.

    Attributes
    ----------
    trip_ix, service_day, vehicle_code : ndarray of int32, shape (n_runs,)
    offset : ndarray of int64, shape (n_runs + 1,)
        Run i owns the places ``offset[i]:offset[i + 1]``, in order of the stops.
    rule_us, interp_us : ndarray of int64, shape (n_places,)
        Arrival by rule, and interpolated between fixes; `NO_ARRIVAL` where unknown.
    rule : ndarray of uint8, shape (n_places,)
        Index into `rule_names`.
    uncertainty_s : ndarray of float64, shape (n_places,)
        Half the time between the fixes around the arrival by rule, see `half_gap_s`; NaN where unknown.
    rule_names : tuple of str
        The first is for places without a label.
    """

    trip_ix: _I4
    service_day: _I4
    vehicle_code: _I4
    offset: _I8
    rule_us: _I8
    interp_us: _I8
    rule: npt.NDArray[np.uint8]
    uncertainty_s: npt.NDArray[np.float64]
    rule_names: tuple[str, ...]

    def runs_of(self, trip_ix: _I4, service_day: _I4, vehicle_code: _I4) -> _I8:
        """The run of each fix, -1 if its run was not observed."""
        names = ("trip", "day", "vehicle")
        fixes = pl.DataFrame(dict(zip(names, (trip_ix, service_day, vehicle_code), strict=True)))
        runs = pl.DataFrame(dict(zip(names, (self.trip_ix, self.service_day, self.vehicle_code), strict=True)))
        runs = runs.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("run"))
        found = fixes.join(runs, on=names, how="left", maintain_order="left")["run"]
        return found.fill_null(-1).to_numpy()

    def counts(self) -> dict[str, int]:
        """Places by how their label was made."""
        by_rule = np.bincount(self.rule, minlength=len(self.rule_names)).tolist()
        passed = int(((self.rule == 0) & (self.interp_us != NO_ARRIVAL)).sum())
        named = {name: n for name, n in zip(self.rule_names[1:], by_rule[1:], strict=True) if n}
        return {
            "runs": len(self.trip_ix),
            "stops_of_runs": len(self.rule),
            **named,
            "passed_but_no_fix_near": passed,
            "not_seen": by_rule[0] - passed,
            "interpolated_too": int(((self.rule > 0) & (self.interp_us != NO_ARRIVAL)).sum()),
        }


def observed_labels(
    positions: Positions,
    feed: Feed,
    tracks: Tracks,
    *,
    first_within_m: float,
    closest_within_m: float,
    rule_names: tuple[str, str, str],
) -> Labels:
    """Labels from the positions themselves, see `etacore.mlops.transit.arrivals`."""
    seen = observe_arrivals(positions, feed, tracks, first_within_m=first_within_m, closest_within_m=closest_within_m)
    offset = _places(feed, tracks.trip_ix)
    place = offset[seen.track_ix] + seen.stop_ix
    return _labels(
        positions,
        (tracks.trip_ix, tracks.service_day, tracks.vehicle_code),
        offset,
        place,
        (seen.rule_us, seen.interp_us, seen.rule),
        rule_names,
    )


def given_labels(path: Path, positions: Positions, feed: Feed) -> Labels:
    """Labels from an arrivals file.

    Parameters
    ----------
    path : Path
        Parquet with ``trip_id, vehicle_id, stop_id, stop_sequence, arrival_ts`` (POSIX seconds) and, if there are
        any, ``interp_ts`` and ``method`` (the rule). Its rows belong to the service day of their own time.
    positions, feed
        What vehicles and trips refer to.

    Raises
    ------
    FeedError
        If the file is no Parquet file, lacks a column, or none of its rows fits.
    """
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FeedError(f"{path} is no readable Parquet file ({str(error).splitlines()[0]})") from None
    wanted = ("trip_id", "vehicle_id", "stop_id", "stop_sequence", "arrival_ts")
    if absent := [name for name in wanted if name not in frame.columns]:
        raise FeedError(f"{path} has no column {', '.join(absent)} (has: {', '.join(frame.columns)})")
    rule = pl.col("method").cast(pl.String).replace(GIVEN_RULES) if "method" in frame.columns else pl.lit("given")
    rows = frame.select(
        pl.col("trip_id", "vehicle_id", "stop_id").cast(pl.String),
        pl.col("stop_sequence").cast(pl.Int64),
        _microseconds("arrival_ts").alias("rule_us"),
        (_microseconds("interp_ts") if "interp_ts" in frame.columns else pl.lit(None, pl.Int64)).alias("interp_us"),
        rule.fill_null("given").alias("rule"),
    ).drop_nulls("rule_us")
    known = (
        rows.join(_numbers("trip_id", feed.trips.trip_id, "trip"), on="trip_id")
        .join(_numbers("vehicle_id", positions.vehicle_id.values, "vehicle"), on="vehicle_id")
        .with_columns(pattern=pl.col("trip").replace_strict(dict(enumerate(feed.trips.pattern_ix.tolist()))))
        .join(_stops(feed), on=["pattern", "stop_id", "stop_sequence"])
    )
    if not len(known):
        raise FeedError(
            f"{path}: none of its {len(frame)} arrivals fits vehicle, trip and stop of positions and feed",
            hint=f"it has trips such as {frame['trip_id'][0]!r}" if len(frame) else None,
        )
    day = service_days(known["rule_us"].to_numpy(), known["trip"].to_numpy(), feed)
    known = known.with_columns(day=pl.Series(day)).unique(["trip", "day", "vehicle", "stop"], keep="first")
    known = known.sort("trip", "day", "vehicle", "stop")
    runs = known.select("trip", "day", "vehicle").unique(maintain_order=True).with_row_index("run")
    run = known.join(runs, on=["trip", "day", "vehicle"], how="left", maintain_order="left")["run"].to_numpy()
    names = ("none", *sorted(known["rule"].unique().to_list()))
    trip, day, vehicle = (runs[name].to_numpy().astype(np.int32) for name in ("trip", "day", "vehicle"))
    offset = _places(feed, trip)
    values = (
        known["rule_us"].to_numpy(),
        known["interp_us"].fill_null(NO_ARRIVAL).to_numpy(),
        known["rule"].replace_strict({name: ix for ix, name in enumerate(names)}).to_numpy().astype(np.uint8),
    )
    return _labels(positions, (trip, day, vehicle), offset, offset[run] + known["stop"].to_numpy(), values, names)


def _labels(
    positions: Positions,
    runs: tuple[_I4, _I4, _I4],
    offset: _I8,
    place: _I8,
    values: tuple[_I8, _I8, npt.NDArray[np.uint8]],
    rule_names: tuple[str, ...],
) -> Labels:
    n = int(offset[-1])
    rule_us, interp_us = np.full(n, NO_ARRIVAL), np.full(n, NO_ARRIVAL)
    rule = np.full(n, Rule.NONE, np.uint8)
    rule_us[place], interp_us[place], rule[place] = values
    run_of_place = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
    uncertainty_s = np.full(n, np.nan)
    labelled = np.flatnonzero(rule_us != NO_ARRIVAL)
    uncertainty_s[labelled] = half_gap_s(positions, runs[2][run_of_place[labelled]], rule_us[labelled])
    return Labels(*runs, offset, rule_us, interp_us, rule, uncertainty_s, rule_names)


def half_gap_s(positions: Positions, vehicle_code: _I4, time_us: _I8) -> npt.NDArray[np.float64]:
    """Half the time between a vehicle's last fix before a moment and its first fix at or after it.

    Returns
    -------
    ndarray of float64, shape (n,)
        Seconds; NaN where one of the two is missing, or they are more than `MAX_GAP_S` apart: before its first fix of a
        day a vehicle may have been silent for days.
    """
    distinct_us, rank = np.unique(positions.time_us, return_inverse=True)
    # A vehicle and a rank of time in one number, as times alone may be anything that a broken clock says.
    width = len(distinct_us) + 1
    fixes = positions.vehicle_id.codes.astype(np.int64) * width + rank
    order = np.argsort(fixes, kind="stable")
    fixes = fixes[order]
    wanted = vehicle_code.astype(np.int64) * width + np.searchsorted(distinct_us, time_us, side="left")
    after = np.searchsorted(fixes, wanted, side="left")
    before = after - 1
    inside = (after < len(fixes)) & (before >= 0)
    gap_s = np.full(len(time_us), np.nan)
    first, last = order[before[inside]], order[after[inside]]
    same = (positions.vehicle_id.codes[first] == vehicle_code[inside]) & (
        positions.vehicle_id.codes[last] == vehicle_code[inside]
    )
    gap_us = np.where(same, positions.time_us[last] - positions.time_us[first], np.nan)
    gap_s[inside] = np.where(gap_us <= MAX_GAP_S * 1e6, gap_us, np.nan) / 2e6
    return gap_s


def _places(feed: Feed, trip_ix: _I4) -> _I8:
    n_stops = np.array([pattern.n_stops for pattern in feed.patterns], np.int64)[feed.trips.pattern_ix[trip_ix]]
    return np.concatenate(([0], np.cumsum(n_stops))).astype(np.int64)


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
