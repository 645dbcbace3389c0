"""Feature rows of a recording, made by the engine that serves: the same stages, the same state, another source.

Vehicles do not know of each other, so a batch need not be one moment: the k-th
batch holds the k-th fix of every vehicle. That gives each fix the state that
its own past left behind, in a few hundred or thousand batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from etacore.config import MAX_SECONDS, RuntimeConfig
from etacore.mlops.dataset.layout import COLUMNS
from etacore.mlops.progress import Progress, silent
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.patterns import seed_pairs
from etacore.mlops.transit.positions import Positions
from etacore.mlops.transit.run_starts import run_starts
from etacore.models.choice import Models
from etacore.pipeline.engine import Batch, Engine
from etacore.pipeline.snapshots import TextPool, fill_snapshots
from etacore.schema import FEATURES, feature_codes

MAX_BATCH: Final = 10_000
NOT_PROCESSED: Final = 255
"""Status of a fix that was not given to the engine."""

FEATURE_COLUMNS: Final = tuple(
    feature.name
    for feature in FEATURES
    if feature.name in COLUMNS and feature.group != "weather" and feature.name != "stop_sequence"
)
"""Features that are columns of a dataset, in the order of the schema. The sequence of a stop comes from the feed."""

_STOP_STATUS: Final = {"INCOMING_AT": 0, "STOPPED_AT": 1, "IN_TRANSIT_TO": 2}
_PROGRESS_EVERY: Final = 20


class FeatureTap:
    """Stands where a model stands in the engine, asks for features and predicts nothing."""

    key = model_type = "feature_tap"
    scope = "global"
    route_id = None
    nan_fill = None
    routes: tuple[str, ...] = ()
    typical = None

    def __init__(
        self,
        time_zone: str,
        holidays: Sequence[date] = (),
        *,
        along_route_distance: bool = True,
        features: Sequence[str] = FEATURE_COLUMNS,
    ) -> None:
        self.features = tuple(features)
        self.feature_codes = feature_codes(self.features)
        self.time_zone = time_zone
        self.holidays = tuple(holidays)
        self.calendar_args = (time_zone, self.holidays)
        self.along_route_distance = along_route_distance

    def predict(self, X: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:  # noqa: N803
        """Nothing worth knowing."""
        out[:] = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """What the engine computed.

    Attributes
    ----------
    fix : ndarray of int32, shape (n_rows,)
        Row of the fix in the positions, ascending.
    stop_ix : ndarray of int32, shape (n_rows,)
        0-based position of the stop in the pattern of the fix's trip, ascending within a fix.
    values : ndarray of float32, shape (n_rows, n_features)
        NaN where unknown.
    features : tuple of str
        Names of the columns of ``values``.
    status : ndarray of uint8, shape (n_fixes,)
        `etacore.status.Status` of each fix, or `NOT_PROCESSED`.
    n_other_pattern : int
        Rows left out because the engine followed another pattern than the trip's own.
    """

    fix: npt.NDArray[np.int32]
    stop_ix: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    features: tuple[str, ...]
    status: npt.NDArray[np.uint8]
    n_other_pattern: int


def compute_features(
    positions: Positions,
    feed: Feed,
    tap: FeatureTap,
    *,
    max_stops: int,
    pattern_ix: npt.NDArray[np.int32],
    process: npt.NDArray[np.bool_],
    emit: npt.NDArray[np.bool_],
    progress: Progress = silent,
) -> FeatureRows:
    """Send fixes through the engine's stages and keep the feature rows.

    Parameters
    ----------
    positions : Positions
        Sorted by time.
    feed : Feed
        Whose keys are what the engine finds when it looks up stops, shapes and patterns.
    tap : FeatureTap
        Which features, and the calendar.
    max_stops : int
        Rows per fix, at most.
    pattern_ix : ndarray of int32, shape (n_fixes,)
        Pattern of each fix's trip in the feed, -1 without one.
    process : ndarray of bool, shape (n_fixes,)
        Fixes that the engine shall see: of a vehicle all that came before, or its state is not the one of serving.
    emit : ndarray of bool, shape (n_fixes,)
        Fixes whose rows are kept.
    progress : Progress, optional
        Told the fixes done.
    """
    rows = np.flatnonzero(process)
    status = np.full(len(positions), NOT_PROCESSED, np.uint8)
    engine, stored = _engine(positions, feed, tap, max_stops, rows)
    pool = TextPool(
        vehicle_id=positions.vehicle_id.values,
        route_id=positions.route_id.values,
        trip_id=positions.trip_id.values,
        stop_id=positions.stop_id.values,
    )
    stop_status = np.array([*(_STOP_STATUS.get(name, -1) for name in positions.current_status.values), -1], np.int8)
    batch = Batch(max(1, min(MAX_BATCH, len(positions.vehicle_id.values))))
    fixes, stops, values, numbers = [], [], [], []
    done = 0
    for n_batch, chosen in enumerate(_batches(rows, positions.vehicle_id.codes[rows])):
        _fill(batch, engine, positions, chosen, pool, stop_status)
        engine.advance(batch, lambda keys: [stored.get(key) for key in keys])
        engine.commit(batch)
        status[chosen] = batch.status
        part = batch.parts[0]
        vehicle = np.repeat(np.arange(batch.n), np.diff(part.row_offset))
        wanted = np.flatnonzero(emit[chosen][vehicle])
        fixes.append(chosen[vehicle[wanted]].astype(np.int32))
        stops.append(part.stop_ix[wanted])
        values.append(part.features[wanted])
        numbers.append(batch.pattern_ix[vehicle[wanted]])
        done += len(chosen)
        if n_batch % _PROGRESS_EVERY == 0 or done == len(rows):
            progress("computing features", done, len(rows))
    fix, number = _joined(fixes, np.int32), _joined(numbers, np.int32)
    own = _feed_numbers(engine, feed, number)[number] == pattern_ix[fix]
    # Rows of a fix come together and in order of the stops; that order stays.
    order = np.argsort(fix, kind="stable")
    order = order[own[order]]
    matrix = np.concatenate(values) if values else np.empty((0, len(tap.features)), np.float32)
    stop_ix = _joined(stops, np.int32)[order]
    return FeatureRows(fix[order], stop_ix, matrix[order], tap.features, status, int((~own).sum()))


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _batches(rows: npt.NDArray[np.int64], vehicle: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int64]]:
    """The first fix of every vehicle, then the second, and so on; at most `MAX_BATCH` at a time."""
    by_vehicle = np.argsort(vehicle, kind="stable")
    sorted_vehicle = vehicle[by_vehicle]
    first = np.flatnonzero(np.diff(sorted_vehicle, prepend=-1))
    turn = np.arange(len(rows)) - np.repeat(first, np.diff(np.append(first, len(rows))))
    by_turn = np.argsort(turn, kind="stable")
    borders = np.flatnonzero(np.diff(turn[by_turn])) + 1
    for same_turn in np.split(rows[by_vehicle[by_turn]], borders):
        for start in range(0, len(same_turn), MAX_BATCH):
            yield same_turn[start : start + MAX_BATCH]


def _engine(
    positions: Positions, feed: Feed, tap: FeatureTap, max_stops: int, rows: npt.NDArray[np.int64]
) -> tuple[Engine, dict[bytes, bytes]]:
    pairs = seed_pairs(feed.patterns, feed.trip_patterns(), feed.shapes, runs=run_starts(feed))
    stored = {key.encode(): value for key, value in pairs}
    # The clock stands still at the end of the recording: no fix is early, nothing seen is forgotten or looked up
    # again, and a fix sent twice stays unchanged for good. No feature depends on it.
    now_us = int(positions.time_us[rows].max()) if rows.size else 0
    config = RuntimeConfig(
        max_age_seconds=0,
        max_stops_per_vehicle=max_stops,
        predictions_ttl_seconds=MAX_SECONDS,
        route_refresh_seconds=MAX_SECONDS,
        state_retention_seconds=MAX_SECONDS,
    )
    return Engine(Models(tap), config, lambda: now_us), stored


def _fill(
    batch: Batch,
    engine: Engine,
    positions: Positions,
    rows: npt.NDArray[np.int64],
    pool: TextPool,
    stop_status: npt.NDArray[np.int8],
) -> None:
    """What `Engine.parse` does, from columns instead of JSON."""
    batch.start(engine.clock())
    fill_snapshots(
        batch,
        pool,
        vehicle_id=positions.vehicle_id.codes[rows],
        route_id=positions.route_id.codes[rows],
        trip_id=positions.trip_id.codes[rows],
        stop_id=positions.stop_id.codes[rows],
        lat=positions.lat[rows],
        lon=positions.lon[rows],
        time_us=positions.time_us[rows],
        speed_mps=positions.speed_mps[rows],
        bearing_deg=positions.bearing_deg[rows],
        stop_sequence=positions.stop_sequence[rows],
        direction_id=positions.direction_id[rows],
        start_date=positions.start_date[rows],
        start_time_s=positions.start_time_s[rows],
        current_status=stop_status[positions.current_status.codes[rows]],
        max_future_us=int(engine.config.max_future_seconds * 1e6),
        max_age_us=0,
    )


def _feed_numbers(engine: Engine, feed: Feed, used: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The feed's pattern for each pattern number of the engine; -2 where it is the stops of a whole route."""
    prefix = engine.config.keys.pattern_stops
    numbers = [engine.routes.pattern_ix(f"{prefix}{pattern.pattern_id}".encode()) for pattern in feed.patterns]
    table = np.full(max([0, *numbers, int(used.max(initial=0))]) + 1, -2, np.int32)
    for ix, number in enumerate(numbers):
        if number >= 0:
            table[number] = ix
    return table
