"""Prediction documents of a whole batch as JSON, and the Redis commands that store them."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from etacore._jsonwrite cimport (
    MAX_ISO, MAX_NUMBER, delay_us, has_iso, put_bytes, put_duration, put_escaped, put_iso, put_literal, put_natural,
    put_rounded, usable,
)
from etacore._routes cimport PatternTable, pattern_at, pattern_t, stop_prefix
from etacore._text cimport inside
from etacore._types cimport OK, PREDICTION_FAILED, text_t

cdef extern from "Python.h":
    # The pointer forms: the tuple of keys is checked and held before the GIL is let go.
    PyObject* tuple_item "PyTuple_GET_ITEM"(PyObject* items, Py_ssize_t i) nogil
    char* bytes_text "PyBytes_AS_STRING"(PyObject* item) nogil
    Py_ssize_t bytes_size "PyBytes_GET_SIZE"(PyObject* item) nogil

cdef enum:
    STOP_ROOM = 256        # a stop without its prefix: 4 numbers, a time, names, or nulls and the error
    DOCUMENT_ROOM = 256    # names and punctuation of a document outside its stops
    COMMAND_ROOM = 128     # RESP framing of one SET

NO_PREDICTION = "The model gave no usable prediction"
cdef bytes _stop_error = (
    b',"eta_seconds":null,"eta_minutes":null,"eta_formatted":null,"eta_timestamp":null,"error":"%b"}'
    % NO_PREDICTION.encode()
)
cdef const char* stop_error = PyBytes_AS_STRING(_stop_error)
cdef size_t stop_error_length = PyBytes_GET_SIZE(_stop_error)

cdef struct span_t:
    const char* start
    int64_t length

# What all documents of one model have in common, ready-made.
cdef struct envelope_t:
    span_t head        # ,"computed_at": ... "predictions":[
    span_t source      # ],"source": ... "redis_key":
    span_t times       # ,"fetched_at": ... "source_timestamp":
    span_t tail        # ,"prefect_pipeline_latency_ms": ... }
    int64_t length     # of all four


cdef int make_room(bytearray buffer, int64_t needed, char** base, int64_t* capacity) except -1:
    # Grows by doubling. BufferError when somebody still holds a view of the buffer.
    PyByteArray_Resize(buffer, max(needed, capacity[0] * 2, 4096))
    base[0] = PyByteArray_AS_STRING(buffer)
    capacity[0] = len(buffer)
    return 0


cdef inline char* put_eta(char* out, double eta_s, int64_t time_us) noexcept nogil:
    out = put_rounded(put_literal(out, b',"eta_seconds":'), eta_s, 1, 10.0)
    out = put_rounded(put_literal(out, b',"eta_minutes":'), eta_s / 60.0, 2, 100.0)
    out = put_duration(put_literal(out, b',"eta_formatted":"'), eta_s)
    out = put_iso(put_literal(out, b'","eta_timestamp":"'), time_us + delay_us(eta_s))
    return put_literal(out, b'"}')


cdef inline char* put_text(char* out, const char* arena, const text_t* text) noexcept nogil:
    # A string with its quotes.
    out[0] = c'"'
    if text.escape:
        out = put_escaped(out + 1, arena + text.start, text.length)
    else:
        out = put_bytes(out + 1, arena + text.start, text.length)
    out[0] = c'"'
    return out + 1


cdef inline bint is_ascii(const char* text, int64_t length) noexcept nogil:
    cdef unsigned char seen = 0
    cdef int64_t i
    for i in range(length):
        seen |= <unsigned char>text[i]
    return seen < 0x80


cdef char* put_key(char* out, const char* key, int64_t length) except NULL nogil:
    # Redis keys are bytes; JSON is UTF-8. What is not UTF-8 becomes U+FFFD, as Python's errors="replace" does it.
    # The result has at most three bytes for one, so the room of six times the length holds.
    out[0] = c'"'
    if is_ascii(key, length):
        out = put_escaped(out + 1, key, length)
    else:
        with gil:
            text = PyBytes_FromStringAndSize(key, length).decode("utf-8", "replace").encode()
            out = put_escaped(out + 1, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    out[0] = c'"'
    return out + 1


cdef inline char* put_span(char* out, span_t span) noexcept nogil:
    return put_bytes(out, span.start, span.length)


cdef span_t as_span(bytes text) except *:
    cdef span_t span
    if text is None:
        raise TypeError("a part of the envelope must be bytes, not None")
    span.start = PyBytes_AS_STRING(text)
    span.length = PyBytes_GET_SIZE(text)
    return span


cdef envelope_t as_envelope(tuple parts) except *:
    cdef envelope_t envelope
    head, source, times, tail = parts
    envelope.head = as_span(head)
    envelope.source = as_span(source)
    envelope.times = as_span(times)
    envelope.tail = as_span(tail)
    envelope.length = envelope.head.length + envelope.source.length + envelope.times.length + envelope.tail.length
    return envelope


def encode_documents(
    const uint8_t[::1] text not None,
    uint8_t[::1] status not None,
    const text_t[::1] vehicle_id not None,
    const text_t[::1] route_id not None,
    const text_t[::1] trip_id not None,
    const text_t[::1] timestamp not None,
    const uint8_t[::1] timestamp_is_number not None,
    const int64_t[::1] time_us not None,
    tuple keys not None,
    PatternTable table not None,
    const int32_t[::1] pattern_ix not None,
    const int32_t[::1] row_offset not None,
    const int32_t[::1] stop_ix not None,
    const double[::1] distance_m not None,
    const float[::1] eta_s not None,
    tuple envelope not None,
    bytearray buffer not None,
    int64_t[::1] offsets not None,
    int64_t n,
):
    """One document per row that is OK and has stops, back to back in `buffer`; see `etacore.encoding`.

    ValueError, before anything is written, if an array is shorter than the batch, the row offsets are not ascending
    from 0 or more, or a text lies outside the arena.
    """
    cdef PyObject* held_keys = <PyObject*>keys
    cdef PyObject* key
    cdef const char* arena = <const char*>&text[0] if text.shape[0] else NULL
    cdef char* base = PyByteArray_AS_STRING(buffer)
    cdef int64_t capacity = len(buffer)
    cdef int64_t size = 0
    cdef int64_t i, j, room, n_usable, moment_us
    cdef int64_t bad = -1
    cdef int32_t first, last, length
    cdef const char* prefix
    cdef char* out
    cdef const pattern_t* pattern
    cdef envelope_t common = as_envelope(envelope)
    if n < 0:
        raise ValueError(f"a batch cannot have {n} rows")
    if len(keys) < n:
        raise ValueError(f"{len(keys)} keys for {n} rows")
    for item in keys:
        if type(item) is not bytes:
            raise TypeError(f"a Redis key must be bytes, not {type(item).__name__}")
    if (
        row_offset.shape[0] <= n or offsets.shape[0] <= n or pattern_ix.shape[0] < n or status.shape[0] < n
        or vehicle_id.shape[0] < n or route_id.shape[0] < n or trip_id.shape[0] < n or timestamp.shape[0] < n
        or timestamp_is_number.shape[0] < n or time_us.shape[0] < n
        or min(stop_ix.shape[0], distance_m.shape[0], eta_s.shape[0]) < row_offset[n]
    ):
        raise ValueError("an array is shorter than the batch")
    if row_offset[0] < 0:
        raise ValueError(f"the row offsets begin at {row_offset[0]}")

    with nogil:
        for i in range(n):
            if row_offset[i + 1] < row_offset[i] or status[i] == OK and row_offset[i + 1] > row_offset[i] and not (
                inside(vehicle_id[i], text.shape[0]) and inside(route_id[i], text.shape[0])
                and inside(trip_id[i], text.shape[0]) and inside(timestamp[i], text.shape[0])
            ):
                bad = i
                break
    if bad >= 0:
        raise ValueError(f"row {bad}: the row offsets decrease, or a text lies outside the arena")

    with nogil:
        for i in range(n):
            offsets[i] = size
            if status[i] != OK:
                continue
            first = row_offset[i]
            last = row_offset[i + 1]
            if first >= last:
                continue
            key = tuple_item(held_keys, i)
            pattern = pattern_at(table, pattern_ix[i])
            if pattern == NULL:
                status[i] = PREDICTION_FAILED
                continue
            room = DOCUMENT_ROOM + common.length + <int64_t>(last - first) * STOP_ROOM + 6 * (
                <int64_t>bytes_size(key)
                + vehicle_id[i].length + route_id[i].length + trip_id[i].length + timestamp[i].length
            )
            for j in range(first, last):
                if not 0 <= stop_ix[j] < pattern.n_stops:
                    break
                stop_prefix(pattern, stop_ix[j], &length)
                room += length
            else:
                j = last
            if j < last:
                status[i] = PREDICTION_FAILED
                continue
            if size + room > capacity:
                with gil:
                    make_room(buffer, size + room, &base, &capacity)

            out = base + size
            out = put_text(put_literal(out, b'{"vehicle_id":'), arena, &vehicle_id[i])
            out = put_text(put_literal(out, b',"route_id":'), arena, &route_id[i])
            out = put_literal(out, b',"trip_id":')
            out = put_text(out, arena, &trip_id[i]) if trip_id[i].length else put_literal(out, b'null')
            out = put_span(out, common.head)
            n_usable = 0
            moment_us = time_us[i]
            for j in range(first, last):
                if j > first:
                    out[0] = c','
                    out += 1
                prefix = stop_prefix(pattern, stop_ix[j], &length)
                out = put_bytes(out, prefix, length)
                out = put_rounded(out, distance_m[j], 1, 10.0)
                if usable(eta_s[j], moment_us):
                    out = put_eta(out, eta_s[j], moment_us)
                    n_usable += 1
                else:
                    out = put_bytes(out, stop_error, stop_error_length)
            if n_usable == 0:
                status[i] = PREDICTION_FAILED
                continue
            out = put_key(put_span(out, common.source), bytes_text(key), bytes_size(key))
            out = put_span(out, common.times)
            if timestamp_is_number[i]:
                out = put_bytes(out, arena + timestamp[i].start, timestamp[i].length)
            else:
                out = put_text(out, arena, &timestamp[i])
            size = put_span(out, common.tail) - base
        offsets[n] = size


def pack_set_commands(
    const uint8_t[::1] text not None,
    const text_t[::1] vehicle_id not None,
    bytearray documents not None,
    const int64_t[::1] offsets not None,
    bytes prefix not None,
    bytes expiry not None,
    bytearray buffer not None,
    int64_t n,
):
    """`SET <prefix><vehicle_id> <document> EX <ttl>` for every row with a document, as RESP.

    Returns
    -------
    tuple of (int, int)
        Bytes written to `buffer`, and how many commands they are.

    Raises
    ------
    ValueError
        If an array is shorter than the batch, the offsets decrease or leave the documents, a vehicle id lies outside
        the arena, or `buffer` holds the documents themselves.
    """
    cdef const char* arena = <const char*>&text[0] if text.shape[0] else NULL
    cdef const char* source = PyByteArray_AS_STRING(documents)
    cdef const char* prefix_text = PyBytes_AS_STRING(prefix)
    cdef const char* expiry_text = PyBytes_AS_STRING(expiry)
    cdef int64_t prefix_length = PyBytes_GET_SIZE(prefix)
    cdef int64_t expiry_length = PyBytes_GET_SIZE(expiry)
    cdef char* base = PyByteArray_AS_STRING(buffer)
    cdef int64_t capacity = len(buffer)
    cdef int64_t size = 0
    cdef int64_t i, length, room
    cdef int64_t n_commands = 0
    cdef char* out
    if n < 0:
        raise ValueError(f"a batch cannot have {n} rows")
    if offsets.shape[0] <= n or vehicle_id.shape[0] < n:
        raise ValueError("an array is shorter than the batch")
    if offsets[0] < 0 or offsets[n] > len(documents):
        raise ValueError("offsets reach past the documents")
    if documents is buffer:
        raise ValueError("the commands cannot replace the documents they are made of")
    room = offsets[n]
    for i in range(n):
        if offsets[i + 1] < offsets[i]:
            raise ValueError(f"the offsets decrease at row {i}")
        if offsets[i + 1] > offsets[i]:
            if not inside(vehicle_id[i], text.shape[0]):
                raise ValueError(f"the vehicle id of row {i} lies outside the arena")
            room += vehicle_id[i].length + prefix_length + expiry_length + COMMAND_ROOM
    if room > capacity:
        make_room(buffer, room, &base, &capacity)
    with nogil:
        out = base
        for i in range(n):
            length = offsets[i + 1] - offsets[i]
            if length <= 0:
                continue
            out = put_natural(put_literal(out, b'*5\r\n$3\r\nSET\r\n$'), prefix_length + vehicle_id[i].length)
            out = put_bytes(put_literal(out, b'\r\n'), prefix_text, prefix_length)
            out = put_bytes(out, arena + vehicle_id[i].start, vehicle_id[i].length)
            out = put_natural(put_literal(out, b'\r\n$'), length)
            out = put_bytes(put_literal(out, b'\r\n'), source + offsets[i], length)
            out = put_natural(put_literal(out, b'\r\n$2\r\nEX\r\n$'), expiry_length)
            out = put_bytes(put_literal(out, b'\r\n'), expiry_text, expiry_length)
            out = put_literal(out, b'\r\n')
            n_commands += 1
        size = out - base
    return size, n_commands


def number_text(double value, int decimals):
    """`round(value, decimals)` as JSON; 1 to 3 decimals, null from 1e12 on."""
    cdef char block[MAX_NUMBER]
    if not 1 <= decimals <= 3:
        raise ValueError("decimals must be 1, 2 or 3")
    return PyBytes_FromStringAndSize(block, put_rounded(block, value, decimals, 10.0 ** decimals) - block)


def string_text(bytes text not None):
    """UTF-8 text as a JSON string, quotes included."""
    cdef bytearray room = bytearray(6 * len(text) + 16)
    cdef char* base = PyByteArray_AS_STRING(room)
    return PyBytes_FromStringAndSize(base, put_key(base, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)) - base)


def time_text(int64_t time_us):
    """A UTC time as `datetime.isoformat()` writes it."""
    cdef char block[MAX_ISO + MAX_NUMBER]
    if not has_iso(time_us):
        raise ValueError("time outside the years 1 to 9999")
    return PyBytes_FromStringAndSize(block, put_iso(block, time_us) - block)
