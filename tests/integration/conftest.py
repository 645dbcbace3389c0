"""Servers and registries for whole-path tests."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from etacore.mlops.bundling.compile import compile_to_registry
from etacore.models.registry import Registry
from etacore.store.server import RedisServer
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


@pytest.fixture
def tls_port(redis_server: RedisServer, tmp_path: Path) -> Iterator[int]:
    """A TLS door to the server: not every redis-server is built with TLS."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=admit, args=(door, context, str(redis_server.socket_path)), daemon=True).start()
        yield door.getsockname()[1]
        door.shutdown(socket.SHUT_RDWR)


def admit(door: socket.socket, context: ssl.SSLContext, server_path: str) -> None:
    with suppress(OSError):
        while True:
            accepted = door.accept()[0]
            try:
                outside = context.wrap_socket(accepted, server_side=True)
            except OSError:
                accepted.close()  # a client that does not trust us, or speaks no TLS
                continue
            inside = socket.socket(socket.AF_UNIX)
            inside.connect(server_path)
            for source, sink in ((outside, inside), (inside, outside)):
                threading.Thread(target=pump, args=(source, sink), daemon=True).start()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while received := source.recv(65_536):
            sink.sendall(received)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
