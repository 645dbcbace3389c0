"""Settings: what is refused, and what is never shown."""

from __future__ import annotations

from typing import Any

import pytest

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_port", 0),
        ("redis_port", 70_000),
        ("redis_db", -1),
        ("poll_interval_seconds", float("nan")),
        ("iterations", -1),
        ("max_vehicle_batch", 0),
        ("max_stops_per_vehicle", 0),
        ("predictions_ttl_seconds", 0),
        ("predictions_ttl_seconds", "300"),
        ("chunk_size", True),
        ("chunk_size", 2.5),
        ("chunk_size", 2.0),
        ("max_stops_per_vehicle", 2.5),
        ("iterations", 2.5),
        ("redis_port", 6379.5),
        ("redis_db", 0.5),
        ("predictions_ttl_seconds", 2.5),
        ("predictions_ttl_seconds", 10**9 + 1),
        ("max_vehicle_batch", 2.5),
        ("max_payload_bytes", 65_536.5),
        ("max_age_seconds", 1e10),
        ("max_age_seconds", float("inf")),
        ("max_age_seconds", 10**400),
        ("max_future_seconds", 1e10),
        ("route_refresh_seconds", 1e10),
        ("state_retention_seconds", 1e10),
        ("window_seconds", 1e10),
        ("max_off_route_metres", float("inf")),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        RuntimeConfig(**{name: value})
    assert str(value) in str(caught.value)


def test_the_largest_values_are_taken() -> None:
    config = RuntimeConfig(max_age_seconds=1e9, predictions_ttl_seconds=10**9, state_retention_seconds=10**9)
    assert config.max_age_seconds == 1e9


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="poll_intervall"):
        RuntimeConfig.from_mapping({"poll_intervall": 1})


def test_none_means_not_given() -> None:
    assert RuntimeConfig.from_mapping({"redis_port": None}).redis_port == 6379


def test_secrets_are_not_shown() -> None:
    config = RuntimeConfig(redis_password="hunter2", redis_url="redis://:hunter2@localhost")
    assert "hunter2" not in repr(config)


def test_the_registry_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_DIR", "/elsewhere")
    assert str(RuntimeConfig().model_registry_dir) == "/elsewhere"
    monkeypatch.delenv("MODEL_REGISTRY_DIR")
    assert str(RuntimeConfig().model_registry_dir) == "models/trained"
