"""One Prefect server on loopback and one Redis with a TCP port for all tests of the flows."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import redis

pytest.importorskip("prefect", reason="the extra `flows` is not installed")

import flows
from etacore.demo.server import RedisServer
from etacore.mlops.compiling import compile_to_registry
from etacore.registry import Registry
from tests import models
from tests.fleet import ROUTE, stops_blob

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = "xgboost_tests_first", "xgboost_tests_second"


@pytest.fixture(autouse=True)
def _no_redis_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("REDIS_")]:
        monkeypatch.delenv(name)


class PrefectServer:
    """A real server with a database of its own; may be killed and brought back."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.home = home
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For processes that are to use this server."""
        return (
            {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "REDIS_"))}
            | flows.PREFECT_DEFAULTS
            | {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": self.url, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        )

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._process is not None and self._process.poll() is None:
            return
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--no-ui"]
        with (self.home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, timeout_s: float = 120.0) -> None:
        """Until it answers."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(URLError, OSError), urlopen(f"{self.url}/health", timeout=2):
                return
            time.sleep(0.1)
        pytest.fail(f"no Prefect server within {timeout_s} s: {(self.home / 'server.log').read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL to it and what it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """The session's server, and Prefect in this process set to it."""
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
