import math

import numpy as np
import pytest

from etacore._kernels import fleet as _fleet
from etacore._kernels.fleet import Fleet
from tests.reference import fleet as twin
from tests.reference.columns import columns_of

SEEDS = range(6)


def test_compiled_module_is_loaded():
    assert _fleet.__file__.endswith((".so", ".pyd"))


def same(a, b):
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def assert_same_vehicles(fleet, model):
    assert fleet.n == len(model.vehicles)
    for ix, (key, v) in enumerate(model.vehicles.items()):
        expected = (
            key,
            v.time_us,
            v.valid_until_us,
            v.seen_s,
            v.run_key,
            v.pattern_ix,
            v.progress_m,
            v.strikes,
            v.next_stop,
            v.stop_since_us,
            v.speed_mps,
            v.fallback_m,
            v.known,
        )
        assert all(same(a, b) for a, b in zip(fleet.record(ix), expected, strict=True)), (
            ix,
            fleet.record(ix),
            expected,
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_polls_of_a_fleet_agree_with_the_twin(seed):
    rng = np.random.default_rng(seed)
    fleet, model = Fleet(0), twin.Fleet()
    for step in range(40):
        n = int(rng.integers(0, 60))
        now_us = step * 10_000_000
        ids = [f"V{i}".encode() for i in rng.integers(0, 40, n)]
        status = rng.choice([0, 0, 0, 0, 7, 14], n).tolist()
        times = rng.integers(now_us - 30, now_us + 5, n).tolist()
        columns = columns_of(ids, status, times)
        columns.now_us = now_us

        expected_ix, expected_new = model.lookup(ids, status)
        assert fleet.lookup(columns) == sum(expected_new)
        ix, new = columns.vehicle_ix, columns.is_new
        assert (ix.tolist(), new.tolist()) == (expected_ix, expected_new)

        asked = ix[(new == 1) & (rng.random(n) < 0.7)]
        stored = rng.integers(now_us - 30, now_us + 50, len(asked))
        until = rng.integers(now_us - 20, now_us + 60, len(asked))
        fleet.restore(asked, stored, until, now_us + 20)
        model.restore(asked.tolist(), stored.tolist(), until.tolist(), now_us + 20)

        fleet.screen(columns)
        model.screen(status, expected_ix, times, now_us)
        assert columns.status.tolist() == status

        trip = rng.integers(0, 2, n).astype(np.uint64)
        pattern = rng.integers(-1, 2, n).astype(np.int32)
        columns.run_key[:], columns.pattern_ix[:], columns.other_pattern_ix[:] = trip, pattern, -1
        fleet.gather(columns)
        expected = model.gather(expected_ix, trip.tolist(), pattern.tolist())
        remembered = ("progress_m", "time_us", "strikes", "stop", "since_us", "speed_mps", "fallback_m")
        found = zip(*(getattr(columns, f"prev_{name}").tolist() for name in remembered), strict=True)
        assert all(all(map(same, a, b)) for a, b in zip(found, expected, strict=True))

        later = rng.choice([0, 0, 0, 18, 22, 23, 26], n)
        columns.status[:] = np.where(columns.status == 0, later, columns.status)
        moved, counted = rng.random(n) * 1000, rng.integers(0, 4, n).astype(np.uint8)
        stop = rng.integers(0, 10_000, n).astype(np.int32)
        columns.progress_m[:], columns.strikes[:], columns.first_stop[:] = moved, counted, stop
        columns.since_us[:] = rng.integers(0, 2**50, n)
        columns.recent_speed_mps[:] = rng.random(n).astype(np.float32)
        columns.fallback_m[:] = rng.random(n).astype(np.float32)
        fleet.commit(columns, now_us + 25)
        model.commit(
            columns.status.tolist(),
            expected_ix,
            times,
            now_us + 25,
            trip.tolist(),
            pattern.tolist(),
            moved.tolist(),
            counted.tolist(),
            stop.tolist(),
            columns.since_us.tolist(),
            columns.recent_speed_mps.tolist(),
            columns.fallback_m.tolist(),
        )
        assert_same_vehicles(fleet, model)
        if step % 9 == 8:
            assert fleet.evict(now_us - 25_000_000) == model.evict(now_us - 25_000_000)
            assert_same_vehicles(fleet, model)
