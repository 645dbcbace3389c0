"""The kernel of the drop-in call against its twins: feature rows, and stops as dicts."""

import math
import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etacore._kernels import window as _window
from etacore._kernels.features import Vectorizer
from etacore._kernels.window import UnpredictableError, Window
from etacore.pipeline.calendar import Calendar
from etacore.schema import FEATURES, WEATHER_FEATURES, feature_codes
from tests.reference import encoding, features, geo
from tests.reference.drive import EPOCH_US

NAMES = [feature.name for feature in FEATURES]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HERE = {"lat": 45.001, "lon": 7.002, "speed": 3.5}
# Decimals that end in a 5 one digit too far: the double beside it decides, not the decimal.
halves = st.builds(lambda n, k: (2 * n + 1) * 5 / 10**k, st.integers(0, 10**9), st.integers(1, 4)).filter(
    lambda x: x < 1e12
)


def asking(*names, zone="UTC", nan_fill=math.nan):
    calendar = Calendar(zone)
    codes = feature_codes(names)
    return Vectorizer(calendar.transitions_s, calendar.offset_s, calendar.holiday_days, codes, nan_fill)


def window_at(time_us, stops, vehicle=HERE):
    window = Window()
    window.read_position(vehicle)
    window.read_motion(vehicle | {"timestamp": (EPOCH + timedelta(microseconds=time_us)).isoformat()})
    window.read_stops(stops)
    return window


def stops_with(distances, etas, time_us):
    """What a window shows for given distances and ETAs."""
    stops = [
        {"stop_id": f"S{i}", "stop_sequence": 7 * i, "lat": 45, "lon": 7, "shape_distance_to_stop": distance_m}
        for i, distance_m in enumerate(distances)
    ]
    window = window_at(time_us, stops)
    window.vectorize(asking("hour"))

    def predict(X, out):
        assert (X.shape, out.shape) == ((len(etas), 1), (len(etas),))
        out[:] = etas

    window.predict_by(predict)
    return window.predictions()


def test_the_kernel_is_compiled():
    assert _window.__file__.endswith(".so")


@pytest.mark.parametrize("seed", range(40))
def test_feature_rows(seed):
    rng = random.Random(seed)
    n = rng.randint(1, 12)
    lat, lon = [45 + rng.gauss(0, 0.01) for _ in range(n)], [7 + rng.gauss(0, 0.01) for _ in range(n)]
    sequence, total = [rng.randrange(-1, 90) for _ in range(n)], [rng.randrange(0, 90) for _ in range(n)]
    given_m = [rng.choice([None, 123.456]) for _ in range(n)]
    legs = np.array([[rng.choice([30.5, 61.25, math.nan]) for _ in range(n)] for _ in range(24)], np.float32)
    leg_m, route_code = rng.choice([math.nan, 0.0, 700.0, 5000.0]), rng.choice([math.nan, 3.0])
    asks_typical = rng.random() < 0.7
    time_us = EPOCH_US + rng.randrange(10**14)
    window = window_at(
        time_us,
        [
            {
                "lat": lat[i],
                "lon": lon[i],
                "stop_sequence": sequence[i],
                "total_stop_sequence": total[i],
                "shape_distance_to_stop": given_m[i],
            }
            for i in range(n)
        ],
    )
    window.vectorize(asking(*NAMES, zone="Europe/Zurich"), route_code, leg_m, legs if asks_typical else None)
    matrix = window.matrix()
    first_m = given_m[0] or geo.haversine_m(45.001, 7.002, lat[0], lon[0])
    leg_left = features.share_left(first_m, leg_m)
    hour = features.calendar_features(time_us, "Europe/Zurich")["hour"]
    typical_s = features.typical_s(leg_left, legs[hour]) if asks_typical else [math.nan] * n
    for i in range(n):
        wanted_m = given_m[i] or geo.haversine_m(45.001, 7.002, lat[i], lon[i])
        successor = (lat[i + 1], lon[i + 1]) if i + 1 < n else None
        wanted = features.row(HERE, (lat[i], lon[i]), successor, sequence[i], total[i], wanted_m)
        wanted |= features.calendar_features(time_us, "Europe/Zurich")
        wanted |= {
            "along_route_distance_m": wanted_m,
            "stops_ahead": i + 1,
            "leg_left": leg_left,
            "typical_travel_s": typical_s[i],
            "route_code": route_code,
            "stop_sequence": sequence[i],
        }
        found = dict(zip(NAMES, matrix[i].tolist(), strict=True))
        assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-6, abs=1e-6, nan_ok=True)
        unknown = found.keys() - wanted.keys()
        assert unknown == {*WEATHER_FEATURES, *features.NOT_OF_ONE_POSITION}
        assert all(math.isnan(found[name]) for name in unknown)


def test_an_unknown_value_is_filled():
    window = window_at(0, [{"lat": 45, "lon": 7}])
    window.vectorize(asking("temperature_c", nan_fill=-1.0))
    assert window.matrix().tolist() == [[-1.0]]


@given(
    st.lists(
        st.tuples(st.floats(0, 1e7) | halves, st.floats(0, 7200, width=32) | st.floats(width=32)),
        min_size=1,
        max_size=12,
    ),
    st.datetimes(timezones=st.just(UTC)),
)
def test_stops_are_those_of_the_twin(given, moment):
    distances, etas = zip(*given, strict=True)
    time_us = (moment - EPOCH) // timedelta(microseconds=1)
    found = stops_with(distances, etas, time_us)
    expected = [encoding.stop(f"S{i}", 7 * i, *given[i], time_us) for i in range(len(given))]
    assert list(map(repr, found)) == list(map(repr, expected))
    assert [list(stop) for stop in found] == [list(stop) for stop in expected]


def test_numbers_next_to_a_rounding_edge():
    rng = random.Random(4)
    etas = [rng.choice([rng.uniform(0, 7200), rng.randrange(7200 * 8) / 8, 0, 59.99, 7200]) for _ in range(500)]
    distances = [rng.choice([rng.uniform(0, 3e4), rng.randrange(40000) / 20, 0.0]) for _ in etas]
    found = stops_with(distances, etas, 1_768_910_400_123_456)
    for i, stop in enumerate(found):
        expected = encoding.stop(f"S{i}", 7 * i, distances[i], float(np.float32(etas[i])), 1_768_910_400_123_456)
        assert repr(stop) == repr(expected)


@pytest.mark.parametrize(
    ("stops", "numbers", "totals"),
    [
        ([{}, {}], [1, 2], [2, 2]),
        ([{"stop_sequence": 4}, {"sequence": "9"}, {}], [4, 9, 3], [9, 9, 9]),
        ([{"stop_order": 4}, {"stop_sequence": ""}], [4, 2], [2, 2]),
        ([{"total_stops": 30}, {"stop_sequence": 40, "sequence": 41}, {}], [1, 40, 3], [30, 41, 41]),
        ([{"stop_sequence": 4, "total_stop_sequence": 10}] * 2, [4, 4], [10, 10]),
        ([{"stop_sequence": 2**31}, {"stop_sequence": True}, {"stop_sequence": 2.5}, 5], [1, 2, 3, 4], [4] * 4),
    ],
)
def test_numbers_of_stops(stops, numbers, totals):
    window = window_at(0, [stop | {"lat": 45, "lon": 7} if isinstance(stop, dict) else stop for stop in stops])
    window.vectorize(asking("progress_ratio", "stop_sequence"))
    window.predict_by(lambda X, out: None)
    assert [stop["stop_sequence"] for stop in window.predictions()] == numbers
    for row, total in zip(window.matrix().tolist(), totals, strict=True):
        assert row[0] == pytest.approx(min((row[1] - 1) / total, 1), abs=1e-6)


def test_a_window_serves_one_call_after_the_other():
    features = asking("stops_ahead")
    window = Window()
    for n in (3, 100, 0, 5):
        window.read_position(HERE)
        window.read_motion({"timestamp": 0})
        window.read_stops([{"lat": 45, "lon": 7}] * n)
        window.vectorize(features)
        assert window.matrix().tolist() == [[i + 1] for i in range(n)]
        assert [stop["eta_seconds"] for stop in window.predictions()] == [None] * n
        window.predict_by(lambda X, out: out.__setitem__(slice(None), 60.0))
        assert [stop["eta_seconds"] for stop in window.predictions()] == [60.0] * n
    assert window.room == 100


def test_a_window_refuses_what_does_not_fit():
    window = window_at(0, [{"lat": 45, "lon": 7}])
    for shape in ((24, 2), (23, 1)):
        with pytest.raises(ValueError, match="24 hours"):
            window.vectorize(asking("leg_left"), leg_s=np.zeros(shape, np.float32))
    with pytest.raises(UnpredictableError, match="Missing vehicle"):
        window.read_position({"lat": 45})
    with pytest.raises(UnpredictableError, match="Unusable vehicle position"):
        window.read_position({"lat": 45, "lon": 181})
    with pytest.raises(UnpredictableError, match="Missing or unusable timestamp: 'noon'"):
        window.read_motion({"timestamp": "noon"})
    calendar, codes = Calendar("UTC"), np.full(1, 99, np.int32)
    with pytest.raises(ValueError, match="no feature has the code 99"):
        Vectorizer(calendar.transitions_s, calendar.offset_s, calendar.holiday_days, codes, 0.0)


def test_now_is_written_as_datetime_writes_it():
    before = datetime.now(UTC)
    written = _window.now_text()
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(written) <= datetime.now(UTC)
    assert datetime.fromisoformat(written).isoformat() == written


def test_the_environment_is_that_of_python(monkeypatch):
    for value in ("models/a", "", "ü\udcff"):
        monkeypatch.setenv("ETACORE_TEST_FOLDER", value)
        assert _window.environment(b"ETACORE_TEST_FOLDER") == value
    monkeypatch.delenv("ETACORE_TEST_FOLDER")
    assert _window.environment(b"ETACORE_TEST_FOLDER") is None
