"""`etacore seed` as a user types it, and what a running loop sees of a swap."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, RedisUnavailableError
from etacore.loop.runtime import Runtime
from etacore.mlops.transit import seed
from etacore.mlops.transit.gtfs import read_feed
from etacore.mlops.transit.seed import feed_pairs
from etacore.mlops.transit.seeding import Seeded, Seeder
from etacore.mlops.transit.seeding import seeder as seeding
from etacore.mlops.transit.seeding.feed_place import FileSource
from etacore.mlops.transit.seeding.ledger import SeedLock
from etacore.status import Status
from etacore.store.server import RedisServer
from etacore.store.store import connect
from tests.feed_server import Answer, FeedServer
from tests.transit import FILES, write_feed

SECRET = "open-sesame-42"
BACK_BEFORE, BACK_AFTER = ["C", "B", "A"], ["B", "A"]
NEXT = {"stop_times.txt": FILES["stop_times.txt"].replace("back,,,C,2\n", "")}
"""The next version of the feed: the trip `back` no longer serves C."""


def run_seed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "etacore", "seed", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    return write_feed(tmp_path / "gtfs.zip")


@pytest.fixture
def web() -> Iterator[FeedServer]:
    with FeedServer() as server:
        yield server


def test_a_zip_is_all_that_is_needed(
    feed: Path, redis_server: RedisServer, redis_client: redis.Redis, registry_dir: Path
) -> None:
    done = run_seed(str(feed), REDIS_URL=redis_server.url)
    assert done.returncode == 0, done.stderr
    assert f"{feed} is in Redis now (default): 2 routes, 3 patterns, 3 trips; the keys stay" in done.stdout
    assert "note: stop_times.txt: 1 stops without a time" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if "trip_pattern:*" in line]
    assert [int(word) for word in row.split() if word.isdecimal()] == [3, 3, 0]
    assert redis_client.ttl("trip_pattern:out") == -1
    again = run_seed(str(feed), REDIS_URL=redis_server.url)
    assert again.returncode == 0
    assert f"{feed} is in Redis already (default, of 20" in again.stdout
    # And the loop predicts.
    now_s = int(datetime.now(UTC).timestamp())
    redis_client.set("vehicle:out", snapshot("out", 0.005, now_s))
    config = RuntimeConfig(redis_url=redis_server.url, model_registry_dir=registry_dir)
    assert Runtime(config).poll().counts == {Status.OK: 1}
    assert stops_of(redis_client, "out") == ["B", "C", "D"]


def test_what_is_gone_is_removed_and_said(
    feed: Path, redis_server: RedisServer, redis_client: redis.Redis, tmp_path: Path
) -> None:
    run_seed(str(feed), REDIS_URL=redis_server.url)
    trips = FILES["trips.txt"].replace("r2,S,loop,0,\n", "")
    other = write_feed(tmp_path / "feed", {"trips.txt": trips})
    done = run_seed(str(other), "--ttl", "1000", REDIS_URL=redis_server.url)
    n_gone = len(dict(feed_pairs(read_feed(feed))).keys() - dict(feed_pairs(read_feed(other))).keys())
    assert f"{n_gone} keys of the feed before ({feed}; --name keeps feeds side by side) were removed" in done.stdout
    assert "the keys live for 1000 s" in done.stdout
    assert 0 < redis_client.ttl("trip_pattern:out") <= 1000
    assert not redis_client.exists("trip_pattern:loop")


def test_a_feed_that_shrank_is_asked_about(
    feed: Path, redis_server: RedisServer, redis_client: redis.Redis, tmp_path: Path
) -> None:
    small = write_feed(tmp_path / "small.zip", {"trips.txt": "route_id,service_id,trip_id\nr1,S,out\n"})
    run_seed(str(feed), REDIS_URL=redis_server.url)
    done = run_seed(str(small), REDIS_URL=redis_server.url)
    assert "1 routes, 1 patterns, 1 trips" in done.stdout
    assert "note: the feed before had 3 trips; is this one whole?" in done.stdout


def test_an_address_with_a_key_stays_secret(
    feed: Path, web: FeedServer, redis_server: RedisServer, redis_client: Any
) -> None:
    web.answers["/gtfs.zip"] = Answer(feed.read_bytes(), headers={"ETag": '"one"'})
    address = f"http://user:{SECRET}@{web.host}/gtfs.zip?key={SECRET}"
    done = run_seed(REDIS_URL=redis_server.url, ETA_GTFS_PATH=address)
    assert done.returncode == 0, done.stderr
    assert f"http://{web.host}/gtfs.zip?... is in Redis now" in done.stdout
    web.answers["/gtfs.zip"] = Answer(f"<html><title>{SECRET} has expired".encode())
    refused = run_seed(address, REDIS_URL=redis_server.url)
    assert refused.returncode == 2
    assert "does not give a zip file but a web page" in refused.stderr
    stored = b"".join(redis_client.hvals("eta:seed"))
    assert SECRET not in done.stdout + done.stderr + refused.stdout + refused.stderr + stored.decode()
    assert redis_client.exists("trip_pattern:out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.zip"], "nowhere.zip does not exist"),
        (["ftp://host/gtfs.zip"], "a feed is not fetched by ftp://"),
        (["gtfs.zip", "--name", "a:b"], "cannot be called 'a:b'"),
        (["gtfs.zip", "--ttl", "-1"], "--ttl"),
        (["gtfs.zip", "--watch", "0"], "--watch"),
        (["gtfs.zip", "--redis-url", "redis://127.0.0.1:1/0"], "redis_host"),
        ([], "GTFS"),
    ],
)
def test_what_is_wrong_is_one_clear_line(
    arguments: list[str], said: str, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    done = run_seed(*arguments, REDIS_URL=redis_server.url)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert redis_client.dbsize() == 0


def test_a_second_seeder_says_who_is_at_work(feed: Path, redis_server: RedisServer, redis_client: redis.Redis) -> None:
    with SeedLock(redis_client, "default"):
        done = run_seed(str(feed), REDIS_URL=redis_server.url)
        beside = run_seed(str(feed), "--name", "other", REDIS_URL=redis_server.url)
    assert done.returncode == 2
    assert f"at work already: process {os.getpid()} on " in done.stderr
    assert beside.returncode == 0


def test_a_watch_takes_new_versions_until_it_is_stopped(
    feed: Path, web: FeedServer, redis_server: RedisServer, redis_client: redis.Redis, tmp_path: Path, wait_until: Any
) -> None:
    web.answers["/gtfs.zip"] = Answer(feed.read_bytes(), headers={"ETag": '"one"'})
    process = subprocess.Popen(
        [sys.executable, "-m", "etacore", "seed", web.url(), "--watch", "0.1"],
        env=os.environ | {"REDIS_URL": redis_server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: redis_client.exists("eta:seed"))
        before = redis_client.get("trip_pattern:back")
        wait_until(lambda: len(web.asked) >= 3)
        assert web.asked[-1][1]["if-none-match"] == '"one"'
        web.answers["/gtfs.zip"] = Answer(b"<html><title>Maintenance</title>", headers={"ETag": '"two"'})
        asked = len(web.asked)
        wait_until(lambda: len(web.asked) >= asked + 2)
        new = write_feed(tmp_path / "new.zip", NEXT).read_bytes()
        web.answers["/gtfs.zip"] = Answer(new, headers={"ETag": '"three"'})
        wait_until(lambda: redis_client.get("trip_pattern:back") != before)
        wait_until(lambda: orjson.loads(redis_client.hget("eta:seed", "default") or b"{}").get("etag") == '"three"')
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert out.count("is in Redis now (default)") == 2
    assert said.count("a web page ('Maintenance')") == 1
    assert "Redis keeps what it has" in said
    assert "Traceback" not in said
    assert not redis_client.exists("eta:seed:default:lock")


def test_ctrl_c_in_the_middle_says_that_the_work_is_not_done(
    feed: Path, web: FeedServer, redis_server: RedisServer, redis_client: redis.Redis, wait_until: Any
) -> None:
    goes_on = threading.Event()
    web.answers["/gtfs.zip"] = Answer(feed.read_bytes(), wait_for=goes_on)
    process = subprocess.Popen(
        [sys.executable, "-m", "etacore", "seed", web.url(), "--redis-url", redis_server.url],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: web.asked)
        process.send_signal(signal.SIGINT)
        goes_on.set()
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == 1
    assert "etacore: stopped " in said
    assert "Traceback" not in said
    assert redis_client.dbsize() == 0


RIGHTS = (
    "~eta:seed ~eta:seed:* ~route_stops:* ~route_shape:* ~direction_stops:* ~direction_shape:* ~trip_pattern:* "
    "~run_pattern:* ~pattern_stops:* ~pattern_shape:* +get +set +del +unlink +exists +ttl +expire +pexpire +rpush "
    "+lrange +rename +hget +hset +hsetnx +hkeys +multi +exec +client|setname +client|setinfo"
)


def test_the_rights_that_it_needs(
    feed: Path, redis_server: RedisServer, redis_client: redis.Redis, tmp_path: Path
) -> None:
    redis_client.execute_command("ACL", "SETUSER", "seeder", "reset", "on", f">{SECRET}", *RIGHTS.split())
    config = RuntimeConfig(redis_url=redis_server.url, redis_username="seeder", redis_password=SECRET)
    new = write_feed(tmp_path / "new.zip", NEXT)
    try:
        with connect(config) as client, SeedLock(client, "default", lapse_s=0.3) as lock:
            for path in (feed, new):
                for ttl_s in (0, 1000):
                    seeder = Seeder(client, FileSource(path), "default", lock, ttl_s=ttl_s)
                    assert seeder.look().is_changed
                    assert not seeder.look().is_changed
            redis_client.execute_command("ACL", "SETUSER", "seeder", "-set")
            with pytest.raises(ConfigError, match="the user may not run SET"):
                Seeder(client, FileSource(feed), "default", lock).look()
    finally:
        redis_client.execute_command("ACL", "DELUSER", "seeder")


def test_a_watch_outlives_an_outage_of_redis(feed: Path, private_redis: RedisServer, wait_until: Any) -> None:
    config = RuntimeConfig(redis_url=private_redis.url)
    with connect(config) as client, SeedLock(client, "default", lapse_s=0.3) as lock:
        events = Seeder(client, FileSource(feed), "default", lock).watch(0.01, retry_s=0.01)
        next(events)
        private_redis.kill()
        assert isinstance(next(events), RedisUnavailableError)
        private_redis.start()  # nothing was saved
        again = next(events)
        assert isinstance(again, Seeded)
        assert again.is_changed
        assert client.exists("trip_pattern:out")
        wait_until(lambda: client.exists("eta:seed:default:lock"))
        events.close()


def test_a_redis_that_is_full_is_said_and_the_next_run_goes_on(feed: Path, private_redis: RedisServer) -> None:
    config = RuntimeConfig(redis_url=private_redis.url)
    with connect(config) as client, SeedLock(client, "default") as lock:
        client.config_set("maxmemory", 1)
        with pytest.raises(RedisUnavailableError, match="maxmemory"):
            Seeder(client, FileSource(feed), "default", lock).look()
        client.config_set("maxmemory", 0)
        assert Seeder(client, FileSource(feed), "default", lock).look().is_changed
        assert client.exists("trip_pattern:out")


# -- a running loop ---------------------------------------------------------------------------------------------------


def snapshot(trip_id: str, lon: float, time_s: float) -> bytes:
    fields = {"vehicle_id": trip_id, "lat": 0.0, "lon": lon, "speed": 8.0, "route_id": "r1", "trip_id": trip_id}
    return orjson.dumps({**fields, "timestamp": time_s})


def stops_of(client: redis.Redis, name: str) -> list[str]:
    document = json.loads(client.get(f"predictions:{name}") or b"{}")
    return [stop["stop_id"] for stop in document["predictions"]]


def test_a_polling_loop_never_loses_a_vehicle_in_a_swap(
    feed: Path,
    tmp_path: Path,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    registry_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop polls at every step of the swap, and for a while after it, with the clock running."""
    clock_s = 1_769_000_000
    config = RuntimeConfig(redis_url=redis_server.url, model_registry_dir=registry_dir)
    runtime = Runtime(config, clock=lambda: clock_s * 1_000_000)
    seen: list[list[str]] = []

    def drive(passed_s: int) -> None:
        nonlocal clock_s
        clock_s += passed_s
        redis_client.set("vehicle:out", snapshot("out", 0.005, clock_s))
        redis_client.set("vehicle:back", snapshot("back", 0.025, clock_s))
        assert runtime.poll().counts == {Status.OK: 2}
        assert stops_of(redis_client, "out") == ["B", "C", "D"]
        seen.append(stops_of(redis_client, "back"))

    def at_a_step(stage: str, done: int, total: int) -> None:
        if stage in ("writing keys", "removing keys of before"):
            drive(7)

    with SeedLock(redis_client, "default") as lock:
        Seeder(redis_client, FileSource(feed), "default", lock).look()
        drive(1)
        assert seen == [BACK_BEFORE]
        monkeypatch.setattr(seed, "CHUNK", 1)
        monkeypatch.setattr(seeding, "CHUNK", 1)
        new = write_feed(tmp_path / "new.zip", NEXT)
        Seeder(redis_client, FileSource(new), "default", lock, progress=at_a_step).look()
    for _ in range(50):
        drive(3)
    runtime.close()
    n_before = seen.count(BACK_BEFORE)
    assert 1 < n_before < len(seen)
    assert seen == [BACK_BEFORE] * n_before + [BACK_AFTER] * (len(seen) - n_before)


@pytest.mark.parametrize("source", ["events", "poll"])
def test_a_running_loop_takes_a_new_version_over(
    source: str,
    feed: Path,
    tmp_path: Path,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    registry_dir: Path,
    wait_until: Any,
) -> None:
    config = RuntimeConfig(
        redis_url=redis_server.url,
        model_registry_dir=registry_dir,
        snapshot_source=source,
        poll_interval_seconds=0.02,
        route_refresh_seconds=0.02,
    )
    place = tmp_path / "place.zip"
    place.write_bytes(feed.read_bytes())
    stop = threading.Event()
    runtime = Runtime(config)

    def report() -> None:
        now_s = datetime.now(UTC).timestamp()
        redis_client.mset(
            {"vehicle:out": snapshot("out", 0.005, now_s), "vehicle:back": snapshot("back", 0.025, now_s)}
        )

    def shows(stops: list[str]) -> bool:
        report()
        return bool(redis_client.exists("predictions:back")) and stops_of(redis_client, "back") == stops

    with SeedLock(redis_client, "default") as lock:
        events = Seeder(redis_client, FileSource(place, settle_s=0), "default", lock, stop=stop).watch(0.01)
        next(events)
        report()
        loop = threading.Thread(target=runtime.run, args=(stop,))
        loop.start()
        try:
            wait_until(lambda: shows(BACK_BEFORE))
            write_feed(tmp_path / "new.zip", NEXT).replace(place)
            next(events)
            wait_until(lambda: shows(BACK_AFTER))
            feed.replace(place)
            next(events)
            wait_until(lambda: shows(BACK_BEFORE))
        finally:
            stop.set()
            loop.join(30)
            runtime.close()
    assert set(runtime.summary.counts) <= {Status.OK, Status.UNCHANGED}
