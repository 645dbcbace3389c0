import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from etacore.errors import ConfigError
from etacore.mlops.transit.seeding import Seeder
from etacore.mlops.transit.seeding import ledger as seed_ledger
from etacore.mlops.transit.seeding.feed_place import FileSource
from etacore.mlops.transit.seeding.ledger import Manifest, SeedLedger, SeedLock, kinds_of
from tests.seeding import seeders
from tests.transit import write_feed


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    return write_feed(tmp_path / "feed.zip")


@pytest.fixture
def make(redis_client: redis.Redis) -> Iterator[Callable[..., Seeder]]:
    with SeedLock(redis_client, "default") as lock:
        yield seeders(redis_client, lock)


@pytest.fixture
def lock(redis_client: redis.Redis) -> Iterator[SeedLock]:
    with SeedLock(redis_client, "default") as lock:
        yield lock


def test_two_seeders_of_one_name_do_not_work_at_once(lock: SeedLock, redis_client: Any) -> None:
    with (
        pytest.raises(ConfigError, match=r"'default' .* is at work already: process \d+ on .*, since 20"),
        SeedLock(redis_client, "default"),
    ):
        pass
    with SeedLock(redis_client, "other"):
        pass
    assert redis_client.exists("eta:seed:default:lock")
    assert not redis_client.exists("eta:seed:other:lock")


def test_a_lock_is_kept_while_it_is_held_and_given_back(redis_client: Any, wait_until: Any) -> None:
    with SeedLock(redis_client, "default", lapse_s=0.3) as lock:
        redis_client.persist("eta:seed:default:lock")
        wait_until(lambda: redis_client.pttl("eta:seed:default:lock") > 0)
        redis_client.delete("eta:seed:default:lock")  # FLUSHALL
        wait_until(lambda: redis_client.exists("eta:seed:default:lock"))
        lock.check()
    assert not redis_client.exists("eta:seed:default:lock")


def test_who_has_lost_the_lock_stops_and_leaves_it_to_its_new_holder(
    feed: Path, redis_client: Any, wait_until: Any
) -> None:
    with SeedLock(redis_client, "default", lapse_s=0.03) as lock:
        redis_client.set("eta:seed:default:lock", "process 7 on elsewhere, since 2024 [abc]")

        def is_lost() -> bool:
            try:
                lock.check()
            except ConfigError as error:
                return "process 7 on elsewhere, since 2024" in str(error) and "abc" not in str(error)
            return False

        wait_until(is_lost)
        with pytest.raises(ConfigError, match="process 7"):
            Seeder(redis_client, FileSource(feed), "default", lock).look()
    assert redis_client.get("eta:seed:default:lock").startswith(b"process 7")
    assert not redis_client.exists("trip_pattern:out")


@pytest.mark.parametrize("name", ["", "a:b", "a b", "x" * 65, "é"])
def test_a_name_is_part_of_a_key(name: str, redis_client: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be called"):
        SeedLedger(redis_client, name)
    with pytest.raises(ConfigError, match="cannot be called"):
        SeedLock(redis_client, name)


@pytest.mark.parametrize(
    "part", [b"no zlib", zlib.compress(b"[1, 2]"), zlib.compress(b"{}"), zlib.compress(b'["a"]')[:-4]]
)
def test_a_list_of_keys_that_is_none_says_what_to_do(part: bytes, feed: Path, make: Any, redis_client: Any) -> None:
    redis_client.rpush("eta:seed:default:keys", part)
    with pytest.raises(ConfigError, match="DEL eta:seed:default:keys"):
        make(feed).look()
    redis_client.delete("eta:seed:default:keys")
    assert make(feed).look().is_changed


def test_a_list_of_keys_does_not_fill_the_memory(redis_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_ledger, "MAX_KEY_LIST_BYTES", 1000)
    redis_client.rpush("eta:seed:default:keys", zlib.compress(orjson.dumps(["x" * 2000])))
    with pytest.raises(ConfigError, match="no list of keys"):
        list(SeedLedger(redis_client, "default").key_lists())


def test_a_manifest_survives_its_json(feed: Path, make: Any) -> None:
    manifest = make(feed).look().manifest
    assert Manifest.from_json(manifest.to_json()) == manifest
    for text in (None, b"", b"{}", b"[]", b"3", b'{"unfinished":true}'):
        assert Manifest.from_json(text) is None


def test_kinds_are_told_by_the_longest_prefix() -> None:
    prefixes = {"route_stops": "r:", "trip_pattern": "r:trip:"}
    assert kinds_of(["r:1", "r:trip:1", "r:trip:2", "x"], prefixes) == {"route_stops": 1, "trip_pattern": 2, "other": 1}
