"""Recording snapshots from a real Redis."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import redis

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, RedisUnavailableError
from etacore.mlops.transit import capture as module
from etacore.mlops.transit.capture import SCHEMA, Capture, CaptureSummary
from etacore.mlops.transit.positions import read_positions
from etacore.pipeline.snapshots import parse_timestamp
from etacore.schema import NO_SEQUENCE, NO_START_DATE, NO_START_TIME
from etacore.status import Status
from etacore.store.server import RedisServer
from tests.fleet import ROUTE, iso, payload


@pytest.fixture
def config(redis_server: RedisServer, redis_client: redis.Redis) -> RuntimeConfig:
    return RuntimeConfig(redis_url=redis_server.url, poll_interval_seconds=0.02)


@pytest.fixture
def capture(config: RuntimeConfig, tmp_path: Path) -> Capture:
    return Capture(config, tmp_path / "out")


def test_a_snapshot_becomes_a_position_once(capture: Capture, redis_client: redis.Redis) -> None:
    full: dict[str, Any] = {
        "current_stop_sequence": 0,
        "stop_id": "S é",
        "current_status": "STOPPED_AT",
        "bearing": 90.0,
        "start_date": "20260119",
        "startTime": "25:05:07",
        "direction_id": 1,
    }
    time = iso(-1)
    redis_client.set("vehicle:BUS-1", payload(timestamp=time, **full))
    redis_client.set("vehicle:BUS-2", payload("BUS-2", timestamp=iso(-5), trip_id=None, bearing=None, speed=None))
    capture.poll()
    capture.poll()
    later = iso()
    redis_client.set("vehicle:BUS-1", payload(timestamp=later))
    capture.poll()
    path = capture.rotate()
    assert path is not None
    assert pl.read_parquet_schema(path) == SCHEMA
    positions = read_positions(capture.output_dir)
    assert [positions.vehicle_id[i] for i in range(3)] == ["BUS-2", "BUS-1", "BUS-1"]
    assert positions.time_us[1:].tolist() == [parse_timestamp(time), parse_timestamp(later)]
    assert (positions.lat[1], positions.lon[1], positions.route_id[1]) == (9.940, -84.0801, ROUTE)
    assert (positions.speed_mps[1], positions.bearing_deg[1]) == (8.5, 90.0)
    assert (positions.stop_sequence[1], positions.stop_id[1], positions.current_status[1]) == (0, "S é", "STOPPED_AT")
    assert (positions.trip_id[0], positions.stop_sequence[0], positions.speed_mps[0]) == (None, NO_SEQUENCE, 0.0)
    assert np.isnan(positions.bearing_deg[0])
    assert (positions.start_date[1], positions.start_time_s[1]) == (20260119, 25 * 3600 + 5 * 60 + 7)
    assert positions.direction_id[1] == 1
    assert (positions.start_date[0], positions.start_time_s[0]) == (NO_START_DATE, NO_START_TIME)
    assert positions.direction_id[0] == -1
    assert capture.summary.counts == {Status.OK: 3, Status.UNCHANGED: 3}


def test_what_is_no_snapshot_is_counted_by_reason(capture: Capture, redis_client: redis.Redis) -> None:
    redis_client.set("vehicle:good", payload())
    redis_client.set("vehicle:bad", b"{")
    redis_client.set("vehicle:old", payload("old", timestamp=iso(-3600)))
    redis_client.set("vehicle:nowhere", payload("nowhere", route=None))
    redis_client.hset("vehicle:good:position", mapping={"lat": "1"})
    capture.poll()
    capture.poll()
    capture.rotate()
    assert capture.summary.counts == {
        Status.OK: 1,
        Status.UNCHANGED: 1,
        Status.INVALID_JSON: 2,
        Status.TOO_OLD: 2,
        Status.MISSING_ROUTE: 2,
        Status.WRONG_TYPE: 2,
    }
    assert len(read_positions(capture.output_dir)) == 1


def test_parts_are_files_of_their_own_and_nothing_gives_no_file(
    config: RuntimeConfig, redis_client: redis.Redis, tmp_path: Path
) -> None:
    parts: list[CaptureSummary] = []
    now_us = [int(datetime.now(UTC).timestamp()) * 1_000_000]
    capture = Capture(config, tmp_path, clock=lambda: now_us[0], on_part=parts.append)
    began = datetime.fromtimestamp(now_us[0] / 1e6, UTC).strftime("%Y%m%dT%H%M%SZ")
    for n in range(3):
        if n < 2:
            redis_client.set("vehicle:BUS-1", payload(timestamp=iso(-n)))
        capture.poll()
        capture.rotate()
    assert [path.name for path in capture.summary.files] == [
        f"positions_{began}.parquet",
        f"positions_{began}_1.parquet",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in capture.summary.files)
    assert [part.n_positions for part in parts] == [1, 1, 0]
    assert parts[0].line() == f"positions_{began}.parquet: 1 positions of 1 polls"
    assert parts[2].line() == "nothing to write: 0 positions of 1 polls; not kept: 1 unchanged"
    assert len(read_positions(tmp_path)) == 2


def test_a_file_that_cannot_be_written_keeps_the_rows(
    capture: Capture, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_client.set("vehicle:BUS-1", payload())
    capture.poll()
    with monkeypatch.context() as patch:

        def full(self: pl.DataFrame, file: Any) -> None:
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        patch.setattr(pl.DataFrame, "write_parquet", full)
        with pytest.raises(ConfigError, match=r"cannot be written \(No space left"):
            capture.rotate()
        assert list(capture.output_dir.iterdir()) == []
    assert capture.rotate() is not None
    assert len(read_positions(capture.output_dir)) == 1


def test_memory_has_an_end(
    config: RuntimeConfig, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 2)
    for i in range(3):
        redis_client.set(f"vehicle:{i}", payload(str(i)))
    stop = threading.Event()
    parts: list[CaptureSummary] = []

    def end(part: CaptureSummary) -> None:
        parts.append(part)
        stop.set()

    Capture(config, tmp_path, on_part=end).run(stop)
    assert parts[0].n_positions == 3


def test_it_waits_for_redis_to_return(
    private_redis: RedisServer, config: RuntimeConfig, tmp_path: Path, wait_until: Any
) -> None:
    with private_redis.client() as client:
        capture = Capture(dataclasses.replace(config, redis_url=private_redis.url), tmp_path, duration_s=60.0)
        stop = threading.Event()
        thread = threading.Thread(target=capture.run, args=(stop,))
        client.set("vehicle:BUS-1", payload())
        thread.start()
        try:
            wait_until(lambda: capture._recorder.n_rows == 1)
            private_redis.kill()
            wait_until(lambda: capture._part.n_outages == 1)
            private_redis.start()
            client.set("vehicle:BUS-2", payload("BUS-2"))
            wait_until(lambda: capture._recorder.n_rows == 2)
        finally:
            stop.set()
            thread.join(20)
    assert not thread.is_alive()
    assert len(read_positions(tmp_path)) == 2
    assert capture.summary.n_outages == 1


def test_what_cannot_work_is_said_at_once(config: RuntimeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file cannot be written"):
        Capture(config, tmp_path / "file")
    with pytest.raises(RedisUnavailableError, match=r"127\.0\.0\.1:1"):
        Capture(RuntimeConfig(redis_host="127.0.0.1", redis_port=1), tmp_path)


def test_the_command_ends_with_what_it_has(
    redis_server: RedisServer, redis_client: redis.Redis, tmp_path: Path, wait_until: Any
) -> None:
    redis_client.set("vehicle:BUS-1", payload())
    arguments = ["capture", "--output-dir", str(tmp_path / "out"), "--interval", "0.1", "--redis-url", redis_server.url]
    process = subprocess.Popen([sys.executable, "-m", "etacore", *arguments], stderr=subprocess.PIPE, text=True)
    try:
        commands = "cmdstat_mget"
        before = redis_client.info("commandstats").get(commands, {}).get("calls", 0)
        wait_until(lambda: redis_client.info("commandstats").get(commands, {}).get("calls", 0) >= before + 2, 30.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "parquet: 1 positions of" in process.communicate()[1]
    finally:
        process.kill()
        process.wait()
    assert len(read_positions(tmp_path / "out")) == 1


def test_the_command_names_a_wrong_setting(tmp_path: Path) -> None:
    arguments = ["capture", "--output-dir", str(tmp_path), "--redis-url", "redis://127.0.0.1:1/0", "--duration", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "etacore", *arguments], env=dict(os.environ), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "127.0.0.1:1/0 cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
