"""The change feed against servers and proxies that do as they like."""

from __future__ import annotations

import pytest

from etacore.config import KeyNames, RuntimeConfig
from etacore.errors import ConfigError, RedisUnavailableError, TrackingUnavailableError
from etacore.store import changes as changes_module
from etacore.store import store as redis_io
from etacore.store.changes import ChangeFeed, Changes, tracked_prefixes
from tests.fake_server import HANG_UP, HELLO_3, OK, PONG, SILENCE, Answer, fake_server, push

SECRET = "open-sesame-42"
ANY = 30.0
"""Seconds: far more than anything here takes."""


def answers(**by_command: bytes | None) -> Answer:
    """A server that takes everything but what is said; names are of commands."""

    def answer(command: list[bytes]) -> bytes | None:
        name = command[0].decode().upper()
        if name == "CLIENT":
            name = command[1].decode().upper()
        return by_command.get(name, {"HELLO": HELLO_3, "PING": PONG}.get(name, OK))

    return answer


def config_of(port: int, **settings: object) -> RuntimeConfig:
    return RuntimeConfig.from_mapping({"redis_host": "127.0.0.1", "redis_port": port, **settings})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "PING_AFTER_S", 0.01)
    monkeypatch.setattr(changes_module, "SOCKET_TIMEOUT_S", 0.1)
    monkeypatch.setattr(redis_io, "SOCKET_TIMEOUT_S", 0.1)


def test_the_prefixes_are_those_of_the_configuration():
    assert tracked_prefixes(KeyNames()) == ("vehicle:", "route_stops:", "direction_stops:", "eta:active_model")
    names = KeyNames(vehicle_pattern="v*", route_stops="r:", direction_stops="d:", active_model="m", predictions="p:")
    assert tracked_prefixes(names) == ("v", "r:", "d:", "m")


def test_predictions_may_have_a_prefix_that_contains_a_tracked_one():
    assert tracked_prefixes(KeyNames(predictions="eta:"))


@pytest.mark.parametrize("pattern", ["vehicle", "", "v?:*", "*:vehicle:*", "[v]*", "vehicle\\**", "vehicle:*:last"])
def test_a_pattern_that_is_no_plain_prefix_is_refused(pattern):
    with pytest.raises(TrackingUnavailableError, match="no plain prefix") as refusal:
        tracked_prefixes(KeyNames(vehicle_pattern=pattern))
    assert repr(pattern) in refusal.value.message


@pytest.mark.parametrize(
    "names",
    [
        KeyNames(vehicle_pattern="*"),
        KeyNames(vehicle_pattern="route*"),
        KeyNames(route_stops="vehicle:stops:"),
        KeyNames(route_stops="vehicle:"),
        KeyNames(direction_stops="route_stops:0:"),
        KeyNames(active_model="vehicle:model"),
        KeyNames(predictions="vehicle:predictions:"),
    ],
)
def test_prefixes_that_redis_or_we_could_not_tell_apart_are_refused(names):
    with pytest.raises(TrackingUnavailableError, match="begin like those of") as refusal:
        tracked_prefixes(names)
    assert "\n" not in refusal.value.message
    assert refusal.value.hint


def assert_refused(says: str, **words: bytes | None) -> None:
    """A server that answers like this is refused in one line, with the address, a hint and no secret."""
    with (
        fake_server(answers(**words)) as server,
        pytest.raises(TrackingUnavailableError, match=says) as refusal,
    ):
        ChangeFeed(config_of(server.port, redis_password=SECRET))
    assert "\n" not in refusal.value.message
    assert f"127.0.0.1:{server.port}" in refusal.value.message
    assert SECRET not in str(refusal.value)
    assert "poll" in (refusal.value.hint or "")


@pytest.mark.parametrize(
    ("hello", "says"),
    [
        (
            b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `"
            + SECRET.encode()
            + b"`, ",
            "does not take HELLO 3",
        ),
        (b"-NOPROTO unsupported protocol version", "does not take HELLO 3"),
        (b"+OK", "does not take HELLO 3"),
        (b"%1\r\n+proto\r\n:2", "does not take HELLO 3"),
        (b"-NOAUTH Authentication required.", "serves RESP2"),
        (HANG_UP, "serves RESP2"),
        (SILENCE, "serves RESP2"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_no_resp3_is_one_line_that_says_so(hello, says):
    assert_refused(says, HELLO=hello and hello + b"\r\n")


@pytest.mark.parametrize(
    ("tracking", "says"),
    [
        (b"-ERR unknown subcommand 'TRACKING'\r\n", "unknown subcommand"),
        (b"-NOPERM this user has no permissions\r\n", "user may not run CLIENT TRACKING"),
        (b"+QUEUED\r\n", "QUEUED"),
        (HANG_UP, "serves RESP2"),
        (SILENCE, "serves RESP2"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_no_tracking_is_one_line_that_says_so(tracking, says):
    assert_refused(says, TRACKING=tracking)


def test_a_server_that_is_not_there_is_an_outage():
    with fake_server(answers()) as server:
        port = server.port
    with pytest.raises(RedisUnavailableError, match=f"127.0.0.1:{port}"):
        ChangeFeed(config_of(port, redis_password=SECRET))


def test_a_server_that_hangs_up_on_everything_is_an_outage():
    with fake_server(lambda _: HANG_UP) as server, pytest.raises(RedisUnavailableError):
        ChangeFeed(config_of(server.port))


def test_wrong_credentials_are_said_without_them():
    refused = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    with (
        fake_server(answers(HELLO=refused, AUTH=refused)) as server,
        pytest.raises(ConfigError, match="refuses our credentials") as error,
    ):
        ChangeFeed(config_of(server.port, redis_password=SECRET))
    assert SECRET not in str(error.value)


def test_a_push_may_come_with_the_reply_and_in_pieces():
    whole = push("vehicle:1", "vehicle:2", "route_stops:9")
    pieces = iter([whole[30:], SILENCE])

    def answer(command: list[bytes]) -> bytes | None:
        if b"TRACKING" in command:
            return OK + push("vehicle:2", "eta:active_model") + whole[:30]
        return next(pieces) if command == [b"PING"] else answers()(command)

    with fake_server(answer) as server, ChangeFeed(config_of(server.port)) as feed:
        assert feed.take() == Changes([b"vehicle:2"], [], True, False)
        feed._sock.send(changes_module._PING)
        assert feed.wait(ANY)
        assert feed.take() == Changes([b"vehicle:1", b"vehicle:2"], [b"route_stops:9"], False, False)


def test_keys_come_once_in_the_order_of_their_first_announcement():
    routes = push("route_stops:1") * 2 + push("direction_stops:0:1")
    pushes = push("vehicle:3", "vehicle:1") + push("vehicle:2", "vehicle:3") + routes
    with fake_server(answers(TRACKING=OK + pushes)) as server, ChangeFeed(config_of(server.port)) as feed:
        assert feed.wait(0)
        assert feed.take() == Changes(
            [b"vehicle:3", b"vehicle:1", b"vehicle:2"], [b"route_stops:1", b"direction_stops:0:1"], False, False
        )
        assert feed.take() == Changes([], [], False, False)


def test_what_one_take_cannot_hold_comes_with_the_next(monkeypatch):
    monkeypatch.setattr(changes_module, "RECEIVE_BYTES", 64)
    monkeypatch.setattr(changes_module, "MAX_RECEIVES", 2)
    keys = [f"vehicle:{i}" for i in range(100)]
    answer = answers(PING=push(*keys) + push("eta:active_model"))
    with fake_server(answer) as server, ChangeFeed(config_of(server.port)) as feed:
        feed._sock.send(changes_module._PING)
        found: list[bytes] = []
        is_complete = False
        while not is_complete and feed.wait(ANY):
            changes = feed.take()
            found += changes.vehicles
            is_complete = changes.models
    assert found == [key.encode() for key in keys]


def test_other_keys_and_other_pushes_are_nothing():
    others = push("eta:active_model:history", "vehicles", "predictions:1")
    others += b">2\r\n$10\r\ninvalidate\r\n*0\r\n>1\r\n$6\r\nMOVING\r\n"
    with fake_server(answers(TRACKING=OK + others)) as server, ChangeFeed(config_of(server.port)) as feed:
        assert not feed.wait(0)
        assert feed.take() == Changes([], [], False, False)


@pytest.fixture
def silent_at_first() -> Answer:
    """The first PING gets no answer, later ones do."""
    n_pings = 0

    def answer(command: list[bytes]) -> bytes | None:
        nonlocal n_pings
        if command != [b"PING"]:
            return answers()(command)
        n_pings += 1
        return SILENCE if n_pings == 1 else PONG

    return answer


@pytest.mark.usefixtures("impatient")
def test_a_connection_that_died_without_a_sign_is_opened_again(silent_at_first):
    with fake_server(silent_at_first) as server, ChangeFeed(config_of(server.port)) as feed:
        assert feed.wait(ANY)
        assert feed.take().lost
        assert server.n_connections == 2


@pytest.mark.usefixtures("impatient")
def test_a_silent_connection_that_answers_stays():
    n_pings = 0

    def answer(command: list[bytes]) -> bytes | None:
        nonlocal n_pings
        if command != [b"PING"]:
            return answers()(command)
        n_pings += 1
        return PONG + (push("vehicle:1") if n_pings == 5 else b"")

    with fake_server(answer) as server, ChangeFeed(config_of(server.port)) as feed:
        assert feed.wait(ANY)
        assert feed.take() == Changes([b"vehicle:1"], [], False, False)
        assert server.n_connections == 1


def test_garbage_is_a_lost_connection():
    first = iter([OK + push("vehicle:1") + b"HTTP/1.1 400 Bad Request\r\n\r\n"])

    def answer(command: list[bytes]) -> bytes | None:
        return next(first, OK) if b"TRACKING" in command else answers()(command)

    with fake_server(answer) as server:
        with pytest.raises(RedisUnavailableError):
            ChangeFeed(config_of(server.port))
        with ChangeFeed(config_of(server.port)) as feed:
            assert not feed.wait(0)


def test_a_server_that_comes_back_without_tracking_is_named():
    first = iter([OK])

    def answer(command: list[bytes]) -> bytes | None:
        if b"TRACKING" in command:
            return next(first, b"-ERR unknown command\r\n")
        return HANG_UP if command == [b"PING"] else answers()(command)

    with fake_server(answer) as server, ChangeFeed(config_of(server.port)) as feed:
        feed._sock.send(changes_module._PING)
        with pytest.raises(TrackingUnavailableError, match="unknown command"):
            feed.wait(ANY)


def test_a_closed_feed_stays_closed():
    with fake_server(answers()) as server:
        feed = ChangeFeed(config_of(server.port))
        feed.close()
        feed.close()
        with pytest.raises(ValueError, match="closed"):
            feed.take()
        assert server.n_connections == 1
