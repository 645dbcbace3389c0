"""Prediction documents and the commands that store them, beside orjson and redis-py's packing."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import redis
import xgboost

from benchmarks.fleet import NOW_US, make_fleet
from benchmarks.measuring import OURS, describe, differences
from benchmarks.serving import WarmEngine, WarmPeer, facts
from etacore.encoding import pack_set_commands
from etacore.model import Model

N = 2_000


def bench_encode(benchmark: Any, model: Model) -> None:
    describe(benchmark, "encode", OURS, size=N)
    warm, fleet = WarmEngine(model, make_fleet(N)), make_fleet(N, tick=1)
    batch = warm.engine.process(fleet.keys, fleet.payloads, fleet.fetch, warm.batch)
    benchmark(warm.engine.encode, batch, perf_counter())
    assert len(batch.parts[0].documents) == N


def bench_encode_peer(benchmark: Any, booster: xgboost.Booster, model: Model) -> None:
    describe(benchmark, "encode", "orjson", size=N)
    fleet = make_fleet(N, tick=1)
    peer = WarmPeer(booster, facts(model), fleet).pipeline
    snapshots = peer.parse(fleet.payloads)
    lat, lon, time_us = peer.columns(snapshots)
    features = peer.vectorize(snapshots, lat, lon, time_us)
    eta = peer.predict(features.X)
    documents = benchmark(peer.encode, fleet.keys, snapshots, time_us, features, eta, NOW_US, NOW_US, perf_counter())
    n_stops, n_edges = differences(WarmEngine(model, make_fleet(N)).documents(fleet), documents)
    assert n_edges <= n_stops // 1_000


def bench_pack(benchmark: Any, model: Model) -> None:
    describe(benchmark, "pack", OURS, size=N)
    warm, fleet, out = WarmEngine(model, make_fleet(N)), make_fleet(N, tick=1), bytearray()
    batch = warm.engine.process(fleet.keys, fleet.payloads, fleet.fetch, warm.batch)

    def pack() -> int:
        return pack_set_commands(batch.columns, batch.parts[0].documents, prefix=b"predictions:", ttl_s=300, out=out)[1]

    assert benchmark(pack) == N


def bench_pack_peer(benchmark: Any, model: Model) -> None:
    describe(benchmark, "pack", "redis-py", size=N)
    warm, fleet, out = WarmEngine(model, make_fleet(N)), make_fleet(N, tick=1), bytearray()
    batch = warm.engine.process(fleet.keys, fleet.payloads, fleet.fetch, warm.batch)
    documents = batch.parts[0].documents
    commands = [
        ("SET", "predictions:" + key.decode().partition(":")[2], documents[row], "EX", 300)
        for row, key in enumerate(fleet.keys)
    ]
    connection: Any = redis.Redis().connection_pool.make_connection()
    theirs = benchmark(connection.pack_commands, commands)
    view, _ = pack_set_commands(batch.columns, documents, prefix=b"predictions:", ttl_s=300, out=out)
    assert view.tobytes() == b"".join(theirs)
