"""The peer of the whole data path: what a careful Python programmer can get out of the usual libraries.

Batches all the way: one MGET a chunk, orjson, NumPy features on padded
per-route matrices (each distance computed once), one batched XGBoost
prediction on one thread, rounding in NumPy, ETA texts from a table, times
written by orjson itself, one pipeline of SETs a chunk.

It serves the well-behaved fleet of `benchmarks.fleet` only: every snapshot is
valid and says by ``current_stop_sequence`` which stop its vehicle heads for,
and routes have one pattern with sequences 1, 2, 3... There is no screening of
old or broken snapshots beyond a dictionary of the last timestamps, and no
projection on routes. For that fleet its documents are those of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import redis
import xgboost
from numpy.typing import NDArray

from etacore.schema import EARTH_RADIUS_M, MAX_ETA_S, MIN_ETA_S

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_US: Final = 86_400_000_000
SLOT_US: Final = 900_000_000
"""No time zone changes its offset within a quarter of an hour that starts at :00, :15, :30 or :45."""
CHUNK: Final = 1_000


def eta_text(seconds: int) -> str:
    """Duration as people read it, truncated."""
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60}s"
    return f"{seconds // 3600}h {seconds % 3600 // 60}m"


ETA_TEXTS: Final = np.array([eta_text(s) for s in range(int(MAX_ETA_S) + 1)], dtype=object)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the documents and the calendar need to know of a model."""

    key: str
    model_type: str
    scope: str
    time_zone: str


@dataclass(slots=True)
class Features:
    """Feature rows of a batch: vehicle i has the rows where ``mask[i]`` is set."""

    mask: NDArray[np.bool_]
    stop: Ints
    distance_m: Floats
    X: NDArray[np.float32]


class RouteMatrices:
    """Stops of all routes, padded to the longest: a row per route."""

    def __init__(self, blobs: dict[bytes, bytes]) -> None:
        routes = [orjson.loads(blob) for blob in blobs.values()]
        names = [key.decode().partition(":")[2] for key in blobs]
        self.row_of: Final = {name: row for row, name in enumerate(names)}
        self.n_stops: Final = np.array([len(stops) for stops in routes])
        longest = int(self.n_stops.max())
        self.lat_rad: Final = np.zeros((len(routes), longest))
        self.lon_rad: Final = np.zeros((len(routes), longest))
        for row, stops in enumerate(routes):
            self.lat_rad[row, : len(stops)] = np.radians([stop["lat"] for stop in stops])
            self.lon_rad[row, : len(stops)] = np.radians([stop["lon"] for stop in stops])
        self.cos_lat: Final = np.cos(self.lat_rad)
        self.leg_m: Final = np.zeros((len(routes), longest))
        self.leg_m[:, :-1] = distance_m(
            self.lat_rad[:, :-1],
            self.lon_rad[:, :-1],
            self.cos_lat[:, :-1],
            self.lat_rad[:, 1:],
            self.lon_rad[:, 1:],
            self.cos_lat[:, 1:],
        )
        self.stop_ids: Final = [[stop["stop_id"] for stop in stops] for stops in routes]


def distance_m(lat1: Floats, lon1: Floats, cos1: Floats, lat2: Floats, lon2: Floats, cos2: Floats) -> Floats:
    """Haversine distance; radians in, metres out, broadcasting."""
    h = np.sin((lat2 - lat1) * 0.5) ** 2 + cos1 * cos2 * np.sin((lon2 - lon1) * 0.5) ** 2
    result: Floats = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(h, 1.0)))
    return result


class TunedPython:
    """Snapshots to documents, and with `poll` from Redis to Redis.

    Parameters
    ----------
    booster : xgboost.Booster
        A regression over the seven base features, in their order.
    model : ModelFacts
    routes : dict
        ``route_stops:*`` keys and their JSON.
    max_stops : int
    clock_us : callable
        Now, microseconds since the epoch.
    """

    def __init__(
        self,
        booster: xgboost.Booster,
        model: ModelFacts,
        routes: dict[bytes, bytes],
        *,
        max_stops: int,
        clock_us: Callable[[], int],
    ) -> None:
        booster.set_param({"nthread": 1})
        self.booster: Final = booster
        self.model: Final = model
        self.routes: Final = RouteMatrices(routes)
        self.max_stops: Final = max_stops
        self.clock_us: Final = clock_us
        self.zone: Final = ZoneInfo(model.time_zone)
        self.offsets_us: Final[dict[int, int]] = {}
        self.served: Final[dict[str, str]] = {}

    # -- the stages -------------------------------------------------------------------------------------------------

    def parse(self, payloads: Sequence[bytes]) -> list[dict[str, Any]]:
        """JSON to dictionaries."""
        return [orjson.loads(payload) for payload in payloads]

    def columns(self, snapshots: list[dict[str, Any]]) -> tuple[Floats, Floats, Ints]:
        """Latitude, longitude (degrees) and time (microseconds) of each snapshot."""
        lat = np.array([snapshot["lat"] for snapshot in snapshots])
        lon = np.array([snapshot["lon"] for snapshot in snapshots])
        parse_time = datetime.fromisoformat
        seconds = [parse_time(snapshot["timestamp"]).timestamp() for snapshot in snapshots]
        return lat, lon, np.rint(np.array(seconds) * 1e6).astype(np.int64)

    def vectorize(self, snapshots: list[dict[str, Any]], lat: Floats, lon: Floats, time_us: Ints) -> Features:
        """Feature rows of the next stops; one haversine matrix with a column more than there are stops."""
        routes, k = self.routes, self.max_stops
        row_of = routes.row_of
        route = np.array([row_of[snapshot["route"]] for snapshot in snapshots])
        first = np.array([snapshot["current_stop_sequence"] for snapshot in snapshots]) - 1
        window = first[:, None] + np.arange(k + 1)
        n_stops = routes.n_stops[route][:, None]
        stop = window[:, :k]
        mask = stop < n_stops
        np.minimum(window, n_stops - 1, out=window)
        at = (route[:, None], window)
        lat_rad, lon_rad = np.radians(lat)[:, None], np.radians(lon)[:, None]
        to_stop = distance_m(
            lat_rad, lon_rad, np.cos(lat_rad), routes.lat_rad[at], routes.lon_rad[at], routes.cos_lat[at]
        )
        leg = routes.leg_m[route[:, None], window[:, :k]]
        on_segment = np.zeros_like(leg)
        np.divide(to_stop[:, 1:], leg, out=on_segment, where=leg > 0)
        on_segment = np.where(leg > 0, np.clip(1 - on_segment, 0, 1), 0.0)
        ratio = np.clip((window[:, :k] + on_segment) / n_stops, 0, 1)
        hour, day = self._local(time_us)
        weekend = day >= 5
        peak = ~weekend & (((hour >= 7) & (hour <= 9)) | ((hour >= 16) & (hour <= 19)))
        X = np.empty((len(snapshots), k, 7), np.float32)
        X[:, :, 0], X[:, :, 1], X[:, :, 2] = to_stop[:, :k], on_segment, ratio
        for column, values in enumerate((hour, day, weekend, peak), start=3):
            X[:, :, column] = values[:, None]
        whole = bool(mask.all())
        return Features(mask, window[:, :k], to_stop[:, :k], X.reshape(-1, 7) if whole else X[mask])

    def _local(self, time_us: Ints) -> tuple[Ints, Ints]:
        """Local hour and day of the week (Monday = 0) in the model's time zone."""
        slots, slot_of = np.unique(time_us // SLOT_US, return_inverse=True)
        local = time_us + np.array([self._offset_us(slot) for slot in slots.tolist()])[slot_of]
        return local // 3_600_000_000 % 24, (local // DAY_US + 3) % 7

    def _offset_us(self, slot: int) -> int:
        if slot not in self.offsets_us:
            offset = datetime.fromtimestamp(slot * SLOT_US / 1e6, self.zone).utcoffset()
            assert offset is not None
            self.offsets_us[slot] = int(offset.total_seconds() * 1e6)
        return self.offsets_us[slot]

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Seconds to arrival, clipped."""
        eta: NDArray[np.float32] = np.clip(self.booster.inplace_predict(X), MIN_ETA_S, MAX_ETA_S)
        return eta

    def encode(
        self,
        keys: Sequence[bytes],
        snapshots: list[dict[str, Any]],
        time_us: Ints,
        features: Features,
        eta: NDArray[np.float32],
        fetched_us: int,
        computed_us: int,
        started: float,
    ) -> list[bytes]:
        """JSON documents; numbers are rounded in bulk, times are left to orjson."""
        eta_s = np.zeros(features.mask.shape)
        eta_s[features.mask] = eta
        seconds = np.round(eta_s, 1).tolist()
        minutes = np.round(eta_s / 60, 2).tolist()
        texts = ETA_TEXTS[eta_s.astype(np.int64)].tolist()
        arrivals = (time_us[:, None] + np.rint(eta_s * 1e6).astype(np.int64)).astype("datetime64[us]").tolist()
        distances = np.round(features.distance_m, 1).tolist()
        first, n_stops = features.stop[:, 0].tolist(), features.mask.sum(axis=1).tolist()
        computed_at, fetched_at, persisted_at = map(_iso, (computed_us, fetched_us, self.clock_us()))
        latency_ms = round((perf_counter() - started) * 1e3, 3)
        key, model_type, scope = self.model.key, self.model.model_type, self.model.scope
        stop_ids, row_of = self.routes.stop_ids, self.routes.row_of
        dumps, option = orjson.dumps, orjson.OPT_NAIVE_UTC
        documents = []
        for i, (redis_key, snapshot) in enumerate(zip(keys, snapshots, strict=True)):
            route, start = snapshot["route"], first[i]
            ids = stop_ids[row_of[route]][start : start + n_stops[i]]
            predictions = [
                {
                    "stop_id": stop_id,
                    "stop_sequence": sequence,
                    "distance_to_stop_m": metres,
                    "eta_seconds": s,
                    "eta_minutes": m,
                    "eta_formatted": text,
                    "eta_timestamp": arrival,
                }
                for sequence, stop_id, metres, s, m, text, arrival in zip(
                    range(start + 1, start + 1 + len(ids)),
                    ids,
                    distances[i],
                    seconds[i],
                    minutes[i],
                    texts[i],
                    arrivals[i],
                    strict=False,
                )
            ]
            document = {
                "vehicle_id": snapshot["vehicle_id"],
                "route_id": route,
                "trip_id": snapshot["trip_id"],
                "computed_at": computed_at,
                "model_key": key,
                "model_type": model_type,
                "model_scope": scope,
                "predictions": predictions,
                "source": "prefect",
                "redis_key": redis_key.decode(),
                "fetched_at": fetched_at,
                "persisted_at": persisted_at,
                "source_timestamp": snapshot["timestamp"],
                "prefect_pipeline_latency_ms": latency_ms,
            }
            documents.append(dumps(document, option=option))
        return documents

    # -- the whole --------------------------------------------------------------------------------------------------

    def process(
        self, keys: Sequence[bytes], payloads: Sequence[bytes], started: float | None = None
    ) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Payloads to snapshots and documents of a batch."""
        started = perf_counter() if started is None else started
        fetched_us = self.clock_us()
        snapshots = self.parse(payloads)
        lat, lon, time_us = self.columns(snapshots)
        features = self.vectorize(snapshots, lat, lon, time_us)
        computed_us = self.clock_us()
        eta = self.predict(features.X)
        return snapshots, self.encode(keys, snapshots, time_us, features, eta, fetched_us, computed_us, started)

    def poll(self, client: redis.Redis, ttl_s: int = 300) -> int:
        """Serve all vehicles of a Redis once; returns how many predictions were stored."""
        n_stored = 0
        keys = list(client.scan_iter(match="vehicle:*", count=5_000))
        for start in range(0, len(keys), CHUNK):
            started = perf_counter()
            chunk = keys[start : start + CHUNK]
            snapshots, documents = self.process(chunk, cast("list[bytes]", client.mget(chunk)), started)
            pipe = client.pipeline(transaction=False)
            send: Callable[..., Any] = pipe.execute_command
            for snapshot, document in zip(snapshots, documents, strict=True):
                vehicle_id, timestamp = snapshot["vehicle_id"], snapshot["timestamp"]
                if self.served.get(vehicle_id) != timestamp:
                    send("SET", f"predictions:{vehicle_id}", document, "EX", ttl_s)
                    self.served[vehicle_id] = timestamp
            n_stored += len(pipe.execute())
        return n_stored


def _iso(time_us: int) -> str:
    """ISO 8601 of a time, UTC."""
    return np.datetime64(time_us, "us").item().replace(tzinfo=UTC).isoformat()
