"""One Prefect server on loopback and one Redis with a TCP port for all tests of the flows."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis

pytest.importorskip("prefect", reason="the extra `flows` is not installed")

from etacore.mlops.bundling.compile import compile_to_registry
from etacore.models.registry import Registry
from etacore.store.server import RedisServer
from tests import models
from tests.fleet import ROUTE, stops_blob
from tests.flows.prefect_server import PrefectServer

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = "xgboost_tests_first", "xgboost_tests_second"


@pytest.fixture(autouse=True)
def _no_redis_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("REDIS_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """The session's server, and Prefect in this process set to it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        temporary_settings,
    )

    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    server.start()
    try:
        server.wait()
        with temporary_settings(
            {PREFECT_API_URL: server.url, PREFECT_HOME: server.home, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}
        ):
            yield server
            for service in (APILogWorker, EventsWorker):
                service.drain_all(timeout=10)  # or it tries for a minute to reach a server that is gone
    finally:
        server.kill()


@pytest.fixture
def server(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    """The server, running; a test that kills it leaves it to be brought back here."""
    prefect_server.start()
    prefect_server.wait()
    yield prefect_server
    prefect_server.start()


@pytest.fixture
def api(server: PrefectServer) -> Iterator[Any]:
    """A client of the server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="session")
def registry_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two small models; the first has the lower error."""
    folder = tmp_path_factory.mktemp("registry")
    for key, mae_s in ((FIRST, 10.0), (SECOND, 20.0)):
        compile_to_registry(
            models.save(), Registry(folder), model_key=key, dataset="tests", metrics={"test_mae_seconds": mae_s}
        )
    return folder


@pytest.fixture(scope="session")
def tcp_redis() -> Iterator[RedisServer]:
    """A Redis with a port, without a password."""
    with RedisServer(tcp=True) as server:
        yield server


@pytest.fixture
def city(tcp_redis: RedisServer) -> Iterator[redis.Redis]:
    """A client of that Redis, empty but for a route."""
    tcp_redis.start()
    with tcp_redis.client() as client:
        client.flushall()
        client.set(f"route_stops:{ROUTE}", stops_blob())
        yield client


@pytest.fixture(scope="session")
def locked_redis() -> Iterator[RedisServer]:
    """A Redis with a port and a password."""
    with RedisServer(tcp=True, password="open-sesame-42") as server:
        yield server


class Inbox:
    """What a local receiver of webhooks got."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                inbox.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/hook"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    """A receiver of webhooks."""
    receiver = Inbox()
    yield receiver
    receiver.close()
