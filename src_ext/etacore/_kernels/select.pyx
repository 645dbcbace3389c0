"""Which stop comes next: from what the vehicle says, else from where it is and how far it was before."""

cimport cython
from libc.math cimport INFINITY, NAN, isfinite, isnan, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from etacore._kernels.batch cimport Batch, columns_t
from etacore._kernels.geo cimport segment_t, unit_vector, vector_distance_m, vector_t
from etacore._kernels.index cimport hash_text
from etacore._kernels.motion cimport SPEED_TAU_S as _SPEED_TAU_S, measure_motion
from etacore._kernels.places cimport nearest, options_t, place_t, point_at, point_t
from etacore._kernels.routes cimport Line, PatternTable, pattern_at, pattern_t, stop_t
from etacore._kernels.runs cimport NEITHER, OTHER, choice_t, choose_direction, run_t, window_m
from etacore._kernels.text cimport inside
from etacore._kernels.types cimport (
    DIRECTION_UNKNOWN, HINT_CONTRADICTED, HINT_FOLLOWED, HINT_UNKNOWN, NO_HINT, NO_SEQUENCE, NO_STOP, OFF_ROUTE, OK,
    STOPPED_AT, TRIP_FINISHED, UNKNOWN_ROUTE, text_t,
)

from etacore.errors import ConfigError

SPEED_TAU_S = <double>_SPEED_TAU_S

cdef enum:
    MAX_STRIKES = 15             # four bits each, one byte: confirmations << 4 | strikes
    MAX_CONFIRMATIONS = 15
    CONFIRMED = 3                # with so many, the vehicle is on its run
    UNDECIDED = 65535            # the next stop of a vehicle whose direction was not known: NO_STOP in 16 bits

# A fix that brings the vehicle forward by less may be GPS noise, and confirms nothing.
cdef double CONFIRM_M = 10.0
# First and last stop of a circular line are this near.
cdef double ENDS_MEET_M = 150.0
# Whoever is beyond this share of the way, and on the last leg, may be at the begin next.
cdef double LAST_PART = 0.9

@cython.final
cdef class SelectOptions:
    """How positions are matched to a pattern's line.

    Parameters
    ----------
    max_off_route_m : float
        Farther from the line than this, a vehicle is off its route.
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
        fixes fitted the line and each brought it 10 m forward, a vehicle is confirmed on its run.
    run_strikes : int
        The same for a vehicle that is confirmed on its run; then only fixes count that go on from the earlier part.
    silence_s : float
        After a silence of more than this one strike is enough.
    hint_slack_m : float
        A vehicle that is farther from the part before the stop that it names has to be as near to it as to the rest of
        the line, within this or half the distance, or its position contradicts it.
    at_stop_m : float
        Nearer than this, a vehicle that is ``STOPPED_AT`` a stop is there.
    reached_m : float
        Nearer than this, a vehicle has reached the first stop of its trip.
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
        int trip_strikes=5, int run_strikes=3, double near_equal_m=30.0, double heading_penalty_m=60.0,
        double reset_after_s=3600.0, double silence_s=600.0, double hint_slack_m=50.0, double at_stop_m=75.0,
        double reached_m=50.0,
    ):
        self._given = {
            "max_off_route_m": max_off_route_m, "max_speed_mps": max_speed_mps, "slack_m": slack_m,
            "tolerance_m": tolerance_m, "fit_m": fit_m, "restart_fit_m": restart_fit_m,
            "restart_strikes": restart_strikes, "trip_strikes": trip_strikes, "run_strikes": run_strikes,
            "near_equal_m": near_equal_m, "heading_penalty_m": heading_penalty_m, "reset_after_s": reset_after_s,
            "silence_s": silence_s, "hint_slack_m": hint_slack_m, "at_stop_m": at_stop_m, "reached_m": reached_m,
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
        self.values.run_strikes = run_strikes
        self.values.silence_s = silence_s
        self.values.hint_slack_m = hint_slack_m
        self.values.at_stop_m = at_stop_m
        self.values.reached_m = reached_m

    def __getattr__(self, str name):
        if name not in self._given:
            raise AttributeError(f"there is no option {name!r}")
        return self._given[name]


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


cdef int32_t _stop_of_sequence(const pattern_t* pattern, int32_t sequence) noexcept nogil:
    # The first stop with this sequence; NO_STOP if there is none.
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
        if low < pattern.n_stops and pattern.stops[low].sequence == sequence:
            return low
        return NO_STOP
    for i in range(pattern.n_stops):
        if pattern.stops[i].sequence == sequence:
            return i
    return NO_STOP


cdef place_t _before_stop(
    const pattern_t* pattern, point_t* point, int32_t next_stop, double progress_m, const options_t* options,
) noexcept nogil:
    # The place of a vehicle whose next stop is known: between the stop before and that stop, and not behind its
    # earlier progress if that lies there too.
    cdef double low_m = pattern.stops[next_stop - 1].s_m if next_stop > 0 else 0.0
    cdef double high_m = pattern.stops[next_stop].s_m if next_stop < pattern.n_stops else pattern.length_m
    # A millimetre more on both sides: the last stop and the end of the line differ in the last bit.
    if low_m - 1e-3 <= progress_m <= high_m + 1e-3:
        low_m = min(progress_m, high_m)
    return nearest(
        pattern.segments, pattern.n_segments, point, low_m, high_m, options.near_equal_m,
        options.heading_penalty_m * options.heading_penalty_m)


cdef int32_t _stop_of_id(
    const pattern_t* pattern, const char* text, int32_t length, point_t* point, double progress_m,
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


cdef inline void _begin(run_t* run) noexcept nogil:
    run.progress_m = NAN
    run.fallback_m = NAN
    run.n_strikes = run.n_confirmations = 0
    run.left_first_stop = False
    run.begins = True


cdef inline vector_t _vector_of(const stop_t* stop) noexcept nogil:
    cdef vector_t vector
    vector.x, vector.y, vector.z = stop.x, stop.y, stop.z
    return vector


cdef inline double _to_stop_m(const pattern_t* pattern, int32_t stop, point_t* point) noexcept nogil:
    return vector_distance_m(unit_vector(point.lat, point.lon), _vector_of(&pattern.stops[stop]))


cdef inline bint _ends_meet(const pattern_t* pattern) noexcept nogil:
    return vector_distance_m(
        _vector_of(&pattern.stops[0]), _vector_of(&pattern.stops[pattern.n_stops - 1])) <= ENDS_MEET_M


cdef inline bint _starts_over(
    const pattern_t* pattern, double s_m, const run_t* run, const options_t* options,
) noexcept nogil:
    # Whether a vehicle seen at an earlier place s_m is on its next run: after a silence, on the first leg after the
    # last one, or, where the ends meet, as far beyond the end as it can have driven.
    if run.elapsed_s > options.silence_s:
        return True
    if (
        run.progress_m < pattern.stops[pattern.n_stops - 2].s_m
        or run.progress_m < LAST_PART * pattern.stops[pattern.n_stops - 1].s_m
    ):
        return False
    return s_m <= pattern.stops[1].s_m or (
        pattern.length_m + s_m <= run.progress_m + window_m(run, options) and _ends_meet(pattern))


cdef bint _bears_out(
    const pattern_t* pattern, point_t* point, int32_t stop, bint is_at_stop_before, run_t* run,
    const options_t* options, place_t* place,
) noexcept nogil:
    # Whether the position agrees that this is the next stop, and where the vehicle is then. It does if the vehicle is
    # about as near to the part before the stop as to any other, and if that part is not out of reach of what it is
    # known to have driven, where it is as near to the line within reach.
    cdef place_t other
    cdef double limit_m
    place[0] = _before_stop(pattern, point, stop, run.progress_m, options)
    if not is_at_stop_before and place.square_m2 > options.hint_slack_m * options.hint_slack_m:
        other = nearest(pattern.segments, pattern.n_segments, point, 0.0, INFINITY, options.near_equal_m, 0.0)
        limit_m = sqrt(other.square_m2)
        limit_m += max(options.hint_slack_m, 0.5 * limit_m)
        if place.square_m2 > limit_m * limit_m:
            return False
    if isnan(run.progress_m):
        return True
    if place.s_m < run.progress_m - options.tolerance_m:
        if _starts_over(pattern, place.s_m, run, options):
            _begin(run)
            return True
        if run.n_confirmations < CONFIRMED:
            return True
    elif place.s_m <= run.progress_m + window_m(run, options) or run.n_confirmations < CONFIRMED:
        return True
    other = nearest(
        pattern.segments, pattern.n_segments, point, run.progress_m - options.tolerance_m,
        run.progress_m + window_m(run, options), options.near_equal_m, 0.0)
    limit_m = sqrt(place.square_m2) + options.near_equal_m
    return other.square_m2 > options.fit_m * options.fit_m or other.square_m2 > limit_m * limit_m


cdef int32_t _stop_said(
    const pattern_t* pattern, const columns_t* columns, Py_ssize_t i, point_t* point, run_t* run,
    const options_t* options, place_t* place, uint8_t* hint,
) noexcept nogil:
    # The next stop as the vehicle itself reports it, if its position bears that out; else NO_STOP, and why.
    cdef bint stands = columns.current_status[i] == STOPPED_AT
    cdef text_t stop_id = columns.stop_id[i]
    cdef int32_t stop
    cdef int named
    hint[0] = NO_HINT
    for named in range(2):
        if named == 0:
            if columns.stop_sequence[i] == NO_SEQUENCE:
                continue
            stop = _stop_of_sequence(pattern, columns.stop_sequence[i])
        else:
            if stop_id.length <= 0:
                continue
            stop = _stop_of_id(
                pattern, <const char*>columns.text + stop_id.start, stop_id.length, point, run.progress_m, stands,
                options)
        if stop < 0:
            hint[0] = max(hint[0], <uint8_t>HINT_UNKNOWN)
            continue
        if stands and _to_stop_m(pattern, stop, point) <= options.at_stop_m:
            if _bears_out(pattern, point, stop + 1, True, run, options, place):
                hint[0] = HINT_FOLLOWED
                return stop + 1
        elif _bears_out(pattern, point, stop, False, run, options, place):
            hint[0] = HINT_FOLLOWED
            return stop
        hint[0] = HINT_CONTRADICTED
    return NO_STOP


cdef inline void _confirm(run_t* run, double before_m, place_t place, const options_t* options) noexcept nogil:
    # One more if the fix fits the line and brought the vehicle forward.
    if place.square_m2 <= options.fit_m * options.fit_m and place.s_m >= before_m + CONFIRM_M:
        run.n_confirmations = min(run.n_confirmations + 1, MAX_CONFIRMATIONS)


cdef void _strike(const pattern_t* pattern, double s_m, run_t* run, const options_t* options) noexcept nogil:
    # The vehicle fits the earlier place s_m, and nothing ahead of it. Of a vehicle that was confirmed on its run only
    # fixes count that go on from there: one that drives the line backwards is on its way to the begin, or on a detour.
    cdef int limit
    cdef bint is_confirmed = run.has_trip and run.n_confirmations >= CONFIRMED
    if not is_confirmed or isnan(run.fallback_m) or s_m >= run.fallback_m + CONFIRM_M:
        run.n_strikes = min(run.n_strikes + 1, MAX_STRIKES)
    elif s_m < run.fallback_m - options.tolerance_m:
        run.n_strikes = 1
    run.fallback_m = s_m
    if not run.has_trip:
        limit = options.strikes
    elif is_confirmed:
        limit = options.run_strikes
    else:
        limit = options.trip_strikes
    if _starts_over(pattern, s_m, run, options):
        limit = 1
    if 0 < limit <= run.n_strikes:
        _begin(run)


cdef int32_t _stop_by_place(
    const pattern_t* pattern, point_t* point, run_t* run, const options_t* options, place_t* place,
) noexcept nogil:
    # The next stop by projection; NO_STOP if the vehicle is off the route.
    cdef const segment_t* pieces = pattern.segments
    cdef int n_pieces = pattern.n_segments
    cdef double before_m = run.progress_m
    cdef double penalty_m2 = options.heading_penalty_m * options.heading_penalty_m
    cdef double fit_m2 = options.fit_m * options.fit_m
    cdef double limit_m2 = options.max_off_route_m * options.max_off_route_m
    cdef double low_m
    cdef bint is_struck = False
    cdef int32_t stop
    cdef place_t other
    if not isnan(before_m):
        low_m = before_m - options.tolerance_m
        place[0] = nearest(
            pieces, n_pieces, point, low_m, before_m + window_m(run, options), options.near_equal_m, penalty_m2)
        if place.square_m2 > fit_m2:
            other = nearest(pieces, n_pieces, point, low_m, INFINITY, options.near_equal_m, penalty_m2)
            # A detour keeps its place; only a good fit farther on, or no fit at all here, moves the vehicle there.
            if other.square_m2 <= fit_m2 or place.square_m2 > limit_m2:
                place[0] = other
        if place.square_m2 > fit_m2 and low_m > 0.0:
            other = nearest(pieces, n_pieces, point, 0.0, low_m, options.near_equal_m, penalty_m2)
            if other.square_m2 <= options.restart_fit_m * options.restart_fit_m:
                # It stands where it stood, on the line and so not off its route, until the strikes are full.
                is_struck = True
                place.s_m = before_m
                place.square_m2 = 0.0
                _strike(pattern, other.s_m, run, options)
                before_m = run.progress_m
    if not is_struck:
        run.n_strikes = 0
        run.fallback_m = NAN
    if isnan(before_m):
        place[0] = nearest(pieces, n_pieces, point, 0.0, INFINITY, options.near_equal_m, penalty_m2)
    _confirm(run, before_m, place[0], options)
    if place.square_m2 > limit_m2:
        return NO_STOP
    if not isnan(before_m) and before_m > place.s_m:
        place.s_m = before_m
    stop = _stop_after(pattern, place.s_m)
    if stop == pattern.n_stops and not isnan(before_m) and _ends_meet(pattern):
        _begin(run)
        other = nearest(pieces, n_pieces, point, 0.0, pattern.stops[1].s_m, options.near_equal_m, penalty_m2)
        if other.square_m2 <= limit_m2:
            place[0] = other
            stop = _stop_after(pattern, place.s_m)
    return stop


cdef bint _is_before_begin(
    const pattern_t* pattern, point_t* point, int32_t stop, bint is_said, const run_t* run, const options_t* options,
    const place_t* place,
) noexcept nogil:
    # Whether a vehicle that was not seen at or past the first stop of this run is still on its way there: before the
    # begin of the line; on the first leg, but farther beside the line than beyond its begin; or, of a vehicle with a
    # trip, so far off the line that it has not come to it yet. A line of nothing but stops is a rough one.
    cdef double beyond_m = place.s_m - pattern.stops[0].s_m
    cdef double far_m
    if beyond_m <= CONFIRM_M:
        return _to_stop_m(pattern, 0, point) > options.reached_m
    if is_said or place.square_m2 <= options.reached_m * options.reached_m:
        return False
    if stop > 1 or place.square_m2 <= beyond_m * beyond_m:
        if not run.has_trip or stop == pattern.n_stops:
            return False
        far_m = options.fit_m
        if pattern.n_segments < pattern.n_stops:
            far_m = max(far_m, 0.5 * (pattern.stops[stop].s_m - pattern.stops[stop - 1].s_m))
        if place.square_m2 <= far_m * far_m:
            return False
    return True


cdef inline void _leave(const columns_t* columns, Py_ssize_t i) noexcept nogil:
    # A row that gets no stop.
    columns.first_stop[i] = NO_STOP
    columns.progress_m[i] = NAN
    columns.strikes[i] = 0
    columns.fallback_m[i] = NAN


def select_stops(Batch batch not None, PatternTable table not None, SelectOptions options not None):
    """Choose the next stop of every vehicle and say how far along its pattern it is.

    What the vehicle reports counts first, if its position bears it out: its ``current_stop_sequence``, then its
    ``stop_id``; the stop after it when it is ``STOPPED_AT`` and there. Its place is then the nearest one between the
    stop before and that stop. A stop that the pattern lacks, or that lies elsewhere, is no hint; ``stop_hint`` says so.
    Otherwise its position is projected on the line: not behind its earlier progress, not farther than it can have
    driven, on the earliest of equally near passes, and preferably where the line leads its way. Until a vehicle reached
    the first stop, or came to the line beyond it, that is its next one.

    Progress on a run does not go back. A new run begins when the vehicle is at the begin again after the last leg, when
    several fixes in a row fit an earlier part and nothing ahead (of a vehicle that is confirmed on its run only fixes
    that go on from there), at once after a silence, and at the end of a line whose ends meet.

    A vehicle that may be on either of two directions follows the one on which it moves forward, else the nearer one,
    else the one that leads where its bearing points.

    Parameters
    ----------
    batch : Batch
        IN: ``stop_id``, ``stop_sequence``, ``current_status``, ``lat``, ``lon``, ``bearing_deg``, ``time_us``,
        ``run_key`` (0 for a vehicle without a trip id, which may begin its pattern anew). INOUT: ``pattern_ix`` and
        ``other_pattern_ix``, which change places where the vehicle follows the other one; the columns ``prev_*``, of
        which ``prev_progress_m`` is NaN where a run begins. OUT: ``first_stop``, ``progress_m``, ``strikes``,
        ``fallback_m``, ``stop_hint``, and the motion: ``since_us``, ``recent_speed_mps``, ``since_s``. ``status`` of OK
        rows becomes ``OFF_ROUTE``, ``TRIP_FINISHED`` or ``DIRECTION_UNKNOWN`` where that is so.
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
    cdef const pattern_t* other
    cdef point_t point
    cdef place_t place
    cdef run_t run
    cdef choice_t choice
    cdef int32_t stop
    cdef double at_m
    cdef Py_ssize_t bad = -1
    with nogil:
        for i in range(n):
            columns.stop_hint[i] = NO_HINT
            if columns.status[i] != OK:
                _leave(&columns, i)
                continue
            pattern = pattern_at(table, columns.pattern_ix[i])
            if pattern == NULL or pattern.n_stops == 0:
                columns.status[i] = UNKNOWN_ROUTE
                _leave(&columns, i)
                continue
            if not inside(columns.stop_id[i], columns.n_text):
                bad = i
                break
            point = point_at(columns.lat[i], columns.lon[i], columns.bearing_deg[i])
            run.progress_m = columns.prev_progress_m[i]
            run.fallback_m = columns.prev_fallback_m[i]
            run.elapsed_s = 1e-6 * <double>(columns.time_us[i] - columns.prev_time_us[i])
            run.n_strikes = columns.prev_strikes[i] & MAX_STRIKES
            run.n_confirmations = columns.prev_strikes[i] >> 4
            run.has_trip = columns.run_key[i] != 0
            run.left_first_stop = 0 < columns.prev_stop[i] < UNDECIDED
            run.begins = False
            if isnan(run.progress_m) or columns.time_us[i] - columns.prev_time_us[i] > o.reset_after_us:
                _begin(&run)
            if columns.other_pattern_ix[i] >= 0:
                other = pattern_at(table, columns.other_pattern_ix[i])
                if other != NULL and other.n_stops > 0:
                    choice = choose_direction(
                        pattern, other, &point, &run, columns.prev_stop[i] != UNDECIDED, &o, &at_m)
                    if choice == NEITHER:
                        columns.status[i] = DIRECTION_UNKNOWN
                        _leave(&columns, i)
                        columns.progress_m[i] = at_m
                        continue
                    if choice == OTHER:
                        pattern = other
                        columns.pattern_ix[i], columns.other_pattern_ix[i] = (
                            columns.other_pattern_ix[i], columns.pattern_ix[i])
                        _begin(&run)
            stop = NO_STOP
            if columns.stop_sequence[i] != NO_SEQUENCE or columns.stop_id[i].length > 0:
                stop = _stop_said(pattern, &columns, i, &point, &run, &o, &place, &columns.stop_hint[i])
            if stop >= 0:
                run.n_strikes = 0
                run.fallback_m = NAN
                _confirm(&run, run.progress_m, place, &o)
                if place.square_m2 > o.max_off_route_m * o.max_off_route_m:
                    stop = NO_STOP
            else:
                stop = _stop_by_place(pattern, &point, &run, &o, &place)
            if stop > 0 and not run.left_first_stop and _is_before_begin(
                pattern, &point, stop, columns.stop_hint[i] == HINT_FOLLOWED, &run, &o, &place
            ):
                stop = 0
                # It has driven nothing of its run yet.
                place.s_m = min(place.s_m, pattern.stops[0].s_m if isnan(run.progress_m) else run.progress_m)
                run.n_confirmations = min(run.n_confirmations, columns.prev_strikes[i] >> 4)
            columns.progress_m[i] = place.s_m
            columns.strikes[i] = <uint8_t>(run.n_confirmations << 4 | run.n_strikes)
            columns.fallback_m[i] = <float>run.fallback_m
            columns.first_stop[i] = stop
            if run.begins:
                columns.prev_progress_m[i] = NAN
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
    cdef point_t vehicle = point_at(lat, lon, NAN)
    cdef point_t stop = point_at(stop_lat, stop_lon, NAN)
    cdef place_t at = nearest(line.segments, line.n_segments, &vehicle, 0.0, INFINITY, near_equal_m, 0.0)
    cdef place_t ahead = nearest(line.segments, line.n_segments, &stop, at.s_m, INFINITY, near_equal_m, 0.0)
    return at.s_m, at.square_m2 ** 0.5, ahead.s_m, ahead.square_m2 ** 0.5
