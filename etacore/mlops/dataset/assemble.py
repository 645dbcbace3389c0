"""From feature rows and labels to the columns of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.dataset.features import FeatureRows
from etacore.mlops.dataset.labels import Labels
from etacore.mlops.dataset.layout import COLUMNS, TIMESTAMP
from etacore.mlops.dataset.plan import Plan
from etacore.mlops.transit.arrivals import NO_ARRIVAL
from etacore.mlops.transit.gtfs import NO_TIME, Feed
from etacore.mlops.transit.positions import Positions
from etacore.mlops.transit.service import day_begins_s, is_repeated
from etacore.schema import MAX_ETA_S, NO_START_TIME

MIN_DISTANCE_M: Final = 10.0
REASONS: Final = (
    "written",
    "not_sampled",
    "first_stop",
    "run_not_observed",
    "not_under_way",
    "stop_not_observed",
    "already_arrived",
    "too_far_ahead",
    "too_near",
)
"""Why a row is left out, in the order in which it is asked; the first is that it is not."""

_US: Final = 1_000_000
_NEVER: Final = 2**63 - 1
_I8 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Dropped:
    """``reason`` of each row: index into `REASONS`, ndarray of uint8, shape (n_rows,)."""

    reason: npt.NDArray[np.uint8]

    def counts(self) -> dict[str, int]:
        """Rows by reason; those of fixes passed over by the sampling do not count as candidates."""
        found = np.bincount(self.reason, minlength=len(REASONS)).tolist()
        by_name = dict(zip(REASONS[2:], found[2:], strict=True))
        return {"candidates": len(self.reason) - found[1], **by_name}

    def summary(self) -> str:
        """The reasons that occur, in words."""
        named = zip(REASONS[1:], np.bincount(self.reason, minlength=len(REASONS)).tolist()[1:], strict=True)
        return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in named if n)


def why_dropped(
    rows: FeatureRows,
    sampled: npt.NDArray[np.bool_],
    run: _I8,
    labels: Labels,
    positions: Positions,
    config: BuildConfig,
) -> Dropped:
    """Judge every row; ``run`` and ``sampled`` are of the fixes."""
    run_of_row = run[rows.fix]
    label_us = labels.label_us[_place(rows, slice(None), run, labels)] if len(labels.label_us) else np.int64(NO_ARRIVAL)
    label_us = np.where(run_of_row >= 0, label_us, NO_ARRIVAL)
    # Unknown labels become any time after the fix: they have been named before times are compared.
    left_us = np.where(label_us == NO_ARRIVAL, 0, label_us - positions.time_us[rows.fix])
    under_way_us = _under_way_us(labels)
    waiting = (run_of_row >= 0) & (positions.time_us[rows.fix] < under_way_us[np.maximum(run_of_row, 0)])
    distance_m = rows.values[:, rows.features.index("distance_to_stop")]
    conditions: Sequence[npt.NDArray[np.bool_]] = (
        ~sampled[rows.fix],
        (rows.stop_ix == 0) & config.skip_first_stop,
        run_of_row < 0,
        waiting & config.under_way_only,
        label_us == NO_ARRIVAL,
        left_us < 0,
        left_us > MAX_ETA_S * _US,
        distance_m < MIN_DISTANCE_M,
    )
    reason = np.zeros(len(rows.fix), np.uint8)
    for code in range(len(conditions), 0, -1):
        reason[conditions[code - 1]] = code
    return Dropped(reason)


def _under_way_us(labels: Labels) -> _I8:
    """When each run came to the first of its stops, the very first left out, at which it was seen; else never."""
    if not len(labels.label_us):
        return np.full(max(len(labels.offset) - 1, 1), _NEVER)
    arrival_us = np.where(labels.label_us == NO_ARRIVAL, _NEVER, labels.label_us)
    arrival_us[labels.offset[:-1]] = _NEVER
    earliest: _I8 = np.minimum.reduceat(arrival_us, labels.offset[:-1])
    return earliest


def _place(rows: FeatureRows, kept: _I8 | slice, run: _I8, labels: Labels) -> _I8:
    """Place of each row's label; any place where the run was not observed."""
    place: _I8 = labels.offset[np.maximum(run[rows.fix[kept]], 0)] + rows.stop_ix[kept]
    return np.minimum(place, max(len(labels.label_us) - 1, 0))


def assemble(
    rows: FeatureRows,
    kept: _I8,
    labels: Labels,
    plan: Plan,
    positions: Positions,
    feed: Feed,
    config: BuildConfig,
) -> pl.DataFrame:
    """The columns of a dataset for the rows kept; weather is null."""
    fix, stop_ix = rows.fix[kept], rows.stop_ix[kept].astype(np.int64)
    place = _place(rows, kept, plan.run, labels)
    trip_ix, run, tracks = plan.trip_ix[fix], plan.run[fix], plan.tracks
    day = tracks.service_day[run]
    pattern_ix = feed.trips.pattern_ix[trip_ix]
    time_us, label_us = positions.time_us[fix], labels.label_us[place]
    n_stops = np.array([pattern.n_stops for pattern in feed.patterns], np.int64)
    stop = (np.cumsum(n_stops) - n_stops)[pattern_ix] + stop_ix
    per_stop = {
        "stop_id": pl.Series([stop_id for pattern in feed.patterns for stop_id in pattern.stop_id]),
        "stop_sequence": _of_stops(feed, "stop_sequence"),
        "stop_lat": _of_stops(feed, "lat"),
        "stop_lon": _of_stops(feed, "lon"),
    }
    texts = {"route_id": positions.route_id, "vehicle_id": positions.vehicle_id}
    features = {name: rows.values[kept, column] for column, name in enumerate(rows.features)}
    speed_mps = positions.speed_mps[fix]
    with np.errstate(invalid="ignore"):
        features["current_speed_kmh"] = np.where(speed_mps >= 0, features["current_speed_kmh"], np.nan)
    columns: dict[str, Any] = {
        "trip_id": pl.Series(feed.trips.trip_id).gather(trip_ix),
        **{name: pl.Series(column.values).gather(column.codes[fix]) for name, column in texts.items()},
        **{name: values.gather(stop) for name, values in per_stop.items()},
        "vp_ts": _timestamps(time_us),
        "vp_lat": positions.lat[fix],
        "vp_lon": positions.lon[fix],
        "vp_bearing": positions.bearing_deg[fix],
        "actual_arrival": _timestamps(label_us),
        "time_to_arrival_seconds": (label_us - time_us) / _US,
        **features,
        "stop_ordinal": stop_ix + 1,
        "n_stops": n_stops[pattern_ix],
        "service_date": pl.Series(day).cast(pl.Date),
        "pattern_id": pl.Series([pattern.pattern_id for pattern in feed.patterns]).gather(pattern_ix),
        "label_rule": pl.Series(labels.rule_names).gather(labels.rule[place].astype(np.uint32)),
        "label_uncertainty_s": labels.uncertainty_s[place],
        "interpolated_arrival": _timestamps(labels.interp_us[place]),
        "scheduled_arrival": _timestamps(_scheduled_us(feed, trip_ix, stop_ix, day, tracks.start_s[run])),
        "run_number": tracks.number[run],
    }
    return pl.DataFrame([_column(name, columns.pop(name, None), len(kept)) for name in COLUMNS])


def _column(name: str, values: Any, n: int) -> pl.Series:
    """A column with its type, unknown numbers as null."""
    dtype = COLUMNS[name]
    if values is None:
        return pl.Series(name, [None], dtype=dtype).new_from_index(0, n)
    if isinstance(values, np.ndarray):
        values = values != 0 if dtype == pl.Boolean else values.astype(np.float64 if dtype == pl.Float64 else np.int64)
        return pl.Series(name, values, dtype=dtype, nan_to_null=True)
    column: pl.Series = values.alias(name).cast(dtype)
    return column


def _of_stops(feed: Feed, name: str) -> pl.Series:
    return pl.Series(np.concatenate([getattr(pattern, name) for pattern in feed.patterns]))


def _timestamps(time_us: _I8) -> pl.Series:
    """Times; null for `NO_ARRIVAL`."""
    series = pl.Series(time_us)
    if (unknown := time_us == NO_ARRIVAL).any():
        series = series.set(pl.Series(unknown), None)
    return series.cast(TIMESTAMP)


def _scheduled_us(
    feed: Feed,
    trip_ix: npt.NDArray[np.int32],
    stop_ix: _I8,
    day: npt.NDArray[np.int32],
    start_s: npt.NDArray[np.int32],
) -> _I8:
    """Time of the timetable on a service date, counted as GTFS does from noon minus 12 h; `NO_ARRIVAL` without one.

    Of a frequency-based trip the times of the timetable count from the start of the run: without one there are none.
    """
    arrival_s = feed.trips.arrival_s[feed.trips.offset[trip_ix] + stop_ix].astype(np.int64)
    repeated = is_repeated(feed)[trip_ix]
    unknown = (arrival_s == NO_TIME) | (repeated & (start_s == NO_START_TIME))
    since_s = np.where(repeated, arrival_s - feed.trips.start_s[trip_ix] + start_s, arrival_s)
    return np.where(unknown, NO_ARRIVAL, (day_begins_s(day, feed.time_zone) + since_s) * _US)


def n_past_midnight(frame: pl.DataFrame, time_zone: str) -> int:
    """Rows whose local date is not their service date."""
    local = pl.col("vp_ts").dt.convert_time_zone(time_zone).dt.date()
    return int(frame.select((local != pl.col("service_date")).sum()).item())
