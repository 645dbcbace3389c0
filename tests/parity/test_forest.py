"""The compiled forest against XGBoost, float by float."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xgboost

from etacore._kernels import forest as _forest
from etacore.mlops.bundling.parity import SPECIAL, parity_rows
from etacore.models.forest import Forest
from tests import models


def load(path, tmp_path):
    built = models.compiled(path)
    library = tmp_path / built.library_file.file
    library.write_bytes(built.library)
    return Forest.load(library, built.library_file.sha256, len(built.features)), xgboost.Booster(model_file=path)


def predict(forest, X):
    out = np.full(len(X), np.nan, np.float32)
    forest.predict(X, out)
    return out


def test_the_compiled_module_is_loaded():
    assert _forest.__file__.endswith(".so")


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_hard_rows_give_the_very_same_floats(tmp_path, suffix):
    path = models.save("tiny", suffix=suffix)
    forest, booster = load(path, tmp_path)
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    rows = parity_rows(trees, 7, seed=99)
    before = rows.copy()
    np.testing.assert_array_equal(predict(forest, rows), booster.inplace_predict(rows, validate_features=False))
    np.testing.assert_array_equal(rows.view(np.uint32), before.view(np.uint32))


def test_hard_rows_hold_what_they_promise():
    trees = json.loads(xgboost.Booster(model_file=models.save()).save_raw("json"))["learner"]["gradient_booster"][
        "model"
    ]["trees"]
    rows = parity_rows(trees, 7)
    assert len(rows) >= 10_000
    np.testing.assert_array_equal(rows.view(np.uint32), parity_rows(trees, 7).view(np.uint32))
    for j in range(7):
        bits = set(rows[:, j].view(np.uint32).tolist())
        assert set(np.array(SPECIAL, np.float32).view(np.uint32).tolist()) <= bits
        for tree in trees:
            for feature, cut, child in zip(
                tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
            ):
                if feature == j and child != -1:
                    cut = np.float32(cut)
                    around = [cut, np.nextafter(cut, np.float32(-np.inf)), np.nextafter(cut, np.float32(np.inf))]
                    assert set(np.array(around).view(np.uint32).tolist()) <= bits


def test_every_nan_is_missing(tmp_path):
    forest, booster = load(models.save(), tmp_path)
    patterns = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF], np.uint32)
    rows = np.repeat(patterns.view(np.float32)[:, None], 7, axis=1).copy()
    missing = booster.inplace_predict(np.full((1, 7), np.nan, np.float32), validate_features=False)
    assert predict(forest, rows).tolist() == [missing[0]] * len(patterns)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("gamma", {"objective": "reg:gamma"}),
        ("poisson", {"objective": "count:poisson"}),
        ("tweedie", {"objective": "reg:tweedie"}),
        ("logistic", {"objective": "reg:logistic"}),
        ("absolute", {"objective": "reg:absoluteerror"}),
        ("dart", {"booster": "dart", "rate_drop": 0.3}),
    ],
)
def test_link_functions_and_base_score(tmp_path, name, params):
    path = models.save(name, **params)
    forest, booster = load(path, tmp_path)
    X, _ = models.data(2000, seed=5)
    want = booster.inplace_predict(X, validate_features=False)
    assert np.ptp(want) > 0
    np.testing.assert_allclose(predict(forest, X), want, rtol=2e-6)


def test_threads_get_what_one_gets(tmp_path):
    forest, _ = load(models.save(), tmp_path)
    X, _ = models.data(20_000, seed=8)
    serial = predict(forest, X)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: predict(forest, X), range(32)):
            np.testing.assert_array_equal(result, serial)


def test_results_are_clipped_and_nothing_else(tmp_path):
    forest, _ = load(models.save(), tmp_path)
    X, _ = models.data(500)
    free = predict(forest, X)
    low, high = np.quantile(free, [0.2, 0.8]).astype(np.float32)
    out = np.empty(len(X), np.float32)
    forest.predict(X, out, float(low), float(high))
    np.testing.assert_array_equal(out, np.clip(free, low, high))
