"""The work that everything is measured on: a seeded fleet, its routes, and a seeded model.

Everything here is well behaved on purpose: each vehicle says which stop it
heads for, so that the peers, which know nothing of loops or garbage, do the
same work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from etacore.models.forest import sha256_hex
from etacore.models.model import Model
from etacore.models.registry import Registry
from etacore.schema import BASE_FEATURES

if TYPE_CHECKING:
    import xgboost

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "benchmarks"

NOW_US: Final = 1_768_910_400_000_000
"""2026-01-20 12:00 UTC, a Tuesday: the present of every benchmark."""

TIME_ZONE: Final = "America/New_York"
N_ROUTES: Final = 200
STOPS_PER_ROUTE: Final = 20
MAX_STOPS: Final = 5
METRES_PER_DEGREE: Final = 111_195.0
TRAINING_ROWS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Fleet:
    """Snapshots of a fleet at one moment, and the routes they drive on.

    Attributes
    ----------
    keys, payloads : list of bytes
        ``vehicle:*`` keys and their JSON, about 220 bytes each.
    routes : dict
        ``route_stops:*`` keys and their JSON.
    """

    keys: list[bytes]
    payloads: list[bytes]
    routes: dict[bytes, bytes]

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Answer as Redis' MGET would: routes are there, stored predictions are not."""
        return [self.routes.get(key) for key in keys]

    def with_own_routes(self) -> Fleet:
        """The fleet with the routes that its vehicles are on, and no others."""
        used = {b"route_stops:%b" % orjson.loads(payload)["route"].encode() for payload in self.payloads}
        return Fleet(self.keys, self.payloads, {key: blob for key, blob in self.routes.items() if key in used})

    def every(self, n: int) -> Fleet:
        """Every n-th vehicle."""
        return Fleet(self.keys[::n], self.payloads[::n], self.routes)

    def parked(self) -> Fleet:
        """The routes without any vehicle."""
        return Fleet([], [], self.routes)

    def __len__(self) -> int:
        return len(self.keys)


def make_routes(seed: int = 1) -> dict[bytes, bytes]:
    """Routes of 20 stops, 250 to 450 m apart, each winding its own way."""
    return {
        b"route_stops:R%d" % route: orjson.dumps(
            [
                {
                    "stop_id": f"S{route}-{i + 1}",
                    "lat": lat,
                    "lon": lon,
                    "stop_sequence": i + 1,
                    "stop_name": f"Stop {i + 1} of line {route}",
                }
                for i, (lat, lon) in enumerate(path)
            ]
        )
        for route, path in enumerate(_paths(seed).tolist())
    }


def make_fleet(n: int, tick: int = 0, *, stops_ahead: int = MAX_STOPS, seed: int = 1) -> Fleet:
    """A fleet of `n` vehicles, `tick` seconds after the first snapshot, each with `stops_ahead` stops or more to go.

    Another tick means another timestamp and another position of every
    vehicle, on the same leg of the same trip.
    """
    rng = np.random.default_rng([seed, n])
    route = rng.integers(0, N_ROUTES, n)
    heading_for = rng.integers(1, STOPS_PER_ROUTE - stops_ahead + 1, n)
    share = 0.2 + 0.6 * rng.random(n) + 0.01 * (tick % 10)
    age_s = rng.integers(5, 30, n)
    speed, bearing = rng.uniform(2, 15, n).round(1), rng.uniform(0, 360, n).round(1)
    path = _paths(seed)
    before, after = path[route, heading_for - 1], path[route, heading_for]
    position = (before + share[:, None] * (after - before)).round(6)
    seconds = NOW_US // 1_000_000 + tick - age_s
    times = np.datetime_as_string(seconds.astype("datetime64[s]")).tolist()
    payloads = [
        orjson.dumps(
            {
                "vehicle_id": f"BUS-{i:06d}",
                "lat": lat,
                "lon": lon,
                "speed": v,
                "bearing": b,
                "timestamp": f"{time}+00:00",
                "route": f"R{r}",
                "trip_id": f"T{r}-{i}",
                "stop_id": f"S{r}-{k + 1}",
                "current_stop_sequence": k + 1,
                "current_status": "IN_TRANSIT_TO",
            }
        )
        for i, ((lat, lon), v, b, time, r, k) in enumerate(
            zip(
                position.tolist(),
                speed.tolist(),
                bearing.tolist(),
                times,
                route.tolist(),
                heading_for.tolist(),
                strict=True,
            )
        )
    ]
    return Fleet([b"vehicle:BUS-%06d" % i for i in range(n)], payloads, make_routes(seed))


def training_rows(n: int = TRAINING_ROWS, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Feature rows of the seven base features and times to arrival, as a city with rush hours would give.

    Returns
    -------
    X : ndarray of float32, shape (n, 7)
    y : ndarray of float32, shape (n,), seconds
    """
    rng = np.random.default_rng(seed)
    distance = rng.gamma(2.0, 800.0, n)
    on_segment, ratio = rng.random(n), rng.random(n)
    hour, day = rng.integers(0, 24, n), rng.integers(0, 7, n)
    weekend = day >= 5
    peak = ~weekend & (((hour >= 7) & (hour <= 9)) | ((hour >= 16) & (hour <= 19)))
    speed = 5 + 3 * np.sin(hour / 24 * 2 * math.pi) - 2 * peak + rng.normal(0, 1, n)
    y = np.clip(distance / np.maximum(speed, 1) + 60 * on_segment * peak + rng.normal(0, 30, n), 0, 7200)
    X = np.column_stack([distance, on_segment, ratio, hour, day, weekend, peak])
    return X.astype(np.float32), y.astype(np.float32)


def model_path() -> Path:
    """XGBoost model of 200 trees, depth 5; trained in seconds, then kept under build/."""
    path = CACHE / "model.json"
    if not path.exists():
        import xgboost

        X, y = training_rows()
        parameters = {"max_depth": 5, "learning_rate": 0.05, "subsample": 0.8, "colsample_bytree": 0.8, "seed": 42}
        data = xgboost.DMatrix(X, y, feature_names=list(BASE_FEATURES))
        model = xgboost.train(parameters, data, num_boost_round=200)
        CACHE.mkdir(parents=True, exist_ok=True)
        from etacore.files import write_whole  # here: the gate lends this module to trees that lack it

        write_whole(path, bytes(model.save_raw("json")))
    return path


def xgboost_model() -> xgboost.Booster:
    """The model as XGBoost serves it, on one thread."""
    import xgboost

    booster = xgboost.Booster(model_file=model_path())
    booster.set_param({"nthread": 1})
    return booster


def registry_path() -> Path:
    """Registry that holds the model, compiled; made in seconds, then kept under build/."""
    from etacore.mlops.bundling import bitmask, forest_tables

    sources = (model_path(), bitmask.KERNEL, bitmask.LIBRARY, Path(bitmask.__file__), Path(forest_tables.__file__))
    path = CACHE / f"registry-{sha256_hex(b''.join(source.read_bytes() for source in sources))[:16]}"
    registry = Registry(path)
    if not registry.keys():
        from etacore.mlops.bundling.compile import compile_to_registry

        compile_to_registry(model_path(), registry, time_zone=TIME_ZONE, dataset="benchmark")
    return path


def compiled_model() -> Model:
    """The model as etacore serves it."""
    registry = Registry(registry_path())
    return registry.load(registry.keys()[0])


def _paths(seed: int) -> NDArray[np.float64]:
    """Positions of the stops, degrees, shape (routes, stops, 2)."""
    rng = np.random.default_rng(seed)
    start = np.array([42.3, -71.1]) + rng.uniform(-0.1, 0.1, (N_ROUTES, 1, 2))
    leg_m = rng.uniform(250, 450, (N_ROUTES, STOPS_PER_ROUTE))
    heading = rng.uniform(0, 2 * math.pi, (N_ROUTES, 1)) + np.cumsum(
        rng.uniform(-0.3, 0.3, (N_ROUTES, STOPS_PER_ROUTE)), axis=1
    )
    degrees = leg_m / METRES_PER_DEGREE
    steps = np.stack([degrees * np.cos(heading), degrees * np.sin(heading) / math.cos(math.radians(42.3))], axis=2)
    return (start + np.cumsum(steps, axis=1)).round(6)
