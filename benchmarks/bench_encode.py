"""Prediction documents inside the commands that store them, beside orjson and redis-py's packing of the same."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import redis
import xgboost

from benchmarks.fleet import MAX_STOPS, NOW_US, make_fleet
from benchmarks.measuring import OURS, alternate, differences
from benchmarks.serving import WarmEngine, WarmPeer, facts
from etacore.models.model import Model

N = 2_000
PEER = "orjson and redis-py"


def bench_encode(benchmark: Any, booster: xgboost.Booster, model: Model) -> None:
    warm, fleet = WarmEngine(model, make_fleet(N)), make_fleet(N, tick=1)
    batch = warm.engine.process(fleet.keys, fleet.payloads, fleet.fetch, warm.batch)
    peer = WarmPeer(booster, facts(model), fleet).pipeline
    snapshots = peer.parse(fleet.payloads)
    lat, lon, time_us = peer.columns(snapshots)
    features = peer.vectorize(snapshots, lat, lon, time_us)
    eta = peer.predict(features.X)
    connection: Any = redis.Redis().connection_pool.make_connection()

    def documents_and_commands() -> tuple[list[bytes], bytes]:
        documents = peer.encode(fleet.keys, snapshots, time_us, features, eta, NOW_US, NOW_US, perf_counter())
        commands = connection.pack_commands(
            ("SET", f"predictions:{snapshot['vehicle_id']}", document, "EX", 300)
            for snapshot, document in zip(snapshots, documents, strict=True)
        )
        return documents, b"".join(commands)

    sides = {OURS: lambda: warm.engine.encode(batch, perf_counter()), PEER: documents_and_commands}
    theirs, commands = alternate(benchmark, "encode", sides, size=N)[PEER]
    (part,) = batch.parts
    n_stops, n_edges = differences([part.documents[row] for row in range(N)], theirs)
    assert n_stops == MAX_STOPS * N
    assert n_edges <= n_stops // 1_000
    assert _keys(bytes(part.documents.commands)) == _keys(commands)


def _keys(commands: bytes) -> list[bytes]:
    """Keys that RESP commands set, in order."""
    return [command.split(b"\r\n", 3)[1] for command in commands.split(b"$3\r\nSET\r\n")[1:]]
