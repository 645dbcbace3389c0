import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import redis

from etacore.config import KeyNames
from etacore.errors import ConfigError, EtacoreError, FeedError, FeedUnavailableError, SeedingStoppedError
from etacore.mlops.transit import seed, seed_ledger, seeding
from etacore.mlops.transit.feed_download import AddressSource
from etacore.mlops.transit.feed_place import FileSource
from etacore.mlops.transit.feed_source import FeedSource
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.seed import feed_pairs, seed_redis
from etacore.mlops.transit.seed_ledger import SEEDINGS, Manifest, SeedLedger, SeedLock, kinds_of
from etacore.mlops.transit.seeding import RETIRED_S, Seeded, Seeder
from tests.feed_server import Answer, FeedServer
from tests.transit import write_feed

# Trip `loop` is gone, `more` is new, and `back` has lost a stop: another pattern under the same trip id.
NEXT: dict[str, str | None] = {
    "trips.txt": "route_id,service_id,trip_id,direction_id,shape_id\nr1,S,out,0,line\nr1,S,back,1,\nr3,S,more,0,line\n",
    "stop_times.txt": "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n"
    "out,08:00:00,08:00:00,A,10\nout,08:03:00,08:03:00,B,20\nout,08:06:00,08:06:00,C,40\nout,08:09:00,08:09:00,D,50\n"
    "back,25:10:00,25:10:00,D,1\nback,25:16:00,25:16:00,B,3\nback,25:19:00,25:19:00,A,4\n"
    "more,09:00:00,09:00:00,A,1\nmore,09:03:00,09:03:00,D,2\n",
}


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    return write_feed(tmp_path / "feed.zip")


@pytest.fixture
def next_feed(tmp_path: Path) -> Path:
    return write_feed(tmp_path / "next.zip", NEXT)


@pytest.fixture
def lock(redis_client: redis.Redis) -> Iterator[SeedLock]:
    with SeedLock(redis_client, "default") as lock:
        yield lock


@pytest.fixture
def make(redis_client: redis.Redis, lock: SeedLock) -> Callable[..., Seeder]:
    def make(source: FeedSource | Path, name: str = "default", **options: Any) -> Seeder:
        if isinstance(source, Path):
            source = FileSource(source, settle_s=0)
        return Seeder(redis_client, source, name, lock, **options)

    return make


def pairs_of(path: Path) -> dict[str, bytes]:
    return dict(feed_pairs(read_feed(path)))


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


# -- watching -------------------------------------------------------------------------------------------------------


def test_a_watch_swaps_new_versions_and_says_once_what_is_wrong(
    feed: Path, next_feed: Path, make: Any, redis_client: Any, tmp_path: Path
) -> None:
    place, bad = tmp_path / "gtfs.zip", write_feed(tmp_path / "bad.zip", {"trips.txt": None})
    before, after = feed.read_bytes(), next_feed.read_bytes()
    place.write_bytes(before)
    stop = threading.Event()
    events = make(place, stop=stop).watch(0.01, retry_s=0.01)

    def following(change: Callable[[], object]) -> Seeded | EtacoreError:
        change()
        return cast("Seeded | EtacoreError", next(events))

    first = next(events)
    assert isinstance(first, Seeded)
    assert first.is_changed
    second = following(lambda: place.write_bytes(after))
    assert isinstance(second, Seeded)
    assert second.n_gone["trip_pattern"] == 1
    refused = following(lambda: bad.replace(place))
    assert isinstance(refused, FeedError)
    assert "trips.txt is missing" in refused.message
    assert redis_client.exists("trip_pattern:more")
    vanished = following(place.unlink)
    assert isinstance(vanished, FeedUnavailableError)
    third = following(lambda: place.write_bytes(before))
    assert isinstance(third, Seeded)
    assert third.is_changed
    assert redis_client.exists("trip_pattern:loop")
    lost = following(lambda: redis_client.delete("trip_pattern:loop"))
    assert isinstance(lost, Seeded)
    assert lost.is_changed
    stop.set()
    assert list(events) == []


def test_a_watch_says_when_what_was_refused_is_as_before(feed: Path, make: Any, tmp_path: Path) -> None:
    place = tmp_path / "gtfs.zip"
    good = feed.read_bytes()
    place.write_bytes(good)
    events = make(place).watch(0.01, retry_s=0.01)
    next(events)
    place.write_bytes(b"no zip")
    assert isinstance(next(events), FeedError)
    place.write_bytes(good)
    assert not next(events).is_changed


def test_a_watch_reads_a_refused_feed_once(
    feed: Path, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FeedServer() as server:
        answers = [feed.read_bytes()] + [write_feed(tmp_path / "bad.zip", {"trips.txt": None}).read_bytes()] * 4
        stop = threading.Event()
        read: list[Path] = []

        def remember(path: Path) -> Feed:
            read.append(path)
            return read_feed(path)

        monkeypatch.setattr(seeding, "read_feed", remember)

        def answer(n: int) -> Answer:
            if n == len(answers):
                stop.set()
            return Answer(answers[n - 1])

        server.answers["/gtfs.zip"] = answer
        events = list(make(AddressSource(server.url()), stop=stop).watch(0.001))
    assert [type(event) for event in events] == [Seeded, FeedError]
    assert len(read) == 2


def test_a_watch_needs_a_feed_or_what_it_wrote_before(feed: Path, make: Any, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.zip"
    with pytest.raises(FeedUnavailableError):
        next(make(nowhere).watch(0.01))
    make(feed).look()
    events = make(nowhere).watch(0.01, retry_s=0.01)
    assert isinstance(next(events), FeedUnavailableError)
    feed.replace(nowhere)
    assert not next(events).is_changed


def test_keys_do_not_lapse_while_a_download_takes_long(
    feed: Path, make: Any, redis_client: Any, wait_until: Any
) -> None:
    make(feed, ttl_s=1).look()
    redis_client.persist("trip_pattern:out")
    goes_on = threading.Event()
    with FeedServer() as server:
        server.answers["/gtfs.zip"] = Answer(feed.read_bytes(), wait_for=goes_on)
        stop = threading.Event()
        events = make(AddressSource(server.url()), ttl_s=1, stop=stop).watch(60)
        thread = threading.Thread(target=lambda: next(events))
        thread.start()
        try:
            wait_until(lambda: server.asked)
            for _ in range(2):
                redis_client.set("trip_pattern:out", "x")
                wait_until(lambda: redis_client.ttl("trip_pattern:out") != -1)
        finally:
            goes_on.set()
            thread.join()
            events.close()


def test_keys_that_stay_get_no_time_to_live_while_the_feed_that_should_follow_is_refused(
    feed: Path, make: Any, redis_client: Any, tmp_path: Path
) -> None:
    make(feed).look()
    bad = write_feed(tmp_path / "bad.zip", {"trips.txt": None})
    seeder = make(bad, ttl_s=1)
    renewals = threading.Semaphore(0)
    manifest = seeder._ledger.manifest

    def asked() -> Manifest | None:
        renewals.release()
        return cast("Manifest | None", manifest())

    events = seeder.watch(60)
    assert isinstance(next(events), FeedError)
    seeder._ledger.manifest = asked
    for _ in range(2):  # the second time the first one is over
        assert renewals.acquire(timeout=30)
    assert redis_client.ttl("trip_pattern:out") == -1
    events.close()


# -- one seeder at a time ---------------------------------------------------------------------------------------------


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


# -- what is remembered -----------------------------------------------------------------------------------------------


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


def test_chunks_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed, "CHUNK_BYTES", 10)
    pairs = [("a", b"x" * 4), ("b", b"x" * 4), ("c", b"x" * 4), ("d", b"x" * 99), ("e", b"")]
    assert [[key for key, _ in chunk] for chunk in seed.chunks_of(pairs)] == [["a", "b", "c"], ["d"], ["e"]]
