"""The drop-in call for one vehicle and five stops, beside plain Python around XGBoost."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import xgboost

from benchmarks.fleet import MAX_STOPS, make_fleet, registry_path
from benchmarks.measuring import OURS, describe, differences
from benchmarks.peers.python_estimator import PythonEstimator
from benchmarks.serving import facts
from etacore.estimator import estimate_stop_times
from etacore.model import Model


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A vehicle and the stops ahead of it."""
    monkeypatch.setenv("MODEL_REGISTRY_DIR", str(registry_path()))
    fleet = make_fleet(1)
    vehicle = orjson.loads(fleet.payloads[0])
    stops = orjson.loads(fleet.routes[f"route_stops:{vehicle['route']}".encode()])
    ahead = stops[vehicle["current_stop_sequence"] - 1 :]
    return vehicle, [stop | {"total_stop_sequence": len(stops)} for stop in ahead]


def bench_estimator(benchmark: Any, call: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    describe(benchmark, "estimator", OURS, unit="us/call")
    document = benchmark(estimate_stop_times, *call, max_stops=MAX_STOPS)
    assert len(document["predictions"]) == MAX_STOPS


def bench_estimator_peer(
    benchmark: Any, call: tuple[dict[str, Any], list[dict[str, Any]]], booster: xgboost.Booster, model: Model
) -> None:
    describe(benchmark, "estimator", "Python + XGBoost", unit="us/call")
    theirs = benchmark(PythonEstimator(booster, facts(model)).estimate_stop_times, *call, max_stops=MAX_STOPS)
    ours = estimate_stop_times(*call, max_stops=MAX_STOPS)
    both = [document | {"computed_at": "", "prefect_pipeline_latency_ms": 0} for document in (ours, theirs)]
    n_stops, _ = differences(*([orjson.dumps(document)] for document in both))
    assert n_stops == MAX_STOPS
