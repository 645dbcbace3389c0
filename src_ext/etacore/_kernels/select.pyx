"""Which stop comes next: from what the vehicle says, else from where it is and how far it was before."""

cimport cython
from libc.math cimport INFINITY, NAN, cos, isfinite, isnan, sin, sqrt
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from etacore._kernels.batch cimport Batch, columns_t
from etacore._kernels.geo cimport EARTH_RADIUS_M, project, radians, segment_at, segment_t, wrapped
from etacore._kernels.index cimport hash_text
from etacore._kernels.motion cimport SPEED_TAU_S as _SPEED_TAU_S, measure_motion
from etacore._kernels.routes cimport Line, PatternTable, pattern_at, pattern_t
from etacore._kernels.text cimport inside
from etacore._kernels.types cimport (
    NO_SEQUENCE, NO_STOP, OFF_ROUTE, OK, STOPPED_AT, TRIP_FINISHED, UNKNOWN_ROUTE, text_t,
)

from etacore.errors import ConfigError

SPEED_TAU_S = <double>_SPEED_TAU_S

cdef enum:
    MAX_STRIKES = 15             # four bits each, one byte: confirmations << 4 | strikes
    MAX_CONFIRMATIONS = 15
    CONFIRMED = 3                # with so many, the vehicle is on its trip
    N_KEPT = 256                 # costs that _nearest keeps; 2 kB of stack

# A fix that brings the vehicle forward by less may be GPS noise, and confirms nothing.
cdef double CONFIRM_M = 10.0

cdef struct options_t:
    double max_off_route_m
    double max_speed_mps
    double slack_m               # added to what the speed allows
    double tolerance_m           # how far GPS may throw a vehicle back
    double fit_m                 # farther than this from its window, the rest of the line is looked at
    double restart_fit_m         # nearer than this to an earlier part, it may be there
    double near_equal_m          # passes whose distances differ by less are equal: the earlier counts
    double heading_penalty_m     # added (in squares) to the distance of a piece that leads the other way
    int64_t reset_after_us
    int strikes
    int trip_strikes             # the same for an unconfirmed vehicle with a trip id; 0 = never

@cython.final
cdef class SelectOptions:
    """How positions are matched to a pattern's line.

    Parameters
    ----------
    max_off_route_m : float
        Farther from the line than this, a vehicle is off its route; from the part before the stop that it names, if it
        names one.
    max_speed_mps : float
        Nothing drives faster; with the time since the last fix it bounds the way made.
    slack_m : float
        Added to that bound.
    tolerance_m : float
        How far behind its earlier progress a fix may lie by GPS noise; progress itself never goes back.
    fit_m : float
        When nothing that the vehicle can have reached is nearer than this, everything ahead is looked at.
    restart_fit_m : float
        A vehicle that is this near to an earlier part, and fits nowhere ahead, gets a strike.
    restart_strikes : int
        After so many strikes in a row a vehicle without a trip id starts anew. 0: never. At most 15.
    trip_strikes : int
        The same with a trip id: it was on its way to the start when it was first seen. 0: never. At most 15. Once three
        fixes fitted the line and each brought it 10 m forward, a vehicle is on its trip and never starts anew.
    near_equal_m : float
        Passes of the line whose distances differ by less are equal; the earlier one is taken.
    heading_penalty_m : float
        Counted as distance, in squares, where the line leads against the vehicle's bearing.
    reset_after_s : float
        A vehicle that was silent for longer starts anew.

    Raises
    ------
    ConfigError
        If a value is negative or not finite, or strikes are more than 15.
    """

    cdef options_t values
    cdef dict _given

    def __init__(
        self, *, double max_off_route_m=2000.0, double max_speed_mps=40.0, double slack_m=300.0,
        double tolerance_m=50.0, double fit_m=150.0, double restart_fit_m=100.0, int restart_strikes=3,
        int trip_strikes=5, double near_equal_m=30.0, double heading_penalty_m=60.0, double reset_after_s=3600.0,
    ):
        self._given = {
            "max_off_route_m": max_off_route_m, "max_speed_mps": max_speed_mps, "slack_m": slack_m,
            "tolerance_m": tolerance_m, "fit_m": fit_m, "restart_fit_m": restart_fit_m,
            "restart_strikes": restart_strikes, "trip_strikes": trip_strikes, "near_equal_m": near_equal_m,
            "heading_penalty_m": heading_penalty_m, "reset_after_s": reset_after_s,
        }
        for name, value in self._given.items():
            if not (isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be a finite number and not negative, not {value!r}")
            if name.endswith("_strikes") and value > MAX_STRIKES:
                raise ConfigError(f"{name} must be at most {MAX_STRIKES}, not {value!r}")
        self.values.max_off_route_m = max_off_route_m
        self.values.max_speed_mps = max_speed_mps
        self.values.slack_m = slack_m
        self.values.tolerance_m = tolerance_m
        self.values.fit_m = fit_m
        self.values.restart_fit_m = restart_fit_m
        self.values.near_equal_m = near_equal_m
        self.values.heading_penalty_m = heading_penalty_m
        self.values.reset_after_us = <int64_t>min(reset_after_s * 1e6, <double>(1 << 62))
        self.values.strikes = restart_strikes
        self.values.trip_strikes = trip_strikes

    def __getattr__(self, str name):
        if name not in self._given:
            raise AttributeError(f"there is no option {name!r}")
        return self._given[name]


# A line that goes back the way it came is as near on the way back; then the earlier place counts, not the last bit.
cdef double SAME_M2 = 1e-3

# Where a vehicle is, prepared once.
cdef struct point_t:
    double lon_rad, y_m
    double east, north           # unit vector of its bearing; both 0 if unknown

# Where on the line, and how far from it (squared, without the penalty; infinite if nowhere).
cdef struct place_t:
    double s_m
    double square_m2


cdef inline point_t _point(double lat, double lon, double bearing_deg) noexcept nogil:
    cdef point_t p
    p.lon_rad = radians(lon)
    p.y_m = radians(lat) * EARTH_RADIUS_M
    p.east = p.north = 0.0
    if isfinite(bearing_deg):
        p.east = sin(radians(bearing_deg))
        p.north = cos(radians(bearing_deg))
    return p


cdef place_t _nearest(
    const segment_t* pieces, int n_pieces, const point_t* point, double low_m, double high_m, double near_equal_m,
    double penalty_m2,
) noexcept nogil:
    # The place between low_m and high_m along the line that suits the point best: of all passes whose cost is within
    # near_equal_m of the least one, the first; of this pass, the point of least cost.
    #
    # First the least cost. Then from the begin again: a pass lasts as long as the line stays within reach, so it ends
    # at a piece out of reach, or at a joint out of reach between two pieces that both come near (a long leg there and
    # a long leg back). The costs of the first pieces are kept, so what lies before the pass is not projected again.
    cdef int first = segment_at(pieces, n_pieces, low_m)
    cdef int i
    cdef double square, cost, s_m, reach_m2, dx, dy
    cdef double best = INFINITY
    cdef double least = INFINITY
    cdef double[N_KEPT] kept
    cdef place_t place
    place.s_m = low_m
    place.square_m2 = INFINITY
    for i in range(first, n_pieces):
        if pieces[i].s_m > high_m:
            break
        cost = project(&pieces[i], point.lon_rad, point.y_m, low_m, high_m, &s_m)
        if pieces[i].dx_m * point.east + pieces[i].dy_m * point.north < 0.0:
            cost += penalty_m2
        if i - first < N_KEPT:
            kept[i - first] = cost
        if cost < least:
            least = cost
    reach_m2 = sqrt(least) + near_equal_m
    reach_m2 *= reach_m2
    for i in range(first, n_pieces):
        if pieces[i].s_m > high_m:
            break
        if best == INFINITY and i - first < N_KEPT and kept[i - first] > reach_m2:
            continue
        square = project(&pieces[i], point.lon_rad, point.y_m, low_m, high_m, &s_m)
        cost = square
        if pieces[i].dx_m * point.east + pieces[i].dy_m * point.north < 0.0:
            cost += penalty_m2
        if best < INFINITY:
            dx = wrapped(point.lon_rad - pieces[i].lon_rad) * pieces[i].x_scale_m
            dy = point.y_m - pieces[i].y_m
            if cost > reach_m2 or dx * dx + dy * dy > reach_m2:
                break
        elif cost > reach_m2:
            continue
        if cost < best - SAME_M2:
            best = cost
            place.s_m = s_m
            place.square_m2 = square
    return place


cdef inline int32_t _stop_after(const pattern_t* pattern, double s_m) noexcept nogil:
    # The first stop beyond s_m; n_stops if there is none.
    cdef int32_t low = 0
    cdef int32_t high = pattern.n_stops
    cdef int32_t middle
    while low < high:
        middle = (low + high) >> 1
        if pattern.stops[middle].s_m > s_m:
            high = middle
        else:
            low = middle + 1
    return low


cdef int32_t _stop_of_sequence(const pattern_t* pattern, int32_t sequence, bint exactly) noexcept nogil:
    # The first stop with this sequence, or (not exactly) with a greater one; NO_STOP if there is none.
    cdef int32_t low = 0
    cdef int32_t high = pattern.n_stops
    cdef int32_t i
    if pattern.ascending:
        while low < high:
            i = (low + high) >> 1
            if pattern.stops[i].sequence < sequence:
                low = i + 1
            else:
                high = i
        if low < pattern.n_stops and (pattern.stops[low].sequence == sequence or not exactly):
            return low
        return NO_STOP
    for i in range(pattern.n_stops):
        if pattern.stops[i].sequence == sequence or (not exactly and pattern.stops[i].sequence > sequence):
            return i
    return NO_STOP


cdef place_t _before_stop(
    const pattern_t* pattern, const point_t* point, int32_t next_stop, double progress_m, const options_t* options,
) noexcept nogil:
    # The place of a vehicle whose next stop is known: between the stop before and that stop, and not behind its
    # earlier progress if that lies there too.
    cdef double low_m = pattern.stops[next_stop - 1].s_m if next_stop > 0 else 0.0
    cdef double high_m = pattern.stops[next_stop].s_m if next_stop < pattern.n_stops else pattern.length_m
    if low_m <= progress_m <= high_m:
        low_m = progress_m
    return _nearest(
        pattern.segments, pattern.n_segments, point, low_m, high_m, options.near_equal_m,
        options.heading_penalty_m * options.heading_penalty_m)


cdef int32_t _stop_of_id(
    const pattern_t* pattern, const char* text, int32_t length, const point_t* point, double progress_m,
    int32_t after, const options_t* options,
) noexcept nogil:
    # The stop with this id; NO_STOP if the pattern does not have it. Of several the first at or after the earlier
    # progress, else the one whose leg is nearest. `after` is 1 when the vehicle stands at the stop: its leg is then
    # the one behind the stop, and it may have been thrown forward a little.
    cdef uint64_t code = hash_text(text, length)
    cdef int32_t found = NO_STOP
    cdef int32_t i
    cdef double least_m, distance_m, best = INFINITY
    cdef bint several = False
    for i in range(pattern.n_stops):
        if (pattern.id_hashes[i] != code or pattern.stops[i].id_length != length
                or memcmp(pattern.text + pattern.stops[i].id_start, text, <size_t>length) != 0):
            continue
        if found >= 0:
            several = True
            break
        found = i
    if not several:
        return found
    least_m = progress_m - options.tolerance_m if after else progress_m
    for i in range(found, pattern.n_stops):
        # Equal hashes of one process are equal ids here: the first one found has been compared.
        if pattern.id_hashes[i] == code and pattern.stops[i].s_m >= least_m:
            return i
    for i in range(found, pattern.n_stops):
        if pattern.id_hashes[i] != code:
            continue
        distance_m = sqrt(_before_stop(pattern, point, i + after, NAN, options).square_m2)
        if distance_m + options.near_equal_m < best:
            best = distance_m
            found = i
    return found


cdef int32_t _stop_said(
    const pattern_t* pattern, const char* text, text_t stop_id, int32_t sequence, int8_t current_status,
    const point_t* point, double progress_m, const options_t* options,
) noexcept nogil:
    # The next stop as the vehicle itself reports it; NO_STOP if it does not, or the pattern has nothing of the kind.
    cdef int32_t after = current_status == STOPPED_AT
    cdef int32_t stop = NO_STOP
    if sequence != NO_SEQUENCE:
        stop = _stop_of_sequence(pattern, sequence, True)
    if stop < 0 and stop_id.length > 0:
        stop = _stop_of_id(pattern, text + stop_id.start, stop_id.length, point, progress_m, after, options)
    if stop >= 0:
        return stop + after
    if sequence != NO_SEQUENCE:
        return _stop_of_sequence(pattern, sequence, False)
    return NO_STOP


cdef inline int _confirmations(
    int n_before, double before_m, place_t place, const options_t* options,
) noexcept nogil:
    # One more if the fix fits the line and brought the vehicle forward.
    if place.square_m2 <= options.fit_m * options.fit_m and place.s_m >= before_m + CONFIRM_M:
        return min(n_before + 1, MAX_CONFIRMATIONS)
    return n_before


cdef int32_t _stop_by_place(
    const pattern_t* pattern, const point_t* point, bint has_trip, double elapsed_s, const options_t* options,
    double* progress_m, uint8_t* strikes,
) noexcept nogil:
    # The next stop by projection; NO_STOP if the vehicle is off the route. progress_m: NaN if nothing is known.
    # Who has a trip and was confirmed on it never starts over: that trip does not go back, whatever the road does.
    cdef const segment_t* pieces = pattern.segments
    cdef int n_pieces = pattern.n_segments
    cdef double before_m = progress_m[0]
    cdef double penalty_m2 = options.heading_penalty_m * options.heading_penalty_m
    cdef double fit_m2 = options.fit_m * options.fit_m
    cdef double limit_m2 = options.max_off_route_m * options.max_off_route_m
    cdef double low_m, window_m
    cdef int limit, n_strikes = 0
    cdef int n_confirmations = strikes[0] >> 4
    cdef place_t place, other
    if not isnan(before_m):
        low_m = before_m - options.tolerance_m
        window_m = (elapsed_s if elapsed_s > 0.0 else 0.0) * options.max_speed_mps + options.slack_m
        place = _nearest(pieces, n_pieces, point, low_m, before_m + window_m, options.near_equal_m, penalty_m2)
        if place.square_m2 > fit_m2:
            other = _nearest(pieces, n_pieces, point, low_m, INFINITY, options.near_equal_m, penalty_m2)
            # A detour keeps its place; only a good fit farther on, or no fit at all here, moves the vehicle there.
            if other.square_m2 <= fit_m2 or place.square_m2 > limit_m2:
                place = other
        if place.square_m2 > fit_m2 and low_m > 0.0:
            other = _nearest(pieces, n_pieces, point, 0.0, low_m, options.near_equal_m, penalty_m2)
            if other.square_m2 <= options.restart_fit_m * options.restart_fit_m:
                # It stands where it stood, on the line and so not off its route, until the strikes are full.
                n_strikes = min((strikes[0] & MAX_STRIKES) + 1, MAX_STRIKES)
                place.s_m = before_m
                place.square_m2 = 0.0
                limit = options.strikes
                if has_trip:
                    limit = options.trip_strikes if n_confirmations < CONFIRMED else 0
                if 0 < limit <= n_strikes:
                    before_m = NAN
                    n_strikes = n_confirmations = 0
    if isnan(before_m):
        place = _nearest(pieces, n_pieces, point, 0.0, INFINITY, options.near_equal_m, penalty_m2)
    n_confirmations = _confirmations(n_confirmations, before_m, place, options)
    strikes[0] = <uint8_t>(n_confirmations << 4 | n_strikes)
    if place.square_m2 > limit_m2:
        return NO_STOP
    progress_m[0] = place.s_m if isnan(before_m) or place.s_m > before_m else before_m
    return _stop_after(pattern, progress_m[0])


def select_stops(Batch batch not None, PatternTable table not None, SelectOptions options not None):
    """Choose the next stop of every vehicle and say how far along its pattern it is.

    What the vehicle reports counts first: its ``current_stop_sequence``, then its ``stop_id`` (the stop after it when
    it is ``STOPPED_AT``), then the first stop with a greater sequence; its place is then the nearest one between the
    stop before and that stop. Otherwise its position is projected on the line: not behind its earlier progress, not
    farther than it can have driven, on the earliest of equally near passes, and preferably where the line leads its
    way. Without such words progress on a trip never goes back, except that a vehicle that was given its trip too early
    may start anew until it is confirmed on it, see `SelectOptions`.

    Parameters
    ----------
    batch : Batch
        IN: ``stop_id``, ``stop_sequence``, ``current_status``, ``lat``, ``lon``, ``bearing_deg``, ``time_us``,
        ``pattern_ix``, ``run_key`` (0 for a vehicle without a trip id, which may begin its pattern anew), the columns
        ``prev_*``. OUT: ``first_stop``, ``progress_m``, ``strikes``, and the motion: ``since_us``,
        ``recent_speed_mps``, ``since_s``. ``status`` of OK rows becomes ``OFF_ROUTE`` or ``TRIP_FINISHED`` where that
        is so.
    table : PatternTable
        Whose patterns the numbers are.
    options : SelectOptions
        Thresholds.

    Raises
    ------
    ValueError
        If a stop id lies outside the arena.
    """
    cdef Py_ssize_t i, n = batch.n_rows
    cdef columns_t columns = batch.columns    # a copy: nothing written can change it
    cdef options_t o = options.values
    cdef const pattern_t* pattern
    cdef point_t point
    cdef place_t place
    cdef int32_t stop
    cdef double before_m
    cdef Py_ssize_t bad = -1
    with nogil:
        for i in range(n):
            columns.first_stop[i] = NO_STOP
            columns.progress_m[i] = NAN
            columns.strikes[i] = 0
            if columns.status[i] != OK:
                continue
            pattern = pattern_at(table, columns.pattern_ix[i])
            if pattern == NULL or pattern.n_stops == 0:
                columns.status[i] = UNKNOWN_ROUTE
                continue
            if not inside(columns.stop_id[i], columns.n_text):
                bad = i
                break
            point = _point(columns.lat[i], columns.lon[i], columns.bearing_deg[i])
            before_m = columns.prev_progress_m[i]
            if not isnan(before_m):
                columns.strikes[i] = columns.prev_strikes[i]
                if columns.time_us[i] - columns.prev_time_us[i] > o.reset_after_us:
                    before_m = NAN
                    columns.strikes[i] = 0
            stop = _stop_said(
                pattern, <const char*>columns.text, columns.stop_id[i], columns.stop_sequence[i],
                columns.current_status[i], &point, before_m, &o)
            if stop >= 0:
                place = _before_stop(pattern, &point, stop, before_m, &o)
                if place.square_m2 > o.max_off_route_m * o.max_off_route_m:
                    stop = NO_STOP
                else:
                    columns.strikes[i] = <uint8_t>(_confirmations(columns.strikes[i] >> 4, before_m, place, &o) << 4)
                    before_m = place.s_m
            else:
                stop = _stop_by_place(
                    pattern, &point, columns.run_key[i] != 0,
                    1e-6 * <double>(columns.time_us[i] - columns.prev_time_us[i]), &o, &before_m, &columns.strikes[i])
            columns.progress_m[i] = before_m
            columns.first_stop[i] = stop
            if stop < 0:
                columns.status[i] = OFF_ROUTE
            elif stop >= pattern.n_stops:
                columns.status[i] = TRIP_FINISHED
        if bad < 0:
            measure_motion(columns, n, o.reset_after_us)
    if bad >= 0:
        raise ValueError(f"the stop id of row {bad} lies outside the arena")


def along(Line line not None, double lat, double lon, double stop_lat, double stop_lon, double near_equal_m=30.0):
    """Metres along the line from a vehicle to a stop; see `etacore.pipeline.features.along_shape_distance`."""
    cdef point_t vehicle = _point(lat, lon, NAN)
    cdef point_t stop = _point(stop_lat, stop_lon, NAN)
    cdef place_t at = _nearest(line.segments, line.n_segments, &vehicle, 0.0, INFINITY, near_equal_m, 0.0)
    cdef place_t ahead = _nearest(line.segments, line.n_segments, &stop, at.s_m, INFINITY, near_equal_m, 0.0)
    return at.s_m, at.square_m2 ** 0.5, ahead.s_m, ahead.square_m2 ** 0.5
