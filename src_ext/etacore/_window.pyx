"""The stops of the drop-in call: dicts to the columns of a window, and columns to the dicts of a document."""

from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.math cimport NAN, floor, isfinite, isnan, signbit
from libc.stdint cimport int64_t

from etacore._jsonwrite cimport (
    MAX_ISO, MAX_NUMBER, delay_us, put_duration, put_iso, round_scaled, usable, writable,
)

from collections.abc import Mapping
from numbers import Integral

NO_PREDICTION = "The model gave no usable prediction"
NO_COORDINATES = "Stop without usable coordinates"

cdef tuple STOP_ID = ("stop_id", "stopId", "id")
cdef tuple LAT = ("lat", "latitude", "stop_lat")
cdef tuple LON = ("lon", "longitude", "lng", "stop_lon")
cdef tuple SEQUENCE = ("stop_sequence", "sequence", "stop_order")
cdef tuple TOTAL = ("total_stop_sequence", "total_stops")

cdef enum:
    NOT_GIVEN = -2147483648


cdef inline object member(object item, object name):
    cdef PyObject* found
    if type(item) is dict:
        found = PyDict_GetItem(item, name)
        return None if found == NULL else <object>found
    return item.get(name)


cpdef object first(object item, tuple names):
    """Value of the first of some names that has one; None and "" are none."""
    cdef object name, value
    for name in names:
        value = member(item, name)
        if value is not None and not (type(value) is str and not <str>value):
            return value
    return None


cpdef double number(object value) except? -1.0:
    """A finite number, or text that is one; else NaN."""
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


cpdef double degrees(object value, double limit) except? -1.0:
    """A coordinate in [-limit, limit], or NaN."""
    cdef double found = number(value)
    return found if -limit <= found <= limit else NAN


cpdef object identifier(object value):
    """Text, or a number as text; else None."""
    if type(value) is str:
        return value or None
    if isinstance(value, bool) or value != value:
        return None
    # Integral: NumPy's integers, as rows of a data frame bring them, are no int.
    return str(value) or None if isinstance(value, (str, int, float, Integral)) else None


cdef int64_t integer(object value) except? -1:
    cdef double found = number(value)
    return <int64_t>found if -2147483648.0 < found < 2147483648.0 and floor(found) == found else NOT_GIVEN


def read_stops(
    object stops not None,
    double[::1] lat not None,
    double[::1] lon not None,
    int64_t[::1] sequence not None,
    int64_t[::1] total not None,
    double[::1] given_m not None,
):
    """Fill the columns of a window from the stops that a caller names.

    Parameters
    ----------
    stops : sequence of mapping
        Anything else in it is a stop without coordinates.
    lat, lon, given_m : ndarray of float64, shape (n,)
        Outputs: degrees, metres to the stop if the caller says (else NaN).
    sequence, total : ndarray of int64, shape (n,)
        Outputs: number of the stop (1 if not given), stops of the trip.

    Returns
    -------
    stop_ids : list of str or None
    sequences : list of int
        What the document shows: the stop's sequence, else its position in the window from 1.
    errors : list of str or None
        Why a stop cannot be predicted.
    """
    cdef list stop_ids = []
    cdef list sequences = []
    cdef list errors = []
    cdef object stop
    cdef int64_t own, largest = NOT_GIVEN
    cdef Py_ssize_t n = len(stops)
    cdef Py_ssize_t i
    if min(lat.shape[0], lon.shape[0], sequence.shape[0], total.shape[0], given_m.shape[0]) < n:
        raise ValueError("the columns of a window have to be as long as its stops")
    for i in range(n):
        stop = stops[i]
        if type(stop) is not dict and not isinstance(stop, Mapping):
            stop = {}
        lat[i] = degrees(first(stop, LAT), 90.0)
        lon[i] = degrees(first(stop, LON), 180.0)
        given_m[i] = number(member(stop, "shape_distance_to_stop"))
        if not given_m[i] >= 0.0:
            given_m[i] = NAN
        own = integer(first(stop, SEQUENCE))
        sequence[i] = 1 if own == NOT_GIVEN else own
        total[i] = integer(first(stop, TOTAL))
        # Trips whose total nobody says are taken to end at the highest number in sight. stop_order does not count.
        largest = max(largest, total[i], integer(member(stop, "stop_sequence")), integer(member(stop, "sequence")))
        stop_ids.append(identifier(first(stop, STOP_ID)))
        sequences.append(i + 1 if own == NOT_GIVEN else own)
        errors.append(NO_COORDINATES if isnan(lat[i]) or isnan(lon[i]) else None)
    for i in range(n):
        if total[i] == NOT_GIVEN:
            total[i] = n if largest == NOT_GIVEN else largest
    return stop_ids, sequences, errors


cdef object rounded(double value, int decimals, double scale):
    # round(value, decimals): below 2^53 the quotient of two exact integers is the double nearest to the decimal.
    if not isfinite(value):
        return None
    if not writable(value):
        return round(value, decimals)
    if signbit(value):
        return -(round_scaled(-value, scale) / scale)
    return round_scaled(value, scale) / scale


def prediction_dicts(
    list stop_ids not None,
    list sequences not None,
    list errors not None,
    const double[::1] distance_m not None,
    const float[::1] eta_s not None,
    int64_t time_us,
):
    """The `predictions` of one document as dicts.

    Parameters
    ----------
    stop_ids, sequences : list
        What each stop shows, as given.
    errors : list of str or None
        Why a stop cannot be predicted; None where it can.
    distance_m : ndarray of float64, shape (n,)
        NaN is shown as None.
    eta_s : ndarray of float32, shape (n,)
        Seconds; what is not finite or negative becomes a stop with an error.
    time_us : int
        Time of the snapshot, microseconds since 1970, UTC.

    Raises
    ------
    ValueError
        If they do not all have one length.
    """
    cdef char block[MAX_ISO + MAX_NUMBER]
    cdef Py_ssize_t n = len(stop_ids)
    cdef Py_ssize_t i
    cdef double eta
    cdef list found = []
    if not len(sequences) == len(errors) == distance_m.shape[0] == eta_s.shape[0] == n:
        raise ValueError("stops, distances and predictions have to have one length")
    for i in range(n):
        error = errors[i]
        if error is None and not usable(eta_s[i], time_us):
            error = NO_PREDICTION
        if error is None:
            eta = eta_s[i]
            moment = PyUnicode_DecodeLatin1(block, put_iso(block, time_us + delay_us(eta)) - block, NULL)
            found.append({
                "stop_id": stop_ids[i],
                "stop_sequence": sequences[i],
                "distance_to_stop_m": rounded(distance_m[i], 1, 10.0),
                "eta_seconds": rounded(eta, 1, 10.0),
                "eta_minutes": rounded(eta / 60.0, 2, 100.0),
                "eta_formatted": PyUnicode_DecodeLatin1(block, put_duration(block, eta) - block, NULL),
                "eta_timestamp": moment,
            })
        else:
            found.append({
                "stop_id": stop_ids[i],
                "stop_sequence": sequences[i],
                "distance_to_stop_m": rounded(distance_m[i], 1, 10.0),
                "eta_seconds": None,
                "eta_minutes": None,
                "eta_formatted": None,
                "eta_timestamp": None,
                "error": error,
            })
    return found
