# The reply to an MGET, received into one buffer; its values stay where they lie.

cimport cython
from libc.stdint cimport int64_t, uint8_t

from etacore._kernels.types cimport span_t


@cython.final
cdef class Values:
    cdef bytearray buffer
    cdef span_t* spans           # while bytes are still to come, start holds the place in the buffer
    cdef int64_t capacity        # of spans
    cdef readonly int64_t n      # values asked for
    cdef int64_t found           # of them complete
    cdef int64_t filled          # bytes received
    cdef int64_t read            # bytes understood
    cdef int64_t awaited         # nothing new can be understood before so many bytes are there
    cdef bint has_header
    cdef readonly bint is_complete
    cdef readonly bytes error

    cdef int scan(self) except -1
    cdef int check_end(self, int64_t end) except -1
