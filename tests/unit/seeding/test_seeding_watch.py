import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from etacore.errors import EtacoreError, FeedError, FeedUnavailableError
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.seeding import Seeded
from etacore.mlops.transit.seeding import seeder as seeding
from etacore.mlops.transit.seeding.feed_download import AddressSource
from etacore.mlops.transit.seeding.ledger import Manifest
from tests.feed_server import Answer, FeedServer
from tests.transit import write_feed


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
