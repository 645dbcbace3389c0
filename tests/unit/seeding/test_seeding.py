import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from etacore.config import KeyNames
from etacore.errors import FeedError, SeedingStoppedError
from etacore.mlops.transit import seed
from etacore.mlops.transit.gtfs import read_feed
from etacore.mlops.transit.seed import seed_redis
from etacore.mlops.transit.seeding import RETIRED_S, Seeded
from etacore.mlops.transit.seeding import seeder as seeding
from etacore.mlops.transit.seeding.feed_download import AddressSource
from etacore.mlops.transit.seeding.ledger import SEEDINGS, SeedLedger
from tests.feed_server import Answer, FeedServer
from tests.seeding import pairs_of
from tests.transit import write_feed


def held_by(client: Any, pairs: dict[str, bytes]) -> dict[str, bytes | None]:
    return {key: client.get(key) for key in pairs}


def writes(client: Any) -> set[str]:
    """Commands since `CONFIG RESETSTAT` that write."""
    ran = {name.removeprefix("cmdstat_").split("|")[0] for name in client.info("commandstats")}
    return ran & {"set", "hset", "hsetnx", "rpush", "del", "unlink", "expire", "rename", "mset"}


def test_patterns_come_before_what_names_them(feed: Path) -> None:
    is_pattern = [key.startswith(("pattern_stops:", "pattern_shape:")) for key in pairs_of(feed)]
    assert is_pattern == sorted(is_pattern, reverse=True)
    assert any(is_pattern)
    assert not all(is_pattern)


def test_a_feed_is_written_and_remembered(feed: Path, make: Any, redis_client: Any) -> None:
    redis_client.set("vehicle:1", "stays")
    seeded = make(feed).look()
    pairs = pairs_of(feed)
    assert held_by(redis_client, pairs) == pairs
    assert {redis_client.ttl(key) for key in pairs} == {-1}
    assert seeded.is_changed
    assert seeded.n_new == seeded.manifest.n_keys
    assert sum(seeded.n_new.values()) == len(pairs)
    assert (seeded.n_gone, seeded.n_shared, seeded.before) == ({}, {}, None)
    held = seeded.manifest
    assert (held.source, held.n_routes, held.n_patterns, held.n_trips) == (str(feed), 2, 3, 3)
    ledger = SeedLedger(redis_client, "default")
    assert ledger.manifest() == held
    assert {key for part in ledger.key_lists() for key in part} == set(pairs)
    assert not ledger.is_interrupted()
    ours = {b"eta:seed", b"eta:seed:default:keys", b"eta:seed:default:lock", b"vehicle:1"}
    assert set(redis_client.keys()) == ours | {key.encode() for key in pairs}


def test_a_feed_that_has_not_changed_is_neither_read_nor_written(
    feed: Path, make: Any, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(feed).look()
    monkeypatch.setattr(seeding, "read_feed", lambda path: pytest.fail("was read"))
    redis_client.config_resetstat()
    again = make(feed).look()
    assert writes(redis_client) == set()
    assert again == Seeded(manifest=first.manifest, is_changed=False)


def test_the_same_feed_at_another_place_is_not_read_either(
    feed: Path, make: Any, redis_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(feed).look()
    monkeypatch.setattr(seeding, "read_feed", lambda path: pytest.fail("was read"))
    moved = feed.rename(tmp_path / "moved.zip")
    assert not make(moved).look().is_changed
    manifest = SeedLedger(redis_client, "default").manifest()
    assert manifest is not None
    assert manifest.source == str(moved)


def lose_a_key(client: Any, _feed: Path) -> None:
    client.delete("trip_pattern:out")


def lose_all_keys(client: Any, _feed: Path) -> None:
    client.flushdb()


def seed_for_a_day(client: Any, feed: Path) -> None:
    seed_redis(client, read_feed(feed))


def seed_by_another_version(client: Any, _feed: Path) -> None:
    manifest = orjson.loads(client.hget(SEEDINGS, "default"))
    client.hset(SEEDINGS, "default", orjson.dumps(manifest | {"etacore_version": "0.0.1"}))


def lose_the_manifest(client: Any, _feed: Path) -> None:
    client.hset(SEEDINGS, "default", b"[1, 2")


@pytest.mark.parametrize(
    "spoil", [lose_a_key, lose_all_keys, seed_for_a_day, seed_by_another_version, lose_the_manifest]
)
def test_what_redis_lacks_is_written_again(spoil: Any, feed: Path, make: Any, redis_client: Any) -> None:
    seeder = make(feed)
    seeder.look()
    spoil(redis_client, feed)
    assert seeder.look().is_changed
    pairs = pairs_of(feed)
    assert held_by(redis_client, pairs) == pairs
    assert {redis_client.ttl(key) for key in pairs} == {-1}
    assert not make(feed).look().is_changed


def test_other_names_or_another_time_to_live_are_written_and_the_keys_of_before_go(
    feed: Path, make: Any, redis_client: Any
) -> None:
    make(feed).look()
    seeded = make(feed, keys=KeyNames(trip_pattern="my_trip:")).look()
    assert redis_client.exists("my_trip:out", "my_trip:back", "my_trip:loop") == 3
    assert not redis_client.exists("trip_pattern:out", "trip_pattern:back", "trip_pattern:loop")
    assert seeded.n_new == {"trip_pattern": 3}
    assert seeded.n_gone == {"other": 3}
    make(feed, ttl_s=1000).look()
    assert all(0 < redis_client.ttl(key) <= 1000 for key in pairs_of(feed))


def test_the_next_version_takes_the_place_of_the_one_before(
    feed: Path, next_feed: Path, make: Any, redis_client: Any
) -> None:
    redis_client.mset({"trip_pattern:foreign": "p", "route_stops:foreign": "[]"})
    first = make(feed).look()
    seeded = make(next_feed).look()
    before, after = pairs_of(feed), pairs_of(next_feed)
    assert held_by(redis_client, after) == after
    assert {redis_client.ttl(key) for key in after} == {-1}
    gone = before.keys() - after.keys()
    patterns = {key for key in gone if key.startswith("pattern_")}
    assert redis_client.exists(*(gone - patterns)) == 0
    assert all(0 < redis_client.ttl(key) <= RETIRED_S for key in patterns)  # loops may know their trips
    assert redis_client.exists("trip_pattern:foreign", "route_stops:foreign") == 2
    assert sum(seeded.n_gone.values()) == len(gone)
    assert seeded.n_gone["trip_pattern"] == 1
    assert sum(seeded.n_new.values()) == len(after.keys() - before.keys())
    assert seeded.before == first.manifest
    back = make(feed).look()
    assert back.is_changed
    assert held_by(redis_client, before) == before
    assert {redis_client.ttl(key) for key in before} == {-1}


def test_a_trip_has_stops_at_every_moment_of_a_swap(
    feed: Path, next_feed: Path, make: Any, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(feed).look()
    monkeypatch.setattr(seed, "CHUNK", 1)
    monkeypatch.setattr(seeding, "CHUNK", 1)
    before = {key: redis_client.get(key) for key in ("trip_pattern:out", "trip_pattern:back")}
    moments: list[str] = []

    def look(stage: str, done: int, total: int) -> None:
        moments.append(stage)
        for key in ("trip_pattern:out", "trip_pattern:back"):
            pattern = redis_client.get(key).decode()
            assert redis_client.exists(f"pattern_stops:{pattern}"), (stage, done, key)
            assert redis_client.exists(f"pattern_stops:{before[key].decode()}"), (stage, done, key)  # a loop's view
        assert redis_client.exists("route_stops:r1"), (stage, done)

    make(next_feed, progress=look).look()
    assert moments.count("writing keys") == len(pairs_of(next_feed))
    assert moments.count("removing keys of before") == len(pairs_of(feed).keys() - pairs_of(next_feed).keys())
    assert redis_client.get("trip_pattern:back") != before["trip_pattern:back"]


def test_feeds_side_by_side_remove_only_their_own_keys(
    feed: Path, next_feed: Path, make: Any, redis_client: Any
) -> None:
    make(feed, "east").look()
    west = make(feed, "west").look()
    pairs = pairs_of(feed)
    assert west.n_shared == {"east": len(pairs)}
    assert make(next_feed, "west").look().n_gone == {}  # all that is gone is of the east, too
    assert redis_client.exists(*pairs) == len(pairs)
    assert {redis_client.ttl(key) for key in pairs} == {-1}
    assert make(next_feed, "east").look().n_gone != {}
    assert not redis_client.exists("trip_pattern:loop")


class InterruptedSeedingError(Exception):
    pass


def interrupted_after(n_keys: int) -> Any:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "writing keys" and done >= n_keys:
            raise InterruptedSeedingError

    return interrupt


def test_an_interrupted_swap_is_finished_or_taken_back_by_the_next_look(
    feed: Path, next_feed: Path, make: Any, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = pairs_of(feed), pairs_of(next_feed)
    first = make(feed).look()
    monkeypatch.setattr(seed, "CHUNK", 1)
    for _ in range(2):  # twice in a row
        with pytest.raises(InterruptedSeedingError):
            make(next_feed, progress=interrupted_after(len(after))).look()
        ledger = SeedLedger(redis_client, "default")
        assert ledger.manifest() == first.manifest
        assert {key for part in ledger.key_lists() for key in part} == before.keys() | after.keys()
    back = make(feed).look()  # the feed of before, but not all keys are its own
    assert back.is_changed
    assert held_by(redis_client, before) == before
    assert not redis_client.exists("trip_pattern:more")
    with pytest.raises(InterruptedSeedingError):
        make(next_feed, progress=interrupted_after(3)).look()
    make(next_feed).look()
    assert held_by(redis_client, after) == after
    assert not redis_client.exists("trip_pattern:loop")
    assert not SeedLedger(redis_client, "default").is_interrupted()


def test_what_was_interrupted_before_an_interruption_is_not_forgotten(
    feed: Path, next_feed: Path, make: Any, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(feed).look()
    monkeypatch.setattr(seed, "CHUNK", 1)
    for path, n_keys in ((next_feed, len(pairs_of(next_feed))), (feed, 2)):
        with pytest.raises(InterruptedSeedingError):
            make(path, progress=interrupted_after(n_keys)).look()
    assert redis_client.exists("trip_pattern:more")
    make(feed).look()
    assert not redis_client.exists("trip_pattern:more")


def test_the_very_first_seeding_may_be_interrupted_too(
    feed: Path, next_feed: Path, make: Any, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed, "CHUNK", 1)
    with pytest.raises(InterruptedSeedingError):
        make(feed, progress=interrupted_after(len(pairs_of(feed)))).look()
    assert SeedLedger(redis_client, "default").manifest() is None
    make(next_feed).look()
    assert not redis_client.exists("trip_pattern:loop")


def test_it_stops_at_the_next_chunk(feed: Path, make: Any, redis_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed, "CHUNK", 1)
    stop = threading.Event()

    def stop_after_four(stage: str, done: int, total: int) -> None:
        if done == 4:
            stop.set()

    with pytest.raises(SeedingStoppedError, match="run it again"):
        make(feed, stop=stop, progress=stop_after_four).look()
    assert redis_client.exists(*pairs_of(feed)) == 4


def test_a_refused_feed_leaves_everything_as_it_was(feed: Path, make: Any, redis_client: Any, tmp_path: Path) -> None:
    make(feed).look()
    with FeedServer() as server:
        bad = write_feed(tmp_path / "bad.zip", {"stops.txt": None})
        server.answers["/gtfs.zip"] = Answer(bad.read_bytes())
        with pytest.raises(FeedError) as error:
            make(AddressSource(server.url("/gtfs.zip?key=open-sesame"))).look()
        assert error.value.message.startswith(f"{server.url('/gtfs.zip?...')}: stops.txt is missing")
    assert held_by(redis_client, pairs_of(feed)) == pairs_of(feed)
    assert not make(feed).look().is_changed


def test_an_address_is_asked_for_what_is_new_also_by_another_process(
    feed: Path, next_feed: Path, make: Any, redis_client: Any
) -> None:
    with FeedServer() as server:
        server.answers["/gtfs.zip"] = Answer(feed.read_bytes(), headers={"ETag": '"one"'})
        make(AddressSource(server.url())).look()
        assert not make(AddressSource(server.url())).look().is_changed
        assert server.asked[-1][1]["if-none-match"] == '"one"'
        for agency in "12":  # these look alike where no query is shown
            make(AddressSource(server.url(f"/gtfs.zip?agency={agency}"))).look()
            assert "if-none-match" not in server.asked[-1][1]
        server.answers["/gtfs.zip"] = Answer(next_feed.read_bytes(), headers={"ETag": '"two"'})
        seeded = make(AddressSource(server.url())).look()
        assert seeded.is_changed
        assert seeded.manifest.etag == '"two"'
        redis_client.delete("trip_pattern:out")  # then it is not enough that nothing changed
        assert make(AddressSource(server.url())).look().is_changed
        assert redis_client.exists("trip_pattern:out")


def test_the_time_to_live_is_renewed_by_a_look(feed: Path, make: Any, redis_client: Any) -> None:
    make(feed, ttl_s=1000).look()
    for key in pairs_of(feed):
        redis_client.expire(key, 10)
    assert not make(feed, ttl_s=1000).look().is_changed
    assert all(10 < redis_client.ttl(key) <= 1000 for key in pairs_of(feed))


def test_chunks_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed, "CHUNK_BYTES", 10)
    pairs = [("a", b"x" * 4), ("b", b"x" * 4), ("c", b"x" * 4), ("d", b"x" * 99), ("e", b"")]
    assert [[key for key, _ in chunk] for chunk in seed.chunks_of(pairs)] == [["a", "b", "c"], ["d"], ["e"]]
