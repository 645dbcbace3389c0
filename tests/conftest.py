"""What many tests share: a real Redis, the shipped models, recorded data where there is some, and patience."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from hypothesis import HealthCheck, settings

from etacore.models.registry import Registry
from etacore.store.server import RedisServer

ROOT: Final = Path(__file__).resolve().parent.parent
RECORDED: Final = Path(os.environ.get("ETACORE_REAL_DATA", ROOT.parent / "shared" / "data")).parent
"""Where a recording of real transit data may lie; nothing but the tests marked ``real_data`` needs it."""

_shared: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=100, **_shared)
settings.register_profile("ci", max_examples=60, derandomize=True, print_blob=True, **_shared)
settings.register_profile("sanitize", max_examples=15, derandomize=True, **_shared)
settings.load_profile(os.environ.get("ETACORE_HYPOTHESIS_PROFILE", "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if RECORDED.is_dir():
        return
    absent = pytest.mark.skip(reason=f"no recorded transit data at {RECORDED}")
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(absent)


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Folder of recorded data and golden calls."""
    if not RECORDED.is_dir():
        pytest.skip(f"no recorded transit data at {RECORDED}")
    return RECORDED


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real redis-server of this session."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of an empty database."""
    with redis_server.client() as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def default_registry() -> Registry:
    """The registry that ships with the checkout."""
    return Registry(ROOT / "models" / "shipped")


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """``wait_until(condition, timeout_s=30.0)``: returns once the condition holds, fails when time is up."""

    def wait(condition: Callable[[], object], timeout_s: float = 30.0, what: str = "it") -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not happen within {timeout_s} s")
            time.sleep(0.005)

    return wait
