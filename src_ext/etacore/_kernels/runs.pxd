# Which of two directions a vehicle follows that names none, and what is known of its run.

from libc.math cimport INFINITY, fabs, isnan, sqrt

from etacore._kernels.geo cimport segment_at, segment_t
from etacore._kernels.places cimport find_heading, nearest, options_t, place_t, point_t
from etacore._kernels.routes cimport pattern_t

cdef enum:
    DIRECTION_M = 25             # a way that tells in which direction a vehicle drives

# What is remembered of the vehicle on its run, and what becomes of it with this fix.
cdef struct run_t:
    double progress_m        # NaN: nothing is remembered
    double fallback_m        # where the last strike saw it; NaN without strikes
    double elapsed_s
    int n_strikes
    int n_confirmations
    bint has_trip
    bint left_first_stop     # the first stop was reached before
    bint begins              # a new run


cdef inline double window_m(const run_t* run, const options_t* options) noexcept nogil:
    # How far it can have driven since the last fix.
    return (run.elapsed_s if run.elapsed_s > 0.0 else 0.0) * options.max_speed_mps + options.slack_m


cdef inline double cosine_along(const segment_t* piece, point_t* point) noexcept nogil:
    # Cosine of the angle between the way of a piece and the bearing; 0 if either is unknown.
    cdef double length_m = sqrt(piece.dx_m * piece.dx_m + piece.dy_m * piece.dy_m)
    find_heading(point)
    return (piece.dx_m * point.east + piece.dy_m * point.north) / length_m if length_m > 0.0 else 0.0


cdef enum choice_t:
    NEITHER
    THIS
    OTHER


cdef inline choice_t choose_direction(
    const pattern_t* this, const pattern_t* other, point_t* point, const run_t* run, bint is_chosen,
    const options_t* options, double* at_m,
) noexcept nogil:
    # Which of two directions a vehicle follows that names none; `at_m` is where on this one it is. Its movement decides,
    # then the nearer line, then its bearing; without any of them it stays undecided.
    cdef place_t here, there
    cdef double reach_m, moved_m, nearer_m, more_along
    if not isnan(run.progress_m):
        reach_m = window_m(run, options)
        here = nearest(
            this.segments, this.n_segments, point, run.progress_m - reach_m, run.progress_m + reach_m,
            options.near_equal_m, 0.0)
        at_m[0] = here.s_m
        if here.square_m2 <= options.fit_m * options.fit_m:
            moved_m = here.s_m - run.progress_m
            if moved_m >= DIRECTION_M or is_chosen and moved_m > -options.tolerance_m:
                return THIS
            if moved_m <= -options.tolerance_m or not is_chosen and moved_m <= -DIRECTION_M:
                return OTHER
    here = nearest(this.segments, this.n_segments, point, 0.0, INFINITY, options.near_equal_m, 0.0)
    there = nearest(other.segments, other.n_segments, point, 0.0, INFINITY, options.near_equal_m, 0.0)
    at_m[0] = here.s_m
    # Off both of them is off the route, whichever it is.
    if min(here.square_m2, there.square_m2) > options.max_off_route_m * options.max_off_route_m:
        return THIS
    nearer_m = sqrt(there.square_m2) - sqrt(here.square_m2)
    if fabs(nearer_m) > options.heading_penalty_m:
        return THIS if nearer_m > 0.0 else OTHER
    more_along = (
        cosine_along(&this.segments[segment_at(this.segments, this.n_segments, here.s_m)], point)
        - cosine_along(&other.segments[segment_at(other.segments, other.n_segments, there.s_m)], point)
    )
    if fabs(more_along) >= 0.5:
        return THIS if more_along > 0.0 else OTHER
    return NEITHER
