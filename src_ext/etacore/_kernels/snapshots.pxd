# Snapshots where they lie -> columns. Payloads are spans: bytes objects today, slices of a Redis reply as well.

from libc.stdint cimport int64_t

from etacore._kernels.batch cimport columns_t
from etacore._kernels.types cimport span_t

# Times outside [earliest_us, latest_us] and payloads longer than max_payload_bytes are refused.
cdef struct limits_t:
    int64_t earliest_us
    int64_t latest_us
    int64_t max_payload_bytes


cdef int64_t text_bytes_needed(const span_t* spans, int64_t n, int64_t max_payload_bytes) noexcept nogil
cdef void parse_spans(const span_t* spans, int64_t n, const columns_t* columns, const limits_t* limits) noexcept nogil
