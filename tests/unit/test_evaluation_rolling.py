"""Trained anew on the days before, tested on the next one, and never the other way round."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from etacore.errors import EvaluationError
from etacore.mlops.evaluation.evaluating import evaluate
from etacore.mlops.evaluation.results import EvaluationConfig
from etacore.mlops.evaluation.rolling import rolling_windows, training_like
from etacore.mlops.metrics import METRICS
from etacore.mlops.training import TrainingConfig, train
from etacore.models.registry import Registry
from tests.evaluation_data import dataset, day, linear


@pytest.fixture(autouse=True)
def without_leak_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes most of the time of a training this small, and has tests of its own."""
    monkeypatch.setattr(import_module(train.__module__), "find_leaks", lambda *args, **options: ())


def test_expanding_windows_test_the_day_after() -> None:
    data = dataset()
    windows = rolling_windows(data, "polyreg_distance", 2)
    assert [window.test_day for window in windows] == [day(4), day(5)]
    assert [window.train_days for window in windows] == [tuple(map(day, range(n))) for n in (4, 5)]
    for window in windows:
        assert window.n == data.frame.filter(pl.col("service_date") == window.test_day).height
        assert list(window.metrics) == ["polyreg_distance", "distance_mean_speed", "historical_segment_means"]
        assert all(list(metrics) == list(METRICS) for metrics in window.metrics.values())


def test_sliding_windows_forget() -> None:
    windows = rolling_windows(dataset(), TrainingConfig(model_types=("polyreg_distance",)), 1, max_train_days=2)
    assert [window.train_days for window in windows] == [(day(3), day(4))]


def test_the_most_windows_leave_two_days_to_the_first_of_them() -> None:
    windows = rolling_windows(dataset(), "polyreg_distance", 4)
    assert [window.train_days for window in windows] == [tuple(map(day, range(n))) for n in (2, 3, 4, 5)]


def test_a_window_knows_nothing_of_its_day_and_later() -> None:
    data = dataset()
    late = pl.when(pl.col("service_date") >= day(5)).then(2.0).otherwise(1.0)
    moved = replace(
        data, frame=data.frame.with_columns(time_to_arrival_seconds=pl.col("time_to_arrival_seconds") * late)
    )
    before, after = (rolling_windows(of, "polyreg_distance", 2) for of in (data, moved))
    assert before[0] == after[0]
    bias = [window.metrics["polyreg_distance"]["bias_seconds"] for window in (before[1], after[1])]
    actual = data.frame.filter(pl.col("service_date") == day(5))["time_to_arrival_seconds"]
    assert bias[1] == pytest.approx(bias[0] - np.mean(actual.to_numpy()))  # the same predictions, twice the time


@pytest.mark.parametrize(
    ("n_windows", "options", "message"),
    [
        (0, {}, "6 service days: 0 rolling windows"),
        (5, {}, "6 service days: 5 rolling windows"),
        (1, {"max_train_days": 1}, "max_train_days is 1"),
    ],
)
def test_what_cannot_be_rolled_is_named(n_windows: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        rolling_windows(dataset(), "polyreg_distance", n_windows, **options)


def test_an_evaluation_rolls_what_it_recommends(tmp_path: Path) -> None:
    data, registry = dataset(), Registry(tmp_path)
    linear(registry, data, 0.23, hyperparameters={"degree": 1, "ridge_alpha": 2.0, "other": 7})
    config = EvaluationConfig(n_resamples=20, n_rolling_windows=1)
    found = evaluate(data, registry, config)
    assert [next(iter(window.metrics)) for window in found.rolling] == ["polyreg_distance"]
    manifest = registry.manifest(registry.keys()[0])
    training = training_like(manifest)
    assert training is not None
    assert training.model_types == ("polyreg_distance",)
    assert dict(training.hyperparameters) == {"degree": 1, "ridge_alpha": 2.0}
    assert training_like(replace(manifest, model_type="tea_leaves")) is None
    saw = linear(registry, data, 0.23, trained_on=(4,))
    with pytest.raises(EvaluationError, match="need an eligible global model"):
        evaluate(data, registry, replace(config, model_keys=(saw,)))
