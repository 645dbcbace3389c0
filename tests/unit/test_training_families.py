"""What each family learns, against sums done by hand or by the library; and the same bytes every time."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import xgboost

from etacore.errors import TrainingError
from etacore.mlops.progress import silent
from etacore.mlops.training import families
from etacore.mlops.training.config import TrainingConfig
from etacore.mlops.training.families import fit_family
from etacore.mlops.training.matrix import feature_matrix
from etacore.mlops.training.parts import Prepared
from etacore.models.predictors import load_predictor
from etacore.schema import BASE_FEATURES
from tests import training_data


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return training_data.save(training_data.frame(4), tmp_path_factory.mktemp("d") / "town.parquet")


def fit(dataset, model_type, *, route_id=None, **fields):
    config = TrainingConfig(model_types=(model_type,), **fields)
    scope = Prepared(dataset, config).scope(route_id)
    return fit_family(model_type, scope, config, silent), scope


def table_of(fitted):
    document = json.loads(fitted.content)
    return {tuple(key): value for key, value in zip(document["keys"], document["values"], strict=True)}


def training_frame(dataset, scope):
    return dataset.frame[scope.train.rows].with_columns(
        y=pl.Series(scope.train.seconds), code=pl.col("route_id").replace_strict({"r1": 0, "r2": 1})
    )


def test_the_historical_mean_is_the_mean_by_route_sequence_and_hour_of_the_training_rows(dataset):
    fitted, scope = fit(dataset, "historical_mean")
    assert fitted.features == ("route_code", "stop_sequence", "hour")
    assert fitted.routes == ("r1", "r2")
    means = training_frame(dataset, scope).group_by("code", "stop_sequence", "hour").agg(pl.col("y").mean())
    expected = {(code, sequence, hour): y for code, sequence, hour, y in means.iter_rows()}
    assert table_of(fitted) == pytest.approx(expected)
    assert json.loads(fitted.content)["default"] == pytest.approx(scope.train.seconds.mean())


def test_the_ewma_follows_the_rows_in_time_and_needs_three(dataset):
    fitted, scope = fit(dataset, "ewma")
    expected = {}
    for key, rows in (
        training_frame(dataset, scope)
        .sort("vp_ts", maintain_order=True)
        .group_by("code", "stop_sequence", maintain_order=True)
    ):
        values = rows["y"].to_list()
        e = values[0]
        for y in values[1:]:
            e = 0.3 * y + 0.7 * e
        expected[key] = e
    assert table_of(fitted) == pytest.approx(expected)


def test_an_ewma_of_too_few_rows_is_left_to_the_default():
    keys = np.array([[0], [0], [1], [0], [1]])
    levels, values = families._group_ewma(keys, np.array([1.0, 2.0, 9.0, 3.0, 9.0]), 0.5, least=3)
    assert levels.tolist() == [[0]]
    assert values.tolist() == [0.5 * 3 + 0.5 * (0.5 * 2 + 0.5 * 1)]


@pytest.mark.parametrize(
    ("model_type", "names"), [("polyreg_distance", BASE_FEATURES[:1]), ("polyreg_time", BASE_FEATURES)]
)
def test_a_polynomial_is_the_ridge_regression_that_its_formula_says(dataset, model_type, names):
    fitted, scope = fit(dataset, model_type)
    X = feature_matrix(dataset, scope.train.rows, names, nan_fill=0.0).astype(np.float64)
    raw = np.column_stack([X[:, 0], X[:, 0] ** 2, X[:, 1:]])
    varies = raw.std(axis=0) > 0
    Z = (raw - raw.mean(axis=0))[:, varies] / raw.std(axis=0)[varies]
    y = scope.train.seconds
    # Least squares with one more row for each penalty: another way to the same minimum.
    stacked = np.vstack([Z, np.eye(Z.shape[1])])
    weights = np.linalg.lstsq(stacked, np.concatenate([y - y.mean(), np.zeros(Z.shape[1])]), rcond=None)[0]
    document = json.loads(fitted.content)
    assert [term["coefficient"] for term in document["terms"]] == pytest.approx(weights, rel=1e-6)
    assert document["intercept"] == pytest.approx(y.mean())
    assert [(term["feature"], term["power"]) for term in document["terms"]][:2] == [(0, 1), (0, 2)]
    predicted = np.empty(len(X), np.float32)
    load_predictor(fitted.content, len(names), "it").predict(X.astype(np.float32), predicted)
    assert predicted == pytest.approx(y.mean() + Z @ weights, abs=0.01)
    assert fitted.nan_fill == 0.0


def test_a_column_that_does_not_vary_has_no_term(dataset):
    fitted, _ = fit(dataset, "polyreg_time")
    weekend = BASE_FEATURES.index("is_weekend")  # Monday to Thursday
    assert weekend not in {term["feature"] for term in json.loads(fitted.content)["terms"]}


def test_the_forest_stops_where_the_validation_rows_are_best_and_is_cut_there(dataset):
    settings = {"n_estimators": 400, "learning_rate": 0.3, "early_stopping_rounds": 5}
    fitted, scope = fit(dataset, "xgboost", hyperparameters=settings)
    booster = xgboost.Booster(model_file=bytearray(fitted.content))
    assert fitted.best_iteration is not None
    assert booster.num_boosted_rounds() == fitted.best_iteration + 1 < 400
    assert "best_iteration" not in booster.attributes()
    X = feature_matrix(dataset, scope.validation.rows, BASE_FEATURES, nan_fill=0.0)
    matrix = xgboost.DMatrix(X, feature_names=list(BASE_FEATURES))
    errors = [
        np.abs(booster.predict(matrix, iteration_range=(0, n)) - scope.validation.seconds).mean()
        for n in range(1, booster.num_boosted_rounds() + 1)
    ]
    assert int(np.argmin(errors)) == fitted.best_iteration
    assert np.array_equal(booster.predict(matrix).clip(0, 7200), fitted.predictions[0])


def test_without_validation_days_or_patience_all_rounds_are_kept(dataset):
    few = {"n_estimators": 7}
    for fields in (
        {"n_validation_days": 0, "hyperparameters": few},
        {"hyperparameters": few | {"early_stopping_rounds": 0}},
    ):
        fitted, _ = fit(dataset, "xgboost", **fields)
        assert fitted.best_iteration is None
        assert xgboost.Booster(model_file=bytearray(fitted.content)).num_boosted_rounds() == 7


def test_an_unknown_value_is_zero_to_base_models_and_missing_to_the_others(dataset):
    few = {"n_estimators": 3}
    assert fit(dataset, "xgboost", hyperparameters=few)[0].nan_fill == 0.0
    more = (*BASE_FEATURES, "recent_speed_mps")
    assert fit(dataset, "xgboost", features=more, hyperparameters=few)[0].nan_fill is None


@pytest.mark.parametrize("objective", ["reg:squarederror", "reg:absoluteerror"])
def test_neither_threads_nor_the_order_of_the_file_nor_a_second_run_change_a_byte(
    dataset, objective, tmp_path, monkeypatch
):
    order = np.random.default_rng(1).permutation(len(dataset))
    mixed = training_data.save(dataset.frame[order], tmp_path / "mixed.parquet")
    fields = {"features": "best", "objective": objective, "hyperparameters": {"n_estimators": 4}}
    first, _ = fit(dataset, "xgboost", **fields)
    assert fit(dataset, "xgboost", **fields)[0].content == first.content
    again, _ = fit(mixed, "xgboost", **fields)
    assert again.content == first.content
    assert again.typical == first.typical
    monkeypatch.setattr(families, "_ROWS_FOR_THREADS", 0)
    assert fit(dataset, "xgboost", **fields)[0].content == first.content
    assert fit(dataset, "xgboost", **fields, seed=43)[0].content != first.content


@pytest.mark.parametrize("model_type", ["historical_mean", "ewma", "polyreg_distance", "polyreg_time"])
def test_the_other_families_depend_on_the_rows_alone_too(dataset, tmp_path, model_type):
    order = np.random.default_rng(2).permutation(len(dataset))
    mixed = training_data.save(dataset.frame[order], tmp_path / "mixed.parquet")
    assert fit(mixed, model_type)[0].content == fit(dataset, model_type)[0].content


def test_validation_and_test_rows_teach_nothing_but_when_to_stop(dataset):
    config = TrainingConfig()
    split = Prepared(dataset, config).split
    later = pl.Series(~split.train)
    # Another world after the training days.
    frame = dataset.frame.with_columns(
        time_to_arrival_seconds=pl.when(later).then(3000.0).otherwise("time_to_arrival_seconds"),
        interpolated_arrival=pl.when(later)
        .then(pl.col("interpolated_arrival") + pl.duration(seconds=1))
        .otherwise("interpolated_arrival"),
    )
    changed = replace(dataset, frame=frame)
    for model_type in ("historical_mean", "ewma", "polyreg_distance", "polyreg_time"):
        assert fit(changed, model_type)[0].content == fit(dataset, model_type)[0].content
    fields = {"features": "best", "hyperparameters": {"n_estimators": 10, "early_stopping_rounds": 0}}
    before, after = fit(dataset, "xgboost", **fields)[0], fit(changed, "xgboost", **fields)[0]
    assert (before.content, before.typical) == (after.content, after.typical)


def test_the_label_can_be_the_interpolated_arrival(dataset):
    by_rule, by_passing = (fit(dataset, "polyreg_distance", label=label)[1] for label in ("rule", "interpolated"))
    assert (by_passing.train.seconds < by_rule.train.seconds).mean() > 0.9  # the rule waits for the next fix


def test_typical_times_need_two_training_days(dataset):
    with pytest.raises(TrainingError, match="two training days"):
        fit(dataset, "xgboost", features="best", n_test_days=2, n_validation_days=1)
