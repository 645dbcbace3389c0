"""The change feed against a real Redis."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, RedisUnavailableError, TrackingUnavailableError
from etacore.finding import Finding
from etacore.loop.doctor import examine
from etacore.store.changes import CLIENT_NAME, ChangeFeed, Changes
from etacore.store.server import RedisServer
from tests.fake_server import OK, PONG, fake_server

ANY = 60.0
"""Seconds: far more than anything here takes."""
NOTHING = Changes([], [], False, False)


@pytest.fixture
def feed(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[ChangeFeed]:
    with ChangeFeed(RuntimeConfig(redis_url=redis_server.url)) as opened:
        yield opened


def next_of(feed: ChangeFeed) -> Changes:
    assert feed.wait(ANY)
    return feed.take()


def collect(feed: ChangeFeed, n_vehicles: int) -> list[bytes]:
    """What is announced until so many different vehicles have been."""
    found: dict[bytes, None] = {}
    while len(found) < n_vehicles and feed.wait(ANY):
        found |= dict.fromkeys(feed.take().vehicles)
    return list(found)


def kill_feed(client: redis.Redis) -> None:
    for entry in client.client_list():
        if entry["name"] == CLIENT_NAME:
            client.client_kill_filter(_id=entry["id"])


def test_it_connects_anew_when_told(feed, redis_client):
    (before,) = (entry["id"] for entry in redis_client.client_list() if entry["name"] == CLIENT_NAME)
    feed.reconnect()
    assert next_of(feed).lost
    (after,) = (entry["id"] for entry in redis_client.client_list() if entry["name"] == CLIENT_NAME)
    assert after != before
    redis_client.set("vehicle:1", "x")
    assert next_of(feed).vehicles == [b"vehicle:1"]


def test_silence_is_nothing(feed):
    assert not feed.wait(0)
    assert feed.take() == NOTHING


def test_4_000_of_4_000_changes_are_announced(feed, redis_server):
    def produce() -> None:
        with redis_server.client() as producer:
            for i in range(4_000):
                producer.set(f"vehicle:{i}", "x")

    producer = threading.Thread(target=produce)
    producer.start()
    found = collect(feed, 4_000)
    producer.join()
    assert found == [b"vehicle:%d" % i for i in range(4_000)]
    assert feed.take() == NOTHING


def in_pipeline(client: redis.Redis, transaction: bool) -> None:
    with client.pipeline(transaction=transaction) as pipe:
        for i in range(4_000):
            pipe.set(f"vehicle:{i}", "x", ex=300)
        pipe.execute()


@pytest.mark.parametrize(
    "produce",
    [
        lambda client: in_pipeline(client, transaction=False),
        lambda client: in_pipeline(client, transaction=True),
        lambda client: client.mset({f"vehicle:{i}": "x" for i in range(4_000)}),
        lambda client: client.eval("for i = 0, 3999 do redis.call('SET', 'vehicle:' .. i, 'x') end", 0),
    ],
    ids=["pipeline", "multi", "mset", "script"],
)
def test_bursts_are_announced_completely(feed, redis_client, produce):
    produce(redis_client)
    assert sorted(collect(feed, 4_000)) == sorted(b"vehicle:%d" % i for i in range(4_000))
    assert feed.take() == NOTHING


@pytest.mark.parametrize(
    "change",
    [
        lambda client: client.delete("vehicle:1"),
        lambda client: client.unlink("vehicle:1"),
        lambda client: client.pexpire("vehicle:1", 1),
        lambda client: client.rename("vehicle:1", "elsewhere"),
        lambda client: client.append("vehicle:1", "x"),
        lambda client: client.copy("vehicle:1", "vehicle:1", destination_db=1),
    ],
    ids=["del", "unlink", "expire", "rename", "append", "copy"],
)
def test_every_kind_of_change_is_announced(feed, redis_client, change):
    redis_client.set("vehicle:1", "x")
    assert next_of(feed).vehicles == [b"vehicle:1"]
    change(redis_client)
    assert next_of(feed).vehicles == [b"vehicle:1"]


def test_expiry_is_announced_when_it_happens(feed, redis_client):
    for lifetime_ms in (50, 500, 5_000):
        redis_client.set("vehicle:1", "x", px=lifetime_ms)
        assert collect(feed, 1)
        if redis_client.exists("vehicle:1"):
            break
    assert next_of(feed).vehicles == [b"vehicle:1"]
    assert not redis_client.exists("vehicle:1")


def test_kinds_of_keys_are_told_apart(feed, redis_client):
    for key in ("predictions:1", "eta:active_model:old", "vehicles", "vehicle:1", "route_stops:7", "vehicle:1"):
        redis_client.set(key, "x")
    redis_client.delete("eta:active_model")
    redis_client.set("direction_stops:0:7", "x")
    redis_client.set("route_stops:8", "x")
    routes: list[bytes] = []
    vehicles: list[bytes] = []
    while b"route_stops:8" not in routes:
        changes = next_of(feed)
        assert not changes.models
        vehicles += changes.vehicles
        routes += changes.routes
    assert set(vehicles) == {b"vehicle:1"}
    assert routes == [b"route_stops:7", b"direction_stops:0:7", b"route_stops:8"]
    redis_client.set("eta:active_model", "{}")
    assert next_of(feed) == Changes([], [], True, False)
    redis_client.delete("eta:active_model")
    assert next_of(feed) == Changes([], [], True, False)


@pytest.mark.parametrize("flush", ["flushall", "flushdb"])
def test_a_flush_means_look_at_everything(feed, redis_client, flush):
    redis_client.set("vehicle:1", "x")
    assert collect(feed, 1)
    getattr(redis_client, flush)()
    assert next_of(feed) == Changes([], [], False, True)
    assert feed.take() == NOTHING


def test_other_databases_are_announced_too(feed, redis_server):
    with redis_server.client(db=3) as elsewhere:
        elsewhere.set("vehicle:1", "x")
    assert next_of(feed).vehicles == [b"vehicle:1"]


def test_a_killed_connection_comes_back_and_says_so(feed, redis_client):
    kill_feed(redis_client)
    assert next_of(feed) == Changes([], [], False, True)
    redis_client.set("vehicle:1", "x")
    assert next_of(feed) == Changes([b"vehicle:1"], [], False, False)


def test_take_alone_notices_a_lost_connection(feed, redis_client, wait_until):
    kill_feed(redis_client)
    wait_until(lambda: feed.take().lost)


def test_an_output_buffer_that_overflows_means_look_at_everything(private_redis):
    with private_redis.client() as client, ChangeFeed(RuntimeConfig(redis_url=private_redis.url)) as feed:
        client.config_set("client-output-buffer-limit", "normal 65536 65536 0")
        client.mset({f"vehicle:{i:032d}": "x" for i in range(20_000)})
        assert next_of(feed).lost
        client.set("vehicle:1", "x")
        assert b"vehicle:1" in next_of(feed).vehicles


def test_an_outage_is_an_error_until_it_is_over(private_redis):
    with private_redis.client() as client, ChangeFeed(RuntimeConfig(redis_url=private_redis.url)) as feed:
        client.set("vehicle:1", "x")
        assert feed.wait(ANY)
        private_redis.kill()
        for _ in range(2):
            with pytest.raises(RedisUnavailableError, match=str(private_redis.socket_path)):
                feed.take()
        private_redis.start()
        assert feed.wait(ANY)
        assert feed.take() == Changes([b"vehicle:1"], [], False, True)
        client.set("vehicle:2", "x")
        assert next_of(feed) == Changes([b"vehicle:2"], [], False, False)


def test_a_password_over_tcp(locked_redis):
    secret = locked_redis.password or ""
    with ChangeFeed(RuntimeConfig(redis_port=locked_redis.port, redis_password=secret)) as feed:
        with locked_redis.client() as client:
            client.set("vehicle:1", "x")
        assert next_of(feed).vehicles == [b"vehicle:1"]
    with pytest.raises(ConfigError, match="refuses our credentials") as error:
        ChangeFeed(RuntimeConfig(redis_port=locked_redis.port, redis_password=secret + "wrong"))
    assert secret not in str(error.value)


@pytest.fixture
def no_tracking(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[RuntimeConfig]:
    """A user that may do everything but CLIENT (except the name, which every connection sets)."""
    redis_client.execute_command(
        "ACL", "SETUSER", "watcher", "on", ">open-sesame-42", "~*", "&*", "+@all", "-client", "+client|setname"
    )
    yield RuntimeConfig(redis_url=redis_server.url, redis_username="watcher", redis_password="open-sesame-42")
    redis_client.execute_command("ACL", "DELUSER", "watcher")


def test_a_user_without_the_right_is_told_which(no_tracking):
    with pytest.raises(TrackingUnavailableError, match="user may not run CLIENT TRACKING") as refusal:
        ChangeFeed(no_tracking)
    assert "\n" not in refusal.value.message
    assert "client|tracking" in (refusal.value.hint or "")
    assert "open-sesame-42" not in str(refusal.value)


# -- TLS ------------------------------------------------------------------------------------------------------------


def test_tls(tls_port, redis_client):
    url = f"rediss://127.0.0.1:{tls_port}/0?ssl_cert_reqs=none&ssl_check_hostname=false"
    with ChangeFeed(RuntimeConfig(redis_url=url)) as feed:
        assert not feed.wait(0)
        redis_client.set("vehicle:1", "x")
        assert next_of(feed) == Changes([b"vehicle:1"], [], False, False)
        in_pipeline(redis_client, transaction=True)
        assert len(collect(feed, 4_000)) == 4_000
        kill_feed(redis_client)
        assert next_of(feed).lost


# -- doctor ---------------------------------------------------------------------------------------------------------


def events_of(config: RuntimeConfig) -> list[Finding]:
    return [finding for finding in examine(config) if finding.kind == "events"]


def test_doctor_tries_it_and_writes_nothing(redis_server, redis_client, tmp_path):
    before = redis_client.info("persistence")["rdb_changes_since_last_save"]
    config = RuntimeConfig(redis_url=redis_server.url, model_registry_dir=tmp_path)
    assert events_of(config) == [Finding("events", "", "ok", "client tracking works: changes are served as they come")]
    assert redis_client.info("persistence")["rdb_changes_since_last_save"] == before
    assert CLIENT_NAME not in {entry["name"] for entry in redis_client.client_list()}


def test_doctor_says_why_there_are_no_events(no_tracking):
    (finding,) = events_of(no_tracking)
    assert finding.severity == "warning"
    assert "CLIENT TRACKING" in finding.text
    assert "client|tracking" in finding.advice


def test_doctor_can_talk_to_a_server_from_before_resp3():
    def answer(command: list[bytes]) -> bytes | None:
        if command[0] == b"HELLO":
            return b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n"
        scanned = b"*2\r\n$1\r\n0\r\n*1\r\n$9\r\nvehicle:1\r\n"
        gone = {b"MGET": b"*1\r\n$-1\r\n", b"TYPE": b"+none\r\n"}
        return {b"PING": PONG, b"SCAN": scanned, b"INFO": b"$0\r\n\r\n", **gone}.get(command[0], OK)

    with fake_server(answer) as server:
        found = {finding.kind: finding for finding in examine(RuntimeConfig(redis_port=server.port))}
    assert found["redis"].severity == found["vehicles"].severity == "ok"
    assert found["events"].severity == "warning"
    assert "HELLO 3" in found["events"].text


def test_doctor_says_nothing_of_events_where_there_is_no_redis():
    assert not events_of(RuntimeConfig(redis_port=1))
