"""Which stop comes next: from what the vehicle says, else from where it is and how far it was before."""

from libc.math cimport INFINITY, NAN, cos, isfinite, isnan, sin, sqrt
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

cimport numpy as cnp

from etacore._kernels.arrays cimport (
    bytes_in, bytes_out, double_in, double_out, float_in, int8_in, int32_in, int32_out, int64_in, texts_in, uint64_in,
)
from etacore._kernels.geo cimport EARTH_RADIUS_M, project, radians, segment_at, segment_t, wrapped
from etacore._kernels.index cimport hash_text
from etacore._kernels.motion cimport MotionPointers
from etacore._kernels.routes cimport Line, PatternTable, pattern_at, pattern_t
from etacore._kernels.text cimport inside
from etacore._kernels.types cimport (
    NO_SEQUENCE, NO_STOP, OFF_ROUTE, OK, STOPPED_AT, TRIP_FINISHED, UNKNOWN_ROUTE, text_t,
)

cnp.import_array()

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


def select(
    PatternTable table not None, cnp.ndarray arena not None, cnp.ndarray status not None,
    cnp.ndarray stop_id not None, cnp.ndarray stop_sequence not None, cnp.ndarray current_status not None,
    cnp.ndarray lat not None, cnp.ndarray lon not None, cnp.ndarray bearing_deg not None, cnp.ndarray time_us not None,
    cnp.ndarray pattern_ix not None, cnp.ndarray trip_key not None, cnp.ndarray prev_progress_m not None,
    cnp.ndarray prev_time_us not None, cnp.ndarray prev_strikes not None, tuple options not None,
    cnp.ndarray first_stop not None, cnp.ndarray progress_m not None, cnp.ndarray strikes not None,
    MotionPointers motion,
):
    """Next stop and progress of every OK row; see `etacore.pipeline.features.select_stops`."""
    cdef Py_ssize_t i, n = cnp.PyArray_SIZE(pattern_ix)
    cdef Py_ssize_t n_arena = cnp.PyArray_SIZE(arena)
    cdef options_t o
    cdef const char* text = <const char*>bytes_in(arena, b"arena", 0)
    cdef uint8_t* statuses = bytes_out(status, b"status", n)
    cdef const text_t* stop_ids = texts_in(stop_id, b"stop_id", n)
    cdef const int32_t* sequences = int32_in(stop_sequence, b"stop_sequence", n)
    cdef const int8_t* current = int8_in(current_status, b"current_status", n)
    cdef const double* lats = double_in(lat, b"lat", n)
    cdef const double* lons = double_in(lon, b"lon", n)
    cdef const float* bearings = float_in(bearing_deg, b"bearing_deg", n)
    cdef const int64_t* times = int64_in(time_us, b"time_us", n)
    cdef const int32_t* patterns = int32_in(pattern_ix, b"pattern_ix", n)
    cdef const uint64_t* trips = uint64_in(trip_key, b"trip_key", n)
    cdef const double* progress_before = double_in(prev_progress_m, b"prev_progress_m", n)
    cdef const int64_t* times_before = int64_in(prev_time_us, b"prev_time_us", n)
    cdef const uint8_t* strikes_before = bytes_in(prev_strikes, b"prev_strikes", n)
    cdef int32_t* first_stops = int32_out(first_stop, b"first_stop", n)
    cdef double* progress = double_out(progress_m, b"progress_m", n)
    cdef uint8_t* struck = bytes_out(strikes, b"strikes", n)
    cdef const pattern_t* pattern
    cdef point_t point
    cdef place_t place
    cdef int32_t stop
    cdef double before_m
    cdef Py_ssize_t bad = -1
    if motion is not None:
        motion.require(n)
    (o.max_off_route_m, o.max_speed_mps, o.slack_m, o.tolerance_m, o.fit_m, o.restart_fit_m, o.near_equal_m,
     o.heading_penalty_m, o.reset_after_us, o.strikes,
     o.trip_strikes) = options
    with nogil:
        for i in range(n):
            first_stops[i] = NO_STOP
            progress[i] = NAN
            struck[i] = 0
            if statuses[i] != OK:
                continue
            pattern = pattern_at(table, patterns[i])
            if pattern == NULL or pattern.n_stops == 0:
                statuses[i] = UNKNOWN_ROUTE
                continue
            if not inside(stop_ids[i], n_arena):
                bad = i
                break
            point = _point(lats[i], lons[i], bearings[i])
            before_m = progress_before[i]
            if not isnan(before_m):
                struck[i] = strikes_before[i]
                if times[i] - times_before[i] > o.reset_after_us:
                    before_m = NAN
                    struck[i] = 0
            stop = _stop_said(
                pattern, text, stop_ids[i], sequences[i], current[i], &point, before_m, &o)
            if stop >= 0:
                place = _before_stop(pattern, &point, stop, before_m, &o)
                if place.square_m2 > o.max_off_route_m * o.max_off_route_m:
                    stop = NO_STOP
                else:
                    struck[i] = <uint8_t>(_confirmations(struck[i] >> 4, before_m, place, &o) << 4)
                    before_m = place.s_m
            else:
                stop = _stop_by_place(
                    pattern, &point, trips[i] != 0, 1e-6 * <double>(times[i] - times_before[i]), &o, &before_m,
                    &struck[i])
            progress[i] = before_m
            first_stops[i] = stop
            if stop < 0:
                statuses[i] = OFF_ROUTE
            elif stop >= pattern.n_stops:
                statuses[i] = TRIP_FINISHED
        if motion is not None and bad < 0 and n > 0:
            motion.measure(
                n, statuses, times, progress, first_stops, progress_before, times_before, o.reset_after_us)
    if bad >= 0:
        raise ValueError(f"the stop id of row {bad} lies outside the arena")


def along(Line line not None, double lat, double lon, double stop_lat, double stop_lon, double near_equal_m):
    """Metres along the line from a vehicle to a stop; see `etacore.pipeline.features.along_shape_distance`."""
    cdef point_t vehicle = _point(lat, lon, NAN)
    cdef point_t stop = _point(stop_lat, stop_lon, NAN)
    cdef place_t at = _nearest(line.segments, line.n_segments, &vehicle, 0.0, INFINITY, near_equal_m, 0.0)
    cdef place_t ahead = _nearest(line.segments, line.n_segments, &stop, at.s_m, INFINITY, near_equal_m, 0.0)
    return at.s_m, at.square_m2 ** 0.5, ahead.s_m, ahead.square_m2 ** 0.5
