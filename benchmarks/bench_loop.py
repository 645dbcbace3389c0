"""From Redis to Redis: the loop beside the tuned Python pipeline and the floor, 10 000 vehicles, all changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import redis
import xgboost

from benchmarks.fleet import NOW_US, make_fleet, registry_path
from benchmarks.measuring import OURS, describe, differences
from benchmarks.peers.redis_floor import RedisFloor
from benchmarks.serving import Clock, WarmPeer, config, facts
from etacore.model import Model
from etacore.redis_server import RedisServer
from etacore.runtime import Runtime
from etacore.schema import Status

N = 10_000
ROUNDS = 9


class City:
    """A Redis full of snapshots, and a clock; `move` lets every vehicle report again."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.client: redis.Redis = server.client()
        self.clock = Clock()
        self.tick = 0
        self.client.mset(make_fleet(1).routes)
        self.move()

    def move(self) -> None:
        self.tick += 1
        self.clock.now_us = NOW_US + self.tick * 1_000_000
        fleet = make_fleet(N, tick=self.tick)
        self.client.mset(dict(zip(fleet.keys, fleet.payloads, strict=True)))

    def predictions(self) -> list[bytes]:
        """Stored documents in the order of the fleet, taken away."""
        keys = [b"predictions:" + key.partition(b":")[2] for key in make_fleet(N).keys]
        found = cast("list[bytes]", self.client.mget(keys))
        self.client.delete(*keys)
        return found

    def runtime(self) -> Runtime:
        return Runtime(
            config(redis_url=self.server.url, model_registry_dir=registry_path()),
            clock=self.clock,
        )


@pytest.fixture
def city(redis_server: RedisServer) -> Iterator[City]:
    city = City(redis_server)
    yield city
    city.client.close()


def rounds(benchmark: Any, poll: Callable[[], Any], city: City) -> None:
    benchmark.pedantic(poll, setup=city.move, rounds=ROUNDS, warmup_rounds=1)


def bench_loop(benchmark: Any, city: City) -> None:
    describe(benchmark, "loop", OURS, size=N)
    runtime = city.runtime()
    rounds(benchmark, runtime.poll, city)
    assert runtime.summary.counts[Status.OK] == (ROUNDS + 1) * N
    runtime.close()


def bench_loop_peer(benchmark: Any, city: City, booster: xgboost.Booster, model: Model) -> None:
    describe(benchmark, "loop", "tuned Python", size=N)
    peer = WarmPeer(booster, facts(model), make_fleet(N), city.clock).pipeline
    rounds(benchmark, lambda: peer.poll(city.client), city)
    theirs = city.predictions()
    runtime = city.runtime()
    runtime.poll()
    runtime.close()
    n_stops, n_edges = differences(city.predictions(), theirs)
    assert n_stops == 5 * N
    assert n_edges <= n_stops // 1_000


def bench_loop_floor(benchmark: Any, city: City) -> None:
    describe(benchmark, "loop", "Redis floor", size=N)
    runtime = city.runtime()
    runtime.poll()
    runtime.close()
    documents = city.predictions()
    keys = make_fleet(N).keys
    city.client.mset(
        {b"predictions:" + key.partition(b":")[2]: text for key, text in zip(keys, documents, strict=True)}
    )
    with RedisFloor(str(city.server.socket_path), keys, documents) as floor:
        benchmark.pedantic(floor.poll, rounds=ROUNDS, warmup_rounds=1)
    assert city.predictions() == documents
