"""The drop-in call and the engine of the runtime: one vehicle, one model, the same numbers."""

import json
import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from etacore import estimator
from etacore.config import RuntimeConfig
from etacore.estimator import estimate_stop_times
from etacore.models.choice import Models
from etacore.models.registry import Registry
from etacore.pipeline.engine import Engine
from etacore.schema import feature_codes
from etacore.status import Status
from tests.golden import record
from tests.golden.test_golden import HERE, registry_with
from tests.reference.geo import haversine_m

N_STOPS = 12
MAX_STOPS = 5
NOW = datetime(2026, 1, 20, 12, tzinfo=UTC)
ROUTE = [
    {"stop_id": f"S{i}", "lat": 40.7 + 0.004 * i, "lon": -74.0 + 0.002 * (i % 3), "stop_sequence": i}
    for i in range(1, N_STOPS + 1)
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    meta = {
        "features": record.FEATURES,
        "time_zone": record.TIME_ZONE,
        "dataset": "tiny",
        "metrics": {},
        "model_key": record.MODEL_KEY,
    }
    return registry_with(tmp_path_factory.mktemp("models"), HERE / "tiny_model.json", meta)


def test_both_ways_give_the_same_predictions(registry, monkeypatch):
    monkeypatch.setenv("MODEL_REGISTRY_DIR", str(registry))
    rng = random.Random(5)
    vehicles = []
    for number in range(200):
        following = rng.randrange(1, N_STOPS + 1)
        stop = ROUTE[following - 1]
        vehicles.append(
            {
                "vehicle_id": f"BUS-{number}",
                "lat": stop["lat"] - rng.uniform(0.0, 0.004),
                "lon": stop["lon"] + rng.uniform(-0.001, 0.001),
                "speed": rng.uniform(0, 20),
                "timestamp": (NOW - timedelta(seconds=rng.uniform(0, 600))).isoformat(),
                "route": "171",
                "trip_id": f"T{number}",
                "current_stop_sequence": following,
                "current_status": "IN_TRANSIT_TO",
            }
        )
    blobs = {b"route_stops:171": json.dumps(ROUTE).encode()}
    engine = Engine(
        Models(Registry(registry).load(record.MODEL_KEY)),
        RuntimeConfig(max_stops_per_vehicle=MAX_STOPS),
        clock=lambda: int(NOW.timestamp() * 1e6),
    )
    batch = engine.process(
        [f"vehicle:{vehicle['vehicle_id']}".encode() for vehicle in vehicles],
        [json.dumps(vehicle).encode() for vehicle in vehicles],
        lambda keys: [blobs.get(key) for key in keys],
    )
    assert batch.counts() == {Status.OK: len(vehicles)}
    (part,) = batch.parts
    for row, vehicle in enumerate(vehicles):
        document = json.loads(part.documents[row])
        # One stop more than the engine predicts: in the drop-in call a stop's successor has to lie in the window.
        upcoming = [stop | {"total_stop_sequence": N_STOPS} for stop in ROUTE[vehicle["current_stop_sequence"] - 1 :]]
        expected = estimate_stop_times(vehicle, upcoming, max_stops=MAX_STOPS + 1)
        expected["predictions"] = expected["predictions"][:MAX_STOPS]
        del expected["computed_at"]
        assert {name: document[name] for name in expected} == expected
        assert list(document)[:3] == list(expected)[:3]
        assert document["source_timestamp"] == vehicle["timestamp"]


class KnowingModel:
    """Typical times and route numbers, given as they are."""

    key, model_type, scope, route_id = "knowing", "xgboost", "global", None
    time_zone, holidays, calendar_args = "America/New_York", (), ("America/New_York", ())
    features = ("typical_travel_s", "route_code", "stop_sequence", "leg_left")
    feature_codes = feature_codes(features)
    nan_fill, along_route_distance = None, True
    routes = ("9", "171")
    predictor, clip_s = None, (0.0, 7200.0)

    def __init__(self):
        self.typical = self
        self.rows = []

    def legs(self, route_id, stop_ids):
        seconds = [
            [0.0 if i == 0 else 20.0 * int(stop[1:]) + hour for i, stop in enumerate(stop_ids)] for hour in range(24)
        ]
        return np.array(seconds, np.float32)

    def leg_m(self, route_id, stop_id):
        before, stop = (ROUTE[i - 1] for i in (int(stop_id[1:]) - 1, int(stop_id[1:])))
        return haversine_m(before["lat"], before["lon"], stop["lat"], stop["lon"])

    def predict(self, X, out):
        self.rows.append(X.copy())
        out[:] = X[:, 0]


def test_both_ways_know_the_same_of_a_route(monkeypatch):
    model = KnowingModel()
    monkeypatch.setattr(estimator, "_registries", {})
    monkeypatch.setattr(
        estimator, "open_registry", lambda path: SimpleNamespace(choose=lambda *_: "knowing", load=lambda _: model)
    )
    blobs = {b"route_stops:171": json.dumps(ROUTE).encode()}
    engine = Engine(
        Models(model), RuntimeConfig(max_stops_per_vehicle=MAX_STOPS), clock=lambda: int(NOW.timestamp() * 1e6)
    )
    rng = random.Random(7)
    for following in range(2, N_STOPS + 1):
        before, stop, t = ROUTE[following - 2], ROUTE[following - 1], rng.random()
        vehicle = {
            "vehicle_id": f"BUS-{following}",
            "lat": before["lat"] + t * (stop["lat"] - before["lat"]),
            "lon": before["lon"] + t * (stop["lon"] - before["lon"]),
            "timestamp": (NOW - timedelta(seconds=rng.uniform(0, 600))).isoformat(),
            "route": "171",
        }
        model.rows.clear()
        engine.process([b"vehicle:x"], [json.dumps(vehicle).encode()], lambda keys: [blobs.get(key) for key in keys])
        estimate_stop_times(vehicle, ROUTE[following - 1 :], max_stops=MAX_STOPS)
        ours, theirs = model.rows
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
