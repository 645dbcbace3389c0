# What a caller's dicts hold, as numbers of C, and numbers of C as objects of Python.

from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from libc.math cimport NAN, floor, isfinite, signbit
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from etacore._kernels.jsonwrite cimport round_scaled, writable

cdef extern from "Python.h":
    const uint8_t* PyUnicode_1BYTE_DATA(object text)
    object PyUnicode_New(Py_ssize_t length, Py_UCS4 max_char)
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) except? -1

cdef enum:
    NOT_GIVEN = -2147483648


cdef inline object member(object item, object name):
    cdef PyObject* found
    if type(item) is dict:
        found = PyDict_GetItemWithError(item, name)
        return None if found == NULL else <object>found
    return item.get(name)


cdef inline object first(object item, tuple names):
    # Value of the first of some names that has one; None and "" are none.
    cdef object name, value
    for name in names:
        value = member(item, name)
        if value is not None and not (type(value) is str and not <str>value):
            return value
    return None


cdef inline double number(object value) except? -1.0:
    # A finite number, or text that is one; else NaN.
    cdef double found
    if type(value) is float:
        found = <double>value
    elif value is None or type(value) is bool:
        return NAN
    else:
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            return NAN
    return found if isfinite(found) else NAN


cdef inline double degrees(object value, double limit) except? -1.0:
    # A coordinate in [-limit, limit], or NaN.
    cdef double found = number(value)
    return found if -limit <= found <= limit else NAN


cdef inline int64_t integer(object value) except? -1:
    cdef double found
    cdef int64_t whole
    cdef int overflow = 0
    if value is None:
        return NOT_GIVEN
    if type(value) is int:
        whole = PyLong_AsLongLongAndOverflow(value, &overflow)
        return whole if not overflow and -2147483648 < whole < 2147483648 else NOT_GIVEN
    found = number(value)
    return <int64_t>found if -2147483648.0 < found < 2147483648.0 and floor(found) == found else NOT_GIVEN


cdef inline object ascii_text(const char* start, const char* end):
    text = PyUnicode_New(end - start, 127)
    memcpy(<void*>PyUnicode_1BYTE_DATA(text), start, end - start)
    return text


cdef inline object rounded(double value, int decimals, double scale):
    # round(value, decimals): below 2^53 the quotient of two exact integers is the double nearest to the decimal.
    if not isfinite(value):
        return None
    if not writable(value):
        return round(value, decimals)
    if signbit(value):
        return -(round_scaled(-value, scale) / scale)
    return round_scaled(value, scale) / scale
