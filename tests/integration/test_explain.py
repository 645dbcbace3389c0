"""A vehicle is explained with the reason that the loop counts, and nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from etacore.config import RuntimeConfig
from etacore.loop.explain import explain_file, explain_key
from etacore.loop.reasons import REASONS
from etacore.loop.runtime import Runtime
from etacore.models.registry import Registry
from etacore.status import Status
from etacore.store.server import RedisServer
from tests import models
from tests.fleet import ROUTE, STOPS, iso, payload, stops_blob


@pytest.fixture
def config(redis_server: RedisServer, redis_client: redis.Redis, registry_dir: Path) -> RuntimeConfig:
    for name, blob in (
        (ROUTE, stops_blob()),
        ("short", stops_blob(STOPS[:1])),
        ("holes", stops_blob([*STOPS, {"stop_id": "S9", "stop_sequence": 90}])),
        ("broken", b"{nope"),
    ):
        redis_client.set(f"route_stops:{name}", blob)
    return RuntimeConfig(redis_url=redis_server.url, model_registry_dir=registry_dir, poll_interval_seconds=0.02)


def everything(client: redis.Redis) -> dict[bytes, bytes | None]:
    """What a database holds."""
    return {key: client.dump(key) for key in client.scan_iter()}


def said(config: RuntimeConfig, client: redis.Redis, name: str = "vehicle:B") -> tuple[Status, str]:
    """The status and details of an explanation, which leaves no trace."""
    before = everything(client)
    found = explain_key(config, name)
    assert everything(client) == before
    assert found.meaning == REASONS[Status[found.status.upper()]].meaning
    return Status[found.status.upper()], "; ".join([*found.details, *found.remarks])


# Made when asked for: a snapshot grows old while other tests run.
FAULTY: dict[str, tuple[Callable[[], bytes], Status, str]] = {
    "cut off": (lambda: payload("B")[:-9], Status.INVALID_JSON, "line 1"),
    "not utf-8": (lambda: b'{"vehicle_id": "\xff"}', Status.INVALID_JSON, "byte 16 is no UTF-8"),
    "a list of vehicles": (lambda: b"[" + payload("B") + b"]", Status.NOT_AN_OBJECT, "it is a list"),
    "too large": (lambda: payload("B", note="x" * 70_000), Status.TOO_LARGE, "and the limit is 65536"),
    "no id": (lambda: payload(None), Status.MISSING_VEHICLE_ID, ""),
    "no longitude": (lambda: payload("B", lon=None), Status.MISSING_POSITION, ""),
    "latitude is a word": (lambda: payload("B", lat="here"), Status.INVALID_POSITION, ""),
    "exchanged": (lambda: payload("B", lat=-120.1, lon=9.94), Status.POSITION_OUT_OF_RANGE, "may be exchanged"),
    "exchanged, on the globe": (lambda: payload("B", lat=-84.08, lon=9.94), Status.OFF_ROUTE, "may be exchanged"),
    "in metres": (lambda: payload("B", lat=1_098_000.0), Status.POSITION_OUT_OF_RANGE, "lat is 1.098e+06"),
    "no fix": (lambda: payload("B", lat=0, lon=0), Status.OFF_ROUTE, "0/0 is what many receivers report"),
    "no time": (lambda: payload("B", timestamp=None), Status.MISSING_TIMESTAMP, ""),
    "local date": (lambda: payload("B", timestamp="03/04/2025 10:00"), Status.INVALID_TIMESTAMP, ""),
    "local time": (lambda: payload("B", timestamp=iso(-6 * 3_600)[:19]), Status.TOO_OLD, "a local time, perhaps"),
    "ghost": (lambda: payload("B", timestamp=iso(-86_400)), Status.TOO_OLD, "it is 1 d 0 h old"),
    "clock ahead": (lambda: payload("B", timestamp=iso(600)), Status.FUTURE_TIMESTAMP, "ahead of this machine's clock"),
    "no route": (lambda: payload("B", route=None), Status.MISSING_ROUTE, ""),
    "route by another name": (lambda: payload("B", route="0171"), Status.UNKNOWN_ROUTE, "similar: route_stops:171"),
    "stops are no json": (lambda: payload("B", route="broken"), Status.UNKNOWN_ROUTE, "is no JSON list of stops"),
    "one stop": (lambda: payload("B", route="short"), Status.TOO_FEW_STOPS, "route_stops:short is there"),
    "stop without a place": (lambda: payload("B", route="holes"), Status.STOP_WITHOUT_COORDINATES, "stop 9 of 9 is"),
    "another route's bus": (lambda: payload("B", lat=9.94, lon=-84.2), Status.OFF_ROUTE, "13 km from the line"),
    "past its last stop": (lambda: payload("B", lat=STOPS[-1]["lat"] + 0.002), Status.TRIP_FINISHED, "S8 Stop 8"),
    "foreign sequence": (lambda: payload("B", current_stop_sequence=3), Status.OK, "stop_hint_unknown"),
    "stuck stop": (
        lambda: payload("B", stop_id="S8", current_status="STOPPED_AT"),
        Status.OK,
        "stop_hint_contradicted",
    ),
    "healthy": (lambda: payload("B"), Status.OK, ""),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_the_explanation_gives_the_reason_that_the_loop_counts(
    fault: str, config: RuntimeConfig, redis_client: redis.Redis
) -> None:
    blob, status, words = FAULTY[fault]
    redis_client.set("vehicle:B", blob())
    found, details = said(config, redis_client)
    runtime = Runtime(config)
    try:
        assert runtime.poll().counts == {found: 1} == {status: 1}
    finally:
        runtime.close()
    assert words in details


def test_a_key_that_is_not_there_names_those_that_are_like_it(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    redis_client.mset({"vehicle:BUS-12": payload("BUS-12"), "vehicle:tram": payload("tram")})
    assert said(config, redis_client, "bus-1") == (
        Status.EXPIRED,
        "similar keys: vehicle:BUS-12; keys that match vehicle:*: 2",
    )


def test_a_key_of_another_kind_says_which(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    redis_client.hset("vehicle:B", "lat", "1")
    assert said(config, redis_client) == (Status.WRONG_TYPE, "it is a hash")


def test_an_older_snapshot_under_a_second_key_is_a_duplicate(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    redis_client.set("vehicle:B", payload("B"))
    redis_client.set("vehicle:old", payload("B", timestamp=iso(-60)))
    runtime = Runtime(config)
    assert runtime.poll().counts == {Status.OK: 1, Status.DUPLICATE: 1}
    runtime.close()
    redis_client.delete("predictions:B")
    assert said(config, redis_client, "old") == (Status.DUPLICATE, "vehicle:B holds a newer one")
    assert explain_key(config, "old").notes[0] == "it is the snapshot of vehicle B, whatever its key says"
    assert said(config, redis_client, "B") == (Status.OK, "")


def test_a_promoted_model_that_cannot_be_served_is_said(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    redis_client.set("vehicle:B", payload("B"))
    redis_client.set("eta:active_model", json.dumps({"model_key": "gone"}))
    found = explain_key(config, "B")
    assert found.status == "ok"
    assert found.notes[0].startswith("the promoted model gone is refused: ")
    done = etacore("doctor", config=config)
    assert "serving: the promoted model gone is refused" in done.stdout.decode()
    assert done.stderr == b""


def test_an_empty_database_says_that_no_feed_was_seeded(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    redis_client.flushall()
    redis_client.set("vehicle:B", payload("B"))
    status, details = said(config, redis_client)
    assert status == Status.UNKNOWN_ROUTE
    assert "no key begins with route_stops:" in details
    assert "etacore seed" in REASONS[status].advice


def test_a_served_vehicle_is_unchanged_and_compared_with_what_is_stored(
    config: RuntimeConfig, redis_client: redis.Redis
) -> None:
    redis_client.set("vehicle:B", payload("B"))
    runtime = Runtime(config)
    runtime.poll()
    stored = json.loads(redis_client.get("predictions:B") or b"")
    assert runtime.poll().counts == {Status.UNCHANGED: 1}
    runtime.close()
    found = explain_key(config, "B")
    assert (found.status, found.counted_as) == ("unchanged", "unchanged")
    assert any(detail.startswith("the stored one expires in ") for detail in found.details)
    assert found.stored is not None
    assert found.stored.source_timestamp == stored["source_timestamp"]
    assert found.stored.expires_in_s is not None
    assert 200 < found.stored.expires_in_s <= 300
    assert found.prediction is not None
    etas = [(stop.stop_id, stop.distance_m, stop.eta_s) for stop in found.prediction.stops]
    assert etas == [(s["stop_id"], s["distance_to_stop_m"], s["eta_seconds"]) for s in stored["predictions"]]


def test_a_late_snapshot_is_out_of_order_beside_the_stored_prediction(
    config: RuntimeConfig, redis_client: redis.Redis
) -> None:
    redis_client.set("vehicle:B", payload("B", lat=9.944))
    runtime = Runtime(config)
    runtime.poll()
    redis_client.set("vehicle:B", payload("B", timestamp=iso(-60)))
    assert runtime.poll().counts == {Status.OUT_OF_ORDER: 1}
    runtime.close()
    found = explain_key(config, "B")
    assert found.status == "out_of_order"
    assert found.stored is not None
    assert found.stored.notes == ["its next stop is 'S4', now it would be 'S3'"]


def test_a_vehicle_without_a_model_for_its_route_is_as_the_loop_counts_it(
    config: RuntimeConfig, redis_client: redis.Redis, tmp_path: Path
) -> None:
    models.add_table(Registry(tmp_path), "xgboost_of_9", route_id="9", metrics={"test_mae_seconds": 1.0})
    redis_client.set("vehicle:B", payload("B"))
    own = RuntimeConfig(redis_url=config.redis_url, model_registry_dir=tmp_path)
    runtime = Runtime(own)
    assert runtime.poll().counts == {Status.NO_MODEL: 1}
    runtime.close()
    assert said(own, redis_client) == (Status.NO_MODEL, "there are models of the routes 9 only")


def test_without_any_model_it_says_that_no_loop_can_start(
    config: RuntimeConfig, redis_client: redis.Redis, tmp_path: Path
) -> None:
    redis_client.set("vehicle:B", payload("B"))
    found = explain_key(RuntimeConfig(redis_url=config.redis_url, model_registry_dir=tmp_path), "B")
    assert found.status == "no_model"
    assert found.notes[0].startswith("no loop can start here: No trained models found")
    assert found.place is not None


def test_a_file_is_played_vehicle_by_vehicle_without_looking_at_predictions(
    config: RuntimeConfig, redis_client: redis.Redis
) -> None:
    redis_client.set("predictions:B", json.dumps({"source_timestamp": "2099-01-01T00:00:00Z", "predictions": []}))
    lines = [payload("B", lat=9.936 + 0.002 * k, timestamp=f"2026-01-20T12:00:{10 * k:02d}Z") for k in range(4)]
    before = everything(redis_client)
    one, other = explain_file(config, b"\n".join([*lines, payload("C", route="nowhere")]))
    assert everything(redis_client) == before
    assert (one.key, one.status, other.key, other.status) == ("vehicle:B", "ok", "vehicle:C", "unknown_route")
    assert [each.next_stop for each in one.earlier] == ["S2", "S3", "S3"]
    assert one.place is not None
    assert one.place.next_stop is not None
    assert one.place.next_stop.stop_id == "S4"


def etacore(*arguments: str, config: RuntimeConfig, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {"REDIS_URL": str(config.redis_url), "MODEL_REGISTRY_DIR": str(config.model_registry_dir)}
    return subprocess.run(
        [sys.executable, "-m", "etacore", *arguments],
        env=os.environ | environment,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_the_command_says_it_step_by_step(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    trip = "x:smile:\x1b[31m[bold]"
    redis_client.set("vehicle:B", payload("B", trip_id=trip, speed="fast"))
    done = etacore("explain", "vehicle:B", config=config)
    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    assert text.startswith("vehicle:B  predicted: ok\n")
    steps = [
        text.index(f"\n{title}\n") for title in ("1 snapshot", "2 pattern", "3 place", "4 prediction", "5 stored now")
    ]
    assert steps == sorted(steps)
    assert "passed over: speed 'fast' is not a speed" in text
    assert "x:smile:\\x1b[31m[bold]" in text
    assert "\x1b" not in text


def test_the_command_for_machines_reads_standard_input(config: RuntimeConfig) -> None:
    lines = [payload("B", timestamp=iso(-60)), payload("B", timestamp=iso(-30)), payload("C", route=None)]
    done = etacore("explain", "-", "--json", config=config, stdin=b"\n".join(lines))
    assert done.returncode == 0, done.stderr
    one, other = (json.loads(line) for line in done.stdout.splitlines())
    assert (one["status"], len(one["earlier"]), other["status"]) == ("ok", 1, "missing_route")
    assert one["place"]["next_stop"]["stop_id"] == "S3"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "name a vehicle"),
        (["B", "--file", "nowhere.json"], "nowhere.json"),
        (["-"], "no snapshot to explain"),
        (["B", "--model-key", "absent"], "Model absent not found"),
        (["B", "--redis-url", "redis://127.0.0.1:1/0"], "REDIS_HOST"),
        (["B", "--max-stops", "0"], "max_stops_per_vehicle is 0"),
    ],
)
def test_a_wrong_argument_is_one_clear_line(arguments: list[str], named: str, config: RuntimeConfig) -> None:
    done = etacore("explain", *arguments, config=config)
    assert done.returncode == 2
    assert named in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def doctor(config: RuntimeConfig, *arguments: str) -> tuple[int, list[str]]:
    done = etacore("doctor", *arguments, config=config)
    lines = [line for line in done.stdout.decode().splitlines() if "sample: " in line]
    return done.returncode, [line[6:] for line in lines]


def test_doctor_counts_a_sample_by_reason_with_an_example(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    redis_client.mset({f"vehicle:{k}": payload(str(k), trip_id=None) for k in range(6)})
    redis_client.set("vehicle:hinted", payload("hinted", current_stop_sequence=3))
    redis_client.mset({"vehicle:x": payload("x", route="nowhere"), "vehicle:y": payload("y", route="nowhere")})
    redis_client.hset("vehicle:z", "lat", "1")
    before = everything(redis_client)
    code, lines = doctor(config)
    assert everything(redis_client) == before
    assert code == 0
    assert lines[0] == "sample: 10 of 10 vehicles looked at: 7 predicted (70 %), 3 rejected, 0 failed"
    assert lines[1] == f"sample: unknown_route: 2, such as vehicle:x: {REASONS[Status.UNKNOWN_ROUTE].meaning}"
    assert lines[2].startswith("sample: wrong_type: 1, such as vehicle:z")
    assert lines[3].startswith("sample: stop_hint_unknown: 1, such as vehicle:hinted")
    assert len(lines) == 4


def test_doctor_looks_at_no_more_than_it_is_told(config: RuntimeConfig, redis_client: redis.Redis) -> None:
    redis_client.mset({f"vehicle:{k}": payload(str(k)) for k in range(6)})
    assert doctor(config, "--sample", "4")[1][0].startswith("sample: 4 of 6 vehicles looked at: 4 predicted (100 %)")
    assert doctor(config, "--sample", "0")[1] == []


def test_doctor_fails_where_none_of_the_due_vehicles_is_predicted(
    config: RuntimeConfig, redis_client: redis.Redis
) -> None:
    redis_client.mset({f"vehicle:{k}": payload(str(k), route="nowhere") for k in range(3)})
    assert doctor(config)[0] == 1
    redis_client.mset({f"vehicle:{k}": payload(str(k), timestamp=iso(-86_400)) for k in range(3)})
    code, lines = doctor(config)
    assert (code, "too_old: 3" in lines[1]) == (0, True)
