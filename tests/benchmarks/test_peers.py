"""The peers do the same work as the package: the same documents, in memory and through a real Redis."""

from __future__ import annotations

import itertools

import numpy as np
import orjson
import pytest

from benchmarks.fleet import MAX_STOPS, NOW_US, make_fleet, training_rows, xgboost_model
from benchmarks.measuring import differences
from benchmarks.peers.forests import CLIP, PEERS
from benchmarks.peers.redis_floor import CHUNK as FLOORS_CHUNK
from benchmarks.peers.redis_floor import RedisFloor, _overlapped
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


@pytest.mark.parametrize("name", ["XGBoost inplace_predict", "treelite GTIL", "ONNX Runtime"])
def test_the_peers_of_the_forest_predict_the_same_model(model, name):
    """Also rows with a missing feature, which follow the branch that training chose."""
    X = training_rows(2_000, seed=3)[0]
    X[::5, 0] = np.nan
    ours = np.empty(len(X), np.float32)
    model.predictor.predict(X, ours, *CLIP)
    theirs = PEERS[name]()(X)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-3)
    assert theirs.std() > 100


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


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("n", [3, CHUNK, 2 * FLOORS_CHUNK, 3 * FLOORS_CHUNK + 7])
def test_the_floor_moves_the_same_bytes(redis_server, redis_client, n, pipelined):
    fleet = make_fleet(n)
    documents = [b'{"n":%d}' % i for i in range(n)]
    keys = [key.replace(b"vehicle:", b"predictions:") for key in fleet.keys]
    redis_client.mset(dict(zip(fleet.keys, fleet.payloads, strict=True)) | dict.fromkeys(keys, b""))
    with RedisFloor(str(redis_server.socket_path), fleet.keys, documents, pipelined=pipelined) as floor:
        received = floor.poll()
        assert redis_client.mget(keys) == documents
        assert received > sum(map(len, fleet.payloads)) + len(b"+OK\r\n") * n
        assert floor.poll() == received


@pytest.mark.parametrize("pipelined", [False, True])
def test_the_floor_has_a_database_of_its_own(redis_server, redis_client, pipelined):
    fleet = make_fleet(3)
    with redis_server.client(db=1) as other:
        other.mset(dict(zip(fleet.keys, fleet.payloads, strict=True)))
        path = str(redis_server.socket_path)
        with RedisFloor(path, fleet.keys, [b"{}"] * 3, database=1, pipelined=pipelined) as floor:
            floor.poll()
        assert other.get("predictions:BUS-000001") == b"{}"
        other.flushdb()
    assert redis_client.dbsize() == 0


def test_the_floor_notices_that_the_database_has_changed(redis_server, redis_client):
    fleet = make_fleet(3)
    redis_client.mset(dict(zip(fleet.keys, fleet.payloads, strict=True)))
    with RedisFloor(str(redis_server.socket_path), fleet.keys, [b"{}"] * 3) as floor:
        floor.poll()
        redis_client.set(fleet.keys[-1], b"longer" * 100)
        with pytest.raises(RuntimeError, match="has changed"):
            sum(floor.poll() for _ in range(100))


def test_no_document_is_stored_before_its_snapshot_was_read():
    """What is sent at a step may depend on what had been received before it, and on nothing later."""
    reads = [(b"read %d " % i, 10 + i) for i in range(5)]
    writes = [(b"write %d " % i, 100 + i) for i in range(5)]
    steps = _overlapped(reads, writes)
    sent = b"".join(request for request, _ in steps).decode().split()
    replies = {**{f"read {i}": 10 + i for i in range(5)}, **{f"write {i}": 100 + i for i in range(5)}}
    order = [" ".join(words) for words in zip(sent[::2], sent[1::2], strict=True)]
    arrives = dict(zip(order, itertools.accumulate(replies[command] for command in order), strict=True))
    received = 0
    for request, n_bytes in steps:
        for i in range(5):
            if b"write %d" % i in request:
                assert received >= arrives[f"read {i}"]
                assert received < sum(replies.values())
        received += n_bytes
    assert received == sum(replies.values())
    assert sorted(order) == sorted(replies)


def test_the_fleet_is_seeded_and_moves():
    assert make_fleet(50) == make_fleet(50)
    before, after = (make_fleet(50, tick) for tick in (0, 1))
    assert before.keys == after.keys
    assert all(a != b for a, b in zip(before.payloads, after.payloads, strict=True))
    assert 200 <= sum(map(len, before.payloads)) / 50 <= 260
    assert {len(orjson.loads(blob)) for blob in before.routes.values()} == {20}


def test_parts_of_a_fleet():
    fleet = make_fleet(50)
    assert fleet.every(7).keys == fleet.keys[::7]
    assert (len(fleet.parked()), fleet.parked().routes) == (0, fleet.routes)
    used = {b"route_stops:" + orjson.loads(payload)["route"].encode() for payload in fleet.payloads}
    assert set(fleet.with_own_routes().routes) == used != set(fleet.routes)


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
