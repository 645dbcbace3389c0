"""What is remembered of each vehicle between two batches: one flat record a vehicle, found by the id's bytes.

A record's number (`vehicle_ix`) is the number of its id's entry in the index (the entry's value is not used), so the
two grow and are compacted together.
"""

import numpy as np

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.math cimport NAN
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint8_t, uint16_t, uint64_t

from etacore._index cimport StringIndex, hash_text
from etacore._motion cimport MotionPointers
from etacore._text cimport inside
from etacore._types cimport DUPLICATE, NO_STOP, OK, OUT_OF_ORDER, TRIP_FINISHED, UNCHANGED, text_t

cdef enum:
    MIN_RECORDS = 16

NO_TIME = INT64_MIN
RECORD_BYTES = sizeof(record_t)


# One cache line.
cdef struct record_t:
    int64_t time_us          # event time of the last row taken; INT64_MIN = none
    int64_t valid_until_us   # when the prediction made of that row expires; 0 = there is none
    int64_t seen_us          # last poll that carried the vehicle
    uint64_t trip_key
    double progress_m
    int64_t stop_since_us    # event time of the fix at which the next stop became the next one
    int32_t pattern_ix
    int32_t batch_row        # scratch of one batch: the row that speaks for the vehicle
    float speed_mps          # along the pattern, smoothed; NaN before the second fix
    uint16_t next_stop       # index in the pattern, its low 16 bits: only told apart from another one
    uint8_t strikes
    uint8_t known            # its stored prediction was looked up, or it has been committed


cdef inline void _forget_everything(record_t* record) noexcept nogil:
    record.time_us = INT64_MIN
    record.valid_until_us = 0
    record.seen_us = INT64_MIN
    record.trip_key = 0
    record.progress_m = NAN
    record.stop_since_us = 0
    record.pattern_ix = NO_STOP
    record.batch_row = -1
    record.speed_mps = NAN
    record.next_stop = 0
    record.strikes = 0
    record.known = 0


cdef int _require_rows(str name, Py_ssize_t n_rows, Py_ssize_t n) except -1:
    if n_rows < n:
        raise ValueError(f"{name} has {n_rows} rows, {n} are needed")
    return 0


def text_keys(const uint8_t[::1] arena not None, const text_t[::1] texts not None, uint64_t[::1] out not None,
              Py_ssize_t n):
    """Fill out[:n] with a hash of each text, 0 where there is none."""
    cdef Py_ssize_t row
    cdef Py_ssize_t bad = -1
    cdef uint64_t code
    _require_rows("texts", texts.shape[0], n)
    _require_rows("out", out.shape[0], n)
    with nogil:
        for row in range(n):
            if texts[row].length <= 0:
                out[row] = 0
                continue
            if not inside(texts[row], arena.shape[0]):
                bad = row
                break
            code = hash_text(<const char*>&arena[texts[row].start], texts[row].length)
            out[row] = 1 if code == 0 else code
    if bad >= 0:
        raise ValueError(f"the text of row {bad} lies outside the arena")


cdef class VehicleTable:
    """Records of vehicles; see `etacore.state.VehicleState` for what each call means.

    Not to be used by two threads at once: the loops run without the GIL and records move when the table grows.
    """

    cdef StringIndex index
    cdef record_t* records
    cdef int64_t capacity

    def __cinit__(self, capacity=0):
        self.index = StringIndex(capacity)
        self.reserve(max(capacity, MIN_RECORDS))

    def __dealloc__(self):
        PyMem_RawFree(self.records)

    @property
    def n(self):
        return self.index.n

    @property
    def nbytes(self):
        return self.capacity * <int64_t>sizeof(record_t) + self.index.nbytes

    def record(self, int32_t vehicle_ix):
        """One vehicle as a tuple, for tests and diagnosis."""
        cdef int32_t length
        cdef const char* key
        if not 0 <= vehicle_ix < self.index.n:
            raise IndexError(f"no vehicle {vehicle_ix}")
        key = self.index.key(vehicle_ix, &length)
        r = self.records[vehicle_ix]
        return (PyBytes_FromStringAndSize(key, length), r.time_us, r.valid_until_us, r.seen_us, r.trip_key,
                r.pattern_ix, r.progress_m, r.strikes, r.next_stop, r.stop_since_us, r.speed_mps, bool(r.known))

    cdef int reserve(self, int64_t n) except -1 nogil:
        cdef int64_t capacity
        cdef void* moved
        if n > self.capacity:
            capacity = max(n, self.capacity + (self.capacity >> 1))
            moved = PyMem_RawRealloc(self.records, <size_t>capacity * sizeof(record_t))
            if moved == NULL:
                with gil:
                    raise MemoryError()
            self.records = <record_t*>moved
            self.capacity = capacity
        return 0

    def lookup(self, const uint8_t[::1] text not None, const text_t[::1] vehicle_id not None,
               const uint8_t[::1] status not None, int32_t[::1] vehicle_ix not None, uint8_t[::1] is_new not None,
               Py_ssize_t n):
        cdef Py_ssize_t row
        cdef Py_ssize_t bad = -1
        cdef int32_t n_new = 0
        cdef int32_t i
        cdef uint64_t code
        cdef const char* key
        _require_rows("vehicle_id", vehicle_id.shape[0], n)
        _require_rows("status", status.shape[0], n)
        _require_rows("vehicle_ix", vehicle_ix.shape[0], n)
        _require_rows("is_new", is_new.shape[0], n)
        with nogil:
            for row in range(n):
                vehicle_ix[row] = NO_STOP
                is_new[row] = 0
                if status[row] != OK:
                    continue
                if vehicle_id[row].length <= 0 or not inside(vehicle_id[row], text.shape[0]):
                    bad = row
                    break
                # The record's room comes first: if either finds no memory, index and records still agree.
                self.reserve(<int64_t>self.index.n + 1)
                key = <const char*>&text[vehicle_id[row].start]
                code = hash_text(key, vehicle_id[row].length)
                i = self.index.find_entry(code, key, vehicle_id[row].length)
                if i < 0:
                    i = self.index.put_hashed(code, key, vehicle_id[row].length, 0)
                    _forget_everything(&self.records[i])
                vehicle_ix[row] = i
                if not self.records[i].known:
                    self.records[i].batch_row = -1
            # `known` waits for restore or commit; so a vehicle that comes twice is told apart by its scratch row.
            if bad < 0:
                for row in range(n):
                    i = vehicle_ix[row]
                    if i >= 0 and not self.records[i].known and self.records[i].batch_row < 0:
                        self.records[i].batch_row = <int32_t>row
                        is_new[row] = 1
                        n_new += 1
        if bad >= 0:
            raise ValueError(f"row {bad} has status OK and no vehicle id inside the arena")
        return n_new

    def restore(self, const int32_t[::1] vehicle_ix not None, const int64_t[::1] time_us not None,
                const int64_t[::1] valid_until_us not None, int64_t max_time_us):
        cdef Py_ssize_t n = vehicle_ix.shape[0]
        cdef Py_ssize_t row
        cdef record_t* record
        _require_rows("time_us", time_us.shape[0], n)
        _require_rows("valid_until_us", valid_until_us.shape[0], n)
        self.check(vehicle_ix, n)
        with nogil:
            for row in range(n):
                if vehicle_ix[row] < 0:
                    continue
                record = &self.records[vehicle_ix[row]]
                if not record.known:
                    record.known = 1
                    if time_us[row] <= max_time_us and time_us[row] != INT64_MIN:
                        record.time_us = time_us[row]
                        record.valid_until_us = valid_until_us[row]

    def screen(self, uint8_t[::1] status not None, const int32_t[::1] vehicle_ix not None,
               const int64_t[::1] time_us not None, int64_t now_us, Py_ssize_t n):
        cdef Py_ssize_t row
        cdef record_t* record
        _require_rows("status", status.shape[0], n)
        _require_rows("vehicle_ix", vehicle_ix.shape[0], n)
        _require_rows("time_us", time_us.shape[0], n)
        self.check(vehicle_ix, n)
        with nogil:
            # Three straight passes: wipe the scratch of the vehicles at hand, let the newest row take it, judge.
            for row in range(n):
                if status[row] == OK and vehicle_ix[row] >= 0:
                    self.records[vehicle_ix[row]].batch_row = -1
            for row in range(n):
                if status[row] == OK and vehicle_ix[row] >= 0:
                    record = &self.records[vehicle_ix[row]]
                    record.seen_us = max(record.seen_us, now_us)
                    if record.batch_row < 0 or time_us[row] > time_us[record.batch_row]:
                        record.batch_row = <int32_t>row
            for row in range(n):
                if status[row] == OK and vehicle_ix[row] >= 0:
                    record = &self.records[vehicle_ix[row]]
                    if record.batch_row != row:
                        status[row] = DUPLICATE
                    elif time_us[row] < record.time_us:
                        status[row] = OUT_OF_ORDER
                    elif time_us[row] == record.time_us and now_us < record.valid_until_us:
                        status[row] = UNCHANGED

    def gather(self, const int32_t[::1] vehicle_ix not None, const uint64_t[::1] trip_key not None,
               const int32_t[::1] pattern_ix not None, double[::1] prev_progress_m not None,
               int64_t[::1] prev_time_us not None, uint8_t[::1] prev_strikes not None, MotionPointers motion not None):
        cdef Py_ssize_t n = vehicle_ix.shape[0]
        cdef Py_ssize_t row
        cdef const record_t* record
        _require_rows("trip_key", trip_key.shape[0], n)
        _require_rows("pattern_ix", pattern_ix.shape[0], n)
        _require_rows("prev_progress_m", prev_progress_m.shape[0], n)
        _require_rows("prev_time_us", prev_time_us.shape[0], n)
        _require_rows("prev_strikes", prev_strikes.shape[0], n)
        motion.require(n)
        self.check(vehicle_ix, n)
        with nogil:
            for row in range(n):
                prev_progress_m[row] = NAN
                prev_time_us[row] = 0
                prev_strikes[row] = 0
                motion.columns.prev_stop[row] = NO_STOP
                motion.columns.prev_since_us[row] = 0
                motion.columns.prev_speed_mps[row] = NAN
                if vehicle_ix[row] < 0 or pattern_ix[row] < 0:
                    continue
                record = &self.records[vehicle_ix[row]]
                if record.trip_key == trip_key[row] and record.pattern_ix == pattern_ix[row]:
                    prev_progress_m[row] = record.progress_m
                    prev_time_us[row] = record.time_us
                    prev_strikes[row] = record.strikes
                    motion.columns.prev_stop[row] = record.next_stop
                    motion.columns.prev_since_us[row] = record.stop_since_us
                    motion.columns.prev_speed_mps[row] = record.speed_mps

    def commit(self, const uint8_t[::1] status not None, const int32_t[::1] vehicle_ix not None,
               const int64_t[::1] time_us not None, int64_t valid_until_us, const uint64_t[::1] trip_key not None,
               const int32_t[::1] pattern_ix not None, const double[::1] progress_m not None,
               const uint8_t[::1] strikes not None, const int32_t[::1] next_stop not None,
               MotionPointers motion not None, int64_t seen_us):
        cdef Py_ssize_t n = vehicle_ix.shape[0]
        cdef Py_ssize_t row
        cdef record_t* record
        _require_rows("status", status.shape[0], n)
        _require_rows("time_us", time_us.shape[0], n)
        _require_rows("trip_key", trip_key.shape[0], n)
        _require_rows("pattern_ix", pattern_ix.shape[0], n)
        _require_rows("progress_m", progress_m.shape[0], n)
        _require_rows("strikes", strikes.shape[0], n)
        _require_rows("next_stop", next_stop.shape[0], n)
        motion.require(n)
        self.check(vehicle_ix, n)
        with nogil:
            for row in range(n):
                if vehicle_ix[row] < 0 or (status[row] != OK and status[row] != TRIP_FINISHED):
                    continue
                record = &self.records[vehicle_ix[row]]
                if time_us[row] < record.time_us:
                    continue
                record.time_us = time_us[row]
                record.valid_until_us = valid_until_us if status[row] == OK else 0
                record.seen_us = max(record.seen_us, seen_us)
                record.trip_key = trip_key[row]
                record.pattern_ix = pattern_ix[row]
                record.progress_m = progress_m[row]
                record.strikes = strikes[row]
                record.next_stop = <uint16_t>next_stop[row]
                record.stop_since_us = motion.columns.since_us[row]
                record.speed_mps = motion.columns.speed_mps[row]
                record.known = 1

    def forget_prediction(self, const int32_t[::1] vehicle_ix not None):
        cdef Py_ssize_t n = vehicle_ix.shape[0]
        cdef Py_ssize_t row
        self.check(vehicle_ix, n)
        with nogil:
            for row in range(n):
                if vehicle_ix[row] >= 0:
                    self.records[vehicle_ix[row]].valid_until_us = 0

    def evict(self, int64_t older_than_us):
        cdef int32_t n = self.index.n
        cdef int32_t n_kept = 0
        cdef int32_t i
        cdef int64_t room
        cdef uint8_t[::1] keep
        cdef void* moved
        if n == 0:
            return 0
        keep = np.empty(n, dtype=np.uint8)
        with nogil:
            for i in range(n):
                keep[i] = self.records[i].seen_us >= older_than_us
                if keep[i]:
                    self.records[n_kept] = self.records[i]
                    n_kept += 1
            if n_kept < n:
                self.index.retain_entries(&keep[0])
                room = 2 * <int64_t>n_kept + MIN_RECORDS
                if self.capacity > 2 * room:
                    moved = PyMem_RawRealloc(self.records, <size_t>room * sizeof(record_t))
                    if moved != NULL:
                        self.records = <record_t*>moved
                        self.capacity = room
        return n - n_kept

    cdef int check(self, const int32_t[::1] vehicle_ix, Py_ssize_t n) except -1:
        # Numbers from before an eviction would reach past the records.
        cdef Py_ssize_t row
        cdef int32_t n_vehicles = self.index.n
        cdef int32_t highest = -1
        with nogil:
            for row in range(n):
                highest = max(highest, vehicle_ix[row])
        if highest >= n_vehicles:
            raise ValueError(f"vehicle_ix {highest} is out of range: there are {n_vehicles} vehicles")
        return 0
