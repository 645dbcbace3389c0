import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from etacore._kernels.fleet import NO_TIME, Fleet
from tests.reference import fleet as twin
from tests.reference.columns import columns_of

IDS = st.sampled_from([b"A", b"B", b"C", b"BUS-1", b"BUS-10", b"\xc3\xa9\0"]) | st.binary(min_size=1, max_size=3)
TIMES = st.integers(0, 12) | st.integers(-(2**62), 2**62)
CLOCK = st.integers(0, 30_000_000)
# OK, already rejected by the parser
ARRIVES_AS = st.sampled_from([0, 0, 0, 14])
# OK, UNKNOWN_ROUTE, TRIP_FINISHED, WRITE_FAILED, DIRECTION_UNKNOWN
ENDS_AS = st.sampled_from([0, 0, 18, 22, 24, 26])
ROWS = st.lists(
    st.tuples(IDS, ARRIVES_AS, TIMES, st.sampled_from([b"", b"T1", b"T2"]), st.integers(-1, 1), ENDS_AS), max_size=12
)


class FleetMachine(RuleBasedStateMachine):
    """Any sequence of batches leaves a `Fleet` as the twin that handles one row after the other."""

    def __init__(self):
        super().__init__()
        self.fleet = Fleet(0)
        self.model = twin.Fleet()
        self.newest = {}

    @rule(rows=ROWS, now_us=CLOCK, restored=st.lists(st.tuples(TIMES | st.just(NO_TIME), CLOCK), max_size=3))
    def poll(self, rows, now_us, restored):
        n = len(rows)
        ids, status, times, trips, patterns, ends = ([row[i] for row in rows] for i in range(6))
        columns = columns_of(ids, status, times, trips)
        columns.now_us = now_us

        expected_ix, expected_new = self.model.lookup(ids, status)
        assert self.fleet.lookup(columns) == sum(expected_new)
        ix, new = columns.vehicle_ix, columns.is_new
        assert (ix.tolist(), new.tolist()) == (expected_ix, expected_new)

        asked = ix[new == 1][: len(restored)]
        stored = np.array([time for time, _ in restored[: len(asked)]], np.int64)
        until = np.array([end for _, end in restored[: len(asked)]], np.int64)
        self.fleet.restore(asked, stored, until, 2**40)
        self.model.restore(asked.tolist(), stored.tolist(), until.tolist(), 2**40)

        self.fleet.screen(columns)
        self.model.screen(status, expected_ix, times, now_us)
        assert columns.status.tolist() == status
        passed = [row[0] for row, code in zip(rows, status, strict=True) if code == 0]
        assert len(passed) == len(set(passed)), "one row a vehicle"

        run_key = columns.text_keys("trip_id")
        columns.run_key[:], columns.pattern_ix[:], columns.other_pattern_ix[:] = run_key, patterns, -1
        self.fleet.gather(columns)
        expected = self.model.gather(expected_ix, run_key.tolist(), patterns)
        assert [None if math.isnan(p) else p for p in columns.prev_progress_m] == [
            None if math.isnan(e[0]) else e[0] for e in expected
        ]
        remembered = (columns.prev_time_us, columns.prev_strikes, columns.prev_stop, columns.prev_since_us)
        assert list(zip(*remembered, strict=True)) == [e[1:5] for e in expected]
        speeds = [e[5] for e in expected]
        np.testing.assert_array_equal(columns.prev_speed_mps, np.array(speeds, np.float32))
        np.testing.assert_array_equal(columns.prev_fallback_m, np.array([e[6] for e in expected], np.float32))

        columns.status[:] = [end if code == 0 else code for code, end in zip(status, ends, strict=True)]
        moved, counted = np.arange(n) * 1.5, np.arange(n, dtype=np.uint8)
        stop = np.arange(n, dtype=np.int32)
        columns.progress_m[:], columns.strikes[:], columns.first_stop[:] = moved, counted, stop
        columns.since_us[:], columns.recent_speed_mps[:] = np.array(times, np.int64), 0.25 * np.arange(n)
        columns.fallback_m[:] = 0.5 * np.arange(n)
        self.fleet.commit(columns, now_us + 10)
        self.model.commit(
            columns.status.tolist(),
            expected_ix,
            times,
            now_us + 10,
            run_key.tolist(),
            patterns,
            moved.tolist(),
            counted.tolist(),
            stop.tolist(),
            times,
            (0.25 * np.arange(n)).tolist(),
            (0.5 * np.arange(n)).tolist(),
        )

    @precondition(lambda self: self.fleet.n)
    @rule(data=st.data())
    def forget_prediction(self, data):
        gone = data.draw(st.lists(st.integers(-1, self.fleet.n - 1), max_size=4))
        self.fleet.forget_prediction(np.array(gone, np.int32))
        self.model.forget_prediction(gone)

    @rule(older_than_us=CLOCK)
    def evict(self, older_than_us):
        assert self.fleet.evict(older_than_us) == self.model.evict(older_than_us)
        self.newest = {key: time for key, time in self.newest.items() if key in self.model.vehicles}

    @invariant()
    def same_vehicles(self):
        records = [self.fleet.record(ix) for ix in range(self.fleet.n)]
        assert [record[0] for record in records] == list(self.model.vehicles)
        for record, v in zip(records, self.model.vehicles.values(), strict=True):
            assert record[1:6] == (v.time_us, v.valid_until_us, v.seen_s, v.run_key, v.pattern_ix)
            assert record[7:10] == (v.strikes, v.next_stop, v.stop_since_us)
            assert record.known == v.known
            for name in ("progress_m", "speed_mps", "fallback_m"):
                found, expected = getattr(record, name), getattr(v, name)
                assert found == expected or (math.isnan(found) and math.isnan(expected)), name

    @invariant()
    def event_time_only_moves_forward(self):
        for ix in range(self.fleet.n):
            key, time_us = self.fleet.record(ix)[:2]
            assert time_us >= self.newest.get(key, NO_TIME)
            self.newest[key] = time_us


FleetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestFleet = FleetMachine.TestCase
