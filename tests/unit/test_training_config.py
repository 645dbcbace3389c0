"""Settings of a training: what is taken, and what is refused by name."""

from __future__ import annotations

import pickle
from datetime import date

import pytest

from etacore.errors import TrainingError
from etacore.mlops.training.config import FAMILIES, TrainingConfig, parse_setting
from etacore.schema import BASE_FEATURES


def test_the_defaults_are_the_contract_s():
    config = TrainingConfig()
    assert config.model_types == ("historical_mean", "ewma", "polyreg_distance", "polyreg_time", "xgboost")
    assert config.features == BASE_FEATURES
    assert config.seed == 42
    xgboost = config.parameters_of("xgboost")
    wanted = {"max_depth": 5, "n_estimators": 200, "learning_rate": 0.05, "subsample": 0.8, "colsample_bytree": 0.8}
    assert wanted.items() <= xgboost.items()
    assert xgboost["early_stopping_rounds"] == 20
    assert config.parameters_of("ewma") == {"alpha": 0.3, "min_observations": 3}
    assert config.parameters_of("polyreg_time") == {"degree": 2, "ridge_alpha": 1.0}
    assert config.min_trips_per_route == 30


@pytest.mark.parametrize(
    "features", ["hour, distance_to_stop", ("hour", "distance_to_stop"), ["hour", "distance_to_stop"]]
)
def test_features_are_a_preset_or_names(features):
    assert TrainingConfig(features=features).features == ("hour", "distance_to_stop")
    assert TrainingConfig(features="best").features[:7] == BASE_FEATURES
    assert "typical_travel_s" in TrainingConfig(features="best").features


def test_families_are_trained_once_and_in_one_order():
    assert TrainingConfig(model_types=("xgboost", "ewma", "xgboost")).model_types == ("ewma", "xgboost")


def test_an_override_goes_to_every_family_that_knows_it():
    config = TrainingConfig(hyperparameters={"degree": 3, "max_depth": 7.0})
    assert config.parameters_of("polyreg_time")["degree"] == config.parameters_of("polyreg_distance")["degree"] == 3
    assert config.parameters_of("xgboost")["max_depth"] == 7
    assert isinstance(config.parameters_of("xgboost")["max_depth"], int)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_types": ("forest",)}, "'forest'"),
        ({"model_types": ()}, "none"),
        ({"features": "finest"}, "'finest'"),
        ({"features": ("hour", "speed_of_light")}, "'speed_of_light'"),
        ({"features": ("hour", "hour")}, "twice"),
        ({"features": ()}, "no feature"),
        ({"objective": "binary:logistic"}, "binary:logistic"),
        ({"label": "scheduled"}, "'scheduled'"),
        ({"seed": -1}, "-1"),
        ({"min_trips_per_route": 0}, "min_trips_per_route is 0"),
        ({"hyperparameters": {"depth": 3}}, "'depth'"),
        ({"hyperparameters": {"max_depth": 3}, "model_types": ("ewma",)}, "'max_depth'"),
        ({"hyperparameters": {"max_depth": 2.5}}, "max_depth is 2.5"),
        ({"hyperparameters": {"max_depth": 0}}, "max_depth is 0"),
        ({"hyperparameters": {"alpha": float("nan")}}, "alpha is nan"),
        ({"hyperparameters": {"alpha": True}}, "alpha is True"),
        ({"hyperparameters": {"subsample": "0.5"}}, "subsample is '0.5'"),
    ],
)
def test_what_cannot_be_used_is_named(fields, words):
    with pytest.raises(TrainingError, match=words):
        TrainingConfig(**fields)


def test_an_unknown_name_comes_with_the_known_ones():
    with pytest.raises(TrainingError) as caught:
        TrainingConfig(model_types=("forest",))
    assert all(name in caught.value.hint for name in FAMILIES)


def test_settings_travel_to_another_process_and_back():
    config = TrainingConfig(test_days=[date(2026, 3, 4)], hyperparameters={"max_depth": 3})
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(("text", "pair"), [("max_depth=7", ("max_depth", 7)), ("alpha = 0.5", ("alpha", 0.5))])
def test_a_setting_of_the_command_line(text, pair):
    assert parse_setting(text) == pair


@pytest.mark.parametrize("text", ["max_depth", "max_depth=", "max_depth=deep"])
def test_a_setting_without_a_number_is_refused(text):
    with pytest.raises(TrainingError, match="max_depth"):
        parse_setting(text)
