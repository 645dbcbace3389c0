"""The compiled forest beside XGBoost's in-place prediction, by number of rows.

A fleet's rows share hour and day, so branches go the same way from row to
row; "random" rows share nothing, which is what native code likes least.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from benchmarks.fleet import MAX_STOPS, make_fleet, training_rows
from benchmarks.measuring import OURS, describe
from benchmarks.peers.xgboost_predict import XGBoostPredict
from benchmarks.serving import WarmPeer, facts
from etacore.model import Model

ROWS = [1, 5, 50, 500, 5_000, 50_000]
CASES = [*(("predict", n) for n in ROWS), ("predict random rows", 5_000)]


@pytest.fixture(scope="module")
def rows_of_fleet(booster: xgboost.Booster, model: Model) -> NDArray[np.float32]:
    fleet = make_fleet(max(ROWS) // MAX_STOPS)
    peer = WarmPeer(booster, facts(model), fleet).pipeline
    snapshots = peer.parse(fleet.payloads)
    return peer.vectorize(snapshots, *peer.columns(snapshots)).X


@pytest.fixture
def matrix(rows_of_fleet: NDArray[np.float32], stage: str, n_rows: int) -> NDArray[np.float32]:
    return (rows_of_fleet if stage == "predict" else training_rows()[0])[:n_rows]


@pytest.mark.parametrize(("stage", "n_rows"), CASES)
def bench_predict(benchmark: Any, model: Model, matrix: NDArray[np.float32], stage: str, n_rows: int) -> None:
    describe(benchmark, stage, OURS, size=n_rows, unit="us/row")
    out = np.empty(n_rows, np.float32)
    benchmark(model.predict, matrix, out)
    assert np.isfinite(out).all()


@pytest.mark.parametrize(("stage", "n_rows"), CASES)
def bench_predict_peer(
    benchmark: Any, model: Model, booster: xgboost.Booster, matrix: NDArray[np.float32], stage: str, n_rows: int
) -> None:
    describe(benchmark, stage, "XGBoost inplace_predict", size=n_rows, unit="us/row")
    out = np.empty(n_rows, np.float32)
    expected = benchmark(XGBoostPredict(booster).predict, matrix)
    model.predict(matrix, out)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-3)
