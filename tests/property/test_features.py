import math
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from etacore._kernels.select import SelectOptions
from etacore.pipeline.calendar import Calendar
from etacore.pipeline.route_knowledge import LegTable
from etacore.schema import BASE_FEATURES
from etacore.status import Status, StopHint
from tests.reference import features as twin
from tests.reference import select as select_twin
from tests.reference.drive import EPOCH_US, Vehicle, table_of

CALENDAR = Calendar("America/Costa_Rica")

# A small town, so that lines cross, repeat stops and turn back; and the whole earth.
TOWN = st.tuples(
    st.integers(0, 8).map(lambda i: 9.9 + 0.00137 * i), st.integers(0, 8).map(lambda i: -84.1 + 0.00111 * i)
)
EARTH = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
PLACES = st.one_of(st.lists(TOWN, min_size=2, max_size=12), st.lists(EARTH, min_size=2, max_size=5))
FIX = st.fixed_dictionaries(
    {"place": st.one_of(TOWN, EARTH), "wait_s": st.integers(0, 4000)},
    optional={
        "bearing": st.floats(-720, 720),
        "speed": st.floats(0, 1e6),
        "stop_id": st.sampled_from("ABCDX"),
        "current_stop_sequence": st.integers(-3, 40),
        "current_status": st.sampled_from([0, 1, 2]),
    },
)


def stops_of(places):
    return [("ABCD"[i % 4], lat, lon, 2 * i) for i, (lat, lon) in enumerate(places)]


def drive(vehicle, fixes):
    """Yields (fix, what `Vehicle.fix` says, progress before)."""
    time_us = EPOCH_US
    for fix in fixes:
        snapshot = {k: v for k, v in fix.items() if k not in ("place", "wait_s")}
        time_us += fix["wait_s"] * 1_000_000
        before_m = vehicle.progress_m
        lat, lon = fix["place"]
        yield fix, vehicle.fix(lat=lat, lon=lon, time_us=time_us, **snapshot), before_m


@given(PLACES, st.none() | PLACES, st.lists(FIX, min_size=1, max_size=8), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_rows_are_sane_wherever_the_vehicle_is(places, shape, fixes, has_trip, along):
    table = table_of(stops_of(places), shape)
    vehicle = Vehicle(table, SelectOptions(max_off_route_m=1e7), has_trip)
    seconds = np.random.default_rng(len(places)).gamma(3.0, 40.0, (24, len(places))).astype(np.float32)
    legs = LegTable(SimpleNamespace(legs=lambda route_id, stop_ids: seconds), table.patterns)
    legs.learn(0, "R")
    for _, got, _ in drive(vehicle, fixes):
        assert got in (Status.TRIP_FINISHED, Status.OFF_ROUTE) or 0 <= got < len(places)
        if isinstance(got, Status):
            continue
        length_m = table.patterns.describe(0)["length_m"]
        assert -1e-6 <= vehicle.progress_m <= length_m + 1e-6
        rows, distance_m, stop_ix = vehicle.rows(CALENDAR, 4, along, legs=legs)
        assert stop_ix == list(range(got, min(got + 4, len(places))))
        for row, metres in zip(rows, distance_m, strict=True):
            assert not any(math.isnan(row[name]) for name in BASE_FEATURES)
            assert 0 <= row["progress_on_segment"] <= 1
            assert 0 <= row["progress_ratio"] <= 1
            assert metres >= 0
            assert row["hour"] in range(24)
            assert 0 <= row["leg_left"] <= 1
            assert not row["recent_speed_mps"] < 0
            assert not row["since_last_stop_s"] < 0
            assert math.isnan(row["recent_speed_mps"]) == math.isnan(row["since_last_stop_s"])
        assert [row["stop_sequence"] for row in rows] == [2.0 * i for i in stop_ix]
        following = seconds[int(rows[0]["hour"]), got:]
        expected = twin.typical_s(rows[0]["leg_left"], following)[: len(rows)]
        assert [row["typical_travel_s"] for row in rows] == np.array(expected, np.float32).tolist()
        if along:
            assert distance_m == sorted(distance_m)


@given(PLACES, st.none() | PLACES, st.lists(FIX, min_size=2, max_size=12), st.integers(3, 15), st.integers(0, 15))
@settings(max_examples=200, deadline=None)
def test_a_trip_never_goes_back_by_itself(places, shape, fixes, confirmations, strikes):
    silent = [
        {k: v for k, v in fix.items() if k not in ("stop_id", "current_stop_sequence")} | {"wait_s": 30}
        for fix in fixes
    ]
    vehicle = Vehicle(table_of(stops_of(places), shape))
    for _, _, before_m in drive(vehicle, silent):
        if math.isnan(before_m):
            vehicle.strikes = 16 * confirmations + strikes  # on its trip from the first fix on
        else:
            begins = math.isnan(vehicle.batch.prev_progress_m[0])
            assert begins or vehicle.progress_m >= before_m
            confirmations = 0 if begins else confirmations
            assert vehicle.strikes >> 4 >= confirmations


@given(PLACES, FIX, st.integers(0, 11))
@settings(max_examples=100, deadline=None)
def test_a_sequence_of_the_pattern_is_obeyed_where_the_vehicle_can_be(places, fix, i):
    i = min(i, len(places) - 1)
    options = SelectOptions(max_off_route_m=1e9)
    vehicle = Vehicle(table_of(stops_of(places)), options)
    position = {"lat": fix["place"][0], "lon": fix["place"][1]}
    got = vehicle.fix(**position, current_stop_sequence=2 * i)
    s_m = vehicle.table.patterns.describe(0)["s_m"]
    if vehicle.hint == StopHint.FOLLOWED:
        assert got == i or (got, i) == (0, 1)
        assert (s_m[i - 1] if i else 0.0) <= vehicle.progress_m <= s_m[i]
    else:
        assert vehicle.hint == StopHint.CONTRADICTED
        pattern = select_twin.Pattern(stops_of(places))
        there = pattern.nearest(position, *pattern.bracket(i), options)
        anywhere = pattern.nearest(position, 0.0, math.inf, options)
        assert there[1] > anywhere[1]


@given(st.integers(2, 10), st.floats(0.01, 0.99), st.integers(0, 8))
@settings(max_examples=100, deadline=None)
def test_a_vehicle_on_a_straight_line_is_before_its_next_stop(n, t, leg):
    leg = min(leg, n - 2)
    stops = [(f"S{i}", 10.0 + 0.01 * i, 20.0 + 0.02 * i, i) for i in range(n)]
    vehicle = Vehicle(table_of(stops))
    assert vehicle.fix(lat=10.0 + 0.01 * (leg + t), lon=20.0 + 0.02 * (leg + t)) == leg + 1
