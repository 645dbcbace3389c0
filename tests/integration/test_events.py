"""The loop that serves what Redis announces, without a poll that could help it out: its interval is an hour."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import pytest
import redis

from etacore.config import RuntimeConfig
from etacore.errors import RedisUnavailableError
from etacore.loop import schedule
from etacore.loop.runtime import PollResult, Runtime, Silent
from etacore.models.registry import Registry
from etacore.status import Status
from etacore.store.changes import CLIENT_NAME, ChangeFeed
from etacore.store.server import RedisServer
from etacore.store.store import RedisStore
from tests import models
from tests.fleet import ROUTE, STOPS, iso, payload, stops_blob

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

Until = Callable[..., None]
LIMIT_BYTES = 200_000
"""Less than the names of a large fleet in one announcement, more than one step of SCAN."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of two models that cost nothing."""
    folder = tmp_path_factory.mktemp("tables")
    registry = Registry(folder)
    models.add_table(registry, "first", metrics={"test_mae_seconds": 1.0})
    models.add_table(registry, "second", metrics={"test_mae_seconds": 2.0})
    return folder


def config_of(server: RedisServer, tables: Path, **changes: Any) -> RuntimeConfig:
    return replace(
        RuntimeConfig(
            redis_url=server.url,
            model_registry_dir=tables,
            model_key=None,
            snapshot_source="events",
            poll_interval_seconds=3_600,
            resync_seconds=10**6,
            route_refresh_seconds=10**6,
        ),
        **changes,
    )


@pytest.fixture
def config(redis_server: RedisServer, redis_client: redis.Redis, tables: Path) -> RuntimeConfig:
    redis_client.set(f"route_stops:{ROUTE}", stops_blob())
    return config_of(redis_server, tables)


class Polls(Silent):
    def __init__(self) -> None:
        self.results: list[PollResult] = []

    def on_poll(self, result: PollResult) -> None:
        self.results.append(result)


class Loop:
    """A loop on a thread of its own, and a producer."""

    def __init__(self, config: RuntimeConfig, client: redis.Redis, wait_until: Until) -> None:
        self.polls = Polls()
        self.runtime = Runtime(config, observer=self.polls)
        self.client = client
        self.wait_until = wait_until
        self.n_sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.runtime.run, args=(self._stop,))

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def has_looked(self) -> bool:
        """Whether all keys were searched for, as at the start: what is written before may be found and announced."""
        source = self.runtime._schedule
        if isinstance(source, schedule.Announced):
            return source._scanned_at > -inf and source._cursor is None
        return bool(self.polls.results)

    def end(self) -> Counter[Status]:
        """Stop the loop; what it has counted."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.runtime.close()
        return self.runtime.summary.counts

    def fixes(self, *vehicles: str, **changes: Any) -> dict[str, bytes]:
        """New snapshots, a little later than the last ones; the time of them all is `self.time`."""
        self.n_sent += 1
        self.time = iso(-500 + 0.01 * self.n_sent)
        return {f"vehicle:{name}": payload(name, timestamp=self.time, **changes) for name in vehicles}

    def is_served(self, *vehicles: str) -> bool:
        """Whether the last snapshots are."""
        found = self.client.mget([f"predictions:{name}" for name in vehicles])
        return all(text is not None and json.loads(text)["source_timestamp"] == self.time for text in found)

    def serve(self, *vehicles: str, **changes: Any) -> None:
        """Let vehicles report, and wait until they are served; so is what had been announced before."""
        self.client.mset(self.fixes(*vehicles, **changes))
        self.wait_until(lambda: self.is_served(*vehicles), what=f"the prediction of {vehicles}")


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "RETRY_S", 0.02)


@pytest.fixture
def start(redis_client: redis.Redis, wait_until: Until) -> Iterator[Callable[..., Loop]]:
    """Makes loops that are up, and ends them."""
    loops: list[Loop] = []

    def make(config: RuntimeConfig, client: redis.Redis | None = None) -> Loop:
        loops.append(Loop(config, client or redis_client, wait_until))
        loops[-1].__enter__()
        wait_until(loops[-1].has_looked, what="the first look at all keys")
        loops[-1].serve("READY")
        return loops[-1]

    yield make
    for loop in loops:
        loop.end()


def document(client: redis.Redis, vehicle: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.get(f"predictions:{vehicle}") or b"{}")
    return found


class Monitor:
    """What the server is told."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._monitor = client.monitor()
        self._monitor.__enter__()

    def commands(self) -> list[list[str]]:
        """Since the start."""
        self._client.echo("that was all")
        found = []
        while (command := self._monitor.next_command()["command"]) != "ECHO that was all":
            found.append(command.split())
        self._monitor.__exit__(None, None, None)
        return found


# -- the rule ---------------------------------------------------------------------------------------------------------


def test_changes_are_served_as_they_come(start, config):
    loop = start(config)
    for _ in range(20):
        loop.serve("BUS-1")
    loop.serve("BUS-2")
    assert loop.end()[Status.OK] == loop.n_sent


def test_what_was_there_before_is_served_too(start, config, redis_client, wait_until):
    redis_client.mset({f"vehicle:{i}": payload(str(i)) for i in range(50)})
    start(config)
    wait_until(lambda: redis_client.exists(*(f"predictions:{i}" for i in range(50))) == 50)


def test_a_change_costs_its_own_vehicle_only(start, config, redis_client):
    redis_client.mset({f"vehicle:{i}": payload(str(i), timestamp=iso(-600)) for i in range(200)})
    loop = start(config)
    loop.serve("7")
    monitor = Monitor(redis_client)
    loop.serve("7")
    loop.serve("8")
    commands = monitor.commands()
    asked = [command for command in commands if not command[-1].startswith("predictions:")]
    assert [keys for name, *keys in asked if name == "MGET"] == [["vehicle:7"], ["vehicle:8"]]
    assert not {command[0] for command in commands} & {"SCAN", "GET"}


def test_a_burst_is_served_completely(start, config):
    loop = start(replace(config, chunk_size=700))
    names = [f"BUS-{i}" for i in range(5_000)]
    loop.serve(*names)
    with loop.client.pipeline(transaction=False) as pipe:
        for key, value in loop.fixes(*names).items():
            pipe.set(key, value)
        pipe.execute()
    loop.wait_until(lambda: loop.is_served(*names))
    assert loop.end()[Status.OK] == 10_001


def test_one_vehicle_under_three_keys_in_three_chunks(start, config, redis_client, wait_until):
    loop = start(replace(config, chunk_size=1))
    times = [iso(-20), iso(-30), iso(-10)]
    redis_client.mset({f"vehicle:{k}": payload("BUS-1", timestamp=time) for k, time in enumerate(times)})
    wait_until(lambda: document(redis_client, "BUS-1").get("source_timestamp") == times[2])
    assert loop.end() == {Status.OK: 3, Status.OUT_OF_ORDER: 1}


def test_one_vehicle_under_two_keys_in_one_chunk(start, config, redis_client, wait_until):
    loop = start(config)
    new = iso(-10)
    redis_client.mset({f"vehicle:{k}": payload("BUS-1", timestamp=time) for k, time in enumerate((iso(-20), new))})
    wait_until(lambda: document(redis_client, "BUS-1").get("source_timestamp") == new)
    assert loop.end() == {Status.OK: 2, Status.DUPLICATE: 1}


def test_a_cap_serves_all_in_the_end(start, config):
    loop = start(replace(config, max_vehicle_batch=3))
    for _ in range(3):
        loop.serve(*(f"BUS-{i}" for i in range(10)))
    assert loop.end()[Status.OK] == 31


def test_a_vehicle_that_goes_away_and_comes_back(start, config, redis_client):
    loop = start(config)
    loop.serve("BUS-1")
    redis_client.delete("vehicle:BUS-1", "predictions:BUS-1")
    loop.serve("BUS-2")
    loop.serve("BUS-1")
    assert loop.end()[Status.EXPIRED] == 1


def test_an_idle_loop_ends_when_told_to(start, config):
    assert start(config).end() == {Status.OK: 1}


def test_one_poll_sums_up_an_interval(start, config, wait_until):
    loop = start(replace(config, poll_interval_seconds=0.05))
    for _ in range(10):
        loop.serve("BUS-1")
    wait_until(lambda: len(loop.polls.results) > 2)
    counts = loop.end()
    assert sum((result.counts for result in loop.polls.results), start=Counter()) == counts == {Status.OK: 11}
    assert loop.runtime.summary.n_polls == len(loop.polls.results)


# -- models and routes ------------------------------------------------------------------------------------------------


def test_a_promotion_is_served_at_the_next_change(start, config, redis_client):
    loop = start(config)
    assert document(redis_client, "READY")["model_key"] == "first"
    with redis_client.pipeline() as pipe:
        pipe.set("eta:active_model", json.dumps({"model_key": "second"}))
        pipe.mset(loop.fixes("BUS-1"))
        pipe.execute()
    loop.wait_until(lambda: loop.is_served("BUS-1"))
    assert document(redis_client, "BUS-1")["model_key"] == "second"


def test_a_promotion_is_taken_over_though_nothing_moves(start, config, redis_client, wait_until):
    loop = start(config)
    redis_client.set("eta:active_model", json.dumps({"model_key": "second"}))
    wait_until(lambda: [model.key for model in loop.runtime.engine.models.all()] == ["second"])


@pytest.mark.parametrize("key", ["route_stops:later", "direction_stops:1:later"])
def test_stops_that_appear_later_serve_those_who_wait(key, start, config, redis_client, wait_until):
    loop = start(config)
    redis_client.set("vehicle:LATE", payload("LATE", route="later", trip_id=None, direction_id=1))
    loop.serve("BUS-1")
    assert not redis_client.exists("predictions:LATE")
    redis_client.set(key, stops_blob())
    wait_until(lambda: redis_client.exists("predictions:LATE"))
    assert loop.end()[Status.UNKNOWN_ROUTE] >= 1


def test_changed_stops_are_served_at_once(start, config, redis_client):
    loop = start(config)
    with redis_client.pipeline() as pipe:
        pipe.set(f"route_stops:{ROUTE}", stops_blob([stop | {"stop_id": f"N{stop['stop_id']}"} for stop in STOPS]))
        pipe.mset(loop.fixes("BUS-1"))
        pipe.execute()
    loop.wait_until(lambda: loop.is_served("BUS-1"))
    assert document(redis_client, "BUS-1")["predictions"][0]["stop_id"] == "NS3"


# -- predictions that go away -----------------------------------------------------------------------------------------


def test_predictions_are_renewed_before_they_expire(start, config, redis_client, wait_until):
    loop = start(replace(config, predictions_ttl_seconds=2))
    first = document(redis_client, "READY")["computed_at"]
    wait_until(lambda: document(redis_client, "READY").get("computed_at", first) != first)
    assert set(loop.end()) <= {Status.OK, Status.UNCHANGED}


def test_a_deleted_prediction_comes_back(start, config, redis_client, wait_until):
    start(replace(config, resync_seconds=1))
    redis_client.delete("predictions:READY")
    wait_until(lambda: redis_client.exists("predictions:READY"))


def test_a_refused_write_is_tried_again(start, tables, private_redis, wait_until):
    with private_redis.client() as client:
        client.set(f"route_stops:{ROUTE}", stops_blob())
        loop = start(config_of(private_redis, tables), client)
        with client.pipeline() as pipe:
            pipe.mset(loop.fixes("BUS-1"))
            pipe.config_set("maxmemory", 1)
            pipe.execute()
        wait_until(lambda: "errorstat_OOM" in client.info("errorstats"))
        client.config_set("maxmemory", 0)
        wait_until(lambda: loop.is_served("BUS-1"))
        counts = loop.end()
        assert counts[Status.OK] == 2
        assert counts[Status.WRITE_FAILED] >= 1


# -- keys that are no vehicles ----------------------------------------------------------------------------------------


def test_keys_that_hold_no_snapshot_do_not_keep_the_loop_busy(start, config, redis_client, monkeypatch):
    monkeypatch.setattr(schedule, "RETRY_S", 1.0)
    monkeypatch.setattr("etacore.loop.schedule.SET_ASIDE_S", 600.0)
    loop = start(config)
    monitor = Monitor(redis_client)
    for i in range(10):
        redis_client.hset("vehicle:hash", "lat", str(i))
        redis_client.set("vehicle:huge", b"x" * 70_000 + b"%d" % i)
        loop.serve("BUS-1")
    asked = [key for name, *keys in monitor.commands() if name == "MGET" for key in keys]
    assert asked.count("vehicle:hash") == asked.count("vehicle:huge") == 1
    # Counted when it is announced and each second, as a poll would, not as fast as the loop can.
    counts = loop.end()
    assert 1 <= counts[Status.WRONG_TYPE] < 100
    assert 1 <= counts[Status.TOO_LARGE] < 100


def test_a_key_that_becomes_a_snapshot_is_served(start, config, redis_client, wait_until, monkeypatch):
    monkeypatch.setattr("etacore.loop.schedule.SET_ASIDE_S", 0.2)
    loop = start(config)
    redis_client.hset("vehicle:BUS-1", "lat", "1")
    loop.serve("BUS-2")
    with redis_client.pipeline() as pipe:
        pipe.delete("vehicle:BUS-1")
        pipe.mset(loop.fixes("BUS-1"))
        pipe.execute()
    wait_until(lambda: loop.is_served("BUS-1"))


# -- what can be lost -------------------------------------------------------------------------------------------------


def feed_id(client: redis.Redis) -> str:
    (feed,) = (entry for entry in client.client_list() if entry["name"] == CLIENT_NAME)
    return str(feed["id"])


def kill_feed(client: redis.Redis) -> Sequence[Any]:
    return "CLIENT", "KILL", "ID", feed_id(client)


DISASTERS = {
    "FLUSHALL": lambda client: ("FLUSHALL",),
    "all connections": lambda client: ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
    "the feed": kill_feed,
}


@pytest.mark.parametrize("name", DISASTERS)
def test_nothing_is_lost_for_good(name, start, config, redis_client):
    loop = start(config)
    loop.serve(*(f"BUS-{i}" for i in range(20)))
    for turn in range(3):
        with redis_client.pipeline() as pipe:
            fixes = loop.fixes(*(f"BUS-{i}" for i in range(turn, 20)))
            if name != "FLUSHALL":
                pipe.mset(fixes)
            pipe.execute_command(*DISASTERS[name](redis_client))
            if name == "FLUSHALL":
                pipe.set(f"route_stops:{ROUTE}", stops_blob())
                pipe.mset(fixes)
            pipe.execute()
        loop.wait_until(lambda loop=loop, turn=turn: loop.is_served(*(f"BUS-{i}" for i in range(turn, 20))))
    loop.serve("BUS-2")
    assert set(loop.end()) <= {Status.OK, Status.UNCHANGED, Status.EXPIRED}
    assert loop.runtime.summary.n_outages == 0


def test_a_restart_of_the_server(start, tables, private_redis, wait_until):
    with private_redis.client() as client:
        client.set(f"route_stops:{ROUTE}", stops_blob())
        loop = start(config_of(private_redis, tables), client)
        for n_outages in (1, 2):
            private_redis.kill()
            wait_until(lambda n=n_outages: loop.runtime.summary.n_outages == n)
            private_redis.start()
            with client.pipeline() as pipe:
                pipe.set(f"route_stops:{ROUTE}", stops_blob())
                pipe.mset(loop.fixes("BUS-1", "READY"))
                pipe.execute()
            wait_until(lambda: loop.is_served("BUS-1", "READY"))
            loop.serve("BUS-1")
        loop.end()


def test_a_burst_beyond_the_output_buffer(start, tables, private_redis, wait_until):
    with private_redis.client() as client:
        client.set(f"route_stops:{ROUTE}", stops_blob())
        loop = start(config_of(private_redis, tables, chunk_size=200), client)
        client.config_set("client-output-buffer-limit", f"normal {LIMIT_BYTES} {LIMIT_BYTES} 0")
        first_id = feed_id(client)
        names = [f"BUS-{i:05d}" for i in range(12_000)]
        client.mset(loop.fixes(*names))
        wait_until(lambda: loop.is_served(names[0], names[6_000], names[-1]) and client.dbsize() == 2 * 12_001 + 1)
        assert feed_id(client) != first_id
        loop.serve("BUS-1")
        assert loop.end()[Status.OK] == 12_002
        assert loop.runtime.summary.n_outages == 0


def test_an_outage_in_the_middle_of_a_turn_loses_no_vehicle_and_no_count(start, config, monkeypatch):
    loop = start(replace(config, chunk_size=10))
    store = loop.runtime._store
    snapshots, n_calls = store.snapshots, 0

    def failing(keys: Sequence[bytes]) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            raise RedisUnavailableError("gone for a moment")
        return snapshots(keys)

    monkeypatch.setattr(store, "snapshots", failing)
    loop.serve(*(f"BUS-{i}" for i in range(50)))
    loop.serve("BUS-1")
    counts = loop.end()
    assert counts[Status.OK] == 52
    assert set(counts) <= {Status.OK, Status.UNCHANGED}
    assert loop.runtime.summary.n_outages == 1


def test_the_first_error_of_a_turn_is_the_one_that_is_told(config, redis_client, monkeypatch):
    redis_client.mset({f"vehicle:{i}": payload(str(i)) for i in range(3)})
    runtime = Runtime(replace(config, chunk_size=1))
    predict, n_calls = runtime.predict_for_snapshots, count(1)

    def failing(*arguments: Any) -> Any:
        if next(n_calls) == 2:  # while the documents of the first chunk travel
            raise MemoryError
        return predict(*arguments)

    def gone() -> Any:
        raise RedisUnavailableError("gone")

    monkeypatch.setattr(runtime, "predict_for_snapshots", failing)
    with monkeypatch.context() as patch:
        patch.setattr(runtime._store, "finish_write", gone)
        with pytest.raises(MemoryError):
            runtime.poll()
    runtime.close()


# -- where there are no events ----------------------------------------------------------------------------------------


@pytest.fixture
def watcher(config: RuntimeConfig, redis_client: redis.Redis) -> Iterator[RuntimeConfig]:
    """Polls fast where it has to, as a user whose rights can be withdrawn."""
    redis_client.execute_command("ACL", "SETUSER", "watcher", "reset", "on", ">s3cr3t", "~*", "&*", "+@all")
    yield replace(config, redis_username="watcher", redis_password="s3cr3t", poll_interval_seconds=0.02)
    redis_client.execute_command("ACL", "DELUSER", "watcher")


def withdraw(client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "watcher", "-client", "+client|setname")


def test_a_user_without_the_right_polls_and_says_so_once(start, watcher, redis_client, caplog):
    withdraw(redis_client)
    loop = start(watcher)
    loop.serve("BUS-1")
    assert loop.end()[Status.OK] == 2  # before its user is deleted
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "may not run CLIENT TRACKING" in warning.getMessage()
    assert "\n" not in warning.getMessage()
    assert CLIENT_NAME not in {entry["name"] for entry in redis_client.client_list()}


def test_a_right_that_is_withdrawn_later(start, watcher, redis_client, caplog):
    loop = start(replace(watcher, poll_interval_seconds=1.0))
    withdraw(redis_client)
    redis_client.execute_command(*kill_feed(redis_client))
    for _ in range(3):
        loop.serve("BUS-1")
    assert sum("etacore polls instead" in record.getMessage() for record in caplog.records) == 1
    assert loop.end()[Status.OK] == 4


def test_a_right_that_is_given_back(start, watcher, redis_client, wait_until, caplog):
    loop = start(replace(watcher, resync_seconds=1.0))
    withdraw(redis_client)
    redis_client.execute_command(*kill_feed(redis_client))
    wait_until(lambda: sum("polls instead" in record.getMessage() for record in caplog.records) >= 2)
    loop.serve("BUS-1")
    redis_client.execute_command("ACL", "SETUSER", "watcher", "+@all")
    wait_until(lambda: CLIENT_NAME in {entry["name"] for entry in redis_client.client_list()})
    loop.serve("BUS-1")
    assert loop.end()[Status.OK] == 3


@pytest.mark.parametrize("source", ["auto", "poll"])
def test_a_bounded_run_polls(source, config, redis_client, monkeypatch):
    monkeypatch.delattr(schedule, "ChangeFeed")
    redis_client.set("vehicle:BUS-1", payload())
    settings = replace(config, snapshot_source=source, iterations=3, poll_interval_seconds=0)
    runtime = Runtime(settings)
    assert runtime.run(threading.Event()).counts == {Status.OK: 1, Status.UNCHANGED: 2}
    assert runtime.summary.n_polls == 3
    runtime.close()


@pytest.mark.parametrize("source", ["events", "poll"])
def test_a_server_that_is_told_to_stop_with_the_loop_is_no_outage(source, tables, private_redis, monkeypatch, caplog):
    stop = threading.Event()

    def then_all_are_told_to_stop(where: type, name: str) -> None:
        original = getattr(where, name)

        def before(self: Any, *arguments: Any) -> Any:
            stop.set()
            private_redis.kill()
            return original(self, *arguments)

        monkeypatch.setattr(where, name, before)

    then_all_are_told_to_stop(*((ChangeFeed, "wait") if source == "events" else (RedisStore, "scan_vehicle_keys")))
    runtime = Runtime(config_of(private_redis, tables, snapshot_source=source))
    with caplog.at_level("WARNING"):
        summary = runtime.run(stop)
    runtime.close()
    assert not private_redis.running
    assert not caplog.records
    assert summary.n_outages == 0


def test_a_connection_that_was_lost_is_told_once_it_is_back(start, config, redis_client, caplog, wait_until):
    loop = start(config)
    with caplog.at_level("WARNING"):
        redis_client.client_kill_filter(_id=feed_id(redis_client))
        loop.serve("BUS-1")
        loop.end()
    (record,) = caplog.records
    assert re.search(r"connection to Redis at \S+ was lost \(.+\), and is open again$", record.getMessage())
