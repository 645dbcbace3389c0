# Texts lie in an arena that the caller gives, so where a text says it lies is not to be trusted.

from etacore._kernels.types cimport text_t


cdef inline bint inside(text_t text, Py_ssize_t arena_length) noexcept nogil:
    # No sum of start and length: it could overflow.
    return 0 <= text.start <= arena_length and 0 <= text.length <= arena_length - text.start
