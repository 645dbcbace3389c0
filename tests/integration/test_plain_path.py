"""Raw replies, ready-made commands and chunks that overlap store what the plain path stores, byte for byte."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis

import etacore.loop.runtime
import etacore.pipeline.engine
from etacore.config import RuntimeConfig
from etacore.loop.runtime import Runtime
from etacore.models.choice import choose_models
from etacore.models.registry import Registry
from etacore.status import Status
from etacore.store.server import RedisServer
from tests.fleet import ROUTE, STOPS, payload, stops_blob
from tests.reference.plain_path import PlainPath

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
N = 160


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (etacore.pipeline.engine, etacore.loop.runtime):
        monkeypatch.setattr(module, "perf_counter", lambda: 1.0)


class Clock:
    """A present that moves only when told."""

    tick = 0

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=20 * self.tick)

    def __call__(self) -> int:
        return int(self.now.timestamp() * 1e6)


@pytest.fixture
def two_sides(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[list[redis.Redis]]:
    with redis_server.client(db=0) as ours, redis_server.client(db=1) as plain:
        yield [ours, plain]


def fleet(tick: int, now: datetime) -> dict[str, bytes]:
    """Snapshots of every kind; one in five does not move on, one key in ten is a second one of a vehicle."""
    rng = random.Random(tick)
    found = {}
    for i in range(N):
        name = f"BUS-{i}" if i % 10 else f"BUS-{(i * 7 + 3) % N}"
        moved = 0 if i % 5 == 0 else tick
        changes: dict[str, Any] = {
            "timestamp": (now - timedelta(seconds=20 * (tick - moved) + i % 7)).isoformat(),
            "lat": 9.936 + 0.0017 * moved + 0.0001 * (i % 9),
            "route": ("other", ROUTE, "171", "nowhere", None)[i % 5 if i % 4 == 0 else i % 2],
            "trip_id": (f"T-{i}", None, "171-BACK")[i % 3],
            "speed": (8.5, None, -1, "fast")[i % 4],
            "note": "x" * rng.randrange(200),
        }
        found[f"vehicle:{i:04d}"] = payload(name, **changes)
    bad = [b"", b"{", b"[]", b"\xff", b"$-1\r\n", b'{"vehicle_id":"\r\n"}', b"x" * 70_000, payload("B", lat=91)]
    for i, blob in enumerate(bad):
        found[f"vehicle:{(tick + i) * 17 % N:04d}"] = blob
    return found


def test_the_loop_stores_what_the_plain_path_stores(two_sides, redis_server, registry_dir, monkeypatch):
    back = [stop | {"stop_id": f"B{i}", "stop_sequence": i} for i, stop in enumerate(reversed(STOPS))]
    keys = [b"vehicle:%04d" % i for i in range(N + 5)]  # the last five are absent
    config = RuntimeConfig(
        redis_url=redis_server.url, model_registry_dir=registry_dir, chunk_size=37, route_refresh_seconds=30
    )
    clock = Clock()
    runtime = Runtime(config, clock=clock)
    plain = PlainPath(choose_models(Registry(Path(registry_dir)), None), config, two_sides[1], clock)
    monkeypatch.setattr(runtime._store, "scan_vehicle_keys", lambda: list(keys))
    monkeypatch.setattr("etacore.loop.schedule.SET_ASIDE_S", 0.0)
    seen: set[Status] = set()
    scopes: set[bytes] = set()
    began = monotonic()
    for tick in range(6):
        clock.tick = tick
        for client in two_sides:
            client.mset({f"route_stops:{ROUTE}": stops_blob(), "route_stops:other": stops_blob(STOPS[tick // 2 :])})
            client.mset({"trip_pattern:171-BACK": "171:1:x", "pattern_stops:171:1:x": stops_blob(back)})
            client.mset(fleet(tick, clock.now))
            client.delete("vehicle:0050", "vehicle:0100", f"predictions:BUS-{5 * tick}")
            client.hset("vehicle:0100", "lat", "1")
        counts = runtime.poll().counts
        assert counts == plain.poll(keys)
        seen |= set(counts)
        ours, theirs = (
            dict(zip(names := sorted(client.scan_iter("predictions:*")), client.mget(names), strict=True))
            for client in two_sides
        )
        assert ours == theirs
        assert len(ours) > N // 2
        ttls_s = [client.ttl(name) for client in two_sides for name in ours]
        assert min(ttls_s) >= 299 - (monotonic() - began)
        assert max(ttls_s) <= 300
        scopes |= {text[text.index(b'"model_scope"') :][:25] for text in ours.values()}
    assert len(scopes) == 2
    assert seen >= {
        Status.OK,
        Status.UNCHANGED,
        Status.DUPLICATE,
        Status.OUT_OF_ORDER,
        Status.EXPIRED,
        Status.WRONG_TYPE,
        Status.TOO_LARGE,
        Status.INVALID_JSON,
        Status.NOT_AN_OBJECT,
        Status.POSITION_OUT_OF_RANGE,
        Status.MISSING_ROUTE,
        Status.UNKNOWN_ROUTE,
    }
    runtime.close()
