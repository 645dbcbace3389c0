# Snapshots where they lie -> columns. Payloads are spans: bytes objects today, slices of a Redis reply as well.

cimport cython
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t

from etacore._kernels.types cimport span_t, text_t

# The columns of a batch, each with a place for every row. `text` has room for the bytes of all payloads together.
cdef struct columns_t:
    uint8_t* text
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

# Times outside [earliest_us, latest_us] and payloads longer than max_payload_bytes are refused.
cdef struct limits_t:
    int64_t earliest_us
    int64_t latest_us
    int64_t max_payload_bytes


@cython.final
cdef class ColumnPointers:
    """Where the columns of one SnapshotColumns lie, looked up once, kept alive as long as this."""
    cdef readonly Py_ssize_t capacity
    cdef list _views
    cdef columns_t columns


cdef int64_t text_bytes_needed(const span_t* spans, int64_t n, int64_t max_payload_bytes) noexcept nogil
cdef void parse_spans(const span_t* spans, int64_t n, const columns_t* columns, const limits_t* limits) noexcept nogil
