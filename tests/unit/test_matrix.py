"""Columns of a dataset as a model is given them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from etacore.errors import TrainingError
from etacore.mlops.training.matrix import feature_matrix, model_predictions
from etacore.mlops.training.travel_times import fit_typical, typical_seconds
from etacore.schema import BASE_FEATURES
from tests import training_data


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return training_data.save(training_data.frame(2, {"r1": 2, "r2": 2}), tmp_path_factory.mktemp("d") / "town.parquet")


def model(**changes: Any) -> Any:
    """Stands for a loaded model, and predicts the first column."""

    def predict(X, out):
        out[:] = X[:, 0]

    fields = {
        "key": "k",
        "features": BASE_FEATURES,
        "time_zone": "UTC",
        "along_route_distance": True,
        "nan_fill": 0.0,
        "routes": (),
        "typical": None,
        "manifest": SimpleNamespace(holiday_region=None),
        "predict": predict,
        **changes,
    }
    return SimpleNamespace(**fields)


def test_columns_stand_in_the_order_of_the_features_as_float32(dataset):
    names = ("hour", "distance_to_stop", "is_peak_hour", "stops_ahead")
    X = feature_matrix(dataset, None, names)
    assert X.dtype == np.float32
    assert X.shape == (len(dataset), 4)
    assert X.flags.c_contiguous
    for j, name in enumerate(names):
        assert np.array_equal(X[:, j], dataset.frame[name].cast(pl.Float64).to_numpy().astype(np.float32))


def test_a_speed_that_was_not_given_is_zero_as_in_serving(dataset):
    speeds = pl.Series("current_speed_kmh", [None, 18.0] * (len(dataset) // 2) + [None] * (len(dataset) % 2))
    unknown = replace(
        dataset, frame=dataset.frame.with_columns(speeds, recent_speed_mps=pl.lit(None, dtype=pl.Float64))
    )
    X = feature_matrix(unknown, None, ("current_speed_kmh", "recent_speed_mps"))
    assert X[:3, 0].tolist() == [0.0, 18.0, 0.0]
    assert np.isnan(X[:, 1]).all()


def test_rows_come_by_mask_or_by_number(dataset):
    mask = np.arange(len(dataset)) % 3 == 0
    numbers = np.flatnonzero(mask)[::-1].copy()
    by_mask = feature_matrix(dataset, mask, BASE_FEATURES)
    assert np.array_equal(by_mask[::-1], feature_matrix(dataset, numbers, BASE_FEATURES))
    assert feature_matrix(dataset, np.zeros(len(dataset), bool), BASE_FEATURES).shape == (0, 7)


def test_an_unknown_value_is_nan_or_what_stands_for_it(dataset):
    unknown = dataset.frame["recent_speed_mps"].is_null().to_numpy()
    assert 0 < unknown.sum() < len(dataset)
    assert np.array_equal(np.isnan(feature_matrix(dataset, None, ["recent_speed_mps"])[:, 0]), unknown)
    assert (feature_matrix(dataset, None, ["recent_speed_mps"], nan_fill=0.0)[unknown] == 0).all()


def test_a_route_is_its_place_among_the_model_s_routes(dataset):
    codes = feature_matrix(dataset, None, ["route_code"], routes=("r0", "r2"))[:, 0]
    second = (dataset.frame["route_id"] == "r2").to_numpy()
    assert (codes[second] == 1.0).all()
    assert np.isnan(codes[~second]).all()
    with pytest.raises(TrainingError, match="route_code"):
        feature_matrix(dataset, None, ["route_code"])


def test_typical_times_come_from_a_table_or_as_they_are(dataset):
    table = fit_typical(dataset)
    by_table = feature_matrix(dataset, None, ["typical_travel_s"], typical=table)
    assert np.array_equal(by_table[:, 0], typical_seconds(dataset, None, table).astype(np.float32))
    assert np.isfinite(by_table).all()
    values = np.arange(len(dataset), dtype=np.float64)
    assert np.array_equal(feature_matrix(dataset, None, ["typical_travel_s"], typical=values)[:, 0], values)
    with pytest.raises(TrainingError, match="typical_travel_s"):
        feature_matrix(dataset, None, ["typical_travel_s"])


def test_what_the_dataset_does_not_hold_is_named(dataset):
    bare = replace(dataset, frame=dataset.frame.drop("stops_ahead", "leg_left"))
    with pytest.raises(TrainingError, match="stops_ahead, leg_left"):
        feature_matrix(bare, None, ["hour", "stops_ahead", "leg_left"])


def test_weather_that_nobody_recorded_is_refused_and_some_is_taken(dataset):
    with pytest.raises(TrainingError, match="temperature_c"):
        feature_matrix(dataset, None, ["hour", "temperature_c"])
    some = dataset.frame.with_columns(
        temperature_c=pl.when(pl.int_range(pl.len()) > 0).then(pl.lit(3.0)).otherwise(None)
    )
    found = feature_matrix(replace(dataset, frame=some), None, ["temperature_c"])[:, 0]
    assert np.isnan(found[0])
    assert (found[1:] == 3.0).all()


def test_an_infinite_value_is_refused_by_name(dataset):
    broken = dataset.frame.with_columns(leg_left=pl.lit(np.inf))
    with pytest.raises(TrainingError, match="leg_left is infinite"):
        feature_matrix(replace(dataset, frame=broken), None, ["leg_left"])


def test_a_model_is_given_its_own_kind_of_distance(dataset):
    straight = replace(
        dataset, distance="straight", frame=dataset.frame.with_columns(distance_to_stop=pl.lit(7.0, pl.Float64))
    )
    assert (model_predictions(straight, None, model(along_route_distance=False)) == 7.0).all()
    along = model_predictions(straight, None, model())
    assert np.array_equal(along, dataset.frame["along_route_distance_m"].to_numpy().astype(np.float32))
    with pytest.raises(TrainingError, match="straight lines"):
        model_predictions(dataset, None, model(along_route_distance=False))


def test_a_model_of_another_calendar_is_not_asked(dataset):
    with pytest.raises(TrainingError, match="America/Toronto"):
        model_predictions(dataset, None, model(time_zone="America/Toronto"))
    assert len(model_predictions(dataset, None, model(time_zone="America/Toronto", features=("distance_to_stop",))))
    with pytest.raises(TrainingError, match="holidays of CR"):
        model_predictions(
            dataset,
            None,
            model(features=("is_holiday", "hour"), manifest=SimpleNamespace(holiday_region="CR")),
        )
