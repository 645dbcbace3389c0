# Compiled forests, for kernels that predict without going through Python.

cimport cython
from libc.stdint cimport int64_t, uint32_t

# One cell of a row as the generated code reads it: a float, or the bit pattern of -1 for "missing".
cdef union entry_t:
    uint32_t bits
    float value

ctypedef void (*predict_t)(entry_t* row, int margin_only, float* result) noexcept nogil
ctypedef void (*predict_rows_t)(const float* X, int64_t n_rows, float* out) noexcept nogil


@cython.final
cdef class Library:
    cdef void* handle
    cdef predict_t predict_row
    cdef predict_rows_t predict_rows
    cdef readonly int n_features
    cdef readonly str kernel_path

    cdef int _choose_path(self, str wanted) except -1
    cdef void* _symbol(self, bytes name) except NULL

    # Predicts rows of n_features floats, clipped to [low, high]; NaN is missing.
    cdef void run(
        self, const float* rows, Py_ssize_t n_rows, float* results, float low, float high
    ) noexcept nogil
