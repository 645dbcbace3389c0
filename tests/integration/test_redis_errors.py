"""What is said where credentials or TLS do not fit the server, each in words of its own and without a secret."""

from __future__ import annotations

from typing import Any

import pytest

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, EtacoreError, RedisUnavailableError
from etacore.store.changes import ChangeFeed
from etacore.store.server import RedisServer
from etacore.store.store import RedisStore

SECRET = "s3cr3t-guess"
FLAGS = {
    "password": ("--redis-password", "REDIS_PASSWORD"),
    "username": ("--redis-username", "REDIS_USERNAME"),
    "address": ("--redis-host", "REDIS_HOST", "--redis-port", "REDIS_PORT", "--redis-url", "REDIS_URL"),
}

WRONG: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...]]] = {
    "wrong password": (
        "locked_redis",
        {"redis_password": SECRET},
        "refuses our credentials: the password is wrong, or the user unknown or disabled",
        ("password", "username"),
    ),
    "unknown user": (
        "open_redis",
        {"redis_username": "nobody", "redis_password": SECRET},
        "refuses our credentials: the password is wrong, or the user unknown or disabled",
        ("password", "username"),
    ),
    "no password": ("locked_redis", {}, "wants a password, and none is given", ("password",)),
}


@pytest.fixture(scope="module")
def open_redis() -> Any:
    """A server with a TCP port and without a password."""
    with RedisServer(tcp=True) as server:
        yield server


def said(config: RuntimeConfig, expected: type[EtacoreError] = ConfigError) -> str:
    """What the store says; the change feed has to say the same."""
    with RedisStore(config) as store, pytest.raises(expected) as caught:
        store.ping()
    with pytest.raises(expected) as of_feed:
        ChangeFeed(config)
    assert str(of_feed.value) == str(caught.value)
    return one_line(caught.value)


def one_line(error: EtacoreError) -> str:
    for line in (error.message, error.hint or ""):
        assert line == line.strip(" ,;:")
    assert SECRET not in str(error)
    return f"{error.message} | {error.hint}"


@pytest.mark.parametrize("name", WRONG)
def test_credentials_that_do_not_fit(name: str, request: pytest.FixtureRequest) -> None:
    fixture, given, expected, hinted = WRONG[name]
    server: RedisServer = request.getfixturevalue(fixture)
    text = said(RuntimeConfig(redis_host="127.0.0.1", redis_port=server.port, **given))
    assert text.startswith(f"Redis at 127.0.0.1:{server.port}/0 {expected} | ")
    for flag in (flag for what in hinted for flag in FLAGS[what]):
        assert flag in text
    assert "open-sesame" not in text


def test_a_password_for_a_server_that_has_none(open_redis: RedisServer) -> None:
    # HELLO, with which the change feed begins, lets the default user in with any password.
    config = RuntimeConfig(redis_host="127.0.0.1", redis_port=open_redis.port, redis_password=SECRET)
    with RedisStore(config) as store, pytest.raises(ConfigError) as caught:
        store.ping()
    text = one_line(caught.value)
    assert text.startswith(f"Redis at 127.0.0.1:{open_redis.port}/0 has no password, but one is given | ")
    for flag in (*FLAGS["password"], *FLAGS["username"]):
        assert flag in text


@pytest.mark.parametrize("given", [{"redis_tls": True}, {"redis_url": "rediss://127.0.0.1:{port}/0"}])
def test_tls_to_a_port_without_it(given: dict[str, Any], open_redis: RedisServer, quickly: None) -> None:
    given = {
        name: value.format(port=open_redis.port) if name == "redis_url" else value for name, value in given.items()
    }
    text = said(RuntimeConfig(redis_host="127.0.0.1", redis_port=open_redis.port, redis_password=SECRET, **given))
    assert text.startswith(f"Redis at 127.0.0.1:{open_redis.port}/0 speaks no TLS on this port | ")
    for flag in ("--no-redis-tls", "redis://", "--redis-port", "REDIS_PORT"):
        assert flag in text


def test_a_certificate_that_nobody_vouches_for_is_another_thing(tls_port: int, quickly: None) -> None:
    config = RuntimeConfig(redis_host="127.0.0.1", redis_port=tls_port, redis_tls=True)
    text = said(config, RedisUnavailableError)
    assert "certificate verify failed" in text
    assert "speaks no TLS" not in text


def test_nobody_there_names_flags_and_environment(quickly: None) -> None:
    text = said(RuntimeConfig(redis_host="127.0.0.1", redis_port=1, redis_password=SECRET), RedisUnavailableError)
    assert text.startswith("Redis at 127.0.0.1:1/0 cannot be reached: ")
    for flag in FLAGS["address"]:
        assert flag in text


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake that gets no answer ends after half a second, not four."""
    monkeypatch.setattr("etacore.store.store.SOCKET_TIMEOUT_S", 0.5)
