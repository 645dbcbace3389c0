"""The loop against a real Redis."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis

from etacore.config import RuntimeConfig
from etacore.errors import RedisUnavailableError
from etacore.loop import model_switch
from etacore.loop import runtime as runtime_module
from etacore.loop.runtime import Runtime, Silent, Window
from etacore.models.registry import Registry
from etacore.pipeline.engine import system_clock_us
from etacore.status import Status
from etacore.store.server import RedisServer
from tests.fleet import ROUTE, STOPS, iso, payload, stops_blob

DOCUMENT_KEYS = [
    "vehicle_id",
    "route_id",
    "trip_id",
    "computed_at",
    "model_key",
    "model_type",
    "model_scope",
    "predictions",
    "source",
    "redis_key",
    "fetched_at",
    "persisted_at",
    "source_timestamp",
    "prefect_pipeline_latency_ms",
]
STOP_KEYS = [
    "stop_id",
    "stop_sequence",
    "distance_to_stop_m",
    "eta_seconds",
    "eta_minutes",
    "eta_formatted",
    "eta_timestamp",
]


@pytest.fixture
def config(redis_server: RedisServer, redis_client: redis.Redis, registry_dir: Path) -> RuntimeConfig:
    redis_client.set(f"route_stops:{ROUTE}", stops_blob())
    return RuntimeConfig(
        redis_url=redis_server.url, model_registry_dir=registry_dir, route_refresh_seconds=0, poll_interval_seconds=0.02
    )


@pytest.fixture
def runtime(config: RuntimeConfig) -> Runtime:
    return Runtime(config)


def other(config: RuntimeConfig, *, clock: Callable[[], int] = system_clock_us, **changes: Any) -> Runtime:
    import dataclasses

    return Runtime(dataclasses.replace(config, **changes), clock=clock)


def document(client: redis.Redis, vehicle_id: str = "BUS-1") -> dict[str, Any]:
    blob = client.get(f"predictions:{vehicle_id}")
    assert blob is not None
    found: dict[str, Any] = json.loads(blob)
    return found


def test_a_snapshot_becomes_a_document(runtime: Runtime, redis_client: redis.Redis) -> None:
    time, began = iso(-1), monotonic()
    redis_client.set("vehicle:BUS-1", payload(timestamp=time))
    assert runtime.poll().counts == {Status.OK: 1}
    found = document(redis_client)
    assert list(found) == DOCUMENT_KEYS
    assert [list(stop) for stop in found["predictions"]] == [STOP_KEYS] * 5
    assert [stop["stop_id"] for stop in found["predictions"]] == ["S3", "S4", "S5", "S6", "S7"]
    assert [stop["stop_sequence"] for stop in found["predictions"]] == [30, 40, 50, 60, 70]
    assert found["source"] == "prefect"
    assert found["redis_key"] == "vehicle:BUS-1"
    assert found["source_timestamp"] == time
    assert found["model_scope"] == "global"
    assert 299 - (monotonic() - began) <= redis_client.ttl("predictions:BUS-1") <= 300


def test_the_number_of_stops_and_the_time_to_live_are_settings(
    config: RuntimeConfig, redis_client: redis.Redis
) -> None:
    redis_client.set("vehicle:BUS-1", payload())
    began = monotonic()
    other(config, max_stops_per_vehicle=2, predictions_ttl_seconds=40).poll()
    assert len(document(redis_client)["predictions"]) == 2
    assert 39 - (monotonic() - began) <= redis_client.ttl("predictions:BUS-1") <= 40


# Made when asked for: a snapshot grows old while other tests run.
BAD: dict[str, tuple[bytes | Callable[[], bytes], Status]] = {
    "not json": (b"{", Status.INVALID_JSON),
    "not utf-8": (b'{"vehicle_id": "\xff"}', Status.INVALID_JSON),
    "a list": (b"[1, 2]", Status.NOT_AN_OBJECT),
    "a number": (b"12", Status.NOT_AN_OBJECT),
    "no id": (lambda: payload(vehicle_id=None), Status.MISSING_VEHICLE_ID),
    "no latitude": (lambda: payload("B", lat=None), Status.MISSING_POSITION),
    "latitude is a list": (lambda: payload("B", lat=[1]), Status.INVALID_POSITION),
    "latitude out of range": (lambda: payload("B", lat=91), Status.POSITION_OUT_OF_RANGE),
    "no time": (lambda: payload("B", timestamp=None), Status.MISSING_TIMESTAMP),
    "time is an object": (lambda: payload("B", timestamp={}), Status.INVALID_TIMESTAMP),
    "time is text": (lambda: payload("B", timestamp="soon"), Status.INVALID_TIMESTAMP),
    "future": (lambda: payload("B", timestamp=iso(600)), Status.FUTURE_TIMESTAMP),
    "ghost": (lambda: payload("B", timestamp=iso(-86_400)), Status.TOO_OLD),
    "no route": (lambda: payload("B", route=None), Status.MISSING_ROUTE),
    "unknown route": (lambda: payload("B", route="nowhere"), Status.UNKNOWN_ROUTE),
    "far away": (lambda: payload("B", lat=50.0), Status.OFF_ROUTE),
    "past the last stop": (lambda: payload("B", lat=STOPS[-1]["lat"] + 0.002), Status.TRIP_FINISHED),
    "too large": (lambda: payload("B", note="x" * 70_000), Status.TOO_LARGE),
    "one stop": (lambda: payload("B", route="short"), Status.TOO_FEW_STOPS),
    "stop without coordinates": (lambda: payload("B", route="holes"), Status.STOP_WITHOUT_COORDINATES),
    "stops are no json": (lambda: payload("B", route="broken"), Status.UNKNOWN_ROUTE),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_costs_one_vehicle_and_is_counted(name: str, runtime: Runtime, redis_client: redis.Redis) -> None:
    blob, reason = BAD[name]
    redis_client.set("route_stops:short", stops_blob(STOPS[:1]))
    redis_client.set("route_stops:holes", stops_blob([*STOPS, {"stop_id": "S9", "stop_sequence": 90}]))
    redis_client.set("route_stops:broken", b"{nope")
    redis_client.set("vehicle:BUS-1", payload())
    redis_client.set("vehicle:B", blob() if callable(blob) else blob)
    result = runtime.poll()
    assert result.counts == {Status.OK: 1, reason: 1}
    assert result.n_due == 1 + (reason >= Status.UNKNOWN_ROUTE and reason != Status.TRIP_FINISHED)
    assert redis_client.exists("predictions:BUS-1")
    assert not redis_client.exists("predictions:B")


def test_neighbours_keys_are_skipped_and_counted(runtime: Runtime, redis_client: redis.Redis) -> None:
    redis_client.hset("vehicle:BUS-1:position", "lat", "1")
    redis_client.set("vehicle:BUS-1", payload())
    assert runtime.poll().counts == {Status.OK: 1, Status.WRONG_TYPE: 1}
    assert runtime.poll().counts == {Status.UNCHANGED: 1, Status.WRONG_TYPE: 1}
    redis_client.delete("vehicle:BUS-1:position")
    assert runtime.poll().counts == {Status.UNCHANGED: 1}


def test_an_empty_database_is_no_error(runtime: Runtime) -> None:
    result = runtime.poll()
    assert (result.n_keys, result.counts, result.n_due) == (0, {}, 0)


def test_unchanged_is_skipped_also_by_a_new_process(
    runtime: Runtime, config: RuntimeConfig, redis_client: redis.Redis
) -> None:
    redis_client.set("vehicle:BUS-1", payload())
    runtime.poll()
    before = redis_client.get("predictions:BUS-1")
    assert runtime.poll().counts == {Status.UNCHANGED: 1}
    assert other(config).poll().counts == {Status.UNCHANGED: 1}
    assert redis_client.get("predictions:BUS-1") == before


def test_a_lost_prediction_is_made_again(runtime: Runtime, redis_client: redis.Redis) -> None:
    redis_client.set("vehicle:BUS-1", payload())
    runtime.poll()
    redis_client.delete("predictions:BUS-1")
    runtime.poll()
    assert runtime.poll().counts == {Status.OK: 1}
    assert redis_client.exists("predictions:BUS-1")


def let_pass(client: Any, seconds: float) -> None:
    """Bring all predictions so much closer to their end; those that have reached it are gone."""
    for key in client.keys("predictions:*"):
        left_ms = client.pttl(key) - round(seconds * 1e3)
        client.pexpire(key, max(left_ms, 0))


@pytest.mark.parametrize(
    ("every_s", "ttl_s", "renewed_s"),
    [
        (1, 20, [0, 18, 36, 54]),
        (3, 20, [0, 15, 30, 45]),
        (5, 21, [0, 15, 30, 45]),
        (7, 20, [0, 14, 28, 42]),
        (15, 20, [0, 15, 30, 45]),
        (2, 300, [0, 296, 592, 888]),
    ],
)
def test_the_prediction_of_an_unchanged_vehicle_never_vanishes_and_is_renewed_in_time(
    every_s: int, ttl_s: int, renewed_s: list[int], config: RuntimeConfig, redis_client: Any, monkeypatch: Any
) -> None:
    now_s = 1_769_000_000
    runtime = other(
        config, poll_interval_seconds=0.5, predictions_ttl_seconds=ttl_s, clock=lambda: (now_s + passed_s) * 1_000_000
    )
    monkeypatch.setattr(runtime._polling, "every_s", every_s)  # what the source says counts
    redis_client.set("vehicle:bad", b"{")
    for name, lat in (("BUS-1", 9.940), ("BUS-2", 9.945)):
        redis_client.set(f"vehicle:{name}", payload(name, lat=lat, timestamp=now_s))
    renewed = []
    for passed_s in range(0, 3 * renewed_s[1] + every_s, every_s):
        if passed_s:
            let_pass(redis_client, every_s)
            there = redis_client.exists("predictions:BUS-1", "predictions:BUS-2")
            assert there == 2, f"gone before it was renewed, {passed_s} s after the start"
        counts = runtime.poll().counts
        assert counts in ({Status.OK: 2, Status.INVALID_JSON: 1}, {Status.UNCHANGED: 2, Status.INVALID_JSON: 1})
        renewed += [passed_s] if Status.OK in counts else []
    assert renewed == renewed_s


def test_what_a_restart_took_over_is_there_again_at_the_second_look(config: RuntimeConfig, redis_client: Any) -> None:
    now_s, passed_s = 1_769_000_000, 0
    redis_client.set("vehicle:BUS-1", payload(timestamp=now_s))
    first, second = (other(config, clock=lambda: (now_s + passed_s) * 1_000_000) for _ in range(2))
    assert first.poll().counts == {Status.OK: 1}
    let_pass(redis_client, 299)
    passed_s = 299
    second.poll()
    let_pass(redis_client, 1)
    passed_s = 300
    for _ in range(2):
        second.poll()
    assert redis_client.exists("predictions:BUS-1")


def test_event_time_only_moves_forward(runtime: Runtime, config: RuntimeConfig, redis_client: redis.Redis) -> None:
    new, old = iso(-5), iso(-30)
    redis_client.set("vehicle:BUS-1", payload(timestamp=new))
    runtime.poll()
    redis_client.set("vehicle:BUS-1", payload(timestamp=old))
    assert runtime.poll().counts == {Status.OUT_OF_ORDER: 1}
    assert other(config).poll().counts == {Status.OUT_OF_ORDER: 1}
    assert document(redis_client)["source_timestamp"] == new


def test_two_keys_of_one_vehicle_give_the_newer(runtime: Runtime, redis_client: redis.Redis) -> None:
    new = iso(-5)
    redis_client.set("vehicle:a", payload(timestamp=iso(-30)))
    redis_client.set("vehicle:b", payload(timestamp=new))
    assert runtime.poll().counts == {Status.OK: 1, Status.DUPLICATE: 1}
    assert document(redis_client)["source_timestamp"] == new


def test_a_cap_starves_nobody(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    names = [f"BUS-{i}" for i in range(10)]
    runtime = other(config, max_vehicle_batch=3)
    for turn in range(4):
        for name in names:
            redis_client.set(f"vehicle:{name}", payload(name, timestamp=iso(turn / 10)))
        assert runtime.poll().n_keys == 3
    assert all(redis_client.exists(f"predictions:{name}") for name in names)


def test_a_key_that_comes_and_goes_keeps_its_turn(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    runtime = other(config, max_vehicle_batch=2)
    for turn in range(16):
        for name in [f"BUS-{i}" for i in range(8)]:
            redis_client.set(f"vehicle:{name}", payload(name, timestamp=iso(turn / 100)))
        if turn % 2:
            redis_client.set("vehicle:GUEST", payload("GUEST", timestamp=iso(turn / 100)))
        else:
            redis_client.delete("vehicle:GUEST")
        runtime.poll()
    assert redis_client.exists("predictions:GUEST")


def test_a_changed_route_is_noticed(runtime: Runtime, redis_client: redis.Redis) -> None:
    redis_client.set("vehicle:BUS-1", payload(timestamp=iso(-2)))
    runtime.poll()
    redis_client.set(f"route_stops:{ROUTE}", stops_blob([stop | {"stop_id": f"N{stop['stop_id']}"} for stop in STOPS]))
    redis_client.set("vehicle:BUS-1", payload(timestamp=iso(-1)))
    runtime.poll()
    assert document(redis_client)["predictions"][0]["stop_id"] == "NS3"


def test_a_trip_gets_the_stops_of_its_own_pattern(runtime: Runtime, redis_client: redis.Redis) -> None:
    back = [stop | {"stop_id": f"B{i}", "stop_sequence": i} for i, stop in enumerate(reversed(STOPS))]
    redis_client.set("trip_pattern:171-BACK", "171:1:x")
    redis_client.set("pattern_stops:171:1:x", stops_blob(back))
    redis_client.set(f"route_stops:{ROUTE}:1", stops_blob(back))
    redis_client.set("vehicle:trip", payload("trip", trip_id="171-BACK"))
    redis_client.set("vehicle:direction", payload("direction", trip_id=None, direction_id=1))
    redis_client.set("vehicle:route", payload("route"))
    assert runtime.poll().counts == {Status.OK: 3}
    first = {v: document(redis_client, v)["predictions"][0]["stop_id"] for v in ("trip", "direction", "route")}
    assert first == {"trip": "B6", "direction": "B6", "route": "S3"}


def test_runs_directions_and_guesses_by_the_seeded_keys(runtime: Runtime, redis_client: redis.Redis) -> None:
    back = [stop | {"stop_id": f"B{i}", "stop_sequence": i} for i, stop in enumerate(reversed(STOPS))]
    short = [stop | {"stop_id": f"R{stop['stop_id']}"} for stop in STOPS]
    says = {"route_id": ROUTE, "patterns": 1}
    seeded = {
        f"route_stops:{ROUTE}": says | {"stops": STOPS, "patterns": 3},
        f"direction_stops:0:{ROUTE}": says | {"stops": STOPS, "patterns": 2},
        f"direction_stops:1:{ROUTE}": says | {"stops": back},
        "pattern_stops:run": {"stops": short},
    }
    redis_client.mset({key: json.dumps(value) for key, value in seeded.items()})
    redis_client.set(f"run_pattern:0:07:05:00:{ROUTE}", "run")
    vehicles: dict[str, dict[str, Any]] = {
        "run": {"direction_id": 0, "start_time": "07:05:00"},
        "other-run": {"direction_id": 0, "start_time": "07:06:00"},
        "back": {"direction_id": 1},
        "ghost": {"trip_id": "not in the feed", "direction_id": 1},
    }
    redis_client.mset({f"vehicle:{name}": payload(name, **({"trip_id": None} | row)) for name, row in vehicles.items()})
    assert runtime.poll().counts == {Status.OK: 4}
    found = {name: document(redis_client, name) for name in vehicles}
    assert {name: (its["predictions"][0]["stop_id"], its.get("pattern")) for name, its in found.items()} == {
        "run": ("RS3", None),
        "other-run": ("S3", "guessed"),
        "back": ("B6", None),
        "ghost": ("B6", "guessed"),
    }


def test_a_refused_write_is_a_failure_and_tried_again(runtime: Runtime, redis_client: redis.Redis) -> None:
    redis_client.set("vehicle:BUS-1", payload())
    redis_client.config_set("maxmemory", 1)
    try:
        assert runtime.poll().counts == {Status.WRITE_FAILED: 1}
    finally:
        redis_client.config_set("maxmemory", 0)
    assert runtime.poll().counts == {Status.OK: 1}


def test_a_promoted_model_is_served_and_a_missing_one_refused(
    config: RuntimeConfig, redis_client: redis.Redis, second_model_key: str, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Runtime(config)
    first = runtime.engine.models.all()[0].key
    assert first != second_model_key
    redis_client.set(
        "eta:active_model", json.dumps({"model_key": second_model_key, "promoted_at": iso(), "source": "t"})
    )
    redis_client.set("vehicle:BUS-1", payload())
    runtime.poll()
    assert document(redis_client)["model_key"] == second_model_key
    redis_client.set("eta:active_model", json.dumps({"model_key": "absent"}))
    redis_client.set("vehicle:BUS-1", payload(timestamp=iso(1)))
    assert runtime.poll().counts == {Status.OK: 1}
    assert document(redis_client)["model_key"] == second_model_key
    assert "refused" in caplog.text


def test_a_swap_can_be_asked_for_from_outside_and_a_refusal_is_told(
    config: RuntimeConfig, redis_client: redis.Redis, second_model_key: str
) -> None:
    refusals: list[tuple[str, str]] = []

    class Observer(Silent):
        def on_refusal(self, model_key: str, message: str) -> None:
            refusals.append((model_key, message))

    runtime = Runtime(config, observer=Observer())
    redis_client.set("vehicle:BUS-1", payload(timestamp=iso(-2)))
    thread = threading.Thread(target=runtime.request_swap, args=(second_model_key,))
    thread.start()
    thread.join()
    runtime.poll()
    assert document(redis_client)["model_key"] == second_model_key
    runtime.request_swap("absent")
    redis_client.set("vehicle:BUS-1", payload(timestamp=iso(-1)))
    assert runtime.poll().counts == {Status.OK: 1}
    assert document(redis_client)["model_key"] == second_model_key
    assert [key for key, _ in refusals] == ["absent"]


def test_a_promoted_route_model_serves_its_route_only(
    config: RuntimeConfig, redis_client: redis.Redis, route_model_key: str
) -> None:
    redis_client.set("route_stops:other", stops_blob())
    redis_client.set("vehicle:BUS-1", payload("BUS-1"))
    redis_client.set("vehicle:BUS-2", payload("BUS-2", route="other"))
    redis_client.set("eta:active_model", json.dumps({"model_key": route_model_key}))
    for runtime in (Runtime(config), other(config)):
        assert runtime.poll().counts.total() == 2
        assert document(redis_client, "BUS-1")["model_key"] != route_model_key
        found = document(redis_client, "BUS-2")
        assert (found["model_key"], found["model_scope"]) == (route_model_key, "route")


def test_a_model_announced_too_early_is_served_once_it_is_there(
    config: RuntimeConfig, redis_client: redis.Redis, second_model_key: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(model_switch, "RETRY_PROMOTION_S", 0.0)
    folder = shutil.copytree(config.model_registry_dir, tmp_path / "registry")
    whole = (folder / "registry.json").read_bytes()
    entries = json.loads(whole)
    del entries[second_model_key]
    (folder / "registry.json").write_text(json.dumps(entries))
    runtime = other(config, model_registry_dir=folder)
    redis_client.set("eta:active_model", json.dumps({"model_key": second_model_key}))
    runtime.poll()
    assert [model.key for model in runtime.engine.models.all()].count(second_model_key) == 0
    (folder / "registry.json").write_bytes(whole)
    runtime.poll()
    assert [model.key for model in runtime.engine.models.all()].count(second_model_key) == 1


def test_a_document_that_is_stored_counts_though_redis_then_goes_away(
    runtime: Runtime, redis_client: redis.Redis, monkeypatch: Any
) -> None:
    redis_client.set("vehicle:BUS-1", payload("BUS-1"))
    runtime.poll()
    redis_client.set("vehicle:BUS-2", payload("BUS-2"))

    def gone(keys: object) -> list[int]:
        raise RedisUnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(runtime._store, "missing", gone)
        with pytest.raises(RedisUnavailableError):
            runtime.poll()
    assert runtime.poll().counts == {Status.UNCHANGED: 2}


def test_the_loop_survives_a_restart_of_redis(
    private_redis: RedisServer, config: RuntimeConfig, wait_until: Any
) -> None:
    client = private_redis.client()
    runtime = other(config, redis_url=private_redis.url)
    stop = threading.Event()
    thread = threading.Thread(target=runtime.run, args=(stop,))
    client.set(f"route_stops:{ROUTE}", stops_blob())
    client.set("vehicle:BUS-1", payload())
    thread.start()
    try:
        wait_until(lambda: client.exists("predictions:BUS-1"))
        private_redis.kill()
        wait_until(lambda: runtime.summary.n_outages == 1)
        private_redis.start()
        client.set(f"route_stops:{ROUTE}", stops_blob())
        client.set("vehicle:BUS-1", payload(timestamp=iso(1)))
        wait_until(lambda: client.exists("predictions:BUS-1"))
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


def test_the_loop_survives_an_outage_of_any_length(config: RuntimeConfig, monkeypatch: Any) -> None:
    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return self.is_set()

    runtime = other(config)
    attempts: list[None] = []

    def gone(stop: threading.Event) -> None:
        attempts.append(None)
        if len(attempts) == 1_100:
            stop.set()
        raise RedisUnavailableError("gone")

    monkeypatch.setattr(runtime, "_run_turn", gone)
    assert runtime.run(Impatient()).n_outages == 1
    assert len(attempts) == 1_100


def test_a_poll_that_was_told_to_stop_serves_its_first_chunk_and_no_other(
    config: RuntimeConfig, redis_client: redis.Redis
) -> None:
    for i in range(3):
        redis_client.set(f"vehicle:BUS-{i}", payload(f"BUS-{i}"))
    runtime, stop = other(config, chunk_size=2), threading.Event()
    stop.set()
    assert runtime.poll(stop).counts == {Status.OK: 2}
    assert runtime.poll().counts == {Status.OK: 1, Status.UNCHANGED: 2}


def test_reasons_are_reported_once_a_window(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    windows: list[Window] = []

    class Observer(Silent):
        def on_window(self, window: Window) -> None:
            windows.append(window)

    for i in range(20):
        redis_client.set(f"vehicle:{i}", b"{")
    import dataclasses

    Runtime(dataclasses.replace(config, iterations=3), observer=Observer()).run(threading.Event())
    assert len(windows) == 1
    assert windows[0].counts == {Status.INVALID_JSON: 60}
    assert "60 rejected" in windows[0].line()
    assert "invalid_json 60" in windows[0].line()


@pytest.mark.parametrize("named", [False, True])
def test_a_loop_does_not_begin_without_its_redis(config: RuntimeConfig, named: bool) -> None:
    key = Registry(config.model_registry_dir).keys()[0] if named else None
    with pytest.raises(RedisUnavailableError):
        other(config, redis_url="redis://127.0.0.1:1/0", model_key=key)


def test_what_a_step_took_is_recorded_in_milliseconds_a_vehicle(runtime: Runtime, monkeypatch: Any) -> None:
    seconds = itertools.count(100.0, 0.25)
    monkeypatch.setattr(runtime_module, "perf_counter", lambda: next(seconds))
    runtime.fetch_vehicle_snapshots([b"vehicle:a", b"vehicle:b"])
    fetched = runtime.profiler.snapshot()["redis_fetch"]
    assert (fetched.count, fetched.min_ms, fetched.max_ms, fetched.avg_ms) == (2, 125.0, 125.0, 125.0)


def test_profiling_files_are_written_at_the_end(
    config: RuntimeConfig, redis_client: redis.Redis, tmp_path: Path
) -> None:
    redis_client.set("vehicle:BUS-1", payload())
    other(config, iterations=1, profiling_dir=tmp_path).run(threading.Event())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "eta_inference_times.csv",
        "pipeline_latency_times.csv",
        "redis_fetch_times.csv",
        "redis_write_times.csv",
    ]
    assert (tmp_path / "redis_write_times.csv").read_text().startswith("metric,count,min_ms,max_ms,avg_ms\n")
