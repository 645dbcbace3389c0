"""What is remembered of each vehicle between two batches: one flat record a vehicle, found by the id's bytes.

A record's number (`vehicle_ix`) is the number of its id's entry in the index (the entry's value is not used), so the
two grow and are compacted together.
"""

from collections import namedtuple

import numpy as np

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.math cimport NAN
from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cimport numpy as cnp

from etacore._kernels.arrays cimport int32_in, int64_in
from etacore._kernels.batch cimport Batch, columns_t
from etacore._kernels.index cimport StringIndex, hash_text
from etacore._kernels.text cimport inside
from etacore._kernels.types cimport (
    DIRECTION_UNKNOWN, DUPLICATE, NO_STOP, OK, OUT_OF_ORDER, TRIP_FINISHED, UNCHANGED, text_t,
)

cnp.import_array()

cdef enum:
    MIN_RECORDS = 16

NO_TIME = INT64_MIN
RECORD_BYTES = sizeof(record_t)

VehicleRecord = namedtuple("VehicleRecord", (
    "vehicle_id", "time_us", "valid_until_us", "seen_s", "run_key", "pattern_ix", "progress_m", "strikes", "next_stop",
    "stop_since_us", "speed_mps", "fallback_m", "known",
))


# One cache line.
cdef struct record_t:
    int64_t time_us          # event time of the last row taken; INT64_MIN = none
    int64_t valid_until_us   # when the prediction made of that row expires; 0 = there is none
    uint64_t run_key
    double progress_m
    int64_t stop_since_us    # event time of the fix at which the next stop became the next one
    int32_t pattern_ix
    int32_t batch_row        # scratch of one batch: the row that speaks for the vehicle
    uint32_t seen_s          # last poll that carried the vehicle, whole seconds
    float fallback_m         # where on the line the last strike saw it; NaN without strikes
    float speed_mps          # along the pattern, smoothed; NaN before the second fix
    uint16_t next_stop       # index in the pattern, its low 16 bits: only told apart from another one
    uint8_t strikes
    uint8_t known            # its stored prediction was looked up, or it has been committed


cdef inline uint32_t _whole_seconds(int64_t time_us) noexcept nogil:
    # As far as 32 bits go: 1970 to 2106.
    if time_us <= 0:
        return 0
    return <uint32_t>min(time_us // 1000000, <int64_t>0xFFFFFFFF)


cdef inline void _forget_everything(record_t* record) noexcept nogil:
    record.time_us = INT64_MIN
    record.valid_until_us = 0
    record.seen_s = 0
    record.fallback_m = NAN
    record.run_key = 0
    record.progress_m = NAN
    record.stop_since_us = 0
    record.pattern_ix = NO_STOP
    record.batch_row = -1
    record.speed_mps = NAN
    record.next_stop = 0
    record.strikes = 0
    record.known = 0


cdef class Fleet:
    """Last event time, stored prediction, progress and motion of each vehicle, in about 120 bytes each.

    A batch goes through `lookup`, `restore` (for the new ones), `screen`, `gather`, and, once its documents are
    stored, `commit`. Each is one call whatever the number of rows.

    Parameters
    ----------
    capacity : int
        Vehicles to make room for at once; the table grows by itself.

    Attributes
    ----------
    n : int
        Vehicles remembered.
    nbytes : int
        Bytes held, free room included.

    Notes
    -----
    Event time only moves forward, and only in `commit` (or, once after a start, in `restore`): a row that is rejected
    on its way leaves no trace but "seen".

    A row past its last stop (``Status.TRIP_FINISHED``) is committed too, without a valid prediction. At the next poll
    the same snapshot is therefore not ``UNCHANGED``: it takes the same way again and is counted as ``TRIP_FINISHED`` at
    each poll, until its time moves on.

    Not for two threads at once: the loops run without the GIL and records move when the table grows.
    """

    cdef StringIndex index
    cdef record_t* records
    cdef int64_t capacity

    def __cinit__(self, int64_t capacity=1024):
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
        """One vehicle, for tests and diagnosis.

        Returns
        -------
        VehicleRecord

        Raises
        ------
        IndexError
            If there is no such vehicle.
        """
        cdef int32_t length
        cdef const char* key
        if not 0 <= vehicle_ix < self.index.n:
            raise IndexError(f"no vehicle {vehicle_ix}")
        key = self.index.key(vehicle_ix, &length)
        r = self.records[vehicle_ix]
        return VehicleRecord(
            PyBytes_FromStringAndSize(key, length), r.time_us, r.valid_until_us, r.seen_s, r.run_key, r.pattern_ix,
            r.progress_m, r.strikes, r.next_stop, r.stop_since_us, r.speed_mps, r.fallback_m, bool(r.known))

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

    def lookup(self, Batch batch not None):
        """Find the vehicles of a batch; unknown ids are added.

        Parameters
        ----------
        batch : Batch
            IN: ``status``, ``vehicle_id`` of OK rows. OUT: ``vehicle_ix``, ``is_new``.

        Returns
        -------
        int
            How many rows have `is_new` set.

        Raises
        ------
        ValueError
            If a row with status OK has no vehicle id.
        MemoryError
            If the table cannot grow; it then holds the vehicles up to that row.
        """
        cdef const columns_t* columns = &batch.columns
        cdef const char* arena = <const char*>columns.text
        cdef const text_t* ids = columns.vehicle_id
        cdef const uint8_t* statuses = columns.status
        cdef int32_t* vehicles = columns.vehicle_ix
        cdef uint8_t* new = columns.is_new
        cdef Py_ssize_t row, n = batch.n_rows, n_arena = columns.n_text
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

    def restore(
        self, cnp.ndarray vehicle_ix not None, cnp.ndarray time_us not None, cnp.ndarray valid_until_us not None,
        int64_t max_time_us=INT64_MAX,
    ):
        """Take over what stored predictions say of vehicles that are new since the start.

        A vehicle that has been restored or committed before is left alone. Afterwards it is no longer new, so give also
        those without a stored prediction, with `NO_TIME`: else they are looked up again at every poll until their
        first commit.

        Parameters
        ----------
        vehicle_ix : ndarray of int32, shape (k,)
            Negative numbers are passed over.
        time_us : ndarray of int64, shape (k,)
            Event time of the stored prediction, `NO_TIME` if there is none.
        valid_until_us : ndarray of int64, shape (k,)
            When it expires.
        max_time_us : int, optional
            Later event times count as `NO_TIME`: a damaged document from the far future must not silence its vehicle.

        Raises
        ------
        ValueError
            If a number is out of range, or an array is too short.
        """
        cdef Py_ssize_t row, n = cnp.PyArray_SIZE(vehicle_ix)
        cdef const int32_t* vehicles = self.in_range(int32_in(vehicle_ix, b"vehicle_ix", n), n)
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

    def screen(self, Batch batch not None):
        """Set aside the rows that bring nothing new; all vehicles of the batch count as seen now.

        Of several rows of one vehicle, the newest stays (of equal times the first), the others become ``DUPLICATE``. A
        row older than the vehicle's last committed time becomes ``OUT_OF_ORDER``; one of the same time becomes
        ``UNCHANGED`` while its stored prediction is valid (``now_us`` before its end).

        Parameters
        ----------
        batch : Batch
            IN: ``vehicle_ix``, ``time_us``, ``now_us``. OUT: ``status``; only rows with status OK are looked at.

        Raises
        ------
        ValueError
            If a vehicle's number is out of range.
        """
        cdef int64_t now_us = batch.now_us
        cdef uint32_t now_s = _whole_seconds(now_us)
        cdef Py_ssize_t n = batch.n_rows
        cdef uint8_t* statuses = batch.columns.status
        cdef const int32_t* vehicles = self.in_range(batch.columns.vehicle_ix, n)
        cdef const int64_t* times = batch.columns.time_us
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
                    record.seen_s = max(record.seen_s, now_s)
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

    def gather(self, Batch batch not None):
        """Recall progress and motion of each row's vehicle, if it was on the same run and pattern.

        A vehicle that names no direction stays on the one it was on: if that is ``other_pattern_ix``, the two patterns
        change places.

        Parameters
        ----------
        batch : Batch
            IN: ``vehicle_ix``, ``run_key``. INOUT: ``pattern_ix``, ``other_pattern_ix``. OUT: the columns ``prev_*``.

        Raises
        ------
        ValueError
            If a vehicle's number is out of range.
        """
        cdef columns_t columns = batch.columns    # a copy: nothing written can change it
        cdef Py_ssize_t row, n = batch.n_rows
        cdef const int32_t* vehicles = self.in_range(columns.vehicle_ix, n)
        cdef const record_t* record
        with nogil:
            for row in range(n):
                columns.prev_progress_m[row] = NAN
                columns.prev_time_us[row] = 0
                columns.prev_strikes[row] = 0
                columns.prev_stop[row] = NO_STOP
                columns.prev_since_us[row] = 0
                columns.prev_speed_mps[row] = NAN
                columns.prev_fallback_m[row] = NAN
                if vehicles[row] < 0 or columns.pattern_ix[row] < 0:
                    continue
                record = &self.records[vehicles[row]]
                if columns.other_pattern_ix[row] >= 0 and record.pattern_ix == columns.other_pattern_ix[row]:
                    columns.other_pattern_ix[row] = columns.pattern_ix[row]
                    columns.pattern_ix[row] = record.pattern_ix
                if record.run_key == columns.run_key[row] and record.pattern_ix == columns.pattern_ix[row]:
                    columns.prev_progress_m[row] = record.progress_m
                    columns.prev_time_us[row] = record.time_us
                    columns.prev_strikes[row] = record.strikes
                    columns.prev_stop[row] = record.next_stop
                    columns.prev_since_us[row] = record.stop_since_us
                    columns.prev_speed_mps[row] = record.speed_mps
                    columns.prev_fallback_m[row] = record.fallback_m

    def commit(self, Batch batch not None, int64_t valid_until_us):
        """Let the vehicles move on whose rows are OK (documents stored), TRIP_FINISHED or DIRECTION_UNKNOWN.

        Other rows change nothing. Neither does a row older than what is committed already.

        Parameters
        ----------
        batch : Batch
            IN: ``status``, ``vehicle_ix``, ``time_us``, ``run_key`` and ``pattern_ix`` (what the progress belongs to),
            ``progress_m``, ``strikes``, ``fallback_m``, ``first_stop``, ``since_us``, ``recent_speed_mps``.
        valid_until_us : int
            When the documents stored for the OK rows expire.

        Raises
        ------
        ValueError
            If a vehicle's number is out of range.
        """
        cdef columns_t columns = batch.columns    # a copy: nothing written can change it
        cdef const uint8_t* statuses = columns.status
        cdef Py_ssize_t row, n = batch.n_rows
        cdef const int32_t* vehicles = self.in_range(columns.vehicle_ix, n)
        cdef record_t* record
        with nogil:
            for row in range(n):
                if vehicles[row] < 0 or (
                    statuses[row] != OK and statuses[row] != TRIP_FINISHED and statuses[row] != DIRECTION_UNKNOWN
                ):
                    continue
                record = &self.records[vehicles[row]]
                if columns.time_us[row] < record.time_us:
                    continue
                record.time_us = columns.time_us[row]
                record.valid_until_us = valid_until_us if statuses[row] == OK else 0
                record.run_key = columns.run_key[row]
                record.pattern_ix = columns.pattern_ix[row]
                record.progress_m = columns.progress_m[row]
                record.strikes = columns.strikes[row]
                record.next_stop = <uint16_t>columns.first_stop[row]
                record.stop_since_us = columns.since_us[row]
                record.speed_mps = columns.recent_speed_mps[row]
                record.fallback_m = columns.fallback_m[row]
                record.known = 1

    def forget_prediction(self, cnp.ndarray vehicle_ix not None):
        """Note that stored documents are gone, so that the same snapshots are predicted again.

        Parameters
        ----------
        vehicle_ix : ndarray of int32, shape (k,)
            Negative numbers are passed over.

        Raises
        ------
        ValueError
            If a number is out of range.
        """
        cdef Py_ssize_t row, n = cnp.PyArray_SIZE(vehicle_ix)
        cdef const int32_t* vehicles = self.in_range(int32_in(vehicle_ix, b"vehicle_ix", n), n)
        with nogil:
            for row in range(n):
                if vehicles[row] >= 0:
                    self.records[vehicles[row]].valid_until_us = 0

    def evict(self, int64_t older_than_us):
        """Forget vehicles last seen before a time, and close the gaps.

        Parameters
        ----------
        older_than_us : int
            A vehicle seen in the same second stays.

        Returns
        -------
        int
            How many are forgotten. Vehicle numbers handed out before are void.
        """
        cdef uint32_t older_than_s = _whole_seconds(older_than_us)
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
                keep[i] = self.records[i].seen_s >= older_than_s
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

    cdef const int32_t* in_range(self, const int32_t* vehicles, Py_ssize_t n) except NULL:
        # Numbers from before an eviction would reach past the records.
        cdef Py_ssize_t row
        cdef int32_t n_vehicles = self.index.n
        cdef int32_t highest = -1
        with nogil:
            for row in range(n):
                highest = max(highest, vehicles[row])
        if highest >= n_vehicles:
            raise ValueError(f"vehicle_ix {highest} is out of range: there are {n_vehicles} vehicles")
        return vehicles
