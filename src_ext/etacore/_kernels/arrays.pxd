# NumPy arrays as pointers, checked. A typed memoryview asks the array for its buffer, parses a format and makes an
# object, which costs about half a microsecond; a batch hands fifty columns from kernel to kernel, and that decides how
# soon a single vehicle is served. What is checked here costs some nanoseconds.
#
# Modules that use it call `cnp.import_array()`. The caller keeps the array alive.

cimport numpy as cnp
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t

from etacore._kernels.types cimport text_t


cdef inline void* rows_of(
    cnp.ndarray array, const char* name, int type_num, size_t item_size, Py_ssize_t n, bint written
) except NULL:
    # Where n rows of this type begin. ValueError if the array is another, shorter, not contiguous, or not writable.
    cdef int flags = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED
    if written:
        flags |= cnp.NPY_ARRAY_WRITEABLE
    if (
        cnp.PyArray_NDIM(array) == 1 and cnp.PyArray_TYPE(array) == type_num
        and <size_t>cnp.PyArray_ITEMSIZE(array) == item_size and cnp.PyArray_CHKFLAGS(array, flags)
        and cnp.PyArray_ISNOTSWAPPED(array) and 0 <= n <= cnp.PyArray_DIM(array, 0)
    ):
        return cnp.PyArray_DATA(array)
    raise misfit(array, name, n)


cdef inline object misfit(cnp.ndarray array, const char* name, Py_ssize_t n):
    shown = name.decode()
    if cnp.PyArray_NDIM(array) == 1 and cnp.PyArray_DIM(array, 0) < n:
        return ValueError(
            f"{shown} has {cnp.PyArray_DIM(array, 0)} rows, {n} are needed: it is shorter than the batch")
    return ValueError(
        f"{shown}: an array of {(<object>array).dtype} in {cnp.PyArray_NDIM(array)} dimensions cannot be used (another "
        f"type or shape, not contiguous, or read-only)")


cdef inline const uint8_t* bytes_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const uint8_t*>rows_of(array, name, cnp.NPY_UINT8, 1, n, False)


cdef inline uint8_t* bytes_out(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <uint8_t*>rows_of(array, name, cnp.NPY_UINT8, 1, n, True)


cdef inline const int8_t* int8_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const int8_t*>rows_of(array, name, cnp.NPY_INT8, 1, n, False)


cdef inline const int32_t* int32_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const int32_t*>rows_of(array, name, cnp.NPY_INT32, 4, n, False)


cdef inline int32_t* int32_out(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <int32_t*>rows_of(array, name, cnp.NPY_INT32, 4, n, True)


cdef inline const int64_t* int64_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const int64_t*>rows_of(array, name, cnp.NPY_INT64, 8, n, False)


cdef inline int64_t* int64_out(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <int64_t*>rows_of(array, name, cnp.NPY_INT64, 8, n, True)


cdef inline const uint64_t* uint64_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const uint64_t*>rows_of(array, name, cnp.NPY_UINT64, 8, n, False)


cdef inline uint64_t* uint64_out(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <uint64_t*>rows_of(array, name, cnp.NPY_UINT64, 8, n, True)


cdef inline const float* float_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const float*>rows_of(array, name, cnp.NPY_FLOAT32, 4, n, False)


cdef inline const double* double_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const double*>rows_of(array, name, cnp.NPY_FLOAT64, 8, n, False)


cdef inline double* double_out(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <double*>rows_of(array, name, cnp.NPY_FLOAT64, 8, n, True)


cdef inline const text_t* texts_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const text_t*>rows_of(array, name, cnp.NPY_VOID, sizeof(text_t), n, False)
