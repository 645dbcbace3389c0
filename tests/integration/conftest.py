"""Servers and registries for whole-path tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from etacore.mlops.compiling import compile_to_registry
from etacore.redis_server import RedisServer
from etacore.registry import Registry
from tests import models

FIRST, SECOND, OF_ROUTE = "xgboost_tests_first", "xgboost_tests_second", "xgboost_tests_of_route"


@pytest.fixture
def private_redis() -> Iterator[RedisServer]:
    """A server of the test's own, to be killed and brought back."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def locked_redis() -> Iterator[RedisServer]:
    """A server with a TCP port and a password."""
    with RedisServer(tcp=True, password="open-sesame-42") as server:
        yield server


@pytest.fixture(scope="session")
def registry_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two small models; the first has the lower error."""
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(folder)
    for key, route_id, mae_s in ((FIRST, None, 10.0), (SECOND, None, 20.0), (OF_ROUTE, "other", 30.0)):
        metrics = {"test_mae_seconds": mae_s}
        compile_to_registry(models.save(), registry, model_key=key, dataset="tests", route_id=route_id, metrics=metrics)
    return folder


@pytest.fixture
def route_model_key() -> str:
    """Key of the model of the route "other"."""
    return OF_ROUTE


@pytest.fixture
def second_model_key() -> str:
    """Key of the model that is not chosen by itself."""
    return SECOND
