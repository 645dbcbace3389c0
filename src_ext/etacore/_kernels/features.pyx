"""Feature rows: vehicles and their next stops become the matrix that a model predicts."""

cimport cython
from libc.math cimport NAN, isnan
from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, int64_t, uint8_t

cimport numpy as cnp

from etacore._kernels.arrays cimport bytes_in, double_in, double_out, float_in, int32_in, int32_out, int64_in, misfit
from etacore._kernels.geo cimport clipped, distance_m as chord_distance_m, unit_vector, vector_distance_m, vector_t
from etacore._kernels.motion cimport MotionPointers, motion_t
from etacore._kernels.routes cimport PatternTable, pattern_at, pattern_t, stop_t
from etacore._kernels.types cimport (
    F_ALONG_ROUTE_DISTANCE_M, F_CURRENT_SPEED_KMH, F_DAY_OF_WEEK, F_DISTANCE_TO_STOP, F_HOUR, F_IS_HOLIDAY,
    F_IS_PEAK_HOUR, F_IS_WEEKEND, F_LEG_LEFT, F_PRECIPITATION_MM, F_PROGRESS_ON_SEGMENT, F_PROGRESS_RATIO,
    F_RECENT_SPEED_MPS, F_ROUTE_CODE, F_SINCE_LAST_STOP_S, F_STOP_SEQUENCE, F_STOPS_AHEAD, F_TEMPERATURE_C,
    F_TYPICAL_TRAVEL_S, F_WIND_SPEED_KMH, N_FEATURES, OK,
)

cnp.import_array()

cdef enum:
    INT32_LIMIT = 1 << 30
    N_HOURS = 24


cdef inline int64_t _floor_div(int64_t a, int64_t b) noexcept nogil:
    return a // b - (a % b < 0)


cdef clock_t _clock(
    const int64_t[::1] transitions_s, const int32_t[::1] offset_s, const int32_t[::1] holiday_days,
) except *:
    if transitions_s.shape[0] < 1 or transitions_s.shape[0] != offset_s.shape[0]:
        raise ValueError("a calendar needs a first interval without begin, and an offset for each")
    return _clock_at(
        &transitions_s[0], &offset_s[0], transitions_s.shape[0], &holiday_days[0] if holiday_days.shape[0] else NULL,
        holiday_days.shape[0])


cdef clock_t _clock_at(
    const int64_t* transitions_s, const int32_t* offset_s, Py_ssize_t n_transitions, const int32_t* holiday_days,
    Py_ssize_t n_holidays,
) except *:
    cdef clock_t clock
    if n_transitions < 1 or transitions_s[0] != INT64_MIN:
        raise ValueError("a calendar needs a first interval without begin, and an offset for each")
    clock.transitions_s = transitions_s
    clock.offset_s = offset_s
    clock.holiday_days = holiday_days
    clock.n_transitions = <int32_t>n_transitions
    clock.n_holidays = <int32_t>n_holidays
    clock.begin_s = INT64_MAX
    clock.end_s = INT64_MIN
    clock.offset = 0
    clock.day = INT64_MIN
    clock.holiday = False
    return clock


cdef void _tell_time(clock_t* clock, int64_t time_us, double* values) noexcept nogil:
    # Writes the five calendar features of a moment.
    cdef int64_t utc_s = _floor_div(time_us, 1000000)
    cdef int64_t local_s, day
    cdef int32_t low, high, middle
    cdef int hour, weekday
    if not (clock.begin_s <= utc_s < clock.end_s):
        low = 0
        high = clock.n_transitions
        while high - low > 1:
            middle = (low + high) >> 1
            if clock.transitions_s[middle] <= utc_s:
                low = middle
            else:
                high = middle
        clock.begin_s = clock.transitions_s[low]
        clock.end_s = clock.transitions_s[high] if high < clock.n_transitions else INT64_MAX
        clock.offset = clock.offset_s[low]
    local_s = utc_s + clock.offset
    day = _floor_div(local_s, 86400)
    if day != clock.day:
        clock.day = day
        low = 0
        high = clock.n_holidays
        while low < high:
            middle = (low + high) >> 1
            if clock.holiday_days[middle] < day:
                low = middle + 1
            else:
                high = middle
        clock.holiday = low < clock.n_holidays and clock.holiday_days[low] == day
    hour = <int>((local_s - day * 86400) // 3600)
    weekday = <int>((day + 3) % 7)             # 1970-01-01 was a Thursday
    if weekday < 0:
        weekday += 7
    values[<int>F_HOUR] = hour
    values[<int>F_DAY_OF_WEEK] = weekday
    values[<int>F_IS_WEEKEND] = weekday >= 5
    values[<int>F_IS_PEAK_HOUR] = weekday < 5 and (7 <= hour <= 9 or 16 <= hour <= 19)
    values[<int>F_IS_HOLIDAY] = clock.holiday


cdef inline void _know_nothing(double* values) noexcept nogil:
    # Before all rows: weather, and whatever nobody hands in, stays unknown.
    cdef int i
    for i in range(<int>N_FEATURES):
        values[i] = NAN


cdef bint _asks_beyond_place(const int32_t* codes, Py_ssize_t n_codes) noexcept:
    # Whether one of the features is asked for that a position alone does not give.
    cdef Py_ssize_t i
    for i in range(n_codes):
        if codes[i] >= F_RECENT_SPEED_MPS:
            return True
    return False


cdef inline double _leg_left(double ahead_m, double leg_m) noexcept nogil:
    # NaN for an unknown length; a leg without one lies ahead as a whole.
    if leg_m <= 0.0:
        return NAN if isnan(ahead_m) else 1.0
    return clipped(ahead_m / leg_m, 0.0, 1.0)


cdef inline void _fill_row(
    double* values, float* row, const int32_t* codes, Py_ssize_t n_codes, double nan_fill, double distance_m,
    double along_m, double to_next_m, double leg_m, int64_t ordinal, int64_t total, int64_t ahead,
) noexcept nogil:
    # The one place where a feature row is made. leg_m: from the stop to its successor, 0 without one; to_next_m: from
    # the vehicle to that successor. ordinal counts from 1.
    cdef double progress = clipped(1.0 - to_next_m / leg_m, 0.0, 1.0) if leg_m > 0.0 else 0.0
    cdef double value
    cdef Py_ssize_t i
    values[<int>F_DISTANCE_TO_STOP] = distance_m
    values[<int>F_PROGRESS_ON_SEGMENT] = progress
    values[<int>F_PROGRESS_RATIO] = clipped(
        (<double>(ordinal - 1 if ordinal > 1 else 0) + progress) / <double>(total if total > 1 else 1), 0.0, 1.0)
    values[<int>F_ALONG_ROUTE_DISTANCE_M] = along_m
    values[<int>F_STOPS_AHEAD] = <double>ahead
    for i in range(n_codes):
        value = values[codes[i]]
        row[i] = <float>(nan_fill if isnan(value) else value)


cdef int _check_codes(const int32_t[::1] codes) except -1:
    return _check_codes_at(&codes[0] if codes.shape[0] else NULL, codes.shape[0])


cdef int _check_codes_at(const int32_t* codes, Py_ssize_t n_codes) except -1:
    cdef Py_ssize_t i
    if n_codes == 0:
        raise ValueError("a model needs a feature")
    for i in range(n_codes):
        if not 0 <= codes[i] < N_FEATURES:
            raise ValueError(f"no feature has the code {codes[i]}")
    return 0


def count_rows(
    PatternTable table not None, cnp.ndarray status not None, cnp.ndarray pattern_ix not None,
    cnp.ndarray first_stop not None, int32_t max_stops, cnp.ndarray row_offset not None,
):
    """Offsets of each vehicle's feature rows; returns their number. See `etacore.pipeline.features.count_rows`."""
    cdef Py_ssize_t i, n = cnp.PyArray_SIZE(pattern_ix)
    cdef const uint8_t* statuses = bytes_in(status, b"status", n)
    cdef const int32_t* patterns = int32_in(pattern_ix, b"pattern_ix", n)
    cdef const int32_t* first_stops = int32_in(first_stop, b"first_stop", n)
    cdef int32_t* offsets = int32_out(row_offset, b"row_offset", n + 1)
    cdef int64_t total = 0
    cdef int32_t ahead
    cdef const pattern_t* pattern
    if max_stops < 0 or n * <int64_t>max_stops >= INT32_LIMIT:
        raise ValueError(f"{max_stops} stops for each of {n} vehicles are too many for a batch, or negative")
    with nogil:
        for i in range(n):
            offsets[i] = <int32_t>total
            if statuses[i] != OK or first_stops[i] < 0:
                continue
            pattern = pattern_at(table, patterns[i])
            if pattern != NULL:
                ahead = pattern.n_stops - first_stops[i]
                if ahead > 0:
                    total += ahead if ahead < max_stops else max_stops
        offsets[n] = <int32_t>total
    return total


# A model's typical times for the patterns at hand; start NULL without any.
cdef struct legs_t:
    const float* seconds
    int64_t n_seconds
    const int64_t* start
    Py_ssize_t n_start


cdef inline const float* _legs_of_hour(
    const legs_t* legs, int32_t pattern_ix, int32_t n_stops, int hour,
) noexcept nogil:
    # Typical seconds of the legs of a pattern, one for each stop; NULL if unknown.
    cdef int64_t start = legs.start[pattern_ix] if pattern_ix < legs.n_start else -1
    if start < 0 or start > legs.n_seconds - N_HOURS * <int64_t>n_stops:
        return NULL
    return &legs.seconds[start + hour * <int64_t>n_stops]


cdef float* _matrix(cnp.ndarray matrix, int64_t n_rows, Py_ssize_t n_codes) except NULL:
    cdef int flags = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED | cnp.NPY_ARRAY_WRITEABLE
    if (
        cnp.PyArray_NDIM(matrix) != 2 or cnp.PyArray_DIM(matrix, 0) < n_rows or cnp.PyArray_DIM(matrix, 1) != n_codes
    ):
        raise ValueError("the columns or the outputs are shorter than the batch, or not as wide as the features")
    if (
        cnp.PyArray_TYPE(matrix) != cnp.NPY_FLOAT32 or not cnp.PyArray_CHKFLAGS(matrix, flags)
        or not cnp.PyArray_ISNOTSWAPPED(matrix)
    ):
        raise misfit(matrix, b"matrix", n_rows)
    return <float*>cnp.PyArray_DATA(matrix)


def vectorize(
    PatternTable table not None, cnp.ndarray lat not None, cnp.ndarray lon not None, cnp.ndarray speed_mps not None,
    cnp.ndarray time_us not None, cnp.ndarray pattern_ix not None, cnp.ndarray first_stop not None,
    cnp.ndarray progress_m not None, cnp.ndarray row_offset not None, cnp.ndarray transitions_s not None,
    cnp.ndarray offset_s not None, cnp.ndarray holiday_days not None, cnp.ndarray codes not None,
    MotionPointers motion, cnp.ndarray route_code, cnp.ndarray leg_s, cnp.ndarray leg_start,
    bint along_route_distance, double nan_fill, cnp.ndarray matrix not None, cnp.ndarray distance_m not None,
    cnp.ndarray stop_ix not None,
):
    """Feature rows of a batch; see `etacore.pipeline.features.vectorize`.

    None for `motion`, `route_code`, or `leg_s` and `leg_start` leaves those features unknown.
    """
    cdef Py_ssize_t n = cnp.PyArray_SIZE(pattern_ix)
    cdef Py_ssize_t i, n_codes = cnp.PyArray_SIZE(codes), n_transitions = cnp.PyArray_SIZE(transitions_s)
    cdef Py_ssize_t n_holidays = cnp.PyArray_SIZE(holiday_days)
    cdef const double* lats = double_in(lat, b"lat", n)
    cdef const double* lons = double_in(lon, b"lon", n)
    cdef const float* speeds = float_in(speed_mps, b"speed_mps", n)
    cdef const int64_t* times = int64_in(time_us, b"time_us", n)
    cdef const int32_t* patterns = int32_in(pattern_ix, b"pattern_ix", n)
    cdef const int32_t* first_stops = int32_in(first_stop, b"first_stop", n)
    cdef const double* progress = double_in(progress_m, b"progress_m", n)
    cdef const int32_t* offsets = int32_in(row_offset, b"row_offset", n + 1)
    cdef int64_t row, end, n_rows = offsets[n] if offsets[n] > 0 else 0
    cdef float* X = _matrix(matrix, n_rows, n_codes)
    cdef double* distances = double_out(distance_m, b"distance_m", n_rows)
    cdef int32_t* stops = int32_out(stop_ix, b"stop_ix", n_rows)
    cdef const int32_t* code_at = int32_in(codes, b"codes", n_codes)
    cdef clock_t clock = _clock_at(
        int64_in(transitions_s, b"transitions_s", n_transitions), int32_in(offset_s, b"offset_s", n_transitions),
        n_transitions, int32_in(holiday_days, b"holiday_days", n_holidays), n_holidays)
    cdef const int32_t* route_codes = NULL
    cdef legs_t known_legs
    cdef int32_t stop
    cdef double[N_FEATURES] values
    cdef const pattern_t* pattern
    cdef const stop_t* at
    cdef vector_t vehicle
    cdef double straight_m, next_m, along_m, typical_s = NAN
    cdef const float* legs = NULL
    cdef bint asks_more = _asks_beyond_place(code_at, n_codes)
    cdef bint broken = False
    _check_codes_at(code_at, n_codes)
    if motion is not None:
        motion.require(n)
    if route_code is not None:
        route_codes = int32_in(route_code, b"route_code", n)
    known_legs.seconds = NULL
    known_legs.start = NULL
    known_legs.n_seconds = known_legs.n_start = 0
    if leg_s is not None and leg_start is not None:
        known_legs.n_seconds = cnp.PyArray_SIZE(leg_s)
        known_legs.seconds = float_in(leg_s, b"leg_s", known_legs.n_seconds)
        known_legs.n_start = cnp.PyArray_SIZE(leg_start)
        known_legs.start = int64_in(leg_start, b"leg_start", known_legs.n_start)
    if offsets[n] < 0:
        raise ValueError("row offsets, first stops and patterns do not belong together")
    if n_rows == 0:
        return
    cdef const motion_t* moved = NULL if motion is None else &motion.columns
    with nogil:
        _know_nothing(values)
        for i in range(n):
            row = offsets[i]
            end = offsets[i + 1]
            if row == end:
                continue
            stop = first_stops[i]
            pattern = pattern_at(table, patterns[i])
            if (pattern == NULL or stop < 0 or row < 0 or end < row or end > n_rows
                    or end - row > pattern.n_stops - stop):
                broken = True
                break
            vehicle = unit_vector(lats[i], lons[i])
            values[<int>F_CURRENT_SPEED_KMH] = 3.6 * <double>speeds[i]
            _tell_time(&clock, times[i], values)
            at = &pattern.stops[stop]
            if asks_more:
                if moved != NULL:
                    values[<int>F_RECENT_SPEED_MPS] = moved.speed_mps[i]
                    values[<int>F_SINCE_LAST_STOP_S] = moved.since_s[i]
                if route_codes != NULL:
                    values[<int>F_ROUTE_CODE] = <double>route_codes[i] if route_codes[i] >= 0 else NAN
                values[<int>F_LEG_LEFT] = _leg_left(
                    at.s_m - progress[i], at.s_m - pattern.stops[stop - 1].s_m if stop > 0 else 0.0)
                if known_legs.start != NULL:
                    legs = _legs_of_hour(&known_legs, patterns[i], pattern.n_stops, <int>values[<int>F_HOUR])
                    typical_s = NAN if legs == NULL else <double><float>values[<int>F_LEG_LEFT] * legs[stop]
            next_m = chord_distance_m(vehicle.x, vehicle.y, vehicle.z, at.x, at.y, at.z)
            while row < end:
                at = &pattern.stops[stop]
                straight_m = next_m
                # The distance to the successor is the next row's own distance.
                if stop + 1 < pattern.n_stops:
                    next_m = chord_distance_m(vehicle.x, vehicle.y, vehicle.z, at[1].x, at[1].y, at[1].z)
                along_m = at.s_m - progress[i]
                if not along_m > 0.0:
                    along_m = 0.0
                distances[row] = along_m if along_route_distance else straight_m
                stops[row] = stop
                if asks_more:
                    if legs != NULL and stop > first_stops[i]:
                        typical_s += legs[stop]
                    values[<int>F_TYPICAL_TRAVEL_S] = typical_s
                    values[<int>F_STOP_SEQUENCE] = <double>at.sequence
                _fill_row(
                    values, X + row * n_codes, code_at, n_codes, nan_fill, distances[row], along_m, next_m, at.leg_m,
                    stop + 1, pattern.n_stops, stop - first_stops[i] + 1)
                stop += 1
                row += 1
    if broken:
        raise ValueError("row offsets, first stops and patterns do not belong together")


@cython.final
cdef class WindowFeatures:
    """Feature rows of one vehicle for the stops that a caller names.

    As `etacore.pipeline.features.vectorize`, but number and total of each stop are the caller's (below 1 they count as 1), and
    the successor of a stop is the next one given; the last has none. The motion of a vehicle is not known from one
    position. What is left of the leg to the first stop is clip(distance to it / length of its leg, 0, 1).

    Parameters
    ----------
    transitions_s, offset_s, holiday_days : ndarray
        Of the model's `etacore.pipeline.calendar.Calendar`.
    codes : ndarray of int32, shape (n_features,)
        From `etacore.schema.feature_codes`.
    nan_fill : float
        What stands for an unknown value; NaN leaves it.

    Raises
    ------
    ValueError
        If there is no feature, or a code is unknown.
    """

    def __cinit__(
        self, const int64_t[::1] transitions_s not None, const int32_t[::1] offset_s not None,
        const int32_t[::1] holiday_days not None, const int32_t[::1] codes not None, double nan_fill,
    ):
        _check_codes(codes)
        self.clock = _clock(transitions_s, offset_s, holiday_days)
        self.codes = &codes[0]
        self.n_features = <int32_t>codes.shape[0]
        self.nan_fill = nan_fill
        self._views = [transitions_s, offset_s, holiday_days, codes]

    cdef void fill(self, const window_t* window, float* rows) noexcept nogil:
        cdef clock_t clock = self.clock    # a copy: it remembers, and several threads may be here
        cdef double[N_FEATURES] values
        cdef vector_t vehicle, here, successor
        cdef window_stop_t* stop = window.stops
        cdef double leg_m, next_m, typical_s = NAN
        cdef const float* legs = NULL
        cdef Py_ssize_t i
        if window.n == 0:
            return
        vehicle = unit_vector(window.lat, window.lon)
        successor = unit_vector(stop.lat, stop.lon)
        next_m = vector_distance_m(vehicle, successor)
        _know_nothing(values)
        values[<int>F_CURRENT_SPEED_KMH] = 3.6 * <double>window.speed_mps
        _tell_time(&clock, window.time_us, values)
        values[<int>F_ROUTE_CODE] = window.route_code
        values[<int>F_LEG_LEFT] = _leg_left(next_m if isnan(stop.given_m) else stop.given_m, window.leg_m)
        if window.leg_s != NULL:
            legs = window.leg_s + <int>values[<int>F_HOUR] * window.n
            typical_s = <double><float>values[<int>F_LEG_LEFT] * legs[0]
        for i in range(window.n):
            here = successor
            stop.distance_m = next_m if isnan(stop.given_m) else stop.given_m
            leg_m = 0.0
            if i + 1 < window.n:
                successor = unit_vector(stop[1].lat, stop[1].lon)
                next_m = vector_distance_m(vehicle, successor)
                leg_m = vector_distance_m(here, successor)
            if legs != NULL:
                if i > 0:
                    typical_s += legs[i]
                values[<int>F_TYPICAL_TRAVEL_S] = typical_s
            values[<int>F_STOP_SEQUENCE] = <double>stop.sequence
            _fill_row(
                values, rows, self.codes, self.n_features, self.nan_fill, stop.distance_m, stop.distance_m, next_m,
                leg_m, stop.sequence, stop.total, i + 1)
            rows += self.n_features
            stop += 1
