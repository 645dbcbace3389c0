"""The drop-in call: one vehicle and the stops ahead of it, from dicts to the dicts of a document."""

cimport cython
from libc.math cimport NAN, isnan
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, getenv, realloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

cimport numpy as cnp

from etacore._kernels.features cimport Vectorizer, window_stop_t, window_t
from etacore._kernels.forest cimport Library
from etacore._kernels.isotime cimport NO_TIME, text_time_us
from etacore._kernels.jsonwrite cimport MAX_ISO, MAX_NUMBER, delay_us, put_duration, put_iso, usable
from etacore._kernels.objects cimport (
    NOT_GIVEN, PyUnicode_1BYTE_DATA, ascii_text, degrees, first, integer, member, number, rounded,
)

from collections.abc import Mapping
from datetime import UTC, datetime
from numbers import Integral

from etacore._kernels.snapshots import parse_timestamp

cnp.import_array()

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    object PyUnicode_DecodeFSDefault(const char* text)

NO_PREDICTION = "The model gave no usable prediction"
NO_COORDINATES = "Stop without usable coordinates"
MISSING_INPUT = "Missing vehicle position or stops"

cdef tuple VEHICLE_ID = ("vehicle_id", "vehicleId", "id")
cdef tuple ROUTE_ID = ("route_id", "route", "routeId", "route_short_name")
cdef tuple TRIP_ID = ("trip_id", "trip", "tripId")
cdef tuple VEHICLE_LAT = ("lat", "latitude")
cdef tuple VEHICLE_LON = ("lon", "longitude", "lng")
cdef tuple STOP_ID = ("stop_id", "stopId", "id")
cdef tuple LAT = ("lat", "latitude", "stop_lat")
cdef tuple LON = ("lon", "longitude", "lng", "stop_lon")
cdef tuple SEQUENCE = ("stop_sequence", "sequence", "stop_order")
cdef tuple TOTAL = ("total_stop_sequence", "total_stops")

# Stops of a document. A copy whose values are replaced comes cheaper than a dict that grows.
cdef dict PREDICTED = dict.fromkeys((
    "stop_id", "stop_sequence", "distance_to_stop_m", "eta_seconds", "eta_minutes", "eta_formatted", "eta_timestamp",
))

cdef enum:
    MAX_TIMESTAMP_BYTES = 64


class UnpredictableError(Exception):
    """Why a call ends in a document with an error."""


cdef inline object mapping(object value):
    return value if type(value) is dict or isinstance(value, Mapping) else {}


cdef object identifier(object value):
    # Text, or a number as text; else None.
    if type(value) is str:
        return value or None
    if value is None or isinstance(value, bool) or value != value:
        return None
    # Integral: NumPy's integers, as rows of a data frame bring them, are no int.
    return str(value) or None if isinstance(value, (str, int, float, Integral)) else None


cdef object time_of(object given):
    # Microseconds since 1970 UTC, or None. A datetime without a zone is UTC.
    cdef const uint8_t* start
    cdef int64_t time_us
    if type(given) is str and PyUnicode_IS_COMPACT_ASCII(given) and PyUnicode_GET_LENGTH(given) <= MAX_TIMESTAMP_BYTES:
        start = PyUnicode_1BYTE_DATA(given)
        time_us = text_time_us(start, start + PyUnicode_GET_LENGTH(given))
        return None if time_us == NO_TIME else time_us
    if isinstance(given, datetime):
        given = (given if given.tzinfo else given.replace(tzinfo=UTC)).isoformat()
    return parse_timestamp(given)


def now_text():
    """The time as ``datetime.now(UTC).isoformat()`` writes it."""
    cdef timespec now
    cdef char block[MAX_ISO]
    clock_gettime(CLOCK_REALTIME, &now)
    return ascii_text(block, put_iso(block, <int64_t>now.tv_sec * 1000000 + now.tv_nsec // 1000))


def environment(bytes name not None):
    """Value of an environment variable, or None: ``os.environ`` takes longer to say so than a forest to predict."""
    cdef const char* value = getenv(name)
    return None if value == NULL else PyUnicode_DecodeFSDefault(value)


def text_or_none(value):
    """Text, or a number as text; None for anything else, and for "" and NaN."""
    return identifier(value)


def name_vehicle(dict document not None, vehicle_position, route_id, trip_id, model_key):
    """Write into a document whom it is about; returns the vehicle, {} for what is no mapping.

    ``route_id`` and ``trip_id`` count before what the vehicle says. It is written field by field: what is known
    when a caller's object raises stands in the document.
    """
    vehicle = mapping(vehicle_position)
    document["vehicle_id"] = (
        identifier(first(vehicle, VEHICLE_ID))
        or identifier(member(mapping(member(vehicle, "vehicle")), "id") or member(vehicle, "vehicle.id"))
        or "unknown"
    )
    document["route_id"] = identifier(route_id) or identifier(first(vehicle, ROUTE_ID))
    document["trip_id"] = identifier(trip_id) or identifier(first(vehicle, TRIP_ID))
    document["model_key"] = identifier(model_key)
    return vehicle


@cython.final
cdef class Window:
    """A vehicle, the stops ahead of it, and their predictions. For one call at a time; its memory serves the next.

    The methods are called in their order here.

    Attributes
    ----------
    room : int
        Most stops that it had.
    stop_ids : list of str or None
    """

    cdef window_t window
    cdef window_stop_t* stops    # columns of the window, as long as `room`
    cdef float* eta_s
    cdef float* rows             # feature rows: n_values floats, n_features in a row
    cdef Py_ssize_t n_values, n_features
    cdef readonly Py_ssize_t room
    cdef readonly list stop_ids

    def __cinit__(self):
        self.stop_ids = []
        self._make_room(8)

    def __dealloc__(self):
        free(self.stops)
        free(self.eta_s)
        free(self.rows)

    cdef int _make_room(self, Py_ssize_t n) except -1:
        self.stops = <window_stop_t*>enlarged(self.stops, n, sizeof(window_stop_t))
        self.window.stops = self.stops
        self.eta_s = <float*>enlarged(self.eta_s, n, sizeof(float))
        self.room = n
        return 0

    def read_position(self, vehicle not None):
        """Where the vehicle is, and how fast. `UnpredictableError` if it does not say, or nothing usable."""
        lat, lon = first(vehicle, VEHICLE_LAT), first(vehicle, VEHICLE_LON)
        if lat is None or lon is None:
            raise UnpredictableError(MISSING_INPUT)
        self.window.lat, self.window.lon = degrees(lat, 90.0), degrees(lon, 180.0)
        if isnan(self.window.lat) or isnan(self.window.lon):
            refuse("Unusable vehicle position", (lat, lon))

    def read_motion(self, vehicle not None):
        """When the vehicle was there, and how fast. `UnpredictableError` if it does not say when."""
        given = member(vehicle, "timestamp")
        time_us = time_of(given)
        if time_us is None:
            refuse("Missing or unusable timestamp", given)
        self.window.time_us = time_us
        cdef double speed_mps = number(member(vehicle, "speed"))
        self.window.speed_mps = <float>speed_mps if speed_mps > 0.0 else 0.0

    def read_stops(self, stops not None):
        """The stops that a caller names; what is no mapping is a stop without coordinates.

        A stop without a number has 1, and shows its position in the window, from 1. Trips whose total nobody says
        are taken to end at the highest number in sight, ``stop_order`` left out.
        """
        cdef tuple given = tuple(stops)
        cdef Py_ssize_t i, n = len(given)
        cdef int64_t own
        cdef bint all_total = True
        cdef window_stop_t stop
        cdef list stop_ids = []
        self.window.n = self.n_features = 0
        if n > self.room:
            self._make_room(n)
        for i in range(n):
            item = mapping(given[i])
            stop.lat = degrees(first(item, LAT), 90.0)
            stop.lon = degrees(first(item, LON), 180.0)
            stop.given_m = number(member(item, "shape_distance_to_stop"))
            if not stop.given_m >= 0.0:
                stop.given_m = NAN
            own = integer(first(item, SEQUENCE))
            stop.sequence = 1 if own == NOT_GIVEN else own
            stop.shown = i + 1 if own == NOT_GIVEN else own
            stop.total = integer(first(item, TOTAL))
            all_total = all_total and stop.total != NOT_GIVEN
            stop.distance_m = NAN
            stop_ids.append(identifier(first(item, STOP_ID)))
            self.stops[i] = stop
            self.eta_s[i] = NAN
        self.stop_ids = stop_ids
        self.window.n = n
        if not all_total:
            self._guess_totals(given)

    cdef int _guess_totals(self, tuple given) except -1:
        cdef Py_ssize_t i, n = len(given)
        cdef int64_t largest = NOT_GIVEN
        for i in range(n):
            item = mapping(given[i])
            largest = max(
                largest, self.stops[i].total, integer(member(item, "stop_sequence")), integer(member(item, "sequence")))
        for i in range(n):
            if self.stops[i].total == NOT_GIVEN:
                self.stops[i].total = n if largest == NOT_GIVEN else largest
        return 0

    def measure(self, distance_m not None):
        """Let ``distance_m(lat, lon, stop_lat, stop_lon)`` say the metres to stops where the caller has not."""
        cdef Py_ssize_t i
        for i in range(self.window.n):
            if isnan(self.stops[i].given_m) and not has_no_place(&self.stops[i]):
                self.stops[i].given_m = distance_m(
                    self.window.lat, self.window.lon, self.stops[i].lat, self.stops[i].lon)

    def vectorize(
        self, Vectorizer features not None, double route_code=NAN, double leg_m=NAN, leg_s=None,
    ):
        """Fill the feature rows.

        Parameters
        ----------
        features : Vectorizer
        route_code : float
            Position of the route among the model's routes; NaN for another one.
        leg_m : float
            Metres of the leg that ends at the first stop; NaN if unknown.
        leg_s : ndarray of float32, shape (24, n_stops), optional
            Typical seconds of the leg that ends at each stop, by hour; unknown if left out.
        """
        cdef const float[:, ::1] legs
        cdef Py_ssize_t n_values = self.window.n * features.n_features
        self.window.route_code, self.window.leg_m, self.window.leg_s = route_code, leg_m, NULL
        if leg_s is not None and self.window.n:
            legs = leg_s
            if legs.shape[0] != 24 or legs.shape[1] != self.window.n:
                raise ValueError("the legs of a window have to be 24 hours of as many stops")
            self.window.leg_s = &legs[0, 0]
        if n_values > self.n_values:
            self.rows = <float*>enlarged(self.rows, n_values, sizeof(float))
            self.n_values = n_values
        self.n_features = features.n_features
        features.fill(&self.window, self.rows)
        self.window.leg_s = NULL

    def predict(self, Library library not None, float low, float high):
        """Let a forest predict every row, clipped to [low, high]."""
        if library.n_features != self.n_features:
            raise ValueError(f"the rows have {self.n_features} columns, the forest takes {library.n_features}")
        library.run(self.rows, self.window.n, self.eta_s, low, high)

    def predict_by(self, predict not None):
        """Let ``predict(X, out)`` do it, on arrays as `etacore.models.model.Model.predict` takes them."""
        X, eta_s = self.matrix(), cnp.PyArray_ZEROS(1, [self.window.n], cnp.NPY_FLOAT32, 0)
        predict(X, eta_s)
        memcpy(self.eta_s, cnp.PyArray_DATA(eta_s), self.window.n * sizeof(float))

    def matrix(self):
        """The feature rows, a copy: ndarray of float32, shape (n_stops, n_features)."""
        X = cnp.PyArray_ZEROS(2, [self.window.n, self.n_features], cnp.NPY_FLOAT32, 0)
        memcpy(cnp.PyArray_DATA(X), self.rows, self.window.n * self.n_features * sizeof(float))
        return X

    def predictions(self):
        """The ``predictions`` of the document."""
        cdef list found = []
        cdef Py_ssize_t i
        for i in range(self.window.n):
            found.append(prediction(&self.stops[i], self.stop_ids[i], self.eta_s[i], self.window.time_us))
        return found


cdef dict prediction(const window_stop_t* stop, object stop_id, double eta_s, int64_t time_us):
    cdef char block[MAX_ISO + MAX_NUMBER]
    cdef dict found = PREDICTED.copy()
    cdef bint placeless = has_no_place(stop)
    found["stop_id"] = stop_id
    found["stop_sequence"] = stop.shown
    found["distance_to_stop_m"] = rounded(stop.given_m if placeless else stop.distance_m, 1, 10.0)
    if placeless:
        found["error"] = NO_COORDINATES
    elif not usable(eta_s, time_us):
        found["error"] = NO_PREDICTION
    else:
        found["eta_seconds"] = rounded(eta_s, 1, 10.0)
        found["eta_minutes"] = rounded(eta_s / 60.0, 2, 100.0)
        found["eta_formatted"] = ascii_text(block, put_duration(block, eta_s))
        found["eta_timestamp"] = ascii_text(block, put_iso(block, time_us + delay_us(eta_s)))
    return found


cdef inline bint has_no_place(const window_stop_t* stop) noexcept nogil:
    return isnan(stop.lat) or isnan(stop.lon)


cdef void* enlarged(void* memory, Py_ssize_t n, size_t size) except NULL:
    cdef void* larger = realloc(memory, n * size)
    if larger == NULL:
        raise MemoryError
    return larger


cdef int refuse(str reason, object given) except -1:
    raise UnpredictableError(f"{reason}: {repr(given)[:80]}")
