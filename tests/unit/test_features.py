import math
from types import SimpleNamespace

import numpy as np
import pytest

from etacore._kernels.select import SelectOptions, select_stops
from etacore.errors import ConfigError, RouteDataError
from etacore.pipeline.calendar import Calendar
from etacore.pipeline.route_blobs import ShapePolyline
from etacore.schema import FEATURES
from etacore.status import Status, StopHint
from tests.reference.drive import ALL_CODES, EPOCH_US, Vehicle, columns_of, line_of_stops, table_of, vectorizer_of
from tests.reference.geo import haversine_m

S = 1_000_000
UTC = Calendar("UTC")


def at(t, *, lon=7.0, lat=45.0):
    """Position t steps along `line_of_stops`."""
    return {"lat": lat + t * 0.01, "lon": lon}


def after(seconds, **snapshot):
    return snapshot | {"time_us": EPOCH_US + seconds * S}


def test_next_stops_are_those_ahead():
    vehicle = Vehicle(table_of(line_of_stops(6)))
    assert vehicle.fix(**at(2.4)) == 3
    rows, distance_m, stop_ix = vehicle.rows(UTC, 5)
    assert stop_ix == [3, 4, 5]
    assert distance_m[0] == pytest.approx(0.6 * 0.01 * math.radians(1) * 6_371_000)
    assert [row["stops_ahead"] for row in rows] == [1, 2, 3]
    assert [row["progress_ratio"] for row in rows] == pytest.approx([3 / 6, 4 / 6, 5 / 6], abs=1e-6)


def test_progress_never_goes_back():
    vehicle = Vehicle(table_of(line_of_stops(6)))
    assert vehicle.fix(**after(0, **at(2.005))) == 3
    assert vehicle.fix(**after(20, **at(1.98))) == 3
    assert vehicle.progress_m == pytest.approx(2.005 * 1111.95, rel=1e-4)


def out_and_back(n=4):
    stops = line_of_stops(n)
    back = [(f"R{i}", lat, lon, 100 + i) for i, (_, lat, lon, _) in enumerate(stops[-2::-1])]
    return stops + back


def test_out_and_back_uses_each_pass_in_turn():
    vehicle = Vehicle(table_of(out_and_back()))
    out = [0.5, 1.5, 2.5, 2.95]
    back = [2.85, 2.5, 1.5, 0.5]
    chosen = [vehicle.fix(**after(60 * i, **at(t))) for i, t in enumerate(out + back)]
    assert chosen == [1, 2, 3, 3, 4, 4, 5, 6]


def test_bearing_tells_the_way_back():
    table = table_of(out_and_back())
    assert Vehicle(table).fix(**at(1.5), bearing=0.0) == 2
    assert Vehicle(table).fix(**at(1.5), bearing=180.0) == 5
    assert Vehicle(table).fix(**at(1.5)) == 2


def loop():
    corners = [(45.0, 7.0), (45.02, 7.0), (45.02, 7.03), (45.0, 7.03), (45.0, 7.0)]
    return [(f"C{i % 4}", lat, lon, i) for i, (lat, lon) in enumerate(corners)]


def test_a_first_fix_at_the_terminal_of_a_loop_is_the_start():
    assert Vehicle(table_of(loop())).fix(lat=45.0001, lon=7.0001) == 1


def test_a_loop_goes_on_with_the_next_lap():
    vehicle = Vehicle(table_of(loop()))
    fixes = [(45.01, 7.0), (45.02, 7.01), (45.01, 7.03), (45.0, 7.01)]
    assert [vehicle.fix(**after(90 * i, lat=a, lon=o)) for i, (a, o) in enumerate(fixes)] == [1, 2, 3, 4]
    assert vehicle.fix(**after(400, lat=45.0, lon=7.0)) == 1
    assert (vehicle.progress_m, vehicle.strikes) == (0.0, 0)
    assert math.isnan(vehicle.batch.recent_speed_mps[0]), "a new run"
    assert [vehicle.fix(**after(490 + 90 * i, lat=a, lon=o)) for i, (a, o) in enumerate(fixes)] == [1, 2, 3, 4]


@pytest.mark.parametrize("has_trip", [True, False])
@pytest.mark.parametrize("end", [5.0, 4.7])
def test_the_same_trip_again(has_trip, end):
    vehicle = Vehicle(table_of(line_of_stops(6)), has_trip=has_trip)
    drive = [0.0, 0.5, 1.5, 2.5, 3.5, 4.5, end]
    first = [vehicle.fix(**after(90 * i, **at(t))) for i, t in enumerate(drive)]
    assert first[:-1] == [1, 1, 2, 3, 4, 5]
    assert vehicle.strikes >> 4 >= 3, "confirmed on its run"
    second = [vehicle.fix(**after(900 + 90 * i, **at(t))) for i, t in enumerate(drive)]
    assert second == first


def test_a_run_that_falls_back_and_goes_on_is_a_new_one():
    vehicle = Vehicle(table_of(line_of_stops(9)))
    for i in range(6):
        vehicle.fix(**after(60 * i, **at(0.5 + i)))
    assert vehicle.strikes == 16 * 5
    chosen = [vehicle.fix(**after(360 + 60 * i, **at(1.6 + 0.5 * i))) for i in range(4)]
    assert chosen == [6, 6, 3, 4]


def test_a_run_that_drives_back_is_no_new_one():
    vehicle = Vehicle(table_of(line_of_stops(9)))
    for i in range(6):
        vehicle.fix(**after(60 * i, **at(0.5 + i)))
    assert {vehicle.fix(**after(360 + 60 * i, **at(4.5 - 0.4 * i))) for i in range(9)} == {6}
    assert vehicle.strikes & 15 == 1
    assert vehicle.fallback_m == pytest.approx((4.5 - 0.4 * 8) * 1111.95, abs=1)


def test_after_a_silence_one_fix_is_enough():
    for wait_s, expected in ((600, 6), (601, 2)):
        vehicle = Vehicle(table_of(line_of_stops(9)))
        for i in range(6):
            vehicle.fix(**after(60 * i, **at(0.5 + i)))
        assert vehicle.fix(**after(300 + wait_s, **at(1.5))) == expected


def test_the_first_stop_is_the_next_one_until_it_was_reached():
    vehicle = Vehicle(table_of(line_of_stops(6)))
    chosen = [vehicle.fix(**after(30 * i, **at(t))) for i, t in enumerate([-0.5, -0.1, -0.02, -0.1, 0.02, 0.3])]
    assert chosen == [0, 0, 1, 1, 1, 1]
    assert Vehicle(table_of(line_of_stops(6))).fix(**at(-0.3), current_stop_sequence=2) == 0
    assert Vehicle(table_of(line_of_stops(6))).fix(**at(-0.3), current_stop_sequence=1) == 0
    assert Vehicle(table_of(line_of_stops(6))).fix(**at(0.02), current_stop_sequence=2) == 1


def test_strikes_have_to_follow_each_other():
    vehicle = Vehicle(table_of(line_of_stops(6)), has_trip=False)
    vehicle.fix(**after(0, **at(4.5)))
    for i, t in enumerate([1.5, 1.6, 4.5, 1.5, 1.6]):
        assert vehicle.fix(**after(20 + 20 * i, **at(t))) == 5
    assert vehicle.strikes == 2
    assert vehicle.fix(**after(200, **at(1.7))) == 2


def beside(vehicle, seconds, x_m, y_m, bearing):
    """A fix x_m east and y_m north of 43.6 N, 79.4 W."""
    north = math.radians(1) * 6_371_000
    lon = -79.4 + x_m / (north * math.cos(math.radians(43.6)))
    return vehicle.fix(**after(seconds, lat=43.6 + y_m / north, lon=lon, bearing=bearing))


def one_way_pair():
    """Out along one street for 4 km, back along the next one 240 m farther north; a stop every 400 m."""
    north = math.radians(1) * 6_371_000
    east = north * math.cos(math.radians(43.6))

    def place(x_m, y_m):
        return 43.6 + y_m / north, -79.4 + x_m / east

    places = [place(x, 0) for x in range(0, 4001, 400)] + [place(x, 240) for x in range(4000, -1, -400)]
    stops = [(f"S{i}", *stop, i + 1) for i, stop in enumerate(places)]
    return table_of(stops, [place(0, 0), place(4000, 0), place(4000, 240), place(0, 240)])


def test_a_detour_along_the_way_out_does_not_begin_the_trip_again():
    vehicle = Vehicle(one_way_pair())
    out = [beside(vehicle, 15 * i, x, 0.0, 90.0) for i, x in enumerate(range(100, 4000, 120))]
    assert (out[0], out[-1]) == (1, 10)
    back = [beside(vehicle, 600 + 15 * i, x, 240.0, 270.0) for i, x in enumerate(range(3900, 2600, -120))]
    assert back[-1] == 15
    detour = [beside(vehicle, 800 + 15 * i, x, 5.0, 270.0) for i, x in enumerate(range(2500, 1700, -120))]
    assert detour == [15] * 7
    assert beside(vehicle, 920, 1660.0, 240.0, 270.0) == 17


def test_a_vehicle_that_only_came_to_its_begin_may_start_over():
    # Given the trip while it drives empty beside the end of the line to its begin: nothing confirms it.
    vehicle = Vehicle(one_way_pair())
    empty = [beside(vehicle, 15 * i, x, 240.0, 90.0) for i, x in enumerate(range(100, 250, 60))]
    assert set(empty) == {21}
    assert vehicle.strikes == 0
    begun = [beside(vehicle, 60 + 15 * i, x, 0.0, 90.0) for i, x in enumerate(range(190, 800, 120))]
    assert begun == [1, 1, 2, 2, 2, 2]


def test_only_fixes_on_the_line_that_come_forward_confirm():
    vehicle = Vehicle(table_of(line_of_stops(6)))
    seen = []
    # 11 m steps; then 8 m; then 160 m beside the line; then a long way; then what the vehicle says; then silence.
    for i, t in enumerate([1.0, 1.01, 1.017, 1.1, 1.4]):
        vehicle.fix(**after(20 * i, **at(t, lon=7.00205 if t == 1.1 else 7.0)))
        seen.append(vehicle.strikes >> 4)
    vehicle.fix(**after(120, **at(1.5)), stop_id="S3")
    seen.append(vehicle.strikes >> 4)
    for i in range(20):
        vehicle.fix(**after(140 + 20 * i, **at(1.6 + 0.1 * i)))
    seen.append(vehicle.strikes >> 4)
    vehicle.fix(**after(9000, **at(3.9)))
    assert [*seen, vehicle.strikes] == [0, 1, 1, 1, 2, 3, 15, 0]


def test_strikes_can_be_switched_off():
    vehicle = Vehicle(table_of(line_of_stops(6)), SelectOptions(trip_strikes=0))
    vehicle.fix(**after(0, **at(4.5)))
    assert {vehicle.fix(**after(20 + i, **at(1.5))) for i in range(300)} == {5}


def test_silence_starts_anew():
    for wait_s, expected in ((3600, 1), (3601, 5)):
        # Out and back: where it came from before it was silent tells the way back.
        vehicle = Vehicle(table_of(out_and_back()), SelectOptions(silence_s=1e6))
        vehicle.fix(**after(0, **at(2.5), current_stop_sequence=102))
        assert vehicle.fix(**after(wait_s, **at(0.5))) == {1: 6, 5: 1}[expected]


def test_a_far_pass_within_no_reach_is_not_jumped_to():
    # The line comes back beside its begin after 8 km; 20 s after the begin that is out of reach.
    vehicle = Vehicle(table_of(loop()))
    vehicle.fix(**after(0, lat=45.001, lon=7.0))
    assert vehicle.fix(**after(20, lat=45.0012, lon=7.0006)) == 1


def test_wrong_begin_is_left_behind():
    # First taken for the outward pass; then nothing within reach fits, something ahead does.
    vehicle = Vehicle(table_of(out_and_back(8)))
    assert vehicle.fix(**after(0, **at(1.5))) == 2
    vehicle.progress_m = 300.0
    assert vehicle.fix(**after(20, **at(6.5))) == 7


def test_sequence_counts_first():
    stops = [(i, lat, lon, 10 * s) for i, lat, lon, s in line_of_stops(6)]
    table = table_of(stops)
    for place, said, expected, hint in (
        (3.02, {"current_stop_sequence": 40}, 3, StopHint.FOLLOWED),  # 22 m past it
        (3.02, {"current_stop_sequence": 40, "current_status": "STOPPED_AT"}, 4, StopHint.FOLLOWED),
        (2.5, {"current_stop_sequence": 40, "current_status": "STOPPED_AT"}, 3, StopHint.FOLLOWED),  # not there yet
        (3.02, {"current_stop_sequence": 40, "stop_id": "S2"}, 3, StopHint.FOLLOWED),
        (1.02, {"current_stop_sequence": 35, "stop_id": "S2"}, 1, StopHint.FOLLOWED),
        (1.02, {"current_stop_sequence": 60, "stop_id": "S2"}, 1, StopHint.FOLLOWED),
        (1.5, {"current_stop_sequence": 35}, 2, StopHint.UNKNOWN),
        (1.5, {"current_stop_sequence": 0}, 2, StopHint.UNKNOWN),
        (1.5, {"current_stop_sequence": -1, "stop_id": "nowhere"}, 2, StopHint.UNKNOWN),
        (1.5, {"current_stop_sequence": 60}, 2, StopHint.CONTRADICTED),
        (4.5, {"current_stop_sequence": 20, "current_status": "STOPPED_AT"}, 5, StopHint.CONTRADICTED),
        (4.5, {"current_stop_sequence": 35, "stop_id": "S2"}, 5, StopHint.CONTRADICTED),
        (1.5, {}, 2, StopHint.NONE),
        (5.0, {"current_stop_sequence": 60, "current_status": 1}, Status.TRIP_FINISHED, StopHint.FOLLOWED),
    ):
        vehicle = Vehicle(table)
        assert (vehicle.fix(**at(place), **said), vehicle.hint) == (expected, hint), (place, said)


def test_a_stop_named_from_beside_the_line_counts_as_far_as_the_line_is_away():
    # On a detour 500 m east of the line nothing is near; the part before the stop is about as near as any.
    for place, expected, hint in ((2.9, 3, StopHint.FOLLOWED), (4.5, 5, StopHint.CONTRADICTED)):
        vehicle = Vehicle(table_of(line_of_stops(6)))
        assert vehicle.fix(**at(place, lon=7.00636), current_stop_sequence=4) == expected
        assert vehicle.hint == hint


def test_a_stop_on_the_other_pass_of_the_line_loses_to_what_was_driven():
    vehicle = Vehicle(table_of(out_and_back(8)))
    for i in range(5):
        assert vehicle.fix(**after(90 * i, **at(0.5 + i))) == i + 1
    # Stuck at a stop of the way back, which lies beside the road; then at one of the way out, on the way back.
    assert vehicle.fix(**after(450, **at(5.5)), stop_id="R1") == 6
    assert vehicle.hint == StopHint.CONTRADICTED
    for i in range(4):
        vehicle.fix(**after(540 + 90 * i, **at(6.4 - i)))
    assert vehicle.fix(**after(900, **at(2.6)), stop_id="S4") == 12
    assert vehicle.hint == StopHint.CONTRADICTED
    # Somebody who was not seen to drive takes the vehicle's word.
    assert Vehicle(table_of(out_and_back(8))).fix(**at(2.6), stop_id="R4") == 12


def test_sequence_zero_is_a_sequence():
    stops = [(i, lat, lon, s - 1) for i, lat, lon, s in line_of_stops(4)]
    vehicle = Vehicle(table_of(stops))
    assert vehicle.fix(**at(0.02), current_stop_sequence=0) == 0
    assert vehicle.hint == StopHint.FOLLOWED


def test_what_the_vehicle_says_counts_against_earlier_progress():
    vehicle = Vehicle(table_of(line_of_stops(6)))
    vehicle.fix(**after(0, **at(4.5)))
    assert vehicle.fix(**after(20, **at(1.5)), current_stop_sequence=3) == 2
    assert vehicle.progress_m == pytest.approx(1.5 * 1111.95, rel=1e-4)


def test_progress_lies_before_the_stop_that_the_vehicle_names():
    vehicle = Vehicle(table_of(line_of_stops(6)))
    assert vehicle.fix(**at(2.04), stop_id="S3") == 2
    assert vehicle.progress_m == pytest.approx(2 * 1111.95, rel=1e-4)
    assert vehicle.rows(UTC, 1, along=True)[1] == [0.0]


def test_repeated_stop_id_is_the_first_one_ahead():
    stops = [("A", 45.0, 7.0, 1), ("B", 45.01, 7.0, 2), ("A", 45.02, 7.0, 3), ("B", 45.03, 7.0, 4)]
    table = table_of(stops)
    vehicle = Vehicle(table)
    assert vehicle.fix(**after(0, **at(0.5)), stop_id="B") == 1
    assert vehicle.fix(**after(90, **at(1.5)), stop_id="A") == 2
    assert vehicle.fix(**after(180, **at(2.4)), stop_id="B") == 3
    assert Vehicle(table).fix(**at(2.4), stop_id="B") == 3
    assert Vehicle(table).fix(**at(0.4), stop_id="B") == 1


def test_standing_at_a_repeated_stop_stays_there():
    vehicle = Vehicle(table_of(loop()))
    for i in range(4):
        fix = after(20 * i, lat=45.0 + 0.0001 * i, lon=7.0)
        assert vehicle.fix(**fix, stop_id="C0", current_status="STOPPED_AT") == 1


def test_unknown_stop_id_leaves_the_position():
    assert Vehicle(table_of(line_of_stops(6))).fix(**at(2.5), stop_id="X") == 3


def test_off_route():
    table = table_of(line_of_stops(6))
    assert Vehicle(table).fix(lat=45.02, lon=7.03) == Status.OFF_ROUTE
    tolerant = SelectOptions(max_off_route_m=2500.0)
    assert Vehicle(table, tolerant, has_trip=False).fix(lat=45.02, lon=7.03) == 3
    assert Vehicle(table, tolerant).fix(lat=45.02, lon=7.03) == 0, "on its way to the begin of its trip"


def test_a_stop_that_is_named_from_too_far_away_is_off_route():
    table = table_of(line_of_stops(6))
    for said in ({"stop_id": "S4"}, {"current_stop_sequence": 4}, {"current_stop_sequence": 4, "current_status": 1}):
        assert Vehicle(table).fix(lat=45.02, lon=7.02, **said) == 3
        assert Vehicle(table).fix(lat=45.02, lon=7.03, **said) == Status.OFF_ROUTE
        assert Vehicle(table).fix(lat=0.0, lon=0.0, **said) == Status.OFF_ROUTE
        # On the line, but on none of its parts that lead to this stop.
        assert Vehicle(table).fix(**at(0.1), **said) == 1


def test_past_the_last_stop():
    assert Vehicle(table_of(line_of_stops(6))).fix(**at(5.2)) == Status.TRIP_FINISHED


def test_stops_at_one_place():
    stops = [(f"S{i}", 45.0, 7.0, i) for i in range(3)] + [("T", 45.01, 7.0, 9), ("U", 45.01, 7.0, 10)]
    vehicle = Vehicle(table_of(stops))
    assert vehicle.fix(**at(0.5)) == 3
    rows, _, _ = vehicle.rows(UTC)
    assert [row["progress_on_segment"] for row in rows] == [0.0, 0.0]
    assert Vehicle(table_of(stops[:3])).fix(lat=45.0, lon=7.0) == Status.TRIP_FINISHED


@pytest.mark.parametrize(("lat", "lon"), [(0.0, 179.995), (89.9, 10.0), (-89.97, -179.99)])
def test_date_line_and_poles(lat, lon):
    places = [(lat + 0.001 * i, (lon + 0.005 * i + 180) % 360 - 180) for i in range(4)]
    stops = [(f"S{i}", a, o, i) for i, (a, o) in enumerate(places)]
    vehicle = Vehicle(table_of(stops))
    middle = (lat + 0.0015, (lon + 0.0075 + 180) % 360 - 180)
    assert vehicle.fix(lat=middle[0], lon=middle[1]) == 2
    rows, distance_m, _ = vehicle.rows(UTC)
    assert distance_m[0] == pytest.approx(haversine_m(*middle, *places[2]), rel=1e-6)
    assert rows[0]["along_route_distance_m"] == pytest.approx(distance_m[0], rel=1e-3)


def test_shape_gives_distances_along_it():
    stops = [("A", 45.0, 7.0, 1), ("B", 45.0, 7.02, 2)]
    points = [(45.0, 7.0), (45.01, 7.0), (45.01, 7.02), (45.0, 7.02)]
    vehicle = Vehicle(table_of(stops, points))
    assert vehicle.fix(lat=45.01, lon=7.01) == 1
    way_m = haversine_m(45.01, 7.01, 45.01, 7.02) + haversine_m(45.01, 7.02, 45.0, 7.02)
    rows, distance_m, _ = vehicle.rows(UTC, along=True)
    assert distance_m == pytest.approx([way_m], abs=0.01)
    assert rows[0]["distance_to_stop"] == pytest.approx(way_m, abs=0.01)
    assert vehicle.rows(UTC)[1] == pytest.approx([haversine_m(45.01, 7.01, 45.0, 7.02)], abs=1e-6)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_a_feature_that_is_asked_for_alone_is_what_it_is_among_all(feature):
    vehicle = Vehicle(table_of(line_of_stops(6)))
    for i, t in enumerate((1.2, 1.5, 2.1, 2.4)):
        vehicle.fix(**after(60 * i, **at(t)), speed=5.0)
    legs = SimpleNamespace(seconds=np.full(24 * 6, 75.0, np.float32), start=np.zeros(1, np.int64))
    among_all = vehicle.rows(UTC, legs=legs, route_code=2)[0]
    alone = vehicle.rows(UTC, legs=legs, route_code=2, features=[feature])[0]
    assert [row[feature.name] for row in alone] == pytest.approx([row[feature.name] for row in among_all], nan_ok=True)
    if feature.group != "weather":
        assert all(row[feature.name] is not None and not math.isnan(row[feature.name]) for row in alone)


def test_unknown_values_are_nan_or_the_filling():
    vehicle = Vehicle(table_of(line_of_stops(3)))
    vehicle.fix(**at(0.5))
    assert math.isnan(vehicle.rows(UTC)[0][0]["temperature_c"])
    assert vehicle.rows(UTC, nan_fill=0.0)[0][0]["wind_speed_kmh"] == 0.0


def test_count_rows():
    table, batch = table_of(line_of_stops(6)), columns_of([{}] * 6)
    batch.pattern_ix[:] = [0, 0, 0, 0, 7, 0]
    batch.status[1] = Status.OFF_ROUTE
    batch.first_stop[:] = [1, 1, 4, 6, 0, 2]
    part, other = batch.add_part(None), batch.add_part(None)
    batch.part_ix[:] = [0, 0, 0, 0, 0, other.ix]
    vectorizer = vectorizer_of(UTC)
    assert vectorizer.count_rows(batch, part, table.patterns, 3) == 5
    assert part.row_offset.tolist() == [0, 3, 3, 5, 5, 5, 5]
    assert part.features.shape == (5, len(ALL_CODES))
    assert (len(part.distance_m), len(part.stop_ix), len(part.eta_s)) == (5, 5, 5)
    assert vectorizer.count_rows(batch, other, table.patterns, 9) == 4
    assert other.row_offset.tolist() == [0, 0, 0, 0, 0, 0, 4]
    for max_stops in (-1, 2**30):
        with pytest.raises(ValueError, match="stops for each"):
            vectorizer.count_rows(batch, part, table.patterns, max_stops)


def test_a_stop_id_outside_the_arena_is_refused():
    for start, length in ((2**40, 3), (-1, 3), (2**63 - 1, 3), (0, -1), (0, 2**31 - 1)):
        table, batch = table_of(line_of_stops(3)), columns_of([{"stop_id": "S1"}])
        batch.stop_id[0] = (start, length, 0)
        with pytest.raises(ValueError, match="outside the arena"):
            select_stops(batch, table.patterns, SelectOptions())


def test_rows_that_do_not_belong_to_the_stops_are_refused():
    table, batch = table_of(line_of_stops(3)), columns_of([{}])
    part = batch.add_part(None)

    def run(first_stop, n_rows, pattern=0, **more):
        batch.pattern_ix[0], batch.first_stop[0], batch.progress_m[0] = pattern, first_stop, 0.0
        part.resize(1, 9, 1)
        part.row_offset[:] = [0, n_rows]
        vectorizer_of(UTC, np.array([0], np.int32)).vectorize(batch, part, table.patterns, **more)

    run(1, 2)
    for bad in ((1, 3), (-1, 1), (0, 10), (0, -1)):
        with pytest.raises(ValueError, match="belong"):
            run(*bad)
    with pytest.raises(ValueError, match="belong"):
        run(0, 1, pattern=5)
    for codes in ((99,), (-1,), ()):
        with pytest.raises(ValueError, match="feature"):
            vectorizer_of(UTC, np.array(codes, np.int32))
    with pytest.raises(ValueError, match="shorter"):
        run(1, 1, route_code=np.empty(0, np.int32))


def test_rows_have_to_be_counted_for_the_batch_and_the_features_at_hand():
    table, batch = table_of(line_of_stops(3)), columns_of([{}, {}])
    part = batch.add_part(None)
    for n, n_features in ((1, 1), (2, 2)):
        part.resize(n, 4, n_features)
        with pytest.raises(ValueError, match="counted"):
            vectorizer_of(UTC, np.array([0], np.int32)).vectorize(batch, part, table.patterns)


def test_what_is_left_of_the_leg():
    vehicle = Vehicle(table_of(line_of_stops(4)))
    for t, expected in ((0.25, 0.75), (1.9, 0.1), (2.0, 1.0)):
        vehicle.fix(**at(t))
        assert [row["leg_left"] for row in vehicle.rows(UTC)[0]] == pytest.approx([expected] * (3 - int(t)), abs=1e-4)
    assert Vehicle(table_of(line_of_stops(4))).fix(**at(-0.5), current_stop_sequence=1) == 0
    first = Vehicle(table_of(line_of_stops(4)))
    first.fix(**at(-0.5), current_stop_sequence=1)
    assert first.rows(UTC)[0][0]["leg_left"] == 1.0
    same_place = Vehicle(table_of([("A", 45.0, 7.0, 1), ("B", 45.0, 7.0, 2), ("C", 45.01, 7.0, 3)]))
    same_place.fix(lat=45.0, lon=7.0, current_stop_sequence=2)
    assert same_place.rows(UTC)[0][0]["leg_left"] == 1.0
    first.progress_m = np.nan
    assert math.isnan(first.rows(UTC)[0][0]["leg_left"])


def test_the_sequence_is_what_the_feed_says():
    stops = [(i, lat, lon, 10 * s) for i, lat, lon, s in line_of_stops(4)]
    vehicle = Vehicle(table_of(stops))
    vehicle.fix(**at(1.5))
    assert [row["stop_sequence"] for row in vehicle.rows(UTC)[0]] == [30, 40]


def test_distance_along_a_shape():
    shape = ShapePolyline([(45.0, 7.0), (45.01, 7.0), (45.01, 7.02)])
    whole = haversine_m(45.0, 7.0, 45.01, 7.0) + haversine_m(45.01, 7.0, 45.01, 7.02)
    assert shape.distance_m(45.0, 7.0, 45.01, 7.02) == pytest.approx(whole, abs=1e-6)
    assert shape.distance_m(45.01, 7.02, 45.0, 7.0) == 0.0
    with pytest.raises(RouteDataError, match="finite"):
        shape.distance_m(math.nan, 7.0, 45.0, 7.0)


def test_options_are_checked():
    for bad in ({"slack_m": -1.0}, {"fit_m": math.nan}, {"restart_strikes": 16}, {"trip_strikes": 16}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            SelectOptions(**bad)
