"""Choosing stops and filling feature rows, beside batched NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost

from benchmarks.fleet import MAX_STOPS, make_fleet
from benchmarks.measuring import OURS, alternate
from benchmarks.serving import WarmEngine, WarmPeer, facts, without_inference
from etacore.models.model import Model

N = 2_000


def bench_vectorize(benchmark: Any, booster: xgboost.Booster, model: Model) -> None:
    """With an instant model: selection, rows, and no forest."""
    warm, fleet = WarmEngine(without_inference(model), make_fleet(N)), make_fleet(N, tick=1)
    warm.engine.process(fleet.keys, fleet.payloads, fleet.fetch, warm.batch)
    batch = warm.batch
    peer = WarmPeer(booster, facts(model), fleet).pipeline
    snapshots = peer.parse(fleet.payloads)
    columns = peer.columns(snapshots)

    def vectorize() -> None:
        batch.parts.clear()
        warm.engine.select(batch)
        warm.engine.predict(batch)

    sides = {OURS: vectorize, "NumPy": lambda: peer.vectorize(snapshots, *columns)}
    features = alternate(benchmark, "vectorize", sides, size=N)["NumPy"]
    (part,) = batch.parts
    assert part.features.shape == (N * MAX_STOPS, 7)
    np.testing.assert_allclose(part.features, features.X, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(part.distance_m, features.distance_m.ravel(), rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(part.stop_ix, features.stop.ravel())
