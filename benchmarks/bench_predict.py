"""The compiled forest beside other ways to predict the same model, by number of rows; all take turns, on one thread.

The rows of a fleet share hour and day, so branches go the same way from row to row; "random" rows share nothing, which
is what branches like least. At each call the rows are others: five rows are another vehicle's. Our sums are those of
XGBoost bit for bit; the other peers add in another order, or in double precision, and agree to a millisecond and a
part in 100 000.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from benchmarks.fleet import MAX_STOPS, make_fleet, registry_path, training_rows
from benchmarks.measuring import OURS, Call, alternate
from benchmarks.peers.forests import PEERS, Predict, into_one_result
from benchmarks.serving import WarmPeer, facts
from etacore.models.forest import CPU, Forest
from etacore.models.model import Model

Matrix = NDArray[np.float32]

ROWS: Final = [5, 50, 500, 10_000, 50_000]
N_BATCHES: Final = 400
PORTABLE: Final = f"{OURS}, portable path"
EXACT: Final = (PORTABLE, "XGBoost inplace_predict")
SLOW: Final = ("treelite GTIL", "ONNX Runtime")
SLOW_ROWS: Final = 10_000
"""More rows at once are not asked of interpreters: their time for a row no longer changes."""
RTOL: Final = 1e-5
ATOL_S: Final = 1e-3


@pytest.fixture(scope="module")
def rows_of_fleet(booster: xgboost.Booster, model: Model) -> Matrix:
    fleet = make_fleet(max(ROWS) // MAX_STOPS)
    peer = WarmPeer(booster, facts(model), fleet).pipeline
    snapshots = peer.parse(fleet.payloads)
    return peer.vectorize(snapshots, *peer.columns(snapshots)).X


@pytest.fixture(scope="module")
def random_rows() -> Matrix:
    return training_rows(max(ROWS), seed=2)[0]


@pytest.fixture(scope="module")
def peers(model: Model) -> dict[str, Predict]:
    """Everybody but us, our portable path included."""
    (library,) = (library for library in model.manifest.libraries if library.cpu == CPU)
    path = registry_path() / model.key / library.file
    portable = Forest.load(path, library.sha256, len(model.features), kernel_path="portable")
    return {PORTABLE: into_one_result(portable)} | {name: make() for name, make in PEERS.items()}


def in_turn(predict: Predict, batches: list[Matrix]) -> Call:
    turn = itertools.cycle(batches)
    return lambda: predict(next(turn))


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("stage", ["predict", "predict random rows"])
def bench_predict(
    benchmark: Any,
    model: Model,
    peers: dict[str, Predict],
    rows_of_fleet: Matrix,
    random_rows: Matrix,
    stage: str,
    n_rows: int,
) -> None:
    rows = rows_of_fleet if stage == "predict" else random_rows
    n_batches = min(N_BATCHES, len(rows) // n_rows)
    batches = [np.ascontiguousarray(rows[i * n_rows : (i + 1) * n_rows]) for i in range(n_batches)]
    all_sides: dict[str, Callable[[Matrix], Matrix]] = {OURS: into_one_result(model.predictor)} | peers
    sides = {name: predict for name, predict in all_sides.items() if n_rows <= SLOW_ROWS or name not in SLOW}
    calls = {name: in_turn(predict, batches) for name, predict in sides.items()}
    alternate(
        benchmark,
        stage,
        calls,
        size=n_rows,
        unit="us/row",
        for_s=0.8,
        min_rounds=5,
        every=dict.fromkeys(SLOW, 2),
    )
    for batch in batches[:: max(n_batches // 20, 1)]:
        ours = sides[OURS](batch).copy()
        for name, predict in sides.items():
            if name in EXACT:
                np.testing.assert_array_equal(ours, predict(batch))
            np.testing.assert_allclose(ours, predict(batch), rtol=RTOL, atol=ATOL_S)
