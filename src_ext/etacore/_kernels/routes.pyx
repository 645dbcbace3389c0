"""Patterns as flat C arrays: stops, the line that joins them, ready-made JSON for each stop."""

import numpy as np

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.math cimport INFINITY, cos
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from etacore._kernels.geo cimport (
    EARTH_RADIUS_M, project, radians, unit_vector, vector_distance_m, vector_t, wrapped,
)
from etacore._kernels.index cimport hash_text
from etacore._kernels.types cimport OK

cdef enum:
    MAX_PLACEMENT_CELLS = 1 << 22     # stops x pieces of a shape: 16 MB of links while a pattern is read, at most

cdef double MAX_STOP_TO_SHAPE_M = 500.0
# Of a line that goes back the way it came the first pass counts, not the last bit of a double.
cdef double SAME_M2 = 1e-3


cdef double _lay(segment_t* pieces, const double[::1] lat, const double[::1] lon) noexcept nogil:
    # Fills lat.shape[0] - 1 pieces and returns the length of the line.
    cdef Py_ssize_t i
    cdef double s_m = 0.0
    cdef segment_t* piece
    cdef vector_t here = unit_vector(lat[0], lon[0])
    cdef vector_t there
    for i in range(lat.shape[0] - 1):
        piece = &pieces[i]
        there = unit_vector(lat[i + 1], lon[i + 1])
        piece.lon_rad = radians(lon[i])
        piece.y_m = radians(lat[i]) * EARTH_RADIUS_M
        piece.x_scale_m = EARTH_RADIUS_M * cos(0.5 * radians(lat[i] + lat[i + 1]))
        piece.dx_m = wrapped(radians(lon[i + 1]) - piece.lon_rad) * piece.x_scale_m
        piece.dy_m = radians(lat[i + 1]) * EARTH_RADIUS_M - piece.y_m
        piece.inverse_square = piece.dx_m * piece.dx_m + piece.dy_m * piece.dy_m
        if piece.inverse_square > 0.0:
            piece.inverse_square = 1.0 / piece.inverse_square
        piece.s_m = s_m
        piece.length_m = vector_distance_m(here, there)
        s_m += piece.length_m
        here = there
    return s_m


cdef int _place(
    const segment_t* pieces, Py_ssize_t n_pieces, const double[::1] lat, const double[::1] lon, double length_m,
    double* s_m, double* worst_m2,
) except -1:
    # Puts every stop on the line so that no stop lies before the one in front of it and the sum of squared distances
    # is least: shapes pass a place twice, and only the order of all stops says which pass a stop belongs to.
    #
    # cost[j] is the least sum when the current stop lies on piece j; `link` remembers where the stop before lay. On
    # an earlier piece it is before in any case, so a running minimum serves; on the same piece the place is pushed
    # forward if need be. Among equal sums the earlier piece wins.
    cdef Py_ssize_t n_stops = lat.shape[0]
    cdef Py_ssize_t i, j, best_j
    cdef double lon_rad, y_m, square, square_after, place, place_after, best
    cdef double* cost = <double*>PyMem_RawMalloc(<size_t>n_pieces * 2 * sizeof(double))
    cdef int32_t* link = <int32_t*>PyMem_RawMalloc(<size_t>(n_pieces * n_stops) * sizeof(int32_t))
    cdef double* at = cost + n_pieces
    if cost == NULL or link == NULL:
        PyMem_RawFree(cost)
        PyMem_RawFree(link)
        raise MemoryError()
    with nogil:
        for i in range(n_stops):
            lon_rad = radians(lon[i])
            y_m = radians(lat[i]) * EARTH_RADIUS_M
            best = INFINITY if i else 0.0
            best_j = -1
            for j in range(n_pieces):
                square = project(&pieces[j], lon_rad, y_m, 0.0, length_m, &place)
                if i == 0:
                    cost[j], at[j], link[j] = square, place, -1
                    continue
                # cost[j], at[j] still speak of the stop before.
                square_after = square
                place_after = place
                if at[j] > place:
                    square_after = project(&pieces[j], lon_rad, y_m, at[j], length_m, &place_after)
                if best_j >= 0 and best + square <= cost[j] + square_after + SAME_M2:
                    square += best
                    link[i * n_pieces + j] = <int32_t>best_j
                else:
                    square = cost[j] + square_after
                    place = place_after
                    link[i * n_pieces + j] = <int32_t>j
                if cost[j] < best - SAME_M2:
                    best = cost[j]
                    best_j = j
                cost[j] = square
                at[j] = place
        best_j = 0
        for j in range(1, n_pieces):
            if cost[j] < cost[best_j] - SAME_M2:
                best_j = j
        # Backwards for the pieces, then forwards for the places on them.
        for i in range(n_stops - 1, 0, -1):
            j = link[i * n_pieces + best_j]
            link[i * n_pieces] = <int32_t>best_j
            best_j = j
        link[0] = <int32_t>best_j
        worst_m2[0] = 0.0
        place = 0.0
        for i in range(n_stops):
            j = link[i * n_pieces]
            if place < pieces[j].s_m:
                place = pieces[j].s_m
            square = project(&pieces[j], radians(lon[i]), radians(lat[i]) * EARTH_RADIUS_M, place, length_m, &place)
            s_m[i] = place
            if square > worst_m2[0]:
                worst_m2[0] = square
    PyMem_RawFree(cost)
    PyMem_RawFree(link)
    return 0


cdef class Line:
    """A polyline with metres along it.

    Parameters
    ----------
    lat, lon : ndarray of float64, shape (n_points,)
        Degrees; at least 2 points.
    """

    def __cinit__(self, const double[::1] lat not None, const double[::1] lon not None):
        if lat.shape[0] != lon.shape[0] or not 2 <= lat.shape[0] < (1 << 30):
            raise ValueError("a line needs two points or more, and as many latitudes as longitudes")
        self.n_segments = <int32_t>(lat.shape[0] - 1)
        self.segments = <segment_t*>PyMem_RawMalloc(<size_t>self.n_segments * sizeof(segment_t))
        if self.segments == NULL:
            raise MemoryError()
        self.length_m = _lay(self.segments, lat, lon)

    def __dealloc__(self):
        PyMem_RawFree(self.segments)

    def place_stops(self, const double[::1] lat not None, const double[::1] lon not None):
        """Places of stops along the line, in order.

        Returns
        -------
        s_m : ndarray of float64, shape (n_stops,)
            Metres along the line, non-decreasing; the assignment with the least sum of squared distances.
        worst_m : float
            The largest distance of a stop from its place; infinite if the problem is too large to solve.
        """
        cdef double worst_m2 = 0.0
        if lat.shape[0] != lon.shape[0] or lat.shape[0] < 1:
            raise ValueError("as many latitudes as longitudes are needed, and one at least")
        if lat.shape[0] * <int64_t>self.n_segments > MAX_PLACEMENT_CELLS:
            return np.zeros(lat.shape[0]), float("inf")
        cdef double[::1] s_m = np.empty(lat.shape[0])
        _place(self.segments, self.n_segments, lat, lon, self.length_m, &s_m[0], &worst_m2)
        return np.asarray(s_m), worst_m2 ** 0.5


cdef class PatternTable:
    """All patterns in use, by number. A number is never given out twice, so it tells a changed pattern from its past.

    Not for several threads at once: `retire` and `sweep` free what the kernels read.
    """

    def __cinit__(self):
        self.retired = []

    def __dealloc__(self):
        cdef int32_t i
        for i in range(self.n):
            PyMem_RawFree(self.patterns[i])
        PyMem_RawFree(self.patterns)

    def __len__(self):
        return self.n

    def add(
        self, uint8_t status, const double[::1] lat not None, const double[::1] lon not None,
        const int32_t[::1] sequence not None, const uint8_t[::1] text not None, const int32_t[:, ::1] spans not None,
        Line line=None, int32_t stands_for=0,
    ):
        """Store a pattern and return its number.

        Parameters
        ----------
        status : int
            Why the pattern cannot be used; 0 if it can.
        lat, lon : ndarray of float64, shape (n_stops,)
            Degrees.
        sequence : ndarray of int32, shape (n_stops,)
        text : ndarray of uint8
            Bytes of ids and prefixes.
        spans : ndarray of int32, shape (n_stops, 4)
            Start and length in `text` of each stop's id, then of its JSON prefix.
        line : Line, optional
            The shape. Without one, or when a stop lies farther than 500 m from it, the stops are joined straight.
        stands_for : int, optional
            How many patterns of a route or direction these stops stand for; 0 if nobody says so, -1 for a direction of
            which it is not said.
        """
        cdef int64_t n_stops = lat.shape[0] if status == OK else 0
        cdef int64_t n_text = text.shape[0] if status == OK else 0
        cdef int64_t n_segments = n_stops - 1 if n_stops else 0
        cdef int64_t nbytes
        cdef int32_t i, j
        cdef pattern_t* pattern
        cdef pattern_t** moved
        cdef stop_t* stop
        cdef vector_t here, before
        cdef double worst_m2 = INFINITY
        if not (lat.shape[0] == lon.shape[0] == sequence.shape[0] == spans.shape[0]) or spans.shape[1] != 4:
            raise ValueError("the arrays of a pattern have to be of one length")
        if status == OK and not 2 <= n_stops < (1 << 20):
            raise ValueError("a usable pattern has two stops or more")
        for i in range(<int32_t>n_stops):
            for j in (0, 2):
                if not (0 <= spans[i, j] and 0 <= spans[i, j + 1] and <int64_t>spans[i, j] + spans[i, j + 1] <= n_text):
                    raise ValueError("a span reaches out of the text")

        s_m_array = np.zeros(n_stops)
        cdef double[::1] s_m = s_m_array
        if n_stops and line is not None and n_stops * <int64_t>line.n_segments <= MAX_PLACEMENT_CELLS:
            _place(line.segments, line.n_segments, lat, lon, line.length_m, &s_m[0], &worst_m2)
            if worst_m2 <= MAX_STOP_TO_SHAPE_M * MAX_STOP_TO_SHAPE_M:
                n_segments = line.n_segments
            else:
                line = None
        else:
            line = None

        if self.n == self.capacity:
            moved = <pattern_t**>PyMem_RawRealloc(self.patterns, <size_t>(2 * self.capacity + 64) * sizeof(pattern_t*))
            if moved == NULL:
                raise MemoryError()
            self.patterns = moved
            self.capacity = 2 * self.capacity + 64
        nbytes = (sizeof(pattern_t) + n_stops * sizeof(stop_t) + n_segments * sizeof(segment_t)
                  + n_stops * sizeof(uint64_t) + n_text)
        pattern = <pattern_t*>PyMem_RawMalloc(<size_t>nbytes)
        if pattern == NULL:
            raise MemoryError()
        memset(pattern, 0, <size_t>nbytes)
        pattern.status = status
        pattern.stands_for = stands_for
        pattern.is_plain = status == OK and stands_for == 0
        pattern.nbytes = nbytes
        pattern.n_stops = <int32_t>n_stops
        pattern.n_segments = <int32_t>n_segments
        pattern.stops = <stop_t*>(pattern + 1)
        pattern.segments = <segment_t*>(pattern.stops + n_stops)
        pattern.id_hashes = <uint64_t*>(pattern.segments + n_segments)
        pattern.text = <char*>(pattern.id_hashes + n_stops)
        if n_text:
            memcpy(pattern.text, &text[0], <size_t>n_text)
        if n_stops:
            if line is None:
                pattern.length_m = _lay(pattern.segments, lat, lon)
                s_m[0] = 0.0
                for i in range(1, pattern.n_stops):
                    s_m[i] = s_m[i - 1] + pattern.segments[i - 1].length_m
            else:
                pattern.length_m = line.length_m
                memcpy(pattern.segments, line.segments, <size_t>n_segments * sizeof(segment_t))
        pattern.ascending = True
        for i in range(pattern.n_stops):
            here = unit_vector(lat[i], lon[i])
            stop = &pattern.stops[i]
            stop.x, stop.y, stop.z = here.x, here.y, here.z
            stop.s_m = s_m[i]
            stop.sequence = sequence[i]
            stop.id_start, stop.id_length = spans[i, 0], spans[i, 1]
            stop.prefix_start, stop.prefix_length = spans[i, 2], spans[i, 3]
            pattern.id_hashes[i] = hash_text(pattern.text + stop.id_start, stop.id_length)
            if i:
                pattern.stops[i - 1].leg_m = vector_distance_m(before, here)
                if sequence[i] <= sequence[i - 1]:
                    pattern.ascending = False
            before = here
        self.patterns[self.n] = pattern
        self.nbytes += nbytes
        self.n += 1
        return self.n - 1

    def retire(self, int32_t pattern_ix):
        """Free a pattern at the next `sweep`: rows of the batch in hand may still point to it."""
        self.retired.append(pattern_ix)

    def sweep(self):
        """Free what was retired."""
        cdef int32_t pattern_ix
        for pattern_ix in self.retired:
            if pattern_at(self, pattern_ix) != NULL:
                self.nbytes -= self.patterns[pattern_ix].nbytes
                PyMem_RawFree(self.patterns[pattern_ix])
                self.patterns[pattern_ix] = NULL
        self.retired.clear()

    def stop_ids(self, int32_t pattern_ix):
        """Ids of a pattern's stops in order, UTF-8, as a list of bytes; None if there is no such pattern (any more)."""
        cdef pattern_t* pattern = pattern_at(self, pattern_ix)
        cdef int32_t i, length = 0
        cdef const char* text
        cdef list ids = []
        if pattern == NULL:
            return None
        for i in range(pattern.n_stops):
            text = stop_id_text(pattern, i, &length)
            ids.append(text[:length])
        return ids

    def describe(self, int32_t pattern_ix):
        """What is stored of a pattern, as a dictionary of plain values and lists; None if there is none."""
        cdef pattern_t* pattern = pattern_at(self, pattern_ix)
        cdef int32_t i, length = 0
        cdef const char* text
        if pattern == NULL:
            return None
        stops = range(pattern.n_stops)
        prefixes = []
        for i in stops:
            text = stop_prefix(pattern, i, &length)
            prefixes.append(text[:length])
        return {
            "status": pattern.status,
            "stands_for": pattern.stands_for,
            "length_m": pattern.length_m,
            "n_segments": pattern.n_segments,
            "stop_ids": self.stop_ids(pattern_ix),
            "prefixes": prefixes,
            "sequences": [pattern.stops[i].sequence for i in stops],
            "s_m": [pattern.stops[i].s_m for i in stops],
            "leg_m": [pattern.stops[i].leg_m for i in stops],
        }
