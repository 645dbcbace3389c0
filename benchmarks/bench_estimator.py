"""The drop-in call for one vehicle and five stops, beside plain Python around XGBoost."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import xgboost

from benchmarks.fleet import MAX_STOPS, make_fleet, registry_path
from benchmarks.measuring import OURS, alternate, differences
from benchmarks.peers.python_estimator import PythonEstimator
from benchmarks.serving import facts
from etacore.estimator import estimate_stop_times
from etacore.models.model import Model

PEER = "Python + XGBoost"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A vehicle and the stops ahead of it."""
    monkeypatch.setenv("MODEL_REGISTRY_DIR", str(registry_path()))
    fleet = make_fleet(1)
    vehicle = orjson.loads(fleet.payloads[0])
    stops = orjson.loads(fleet.routes[f"route_stops:{vehicle['route']}".encode()])
    ahead = stops[vehicle["current_stop_sequence"] - 1 :]
    return vehicle, [stop | {"total_stop_sequence": len(stops)} for stop in ahead]


def bench_estimator(
    benchmark: Any, call: tuple[dict[str, Any], list[dict[str, Any]]], booster: xgboost.Booster, model: Model
) -> None:
    peer = PythonEstimator(booster, facts(model))
    sides = {
        OURS: lambda: estimate_stop_times(*call, max_stops=MAX_STOPS),
        PEER: lambda: peer.estimate_stop_times(*call, max_stops=MAX_STOPS),
    }
    results = alternate(benchmark, "estimator", sides, unit="us/call")
    both = [results[side] | {"computed_at": "", "prefect_pipeline_latency_ms": 0} for side in (OURS, PEER)]
    n_stops, _ = differences(*([orjson.dumps(document)] for document in both))
    assert n_stops == MAX_STOPS
