import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etacore._kernels.select import SelectOptions
from tests.reference import motion as twin
from tests.reference.drive import EPOCH_US, Vehicle, line_of_stops, table_of

FIX = st.tuples(st.floats(0, 5000), st.floats(0, 11), st.none() | st.integers(1, 12))


@given(st.lists(FIX, min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_any_drive_agrees_with_the_twin(fixes):
    vehicle = Vehicle(table_of(line_of_stops(12)), SelectOptions(max_off_route_m=1e7))
    time_us, before = EPOCH_US, None
    for wait_s, t, sequence in fixes:
        time_us += round(wait_s * 1e6)
        said = {} if sequence is None else {"current_stop_sequence": sequence}
        vehicle.fix(lat=45.0 + 0.01 * t, lon=7.0, time_us=time_us, **said)
        stop = int(vehicle.batch.first_stop[0])
        if math.isnan(vehicle.batch.prev_progress_m[0]):  # a new run
            before = None
        speed_mps, since_us, since_s = twin.measure(before, vehicle.progress_m, time_us, stop)
        moved = vehicle.batch
        assert float(moved.recent_speed_mps[0]) == pytest.approx(speed_mps, rel=1e-6, abs=1e-6, nan_ok=True)
        assert (int(moved.since_us[0]), float(moved.since_s[0])) == (since_us, pytest.approx(since_s, nan_ok=True))
        before = twin.Remembered(vehicle.progress_m, time_us, stop, since_us, float(moved.recent_speed_mps[0]))
        assert math.isnan(speed_mps) or speed_mps >= 0.0
