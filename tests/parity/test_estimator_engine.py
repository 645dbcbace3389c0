"""The drop-in call and the engine of the runtime: one vehicle, one model, the same numbers."""

import json
import random
from datetime import UTC, datetime, timedelta

import pytest

from etacore.config import RuntimeConfig
from etacore.engine import Engine, Models
from etacore.estimator import estimate_stop_times
from etacore.registry import Registry
from etacore.schema import Status
from tests.golden import record
from tests.golden.test_golden import HERE, registry_with

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
