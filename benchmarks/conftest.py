"""Models and servers of the benchmarks; made once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import xgboost

from benchmarks.fleet import compiled_model, xgboost_model
from etacore.models.model import Model
from etacore.store.server import RedisServer, find_redis_server

PACKAGES = ("numpy", "orjson", "redis", "treelite", "tl2cgen", "onnxruntime")


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Versions of what is measured, and the path that this CPU takes through a forest."""
    server = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    found = {name: version(name) for name in PACKAGES} | {"xgboost": xgboost.__version__}  # from either package
    found["Redis server"] = server.partition("v=")[2].partition(" ")[0]
    machine_info["versions"] = found
    machine_info["forest_path"] = getattr(compiled_model().predictor, "path", "none")


@pytest.fixture(scope="session")
def model() -> Model:
    return compiled_model()


@pytest.fixture(scope="session")
def booster() -> xgboost.Booster:
    return xgboost_model()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A server on the CPUs that the measured process is not pinned to, if there are any."""
    with RedisServer() as server:
        everything = set(range(os.cpu_count() or 1))
        others = everything - os.sched_getaffinity(0)
        os.sched_setaffinity(server.pid, others or everything)
        yield server
