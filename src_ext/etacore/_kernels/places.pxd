# Where on a line a vehicle is.

from libc.math cimport INFINITY, NAN, cos, isfinite, sin, sqrt
from libc.stdint cimport int64_t

from etacore._kernels.geo cimport EARTH_RADIUS_M, project, radians, segment_at, segment_t, wrapped

cdef enum:
    N_KEPT = 256                 # costs that `nearest` keeps; 2 kB of stack

# The thresholds of `SelectOptions`, which explains them.
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
    double hint_slack_m          # farther from the part before the stop that it names, other parts are looked at
    double at_stop_m             # nearer to the stop at which it says to stand, it is there
    double reached_m             # nearer to the first stop, it has reached it
    double silence_s
    int strikes
    int trip_strikes             # the same for an unconfirmed vehicle with a trip id; 0 = never
    int run_strikes              # and for one that is confirmed on its run

# Where a vehicle is, prepared once; the unit vector of its bearing when it is first needed.
cdef struct point_t:
    double lat, lon
    double lon_rad, y_m
    double bearing_deg           # NaN once the vector is known
    double east, north           # both 0 if there is no bearing

# Where on the line, and how far from it (squared, without the penalty; infinite if nowhere).
cdef struct place_t:
    double s_m
    double square_m2


cdef inline point_t point_at(double lat, double lon, double bearing_deg) noexcept nogil:
    cdef point_t p
    p.lat = lat
    p.lon = lon
    p.lon_rad = radians(lon)
    p.y_m = radians(lat) * EARTH_RADIUS_M
    p.bearing_deg = bearing_deg
    p.east = p.north = 0.0
    return p


cdef inline void find_heading(point_t* point) noexcept nogil:
    if isfinite(point.bearing_deg):
        point.east = sin(radians(point.bearing_deg))
        point.north = cos(radians(point.bearing_deg))
        point.bearing_deg = NAN


cdef inline place_t nearest(
    const segment_t* pieces, int n_pieces, point_t* point, double low_m, double high_m, double near_equal_m,
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
    if first + 1 == n_pieces or pieces[first + 1].s_m >= high_m:
        # One piece: there is nothing to choose from.
        place.square_m2 = project(&pieces[first], point.lon_rad, point.y_m, low_m, high_m, &place.s_m)
        return place
    if penalty_m2 > 0.0:
        find_heading(point)
    for i in range(first, n_pieces):
        if i > first and pieces[i].s_m >= high_m:
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
        if i > first and pieces[i].s_m >= high_m:
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
        # A line that goes back the way it came is as near on the way back: the earlier place counts, not the last bit.
        if cost < best - 1e-3:
            best = cost
            place.s_m = s_m
            place.square_m2 = square
    return place
