# Arrays that a caller hands in beside the batch, as pointers, checked. A typed memoryview asks the array for its
# buffer, parses a format and makes an object, which costs about half a microsecond, and that decides how soon a single
# vehicle is served. What is checked here costs some nanoseconds. The columns of a batch need no check: it owns them.
#
# Modules that use it call `cnp.import_array()`. The caller keeps the array alive.

cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t


cdef inline const void* rows_of(
    cnp.ndarray array, const char* name, int type_num, size_t item_size, Py_ssize_t n
) except NULL:
    # Where n rows of this type begin. ValueError if the array is another, shorter, or not contiguous.
    if (
        cnp.PyArray_NDIM(array) == 1 and cnp.PyArray_TYPE(array) == type_num
        and <size_t>cnp.PyArray_ITEMSIZE(array) == item_size
        and cnp.PyArray_CHKFLAGS(array, cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED)
        and cnp.PyArray_ISNOTSWAPPED(array) and 0 <= n <= cnp.PyArray_DIM(array, 0)
    ):
        return cnp.PyArray_DATA(array)
    raise misfit(array, name, n)


cdef inline object misfit(cnp.ndarray array, const char* name, Py_ssize_t n):
    shown = name.decode()
    if cnp.PyArray_NDIM(array) == 1 and cnp.PyArray_DIM(array, 0) < n:
        return ValueError(f"{shown} has {cnp.PyArray_DIM(array, 0)} rows, {n} are needed: it is shorter than the batch")
    return ValueError(
        f"{shown}: an array of {(<object>array).dtype} in {cnp.PyArray_NDIM(array)} dimensions cannot be used (another "
        f"type or shape, or not contiguous)")


cdef inline const int32_t* int32_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const int32_t*>rows_of(array, name, cnp.NPY_INT32, 4, n)


cdef inline const int64_t* int64_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const int64_t*>rows_of(array, name, cnp.NPY_INT64, 8, n)


cdef inline const float* float_in(cnp.ndarray array, const char* name, Py_ssize_t n) except NULL:
    return <const float*>rows_of(array, name, cnp.NPY_FLOAT32, 4, n)
