import math

import numpy as np
import pytest

from etacore._kernels import fleet as _state
from etacore.pipeline.fleet import VehicleState
from etacore.pipeline.motion import Motion
from tests.reference import fleet as twin
from tests.reference.columns import columns_of

SEEDS = range(6)


def test_compiled_module_is_loaded():
    assert _state.__file__.endswith((".so", ".pyd"))


def same(a, b):
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def assert_same_vehicles(state, model):
    assert state.n == len(model.vehicles)
    for ix, (key, v) in enumerate(model.vehicles.items()):
        expected = (
            key,
            v.time_us,
            v.valid_until_us,
            v.seen_us,
            v.trip_key,
            v.pattern_ix,
            v.progress_m,
            v.strikes,
            v.next_stop,
            v.stop_since_us,
            v.speed_mps,
            v.known,
        )
        assert all(same(a, b) for a, b in zip(state.record(ix), expected, strict=True)), (
            ix,
            state.record(ix),
            expected,
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_polls_of_a_fleet_agree_with_the_twin(seed):
    rng = np.random.default_rng(seed)
    state, model = VehicleState(0), twin.VehicleState()
    for step in range(40):
        n = int(rng.integers(0, 60))
        now_us = step * 10
        ids = [f"V{i}".encode() for i in rng.integers(0, 40, n)]
        status = rng.choice([0, 0, 0, 0, 7, 14], n).tolist()
        times = rng.integers(now_us - 30, now_us + 5, n).tolist()
        columns = columns_of(ids, status, times)
        ix, new = np.empty(n, np.int32), np.empty(n, np.uint8)

        expected_ix, expected_new = model.lookup(ids, status)
        assert state.lookup(columns, ix, new) == sum(expected_new)
        assert (ix.tolist(), new.tolist()) == (expected_ix, expected_new)

        asked = ix[(new == 1) & (rng.random(n) < 0.7)]
        stored = rng.integers(now_us - 30, now_us + 50, len(asked))
        until = rng.integers(now_us - 20, now_us + 60, len(asked))
        state.restore(asked, stored, until, now_us + 20)
        model.restore(asked.tolist(), stored.tolist(), until.tolist(), now_us + 20)

        state.screen(columns, ix, now_us)
        model.screen(status, expected_ix, times, now_us)
        assert columns.status[:n].tolist() == status

        trip = rng.integers(0, 2, n).astype(np.uint64)
        pattern = rng.integers(-1, 2, n).astype(np.int32)
        progress, time_us, strikes = np.empty(n), np.empty(n, np.int64), np.empty(n, np.uint8)
        motion = Motion(n + 2)
        state.gather(ix, trip, pattern, progress, time_us, strikes, motion)
        expected = model.gather(expected_ix, trip.tolist(), pattern.tolist())
        remembered = (motion.prev_stop, motion.prev_since_us, motion.prev_speed_mps)
        found = zip(*(column[:n].tolist() for column in (progress, time_us, strikes, *remembered)), strict=True)
        assert all(all(map(same, a, b)) for a, b in zip(found, expected, strict=True))

        later = rng.choice([0, 0, 0, 18, 22, 23], n)
        columns.status[:n] = np.where(columns.status[:n] == 0, later, columns.status[:n])
        moved, counted = rng.random(n) * 1000, rng.integers(0, 4, n).astype(np.uint8)
        stop = rng.integers(0, 10_000, n).astype(np.int32)
        motion.since_us[:n], motion.speed_mps[:n] = rng.integers(0, 2**50, n), rng.random(n).astype(np.float32)
        state.commit(
            columns.status, ix, columns.time_us, now_us + 25, trip, pattern, moved, counted, stop, motion, now_us
        )
        model.commit(
            columns.status[:n].tolist(),
            expected_ix,
            times,
            now_us + 25,
            trip.tolist(),
            pattern.tolist(),
            moved.tolist(),
            counted.tolist(),
            stop.tolist(),
            motion.since_us[:n].tolist(),
            motion.speed_mps[:n].tolist(),
            now_us,
        )
        assert_same_vehicles(state, model)
        if step % 9 == 8:
            assert state.evict(now_us - 25) == model.evict(now_us - 25)
            assert_same_vehicles(state, model)
