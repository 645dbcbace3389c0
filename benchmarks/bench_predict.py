"""The compiled forest beside other ways to predict the same model, by number of rows.

The rows of a fleet share hour and day, so branches go the same way from row to row; "random" rows share nothing, which
is what branches like least. At each call the rows are others: five rows are another vehicle's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from benchmarks.fleet import MAX_STOPS, make_fleet, training_rows
from benchmarks.measuring import OURS, describe
from benchmarks.peers.forests import CLIP, PEERS, Predict
from benchmarks.serving import WarmPeer, facts
from etacore.forest import CPU, Forest
from etacore.model import Model
from etacore.predictors import Predictor

Matrix = NDArray[np.float32]

ROWS: Final = [5, 500, 10_000, 50_000]
CASES: Final = [(stage, n) for stage in ("predict", "predict random rows") for n in ROWS]
N_BATCHES: Final = 400
PORTABLE: Final = f"{OURS}, portable path"


@pytest.fixture(scope="module")
def rows_of_fleet(booster: xgboost.Booster, model: Model) -> Matrix:
    fleet = make_fleet(max(ROWS) // MAX_STOPS)
    peer = WarmPeer(booster, facts(model), fleet).pipeline
    snapshots = peer.parse(fleet.payloads)
    return peer.vectorize(snapshots, *peer.columns(snapshots)).X


@pytest.fixture(scope="module")
def random_rows() -> Matrix:
    return training_rows(max(ROWS), seed=2)[0]


@pytest.fixture
def batches(rows_of_fleet: Matrix, random_rows: Matrix, stage: str, n_rows: int) -> list[Matrix]:
    rows = rows_of_fleet if stage == "predict" else random_rows
    n = min(N_BATCHES, len(rows) // n_rows)
    return [np.ascontiguousarray(rows[i * n_rows : (i + 1) * n_rows]) for i in range(n)]


@pytest.fixture(scope="module")
def peer_of() -> Callable[[str], Predict]:
    made: dict[str, Predict] = {}
    return lambda name: made.get(name) or made.setdefault(name, PEERS[name]())


def measure(benchmark: Any, predict: Predict, batches: list[Matrix]) -> None:
    turn: Iterator[Matrix] = itertools.cycle(batches)
    benchmark(lambda: predict(next(turn)))


def predicting(forest: Predictor, n_rows: int) -> Predict:
    out = np.empty(n_rows, np.float32)

    def predict(X: Matrix) -> Matrix:
        forest.predict(X, out, *CLIP)
        return out

    return predict


@pytest.mark.parametrize(("stage", "n_rows"), CASES)
def bench_predict(benchmark: Any, model: Model, batches: list[Matrix], stage: str, n_rows: int) -> None:
    describe(benchmark, stage, OURS, size=n_rows, unit="us/row")
    measure(benchmark, predicting(model.predictor, n_rows), batches)


@pytest.mark.parametrize(("stage", "n_rows"), CASES)
def bench_predict_portable(
    benchmark: Any, model: Model, forest_on: Callable[[str], Forest], batches: list[Matrix], stage: str, n_rows: int
) -> None:
    describe(benchmark, stage, PORTABLE, size=n_rows, unit="us/row")
    predict = predicting(forest_on("portable"), n_rows)
    measure(benchmark, predict, batches)
    np.testing.assert_array_equal(predict(batches[0]), predicting(model.predictor, n_rows)(batches[0]))


@pytest.mark.parametrize(("stage", "n_rows"), CASES)
@pytest.mark.parametrize("name", PEERS)
def bench_predict_peer(
    benchmark: Any,
    model: Model,
    peer_of: Callable[[str], Predict],
    batches: list[Matrix],
    stage: str,
    n_rows: int,
    name: str,
) -> None:
    describe(benchmark, stage, name, size=n_rows, unit="us/row")
    predict = peer_of(name)
    measure(benchmark, predict, batches)
    ours = predicting(model.predictor, n_rows)(batches[0])
    if name == "XGBoost inplace_predict":
        np.testing.assert_array_equal(ours, predict(batches[0]))
    np.testing.assert_allclose(ours, predict(batches[0]), rtol=1e-5, atol=1e-3)


@pytest.fixture(scope="module")
def forest_on(model: Model) -> Callable[[str], Forest]:
    from benchmarks.fleet import registry_path

    (library,) = (library for library in model.manifest.libraries if library.cpu == CPU)
    path = registry_path() / model.key / library.file
    return lambda name: Forest.load(path, library.sha256, len(model.features), kernel_path=name)
