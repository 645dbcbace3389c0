"""Prediction documents of a whole batch as JSON, inside the Redis commands that store them."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MIN, int32_t, int64_t
from libc.string cimport memmove

from etacore._kernels.batch cimport Batch, Documents, Part, columns_t
from etacore._kernels.jsonwrite cimport (
    MAX_ISO, MAX_NUMBER, day_t, delay_us, find_day, has_iso, n_digits, plain, put_bytes, put_duration, put_escaped,
    put_hundredths, put_iso, put_iso_of_day, put_literal, put_natural, put_pair, put_rounded, put_short, put_tenths, round_to_natural,
)
from etacore._kernels.routes cimport PatternTable, pattern_at, pattern_t, stop_prefix
from etacore._kernels.text cimport inside
from etacore._kernels.types cimport OK, PREDICTION_FAILED, text_t

cdef extern from "Python.h":
    # The pointer forms: the tuple of keys is checked and held before the GIL is let go.
    PyObject* tuple_item "PyTuple_GET_ITEM"(PyObject* items, Py_ssize_t i) nogil
    char* bytes_text "PyBytes_AS_STRING"(PyObject* item) nogil
    Py_ssize_t bytes_size "PyBytes_GET_SIZE"(PyObject* item) nogil

cdef enum:
    STOP_ROOM = 256        # a stop without its prefix: 4 numbers, a time, names, or nulls and the error
    DOCUMENT_ROOM = 352    # names and punctuation of a document outside its stops, and its run
    COMMAND_ROOM = 128     # RESP framing of one SET

NO_PREDICTION = "The model gave no usable prediction"
cdef bytes _stop_error = (
    b',"eta_seconds":null,"eta_minutes":null,"eta_formatted":null,"eta_timestamp":null,"error":"%b"}'
    % NO_PREDICTION.encode()
)
cdef const char* stop_error = PyBytes_AS_STRING(_stop_error)
cdef size_t stop_error_length = PyBytes_GET_SIZE(_stop_error)

cdef struct piece_t:
    const char* start
    int64_t length

# What all documents of one model have in common, ready-made.
cdef struct envelope_t:
    piece_t head        # ,"computed_at": ... "predictions":[
    piece_t source      # ],"source": ... "redis_key":
    piece_t times       # ,"fetched_at": ... "source_timestamp":
    piece_t tail        # ,"prefect_pipeline_latency_ms": ... }
    int64_t length     # of all four

# What all commands have in common: SET <prefix><vehicle id> <document> EX <seconds>, each part after its length.
cdef struct command_t:
    piece_t prefix      # of the key, without its length: the id behind it counts too
    piece_t tail        # behind the document
    int n_digits       # of the last document's length

# The columns of a batch and what was predicted for them: copies, so that nothing written can change them.
cdef struct rows_t:
    columns_t batch
    const char* arena
    const int32_t* row_offset
    const int32_t* stop_ix
    const double* distance_m
    const float* eta_s


cdef int make_room(bytearray buffer, int64_t needed, char** base, int64_t* capacity) except -1:
    # Grows by doubling. BufferError when somebody still holds a view of the buffer.
    PyByteArray_Resize(buffer, max(needed, capacity[0] * 2, 4096))
    base[0] = PyByteArray_AS_STRING(buffer)
    capacity[0] = len(buffer)
    return 0


cdef inline char* put_eta(char* out, double eta_s, int64_t moment_us, day_t* day) noexcept nogil:
    # 0 <= eta_s <= 1e9; moment_us is when that will be.
    out = put_tenths(put_literal(out, b',"eta_seconds":'), round_to_natural(eta_s, 10.0))
    out = put_hundredths(put_literal(out, b',"eta_minutes":'), round_to_natural(eta_s / 60.0, 100.0))
    out = put_duration(put_literal(out, b',"eta_formatted":"'), eta_s)
    out = put_iso_of_day(put_literal(out, b'","eta_timestamp":"'), moment_us, day)
    return put_literal(out, b'"}')


cdef inline char* put_text(char* out, const char* arena, const text_t* text) noexcept nogil:
    # A string with its quotes.
    out[0] = c'"'
    if text.escape:
        out = put_escaped(out + 1, arena + text.start, text.length)
    else:
        out = put_short(out + 1, arena + text.start, text.length)
    out[0] = c'"'
    return out + 1


cdef char* put_odd_key(char* out, const char* key, int64_t length) except NULL nogil:
    # Redis keys are bytes; JSON is UTF-8. What is not UTF-8 becomes U+FFFD, as Python's errors="replace" does it.
    # The result has at most three bytes for one, so the room of six times the length holds.
    with gil:
        text = PyBytes_FromStringAndSize(key, length).decode("utf-8", "replace").encode()
        return put_escaped(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef inline char* put_key(char* out, const char* key, int64_t length) except NULL nogil:
    # Apart from put_odd_key, because a function with a Python variable takes the GIL on its way out, needed or not.
    out[0] = c'"'
    if plain(key, length):
        out = put_short(out + 1, key, length)
    else:
        out = put_odd_key(out + 1, key, length)
    out[0] = c'"'
    return out + 1


cdef inline char* put_piece(char* out, piece_t span) noexcept nogil:
    return put_bytes(out, span.start, span.length)


cdef piece_t as_piece(bytes text) except *:
    cdef piece_t span
    if text is None:
        raise TypeError("a part of the envelope must be bytes, not None")
    span.start = PyBytes_AS_STRING(text)
    span.length = PyBytes_GET_SIZE(text)
    return span


cdef envelope_t as_envelope(tuple parts) except *:
    cdef envelope_t envelope
    head, source, times, tail = parts
    envelope.head = as_piece(head)
    envelope.source = as_piece(source)
    envelope.times = as_piece(times)
    envelope.tail = as_piece(tail)
    envelope.length = envelope.head.length + envelope.source.length + envelope.times.length + envelope.tail.length
    return envelope


cdef inline char* put_command_head(char* out, const command_t* command, const char* id, int64_t length) noexcept nogil:
    # Up to where the document's length stands.
    out = put_natural(put_literal(out, b'*5\r\n$3\r\nSET\r\n$'), command.prefix.length + length)
    out = put_short(put_literal(out, b'\r\n'), command.prefix.start, command.prefix.length)
    return put_literal(put_short(out, id, length), b'\r\n$')


cdef inline char* put_length(char* body, int64_t length, command_t* command) noexcept nogil:
    # The document's length and CR LF into the room that was left for them. Redis takes no zeros in front, so another
    # number of digits than the last document had moves the document. Returns where it begins.
    cdef int n = n_digits(length)
    cdef char* place
    if n != command.n_digits:
        memmove(body + n - command.n_digits, body, length)
        body += n - command.n_digits
        command.n_digits = n
    place = body - 2
    place[0] = c'\r'
    place[1] = c'\n'
    while n > 0:
        n -= 1
        place -= 1
        place[0] = <char>(48 + length % 10)
        length //= 10
    return body


cdef inline int64_t room_of(
    const rows_t* rows, int64_t i, const pattern_t* pattern, const envelope_t* common, const command_t* command,
    int64_t key_length,
) noexcept nogil:
    # Bytes that the row's command cannot exceed; -1 if one of its stops is not in the pattern.
    cdef int32_t first = rows.row_offset[i]
    cdef int32_t last = rows.row_offset[i + 1]
    cdef int32_t j, length
    cdef int64_t room = (
        COMMAND_ROOM + DOCUMENT_ROOM + common.length + command.prefix.length + command.tail.length
        + <int64_t>(last - first) * STOP_ROOM
        + 6 * (
            key_length + rows.batch.route_id[i].length + rows.batch.trip_id[i].length + rows.batch.timestamp[i].length
        )
        + 7 * <int64_t>rows.batch.vehicle_id[i].length
    )
    for j in range(first, last):
        if not 0 <= rows.stop_ix[j] < pattern.n_stops:
            return -1
        stop_prefix(pattern, rows.stop_ix[j], &length)
        room += length
    return room


cdef inline char* put_stops(
    char* out, const rows_t* rows, int64_t i, const pattern_t* pattern, day_t* day, int64_t* n_usable
) noexcept nogil:
    cdef int64_t time_us = rows.batch.time_us[i]
    cdef int64_t moment_us
    cdef double eta_s
    cdef int32_t first = rows.row_offset[i]
    cdef int32_t j, length
    cdef const char* prefix
    n_usable[0] = 0
    for j in range(first, rows.row_offset[i + 1]):
        if j > first:
            out[0] = c','
            out += 1
        prefix = stop_prefix(pattern, rows.stop_ix[j], &length)
        out = put_rounded(put_short(out, prefix, length), rows.distance_m[j], 1, 10.0)
        # As `usable`, with the moment kept. A float that is not a number in [0, 1e9] is a defect of the model.
        eta_s = rows.eta_s[j]
        moment_us = time_us + delay_us(eta_s) if 0.0 <= eta_s <= 1e9 else INT64_MIN
        if has_iso(moment_us):
            out = put_eta(out, eta_s, moment_us, day)
            n_usable[0] += 1
        else:
            out = put_bytes(out, stop_error, stop_error_length)
    return out


cdef char* put_run(char* out, const columns_t* batch, int64_t i) noexcept nogil:
    # What follows behind the last member of a document, whose brace has been written: which run of the trip it is, and
    # whether its pattern is a guess.
    cdef int32_t date = batch.start_date[i]
    cdef int32_t time_s = batch.start_time_s[i]
    out -= 1
    if date > 0:
        out = put_pair(put_literal(out, b',"start_date":"'), date // 1000000)
        out = put_pair(put_pair(put_pair(out, date // 10000 % 100), date // 100 % 100), date % 100)
        out = put_literal(out, b'"')
    if time_s >= 0:
        out = put_literal(out, b',"start_time":"')
        out = put_pair(out, time_s // 3600) if time_s < 360000 else put_natural(out, time_s // 3600)
        out = put_pair(put_literal(out, b':'), time_s // 60 % 60)
        out = put_literal(put_pair(put_literal(out, b':'), time_s % 60), b'"')
    if batch.is_guessed[i]:
        out = put_literal(out, b',"pattern":"guessed"')
    return put_literal(out, b'}')


def encode_documents(
    Batch batch not None, Part part not None, PatternTable table not None, *, tuple envelope not None,
    bytes prefix not None, int64_t ttl_s,
):
    """Write one JSON document for every row that is OK and has stops, and the Redis command that stores it.

    A stop whose ETA is not a number in [0, 1e9] is written with an ``error`` and null ``eta_*``; a distance that is not
    a number below 1e12 as null. A row in which no stop has a usable ETA gets no document and the status
    PREDICTION_FAILED.

    Parameters
    ----------
    batch : Batch
        IN: ``keys`` (bytes that are not UTF-8 are shown as U+FFFD), ``vehicle_id``, ``route_id``, ``trip_id``,
        ``timestamp``, ``timestamp_is_number``, ``time_us``, ``pattern_ix``, ``start_date``, ``start_time_s``,
        ``is_guessed``. OUT: ``status``.
    part : Part
        IN: ``row_offset``, ``stop_ix``, ``distance_m``, ``eta_s``; rows that another model predicts have no stops in
        it. OUT: ``documents``.
    table : PatternTable
        Where the stops' ids and sequences come from.
    envelope : tuple of four bytes
        From `etacore.pipeline.encoding.Envelope.parts`.
    prefix : bytes
        Start of every key: ``SET <prefix><vehicle_id> <document> EX <ttl_s>``.
    ttl_s : int
        Lifetime, seconds, at least 1.

    Raises
    ------
    ValueError
        If there are fewer keys than rows, the part is of another batch, the row offsets are negative or decrease, a
        text lies outside the arena, or `ttl_s` is below 1. There are then no documents.
    BufferError
        If the buffer has to grow while a view of it is held.
    """
    cdef Documents documents = part.documents
    cdef bytearray buffer = documents.buffer
    cdef PyObject* held_keys = <PyObject*>batch.keys
    cdef PyObject* key
    cdef char* base = PyByteArray_AS_STRING(buffer)
    cdef int64_t capacity = len(buffer)
    cdef int64_t size = 0
    cdef int64_t n_found = 0
    cdef int64_t n = batch.n_rows
    cdef int64_t i, room, length, n_usable, n_arena = batch.columns.n_text
    cdef int64_t bad = -1
    cdef int64_t* start_of
    cdef int64_t* end_of
    cdef int64_t* row_of
    cdef char* out
    cdef char* body
    cdef const pattern_t* pattern
    cdef day_t day
    cdef rows_t rows
    cdef command_t command
    cdef envelope_t common = as_envelope(envelope)
    cdef bytes tail
    documents.begin(n)
    if ttl_s < 1:
        raise ValueError(f"a time to live must be at least 1 s, not {ttl_s}")
    if len(batch.keys) < n:
        raise ValueError(f"{len(batch.keys)} keys for {n} rows")
    if part.n != n:
        raise ValueError(f"a part of {part.n} vehicles for a batch of {n}")
    rows.batch = batch.columns
    rows.arena = <const char*>batch.columns.text
    rows.row_offset = part.offsets
    rows.stop_ix = part.stops
    rows.distance_m = part.distances
    rows.eta_s = part.etas
    start_of = documents.start_of
    end_of = documents.end_of
    row_of = documents.row_of
    if rows.row_offset[0] < 0:
        raise ValueError(f"the row offsets begin at {rows.row_offset[0]}")
    if not 0 <= rows.row_offset[n] <= part.n_rows:
        raise ValueError(f"the row offsets end at {rows.row_offset[n]}, and there are {part.n_rows} rows")

    with nogil:
        for i in range(n):
            if rows.row_offset[i + 1] < rows.row_offset[i]:
                bad = i
                break
            if rows.batch.status[i] == OK and rows.row_offset[i + 1] > rows.row_offset[i] and not (
                inside(rows.batch.vehicle_id[i], n_arena) and inside(rows.batch.route_id[i], n_arena)
                and inside(rows.batch.trip_id[i], n_arena) and inside(rows.batch.timestamp[i], n_arena)
            ):
                bad = i
                break
    if bad >= 0:
        raise ValueError(f"row {bad}: the row offsets decrease, or a text lies outside the arena")

    expiry = b"%d" % ttl_s
    tail = b"\r\n$2\r\nEX\r\n$%d\r\n%b\r\n" % (len(expiry), expiry)
    command.prefix = as_piece(prefix)
    command.tail = as_piece(tail)
    command.n_digits = 4
    find_day(&day, 0)
    with nogil:
        for i in range(n):
            start_of[i] = 0
            end_of[i] = 0
            if rows.batch.status[i] != OK or rows.row_offset[i] >= rows.row_offset[i + 1]:
                continue
            key = tuple_item(held_keys, i)
            pattern = pattern_at(table, rows.batch.pattern_ix[i])
            room = -1
            if pattern != NULL:
                room = room_of(&rows, i, pattern, &common, &command, bytes_size(key))
            if room < 0:
                rows.batch.status[i] = PREDICTION_FAILED
                continue
            if size + room > capacity:
                with gil:
                    make_room(buffer, size + room, &base, &capacity)

            out = put_command_head(
                base + size, &command, rows.arena + rows.batch.vehicle_id[i].start, rows.batch.vehicle_id[i].length)
            # The document's length stands before it and is known after it. Most have as many digits as the last one.
            body = out + command.n_digits + 2
            out = put_text(put_literal(body, b'{"vehicle_id":'), rows.arena, &rows.batch.vehicle_id[i])
            out = put_text(put_literal(out, b',"route_id":'), rows.arena, &rows.batch.route_id[i])
            out = put_literal(out, b',"trip_id":')
            if rows.batch.trip_id[i].length:
                out = put_text(out, rows.arena, &rows.batch.trip_id[i])
            else:
                out = put_literal(out, b'null')
            out = put_stops(put_piece(out, common.head), &rows, i, pattern, &day, &n_usable)
            if n_usable == 0:
                rows.batch.status[i] = PREDICTION_FAILED
                continue
            out = put_key(put_piece(out, common.source), bytes_text(key), bytes_size(key))
            out = put_piece(out, common.times)
            if rows.batch.timestamp_is_number[i]:
                out = put_short(out, rows.arena + rows.batch.timestamp[i].start, rows.batch.timestamp[i].length)
            else:
                out = put_text(out, rows.arena, &rows.batch.timestamp[i])
            out = put_piece(out, common.tail)
            if rows.batch.start_date[i] > 0 or rows.batch.start_time_s[i] >= 0 or rows.batch.is_guessed[i]:
                out = put_run(out, &rows.batch, i)
            length = out - body
            body = put_length(body, length, &command)
            start_of[i] = body - base
            end_of[i] = start_of[i] + length
            row_of[n_found] = i
            n_found += 1
            size = put_short(body + length, command.tail.start, command.tail.length) - base
    documents.size = size
    documents.n_found = n_found
    documents.n = n


cdef inline bint is_usable(double eta_s) noexcept nogil:
    return 0.0 <= eta_s <= 1e9


cdef void pool(float* etas, int32_t n, double* means, int32_t* counts) noexcept nogil:
    # Isotonic regression by pooling adjacent violators: blocks of equal values, merged while one lies below the block
    # before it. ETAs that cannot be used stay as they are and count for nothing.
    cdef int32_t i, block = 0, n_blocks = 0
    for i in range(n):
        if not is_usable(etas[i]):
            continue
        means[n_blocks] = etas[i]
        counts[n_blocks] = 1
        n_blocks += 1
        while n_blocks > 1 and means[n_blocks - 1] < means[n_blocks - 2]:
            n_blocks -= 1
            means[n_blocks - 1] = (
                means[n_blocks - 1] * counts[n_blocks - 1] + means[n_blocks] * counts[n_blocks]
            ) / (counts[n_blocks - 1] + counts[n_blocks])
            counts[n_blocks - 1] += counts[n_blocks]
    for i in range(n):
        if is_usable(etas[i]):
            etas[i] = <float>means[block]
            counts[block] -= 1
            if counts[block] == 0:
                block += 1


def order_arrivals(Part part not None):
    """Let no vehicle arrive at a stop earlier than at the stop before it.

    The ETAs of each vehicle become the nearest ascending ones in least squares (isotonic regression, every stop counts
    alike): where they fall, the stops concerned share their mean. The arrivals themselves ascend, so the sum of squared
    errors cannot grow by it (Barlow et al., Statistical Inference under Order Restrictions, 1972, theorem 1.10).

    Parameters
    ----------
    part : Part
        IN: ``row_offset``. INOUT: ``eta_s``; what is not a number in [0, 1e9] stays.

    Raises
    ------
    MemoryError
        If there is none for as many numbers as there are rows. Nothing is changed then.
    ValueError
        If the row offsets reach out of the rows.
    """
    cdef const int32_t* offsets = part.offsets
    cdef float* etas = part.etas
    cdef Py_ssize_t i, n = part.n
    cdef int32_t j, falls
    cdef double* means
    if n == 0 or part.n_rows == 0:
        return
    if offsets[0] < 0 or offsets[n] > part.n_rows:
        raise ValueError(f"the row offsets reach from {offsets[0]} to {offsets[n]}, and there are {part.n_rows} rows")
    means = <double*>PyMem_RawMalloc(<size_t>part.n_rows * (sizeof(double) + sizeof(int32_t)))
    if means == NULL:
        raise MemoryError
    with nogil:
        for i in range(n):
            falls = 0
            for j in range(offsets[i] + 1, offsets[i + 1]):
                falls |= not etas[j] >= etas[j - 1]
            if falls:
                pool(etas + offsets[i], offsets[i + 1] - offsets[i], means, <int32_t*>(means + part.n_rows))
    PyMem_RawFree(means)


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
