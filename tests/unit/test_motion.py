"""Motion between fixes: speed along the pattern, and time on the way to a stop."""

from __future__ import annotations

import math

import pytest

from etacore._kernels.select import SPEED_TAU_S, SelectOptions
from etacore.pipeline.calendar import Calendar
from etacore.status import Status
from tests.reference.drive import EPOCH_US, Vehicle, line_of_stops, table_of

UTC = Calendar("UTC")
STEP_M = 1111.9493


def drive(*fixes, **options):
    """(speed, seconds since the stop became the next one) at each fix (seconds, steps along the line)."""
    vehicle = Vehicle(table_of(line_of_stops(12)), SelectOptions(**options))
    found = []
    for seconds, t in fixes:
        vehicle.fix(lat=45.0 + 0.01 * t, lon=7.0, time_us=EPOCH_US + round(seconds * 1e6))
        found.append((float(vehicle.batch.recent_speed_mps[0]), float(vehicle.batch.since_s[0])))
    return found


def test_nothing_is_known_at_the_first_fix():
    assert all(math.isnan(value) for value in drive((0, 0.5))[0])


def test_the_second_fix_gives_the_speed_between_the_two():
    assert drive((0, 0.2), (20, 0.4))[1] == pytest.approx((0.2 * STEP_M / 20, 20.0), rel=1e-4)


def test_the_speed_is_an_exponential_mean_in_time():
    speeds = [speed for speed, _ in drive((0, 0.0), (30, 0.3), (60, 0.6), (60 + SPEED_TAU_S, 0.6))]
    assert speeds[1:3] == pytest.approx([0.01 * STEP_M] * 2, rel=1e-4)
    assert speeds[3] == pytest.approx(0.01 * STEP_M / math.e, rel=1e-4)


def test_standing_still_weighs_the_same_however_often_it_is_said():
    once = drive((0, 0.0), (30, 0.3), (150, 0.3))[-1][0]
    often = drive((0, 0.0), (30, 0.3), *((30 + 10 * i, 0.3) for i in range(1, 13)))[-1][0]
    assert once == pytest.approx(often, rel=1e-5)


def test_time_on_the_way_starts_with_a_new_next_stop():
    since = [since_s for _, since_s in drive((0, 0.2), (20, 0.4), (50, 0.9), (70, 1.1), (95, 1.2), (120, 2.5))]
    assert since[1:] == [20.0, 50.0, 0.0, 25.0, 0.0]


def test_two_fixes_of_one_time_change_nothing():
    found = drive((0, 0.2), (20, 0.4), (20, 0.45), (20, 0.4))
    assert found[1] == found[2] == found[3]
    assert all(math.isnan(value) for value in drive((0, 0.2), (0, 0.3))[1])


def test_a_vehicle_that_is_put_back_stands():
    vehicle = Vehicle(table_of(line_of_stops(6)))
    speeds = []
    for i, (t, sequence) in enumerate([(3.2, 5), (3.4, 5), (1.5, 3)]):
        fix = {"lat": 45.0 + 0.01 * t, "lon": 7.0, "time_us": EPOCH_US + 20_000_000 * i}
        vehicle.fix(**fix, current_stop_sequence=sequence)
        speeds.append(float(vehicle.batch.recent_speed_mps[0]))
    assert speeds[2] == pytest.approx(speeds[1] * math.exp(-20 / SPEED_TAU_S), rel=1e-6)


def test_a_stray_fix_counts_as_the_speed_limit_and_no_more():
    assert drive((0, 0.2), (20, 0.4), (21, 1.4))[2][0] == pytest.approx(
        40.0 + math.exp(-1 / SPEED_TAU_S) * (0.2 * STEP_M / 20 - 40.0), rel=1e-4
    )
    assert drive((0, 0.2), (1, 0.3))[1][0] == 40.0


def test_silence_starts_anew():
    found = drive((0, 0.2), (20, 0.4), (3620, 0.6), (7221, 0.8), (7241, 0.9), reset_after_s=3600.0)
    assert [math.isnan(speed) for speed, _ in found] == [True, False, False, True, False]
    assert found[4][1] == 20.0


def test_the_features_are_those_of_the_vehicle_in_every_row():
    vehicle = Vehicle(table_of(line_of_stops(6)))
    for i, t in enumerate((1.2, 1.4)):
        vehicle.fix(lat=45.0 + 0.01 * t, lon=7.0, time_us=EPOCH_US + 20_000_000 * i)
    rows = vehicle.rows(UTC)[0]
    assert len(rows) == 4
    assert {(row["recent_speed_mps"], row["since_last_stop_s"]) for row in rows} == {
        (float(vehicle.batch.recent_speed_mps[0]), 20.0)
    }


def test_a_vehicle_off_its_route_has_no_motion():
    vehicle = Vehicle(table_of(line_of_stops(6)))
    vehicle.fix(lat=45.01, lon=7.0)
    vehicle.fix(lat=45.02, lon=7.0, time_us=EPOCH_US + 60_000_000)
    assert vehicle.fix(lat=46.0, lon=7.5, time_us=EPOCH_US + 80_000_000) == Status.OFF_ROUTE
    assert math.isnan(vehicle.batch.recent_speed_mps[0])
    assert vehicle.fix(lat=45.03, lon=7.0, time_us=EPOCH_US + 120_000_000) == 4
    assert vehicle.batch.recent_speed_mps[0] > 0
