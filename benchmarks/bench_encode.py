"""Prediction documents inside the commands that store them, beside orjson and redis-py's packing of the same."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import redis
import xgboost

from benchmarks.fleet import NOW_US, make_fleet
from benchmarks.measuring import OURS, describe, differences
from benchmarks.serving import WarmEngine, WarmPeer, facts
from etacore.model import Model

N = 2_000


def bench_encode(benchmark: Any, model: Model) -> None:
    describe(benchmark, "encode", OURS, size=N)
    warm, fleet = WarmEngine(model, make_fleet(N)), make_fleet(N, tick=1)
    batch = warm.engine.process(fleet.keys, fleet.payloads, fleet.fetch, warm.batch)
    benchmark(warm.engine.encode, batch, perf_counter())
    assert len(batch.parts[0].documents) == N


def bench_encode_peer(benchmark: Any, booster: xgboost.Booster, model: Model) -> None:
    describe(benchmark, "encode", "orjson and redis-py", size=N)
    fleet = make_fleet(N, tick=1)
    peer = WarmPeer(booster, facts(model), fleet).pipeline
    snapshots = peer.parse(fleet.payloads)
    lat, lon, time_us = peer.columns(snapshots)
    features = peer.vectorize(snapshots, lat, lon, time_us)
    eta = peer.predict(features.X)
    connection: Any = redis.Redis().connection_pool.make_connection()
    documents: list[bytes] = []

    def commands() -> bytes:
        documents[:] = peer.encode(fleet.keys, snapshots, time_us, features, eta, NOW_US, NOW_US, perf_counter())
        return b"".join(
            connection.pack_commands(
                ("SET", f"predictions:{snapshot['vehicle_id']}", document, "EX", 300)
                for snapshot, document in zip(snapshots, documents, strict=True)
            )
        )

    theirs = benchmark(commands)
    ours = WarmEngine(model, make_fleet(N))
    n_stops, n_edges = differences(ours.documents(fleet), documents)
    assert n_edges <= n_stops // 1_000
    sent = bytes(ours.batch.parts[0].documents.commands)
    assert _keys(sent) == _keys(theirs)


def _keys(commands: bytes) -> list[bytes]:
    """Keys that RESP commands set, in order."""
    return [command.split(b"\r\n", 3)[1] for command in commands.split(b"$3\r\nSET\r\n")[1:]]
