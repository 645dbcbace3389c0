"""Payloads to documents without Redis: whatever the batch, the same documents, and few look-ups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from etacore.config import RuntimeConfig
from etacore.errors import ModelNotFoundError
from etacore.models.choice import Models, choose_models
from etacore.models.registry import Registry
from etacore.models.servable import TypicalLegs
from etacore.pipeline.engine import Batch, Engine, summarize
from etacore.pipeline.snapshots import TextPool, fill_snapshots
from etacore.schema import BASE_FEATURES, feature_codes
from etacore.status import Status
from tests import models as saved
from tests.fleet import ROUTE, STOPS, payload, stops_blob

NOW_US = 1_769_000_000_000_000
WITHOUT_TIMES = {"computed_at", "fetched_at", "persisted_at", "prefect_pipeline_latency_ms"}


class Speed:
    """A model that believes in one speed."""

    model_type = "xgboost"
    features: tuple[str, ...] = BASE_FEATURES
    feature_codes = feature_codes(BASE_FEATURES)
    calendar_args: tuple[str, tuple[date, ...]] = ("UTC", ())
    routes: tuple[str, ...] = ()
    typical: TypicalLegs | None = None
    nan_fill: float | None = 0.0
    along_route_distance = False

    def __init__(self, key: str = "speed", mps: float = 8.0, route_id: str | None = None) -> None:
        self.key, self.mps, self.route_id = key, mps, route_id
        self.scope = "route" if route_id else "global"

    def predict(self, X: np.ndarray, out: np.ndarray) -> None:
        out[:] = X[:, 0] / np.float32(self.mps)


class Knowing(Speed):
    """A model that knows two routes and their legs, and gives one of its features as the time to arrival."""

    routes = ("b", ROUTE)
    features = ("stop_sequence", "route_code", "typical_travel_s", "leg_left", "recent_speed_mps", "since_last_stop_s")
    feature_codes = feature_codes(features)
    nan_fill = None

    def __init__(self, gives: str, key: str = "knowing", route_id: str | None = None) -> None:
        super().__init__(key, route_id=route_id)
        self.column = self.features.index(gives)
        self.asked: list[tuple[str, int]] = []
        self.typical = self

    def legs(self, route_id: str, stop_ids: Sequence[str]) -> np.ndarray:
        self.asked.append((route_id, len(stop_ids)))
        return np.full((24, len(stop_ids)), 60.0 if route_id == ROUTE else np.nan, np.float32)

    def leg_m(self, route_id: str, stop_id: str) -> float:
        return 500.0

    def predict(self, X: np.ndarray, out: np.ndarray) -> None:
        out[:] = X[:, self.column]


class Store(dict[bytes, bytes]):
    """Keys and values, and how often somebody asked."""

    n_calls = 0

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.n_calls += 1
        return [self.get(key) for key in keys]


def engine(models: Models | None = None, **settings: Any) -> Engine:
    return Engine(models or Models(Speed()), RuntimeConfig(**settings), lambda: NOW_US)


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
    models = Models(Speed(), {b"b": Speed("of-b", mps=2.0, route_id="b")})
    rows = [payload(name, route=route, timestamp=NOW_US / 1e6) for name, route in (("1", "a"), ("2", "b"), ("3", "a"))]
    batch = engine(models).process([b"vehicle:1", b"vehicle:2", b"vehicle:3"], rows, store.fetch)
    found = {document["vehicle_id"]: document for document in documents(batch)}
    assert {v: (d["model_key"], d["model_scope"]) for v, d in found.items()} == {
        "1": ("speed", "global"),
        "2": ("of-b", "route"),
        "3": ("speed", "global"),
    }
    assert found["2"]["predictions"][0]["eta_seconds"] > 3.9 * found["1"]["predictions"][0]["eta_seconds"]


def test_a_batch_keeps_its_documents_while_another_is_computed() -> None:
    store = Store({b"route_stops:a": stops_blob(), b"route_stops:b": stops_blob()})
    serving = engine(Models(Speed(), {b"b": Speed("of-b", mps=2.0, route_id="b")}))
    batches = Batch(4), Batch(4)

    def serve(batch: Batch, *names: str) -> list[bytes]:
        rows = [payload(name, route="ab"[i % 2], timestamp=NOW_US / 1e6) for i, name in enumerate(names)]
        serving.process([f"vehicle:{name}".encode() for name in names], rows, store.fetch, batch)
        return [bytes(part.documents.commands) for part in batch.parts]

    first = serve(batches[0], "1", "2", "3", "4")
    second = serve(batches[1], "5", "6", "7")
    assert [bytes(part.documents.commands) for part in batches[0].parts] == first
    assert [bytes(part.documents.commands) for part in batches[1].parts] == second
    # Parts in the order of their models, rows of each ascending; together every row once.
    assert [part.documents.rows().tolist() for part in batches[0].parts] == [[1, 3], [0, 2]]
    assert [len(part.eta_s) for part in batches[0].parts] == [part.row_offset[4] for part in batches[0].parts]
    assert serve(batches[0], "8") != first
    assert [bytes(part.documents.commands) for part in batches[1].parts] == second


def test_without_a_global_model_other_routes_are_failures() -> None:
    store = Store({b"route_stops:a": stops_blob(), b"route_stops:b": stops_blob()})
    models = Models(None, {b"b": Speed("of-b", route_id="b")})
    rows = [payload("1", route="a", timestamp=NOW_US / 1e6), payload("2", route="b", timestamp=NOW_US / 1e6)]
    batch = engine(models).process([b"vehicle:1", b"vehicle:2"], rows, store.fetch)
    assert batch.counts() == {Status.NO_MODEL: 1, Status.OK: 1}
    assert summarize(batch.counts()) == {"predicted": 1, "unchanged": 0, "rejected": 0, "failed": 1}


def test_models_of_a_fleet_are_the_best_global_one_and_each_route_s_own(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(ModelNotFoundError, match="No trained models found for model_type xgboost"):
        choose_models(registry, None)
    saved.add_table(registry, "of-b", route_id="b")
    alone = choose_models(registry, None)
    assert (alone.default, {route: model.key for route, model in alone.by_route.items()}) == (None, {b"b": "of-b"})
    assert [model.key for model in alone.all()] == ["of-b"]
    saved.add_table(registry, "global")
    saved.add_table(registry, "other-kind", route_id="c", model_type="polyreg_time")
    both = choose_models(registry, None)
    assert [model.key for model in both.all()] == ["global", "of-b"]
    assert list(both.by_route) == [b"b"]
    (global_only := Registry(tmp_path / "second")).path.mkdir()
    saved.add_table(global_only, "global")
    assert [model.key for model in choose_models(global_only, None).all()] == ["global"]


def test_a_named_model_is_the_only_one(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    saved.add_table(registry, "global")
    saved.add_table(registry, "of-b", route_id="b")
    assert [model.key for model in choose_models(registry, "global").all()] == ["global"]
    of_route = choose_models(registry, "of-b")
    assert (of_route.default, list(of_route.by_route)) == (None, [b"b"])
    with pytest.raises(ModelNotFoundError) as caught:
        choose_models(registry, "absent")
    assert "global" in (caught.value.hint or "")
    assert "of-b" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (None, Status.OK),
        (b"", Status.OK),
        (b"{", Status.OK),
        (b"[]", Status.OK),
        (b"7", Status.OK),
        (b"{}", Status.OK),
        (orjson.dumps({"source_timestamp": "noon"}), Status.OK),
        (orjson.dumps({"source_timestamp": NOW_US / 1e6 - 1}), Status.OK),
        (orjson.dumps({"source_timestamp": NOW_US / 1e6}), Status.UNCHANGED),
        (orjson.dumps({"source_timestamp": NOW_US / 1e6 + 1}), Status.OUT_OF_ORDER),
    ],
)
def test_after_a_restart_a_stored_prediction_says_how_far_it_was(document: bytes | None, status: Status) -> None:
    store = Store({f"route_stops:{ROUTE}".encode(): stops_blob()})
    if document is not None:
        store[b"predictions:BUS-0"] = document
    keys, payloads = fleet(1)
    assert engine().process(keys, payloads, store.fetch).counts() == {status: 1}


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


def test_recorded_columns_take_the_same_way_as_json() -> None:
    store = Store({f"route_stops:{ROUTE}".encode(): stops_blob()})
    keys, payloads = fleet(40)
    as_json, as_columns = engine(), engine()
    texts = TextPool(vehicle_id=[f"BUS-{i}" for i in range(40)], route_id=[ROUTE], trip_id=["171-TRIP-001"])
    batch, rows = Batch(50), np.arange(40)
    for tick in range(3):
        found = as_json.process(keys, payloads, store.fetch)
        batch.start(NOW_US)
        lat = (9.935 + 0.0003 * rows).astype(np.float64)
        fill_snapshots(
            batch,
            texts,
            vehicle_id=rows,
            route_id=0 * rows,
            trip_id=0 * rows,
            lat=lat,
            lon=np.full(40, -84.0801),
            time_us=NOW_US - 1_000_000 * rows,
            speed_mps=np.full(40, 8.5),
            bearing_deg=np.zeros(40),
            max_future_us=60_000_000,
            max_age_us=600_000_000,
        )
        as_columns.advance(batch, store.fetch)
        assert batch.counts() == found.counts()
        assert len(batch.parts) == len(found.parts) == 1
        np.testing.assert_array_equal(batch.parts[0].features, found.parts[0].features)
        np.testing.assert_array_equal(batch.parts[0].eta_s, found.parts[0].eta_s)
        if tick == 1:
            as_json.commit(found)
            as_columns.commit(batch)
    assert found.counts() == {Status.UNCHANGED: 40}


def features_of(batch: Batch) -> list[dict[str, list[float]]]:
    return [dict(zip(part.model.features, part.features.T.tolist(), strict=True)) for part in batch.parts]


def test_a_model_that_knows_its_routes_sees_their_numbers_and_typical_times() -> None:
    model = Knowing("route_code")
    store = Store({f"route_stops:{ROUTE}".encode(): stops_blob(), b"route_stops:a": stops_blob()})
    core = engine(Models(model), max_stops_per_vehicle=2)
    lat = 0.25 * STOPS[0]["lat"] + 0.75 * STOPS[1]["lat"]
    rows = [
        payload(str(i), route=route, lat=lat, timestamp=NOW_US / 1e6) for i, route in enumerate((ROUTE, "a", ROUTE))
    ]
    keys = [b"vehicle:%d" % i for i in range(3)]
    for _ in range(2):
        (found,) = features_of(core.process(keys, rows, store.fetch))
        nan = float("nan")
        np.testing.assert_array_equal(found["route_code"], [1, 1, nan, nan, 1, 1])
        left = np.float64(np.float32(found["leg_left"][0])) * 60.0
        np.testing.assert_allclose(found["leg_left"], 0.25, atol=1e-3)
        known = [np.float32(left), np.float32(left + 60.0)]
        np.testing.assert_array_equal(found["typical_travel_s"], [*known, nan, nan, *known])
    assert sorted(model.asked) == [(ROUTE, len(STOPS)), ("a", len(STOPS))]


def test_a_model_is_asked_of_the_patterns_of_its_own_rows_only() -> None:
    everywhere, of_b = Knowing("leg_left"), Knowing("leg_left", "of-b", route_id="b")
    store = Store({b"route_stops:a": stops_blob(), b"route_stops:b": stops_blob()})
    core = engine(Models(everywhere, {b"b": of_b}))
    rows = [payload(name, route=route, timestamp=NOW_US / 1e6) for name, route in (("1", "a"), ("2", "b"))]
    core.process([b"vehicle:1", b"vehicle:2"], rows, store.fetch)
    assert (everywhere.asked, of_b.asked) == ([("a", len(STOPS))], [("b", len(STOPS))])


def test_what_a_replaced_model_knew_is_dropped() -> None:
    store = Store({f"route_stops:{ROUTE}".encode(): stops_blob()})
    core = engine(Models(Knowing("leg_left")))
    keys, payloads = fleet(2)
    core.process(keys, payloads, store.fetch)
    kept, gone = core.models.default, Knowing("leg_left", "gone", route_id="b")
    core.models = Models(kept, {b"b": gone})
    store[b"route_stops:b"] = stops_blob()
    core.process([b"vehicle:1"], [payload("1", route="b", timestamp=NOW_US / 1e6)], store.fetch)
    assert set(core._asking) == {kept, gone}
    core.models = Models(kept)
    core.process(keys, payloads, store.fetch)
    assert set(core._asking) == {kept}


def test_motion_moves_with_the_commit() -> None:
    store = Store({f"route_stops:{ROUTE}".encode(): stops_blob()})
    core = engine(Models(Knowing("leg_left")), max_stops_per_vehicle=1)
    seen = []
    for seconds, committed in ((0, True), (20, False), (40, True), (60, True)):
        row = payload("BUS", lat=9.935 + 1e-5 * seconds, timestamp=NOW_US / 1e6 - 100 + seconds)
        batch = core.process([b"vehicle:BUS"], [row], store.fetch)
        (found,) = features_of(batch)
        seen.append((found["recent_speed_mps"][0], found["since_last_stop_s"][0]))
        if committed:
            core.commit(batch)
    assert all(np.isnan(seen[0]))
    speeds, since_s = zip(*seen[1:], strict=True)
    np.testing.assert_allclose(speeds, 1e-5 * 111_195, rtol=0.05)
    assert since_s == (20.0, 40.0, 60.0)
    assert core.fleet.record(0)[8:11] == (1, NOW_US - 100_000_000, speeds[2])


def test_a_finished_trip_gets_no_document() -> None:
    store = Store({f"route_stops:{ROUTE}".encode(): stops_blob()})
    row = payload("BUS", lat=STOPS[-1]["lat"] + 0.001, timestamp=NOW_US / 1e6)
    batch = engine().process([b"vehicle:BUS"], [row], store.fetch)
    assert batch.counts() == {Status.TRIP_FINISHED: 1}
    assert documents(batch) == []
