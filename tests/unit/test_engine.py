"""Payloads to documents without Redis: whatever the batch, the same documents, and few look-ups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from etacore.config import RuntimeConfig
from etacore.engine import Batch, Engine, Models, summarize
from etacore.schema import BASE_FEATURES, Status, feature_codes
from tests.fleet import ROUTE, STOPS, payload, stops_blob

NOW_US = 1_769_000_000_000_000
WITHOUT_TIMES = {"computed_at", "fetched_at", "persisted_at", "prefect_pipeline_latency_ms"}


class Speed:
    """A model that believes in one speed."""

    model_type = "xgboost"
    features = BASE_FEATURES
    feature_codes = feature_codes(BASE_FEATURES)
    calendar_args = ("UTC", ())
    nan_fill = 0.0
    along_route_distance = False

    def __init__(self, key: str = "speed", mps: float = 8.0, route_id: str | None = None) -> None:
        self.key, self.mps, self.scope = key, mps, "route" if route_id else "global"

    def predict(self, X: np.ndarray, out: np.ndarray) -> None:
        out[:] = X[:, 0] / np.float32(self.mps)


class Store(dict[bytes, bytes]):
    """Keys and values, and how often somebody asked."""

    n_calls = 0

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.n_calls += 1
        return [self.get(key) for key in keys]


def engine(models: Models | None = None, **settings: Any) -> Engine:
    return Engine(models or Models(Speed()), RuntimeConfig(**settings), lambda: NOW_US)  # type: ignore[arg-type]


def fleet(n: int) -> tuple[list[bytes], list[bytes]]:
    names = [f"BUS-{i}" for i in range(n)]
    payloads = [payload(name, lat=9.935 + 0.0003 * i, timestamp=NOW_US / 1e6 - i) for i, name in enumerate(names)]
    return [f"vehicle:{name}".encode() for name in names], payloads


def documents(batch: Batch) -> list[dict[str, Any]]:
    found = [orjson.loads(part.documents[row]) for part in batch.parts for row in part.documents.rows().tolist()]
    return [{name: value for name, value in document.items() if name not in WITHOUT_TIMES} for document in found]


def test_the_size_of_a_batch_changes_nothing() -> None:
    store = Store({f"route_stops:{ROUTE}".encode(): stops_blob()})
    keys, payloads = fleet(60)
    whole = documents(engine().process(keys, payloads, store.fetch))
    one_by_one = engine()
    single = [documents(one_by_one.process([k], [p], store.fetch))[0] for k, p in zip(keys, payloads, strict=True)]
    assert len(whole) == 60
    assert whole == single


def test_a_large_batch_asks_no_more_often_than_a_small_one() -> None:
    calls = []
    for n in (2, 200):
        store = Store({f"route_stops:{ROUTE}".encode(): stops_blob()})
        keys, payloads = fleet(n)
        engine().process(keys, payloads, store.fetch)
        calls.append(store.n_calls)
    assert calls[0] == calls[1] <= 3


def test_a_route_of_its_own_model_is_served_by_it_and_the_rest_by_the_global_one() -> None:
    store = Store({b"route_stops:a": stops_blob(), b"route_stops:b": stops_blob()})
    models = Models(Speed(), {b"b": Speed("of-b", mps=2.0, route_id="b")})  # type: ignore[arg-type, dict-item]
    rows = [payload(name, route=route, timestamp=NOW_US / 1e6) for name, route in (("1", "a"), ("2", "b"), ("3", "a"))]
    batch = engine(models).process([b"vehicle:1", b"vehicle:2", b"vehicle:3"], rows, store.fetch)
    found = {document["vehicle_id"]: document for document in documents(batch)}
    assert {v: (d["model_key"], d["model_scope"]) for v, d in found.items()} == {
        "1": ("speed", "global"),
        "2": ("of-b", "route"),
        "3": ("speed", "global"),
    }
    assert found["2"]["predictions"][0]["eta_seconds"] > 3.9 * found["1"]["predictions"][0]["eta_seconds"]


def test_without_a_global_model_other_routes_are_failures() -> None:
    store = Store({b"route_stops:a": stops_blob(), b"route_stops:b": stops_blob()})
    models = Models(None, {b"b": Speed("of-b", route_id="b")})  # type: ignore[dict-item]
    rows = [payload("1", route="a", timestamp=NOW_US / 1e6), payload("2", route="b", timestamp=NOW_US / 1e6)]
    batch = engine(models).process([b"vehicle:1", b"vehicle:2"], rows, store.fetch)
    assert batch.counts() == {Status.NO_MODEL: 1, Status.OK: 1}
    assert summarize(batch.counts()) == {"predicted": 1, "unchanged": 0, "rejected": 0, "failed": 1}


def test_state_moves_with_the_commit_and_not_before() -> None:
    store = Store({f"route_stops:{ROUTE}".encode(): stops_blob()})
    core = engine()
    keys, payloads = fleet(1)
    core.process(keys, payloads, store.fetch)
    batch = core.process(keys, payloads, store.fetch)
    assert batch.counts() == {Status.OK: 1}
    core.commit(batch)
    assert core.process(keys, payloads, store.fetch).counts() == {Status.UNCHANGED: 1}


def test_a_loop_line_never_throws_a_vehicle_back() -> None:
    """First and last stop coincide: at the end of the round the start is as near, and is not taken."""
    corners = [(0.0, 0.0), (0.01, 0.0), (0.01, 0.01), (0.0, 0.01), (0.0, 0.0)]
    stops = [{"stop_id": f"L{i}", "lat": 9.9 + lat, "lon": -84.0 + lon} for i, (lat, lon) in enumerate(corners)]
    store = Store({f"route_stops:{ROUTE}".encode(): stops_blob(stops)})
    core = engine(max_stops_per_vehicle=1)
    path = [(0.001, 0.0), (0.006, 0.0), (0.01, 0.004), (0.008, 0.01), (0.0, 0.008), (0.0, 0.0002)]
    chosen = []
    for i, (lat, lon) in enumerate(path):
        time_s = NOW_US / 1e6 - 600 + 90 * i
        row = payload("BUS", lat=9.9 + lat, lon=-84.0 + lon, bearing=None, timestamp=time_s)
        batch = core.process([b"vehicle:BUS"], [row], store.fetch)
        chosen.append(documents(batch)[0]["predictions"][0]["stop_id"])
        core.commit(batch)
    assert chosen == ["L1", "L1", "L2", "L3", "L4", "L4"]


def test_a_finished_trip_gets_no_document() -> None:
    store = Store({f"route_stops:{ROUTE}".encode(): stops_blob()})
    row = payload("BUS", lat=STOPS[-1]["lat"] + 0.001, timestamp=NOW_US / 1e6)  # type: ignore[operator]
    batch = engine().process([b"vehicle:BUS"], [row], store.fetch)
    assert batch.counts() == {Status.TRIP_FINISHED: 1}
    assert documents(batch) == []
