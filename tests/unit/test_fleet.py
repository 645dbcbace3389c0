import math

import numpy as np
import pytest

from etacore._kernels.fleet import RECORD_BYTES
from etacore.pipeline.fleet import NO_TIME, VehicleState, text_key, text_keys
from etacore.pipeline.motion import Motion
from etacore.status import Status
from tests.reference.columns import columns_of

TTL_US = 300_000_000
OTHER_REASONS = [s for s in Status if s not in (Status.OK, Status.TRIP_FINISHED)]


def poll(state, ids, time_us, now_us, *, status=None, becomes=None, progress_m=0.0, trips=None, pattern=1):
    """One batch from lookup to commit; `becomes` is what the stages between make of the rows that are still OK."""
    columns = columns_of(ids, status, time_us, trips)
    n = columns.n
    vehicle_ix, is_new, trip_key = np.empty(n, np.int32), np.empty(n, np.uint8), np.empty(n, np.uint64)
    state.lookup(columns, vehicle_ix, is_new)
    state.screen(columns, vehicle_ix, now_us)
    screened = [Status(code) for code in columns.status[:n]]
    if becomes is not None:
        columns.status[:n][columns.status[:n] == Status.OK] = becomes
    text_keys(columns, "trip_id", trip_key)
    motion = Motion(n)
    motion.since_us[:], motion.speed_mps[:] = columns.time_us[:n], progress_m
    state.commit(
        columns.status,
        vehicle_ix,
        columns.time_us,
        now_us + TTL_US,
        trip_key,
        np.full(n, pattern, np.int32),
        np.full(n, progress_m),
        np.zeros(n, np.uint8),
        np.full(n, int(progress_m), np.int32),
        motion,
        now_us,
    )
    return screened


def gathered(state, vehicle_id, trip, pattern):
    columns = columns_of([vehicle_id], trip_ids=[trip])
    ix, new, key = np.empty(1, np.int32), np.empty(1, np.uint8), np.empty(1, np.uint64)
    progress, time_us, strikes = np.empty(1), np.empty(1, np.int64), np.empty(1, np.uint8)
    state.lookup(columns, ix, new)
    text_keys(columns, "trip_id", key)
    state.gather(ix, key, np.array([pattern], np.int32), progress, time_us, strikes, Motion(1))
    return progress[0], time_us[0], strikes[0]


def test_lookup_numbers_vehicles_in_order_of_appearance():
    state = VehicleState()
    columns = columns_of([b"A", b"B", b"A", b"C", b"D"], [0, 0, 0, Status.MISSING_ROUTE, 0])
    ix, new = np.empty(5, np.int32), np.empty(5, np.uint8)
    assert state.lookup(columns, ix, new) == 3
    assert ix.tolist() == [0, 1, 0, -1, 2]
    assert new.tolist() == [1, 1, 0, 0, 1]
    assert state.n == 3
    assert state.lookup(columns, ix, new) == 3, "new until restored or committed"
    assert state.n == 3


def test_commit_or_restore_ends_being_new():
    state = VehicleState()
    columns = columns_of([b"A", b"B", b"C"], time_us=[1, 1, 1])
    ix, new = np.empty(3, np.int32), np.empty(3, np.uint8)
    poll(state, [b"A"], [1], 10)
    state.lookup(columns, ix, new)
    assert new.tolist() == [0, 1, 1]
    state.restore(ix[1:2], np.array([NO_TIME]), np.array([0]))
    assert state.lookup(columns, ix, new) == 1
    assert new.tolist() == [0, 0, 1]


def test_same_time_is_unchanged_until_the_prediction_expires():
    state = VehicleState()
    assert poll(state, [b"A"], [5], 1000) == [Status.OK]
    assert poll(state, [b"A"], [5], 1000 + TTL_US - 1) == [Status.UNCHANGED]
    assert poll(state, [b"A"], [5], 1000 + TTL_US) == [Status.OK]
    assert poll(state, [b"A"], [6], 1000) == [Status.OK]


def test_older_time_is_out_of_order_even_after_expiry():
    state = VehicleState()
    poll(state, [b"A"], [5], 0)
    assert poll(state, [b"A"], [4], 10 * TTL_US) == [Status.OUT_OF_ORDER]
    assert poll(state, [b"A"], [5], 1) == [Status.UNCHANGED]


def test_of_several_rows_the_newest_speaks_and_ties_go_to_the_first():
    state = VehicleState()
    expected = [Status.DUPLICATE, Status.OK, Status.OK, Status.DUPLICATE, Status.DUPLICATE]
    assert poll(state, [b"A", b"A", b"B", b"A", b"A"], [1, 3, 0, 3, 2], 0) == expected
    assert state.record(0)[1] == 3


def test_newest_of_several_may_still_be_old():
    state = VehicleState()
    poll(state, [b"A"], [5], 0)
    assert poll(state, [b"A", b"A"], [3, 4], 1) == [Status.DUPLICATE, Status.OUT_OF_ORDER]
    assert poll(state, [b"A", b"A"], [5, 4], 1) == [Status.UNCHANGED, Status.DUPLICATE]


def test_a_row_set_aside_before_does_not_compete():
    state = VehicleState()
    assert poll(state, [b"A", b"A"], [1, 9], 0, status=[0, Status.TOO_OLD]) == [Status.OK, Status.TOO_OLD]
    assert state.record(0)[1] == 1


@pytest.mark.parametrize("reason", OTHER_REASONS)
def test_a_row_that_fails_later_does_not_move_the_vehicle(reason):
    state = VehicleState()
    poll(state, [b"A"], [5], 0, progress_m=100.0)
    before = state.record(0)
    assert poll(state, [b"A"], [7], 60, becomes=reason, progress_m=900.0) == [Status.OK]
    after = state.record(0)
    assert after[:3] == before[:3]
    assert after[3] == 60, "it was seen"
    assert after[4:] == before[4:]
    assert poll(state, [b"A"], [6], 61) == [Status.OK], "6 is older than the rejected row, newer than the committed one"


def test_a_finished_trip_moves_and_is_never_unchanged():
    state = VehicleState()
    poll(state, [b"A"], [5], 0, progress_m=100.0)
    for now_us in (10, 20, 30):
        assert poll(state, [b"A"], [6], now_us, becomes=Status.TRIP_FINISHED, progress_m=950.0) == [Status.OK]
    _, time_us, valid_until_us, seen_us, _, _, progress_m, *_, known = state.record(0)
    assert (time_us, valid_until_us, seen_us, progress_m, known) == (6, 0, 30, 950.0, True)
    assert poll(state, [b"A"], [5], 40) == [Status.OUT_OF_ORDER]


def test_restore_knows_what_was_predicted_before_a_start():
    state = VehicleState()
    columns = columns_of([b"A", b"B", b"C"], time_us=[5, 4, 6])
    ix, new = np.empty(3, np.int32), np.empty(3, np.uint8)
    state.lookup(columns, ix, new)
    state.restore(ix, np.array([5, 5, 5]), np.array([100, 100, 100]))
    state.screen(columns, ix, 50)
    assert columns.status[:3].tolist() == [Status.UNCHANGED, Status.OUT_OF_ORDER, Status.OK]


def test_restore_is_for_new_vehicles_only():
    state = VehicleState()
    poll(state, [b"A"], [5], 0)
    before = state.record(0)
    state.restore(np.array([0, -1], np.int32), np.array([9, 9]), np.array([10**9, 10**9]))
    assert state.record(0) == before


def test_restore_ignores_a_time_from_the_far_future():
    state = VehicleState()
    columns = columns_of([b"A", b"B"])
    ix, new = np.empty(2, np.int32), np.empty(2, np.uint8)
    state.lookup(columns, ix, new)
    state.restore(ix, np.array([1001, 1000]), np.array([9, 9]), max_time_us=1000)
    assert [state.record(i)[1:3] for i in (0, 1)] == [(NO_TIME, 0), (1000, 9)]
    assert state.record(0)[-1], "looked up once is enough"


def test_restored_time_never_goes_back_with_a_commit():
    state = VehicleState()
    columns = columns_of([b"A"], time_us=[3])
    ix, new = np.empty(1, np.int32), np.empty(1, np.uint8)
    state.lookup(columns, ix, new)
    state.restore(ix, np.array([5]), np.array([100]))
    one = np.ones(1, np.int32)
    keys, strikes = one.astype(np.uint64), np.ones(1, np.uint8)
    state.commit(columns.status, ix, columns.time_us, 999, keys, one, np.ones(1), strikes, one, Motion(1), 7)
    assert state.record(0)[1:3] == (5, 100)


def test_gather_wants_the_same_trip_and_pattern():
    state = VehicleState()
    poll(state, [b"A", b"B"], [5, 6], 0, progress_m=123.0, trips=[b"T1", b""], pattern=4)
    assert gathered(state, b"A", b"T1", 4) == (123.0, 5, 0)
    assert gathered(state, b"B", b"", 4) == (123.0, 6, 0), "no trip is the same as no trip"
    for vehicle, trip, pattern in [
        (b"A", b"T2", 4),
        (b"A", b"", 4),
        (b"A", b"T1", 5),
        (b"B", b"T1", 4),
        (b"C", b"", 4),
    ]:
        progress_m, time_us, strikes = gathered(state, vehicle, trip, pattern)
        assert math.isnan(progress_m)
        assert (time_us, strikes) == (0, 0)


def test_no_pattern_matches_nothing():
    state = VehicleState()
    poll(state, [b"A"], [5], 0, progress_m=1.0, trips=[b"T"], pattern=-1)
    assert math.isnan(gathered(state, b"A", b"T", -1)[0])


def test_forgotten_prediction_is_made_again():
    state = VehicleState()
    poll(state, [b"A", b"B"], [5, 5], 0)
    state.forget_prediction(np.array([-1, 1], np.int32))
    assert poll(state, [b"A", b"B"], [5, 5], 1) == [Status.UNCHANGED, Status.OK]


def test_evict_goes_by_last_seen_and_keeps_the_others():
    state = VehicleState()
    ids = [f"V{i}".encode() for i in range(500)]
    for i, vehicle_id in enumerate(ids):
        poll(state, [vehicle_id], [i], i, progress_m=float(i))
    poll(state, [b"V7"], [7], 1000)
    kept = [b"V7", *ids[300:]]
    full = state.nbytes
    assert state.evict(300) == 299
    assert [state.record(i)[0] for i in range(state.n)] == kept
    assert [state.record(i)[6] for i in range(state.n)] == [7.0, *map(float, range(300, 500))]
    assert state.nbytes <= full
    assert state.evict(300) == 0
    assert poll(state, [b"V7", b"V0"], [7, 0], 1001) == [Status.UNCHANGED, Status.OK]
    assert state.evict(10_000) == 202
    assert state.n == 0
    assert state.evict(10_000) == 0


def test_a_flood_of_ids_gives_its_memory_back():
    state = VehicleState()
    for batch in range(10):
        poll(state, [f"flood-{batch}-{i}".encode() for i in range(2000)], [1] * 2000, batch)
    poll(state, [b"A"], [1], 100)
    flooded = state.nbytes
    state.evict(50)
    assert state.n == 1
    assert state.nbytes < flooded / 50


def test_numbers_from_before_an_eviction_are_refused():
    state = VehicleState()
    poll(state, [b"A", b"B"], [1, 1], 0)
    stale = np.array([1], np.int32)
    poll(state, [b"A"], [1], 10)
    state.evict(5)
    with pytest.raises(ValueError, match="out of range"):
        state.forget_prediction(stale)
    with pytest.raises(ValueError, match="out of range"):
        state.screen(columns_of([b"B"]), stale, 0)
    with pytest.raises(IndexError):
        state.record(1)


def test_short_arrays_are_refused():
    state = VehicleState()
    columns = columns_of([b"A", b"B"])
    with pytest.raises(ValueError, match="vehicle_ix has 1 rows, 2 are needed"):
        state.lookup(columns, np.empty(1, np.int32), np.empty(2, np.uint8))
    with pytest.raises(ValueError, match="out has 1 rows"):
        text_keys(columns, "trip_id", np.empty(1, np.uint64))
    two = np.zeros(2, np.int32)
    arrays = two.astype(np.uint64), two, np.empty(2), np.empty(2, np.int64), np.empty(2, np.uint8)
    with pytest.raises(ValueError, match="motion has 1 rows, 2 are needed"):
        state.gather(two - 1, *arrays, Motion(1))


@pytest.mark.parametrize("text", [(0, 0, 0), (0, 1000, 0), (-1, 2, 0), (2**62, 4, 0)])
def test_ids_outside_the_arena_are_refused(text):
    columns = columns_of([b"A", b"B"])
    columns.vehicle_id[1] = text
    with pytest.raises(ValueError, match="row 1 "):
        VehicleState().lookup(columns, np.empty(2, np.int32), np.empty(2, np.uint8))


def test_text_keys_tell_texts_apart():
    out = np.empty(5, np.uint64)
    text_keys(columns_of([b"A"] * 5, trip_ids=[b"T1", b"", b"T2", b"T1", b"T1\0"]), "trip_id", out)
    assert out[1] == 0
    assert out[0] == out[3]
    assert len(set(out.tolist())) == 4
    assert [text_key(text) for text in (b"T1", b"", b"T2", b"T1", b"T1\0")] == out.tolist()


def test_a_vehicle_is_one_cache_line():
    assert RECORD_BYTES == 64


def test_what_moved_is_remembered_for_the_same_trip_and_pattern():
    state = VehicleState()
    columns = columns_of([b"A"], time_us=[5], trip_ids=[b"T"])
    ix, new, key = np.empty(1, np.int32), np.empty(1, np.uint8), np.empty(1, np.uint64)
    state.lookup(columns, ix, new)
    text_keys(columns, "trip_id", key)
    motion, pattern, stop = Motion(1), np.array([4], np.int32), np.array([9_999], np.int32)
    motion.since_us[0], motion.speed_mps[0] = 3, 2.5
    state.commit(
        columns.status, ix, columns.time_us, 9, key, pattern, np.ones(1), np.zeros(1, np.uint8), stop, motion, 7
    )
    arrays = np.empty(1), np.empty(1, np.int64), np.empty(1, np.uint8)
    found = []
    for other in (0, 1):
        state.gather(ix, key + np.uint64(other), pattern, *arrays, motion)
        found.append((motion.prev_stop[0], motion.prev_since_us[0], motion.prev_speed_mps[0]))
    assert found[0] == (9_999, 3, 2.5)
    assert found[1][:2] == (-1, 0)
    assert math.isnan(found[1][2])


def test_a_million_vehicles_stay_small():
    state = VehicleState()
    ix, new = np.empty(50_000, np.int32), np.empty(50_000, np.uint8)
    for first in range(0, 1_000_000, 50_000):
        columns = columns_of([b"BUS-%06d" % i for i in range(first, first + 50_000)])
        assert state.lookup(columns, ix, new) == 50_000
    assert state.n == 1_000_000
    print(f"{state.nbytes / state.n:.1f} bytes a vehicle")
    assert state.nbytes < 200_000_000
    assert state.record(123_456)[0] == b"BUS-123456"
