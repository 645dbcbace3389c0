"""Models and servers of the benchmarks; made once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import xgboost

from benchmarks.fleet import compiled_model, xgboost_model
from etacore.model import Model
from etacore.redis_server import RedisServer


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
