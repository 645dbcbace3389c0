"""Settings of the prediction loop: one frozen, validated value that every part reads and nobody changes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from etacore.errors import ConfigError

DEFAULT_REGISTRY_DIR: Final = "models/trained"
SHIPPED_REGISTRY_DIR: Final = "models/shipped"
"""The model that comes with the program. It is only read, and only where ``models/trained`` beside it lacks a model."""
SNAPSHOT_SOURCES: Final = ("auto", "events", "poll")
MAX_SECONDS: Final = 10**9  # beyond, sums of microseconds would run out of 64 bits
MAX_COUNT: Final = 2**31 - 1


def registry_dir_from_env() -> Path:
    """Registry folder: ``MODEL_REGISTRY_DIR``, else ``models/trained`` below the working directory."""
    return Path(os.environ.get("MODEL_REGISTRY_DIR") or DEFAULT_REGISTRY_DIR)


def names_redis(settings: Mapping[str, Any]) -> bool:
    """Whether flags or environment say which Redis.

    Commands about models ask Redis for the active one only then, and go by the registry's own history otherwise: a
    server that happens to listen on this machine knows nothing of this registry.
    """
    return any(settings.get(name) is not None for name in ("redis_host", "redis_port", "redis_url"))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyNames:
    """How the Redis keys are called; a deployment may rename them."""

    vehicle_pattern: str = "vehicle:*"
    predictions: str = "predictions:"
    route_stops: str = "route_stops:"
    route_shape: str = "route_shape:"
    direction_stops: str = "direction_stops:"
    direction_shape: str = "direction_shape:"
    trip_pattern: str = "trip_pattern:"
    run_pattern: str = "run_pattern:"
    pattern_stops: str = "pattern_stops:"
    pattern_shape: str = "pattern_shape:"
    active_model: str = "eta:active_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """Everything the loop needs to know.

    Secrets (``redis_password``, ``redis_url``) are left out of ``repr``.

    Raises
    ------
    ConfigError
        If a value is out of range: names the field, the value and the range.
    """

    redis_host: str = "localhost"
    redis_port: int = 6379
    redis_db: int = 0
    redis_username: str | None = None
    redis_password: str | None = field(default=None, repr=False)
    redis_tls: bool = False
    redis_url: str | None = field(default=None, repr=False)
    """``redis://``, ``rediss://`` or ``unix://``; wins over host, port, db and TLS."""

    keys: KeyNames = KeyNames()
    snapshot_source: str = "auto"
    """``events``: serve vehicles as Redis announces their changes; ``poll``: look at all of them at each interval;
    ``auto``: events, but poll where the server or the connection does not allow them, and in a bounded run."""
    poll_interval_seconds: float = 1.0
    resync_seconds: float = 300.0
    """With events, how often all keys are searched for nevertheless."""
    iterations: int = 0
    """Polls (with events: poll intervals) to make; 0 = until told to stop."""
    max_vehicle_batch: int | None = None
    """Vehicles served per poll, the longest-waiting first; None = all."""
    max_stops_per_vehicle: int = 5
    predictions_ttl_seconds: int = 300
    max_age_seconds: float = 900.0
    """Older snapshots are dropped as ghosts; 0 = no limit."""
    max_future_seconds: float = 60.0
    """Clock skew allowed to a producer."""
    max_payload_bytes: int = 65_536
    max_off_route_metres: float = 2_000.0
    chunk_size: int = 2_000
    """Vehicles per batch of the data path: bounds memory, and the time to stop."""
    guessed_patterns: bool = True
    """Whether a vehicle is predicted whose trip is not among the seeded ones."""
    route_refresh_seconds: float = 10.0
    """How soon a changed ``route_stops:`` or pattern blob is noticed."""
    state_retention_seconds: float = 7_200.0
    """A vehicle that was silent this long is forgotten."""
    window_seconds: float = 10.0
    """How often counters are reported."""

    model_key: str | None = None
    """None = what ``eta:active_model`` announces, else the best model of the registry."""
    model_registry_dir: Path = field(default_factory=registry_dir_from_env)
    profiling_dir: Path | None = None
    source: str = "prefect"
    """``source`` of the prediction documents; existing consumers expect this word."""

    def __post_init__(self) -> None:
        if self.snapshot_source not in SNAPSHOT_SOURCES:
            known = ", ".join(SNAPSHOT_SOURCES)
            raise ConfigError(f"snapshot_source is {self.snapshot_source!r}, but must be one of {known}")
        _whole(self, "redis_port", 1, 65_535)
        _whole(self, "redis_db", 0, MAX_COUNT)
        _in_range(self, "poll_interval_seconds", 0, 3_600)
        _in_range(self, "resync_seconds", 1, MAX_SECONDS)
        _whole(self, "iterations", 0, MAX_COUNT)
        if self.max_vehicle_batch is not None:
            _whole(self, "max_vehicle_batch", 1, MAX_COUNT)
        _whole(self, "max_stops_per_vehicle", 1, 1_000)
        _whole(self, "predictions_ttl_seconds", 1, MAX_SECONDS)
        _in_range(self, "max_age_seconds", 0, MAX_SECONDS)
        _in_range(self, "max_future_seconds", 0, MAX_SECONDS)
        _whole(self, "max_payload_bytes", 64, 64 * 2**20)
        _in_range(self, "max_off_route_metres", 1, 100_000_000)
        _whole(self, "chunk_size", 1, 20_000)
        _in_range(self, "route_refresh_seconds", 0, MAX_SECONDS)
        _in_range(self, "state_retention_seconds", 1, MAX_SECONDS)
        _in_range(self, "window_seconds", 0.1, MAX_SECONDS)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> RuntimeConfig:
        """Build from loose values, for example of a command line; None means "not given".

        Raises
        ------
        ConfigError
            If a name is unknown or a value is out of range.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}", hint=f"known: {', '.join(sorted(known))}")
        return cls(**{name: value for name, value in values.items() if value is not None})


def _whole(config: RuntimeConfig, name: str, low: int, high: int) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    _in_range(config, name, low, high)


def _in_range(config: RuntimeConfig, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise ConfigError(f"{name} must be a number, not {value!r}")
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}, but must be between {low} and {high}")
