"""Batches of good, rejected, unchanged and failed rows in any order: every row as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest

from etacore.config import RuntimeConfig
from etacore.models.choice import Models
from etacore.pipeline.engine import Batch, Engine
from etacore.schema import FEATURES, feature_codes
from etacore.status import Status
from tests.fleet import payload
from tests.mixed_fleet import EXPECTED, GOOD, KINDS, ROUTE_STOPS, ROUTES, START_S, UNCHANGED, fix, mixture

WITHOUT_TIMES = {"computed_at", "fetched_at", "persisted_at", "prefect_pipeline_latency_ms"}


class Model:
    """A model whose times to arrival depend on all features; those of the route "none" are no numbers."""

    model_type = "xgboost"
    features = tuple(feature.name for feature in FEATURES)
    feature_codes = feature_codes(features)
    calendar_args = ("UTC", ())
    nan_fill = None
    along_route_distance = False

    def __init__(self, route_id: str | None = None) -> None:
        self.route_id, self.key = route_id, f"of {route_id or 'all'}"
        self.scope = "route" if route_id else "global"
        self.routes = ROUTES[:3]
        self.typical = self
        self.weights = np.random.default_rng(len(self.key) + ord(self.key[-1])).uniform(0.1, 1.0, len(FEATURES))

    def legs(self, route_id: str, stop_ids: Sequence[str]) -> np.ndarray:
        return (30 + 10 * ROUTES.index(route_id) + np.arange(24)[:, None] + np.arange(len(stop_ids))).astype(np.float32)

    def leg_m(self, route_id: str, stop_id: str) -> float:
        return 400.0 + ROUTES.index(route_id)

    def predict(self, X: np.ndarray, out: np.ndarray) -> None:
        out[:] = np.nan if self.route_id == "none" else (np.nan_to_num(X) * self.weights).sum(axis=1) % 7200


class Store(dict[bytes, bytes]):
    """Keys and values, and what was asked for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: list[list[bytes]] = []

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.asked.append(list(keys))
        return [self.get(key) for key in keys]


def engine(clock: list[int], *, default: bool = True) -> Engine:
    own = {route.encode(): Model(route) for route in ("b", "other", "none")}
    models = Models(Model() if default else None, own)  # type: ignore[arg-type]
    return Engine(models, RuntimeConfig(route_refresh_seconds=0), lambda: clock[0])


Outcome = tuple[Status, dict[str, Any] | None]


def outcomes(batch: Batch) -> list[Outcome]:
    """Status and document of each row, each document being of this very row."""
    documents: dict[int, dict[str, Any]] = {}
    for part in batch.parts:
        for row in part.documents.rows().tolist():
            assert row not in documents
            documents[row] = orjson.loads(part.documents[row])
            assert documents[row]["redis_key"].encode() == batch.keys[row]
    return [
        (
            Status(status),
            {k: v for k, v in documents[row].items() if k not in WITHOUT_TIMES} if row in documents else None,
        )
        for row, status in enumerate(batch.status.tolist())
    ]


def serve(
    core: Engine, kinds: Sequence[str], rows: Sequence[int], tick: int, batch: Batch | None = None
) -> list[Outcome]:
    """One batch of these vehicles, stored but for those whose kind says no."""
    keys = [f"vehicle:BUS-{i}".encode() for i in rows]
    batch = core.process(keys, [fix(i, kinds[i], tick) for i in rows], Store(ROUTE_STOPS).fetch, batch)
    found = outcomes(batch)
    batch.status[[i for i, row in enumerate(rows) if kinds[row].startswith("not written")]] = Status.WRITE_FAILED
    core.commit(batch)
    return found


def records(core: Engine) -> list[str]:
    return [repr(core.fleet.record(i)) for i in range(core.fleet.n)]


@pytest.mark.parametrize("default", [True, False])
def test_rows_of_a_mixed_batch_fare_as_if_they_were_alone(default: bool) -> None:
    batch = Batch(300)  # what stands behind the rows in use is of the batch before
    for seed, n in enumerate((257, 3, 256, 0, 129, 1, 128, 2, 255, 127, 20)):
        clock = [START_S * 1_000_000]
        together, alone, kinds = engine(clock, default=default), engine(clock, default=default), mixture(n, seed)
        for tick in range(4):
            clock[0] = (START_S + 20 * tick) * 1_000_000
            found = serve(together, kinds, range(n), tick, batch)
            assert found == [one for i in range(n) for one in serve(alone, kinds, [i], tick)]
            assert records(together) == records(alone)


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_a_mixed_batch_get_what_their_kind_deserves(seed: int) -> None:
    clock = [START_S * 1_000_000]
    kinds = mixture(3 * len(KINDS), seed)
    core = engine(clock)
    for tick in range(3):
        clock[0] = (START_S + 20 * tick) * 1_000_000
        for i, (status, document) in enumerate(serve(core, kinds, range(len(kinds)), tick)):
            kind = kinds[i]
            if kind in EXPECTED and (tick or kind != "older"):
                assert (kind, status, document) == (kind, EXPECTED[kind], None)
            elif kind in UNCHANGED and tick:
                assert (kind, status, document) == (kind, Status.UNCHANGED, None)
            else:
                assert (kind, status) == (kind, Status.OK)
                assert document is not None
                route = {**GOOD, **UNCHANGED}.get(kind, "unmodelled" if kind == "unmodelled" else "a")
                assert document["vehicle_id"] == f"BUS-{i}"
                assert document["trip_id"] == f"trip {i}"
                assert document["route_id"] == route
                assert document["model_key"] == ("of all" if route in ("a", "unmodelled") else f"of {route}")
                assert {stop["stop_id"].rstrip("01234567") for stop in document["predictions"]} == {route}


def test_without_a_model_for_all_routes_just_those_of_others_are_left_out() -> None:
    kinds = mixture(2 * len(KINDS), 3)
    for kind, (status, document) in zip(
        kinds, serve(engine([START_S * 1_000_000], default=False), kinds, range(len(kinds)), 0), strict=True
    ):
        route = {**GOOD, **UNCHANGED, "older": "a", "unmodelled": "unmodelled"}.get(kind)
        assert (kind, status) == (
            kind,
            EXPECTED.get(kind, Status.OK)
            if route is None
            else Status.OK
            if route in ("b", "other")
            else Status.NO_MODEL,
        )
        assert (document is not None) == (status == Status.OK)


STORED = {  # what is stored of a vehicle: what becomes of its snapshot after a start
    "nothing": Status.OK,
    "the same": Status.UNCHANGED,
    "newer": Status.OUT_OF_ORDER,
    "older": Status.OK,
    "not json": Status.OK,
    "a list": Status.OK,
    "without a time": Status.OK,
    "from the far future": Status.OK,
}


@pytest.mark.parametrize("seed", range(6))
def test_what_is_stored_is_taken_over_for_its_own_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in mixture(2 * len(KINDS), seed) if kind not in ("absent", "too large", "older")]
    kinds = ["not json", "too old", *kinds]
    stored = [list(STORED)[k] for k in rng.integers(len(STORED), size=len(kinds))]
    store, payloads = Store(ROUTE_STOPS), [fix(i, kind, 0) for i, kind in enumerate(kinds)]
    for i, what in enumerate(stored):
        own_s = START_S - 100 + i % 40
        times = {"the same": own_s, "newer": own_s + 1, "older": own_s - 1, "from the far future": START_S + 10**6}
        value = {"nothing": None, "not json": b"{", "a list": b"[]", "without a time": b"{}"}.get(what, b"")
        if what in times:
            value = orjson.dumps({"source_timestamp": times[what]})
        if value is not None:
            store[f"predictions:BUS-{i}".encode()] = value
    core = engine([START_S * 1_000_000])
    batch = core.process([f"vehicle:BUS-{i}".encode() for i in range(len(kinds))], payloads, store.fetch)
    unread = ("not json", "a list", "too old", "no route")
    for kind, what, status in zip(kinds, stored, batch.status.tolist(), strict=True):
        want = EXPECTED.get(kind, Status.OK) if kind in unread or STORED[what] == Status.OK else STORED[what]
        assert (kind, what, Status(status)) == (kind, what, want)
    assert store.asked[0] == [f"predictions:BUS-{i}".encode() for i, kind in enumerate(kinds) if kind not in unread]


def test_of_a_vehicle_under_several_keys_the_newest_row_is_served() -> None:
    fixes = [  # vehicle, seconds
        (None, 0), (1, 5), (2, 5), (None, 0), (1, 9), (3, 5), (1, 9), (2, 4), (None, 0), (3, 6), (1, 1), (4, 0),
    ]  # fmt: skip
    rows = [
        b"{" if i is None else payload(f"BUS-{i}", route="a", timestamp=START_S - 50 + second) for i, second in fixes
    ]
    keys = [b"vehicle:%d" % row for row in range(len(rows))]
    core = engine([START_S * 1_000_000])
    batch = core.process(keys, rows, Store(ROUTE_STOPS).fetch)
    assert [row for row, status in enumerate(batch.status) if status == Status.OK] == [2, 4, 9, 11]
    assert [row for row, status in enumerate(batch.status) if status == Status.DUPLICATE] == [1, 5, 6, 7, 10]
    core.commit(batch)
    again = core.process(keys, rows, Store(ROUTE_STOPS).fetch)
    assert [row for row, status in enumerate(again.status) if status == Status.UNCHANGED] == [2, 4, 9, 11]
