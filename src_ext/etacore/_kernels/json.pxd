# Reading JSON where it lies: strict RFC 8259, no allocation, no Python objects, no reads outside [p, end).
#
# Every scan_* function takes a position and the end of the text and returns the position behind what it read, or
# NULL if the text is not valid there. Writing JSON is the business of jsonwrite.pxd.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from etacore._kernels.number cimport count_trailing_zeros, is_digit, load8, number_t, scan_number

cdef enum:
    MAX_JSON_DEPTH = 128          # objects and arrays open at the same time

cdef enum token_kind_t:
    T_NULL = 0
    T_FALSE = 1
    T_TRUE = 2
    T_NUMBER = 3
    T_STRING = 4
    T_ARRAY = 5
    T_OBJECT = 6

# One value. `start`, `length`: a literal as it stands; a string without its quotes, still escaped.
cdef struct token_t:
    const uint8_t* start
    int64_t length
    number_t number
    uint8_t kind
    uint8_t escaped               # a string with at least one backslash


cdef inline const uint8_t* skip_space(const uint8_t* p, const uint8_t* end) noexcept nogil:
    while p < end and p[0] <= 32 and (p[0] == 32 or p[0] == 10 or p[0] == 13 or p[0] == 9):
        p += 1
    return p


# -- strings ----------------------------------------------------------------------------------------------------------

cdef inline const uint8_t* plain_end(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """First byte that is a quote, a backslash, a control character or not ASCII.

    Eight bytes at a time: subtracting 1 (or 32) from a byte sets its top bit if it was 0 (or below 32). A borrow can
    set wrong bits only above a right one, and the lowest set bit is the only one that is used.
    """
    cdef uint64_t word, hits
    while end - p >= 8:
        word = load8(p)
        hits = (
            ((word ^ 0x2222222222222222ULL) - 0x0101010101010101ULL)
            | ((word ^ 0x5C5C5C5C5C5C5C5CULL) - 0x0101010101010101ULL)
            | (word - 0x2020202020202020ULL)
            | word
        ) & 0x8080808080808080ULL
        if hits:
            return p + (count_trailing_zeros(hits) >> 3)
        p += 8
    while p < end and p[0] >= 32 and p[0] < 128 and p[0] != 34 and p[0] != 92:
        p += 1
    return p


cdef inline const uint8_t* scan_utf8(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """One character outside ASCII: no overlong forms, no surrogates, nothing above U+10FFFF."""
    cdef uint8_t c = p[0]
    cdef uint8_t low = 0x80, high = 0xBF
    cdef int extra, i
    if c < 0xC2 or c > 0xF4:
        return NULL
    if c < 0xE0:
        extra = 1
    elif c < 0xF0:
        extra = 2
        if c == 0xE0:
            low = 0xA0
        elif c == 0xED:
            high = 0x9F
    else:
        extra = 3
        if c == 0xF0:
            low = 0x90
        elif c == 0xF4:
            high = 0x8F
    if end - p <= extra or p[1] < low or p[1] > high:
        return NULL
    for i in range(2, extra + 1):
        if p[i] & 0xC0 != 0x80:
            return NULL
    return p + extra + 1


cdef inline int32_t hex4(const uint8_t* p) noexcept nogil:
    """Four hexadecimal digits, or -1."""
    cdef int32_t value = 0
    cdef int i
    cdef uint8_t c
    for i in range(4):
        c = p[i]
        if is_digit(c):
            c -= 48
        elif <uint8_t>((c | 32) - 97) < 6:
            c = (c | 32) - 87
        else:
            return -1
        value = value << 4 | c
    return value


cdef inline const uint8_t* scan_escape(const uint8_t* p, const uint8_t* end, int32_t* code) noexcept nogil:
    """One escape, p at its backslash; a surrogate counts only as one of a pair."""
    cdef int32_t low
    cdef uint8_t c
    if end - p < 2:
        return NULL
    c = p[1]
    if c == c'u':
        if end - p < 6:
            return NULL
        code[0] = hex4(p + 2)
        if code[0] < 0 or 0xDC00 <= code[0] <= 0xDFFF:
            return NULL
        if code[0] < 0xD800 or code[0] > 0xDFFF:
            return p + 6
        if end - p < 12 or p[6] != 92 or p[7] != c'u':
            return NULL
        low = hex4(p + 8)
        if low < 0xDC00 or low > 0xDFFF:
            return NULL
        code[0] = 0x10000 + ((code[0] - 0xD800) << 10) + (low - 0xDC00)
        return p + 12
    if c == 34 or c == 92 or c == c'/':
        code[0] = c
    elif c == c'b':
        code[0] = 8
    elif c == c'f':
        code[0] = 12
    elif c == c'n':
        code[0] = 10
    elif c == c'r':
        code[0] = 13
    elif c == c't':
        code[0] = 9
    else:
        return NULL
    return p + 2


cdef inline const uint8_t* scan_string(const uint8_t* p, const uint8_t* end, uint8_t* escaped) noexcept nogil:
    """A string, p behind its opening quote. Returns the position of the closing quote."""
    cdef int32_t code
    escaped[0] = 0
    while True:
        p = plain_end(p, end)
        if p == end:
            return NULL
        if p[0] == 34:
            return p
        if p[0] == 92:
            escaped[0] = 1
            p = scan_escape(p, end, &code)
        elif p[0] >= 128:
            p = scan_utf8(p, end)
        else:
            return NULL
        if p == NULL:
            return NULL


cdef inline int64_t unescape(const uint8_t* p, int64_t length, uint8_t* out, bint* needs_escape) noexcept nogil:
    """Write a scanned string's characters as UTF-8; never longer than the string was. Returns the length.

    `needs_escape` becomes 1 if JSON output has to escape one of them.
    """
    cdef const uint8_t* end = p + length
    cdef const uint8_t* run
    cdef uint8_t* to = out
    cdef int32_t code = 0
    needs_escape[0] = 0
    while p < end:
        run = p
        while p < end and p[0] != 92:
            p += 1
        memcpy(to, run, p - run)
        to += p - run
        if p == end:
            break
        p = scan_escape(p, end, &code)
        if code < 0x80:
            if code < 32 or code == 34 or code == 92:
                needs_escape[0] = 1
            to[0] = code
            to += 1
        elif code < 0x800:
            to[0] = 0xC0 | code >> 6
            to[1] = 0x80 | code & 0x3F
            to += 2
        elif code < 0x10000:
            to[0] = 0xE0 | code >> 12
            to[1] = 0x80 | code >> 6 & 0x3F
            to[2] = 0x80 | code & 0x3F
            to += 3
        else:
            to[0] = 0xF0 | code >> 18
            to[1] = 0x80 | code >> 12 & 0x3F
            to[2] = 0x80 | code >> 6 & 0x3F
            to[3] = 0x80 | code & 0x3F
            to += 4
    return to - out


# -- values -----------------------------------------------------------------------------------------------------------

cdef inline const uint8_t* scan_value(
    const uint8_t* p, const uint8_t* end, int depth, token_t* out
) noexcept nogil:
    """A value of any kind, p at its first byte; `depth` is how many objects and arrays are open around it."""
    cdef uint8_t c
    if p == end:
        return NULL
    c = p[0]
    out.start = p
    if c == 34:
        out.kind = T_STRING
        out.start = p + 1
        p = scan_string(p + 1, end, &out.escaped)
        if p == NULL:
            return NULL
        out.length = p - out.start
        return p + 1
    if is_digit(c) or c == c'-':
        out.kind = T_NUMBER
        p = scan_number(p, end, &out.number)
    elif c == c'{' or c == c'[':
        out.kind = T_OBJECT if c == c'{' else T_ARRAY
        p = scan_container(p, end, depth)
    elif c == c'n':
        out.kind = T_NULL
        p = scan_word(p, end, b"null", 4)
    elif c == c't':
        out.kind = T_TRUE
        p = scan_word(p, end, b"true", 4)
    elif c == c'f':
        out.kind = T_FALSE
        p = scan_word(p, end, b"false", 5)
    else:
        return NULL
    out.length = p - out.start
    return p


cdef inline const uint8_t* scan_word(const uint8_t* p, const uint8_t* end, const char* word, int length) noexcept nogil:
    cdef int i
    if end - p < length:
        return NULL
    for i in range(length):
        if p[i] != <uint8_t>word[i]:
            return NULL
    return p + length


cdef inline const uint8_t* scan_key(
    const uint8_t* p, const uint8_t* end, token_t* key
) noexcept nogil:
    """The name of a member and its colon, p at the opening quote. Returns the position of the value."""
    if p == end or p[0] != 34:
        return NULL
    key.start = p + 1
    p = scan_string(p + 1, end, &key.escaped)
    if p == NULL:
        return NULL
    key.length = p - key.start
    p = skip_space(p + 1, end)
    if p == end or p[0] != c':':
        return NULL
    return skip_space(p + 1, end)


cdef inline const uint8_t* scan_container(const uint8_t* p, const uint8_t* end, int depth) noexcept nogil:
    """An object or array, p at its bracket. Recursive: at most MAX_JSON_DEPTH small frames."""
    cdef token_t token
    cdef uint8_t close = c'}' if p[0] == c'{' else c']'
    if depth >= MAX_JSON_DEPTH:
        return NULL
    p = skip_space(p + 1, end)
    if p < end and p[0] == close:
        return p + 1
    while True:
        if close == c'}':
            p = scan_key(p, end, &token)
            if p == NULL:
                return NULL
        p = scan_value(p, end, depth + 1, &token)
        if p == NULL:
            return NULL
        p = skip_space(p, end)
        if p == end:
            return NULL
        if p[0] == close:
            return p + 1
        if p[0] != c',':
            return NULL
        p = skip_space(p + 1, end)
