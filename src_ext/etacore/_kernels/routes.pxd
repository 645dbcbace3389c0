# Patterns: the ordered stops of a route, direction or trip, and the line that joins them, as the kernels see them.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from etacore._kernels.geo cimport segment_t

# A stop, one cache line. Straight-line distances are chords between unit vectors (see geo.pxd).
cdef struct stop_t:
    double x, y, z           # unit vector of the position
    double leg_m             # straight line to the next stop; 0 for the last
    double s_m               # metres along the pattern's line, non-decreasing
    int32_t sequence         # for display: what the blob calls it
    int32_t prefix_start     # in `text`: {"stop_id":"S1","stop_sequence":1,"distance_to_stop_m":
    int32_t prefix_length
    int32_t id_start         # in `text`: the stop's id, UTF-8, unescaped
    int32_t id_length

cdef struct pattern_t:
    int32_t n_stops          # 0 if status is not OK
    int32_t n_segments       # >= 1 if status is OK
    uint8_t status           # OK, TOO_FEW_STOPS, STOP_WITHOUT_COORDINATES, UNKNOWN_ROUTE (an unreadable blob)
    bint ascending           # the sequences ascend strictly
    int32_t stands_for       # patterns of a route or direction for which it stands; 0, -1: see `add`
    bint is_plain            # usable, and it stands for nothing but itself
    double length_m          # of the line
    stop_t* stops
    segment_t* segments
    uint64_t* id_hashes      # hash_text of each stop id
    char* text
    int64_t nbytes


cdef class PatternTable:
    cdef pattern_t** patterns
    cdef readonly int32_t n          # numbers given out so far; never given twice
    cdef int32_t capacity
    cdef readonly int64_t nbytes
    cdef list retired


# The line of a shape alone.
cdef class Line:
    cdef segment_t* segments
    cdef readonly int32_t n_segments
    cdef readonly double length_m


# NULL for a number that is out of range or whose pattern is gone.
cdef inline pattern_t* pattern_at(PatternTable table, int32_t pattern_ix) noexcept nogil:
    if 0 <= pattern_ix < table.n:
        return table.patterns[pattern_ix]
    return NULL


# The ready-made begin of a stop's JSON object. Sets length; 0 <= stop_ix < n_stops is the caller's.
cdef inline const char* stop_prefix(const pattern_t* pattern, int32_t stop_ix, int32_t* length) noexcept nogil:
    length[0] = pattern.stops[stop_ix].prefix_length
    return pattern.text + pattern.stops[stop_ix].prefix_start


# The id of a stop, UTF-8, unescaped.
cdef inline const char* stop_id_text(const pattern_t* pattern, int32_t stop_ix, int32_t* length) noexcept nogil:
    length[0] = pattern.stops[stop_ix].id_length
    return pattern.text + pattern.stops[stop_ix].id_start


# Whether a vehicle that gets these stops may serve others: they stand for the patterns of its route or direction, and
# its trip is none of those that are known, or it names none and there are several.
cdef inline bint is_guess(const pattern_t* pattern, bint has_trip) noexcept nogil:
    return pattern.stands_for > (0 if has_trip else 1)
