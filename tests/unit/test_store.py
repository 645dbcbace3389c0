"""What is sent to Redis, what is said when it refuses, and what is never said."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, RedisUnavailableError
from etacore.store.server import RedisServer
from etacore.store.store import KEYS_PER_CALL, RedisStore
from tests.fake_server import OK, fake_server

ALLOWED = ("+client|setname", "+client|setinfo", "+ping", "+select")
"""What redis-py asks of any connection; Redis knows the second from 7.2 on."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(tcp=True) as running:
        yield running


def store_of(server: RedisServer, *rules: str) -> RedisStore:
    """A store whose user may do just this."""
    client = server.client()
    allowed = [rule for rule in ALLOWED if is_known(client, rule)]
    client.execute_command("ACL", "SETUSER", "visitor", "reset", "on", ">s3cr3t", *allowed, *rules)
    client.execute_command("CLIENT", "KILL", "USER", "visitor")
    return RedisStore(
        RuntimeConfig(redis_host="127.0.0.1", redis_port=server.port, redis_username="visitor", redis_password="s3cr3t")
    )


def is_known(client: redis.Redis, rule: str) -> bool:
    """Whether the server knows the command that an ACL rule permits: Redis 7.0 refuses the rule otherwise."""
    try:
        client.execute_command("ACL", "SETUSER", "nobody", rule)
    except redis.ResponseError as error:
        if "Unknown command" not in str(error):
            raise
        return False
    return True


def write(store: RedisStore, *commands: memoryview) -> list[int]:
    """Positions of the commands that failed."""
    store.begin_write(memoryview(b"".join(commands)), len(commands))
    return store.finish_write()[0]


def set_command(key: bytes) -> memoryview:
    return memoryview(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$1\r\n1\r\n" % (len(key), key))


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://host:6380/3", "host:6380/3"),
        ("redis://host", "host:6379/0"),
        ("redis://u:s3cr@et@host:6379/0", "host:6379/0"),
        ("redis://host:6379/0?username=u&password=s3cr@et", "host:6379/0"),
        ("redis://u:s3cr%40et@host:6379?db=2", "host:6379/2"),
        ("rediss://:s3cr@et@host:1/0", "host:1/0"),
        ("redis://[::1]:6379/0", "[::1]:6379/0"),
        ("unix:///run/redis.sock?password=s3cr@et", "/run/redis.sock"),
        ("unix://u:s3cret@/run/redis.sock?db=1", "/run/redis.sock"),
    ],
)
def test_the_address_holds_no_part_of_the_secret(url: str, where: str) -> None:
    with RedisStore(RuntimeConfig(redis_url=url)) as store:
        assert store.where == where


def test_the_address_of_separate_settings() -> None:
    with RedisStore(RuntimeConfig(redis_host="there", redis_port=7, redis_db=2, redis_password="x")) as store:
        assert store.where == "there:7/2"


def test_an_announcement_is_stored_without_an_end_and_taken_away(server: RedisServer) -> None:
    with server.client() as client, store_of(server, "allcommands", "allkeys") as store:
        client.delete("eta:active_model")
        assert store.active_model() is None
        store.announce_model(b"{}")
        assert (store.active_model(), client.ttl("eta:active_model")) == (b"{}", -1)
        store.announce_model(None)
        assert store.active_model() is None


def test_a_store_that_is_left_has_no_connection_any_more(server: RedisServer, wait_until: Callable[..., None]) -> None:
    def n_connections() -> int:
        return sum(connection["user"] == "visitor" for connection in client.client_list())

    with server.client() as client:
        with store_of(server, "allcommands", "allkeys") as store:
            store.ping()
            store.fetch([b"a"])
            store.snapshots([b"a"])
            assert write(store, set_command(b"a")) == []
            assert n_connections() >= 2
        wait_until(lambda: n_connections() == 0, what="the end of its connections")


def test_the_version_is_for_those_who_may_ask(server: RedisServer) -> None:
    with store_of(server) as store:
        store.ping()
        assert store.server_version() is None
    with store_of(server, "+info") as store:
        said = server.client().info("server")
        valkey = said.get("valkey_version")
        assert store.server_version() == (f"Valkey {valkey}" if valkey else f"Redis {said['redis_version']}")


def test_wrong_credentials_are_called_so(server: RedisServer) -> None:
    store_of(server).close()
    config = RuntimeConfig(
        redis_host="127.0.0.1", redis_port=server.port, redis_username="visitor", redis_password="guess"
    )
    with RedisStore(config) as store, pytest.raises(ConfigError, match="refuses our credentials") as caught:
        store.ping()
    assert "guess" not in str(caught.value)


def test_a_command_that_is_not_permitted_is_named(server: RedisServer) -> None:
    with store_of(server, "~predictions:*") as store:
        with pytest.raises(ConfigError, match="the user may not run SCAN"):
            store.scan_vehicle_keys()
        with pytest.raises(ConfigError, match="the user may not run MGET on vehicle:1"):
            store.fetch([b"vehicle:1"])
        with pytest.raises(ConfigError, match="the user may not run TYPE on vehicle:1"):
            store.not_strings([b"vehicle:1"])
    with store_of(server, "+mget", "~predictions:*") as store:
        with pytest.raises(ConfigError, match="the user may not run MGET on vehicle:1"):
            store.fetch([b"vehicle:1"])
        assert store.fetch([b"predictions:none"]) == [None]
    with store_of(server, "-client") as store, pytest.raises(ConfigError, match="the user may not run CLIENT"):
        store.ping()


@pytest.mark.parametrize("rules", [("+mget", "allkeys"), ("+mget", "+set", "~vehicle:*")])
def test_a_write_that_is_not_permitted_is_named_after_all_replies(server: RedisServer, rules: tuple[str, ...]) -> None:
    server.client().set("vehicle:old", b"old")
    with store_of(server, *rules) as store:
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"the user may not run SET on predictions:\*"):
                write(store, *[set_command(b"predictions:a")] * 3)
            assert store.fetch([b"vehicle:old"]) == [b"old"]


def test_other_errors_of_a_write_are_positions(server: RedisServer) -> None:
    with store_of(server, "allcommands", "allkeys") as store:
        wrong = memoryview(b"*2\r\n$3\r\nSET\r\n$1\r\nx\r\n")
        assert write(store, set_command(b"predictions:a"), wrong, set_command(b"predictions:b")) == [1]
        assert store.missing([b"predictions:a", b"x", b"predictions:b"]) == [1]


@pytest.mark.parametrize("n", [0, 1, KEYS_PER_CALL - 1, KEYS_PER_CALL, KEYS_PER_CALL + 1, 2 * KEYS_PER_CALL + 3])
def test_many_keys_are_asked_for_piece_by_piece_and_answered_as_one(server: RedisServer, n: int) -> None:
    keys = [b"vehicle:%d" % i for i in range(n)]
    lists = {i for i in (1, 7, KEYS_PER_CALL - 1, KEYS_PER_CALL + 2, 2 * KEYS_PER_CALL + 1) if i < n}
    gone = {i for i in (0, 8, KEYS_PER_CALL - 2, KEYS_PER_CALL, 2 * KEYS_PER_CALL + 2) if i < n}
    there = {key: b"%d" % i for i, key in enumerate(keys) if i not in lists | gone}
    with server.client() as client:
        client.flushall()
        with client.pipeline() as pipe:
            for key, value in there.items():
                pipe.set(key, value)
            for i in lists:
                pipe.rpush(keys[i], "x")
            pipe.execute()
        with store_of(server, "allcommands", "allkeys") as store:
            assert store.missing(keys) == sorted(gone)
            assert store.not_strings(keys) == [i in lists for i in range(n)]
            assert store.fetch(keys) == [there.get(key) for key in keys]
            if n:
                values = store.snapshots(keys)
                assert [values[i] for i in range(n)] == [there.get(key) for key in keys]
            assert sorted(store.scan_vehicle_keys()) == sorted(set(keys) - {keys[i] for i in gone})
            cursor, found = store.search_vehicle_keys(0)
            while cursor:
                cursor, more = store.search_vehicle_keys(cursor)
                found += more
            assert set(found) == set(keys) - {keys[i] for i in gone}
        client.flushall()


@pytest.mark.parametrize("piece", [0, 1, 2])
def test_keys_missing_in_one_piece_of_three(server: RedisServer, piece: int) -> None:
    keys = [b"predictions:%d" % i for i in range(2 * KEYS_PER_CALL + 2)]
    gone = [piece * KEYS_PER_CALL, piece * KEYS_PER_CALL + 1]
    with server.client() as client, store_of(server, "allcommands", "allkeys") as store:
        client.flushall()
        client.mset({key: b"1" for i, key in enumerate(keys) if i not in gone})
        assert store.missing(keys) == gone
        client.flushall()


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (b"-ERR out of luck\r\n", RedisUnavailableError, "answered: out of luck"),
        (b"-ERR AUTH failed: try another\r\n", ConfigError, "refuses our credentials"),
        (b"-NOAUTH Authentication required.\r\n", ConfigError, "wants a password, and none is given"),
        (b"-LOADING Redis is loading\r\n", RedisUnavailableError, "cannot be reached"),
    ],
)
def test_what_a_server_answers_is_told_apart(reply: bytes, error: type[Exception], says: str) -> None:
    def answer(command: list[bytes]) -> bytes:
        return reply if command[0].upper() == b"PING" else OK

    with (
        fake_server(answer) as fake,
        RedisStore(RuntimeConfig(redis_host="127.0.0.1", redis_port=fake.port)) as store,
        pytest.raises(error, match=says),
    ):
        store.ping()


def test_nobody_there() -> None:
    with (
        RedisStore(RuntimeConfig(redis_url="unix:///nowhere/redis.sock?password=s3cr@et")) as store,
        pytest.raises(RedisUnavailableError, match=r"/nowhere/redis\.sock cannot be reached") as caught,
    ):
        store.ping()
    assert "s3cr" not in str(caught.value)
