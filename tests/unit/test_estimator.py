import json
import threading
from collections import UserDict, deque
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etacore import estimator
from etacore.errors import ModelLoadError, ModelNotFoundError
from etacore.estimator import ShapePolyline, estimate_stop_times
from etacore.schema import BASE_FEATURES, feature_codes

BUS = {"vehicle_id": "B", "lat": 40.7, "lon": -74.0, "timestamp": "2026-01-20T12:00:00+00:00", "route": "171"}
STOPS = [{"stop_id": f"S{i}", "lat": 40.7 + 0.01 * i, "lon": -74.0, "stop_sequence": i} for i in range(1, 6)]
DOCUMENT = ["vehicle_id", "route_id", "trip_id", "computed_at", "model_key", "model_type", "model_scope", "predictions"]
FAILURE = ["vehicle_id", "route_id", "trip_id", "computed_at", "model_key", "predictions", "error"]


class StubRegistry:
    """Models "global" and "of-9"; an ETA is a tenth of the distance."""

    def __init__(self, path):
        self.path = path
        self.models = {"global": stub_model("global", "global"), "of-9": stub_model("of-9", "route")}
        self.n_loads = 0

    def choose(self, model_type, route_id, prefer_route_model):
        if model_type != "xgboost":
            return None
        return "of-9" if route_id == "9" and prefer_route_model else "global"

    def load(self, key):
        self.n_loads += 1
        if key == "broken":
            raise ModelLoadError("the bundle is damaged", hint="copy it again")
        if key not in self.models:
            raise ModelNotFoundError(f"Model {key} not found in registry")
        return self.models[key]


def stub_model(key, scope, eta=lambda features: features[:, 0] / 10):
    def predict(features, out):
        out[:] = eta(features)

    return SimpleNamespace(
        key=key,
        model_type="xgboost",
        scope=scope,
        time_zone="UTC",
        holidays=(),
        features=BASE_FEATURES,
        feature_codes=feature_codes(BASE_FEATURES),
        nan_fill=0.0,
        predict=predict,
        predictor=None,
        clip_s=(0.0, 7200.0),
    )


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    stub = StubRegistry("stub")
    monkeypatch.setattr(estimator, "_registries", {})
    monkeypatch.setattr(estimator, "open_registry", lambda path: stub)
    return stub


def etas(document):
    return [stop["eta_seconds"] for stop in document["predictions"]]


def test_a_document():
    document = estimate_stop_times(BUS, STOPS, trip_id="T")
    assert list(document) == DOCUMENT
    assert (document["vehicle_id"], document["route_id"], document["trip_id"]) == ("B", "171", "T")
    assert (document["model_key"], document["model_type"], document["model_scope"]) == ("global", "xgboost", "global")
    assert etas(document) == [111.2, 222.4, 333.6]
    assert document["predictions"][0] == {
        "stop_id": "S1",
        "stop_sequence": 1,
        "distance_to_stop_m": 1111.9,
        "eta_seconds": 111.2,
        "eta_minutes": 1.85,
        "eta_formatted": "1m 51s",
        "eta_timestamp": "2026-01-20T12:01:51.194923+00:00",
    }
    computed_at = datetime.fromisoformat(document["computed_at"])
    assert abs(datetime.now(UTC) - computed_at) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "global"),
        ({"route_id": "9"}, "of-9"),
        ({"route_id": "9", "prefer_route_model": False}, "global"),
        ({"route_id": "9", "model_key": "global"}, "global"),
        ({"model_type": "xgboost", "route_id": 9}, "of-9"),
    ],
)
def test_which_model(options, expected):
    document = estimate_stop_times(BUS, STOPS, **options)
    assert document["model_key"] == expected
    assert document["model_scope"] == ("route" if expected == "of-9" else "global")


@pytest.mark.parametrize(
    ("vehicle", "stops", "options", "model_key", "error"),
    [
        (None, STOPS, {}, None, "Missing vehicle position or stops"),
        ("here", STOPS, {}, None, "Missing vehicle position or stops"),
        (BUS, None, {}, None, "Missing vehicle position or stops"),
        (BUS, {}, {}, None, "Missing vehicle position or stops"),
        (BUS, 5, {}, None, "Missing vehicle position or stops"),
        (BUS | {"lon": ""}, STOPS, {}, None, "Missing vehicle position or stops"),
        (BUS | {"lon": 181}, STOPS, {}, None, "Unusable vehicle position: (40.7, 181)"),
        (BUS | {"lat": float("nan")}, STOPS, {}, None, "Unusable vehicle position: (nan, -74.0)"),
        (BUS | {"lat": True}, STOPS, {}, None, "Unusable vehicle position: (True, -74.0)"),
        (BUS, STOPS, {"model_type": "ewma"}, None, "No trained models found for model_type"),
        (BUS, STOPS, {"model_key": "x"}, "x", "Failed to load model metadata: 'Model x not found in registry'"),
        (BUS, STOPS, {"model_key": "broken"}, "broken", "Failed to load model metadata: the bundle is damaged"),
        (BUS | {"timestamp": None}, STOPS, {}, "global", "Missing or unusable timestamp: None"),
        (BUS | {"timestamp": "noon"}, STOPS, {}, "global", "Missing or unusable timestamp: 'noon'"),
        (BUS | {"timestamp": 1e30}, STOPS, {}, "global", "Missing or unusable timestamp: 1e+30"),
        (BUS, STOPS, {"shape": [(1, 2)]}, "global", "shape has to be a ShapePolyline, not: <class 'list'>"),
    ],
)
def test_a_call_that_cannot_be_answered(vehicle, stops, options, model_key, error):
    document = estimate_stop_times(vehicle, stops, **options)
    assert list(document) == FAILURE
    assert document["predictions"] == []
    assert document["error"] == error
    assert document["model_key"] == model_key


def test_a_defect_is_a_document_too(registry):
    registry.models["global"].predict = lambda features, out: 1 / 0
    document = estimate_stop_times(BUS, STOPS)
    assert list(document) == FAILURE
    assert document["error"] == "Prediction failed: ZeroDivisionError: division by zero"
    assert estimate_stop_times(BUS, STOPS, max_stops="many")["error"].startswith("Prediction failed: ValueError")


def test_a_stop_that_cannot_be_predicted():
    stops = [STOPS[0], {"stop_id": 7, "lat": 95, "lon": 0}, None, STOPS[1] | {"lat": "x", "shape_distance_to_stop": 9}]
    document = estimate_stop_times(BUS, stops, max_stops=4)
    assert list(document) == DOCUMENT
    assert [stop["stop_id"] for stop in document["predictions"]] == ["S1", "7", None, "S2"]
    assert [stop["distance_to_stop_m"] for stop in document["predictions"]] == [1111.9, None, None, 9.0]
    assert etas(document) == [111.2, None, None, None]
    assert {stop.get("error") for stop in document["predictions"][1:]} == {"Stop without usable coordinates"}


def test_an_eta_that_is_no_number(registry):
    registry.models["global"] = stub_model("global", "global", lambda features: np.array([1.0, np.nan, np.inf]))
    document = estimate_stop_times(BUS, STOPS)
    assert etas(document) == [1.0, None, None]
    assert "NaN" not in json.dumps(document)


def test_columns_of_the_model(registry):
    seen = []
    registry.models["global"] = stub_model("global", "global", lambda x: seen.append(x.copy()) or np.ones(len(x)))
    estimate_stop_times(BUS | {"lat": 40.715}, STOPS, max_stops=2)
    np.testing.assert_allclose(
        seen[0],
        [[555.97, 0.5, 0.25, 12, 1, 0, 0], [555.97, 0.0, 0.5, 12, 1, 0, 0]],
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 20, 12),
        datetime(2026, 1, 20, 12, tzinfo=UTC),
        datetime(2026, 1, 20, 14, tzinfo=timezone(timedelta(hours=2))),
        1768910400,
        "1768910400000",
        "2026-01-20 06:00:00-06",
    ],
)
def test_times(moment):
    document = estimate_stop_times(BUS | {"timestamp": moment}, STOPS, max_stops=1)
    assert document["predictions"][0]["eta_timestamp"].startswith("2026-01-20T12:01:51.19")


def test_distances_along_a_shape():
    shape = ShapePolyline([(40.7, -74.0), (40.7, -73.99), (40.71, -73.99), (40.71, -74.0), (40.8, -74.0)])
    straight = estimate_stop_times(BUS, STOPS)["predictions"]
    along = estimate_stop_times(BUS, STOPS, shape=shape)["predictions"]
    around = along[0]["distance_to_stop_m"] - straight[0]["distance_to_stop_m"]
    assert around == pytest.approx(2 * 843, abs=2)
    stops = [STOPS[0] | {"shape_distance_to_stop": "1234.56"}, STOPS[1]]
    told = estimate_stop_times(BUS, stops, shape=shape)["predictions"]
    assert told[0]["distance_to_stop_m"] == 1234.6
    assert told[1] == along[1]


def test_any_mapping_and_sequence_will_do():
    expected = estimate_stop_times(BUS, STOPS)["predictions"]
    assert estimate_stop_times(UserDict(BUS), tuple(UserDict(stop) for stop in STOPS))["predictions"] == expected


def test_a_model_is_asked_for_once_a_second(registry, monkeypatch):
    now = 100.0
    monkeypatch.setattr(estimator.time, "monotonic", lambda: now)
    for _ in range(5):
        estimate_stop_times(BUS, STOPS)
    assert registry.n_loads == 1
    registry.models["global"] = stub_model("global", "global", lambda features: np.full(len(features), 7.0))
    assert etas(estimate_stop_times(BUS, STOPS)) == [111.2, 222.4, 333.6]
    now += 1.01
    assert etas(estimate_stop_times(BUS, STOPS)) == [7.0, 7.0, 7.0]
    assert registry.n_loads == 2


def test_several_threads():
    wrong = []

    def work(number):
        vehicle = BUS | {"lat": 40.7 - 0.01 * number}
        expected = [round(111.2 * (number + i), 0) for i in (1, 2, 3)]
        for _ in range(300):
            found = [round(eta, 0) for eta in etas(estimate_stop_times(vehicle, STOPS))]
            if not np.allclose(found, expected, atol=1):
                wrong.append((number, found))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = ["vehicle_id", "id", "vehicle", "lat", "lon", "timestamp", "route", "trip_id", "speed", "stop_id"]
names += ["stop_sequence", "sequence", "stop_order", "total_stop_sequence", "shape_distance_to_stop"]
strange = st.dictionaries(st.sampled_from(names), anything)
strange_vehicles = anything | strange.map(lambda given: BUS | given)
strange_stops = anything | st.lists(strange.map(lambda given: STOPS[0] | given) | anything, max_size=4)


@given(strange_vehicles, strange_stops, anything, anything, anything, anything)
def test_nothing_raises(vehicle, stops, route_id, model_key, max_stops, shape):
    document = estimate_stop_times(
        vehicle, stops, route_id=route_id, model_key=model_key, max_stops=max_stops, shape=shape
    )
    assert list(document) in (DOCUMENT, FAILURE)
    json.dumps(document, allow_nan=False)
    orjson.dumps(document)


@pytest.mark.parametrize("kind", [tuple, iter, deque, lambda stops: (stop for stop in stops), np.array])
def test_any_iterable_of_stops_will_do(kind):
    expected = estimate_stop_times(BUS, STOPS)["predictions"]
    assert len(expected) == 3
    assert estimate_stop_times(BUS, kind(STOPS))["predictions"] == expected


@pytest.mark.parametrize("stops", ["abc", b"abc", {"S1": {}}, 5, None])
def test_what_is_no_list_of_stops_is_missing(stops):
    assert estimate_stop_times(BUS, stops)["error"] == "Missing vehicle position or stops"


def test_objects_that_fail_end_in_a_document():
    class Broken(dict):
        def get(self, *_):
            raise RuntimeError("no")

    for vehicle in (Broken(BUS), BUS | {"vehicle_id": 10**5000}):
        document = estimate_stop_times(vehicle, STOPS)
        assert list(document) == FAILURE
        assert document["error"].startswith("Prediction failed: ")


def test_numbers_of_numpy_are_numbers():
    plain = BUS | {"vehicle_id": 5, "timestamp": 1_769_000_000}
    document = estimate_stop_times(
        plain | {"vehicle_id": np.int64(5), "timestamp": np.int64(1_769_000_000), "lat": np.float32(40.75)},
        [stop | {"stop_id": np.int32(i), "stop_sequence": np.int16(i)} for i, stop in enumerate(STOPS, 1)],
        route_id=np.int64(171),
        trip_id=float("nan"),
    )
    assert (document["vehicle_id"], document["route_id"], document["trip_id"]) == ("5", "171", None)
    assert [(stop["stop_id"], stop["stop_sequence"]) for stop in document["predictions"]] == [
        ("1", 1),
        ("2", 2),
        ("3", 3),
    ]
    expected = estimate_stop_times(plain | {"lat": 40.75}, STOPS)
    assert etas(document) == etas(expected)


class KnownLegs:
    """The leg to each stop takes a minute and is 2 km long, on route 171."""

    def legs(self, route_id, stop_ids):
        seconds = np.full((24, len(stop_ids)), 60.0 if route_id == "171" else np.nan, np.float32)
        seconds[:, 0] = 0.0
        return seconds

    def leg_m(self, route_id, stop_id):
        return 2000.0 if (route_id, stop_id) == ("171", "S1") else float("nan")


def knowing(registry, *features, **changes):
    """A model that gives the first of its features as the time to arrival."""
    model = stub_model("knowing", "global", lambda X: X[:, 0])
    model.features, model.feature_codes = features, feature_codes(features)
    model.nan_fill, model.typical, model.routes = None, KnownLegs(), ("9", "171")
    vars(model).update(changes)
    registry.models["global"] = model


def test_a_model_that_knows_its_routes(registry):
    leg_left = 1111.949 / 2000.0
    for feature, expected in (
        ("leg_left", [leg_left] * 3),
        ("typical_travel_s", [60 * leg_left, 60 * leg_left + 60, 60 * leg_left + 120]),
        ("route_code", [1.0] * 3),
        ("stop_sequence", [1.0, 2.0, 3.0]),
    ):
        knowing(registry, feature)
        estimator._registries.clear()
        assert etas(estimate_stop_times(BUS, STOPS)) == pytest.approx(expected, abs=0.051), feature


def test_a_route_that_the_model_does_not_know(registry):
    for feature in ("leg_left", "typical_travel_s", "route_code"):
        knowing(registry, feature)
        estimator._registries.clear()
        for vehicle in (BUS | {"route": "other"}, {name: v for name, v in BUS.items() if name != "route"}):
            assert etas(estimate_stop_times(vehicle, STOPS)) == [None] * 3
    knowing(registry, "leg_left", "typical_travel_s", typical=None)
    estimator._registries.clear()
    assert etas(estimate_stop_times(BUS, STOPS)) == [None] * 3


def test_one_position_says_nothing_of_motion(registry):
    for feature in ("recent_speed_mps", "since_last_stop_s"):
        knowing(registry, feature)
        estimator._registries.clear()
        assert etas(estimate_stop_times(BUS, STOPS)) == [None] * 3


def test_a_given_distance_says_what_is_left_of_the_leg(registry):
    knowing(registry, "leg_left")
    stops = [STOPS[0] | {"shape_distance_to_stop": 500.0}, {"lat": 40.72, "lon": -74.0}]
    assert etas(estimate_stop_times(BUS, stops)) == [0.2, 0.2]
    assert etas(estimate_stop_times(BUS, stops[::-1])) == [None] * 2


def test_a_stop_without_coordinates_does_not_break_the_typical_times(registry):
    knowing(registry, "typical_travel_s")
    stops = [STOPS[0], {"stop_id": "S2"}, STOPS[2]]
    assert etas(estimate_stop_times(BUS, stops)) == [33.4, None, 153.4]


def test_a_call_within_a_call():
    inner = []

    class Asking(UserDict):
        def get(self, name, default=None):
            inner.append(etas(estimate_stop_times(BUS, STOPS[2:])))
            return super().get(name, default)

    outer = [UserDict(STOPS[0]), Asking(STOPS[1]), *STOPS[2:]]
    assert etas(estimate_stop_times(BUS, outer, max_stops=5)) == etas(estimate_stop_times(BUS, STOPS, max_stops=5))
    assert inner
    assert all(found == etas(estimate_stop_times(BUS, STOPS[2:])) for found in inner)


@pytest.mark.parametrize("max_stops", ["2", 2.9, np.int64(2)])
def test_a_number_of_stops_in_another_dress(max_stops):
    assert len(etas(estimate_stop_times(BUS, STOPS, max_stops=max_stops))) == 2


def test_no_stops_asked_for(registry):
    for max_stops in (0, -1, 0.9, "0"):
        assert estimate_stop_times(BUS, STOPS, max_stops=max_stops)["predictions"] == []
    knowing(registry, "typical_travel_s")
    estimator._registries.clear()
    document = estimate_stop_times(BUS, STOPS, max_stops=0)
    assert (document["predictions"], document.get("error")) == ([], None)
