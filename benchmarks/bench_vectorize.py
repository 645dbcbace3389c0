"""Choosing stops and filling feature rows, beside batched NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost

from benchmarks.fleet import MAX_STOPS, make_fleet
from benchmarks.measuring import OURS, describe
from benchmarks.serving import WarmEngine, WarmPeer, facts, without_inference
from etacore.engine import Batch
from etacore.model import Model

N = 2_000


def warm_batch(model: Model) -> tuple[WarmEngine, Batch]:
    warm = WarmEngine(without_inference(model), make_fleet(N))
    fleet = make_fleet(N, tick=1)
    warm.engine.process(fleet.keys, fleet.payloads, fleet.fetch, warm.batch)
    return warm, warm.batch


def bench_vectorize(benchmark: Any, model: Model) -> None:
    """With an instant model: selection, rows, and no forest."""
    describe(benchmark, "vectorize", OURS, size=N)
    warm, batch = warm_batch(model)

    def vectorize() -> None:
        batch.parts.clear()
        warm.engine.select(batch)
        warm.engine.predict(batch)

    benchmark(vectorize)
    assert batch.parts[0].features.shape == (N * MAX_STOPS, 7)


def bench_vectorize_peer(benchmark: Any, booster: xgboost.Booster, model: Model) -> None:
    describe(benchmark, "vectorize", "NumPy", size=N)
    fleet = make_fleet(N, tick=1)
    peer = WarmPeer(booster, facts(model), fleet).pipeline
    snapshots = peer.parse(fleet.payloads)
    features = benchmark(peer.vectorize, snapshots, *peer.columns(snapshots))
    part = warm_batch(model)[1].parts[0]
    np.testing.assert_allclose(part.features, features.X, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(part.distance_m, features.distance_m.ravel(), rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(part.stop_ix, features.stop.ravel())
