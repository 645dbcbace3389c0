# Writers of JSON text: each puts its bytes at `out` and returns the place behind them.
# The caller has made sure of the room: MAX_NUMBER bytes for a number, MAX_ISO for a time, six times its length
# plus eight for a text (some stores are wider than what they leave behind).

from libc.math cimport floor, fma, modf, rint, signbit
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, strlen

cdef extern from *:
    """
    static const char eta_digit_pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
        "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
        "8081828384858687888990919293949596979899";
    /* 0: copy the byte; 'u': six-byte form; else the letter behind the backslash */
    static const char eta_escapes[256] = {
        'u','u','u','u','u','u','u','u','b','t','n','u','f','r','u','u',
        'u','u','u','u','u','u','u','u','u','u','u','u','u','u','u','u',
        ['"'] = '"', ['\\\\'] = '\\\\'
    };
    static const char eta_hex_digits[] = "0123456789abcdef";
    """
    const char* eta_digit_pairs
    const char* eta_escapes
    const char* eta_hex_digits

cdef enum:
    MAX_NUMBER = 32
    MAX_ISO = 32

# A number from here on is written as null: no distance and no delay on earth has this size, and below it the
# shortest text of the rounded double is the rounded decimal itself (at most 15 digits).
cdef inline bint writable(double value) noexcept nogil:
    return -1e12 < value < 1e12


cdef inline char* put_literal(char* out, const char* text) noexcept nogil:
    cdef size_t length = strlen(text)      # folded by the compiler when inlined with a literal
    memcpy(out, text, length)
    return out + length


cdef inline char* put_bytes(char* out, const char* text, size_t length) noexcept nogil:
    memcpy(out, text, length)
    return out + length


cdef inline double round_scaled(double value, double scale) noexcept nogil:
    # The integer nearest to value * scale, computed as if exactly, halves to even: what round(value, k) stands on.
    # 0 <= value < 1e12, scale a power of ten up to 1000. Rounding to double is monotone and every half below 2^52
    # is a double, so the rounded product lies on the same side of a half as the exact one, or on the half itself.
    # Only there the part that the multiplication lost decides, and fma gives it exactly: 0.35 * 10 is 3.5, the
    # double 0.35 is a little less than 0.35, round(0.35, 1) is 0.3.
    cdef double product = value * scale
    cdef double whole = floor(product)
    cdef double fraction = product - whole
    cdef double lost
    if fraction != 0.5:
        return whole + 1.0 if fraction > 0.5 else whole
    lost = fma(value, scale, -product)
    if lost > 0.0 or (lost == 0.0 and whole * 0.5 != floor(whole * 0.5)):
        return whole + 1.0
    return whole


cdef inline int n_digits(uint64_t value) noexcept nogil:
    cdef int n = 1
    while value >= 10000:
        value //= 10000
        n += 4
    return n + (value >= 10) + (value >= 100) + (value >= 1000)


cdef inline char* put_natural(char* out, uint64_t value) noexcept nogil:
    cdef char* end = out + n_digits(value)
    cdef char* place = end
    while value >= 100:
        place -= 2
        memcpy(place, eta_digit_pairs + value % 100 * 2, 2)
        value //= 100
    if value >= 10:
        memcpy(place - 2, eta_digit_pairs + value * 2, 2)
    else:
        (place - 1)[0] = <char>(48 + value)
    return end


cdef inline char* put_decimal(char* out, uint64_t scaled, int decimals) noexcept nogil:
    # scaled / 10^decimals, decimals >= 1, without superfluous zeros but with one decimal at least.
    cdef uint64_t whole
    cdef int i
    while decimals > 1 and scaled % 10 == 0:
        scaled //= 10
        decimals -= 1
    whole = scaled
    for i in range(decimals):
        whole //= 10
    out = put_natural(out, whole)
    out[0] = c'.'
    for i in range(decimals, 0, -1):
        out[i] = <char>(48 + scaled % 10)
        scaled //= 10
    return out + decimals + 1


cdef inline char* put_rounded(char* out, double value, int decimals, double scale) noexcept nogil:
    # round(value, decimals) as JSON; scale = 10 ** decimals.
    if not writable(value):
        return put_literal(out, b"null")
    if signbit(value):
        out[0] = c'-'
        out += 1
        value = -value
    return put_decimal(out, <uint64_t>round_scaled(value, scale), decimals)


cdef inline char* put_pair(char* out, unsigned int value) noexcept nogil:
    memcpy(out, eta_digit_pairs + value * 2, 2)
    return out + 2


cdef inline bint plain8(uint64_t chunk) noexcept nogil:
    # Eight bytes at once: none below 0x20, no quote, no backslash.
    cdef uint64_t ones = 0x0101010101010101ULL
    cdef uint64_t quote = chunk ^ (ones * 0x22)
    cdef uint64_t slash = chunk ^ (ones * 0x5C)
    cdef uint64_t low = (chunk - ones * 0x20) & ~chunk
    return ((low | ((quote - ones) & ~quote) | ((slash - ones) & ~slash)) & (ones * 0x80)) == 0


cdef inline char* put_escaped(char* out, const char* text, int64_t length) noexcept nogil:
    # The inside of a JSON string, as orjson writes it: short escapes where JSON has them, \u00xx for the other
    # control characters, everything else as the UTF-8 it is.
    cdef int64_t i = 0
    cdef int64_t stop
    cdef unsigned char byte
    cdef char escape
    cdef uint64_t chunk
    while i < length:
        stop = length
        if length - i >= 8:
            memcpy(&chunk, text + i, 8)
            if plain8(chunk):
                memcpy(out, &chunk, 8)
                out += 8
                i += 8
                continue
            stop = i + 8
        while i < stop:
            byte = <unsigned char>text[i]
            escape = eta_escapes[byte]
            i += 1
            if escape == 0:
                out[0] = <char>byte
                out += 1
            elif escape == c'u':
                memcpy(out, b"\\u00", 4)
                out[4] = eta_hex_digits[byte >> 4]
                out[5] = eta_hex_digits[byte & 15]
                out += 6
            else:
                out[0] = c'\\'
                out[1] = escape
                out += 2
    return out


cdef inline int64_t delay_us(double seconds) noexcept nogil:
    # timedelta(seconds=...) in microseconds: the whole seconds apart, so that 1e6 * fraction alone is rounded.
    cdef double whole
    cdef double fraction = modf(seconds, &whole)
    return <int64_t>whole * 1000000 + <int64_t>rint(fraction * 1e6)


cdef inline bint has_iso(int64_t time_us) noexcept nogil:
    # 0001-01-01T00:00:00 .. 9999-12-31T23:59:59.999999, the years of datetime.
    return -62135596800000000LL <= time_us <= 253402300799999999LL


cdef inline bint usable(double eta_s, int64_t time_us) noexcept nogil:
    # Whether an ETA can be shown. Models clip to 7200; what is not a number in [0, 1e9] is a defect of the model.
    return 0.0 <= eta_s <= 1e9 and has_iso(time_us + delay_us(eta_s))


cdef inline char* put_iso(char* out, int64_t time_us) noexcept nogil:
    # As datetime.isoformat() of a UTC time. Calendar: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    # has_iso(time_us) holds, so the count of days from 0000-03-01 is positive and needs no signed cases.
    cdef int64_t since_year0_us = time_us + 62162035200000000LL
    cdef uint64_t days = <uint64_t>(since_year0_us // 86400000000LL)
    cdef uint64_t rest_us = <uint64_t>since_year0_us - days * 86400000000ULL
    cdef unsigned int second = <unsigned int>(rest_us // 1000000)
    cdef unsigned int micro = <unsigned int>(rest_us - <uint64_t>second * 1000000)
    cdef unsigned int era = <unsigned int>(days // 146097)
    cdef unsigned int day_of_era = <unsigned int>(days - <uint64_t>era * 146097)
    cdef unsigned int leap_days = day_of_era // 1460 - day_of_era // 36524 + day_of_era // 146096
    cdef unsigned int year_of_era = (day_of_era - leap_days) // 365
    cdef unsigned int day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef unsigned int month_ix = (5 * day_of_year + 2) // 153
    cdef unsigned int day = day_of_year - (153 * month_ix + 2) // 5 + 1
    cdef unsigned int month = month_ix + 3 if month_ix < 10 else month_ix - 9
    cdef unsigned int year = year_of_era + era * 400 + (month <= 2)
    out = put_pair(out, year // 100)
    out = put_pair(out, year % 100)
    out[0] = c'-'
    out = put_pair(out + 1, month)
    out[0] = c'-'
    out = put_pair(out + 1, day)
    out[0] = c'T'
    out = put_pair(out + 1, second // 3600)
    out[0] = c':'
    out = put_pair(out + 1, second // 60 % 60)
    out[0] = c':'
    out = put_pair(out + 1, second % 60)
    if micro:
        out[0] = c'.'
        out = put_pair(out + 1, micro // 10000)
        out = put_pair(out, micro // 100 % 100)
        out = put_pair(out, micro % 100)
    return put_literal(out, b"+00:00")


cdef inline char* put_duration(char* out, double seconds) noexcept nogil:
    # "45s", "12m 5s", "1h 2m": truncated, never rounded up. 0 <= seconds <= 1e9.
    cdef uint64_t whole = <uint64_t>seconds
    if whole < 60:
        out = put_natural(out, whole)
    elif whole < 3600:
        out = put_natural(out, whole // 60)
        out = put_natural(put_literal(out, b"m "), whole % 60)
    else:
        out = put_natural(out, whole // 3600)
        out = put_natural(put_literal(out, b"h "), whole // 60 % 60)
        out[0] = c'm'
        return out + 1
    out[0] = c's'
    return out + 1
