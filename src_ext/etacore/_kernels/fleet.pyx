"""What is remembered of each vehicle between two batches: one flat record a vehicle, found by the id's bytes.

A record's number (`vehicle_ix`) is the number of its id's entry in the index (the entry's value is not used), so the
two grow and are compacted together.
"""

import numpy as np

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.math cimport NAN
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint8_t, uint16_t, uint64_t

cimport numpy as cnp

from etacore._kernels.arrays cimport (
    bytes_in, bytes_out, double_in, double_out, int32_in, int32_out, int64_in, int64_out, texts_in, uint64_in,
    uint64_out,
)
from etacore._kernels.index cimport StringIndex, hash_text
from etacore._kernels.motion cimport MotionPointers
from etacore._kernels.text cimport inside
from etacore._kernels.types cimport DUPLICATE, NO_STOP, OK, OUT_OF_ORDER, TRIP_FINISHED, UNCHANGED, text_t

cnp.import_array()

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


def text_keys(cnp.ndarray arena not None, cnp.ndarray texts not None, cnp.ndarray out not None, Py_ssize_t n):
    """Fill out[:n] with a hash of each text, 0 where there is none."""
    cdef const char* arena_text = <const char*>bytes_in(arena, b"arena", 0)
    cdef const text_t* text_at = texts_in(texts, b"texts", n)
    cdef uint64_t* keys = uint64_out(out, b"out", n)
    cdef Py_ssize_t row, n_arena = cnp.PyArray_SIZE(arena)
    cdef Py_ssize_t bad = -1
    cdef uint64_t code
    with nogil:
        for row in range(n):
            if text_at[row].length <= 0:
                keys[row] = 0
                continue
            if not inside(text_at[row], n_arena):
                bad = row
                break
            code = hash_text(arena_text + text_at[row].start, text_at[row].length)
            keys[row] = 1 if code == 0 else code
    if bad >= 0:
        raise ValueError(f"the text of row {bad} lies outside the arena")


cdef class VehicleTable:
    """Records of vehicles; see `etacore.pipeline.fleet.VehicleState` for what each call means.

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

    def lookup(self, cnp.ndarray text not None, cnp.ndarray vehicle_id not None, cnp.ndarray status not None,
               cnp.ndarray vehicle_ix not None, cnp.ndarray is_new not None, Py_ssize_t n):
        cdef const char* arena = <const char*>bytes_in(text, b"text", 0)
        cdef const text_t* ids = texts_in(vehicle_id, b"vehicle_id", n)
        cdef const uint8_t* statuses = bytes_in(status, b"status", n)
        cdef int32_t* vehicles = int32_out(vehicle_ix, b"vehicle_ix", n)
        cdef uint8_t* new = bytes_out(is_new, b"is_new", n)
        cdef Py_ssize_t row, n_arena = cnp.PyArray_SIZE(text)
        cdef Py_ssize_t bad = -1
        cdef int32_t n_new = 0
        cdef int32_t i
        cdef uint64_t code
        cdef const char* key
        with nogil:
            for row in range(n):
                vehicles[row] = NO_STOP
                new[row] = 0
                if statuses[row] != OK:
                    continue
                if ids[row].length <= 0 or not inside(ids[row], n_arena):
                    bad = row
                    break
                # The record's room comes first: if either finds no memory, index and records still agree.
                self.reserve(<int64_t>self.index.n + 1)
                key = arena + ids[row].start
                code = hash_text(key, ids[row].length)
                i = self.index.find_entry(code, key, ids[row].length)
                if i < 0:
                    i = self.index.put_hashed(code, key, ids[row].length, 0)
                    _forget_everything(&self.records[i])
                vehicles[row] = i
                if not self.records[i].known:
                    self.records[i].batch_row = -1
            # `known` waits for restore or commit; so a vehicle that comes twice is told apart by its scratch row.
            if bad < 0:
                for row in range(n):
                    i = vehicles[row]
                    if i >= 0 and not self.records[i].known and self.records[i].batch_row < 0:
                        self.records[i].batch_row = <int32_t>row
                        new[row] = 1
                        n_new += 1
        if bad >= 0:
            raise ValueError(f"row {bad} has status OK and no vehicle id inside the arena")
        return n_new

    def restore(self, cnp.ndarray vehicle_ix not None, cnp.ndarray time_us not None,
                cnp.ndarray valid_until_us not None, int64_t max_time_us):
        cdef Py_ssize_t row, n = cnp.PyArray_SIZE(vehicle_ix)
        cdef const int32_t* vehicles = self.checked(vehicle_ix, n)
        cdef const int64_t* times = int64_in(time_us, b"time_us", n)
        cdef const int64_t* ends = int64_in(valid_until_us, b"valid_until_us", n)
        cdef record_t* record
        with nogil:
            for row in range(n):
                if vehicles[row] < 0:
                    continue
                record = &self.records[vehicles[row]]
                if not record.known:
                    record.known = 1
                    if times[row] <= max_time_us and times[row] != INT64_MIN:
                        record.time_us = times[row]
                        record.valid_until_us = ends[row]

    def screen(self, cnp.ndarray status not None, cnp.ndarray vehicle_ix not None, cnp.ndarray time_us not None,
               int64_t now_us, Py_ssize_t n):
        cdef uint8_t* statuses = bytes_out(status, b"status", n)
        cdef const int32_t* vehicles = self.checked(vehicle_ix, n)
        cdef const int64_t* times = int64_in(time_us, b"time_us", n)
        cdef Py_ssize_t row
        cdef record_t* record
        with nogil:
            # Three straight passes: wipe the scratch of the vehicles at hand, let the newest row take it, judge.
            for row in range(n):
                if statuses[row] == OK and vehicles[row] >= 0:
                    self.records[vehicles[row]].batch_row = -1
            for row in range(n):
                if statuses[row] == OK and vehicles[row] >= 0:
                    record = &self.records[vehicles[row]]
                    record.seen_us = max(record.seen_us, now_us)
                    if record.batch_row < 0 or times[row] > times[record.batch_row]:
                        record.batch_row = <int32_t>row
            for row in range(n):
                if statuses[row] == OK and vehicles[row] >= 0:
                    record = &self.records[vehicles[row]]
                    if record.batch_row != row:
                        statuses[row] = DUPLICATE
                    elif times[row] < record.time_us:
                        statuses[row] = OUT_OF_ORDER
                    elif times[row] == record.time_us and now_us < record.valid_until_us:
                        statuses[row] = UNCHANGED

    def gather(self, cnp.ndarray vehicle_ix not None, cnp.ndarray trip_key not None, cnp.ndarray pattern_ix not None,
               cnp.ndarray prev_progress_m not None, cnp.ndarray prev_time_us not None,
               cnp.ndarray prev_strikes not None, MotionPointers motion not None):
        cdef Py_ssize_t row, n = cnp.PyArray_SIZE(vehicle_ix)
        cdef const int32_t* vehicles = self.checked(vehicle_ix, n)
        cdef const uint64_t* trips = uint64_in(trip_key, b"trip_key", n)
        cdef const int32_t* patterns = int32_in(pattern_ix, b"pattern_ix", n)
        cdef double* progress = double_out(prev_progress_m, b"prev_progress_m", n)
        cdef int64_t* times = int64_out(prev_time_us, b"prev_time_us", n)
        cdef uint8_t* strikes = bytes_out(prev_strikes, b"prev_strikes", n)
        cdef const record_t* record
        motion.require(n)
        with nogil:
            for row in range(n):
                progress[row] = NAN
                times[row] = 0
                strikes[row] = 0
                motion.columns.prev_stop[row] = NO_STOP
                motion.columns.prev_since_us[row] = 0
                motion.columns.prev_speed_mps[row] = NAN
                if vehicles[row] < 0 or patterns[row] < 0:
                    continue
                record = &self.records[vehicles[row]]
                if record.trip_key == trips[row] and record.pattern_ix == patterns[row]:
                    progress[row] = record.progress_m
                    times[row] = record.time_us
                    strikes[row] = record.strikes
                    motion.columns.prev_stop[row] = record.next_stop
                    motion.columns.prev_since_us[row] = record.stop_since_us
                    motion.columns.prev_speed_mps[row] = record.speed_mps

    def commit(self, cnp.ndarray status not None, cnp.ndarray vehicle_ix not None, cnp.ndarray time_us not None,
               int64_t valid_until_us, cnp.ndarray trip_key not None, cnp.ndarray pattern_ix not None,
               cnp.ndarray progress_m not None, cnp.ndarray strikes not None, cnp.ndarray next_stop not None,
               MotionPointers motion not None, int64_t seen_us):
        cdef Py_ssize_t row, n = cnp.PyArray_SIZE(vehicle_ix)
        cdef const uint8_t* statuses = bytes_in(status, b"status", n)
        cdef const int32_t* vehicles = self.checked(vehicle_ix, n)
        cdef const int64_t* times = int64_in(time_us, b"time_us", n)
        cdef const uint64_t* trips = uint64_in(trip_key, b"trip_key", n)
        cdef const int32_t* patterns = int32_in(pattern_ix, b"pattern_ix", n)
        cdef const double* progress = double_in(progress_m, b"progress_m", n)
        cdef const uint8_t* struck = bytes_in(strikes, b"strikes", n)
        cdef const int32_t* stops = int32_in(next_stop, b"next_stop", n)
        cdef record_t* record
        motion.require(n)
        with nogil:
            for row in range(n):
                if vehicles[row] < 0 or (statuses[row] != OK and statuses[row] != TRIP_FINISHED):
                    continue
                record = &self.records[vehicles[row]]
                if times[row] < record.time_us:
                    continue
                record.time_us = times[row]
                record.valid_until_us = valid_until_us if statuses[row] == OK else 0
                record.seen_us = max(record.seen_us, seen_us)
                record.trip_key = trips[row]
                record.pattern_ix = patterns[row]
                record.progress_m = progress[row]
                record.strikes = struck[row]
                record.next_stop = <uint16_t>stops[row]
                record.stop_since_us = motion.columns.since_us[row]
                record.speed_mps = motion.columns.speed_mps[row]
                record.known = 1

    def forget_prediction(self, cnp.ndarray vehicle_ix not None):
        cdef Py_ssize_t row, n = cnp.PyArray_SIZE(vehicle_ix)
        cdef const int32_t* vehicles = self.checked(vehicle_ix, n)
        with nogil:
            for row in range(n):
                if vehicles[row] >= 0:
                    self.records[vehicles[row]].valid_until_us = 0

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

    cdef const int32_t* checked(self, cnp.ndarray vehicle_ix, Py_ssize_t n) except NULL:
        # Numbers from before an eviction would reach past the records.
        cdef const int32_t* vehicles = int32_in(vehicle_ix, b"vehicle_ix", n)
        cdef Py_ssize_t row
        cdef int32_t n_vehicles = self.index.n
        cdef int32_t highest = -1
        with nogil:
            for row in range(n):
                highest = max(highest, vehicles[row])
        if highest >= n_vehicles:
            raise ValueError(f"vehicle_ix {highest} is out of range: there are {n_vehicles} vehicles")
        return vehicles
