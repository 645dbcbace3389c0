# The columns of a batch as the kernels see them: looked up and checked once, so that passing them costs nothing.

cimport cython
cimport numpy as cnp
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t

from etacore._kernels.types cimport text_t

# Every column has `capacity` places; the first n are rows. `Batch` says what each one means.
cdef struct columns_t:
    # The snapshots: OUT of `parse_snapshots`, IN of all others. Only `status` is written by every stage.
    uint8_t* text
    int64_t n_text
    uint8_t* status
    text_t* vehicle_id
    text_t* route_id
    text_t* trip_id
    text_t* stop_id
    text_t* timestamp
    uint8_t* timestamp_is_number
    int8_t* direction_id
    double* lat
    double* lon
    float* speed_mps
    float* bearing_deg
    int64_t* time_us
    int32_t* stop_sequence
    int8_t* current_status
    int32_t* start_date
    int32_t* start_time_s
    # Who it is and which way it goes: OUT of `Fleet.lookup` and of `NameTable.resolve`.
    int32_t* vehicle_ix
    uint8_t* is_new
    int32_t* pattern_ix
    int32_t* other_pattern_ix
    uint8_t* is_guessed
    uint64_t* run_key
    # What was remembered: OUT of `Fleet.gather`.
    double* prev_progress_m
    int64_t* prev_time_us
    uint8_t* prev_strikes
    int32_t* prev_stop
    int64_t* prev_since_us
    float* prev_speed_mps
    float* prev_fallback_m
    # What follows from the fix at hand: OUT of `select_stops`, IN of `Fleet.commit`.
    int32_t* first_stop
    double* progress_m
    uint8_t* strikes
    float* fallback_m
    uint8_t* stop_hint
    int64_t* since_us
    float* recent_speed_mps
    double* since_s
    # Who predicts it.
    int32_t* part_ix


@cython.final
cdef class Documents:
    cdef readonly bytearray buffer
    cdef readonly Py_ssize_t n, n_found
    cdef readonly int64_t size
    cdef Py_ssize_t capacity
    cdef int64_t* start_of
    cdef int64_t* end_of
    cdef int64_t* row_of
    cdef object _starts, _ends, _found

    # Forgets the last batch and makes room for one of n rows.
    cdef int begin(self, Py_ssize_t n) except -1


@cython.final
cdef class Part:
    cdef readonly object model
    cdef readonly int32_t ix
    cdef readonly Documents documents
    cdef readonly Py_ssize_t n, n_rows, n_features
    cdef Py_ssize_t room, row_room, value_room
    cdef int32_t* offsets
    cdef int32_t* stops
    cdef double* distances
    cdef float* values
    cdef float* etas
    cdef dict _arrays, _views

    # Room for the offsets of n vehicles.
    cdef int reserve(self, Py_ssize_t n) except -1


@cython.final
cdef class Batch:
    cdef columns_t columns
    cdef readonly Py_ssize_t capacity
    cdef Py_ssize_t n_rows
    cdef readonly tuple keys
    cdef readonly list parts
    cdef public int64_t now_us, computed_us
    cdef list _made
    cdef dict _arrays, _views
    cdef cnp.ndarray _text
    cdef bint _owns_text

    # The arena, made larger if it has less than n bytes or is not ours; what was in it is then gone.
    cdef int reserve_text(self, int64_t n_bytes) except -1
    # Sets the number of rows.
    cdef int resize(self, Py_ssize_t n) except -1
    # A column of texts, by its name.
    cdef const text_t* texts_of(self, str column) except NULL
    cdef text_t text_of(self, const text_t* texts, int64_t row) except *
