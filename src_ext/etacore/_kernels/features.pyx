"""Feature rows: vehicles and their next stops become the matrix that a model predicts."""

cimport cython
from libc.math cimport NAN, isnan
from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, int64_t

cimport numpy as cnp

from etacore._kernels.arrays cimport float_in, int32_in, int64_in
from etacore._kernels.batch cimport Batch, Part, columns_t
from etacore._kernels.geo cimport clipped, distance_m as chord_distance_m, unit_vector, vector_distance_m, vector_t
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
    cdef clock_t clock
    if (
        transitions_s.shape[0] < 1 or transitions_s.shape[0] != offset_s.shape[0] or transitions_s[0] != INT64_MIN
    ):
        raise ValueError("a calendar needs a first interval without begin, and an offset for each")
    clock.transitions_s = &transitions_s[0]
    clock.offset_s = &offset_s[0]
    clock.holiday_days = &holiday_days[0] if holiday_days.shape[0] else NULL
    clock.n_transitions = <int32_t>transitions_s.shape[0]
    clock.n_holidays = <int32_t>holiday_days.shape[0]
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
    cdef Py_ssize_t i
    if codes.shape[0] == 0:
        raise ValueError("a model needs a feature")
    for i in range(codes.shape[0]):
        if not 0 <= codes[i] < N_FEATURES:
            raise ValueError(f"no feature has the code {codes[i]}")
    return 0


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


@cython.final
cdef class Vectorizer:
    """Feature rows as one model asks for them: of a batch, or of one vehicle for the stops that a caller names.

    For a caller's stops, number and total of each are the caller's (below 1 they count as 1), and the successor of a
    stop is the next one given; the last has none. The motion of a vehicle is not known from one position. What is left
    of the leg to the first stop is clip(distance to it / length of its leg, 0, 1).

    Parameters
    ----------
    transitions_s, offset_s, holiday_days : ndarray
        Of the model's `etacore.pipeline.calendar.Calendar`.
    codes : ndarray of int32, shape (n_features,)
        From `etacore.schema.feature_codes`.
    nan_fill : float
        What stands for an unknown value; NaN leaves it.
    along_route_distance : bool, optional
        In a batch, distances along the line, max(stop - progress, 0), instead of straight ones.

    Raises
    ------
    ValueError
        If there is no feature, or a code is unknown.
    """

    def __cinit__(
        self, const int64_t[::1] transitions_s not None, const int32_t[::1] offset_s not None,
        const int32_t[::1] holiday_days not None, const int32_t[::1] codes not None, double nan_fill,
        bint along_route_distance=False,
    ):
        _check_codes(codes)
        self.clock = _clock(transitions_s, offset_s, holiday_days)
        self.codes = &codes[0]
        self.n_features = <int32_t>codes.shape[0]
        self.nan_fill = nan_fill
        self.along_route_distance = along_route_distance
        self.asks_more = _asks_beyond_place(self.codes, self.n_features)
        self._views = [transitions_s, offset_s, holiday_days, codes]

    def count_rows(self, Batch batch not None, Part part not None, PatternTable table not None, int32_t max_stops):
        """Number the feature rows: ``min(max_stops, stops ahead)`` for each vehicle that the part predicts.

        Parameters
        ----------
        batch : Batch
            IN: ``status``, ``part_ix``, ``pattern_ix``, ``first_stop``.
        part : Part
            OUT: ``row_offset``, and room for the rows.
        table : PatternTable
            Whose patterns the numbers are.
        max_stops : int
            Most rows of one vehicle.

        Returns
        -------
        int
            Rows in all.

        Raises
        ------
        ValueError
            If they are too many for a batch, or `max_stops` is negative.
        """
        cdef Py_ssize_t i, n = batch.n_rows
        cdef columns_t columns = batch.columns    # a copy: nothing written can change it
        cdef int32_t* offsets
        cdef int32_t ahead, ix = part.ix
        cdef int64_t total = 0
        cdef const pattern_t* pattern
        if max_stops < 0 or n * <int64_t>max_stops >= INT32_LIMIT:
            raise ValueError(f"{max_stops} stops for each of {n} vehicles are too many for a batch, or negative")
        part.reserve(n)
        offsets = part.offsets
        with nogil:
            for i in range(n):
                offsets[i] = <int32_t>total
                if columns.status[i] != OK or columns.first_stop[i] < 0 or columns.part_ix[i] != ix:
                    continue
                pattern = pattern_at(table, columns.pattern_ix[i])
                if pattern != NULL:
                    ahead = pattern.n_stops - columns.first_stop[i]
                    if ahead > 0:
                        total += ahead if ahead < max_stops else max_stops
            offsets[n] = <int32_t>total
        part.resize(n, total, self.n_features)
        return total

    def vectorize(
        self, Batch batch not None, Part part not None, PatternTable table not None, *,
        cnp.ndarray route_code=None, cnp.ndarray leg_s=None, cnp.ndarray leg_start=None,
    ):
        """Fill the feature rows of a batch, computed in double precision.

        With hav the haversine on a sphere of 6 371 000 m, i the position of a stop in its pattern (from 1) and N the
        pattern's length: progress on segment p = clip(1 - hav(vehicle, next stop) / hav(stop, next stop), 0, 1), 0 for
        the last stop; progress ratio = clip((i - 1 + p) / N, 0, 1). Hour, day and holiday are those of the snapshot's
        own time in the calendar's zone; peak is a weekday's hour 7-9 or 16-19.

        With s the places along the line and f the next stop, the share of the leg that is left is clip((s_f -
        progress) / (s_f - s_(f-1)), 0, 1), 1 before the first stop or on a leg without length. The typical travel time
        to stop j is that share, rounded to float32, times the typical seconds of the leg to f, plus those of the legs
        to f + 1 .. j, summed in this order in double precision.

        Parameters
        ----------
        batch : Batch
            IN: ``lat``, ``lon``, ``speed_mps``, ``time_us``, ``pattern_ix``, ``first_stop``, ``progress_m``,
            ``recent_speed_mps``, ``since_s``. ``status`` is not looked at, the offsets say which rows count.
        part : Part
            IN: ``row_offset``, from `count_rows`. OUT: ``features``, ``distance_m``, ``stop_ix``.
        table : PatternTable
            Whose patterns the numbers are.
        route_code : ndarray of int32, shape (>= n,), optional
            Position of the route among the model's routes, negative for another one; unknown if left out.
        leg_s : ndarray of float32, optional
            Typical seconds of legs, blocks of 24 x n_stops; unknown if left out.
        leg_start : ndarray of int64, optional
            Begin of the block of each pattern number; negative if there is none.

        Raises
        ------
        ValueError
            If rows and stops do not belong together, or an array is of another type or too short.
        """
        cdef columns_t columns = batch.columns    # a copy: nothing written can change it
        cdef Py_ssize_t i, n = batch.n_rows
        cdef int64_t row, end, n_rows = part.n_rows
        cdef clock_t clock = self.clock    # a copy: it remembers
        cdef const int32_t* codes = self.codes
        cdef Py_ssize_t n_codes = self.n_features
        cdef double nan_fill = self.nan_fill
        cdef bint along_route_distance = self.along_route_distance
        cdef const int32_t* offsets = part.offsets
        cdef float* X = part.values
        cdef double* distances = part.distances
        cdef int32_t* stops = part.stops
        cdef const int32_t* route_codes = NULL
        cdef legs_t known_legs
        cdef int32_t stop
        cdef double[N_FEATURES] values
        cdef const pattern_t* pattern
        cdef const stop_t* at
        cdef vector_t vehicle
        cdef double straight_m, next_m, along_m, typical_s = NAN
        cdef const float* legs = NULL
        cdef bint asks_more = self.asks_more
        cdef bint broken = False
        if part.n != n or part.n_features != self.n_features:
            raise ValueError("the rows of the part have not been counted for this batch and these features")
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
        if n_rows == 0:
            return
        with nogil:
            _know_nothing(values)
            for i in range(n):
                row = offsets[i]
                end = offsets[i + 1]
                if row == end:
                    continue
                stop = columns.first_stop[i]
                pattern = pattern_at(table, columns.pattern_ix[i])
                if (pattern == NULL or stop < 0 or row < 0 or end < row or end > n_rows
                        or end - row > pattern.n_stops - stop):
                    broken = True
                    break
                vehicle = unit_vector(columns.lat[i], columns.lon[i])
                values[<int>F_CURRENT_SPEED_KMH] = 3.6 * <double>columns.speed_mps[i]
                _tell_time(&clock, columns.time_us[i], values)
                at = &pattern.stops[stop]
                if asks_more:
                    values[<int>F_RECENT_SPEED_MPS] = columns.recent_speed_mps[i]
                    values[<int>F_SINCE_LAST_STOP_S] = columns.since_s[i]
                    if route_codes != NULL:
                        values[<int>F_ROUTE_CODE] = <double>route_codes[i] if route_codes[i] >= 0 else NAN
                    values[<int>F_LEG_LEFT] = _leg_left(
                        at.s_m - columns.progress_m[i], at.s_m - pattern.stops[stop - 1].s_m if stop > 0 else 0.0)
                    if known_legs.start != NULL:
                        legs = _legs_of_hour(
                            &known_legs, columns.pattern_ix[i], pattern.n_stops, <int>values[<int>F_HOUR])
                        typical_s = NAN if legs == NULL else <double><float>values[<int>F_LEG_LEFT] * legs[stop]
                next_m = chord_distance_m(vehicle.x, vehicle.y, vehicle.z, at.x, at.y, at.z)
                while row < end:
                    at = &pattern.stops[stop]
                    straight_m = next_m
                    # The distance to the successor is the next row's own distance.
                    if stop + 1 < pattern.n_stops:
                        next_m = chord_distance_m(vehicle.x, vehicle.y, vehicle.z, at[1].x, at[1].y, at[1].z)
                    along_m = at.s_m - columns.progress_m[i]
                    if not along_m > 0.0:
                        along_m = 0.0
                    distances[row] = along_m if along_route_distance else straight_m
                    stops[row] = stop
                    if asks_more:
                        if legs != NULL and stop > columns.first_stop[i]:
                            typical_s += legs[stop]
                        values[<int>F_TYPICAL_TRAVEL_S] = typical_s
                        values[<int>F_STOP_SEQUENCE] = <double>at.sequence
                    _fill_row(
                        values, X + row * n_codes, codes, n_codes, nan_fill, distances[row], along_m, next_m, at.leg_m,
                        stop + 1, pattern.n_stops, stop - columns.first_stop[i] + 1)
                    stop += 1
                    row += 1
        if broken:
            raise ValueError("row offsets, first stops and patterns do not belong together")

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
