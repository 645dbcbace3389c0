"""Payloads of a batch -> columns, each payload read once, where it lies, with the GIL released around the batch."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.float cimport FLT_MAX
from libc.math cimport NAN, fabs, isfinite, rint
from libc.stdint cimport INT64_MAX, INT64_MIN, int8_t, int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc

from etacore._kernels.batch cimport Batch, columns_t
from etacore._kernels.isotime cimport (
    NO_DATE, NO_TIME, date_t, posix_time_us, service_date, service_time_s, text_time_near_us, text_time_us,
)
from etacore._kernels.json cimport T_NUMBER, T_OBJECT, T_STRING, scan_value, skip_space, token_t, unescape
from etacore._kernels.jsonwrite cimport put_short
from etacore._kernels.members cimport *
from etacore._kernels.number cimport number_t, number_value, scan_numeric
from etacore._kernels.resp cimport Values
from etacore._kernels.types cimport *

from numbers import Integral

cdef enum:
    MAX_ID_BYTES = 256
    MAX_TIMESTAMP_BYTES = 64
    DEFAULT_MAX_PAYLOAD_BYTES = 65536

# The row being written; `used` bytes of the arena are taken.
cdef struct row_t:
    const columns_t* columns
    int64_t ix
    int64_t used
    shape_t shape                  # of the rows before
    date_t date                    # of the last timestamp

cdef enum presence_t:
    IS_MISSING
    IS_BAD
    IS_GOOD


cdef inline bint put_text(const token_t* token, int64_t most, row_t* row, text_t* out) noexcept nogil:
    """Copy a string or the literal of a number into the arena, if it has 1 to `most` bytes."""
    cdef uint8_t* to = row.columns.text + row.used
    cdef int64_t length = token.length
    cdef bint needs_escape = False
    if token.kind != T_STRING and token.kind != T_NUMBER or length == 0:
        return False
    if token.kind == T_STRING and token.escaped:
        # Fits: texts come from different places of the payload, and the arena has room for all payloads.
        length = unescape(token.start, length, to, &needs_escape)
        if length > most:
            return False
    else:
        if length > most:
            return False
        put_short(<char*>to, <const char*>token.start, length)
    out.start = row.used
    out.length = <int32_t>length
    out.escape = needs_escape
    row.used += length
    return True


cdef inline bint put_id(const members_t* members, int first, int last, row_t* row, text_t* out) noexcept nogil:
    """The first alias that is an id."""
    cdef int field
    for field in range(first, last + 1):
        if members.seen >> field & 1 and put_text(&members.tokens[field], MAX_ID_BYTES, row, out):
            return True
    return False


cdef bint put_nested_id(const token_t* vehicle, row_t* row, text_t* out) noexcept nogil:
    """The id of a nested vehicle object, which has been scanned before and is valid."""
    cdef members_t members
    cdef shape_t shape
    if vehicle.kind != T_OBJECT:
        return False
    shape.n = 0
    scan_members(vehicle.start, vehicle.start + vehicle.length, 1, &shape, &members)
    return put_id(&members, ID, ID, row, out)


cdef inline bint put_vehicle_id(const members_t* members, row_t* row, text_t* out) noexcept nogil:
    if put_id(members, VEHICLE_ID, ID, row, out):
        return True
    if members.seen >> VEHICLE_OBJECT & 1 and put_nested_id(&members.tokens[<int>VEHICLE_OBJECT], row, out):
        return True
    return put_id(members, VEHICLE_DOT_ID, VEHICLE_DOT_ID, row, out)


cdef inline presence_t take_double(
    const members_t* members, int first, int last, row_t* row, double* out
) noexcept nogil:
    """A number, or a string that spells one; IS_BAD if it is something else or not finite."""
    cdef const token_t* token = first_given(members, first, last)
    cdef const uint8_t* start
    cdef int64_t length
    cdef number_t number
    cdef double value
    cdef bint needs_escape
    if token == NULL:
        return IS_MISSING
    if token.kind == T_NUMBER:
        value = number_value(&token.number)
    elif token.kind == T_STRING:
        start = token.start
        length = token.length
        if token.escaped:
            start = row.columns.text + row.used
            length = unescape(token.start, token.length, row.columns.text + row.used, &needs_escape)
        if not scan_numeric(start, start + length, &number):
            return IS_BAD
        value = number_value(&number)
    else:
        return IS_BAD
    if not isfinite(value):
        return IS_BAD
    out[0] = value
    return IS_GOOD


cdef inline int64_t take_integer(
    const members_t* members, int first, int last, row_t* row, double least, double most, int64_t otherwise
) noexcept nogil:
    cdef double value
    if take_double(members, first, last, row, &value) != IS_GOOD:
        return otherwise
    return <int64_t>value if least <= value <= most and value == rint(value) else otherwise


cdef inline bint is_name(const uint8_t* p, int64_t length, const char* name, int64_t name_length) noexcept nogil:
    """Whether a text is this name of capital letters and underscores, in any case."""
    cdef int64_t i
    cdef uint8_t c
    if length != name_length:
        return False
    for i in range(length):
        c = p[i] - 32 if c'a' <= p[i] <= c'z' else p[i]
        if c != <uint8_t>name[i]:
            return False
    return True


cdef inline int8_t take_current_status(const members_t* members, row_t* row) noexcept nogil:
    cdef const token_t* token = first_given(members, CURRENT_STATUS, CURRENT_STATUS)
    cdef const uint8_t* p
    cdef int64_t length
    cdef bint needs_escape
    if token == NULL:
        return STOP_STATUS_UNKNOWN
    if token.kind == T_NUMBER:
        return <int8_t>take_integer(members, CURRENT_STATUS, CURRENT_STATUS, row, 0, 2, STOP_STATUS_UNKNOWN)
    if token.kind != T_STRING:
        return STOP_STATUS_UNKNOWN
    p = token.start
    length = token.length
    if token.escaped:
        p = row.columns.text + row.used
        length = unescape(token.start, token.length, row.columns.text + row.used, &needs_escape)
    if is_name(p, length, b"IN_TRANSIT_TO", 13):
        return IN_TRANSIT_TO
    if is_name(p, length, b"STOPPED_AT", 10):
        return STOPPED_AT
    if is_name(p, length, b"INCOMING_AT", 11):
        return INCOMING_AT
    return STOP_STATUS_UNKNOWN


cdef void take_start(const members_t* members, row_t* row) noexcept nogil:
    """Which run of the trip it is; what is no date or no time is as if not given."""
    cdef const columns_t* columns = row.columns
    cdef const token_t* token
    cdef const uint8_t* p
    cdef int64_t length
    cdef bint needs_escape, is_date
    for is_date in range(2):
        token = first_given(members, START_DATE, START_DATE_CAMEL) if is_date else first_given(
            members, START_TIME, START_TIME_CAMEL)
        if token == NULL or token.kind != T_STRING and token.kind != T_NUMBER:
            continue
        p = token.start
        length = token.length
        if token.kind == T_STRING and token.escaped:
            p = columns.text + row.used
            length = unescape(token.start, token.length, columns.text + row.used, &needs_escape)
        if is_date:
            columns.start_date[row.ix] = service_date(p, p + length)
        else:
            columns.start_time_s[row.ix] = service_time_s(p, p + length)


cdef inline presence_t take_timestamp(const members_t* members, row_t* row) noexcept nogil:
    """The time, and its text as it was given."""
    cdef const columns_t* columns = row.columns
    cdef const token_t* token = first_given(members, TIMESTAMP, TIMESTAMP)
    cdef text_t* text = &columns.timestamp[row.ix]
    cdef int64_t time_us
    if token == NULL:
        return IS_MISSING
    if not put_text(token, MAX_TIMESTAMP_BYTES, row, text):
        return IS_BAD
    if token.kind == T_NUMBER:
        columns.timestamp_is_number[row.ix] = 1
        time_us = posix_time_us(number_value(&token.number))
    else:
        time_us = text_time_near_us(
            columns.text + text.start, columns.text + text.start + text.length, &row.date)
    if time_us == NO_TIME:
        return IS_BAD
    columns.time_us[row.ix] = time_us
    return IS_GOOD


cdef inline void clear_row(const columns_t* columns, int64_t i) noexcept nogil:
    cdef text_t none
    none.start = 0
    none.length = 0
    none.escape = 0
    columns.vehicle_id[i] = none
    columns.route_id[i] = none
    columns.trip_id[i] = none
    columns.stop_id[i] = none
    columns.timestamp[i] = none
    columns.timestamp_is_number[i] = 0
    columns.direction_id[i] = -1
    columns.lat[i] = NAN
    columns.lon[i] = NAN
    columns.speed_mps[i] = 0.0
    columns.bearing_deg[i] = NAN
    columns.time_us[i] = 0
    columns.stop_sequence[i] = NO_SEQUENCE
    columns.current_status[i] = STOP_STATUS_UNKNOWN
    columns.start_date[i] = NO_START_DATE
    columns.start_time_s[i] = NO_START_TIME


cdef status_t parse_row(const uint8_t* p, int64_t length, row_t* row, const limits_t* limits) noexcept nogil:
    """One payload into its row, and what is wrong with it: all fields are read, the first check that fails names it."""
    cdef const columns_t* columns = row.columns
    cdef int64_t i = row.ix
    cdef const uint8_t* end = p + length
    cdef members_t members
    cdef bint is_object, has_vehicle, has_route
    cdef presence_t lat, lon, time
    cdef double speed_mps, bearing_deg
    p = skip_space(p, end)
    is_object = p < end and p[0] == c'{'
    p = scan_members(p, end, 0, &row.shape, &members) if is_object else scan_value(p, end, 0, &members.tokens[<int>NO_FIELD])
    if p == NULL or skip_space(p, end) != end:
        return INVALID_JSON
    if not is_object:
        return NOT_AN_OBJECT

    has_vehicle = put_vehicle_id(&members, row, &columns.vehicle_id[i])
    has_route = put_id(&members, ROUTE_ID, ROUTE_SHORT_NAME, row, &columns.route_id[i])
    put_id(&members, TRIP_ID, TRIP_ID_CAMEL, row, &columns.trip_id[i])
    put_id(&members, STOP_ID, STOP_ID, row, &columns.stop_id[i])
    time = take_timestamp(&members, row)
    lat = take_double(&members, LAT, LATITUDE, row, &columns.lat[i])
    lon = take_double(&members, LON, LNG, row, &columns.lon[i])
    if take_double(&members, SPEED, SPEED, row, &speed_mps) == IS_GOOD and 0.0 < speed_mps <= FLT_MAX:
        columns.speed_mps[i] = <float>speed_mps
    if take_double(&members, BEARING, HEADING, row, &bearing_deg) == IS_GOOD and fabs(bearing_deg) <= FLT_MAX:
        columns.bearing_deg[i] = <float>bearing_deg
    columns.stop_sequence[i] = <int32_t>take_integer(
        &members, CURRENT_STOP_SEQUENCE, STOP_SEQUENCE, row, -2147483648.0, 2147483647.0, NO_SEQUENCE
    )
    columns.current_status[i] = take_current_status(&members, row)
    columns.direction_id[i] = <int8_t>take_integer(&members, DIRECTION_ID, DIRECTION_ID_CAMEL, row, 0, 127, -1)
    if members.seen >> START_DATE & 15:
        take_start(&members, row)

    if not has_vehicle:
        return MISSING_VEHICLE_ID
    if lat == IS_MISSING or lon == IS_MISSING:
        return MISSING_POSITION
    if lat == IS_BAD or lon == IS_BAD:
        return INVALID_POSITION
    if fabs(columns.lat[i]) > 90.0 or fabs(columns.lon[i]) > 180.0:
        return POSITION_OUT_OF_RANGE
    if time == IS_MISSING:
        return MISSING_TIMESTAMP
    if time == IS_BAD:
        return INVALID_TIMESTAMP
    if columns.time_us[i] > limits.latest_us:
        return FUTURE_TIMESTAMP
    if columns.time_us[i] < limits.earliest_us:
        return TOO_OLD
    return OK if has_route else MISSING_ROUTE


cdef int64_t text_bytes_needed(const span_t* spans, int64_t n, int64_t max_payload_bytes) noexcept nogil:
    """How large the arena has to be for a batch."""
    cdef int64_t i, total = 0
    for i in range(n):
        if spans[i].start != NULL and spans[i].length <= max_payload_bytes:
            total += spans[i].length
    return total


cdef void parse_spans(const span_t* spans, int64_t n, const columns_t* columns, const limits_t* limits) noexcept nogil:
    """The whole batch. The arena must have text_bytes_needed bytes, every other column n places."""
    cdef row_t row
    row.columns = columns
    row.used = 0
    row.shape.n = 0
    row.date.head = NO_DATE
    row.date.tail = 0
    row.date.days = 0
    for row.ix in range(n):
        clear_row(columns, row.ix)
        if spans[row.ix].start == NULL:
            columns.status[row.ix] = EXPIRED
        elif spans[row.ix].length > limits.max_payload_bytes:
            columns.status[row.ix] = TOO_LARGE
        else:
            columns.status[row.ix] = parse_row(spans[row.ix].start, spans[row.ix].length, &row, limits)


def parse_snapshots(
    Batch batch not None, payloads, *, int64_t max_future_us, int64_t max_age_us,
    int64_t max_payload_bytes=DEFAULT_MAX_PAYLOAD_BYTES,
):
    """Parse payloads: row ``i`` of the batch becomes payload ``i``.

    Nothing a payload says raises. All fields of an object are read; ``status`` is the first check that failed, in the
    order of the status codes. Of a payload that is not a JSON object nothing is set.

    Parameters
    ----------
    batch : Batch
        OUT: the columns of the snapshots, and ``n``. IN: ``now_us``.
    payloads : sequence of bytes or None, length n, or Values
        JSON objects in UTF-8. None stands for a key that holds no string: ``EXPIRED``. In the reply to an MGET they
        are read where they lie.
    max_future_us : int
        How far a snapshot's time may be ahead of ``now_us``.
    max_age_us : int
        How far behind; 0 or less is no limit.
    max_payload_bytes : int, optional
        Longer payloads are ``TOO_LARGE`` and not read.

    Raises
    ------
    ValueError
        If there are more payloads than the batch has places, or the reply is not complete.
    TypeError
        If a payload is neither bytes nor None.
    """
    cdef limits_t limits = limits_at(batch.now_us, max_future_us, max_age_us)
    cdef Values values
    cdef span_t* spans
    cdef tuple held
    limits.max_payload_bytes = max_payload_bytes
    batch.resize(0)
    if isinstance(payloads, Values):
        values = payloads
        if not values.is_complete or values.error is not None:
            raise ValueError("the reply holds no values")
        with memoryview(values.buffer):      # nobody can move the bytes meanwhile
            parse_batch(values.spans, values.n, batch, &limits)
        return
    # A tuple of our own keeps every payload alive while other threads run and may change the caller's list.
    held = tuple(payloads)
    spans = spans_of(held)
    try:
        parse_batch(spans, len(held), batch, &limits)
    finally:
        free(spans)


cdef limits_t limits_at(int64_t now_us, int64_t max_future_us, int64_t max_age_us) noexcept:
    # Bounds that would leave the 64 bits are none.
    cdef limits_t limits
    limits.earliest_us = now_us - max_age_us
    if max_age_us <= 0 or now_us < INT64_MIN + max_age_us:
        limits.earliest_us = INT64_MIN
    limits.latest_us = now_us + max_future_us
    if max_future_us > 0 and now_us > INT64_MAX - max_future_us:
        limits.latest_us = INT64_MAX
    limits.max_payload_bytes = DEFAULT_MAX_PAYLOAD_BYTES
    return limits


cdef span_t* spans_of(tuple payloads) except NULL:
    # Where each payload lies; the caller frees it.
    cdef Py_ssize_t i, n = len(payloads)
    cdef span_t* spans = <span_t*>malloc((n + 1) * sizeof(span_t))
    if spans == NULL:
        raise MemoryError
    for i in range(n):
        payload = payloads[i]
        if payload is None:
            spans[i].start = NULL
            spans[i].length = 0
        elif PyBytes_CheckExact(payload):
            spans[i].start = <const uint8_t*>PyBytes_AS_STRING(payload)
            spans[i].length = PyBytes_GET_SIZE(payload)
        else:
            free(spans)
            raise TypeError(f"payload {i} is {type(payload).__name__}, not bytes or None")
    return spans


cdef int parse_batch(const span_t* spans, int64_t n, Batch batch, const limits_t* limits) except -1:
    cdef columns_t columns
    if n > batch.capacity:
        raise ValueError(f"{n} payloads do not fit into a batch for {batch.capacity}")
    if n > 0:
        batch.reserve_text(text_bytes_needed(spans, n, limits.max_payload_bytes))
        columns = batch.columns    # a copy: nothing written can change it
        with nogil:
            parse_spans(spans, n, &columns, limits)
    return batch.resize(n)


def parse_timestamp(value):
    """Read a timestamp as it stands in a snapshot or in a prediction's ``source_timestamp``.

    Parameters
    ----------
    value : object
        ISO 8601 text, or POSIX seconds (milliseconds above 1e11) as a number or as text.

    Returns
    -------
    int or None
        Microseconds since 1970-01-01 UTC, or None if it is no timestamp between the years 1 and 9999.
    """
    cdef const uint8_t* start
    cdef bytes text
    cdef int64_t time_us = NO_TIME
    if isinstance(value, str):
        text = value.encode("utf-8", "replace")
        if PyBytes_GET_SIZE(text) <= MAX_TIMESTAMP_BYTES:
            start = <const uint8_t*>PyBytes_AS_STRING(text)
            time_us = text_time_us(start, start + PyBytes_GET_SIZE(text))
    elif isinstance(value, (float, Integral)) and not isinstance(value, bool):
        try:
            time_us = posix_time_us(float(value))
        except OverflowError:
            pass
    return None if time_us == NO_TIME else time_us
