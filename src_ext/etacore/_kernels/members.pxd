# The members of a snapshot: which names count, and what an object says under them.

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp

from etacore._kernels.json cimport T_NULL, T_STRING, scan_key, scan_value, skip_space, token_t, unescape
from etacore._kernels.number cimport load8

cdef enum:
    MAX_ESCAPED_NAME = 6 * 21      # the longest name, every character as \uXXXX
    MAX_SHAPE = 32                 # members of an object whose names are remembered

# The names that count, the aliases of a field side by side in the order in which they are asked.
cdef enum field_t:
    VEHICLE_ID
    VEHICLE_ID_CAMEL
    ID
    VEHICLE_OBJECT
    VEHICLE_DOT_ID
    LAT
    LATITUDE
    LON
    LONGITUDE
    LNG
    TIMESTAMP
    ROUTE_ID
    ROUTE
    ROUTE_ID_CAMEL
    ROUTE_SHORT_NAME
    TRIP_ID
    TRIP
    TRIP_ID_CAMEL
    STOP_ID
    SPEED
    BEARING
    HEADING
    CURRENT_STOP_SEQUENCE
    STOP_SEQUENCE
    CURRENT_STATUS
    DIRECTION_ID
    DIRECTION_ID_CAMEL
    START_DATE
    START_DATE_CAMEL
    START_TIME
    START_TIME_CAMEL
    NO_FIELD
    N_FIELDS

# What an object says: `tokens[f]` is valid if bit f of `seen` is set. Nothing needs to be cleared for the next row.
cdef struct members_t:
    uint32_t seen
    token_t tokens[N_FIELDS]


# The names of the objects before, member by member, each as it stood: from its quote to where its value began. A
# producer writes every snapshot in the same order and spelling, so most names are told by one comparison. The texts
# they stood in have to stay as long as this.
cdef struct shape_t:
    int n
    const uint8_t* names[MAX_SHAPE]
    int64_t lengths[MAX_SHAPE]
    field_t fields[MAX_SHAPE]


cdef inline bint same_bytes(const uint8_t* a, const uint8_t* b, int64_t length) noexcept nogil:
    """Whether two short texts are equal; the last word overlaps the one before it."""
    cdef int64_t i
    if length >= 8:
        for i in range(0, length - 8, 8):
            if load8(a + i) != load8(b + i):
                return False
        return load8(a + length - 8) == load8(b + length - 8)
    return memcmp(a, b, length) == 0


cdef inline field_t field_of_name(const uint8_t* name, int64_t length) noexcept nogil:
    if length == 2:
        if memcmp(name, b"id", 2) == 0:
            return ID
    elif length == 3:
        if memcmp(name, b"lat", 3) == 0:
            return LAT
        if memcmp(name, b"lon", 3) == 0:
            return LON
        if memcmp(name, b"lng", 3) == 0:
            return LNG
    elif length == 4:
        if memcmp(name, b"trip", 4) == 0:
            return TRIP
    elif length == 5:
        if memcmp(name, b"speed", 5) == 0:
            return SPEED
        if memcmp(name, b"route", 5) == 0:
            return ROUTE
    elif length == 6:
        if memcmp(name, b"tripId", 6) == 0:
            return TRIP_ID_CAMEL
    elif length == 7:
        if memcmp(name, b"trip_id", 7) == 0:
            return TRIP_ID
        if memcmp(name, b"stop_id", 7) == 0:
            return STOP_ID
        if memcmp(name, b"bearing", 7) == 0:
            return BEARING
        if memcmp(name, b"heading", 7) == 0:
            return HEADING
        if memcmp(name, b"routeId", 7) == 0:
            return ROUTE_ID_CAMEL
        if memcmp(name, b"vehicle", 7) == 0:
            return VEHICLE_OBJECT
    elif length == 8:
        if memcmp(name, b"route_id", 8) == 0:
            return ROUTE_ID
        if memcmp(name, b"latitude", 8) == 0:
            return LATITUDE
    elif length == 9:
        if memcmp(name, b"timestamp", 9) == 0:
            return TIMESTAMP
        if memcmp(name, b"longitude", 9) == 0:
            return LONGITUDE
        if memcmp(name, b"vehicleId", 9) == 0:
            return VEHICLE_ID_CAMEL
        if memcmp(name, b"startDate", 9) == 0:
            return START_DATE_CAMEL
        if memcmp(name, b"startTime", 9) == 0:
            return START_TIME_CAMEL
    elif length == 10:
        if memcmp(name, b"vehicle_id", 10) == 0:
            return VEHICLE_ID
        if memcmp(name, b"vehicle.id", 10) == 0:
            return VEHICLE_DOT_ID
        if memcmp(name, b"start_date", 10) == 0:
            return START_DATE
        if memcmp(name, b"start_time", 10) == 0:
            return START_TIME
    elif length == 11:
        if memcmp(name, b"directionId", 11) == 0:
            return DIRECTION_ID_CAMEL
    elif length == 12:
        if memcmp(name, b"direction_id", 12) == 0:
            return DIRECTION_ID
    elif length == 13:
        if memcmp(name, b"stop_sequence", 13) == 0:
            return STOP_SEQUENCE
    elif length == 14:
        if memcmp(name, b"current_status", 14) == 0:
            return CURRENT_STATUS
    elif length == 16:
        if memcmp(name, b"route_short_name", 16) == 0:
            return ROUTE_SHORT_NAME
    elif length == 21:
        if memcmp(name, b"current_stop_sequence", 21) == 0:
            return CURRENT_STOP_SEQUENCE
    return NO_FIELD


cdef inline field_t field_of_key(const token_t* key) noexcept nogil:
    """As field_of_name, for a name with escapes in it."""
    cdef uint8_t name[MAX_ESCAPED_NAME]
    cdef bint needs_escape
    if key.length > MAX_ESCAPED_NAME:
        return NO_FIELD
    return field_of_name(name, unescape(key.start, key.length, name, &needs_escape))


cdef inline const uint8_t* scan_members(
    const uint8_t* p, const uint8_t* end, int depth, shape_t* shape, members_t* members
) noexcept nogil:
    """The members of an object, p at its brace. A name that comes again overwrites. Returns the position behind it."""
    cdef token_t key
    cdef field_t field
    cdef const uint8_t* name
    cdef int k = 0
    members.seen = 0
    p = skip_space(p + 1, end)
    if p < end and p[0] == c'}':
        return p + 1
    while True:
        if k < shape.n and end - p > shape.lengths[k] and same_bytes(p, shape.names[k], shape.lengths[k]):
            field = shape.fields[k]
            p = skip_space(p + shape.lengths[k], end)
        else:
            name = p
            p = scan_key(p, end, &key)
            if p == NULL:
                return NULL
            field = field_of_key(&key) if key.escaped else field_of_name(key.start, key.length)
            if k < MAX_SHAPE:
                shape.names[k] = name
                shape.lengths[k] = p - name
                shape.fields[k] = field
                shape.n = max(shape.n, k + 1)
        k += 1
        p = scan_value(p, end, depth + 1, &members.tokens[<int>field])
        if p == NULL:
            return NULL
        members.seen |= <uint32_t>1 << field
        p = skip_space(p, end)
        if p == end:
            return NULL
        if p[0] == c'}':
            return p + 1
        if p[0] != c',':
            return NULL
        p = skip_space(p + 1, end)


cdef inline const token_t* first_given(const members_t* members, int first, int last) noexcept nogil:
    """First of the aliases that is neither absent nor null nor an empty string, or NULL."""
    cdef int field
    cdef const token_t* token
    for field in range(first, last + 1):
        if members.seen >> field & 1:
            token = &members.tokens[field]
            if token.kind != T_NULL and not (token.kind == T_STRING and token.length == 0):
                return token
    return NULL
