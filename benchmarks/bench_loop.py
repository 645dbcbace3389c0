"""From Redis to Redis, all vehicles changed: the loop beside the tuned Python pipeline and the floors, in turns.

Warm: the loop has served the fleet before. Cold: a loop that knows no vehicle and no route polls for the first time,
with its model loaded and its connection open; the peer reads its routes then.

The floors repeat the same bytes in a database of their own on the same server, because what they expect may not
change; their snapshots are written anew before each of their turns as those of the others are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
import redis
import xgboost

from benchmarks.fleet import MAX_STOPS, NOW_US, Fleet, make_fleet, registry_path
from benchmarks.measuring import OURS, alternate, differences
from benchmarks.peers.redis_floor import RedisFloor
from benchmarks.serving import Clock, WarmPeer, config, facts
from etacore.loop.runtime import Runtime
from etacore.models.model import Model
from etacore.status import Status
from etacore.store.server import RedisServer

FLEETS = [1, 10, 100, 1_000, 10_000, 100_000]
LARGE = 100_000
PEER, FLOOR, PIPELINED = "tuned Python", "Redis floor", "Redis floor, pipelined"
FLOORS_DATABASE = 1
KEYS_PER_CALL = 10_000
COMPARED = 20_000


class City:
    """A Redis full of snapshots, and a clock; `move` lets every vehicle report again."""

    def __init__(self, server: RedisServer, n: int) -> None:
        self.server = server
        self.client: redis.Redis = server.client()
        self.floors: redis.Redis = server.client(db=FLOORS_DATABASE)
        self.clock = Clock()
        self.tick = 0
        self.n = n
        self.fleet = make_fleet(n)
        self.stored_as = [b"predictions:" + key.partition(b":")[2] for key in self.fleet.keys]
        self.client.mset(self.fleet.routes)
        self.move()

    def move(self) -> None:
        self.tick += 1
        self.clock.now_us = NOW_US + self.tick * 1_000_000
        self.fleet = make_fleet(self.n, tick=self.tick)
        write(self.client, self.fleet.keys, self.fleet.payloads)

    def start_anew(self) -> None:
        """Every vehicle reports, and there are no predictions."""
        self.move()
        self.forget_predictions()

    def forget_predictions(self) -> None:
        for start in range(0, self.n, KEYS_PER_CALL):
            self.client.delete(*self.stored_as[start : start + KEYS_PER_CALL])

    def predictions(self, *, floors: bool = False) -> list[bytes]:
        """Stored documents in the order of the fleet."""
        client = self.floors if floors else self.client
        found: list[bytes] = []
        for start in range(0, self.n, KEYS_PER_CALL):
            found += cast("list[bytes]", client.mget(self.stored_as[start : start + KEYS_PER_CALL]))
        return found

    def runtime(self) -> Runtime:
        return Runtime(
            config(redis_url=self.server.url, model_registry_dir=registry_path()),
            clock=self.clock,
        )

    def check(self, runtime: Runtime, peer: WarmPeer) -> None:
        """Hold what a loop stores against what the peer makes of the same snapshots, through Redis if it is few."""
        self.start_anew()
        fleet = self.fleet.every(max(self.n // COMPARED, 1))
        if len(fleet) == self.n:
            assert peer.pipeline.poll(self.client) == self.n
            theirs = self.predictions()
            self.forget_predictions()
        else:
            theirs = peer.documents(fleet)
        assert runtime.poll().counts[Status.OK] == self.n
        n_stops, n_edges = differences(self.predictions()[:: self.n // len(fleet)], theirs)
        assert n_stops == MAX_STOPS * len(fleet)
        assert n_edges <= n_stops // 1_000 + 1


def write(client: redis.Redis, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    for start in range(0, len(keys), KEYS_PER_CALL):
        chunk = slice(start, start + KEYS_PER_CALL)
        client.mset(dict(zip(keys[chunk], values[chunk], strict=True)))


@pytest.fixture
def city(redis_server: RedisServer, n: int) -> Iterator[City]:
    city = City(redis_server, n)
    yield city
    city.client.close()
    city.floors.close()


@pytest.mark.parametrize("n", FLEETS)
def bench_loop(benchmark: Any, city: City, booster: xgboost.Booster, model: Model, n: int) -> None:
    runtime = city.runtime()
    peer = WarmPeer(booster, facts(model), city.fleet, city.clock)
    runtime.poll()
    documents, snapshots = city.predictions(), city.fleet
    write(city.floors, city.stored_as, documents)
    write(city.floors, list(snapshots.routes), list(snapshots.routes.values()))

    def rewrite() -> None:
        write(city.floors, snapshots.keys, snapshots.payloads)

    def serve() -> int:
        return runtime.poll().counts[Status.OK]

    rewrite()
    at = str(city.server.socket_path), snapshots.keys, documents
    with (
        RedisFloor(*at, database=FLOORS_DATABASE) as floor,
        RedisFloor(*at, database=FLOORS_DATABASE, pipelined=True) as pipelined,
    ):
        results = alternate(
            benchmark,
            "loop",
            {OURS: serve, PEER: lambda: peer.pipeline.poll(city.client), FLOOR: floor.poll, PIPELINED: pipelined.poll},
            size=n,
            before={OURS: city.move, PEER: city.move, FLOOR: rewrite, PIPELINED: rewrite},
            every={PEER: 3 if n == LARGE else 1},
            for_s=2.0,
            min_rounds=5 if n == LARGE else 9,
            warm_up=n < LARGE,
        )
    assert (results[OURS], results[PEER]) == (n, n)
    assert city.predictions(floors=True) == documents
    city.check(runtime, peer)
    runtime.close()


@pytest.mark.parametrize("n", FLEETS)
def bench_loop_cold(benchmark: Any, city: City, booster: xgboost.Booster, model: Model, n: int) -> None:
    used, names = city.fleet.with_own_routes(), facts(model)
    runtimes: list[Runtime] = []

    def start() -> None:
        city.start_anew()
        for runtime in runtimes:
            runtime.close()
        runtimes[:] = [city.runtime()]

    def connect_peer() -> WarmPeer:
        routes = dict(zip(used.routes, cast("list[bytes]", city.client.mget(list(used.routes))), strict=True))
        return WarmPeer(booster, names, Fleet(used.keys, used.payloads, routes), city.clock)

    sides = {
        OURS: lambda: runtimes[0].poll().counts[Status.OK],
        PEER: lambda: connect_peer().pipeline.poll(city.client),
    }
    if n == LARGE:
        del sides[PEER]
    results = alternate(
        benchmark,
        "loop, cold",
        sides,
        size=n,
        before={OURS: start, PEER: city.start_anew},
        min_rounds=3 if n == LARGE else 5,
        warm_up=n < LARGE,
    )
    assert set(results.values()) == {n}
    start()
    city.check(runtimes[0], connect_peer())
    runtimes[0].close()
