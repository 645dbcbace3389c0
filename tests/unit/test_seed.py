from pathlib import Path

import orjson
import pytest
import redis

from etacore.config import KeyNames, RuntimeConfig
from etacore.errors import RedisUnavailableError
from etacore.mlops.transit import seed as module
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.patterns import SEED_TTL_S, seed_pairs
from etacore.mlops.transit.run_starts import run_starts
from etacore.mlops.transit.seed import seed_redis
from etacore.store.store import connect
from tests.transit import write_feed


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return read_feed(write_feed(tmp_path / "feed"))


def test_every_key_of_the_feed_is_written_with_a_time_to_live(feed: Feed, redis_client: redis.Redis) -> None:
    pairs = dict(seed_pairs(feed.patterns, feed.trip_patterns(), feed.shapes, runs=run_starts(feed)))
    redis_client.set("vehicle:1", "stays")
    assert seed_redis(redis_client, feed) == len(pairs)
    assert {key: redis_client.get(key) for key in pairs} == pairs
    assert redis_client.dbsize() == len(pairs) + 1
    assert all(SEED_TTL_S - 60 < redis_client.ttl(key) <= SEED_TTL_S for key in pairs)
    stops = orjson.loads(redis_client.get("direction_stops:0:r1") or b"")["stops"]
    assert [stop["stop_id"] for stop in stops] == list("ABCD")
    assert redis_client.get("run_pattern:1:25:10:00:r1") == feed.trip_patterns()["back"].encode()


def test_renamed_keys_without_an_end(feed: Feed, redis_client: redis.Redis) -> None:
    seed_redis(redis_client, feed, keys=KeyNames(trip_pattern="my_trip:"), ttl_s=None)
    assert redis_client.get("my_trip:out") == feed.trip_patterns()["out"].encode()
    assert redis_client.ttl("my_trip:out") == -1
    assert not redis_client.exists("trip_pattern:out")


def test_it_writes_in_chunks_and_says_how_far_it_is(
    feed: Feed, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    seen: list[int] = []
    n = seed_redis(redis_client, feed, progress=lambda stage, done, total: seen.append(done))
    assert n > 8
    assert seen == [*range(4, n, 4), n]
    assert redis_client.dbsize() == n


def test_no_redis_is_one_clear_error(feed: Feed) -> None:
    with (
        connect(RuntimeConfig(redis_host="127.0.0.1", redis_port=1)) as client,
        pytest.raises(RedisUnavailableError, match=r"127\.0\.0\.1:1/0"),
    ):
        seed_redis(client, feed)
