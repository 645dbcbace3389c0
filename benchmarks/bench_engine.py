"""Payload bytes to document bytes, five stops a vehicle, by size of the fleet."""

from __future__ import annotations

from typing import Any

import pytest
import xgboost

from benchmarks.fleet import make_fleet
from benchmarks.measuring import OURS, describe, differences
from benchmarks.serving import WarmEngine, WarmPeer, facts, without_inference
from etacore.model import Model

FLEETS = [1, 10, 100, 1_000, 10_000]


@pytest.mark.parametrize("n", FLEETS)
def bench_engine(benchmark: Any, model: Model, n: int) -> None:
    describe(benchmark, "engine", OURS, size=n)
    warm, fleet = WarmEngine(model, make_fleet(n)), make_fleet(n, tick=1)
    assert benchmark(warm.process, fleet) == n


@pytest.mark.parametrize("n", FLEETS)
def bench_engine_peer(benchmark: Any, model: Model, booster: xgboost.Booster, n: int) -> None:
    describe(benchmark, "engine", "tuned Python", size=n)
    fleet = make_fleet(n, tick=1)
    documents = benchmark(WarmPeer(booster, facts(model), fleet).documents, fleet)
    n_stops, n_edges = differences(WarmEngine(model, make_fleet(n)).documents(fleet), documents)
    assert n_edges <= n_stops // 1_000 + 1


def bench_engine_without_inference(benchmark: Any, model: Model) -> None:
    n = 10_000
    describe(benchmark, "engine without inference", OURS, size=n)
    warm, fleet = WarmEngine(without_inference(model), make_fleet(n)), make_fleet(n, tick=1)
    assert benchmark(warm.process, fleet) == n


def bench_engine_without_inference_peer(benchmark: Any, model: Model, booster: xgboost.Booster) -> None:
    n = 10_000
    describe(benchmark, "engine without inference", "tuned Python", size=n)
    fleet = make_fleet(n, tick=1)
    peer = WarmPeer(booster, facts(model), fleet)
    peer.pipeline.predict = lambda X: X[:, 0] * 0 + 60  # type: ignore[method-assign]
    documents = benchmark(peer.documents, fleet)
    n_stops, n_edges = differences(WarmEngine(without_inference(model), make_fleet(n)).documents(fleet), documents)
    assert n_stops == 5 * n
    assert n_edges == 0
