# Distances on a sphere of 6371 km, and points against a line.

from libc.math cimport M_PI, asin, cos, sin, sqrt

cdef enum:
    EARTH_RADIUS_M = 6371000

cdef struct vector_t:
    double x, y, z


cdef inline double radians(double degrees) noexcept nogil:
    return degrees * (M_PI / 180.0)


cdef inline vector_t unit_vector(double lat_deg, double lon_deg) noexcept nogil:
    cdef double lat = radians(lat_deg)
    cdef double lon = radians(lon_deg)
    cdef double cos_lat = cos(lat)
    cdef vector_t v
    v.x = cos_lat * cos(lon)
    v.y = cos_lat * sin(lon)
    v.z = sin(lat)
    return v


cdef inline double chord_to_m(double square) noexcept nogil:
    # haversine's h is a quarter of the squared chord between the unit vectors, exactly, so the great circle is
    # 2 R asin(chord / 2): no sine per pair of points, and as accurate (the vectors differ from the truth by 1e-16,
    # a nanometre on the ground). Below 63 km the series of asin is exact to the last bit and cheaper.
    cdef double h = 0.25 * square
    if h < 2.5e-5:
        return (2.0 * EARTH_RADIUS_M) * sqrt(h) * (
            1.0 + h * (1.0 / 6.0 + h * (3.0 / 40.0 + h * (15.0 / 336.0))))
    return (2.0 * EARTH_RADIUS_M) * asin(sqrt(h if h < 1.0 else 1.0))


cdef inline double distance_m(double x, double y, double z, double x2, double y2, double z2) noexcept nogil:
    x -= x2
    y -= y2
    z -= z2
    return chord_to_m(x * x + y * y + z * z)


cdef inline double vector_distance_m(vector_t a, vector_t b) noexcept nogil:
    return distance_m(a.x, a.y, a.z, b.x, b.y, b.z)


cdef inline double wrapped(double lon_rad) noexcept nogil:
    # A difference of two longitudes, the short way round.
    if lon_rad > M_PI:
        return lon_rad - 2.0 * M_PI
    if lon_rad < -M_PI:
        return lon_rad + 2.0 * M_PI
    return lon_rad


cdef inline double clipped(double value, double low, double high) noexcept nogil:
    return low if value < low else (high if value > high else value)


# A piece of a line, one cache line, in a flat frame of its own that is true around this piece.
cdef struct segment_t:
    double lon_rad, y_m      # where it begins: longitude, latitude * earth radius
    double x_scale_m         # metres per radian of longitude here
    double dx_m, dy_m        # to its end: east, north
    double inverse_square    # 1 / (dx^2 + dy^2), 0 for a piece without length
    double s_m, length_m     # metres along the line at its begin; its own length


cdef inline double project(
    const segment_t* piece, double lon_rad, double y_m, double low_m, double high_m, double* s_m
) noexcept nogil:
    # Squared distance (m^2) of a point to what of the piece lies in [low_m, high_m] along the line, and the place
    # `s_m` of the nearest point there. The piece has to reach into that range.
    cdef double dx = wrapped(lon_rad - piece.lon_rad) * piece.x_scale_m
    cdef double dy = y_m - piece.y_m
    cdef double t = clipped((dx * piece.dx_m + dy * piece.dy_m) * piece.inverse_square, 0.0, 1.0)
    cdef double s = piece.s_m + t * piece.length_m
    if s < low_m or s > high_m:
        s = clipped(s, low_m, high_m)
        t = clipped((s - piece.s_m) / piece.length_m, 0.0, 1.0) if piece.length_m > 0.0 else 0.0
    s_m[0] = s
    dx -= t * piece.dx_m
    dy -= t * piece.dy_m
    return dx * dx + dy * dy


cdef inline int segment_at(const segment_t* pieces, int n_pieces, double s_m) noexcept nogil:
    # The last piece that begins at or before s_m (the first piece if none does).
    cdef int low = 0
    cdef int high = n_pieces
    cdef int middle
    while high - low > 1:
        middle = (low + high) >> 1
        if pieces[middle].s_m <= s_m:
            low = middle
        else:
            high = middle
    return low
