import math

import numpy as np
import pytest

from etacore._kernels.fleet import NO_TIME, RECORD_BYTES, Fleet
from etacore.pipeline.route_knowledge import text_key
from etacore.status import Status
from tests.reference.columns import columns_of

TTL_US = 300_000_000
OTHER_REASONS = [s for s in Status if s not in (Status.OK, Status.TRIP_FINISHED, Status.DIRECTION_UNKNOWN)]


def poll(fleet, ids, time_us, now_us, *, status=None, becomes=None, progress_m=0.0, trips=None, pattern=1):
    """One batch from lookup to commit; `becomes` is what the stages between make of the rows that are still OK."""
    batch = columns_of(ids, status, time_us, trips)
    batch.now_us = now_us
    fleet.lookup(batch)
    fleet.screen(batch)
    screened = [Status(code) for code in batch.status]
    if becomes is not None:
        batch.status[batch.status == Status.OK] = becomes
    batch.run_key[:], batch.pattern_ix[:] = batch.text_keys("trip_id"), pattern
    batch.progress_m[:], batch.strikes[:], batch.first_stop[:] = progress_m, 0, int(progress_m)
    batch.since_us[:], batch.recent_speed_mps[:] = batch.time_us, progress_m
    fleet.commit(batch, now_us + TTL_US)
    return screened


def gathered(fleet, vehicle_id, trip, pattern):
    batch = columns_of([vehicle_id], trip_ids=[trip])
    fleet.lookup(batch)
    batch.run_key[:], batch.pattern_ix[:] = batch.text_keys("trip_id"), pattern
    fleet.gather(batch)
    return batch.prev_progress_m[0], batch.prev_time_us[0], batch.prev_strikes[0]


def test_lookup_numbers_vehicles_in_order_of_appearance():
    fleet = Fleet()
    columns = columns_of([b"A", b"B", b"A", b"C", b"D"], [0, 0, 0, Status.MISSING_ROUTE, 0])
    assert fleet.lookup(columns) == 3
    assert columns.vehicle_ix.tolist() == [0, 1, 0, -1, 2]
    assert columns.is_new.tolist() == [1, 1, 0, 0, 1]
    assert fleet.n == 3
    assert fleet.lookup(columns) == 3, "new until restored or committed"
    assert fleet.n == 3


def test_commit_or_restore_ends_being_new():
    fleet = Fleet()
    columns = columns_of([b"A", b"B", b"C"], time_us=[1, 1, 1])
    poll(fleet, [b"A"], [1], 10)
    fleet.lookup(columns)
    assert columns.is_new.tolist() == [0, 1, 1]
    fleet.restore(columns.vehicle_ix[1:2], np.array([NO_TIME]), np.array([0]))
    assert fleet.lookup(columns) == 1
    assert columns.is_new.tolist() == [0, 0, 1]


def test_same_time_is_unchanged_until_the_prediction_expires():
    fleet = Fleet()
    assert poll(fleet, [b"A"], [5], 1000) == [Status.OK]
    assert poll(fleet, [b"A"], [5], 1000 + TTL_US - 1) == [Status.UNCHANGED]
    assert poll(fleet, [b"A"], [5], 1000 + TTL_US) == [Status.OK]
    assert poll(fleet, [b"A"], [6], 1000) == [Status.OK]


def test_older_time_is_out_of_order_even_after_expiry():
    fleet = Fleet()
    poll(fleet, [b"A"], [5], 0)
    assert poll(fleet, [b"A"], [4], 10 * TTL_US) == [Status.OUT_OF_ORDER]
    assert poll(fleet, [b"A"], [5], 1) == [Status.UNCHANGED]


def test_of_several_rows_the_newest_speaks_and_ties_go_to_the_first():
    fleet = Fleet()
    expected = [Status.DUPLICATE, Status.OK, Status.OK, Status.DUPLICATE, Status.DUPLICATE]
    assert poll(fleet, [b"A", b"A", b"B", b"A", b"A"], [1, 3, 0, 3, 2], 0) == expected
    assert fleet.record(0)[1] == 3


def test_newest_of_several_may_still_be_old():
    fleet = Fleet()
    poll(fleet, [b"A"], [5], 0)
    assert poll(fleet, [b"A", b"A"], [3, 4], 1) == [Status.DUPLICATE, Status.OUT_OF_ORDER]
    assert poll(fleet, [b"A", b"A"], [5, 4], 1) == [Status.UNCHANGED, Status.DUPLICATE]


def test_a_row_set_aside_before_does_not_compete():
    fleet = Fleet()
    assert poll(fleet, [b"A", b"A"], [1, 9], 0, status=[0, Status.TOO_OLD]) == [Status.OK, Status.TOO_OLD]
    assert fleet.record(0)[1] == 1


@pytest.mark.parametrize("reason", OTHER_REASONS)
def test_a_row_that_fails_later_does_not_move_the_vehicle(reason):
    fleet = Fleet()
    poll(fleet, [b"A"], [5], 0, progress_m=100.0)
    before = fleet.record(0)
    assert poll(fleet, [b"A"], [7], 60_000_000, becomes=reason, progress_m=900.0) == [Status.OK]
    after = fleet.record(0)
    assert after[:3] == before[:3]
    assert after[3] == 60, "it was seen"
    assert after[4:] == before[4:]
    assert poll(fleet, [b"A"], [6], 61_000_000) == [Status.OK], (
        "6 is older than the rejected row, newer than the committed one"
    )


def test_a_finished_trip_moves_and_is_never_unchanged():
    fleet = Fleet()
    poll(fleet, [b"A"], [5], 0, progress_m=100.0)
    for now_us in (10_000_000, 20_000_000, 30_000_000):
        assert poll(fleet, [b"A"], [6], now_us, becomes=Status.TRIP_FINISHED, progress_m=950.0) == [Status.OK]
    record = fleet.record(0)
    assert (record.time_us, record.valid_until_us, record.seen_s) == (6, 0, 30)
    assert (record.progress_m, record.known) == (950.0, True)
    assert poll(fleet, [b"A"], [5], 40_000_000) == [Status.OUT_OF_ORDER]


def test_restore_knows_what_was_predicted_before_a_start():
    fleet = Fleet()
    columns = columns_of([b"A", b"B", b"C"], time_us=[5, 4, 6])
    fleet.lookup(columns)
    fleet.restore(columns.vehicle_ix, np.array([5, 5, 5]), np.array([100, 100, 100]))
    columns.now_us = 50
    fleet.screen(columns)
    assert columns.status.tolist() == [Status.UNCHANGED, Status.OUT_OF_ORDER, Status.OK]


def test_restore_is_for_new_vehicles_only():
    fleet = Fleet()
    poll(fleet, [b"A"], [5], 0)
    before = fleet.record(0)
    fleet.restore(np.array([0, -1], np.int32), np.array([9, 9]), np.array([10**9, 10**9]))
    assert fleet.record(0) == before


def test_restore_ignores_a_time_from_the_far_future():
    fleet = Fleet()
    columns = columns_of([b"A", b"B"])
    fleet.lookup(columns)
    fleet.restore(columns.vehicle_ix, np.array([1001, 1000]), np.array([9, 9]), max_time_us=1000)
    assert [fleet.record(i)[1:3] for i in (0, 1)] == [(NO_TIME, 0), (1000, 9)]
    assert fleet.record(0)[-1], "looked up once is enough"


def test_restored_time_never_goes_back_with_a_commit():
    fleet = Fleet()
    columns = columns_of([b"A"], time_us=[3])
    fleet.lookup(columns)
    fleet.restore(columns.vehicle_ix, np.array([5]), np.array([100]))
    fleet.commit(columns, 999)
    assert fleet.record(0)[1:3] == (5, 100)


def test_gather_wants_the_same_trip_and_pattern():
    fleet = Fleet()
    poll(fleet, [b"A", b"B"], [5, 6], 0, progress_m=123.0, trips=[b"T1", b""], pattern=4)
    assert gathered(fleet, b"A", b"T1", 4) == (123.0, 5, 0)
    assert gathered(fleet, b"B", b"", 4) == (123.0, 6, 0), "no trip is the same as no trip"
    for vehicle, trip, pattern in [
        (b"A", b"T2", 4),
        (b"A", b"", 4),
        (b"A", b"T1", 5),
        (b"B", b"T1", 4),
        (b"C", b"", 4),
    ]:
        progress_m, time_us, strikes = gathered(fleet, vehicle, trip, pattern)
        assert math.isnan(progress_m)
        assert (time_us, strikes) == (0, 0)


def test_no_pattern_matches_nothing():
    fleet = Fleet()
    poll(fleet, [b"A"], [5], 0, progress_m=1.0, trips=[b"T"], pattern=-1)
    assert math.isnan(gathered(fleet, b"A", b"T", -1)[0])


def test_forgotten_prediction_is_made_again():
    fleet = Fleet()
    poll(fleet, [b"A", b"B"], [5, 5], 0)
    fleet.forget_prediction(np.array([-1, 1], np.int32))
    assert poll(fleet, [b"A", b"B"], [5, 5], 1) == [Status.UNCHANGED, Status.OK]


def test_evict_goes_by_last_seen_and_keeps_the_others():
    fleet = Fleet()
    ids = [f"V{i}".encode() for i in range(500)]
    for i, vehicle_id in enumerate(ids):
        poll(fleet, [vehicle_id], [i], i * 1_000_000, progress_m=float(i))
    poll(fleet, [b"V7"], [2_000_000_000], 1_000_999_999, progress_m=7.0)
    kept = [b"V7", *ids[300:]]
    full = fleet.nbytes
    assert fleet.evict(300_999_999) == 299, "whole seconds count"
    assert [fleet.record(i)[0] for i in range(fleet.n)] == kept
    assert [fleet.record(i)[6] for i in range(fleet.n)] == [7.0, *map(float, range(300, 500))]
    assert fleet.nbytes <= full
    assert fleet.evict(300_000_000) == 0
    assert poll(fleet, [b"V7", b"V0"], [2_000_000_000, 0], 1_000_999_999) == [Status.UNCHANGED, Status.OK]
    assert fleet.evict(10_000_000_000) == 202
    assert fleet.n == 0
    assert fleet.evict(10_000) == 0


def test_a_flood_of_ids_gives_its_memory_back():
    fleet = Fleet()
    for batch in range(10):
        poll(fleet, [f"flood-{batch}-{i}".encode() for i in range(2000)], [1] * 2000, batch * 1_000_000)
    poll(fleet, [b"A"], [1], 100_000_000)
    flooded = fleet.nbytes
    fleet.evict(50_000_000)
    assert fleet.n == 1
    assert fleet.nbytes < flooded / 50


def test_numbers_from_before_an_eviction_are_refused():
    fleet = Fleet()
    poll(fleet, [b"A", b"B"], [1, 1], 0)
    stale, batch = np.array([1], np.int32), columns_of([b"B"])
    batch.vehicle_ix[:] = stale
    poll(fleet, [b"A"], [1], 10_000_000)
    fleet.evict(5_000_000)
    with pytest.raises(ValueError, match="out of range"):
        fleet.forget_prediction(stale)
    with pytest.raises(ValueError, match="out of range"):
        fleet.screen(batch)
    with pytest.raises(IndexError):
        fleet.record(1)


@pytest.mark.parametrize("text", [(0, 0, 0), (0, 1000, 0), (-1, 2, 0), (2**62, 4, 0)])
def test_ids_outside_the_arena_are_refused(text):
    columns = columns_of([b"A", b"B"])
    columns.vehicle_id[1] = text
    with pytest.raises(ValueError, match="row 1 "):
        Fleet().lookup(columns)


def test_text_keys_tell_texts_apart():
    out = columns_of([b"A"] * 5, trip_ids=[b"T1", b"", b"T2", b"T1", b"T1\0"]).text_keys("trip_id")
    assert out[1] == 0
    assert out[0] == out[3]
    assert len(set(out.tolist())) == 4
    assert [text_key(text) for text in (b"T1", b"", b"T2", b"T1", b"T1\0")] == out.tolist()


def test_a_vehicle_is_one_cache_line():
    assert RECORD_BYTES == 64


def test_what_moved_is_remembered_for_the_same_trip_and_pattern():
    fleet = Fleet()
    columns = columns_of([b"A"], time_us=[5], trip_ids=[b"T"])
    fleet.lookup(columns)
    columns.run_key[:], columns.pattern_ix[:], columns.first_stop[:] = columns.text_keys("trip_id"), 4, 9_999
    columns.since_us[0], columns.recent_speed_mps[0] = 3, 2.5
    fleet.commit(columns, 9)
    found = []
    for other in (0, 1):
        columns.run_key[:] += np.uint64(other)
        fleet.gather(columns)
        found.append((columns.prev_stop[0], columns.prev_since_us[0], columns.prev_speed_mps[0]))
    assert found[0] == (9_999, 3, 2.5)
    assert found[1][:2] == (-1, 0)
    assert math.isnan(found[1][2])


def test_a_million_vehicles_stay_small():
    fleet = Fleet()
    for first in range(0, 1_000_000, 50_000):
        columns = columns_of([b"BUS-%06d" % i for i in range(first, first + 50_000)])
        assert fleet.lookup(columns) == 50_000
    assert fleet.n == 1_000_000
    print(f"{fleet.nbytes / fleet.n:.1f} bytes a vehicle")
    assert fleet.nbytes < 200_000_000
    assert fleet.record(123_456)[0] == b"BUS-123456"
