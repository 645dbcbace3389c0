"""Parameters, block and environment become the loop's settings."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from etacore.errors import ConfigError
from flows.runtime_config import SETTINGS, EtaRuntimeSettings, block_name, check_name, merge

CONTRACT_FIELDS = {
    "redis_host",
    "redis_port",
    "redis_db",
    "redis_password_secret",
    "poll_interval_seconds",
    "model_key",
    "predictions_ttl_seconds",
    "max_vehicle_batch",
    "max_stops_per_vehicle",
    "zero_prediction_alert_threshold",
    "notification_blocks",
    "profiling_artifact_key_prefix",
    "model_registry_dir",
}


def test_the_block_has_the_fields_that_deployments_rely_on():
    assert set(SETTINGS) == CONTRACT_FIELDS | {"snapshot_source", "guessed_patterns"}
    assert EtaRuntimeSettings.get_block_type_slug() == "eta-runtime-settings"


def test_parameter_before_block_before_environment_before_default():
    block = EtaRuntimeSettings(redis_host="block", redis_port=2, max_stops_per_vehicle=7).settings()
    environment = {"REDIS_HOST": "env", "REDIS_PASSWORD": "env", "REDIS_URL": "redis://env"}
    config = merge({"redis_host": "flag", "redis_port": None}, block, environment).config
    assert (config.redis_host, config.redis_port, config.max_stops_per_vehicle) == ("flag", 2, 7)
    assert (config.redis_password, config.redis_url) == ("env", None)
    assert merge({}, block, environment).config.redis_host == "block"
    assert merge({}, block, environment, "from the secret").config.redis_password == "from the secret"
    assert merge({}, {}, environment).config.redis_url == "redis://env"
    assert merge({}, {}, {}).config.redis_host == "localhost"


def test_defaults_are_those_of_the_block_too():
    ours, blocks = merge({}, {}, {}), merge({}, EtaRuntimeSettings().settings(), {})
    assert ours == blocks
    assert (ours.config.poll_interval_seconds, ours.config.max_stops_per_vehicle) == (1.0, 5)
    assert (ours.config.predictions_ttl_seconds, ours.config.max_vehicle_batch) == (300, None)
    assert (ours.zero_prediction_alert_threshold, ours.artifact_prefix) == (0, "eta-runtime")


def test_a_password_is_never_shown():
    settings = merge({"redis_password": SecretStr("hunter2")}, {}, {})
    assert settings.config.redis_password == "hunter2"
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"redis_port": 70_000}, "redis_port is 70000, but must be between 1 and 65535"),
        ({"max_stops_per_vehicle": 0}, "max_stops_per_vehicle is 0"),
        ({"predictions_ttl_seconds": -1}, "predictions_ttl_seconds is -1"),
        ({"poll_interval_seconds": -0.5}, "poll_interval_seconds is -0.5"),
        ({"snapshot_source": "push"}, "snapshot_source is 'push', but must be one of auto, events, poll"),
        ({"max_vehicle_batch": 0}, "max_vehicle_batch is 0"),
        ({"iterations": -1}, "iterations is -1"),
        ({"zero_prediction_alert_threshold": -1}, "zero_prediction_alert_threshold is -1"),
        ({"profiling_artifact_key_prefix": "Eta_Runtime"}, "profiling_artifact_key_prefix is 'Eta_Runtime'"),
    ],
)
def test_a_value_out_of_range_is_named(given, said):
    with pytest.raises(ConfigError, match=said):
        merge(given, {}, {})


def test_a_block_that_cannot_work_is_not_made():
    with pytest.raises(ValidationError, match="redis_port is 0"):
        EtaRuntimeSettings(redis_port=0)


def test_a_bad_variable_is_named():
    with pytest.raises(ConfigError, match="REDIS_PORT is 'x'"):
        merge({}, {}, {"REDIS_PORT": "x"})


def test_old_block_names_are_taken_and_said():
    said: list[str] = []
    assert block_name("eta-runtime/dev", said.append) == "eta-runtime-dev"
    assert len(said) == 1
    assert "eta-runtime-dev" in said[0]
    assert block_name("eta-runtime-settings/eta-runtime", said.append) == "eta-runtime"
    assert len(said) == 1


@pytest.mark.parametrize("name", ["", "Eta", "a b", "a_b", "-a", "a/", "ä"])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match="lower-case"):
        check_name("a block's name", block_name(name, lambda line: None))
