"""The peers do the same work as the package: the same documents, in memory and through a real Redis."""

from __future__ import annotations

import orjson
import pytest

from benchmarks.fleet import MAX_STOPS, NOW_US, make_fleet, xgboost_model
from benchmarks.measuring import differences
from benchmarks.peers.redis_floor import RedisFloor
from benchmarks.peers.tuned_python import CHUNK, eta_text
from benchmarks.serving import Clock, WarmEngine, WarmPeer, facts

N = CHUNK + 300


@pytest.fixture(scope="module")
def booster():
    return xgboost_model()


@pytest.fixture(scope="module")
def model():
    from benchmarks.fleet import compiled_model

    return compiled_model()


@pytest.mark.parametrize("stops_ahead", [1, MAX_STOPS])
def test_the_tuned_pipeline_gives_the_documents_of_the_engine(booster, model, stops_ahead):
    """Also for vehicles so near the end that fewer stops are left."""
    before, fleet = (make_fleet(N, tick, stops_ahead=stops_ahead) for tick in (0, 1))
    ours = WarmEngine(model, before).documents(fleet)
    n_stops, n_edges = differences(ours, WarmPeer(booster, facts(model), fleet).documents(fleet))
    assert N * stops_ahead <= n_stops <= N * MAX_STOPS
    assert (n_stops == N * MAX_STOPS) is (stops_ahead == MAX_STOPS)
    assert n_edges <= n_stops // 1_000


def test_a_difference_is_found(booster, model):
    fleet = make_fleet(3)
    documents = WarmPeer(booster, facts(model), fleet).documents(fleet)
    assert differences(documents, documents) == (3 * MAX_STOPS, 0)
    for change in (b'"eta_seconds":', b'"distance_to_stop_m":'):
        changed = [document.replace(change, change + b"1", 1) for document in documents]
        with pytest.raises(AssertionError):
            differences(documents, changed)
    with pytest.raises(AssertionError):
        differences(documents, documents[::-1])


def test_the_tuned_pipeline_serves_a_redis(booster, model, redis_client):
    fleet = make_fleet(N)
    redis_client.mset(fleet.routes | dict(zip(fleet.keys, fleet.payloads, strict=True)))
    peer = WarmPeer(booster, facts(model), fleet).pipeline
    assert peer.poll(redis_client) == N
    assert peer.poll(redis_client) == 0, "an unchanged snapshot is skipped"
    document = orjson.loads(redis_client.get("predictions:BUS-000007"))
    assert document["redis_key"] == "vehicle:BUS-000007"
    assert len(document["predictions"]) == MAX_STOPS
    assert 0 < redis_client.ttl("predictions:BUS-000007") <= 300


def test_the_floor_moves_the_same_bytes(redis_server, redis_client):
    fleet = make_fleet(N)
    documents = [b'{"n":%d}' % i for i in range(N)]
    keys = [key.replace(b"vehicle:", b"predictions:") for key in fleet.keys]
    redis_client.mset(dict(zip(fleet.keys, fleet.payloads, strict=True)) | dict.fromkeys(keys, b""))
    with RedisFloor(str(redis_server.socket_path), fleet.keys, documents) as floor:
        received = floor.poll()
        assert redis_client.mget(keys) == documents
        assert received > sum(map(len, fleet.payloads)) + len(b"+OK\r\n") * N
        assert floor.poll() == received


def test_the_fleet_is_seeded_and_moves():
    assert make_fleet(50) == make_fleet(50)
    before, after = (make_fleet(50, tick) for tick in (0, 1))
    assert before.keys == after.keys
    assert all(a != b for a, b in zip(before.payloads, after.payloads, strict=True))
    assert 200 <= sum(map(len, before.payloads)) / 50 <= 260
    assert {len(orjson.loads(blob)) for blob in before.routes.values()} == {20}


def test_snapshots_of_the_fleet_are_recent():
    clock = Clock()
    assert clock() == NOW_US
    times = {orjson.loads(payload)["timestamp"] for payload in make_fleet(200).payloads}
    assert min(times) >= "2026-01-20T11:59:30+00:00"
    assert max(times) < "2026-01-20T12:00:00+00:00"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3599, "59m 59s"), (3600, "1h 0m"), (7200, "2h 0m")]
)
def test_eta_text(seconds, text):
    assert eta_text(seconds) == text
