# Writers of JSON text: each puts its bytes at `out` and returns the place behind them.
# The caller has made sure of the room: MAX_NUMBER bytes for a number, MAX_ISO for a time, six times its length
# plus eight for a text (some stores are wider than what they leave behind).

from libc.math cimport fma, signbit
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.string cimport memcpy, strlen

cdef extern from "math.h" nogil:
    long long llrint(double x)     # one instruction; rint is a call on the plain x86-64 that wheels are built for

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


cdef inline char* put_short(char* out, const char* text, size_t length) noexcept nogil:
    # As put_bytes, for texts of a few dozen bytes, where the call of memcpy costs more than the copy. The last copy
    # overlaps the one before it, so nothing outside the text is read.
    cdef size_t done = 0
    if length >= 16:
        while done + 16 <= length:
            memcpy(out + done, text + done, 16)
            done += 16
        memcpy(out + length - 16, text + length - 16, 16)
    elif length >= 8:
        memcpy(out, text, 8)
        memcpy(out + length - 8, text + length - 8, 8)
    elif length >= 4:
        memcpy(out, text, 4)
        memcpy(out + length - 4, text + length - 4, 4)
    else:
        while done < length:
            out[done] = text[done]
            done += 1
    return out + length


cdef inline uint64_t round_to_natural(double value, double scale) noexcept nogil:
    # The integer nearest to value * scale, computed as if exactly, halves to even: what round(value, k) stands on.
    # 0 <= value < 1e12, scale a power of ten up to 1000. Rounding to double is monotone and every half below 2^52
    # is a double, so the rounded product lies on the same side of a half as the exact one, or on the half itself.
    # Only there the part that the multiplication lost decides, and fma gives it exactly: 0.35 * 10 is 3.5, the
    # double 0.35 is a little less than 0.35, round(0.35, 1) is 0.3.
    cdef double product = value * scale
    cdef int64_t whole = <int64_t>product
    cdef double fraction = product - <double>whole
    cdef double lost
    if fraction == 0.5:
        lost = fma(value, scale, -product)
        if lost > 0.0 or (lost == 0.0 and whole & 1):
            whole += 1
    else:
        whole += fraction > 0.5
    return <uint64_t>whole


cdef inline double round_scaled(double value, double scale) noexcept nogil:
    return <double>round_to_natural(value, scale)


# Numbers are put together in a register, the first character in the lowest byte, and stored at once. How many digits
# there are is counted without branches: lengths change from number to number, and a wrong guess costs more than all.

cdef inline uint64_t digit_pair(unsigned int value) noexcept nogil:
    # Two digits; value < 100.
    cdef uint16_t pair
    memcpy(&pair, eta_digit_pairs + value * 2, 2)
    return pair


cdef inline int n_digits(uint64_t value) noexcept nogil:
    cdef int n = 1
    while value >= 10000:
        value //= 10000
        n += 4
    return n + (value >= 10) + (value >= 100) + (value >= 1000)


cdef inline uint64_t up_to_4_digits(unsigned int value, int* n) noexcept nogil:
    # value < 10000 without zeros in front; what lies above its n bytes is 0.
    n[0] = 1 + (value >= 10) + (value >= 100) + (value >= 1000)
    return (digit_pair(value // 100) | digit_pair(value % 100) << 16) >> (8 * (4 - n[0]))


cdef inline char* put_word(char* out, uint64_t word, int length) noexcept nogil:
    memcpy(out, &word, 8)
    return out + length


cdef inline char* put_natural(char* out, uint64_t value) noexcept nogil:
    cdef char* end
    cdef char* place
    cdef uint64_t word
    cdef int n
    if value < 10000:
        word = up_to_4_digits(<unsigned int>value, &n)
        return put_word(out, word, n)
    end = out + n_digits(value)
    place = end
    while value >= 100:
        place -= 2
        memcpy(place, eta_digit_pairs + value % 100 * 2, 2)
        value //= 100
    if value >= 10:
        memcpy(place - 2, eta_digit_pairs + value * 2, 2)
    else:
        (place - 1)[0] = <char>(48 + value)
    return end


cdef inline char* put_tenths(char* out, uint64_t scaled) noexcept nogil:
    # scaled / 10 with one decimal.
    cdef uint64_t whole = scaled // 10
    cdef uint64_t last = c'.' | (48 + scaled - 10 * whole) << 8
    cdef uint64_t word
    cdef int n
    if whole < 10000:
        word = up_to_4_digits(<unsigned int>whole, &n)
        return put_word(out, word | last << (8 * n), n + 2)
    out = put_natural(out, whole)
    memcpy(out, &last, 2)
    return out + 2


cdef inline char* put_hundredths(char* out, uint64_t scaled) noexcept nogil:
    # scaled / 100 with two decimals, or one if the second is 0.
    cdef uint64_t whole = scaled // 100
    cdef uint64_t pair = digit_pair(<unsigned int>(scaled - 100 * whole))
    cdef uint64_t last = c'.' | pair << 8
    cdef int n_last = 2 + (pair >> 8 != c'0')
    cdef uint64_t word
    cdef int n
    if whole < 10000:
        word = up_to_4_digits(<unsigned int>whole, &n)
        return put_word(out, word | last << (8 * n), n + n_last)
    return put_word(put_natural(out, whole), last, n_last)


cdef inline char* put_thousandths(char* out, uint64_t scaled) noexcept nogil:
    # scaled / 1000 with three decimals, or as many as are not 0, but one.
    cdef uint64_t whole = scaled // 1000
    cdef unsigned int rest = <unsigned int>(scaled - 1000 * whole)
    if rest % 10 == 0:
        return put_hundredths(out, scaled // 10)
    return put_word(put_natural(out, whole), c'.' | (48 + rest // 100) << 8 | digit_pair(rest % 100) << 16, 4)


cdef inline char* put_rounded(char* out, double value, int decimals, double scale) noexcept nogil:
    # round(value, decimals) as JSON, decimals 1, 2 or 3; scale = 10 ** decimals.
    cdef uint64_t scaled
    if not writable(value):
        return put_literal(out, b"null")
    if signbit(value):
        out[0] = c'-'
        out += 1
        value = -value
    scaled = round_to_natural(value, scale)
    if decimals == 1:
        return put_tenths(out, scaled)
    return put_hundredths(out, scaled) if decimals == 2 else put_thousandths(out, scaled)


cdef inline char* put_pair(char* out, unsigned int value) noexcept nogil:
    memcpy(out, eta_digit_pairs + value * 2, 2)
    return out + 2


cdef inline char* put_below_100(char* out, unsigned int value) noexcept nogil:
    cdef uint16_t pair = <uint16_t>(digit_pair(value) >> (8 * (value < 10)))
    memcpy(out, &pair, 2)
    return out + 1 + (value >= 10)


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


cdef inline bint plain(const char* text, int64_t length) noexcept nogil:
    # Whether a JSON string can hold the text as it stands, and it is ASCII: nothing to escape, nothing to check.
    cdef uint64_t top = 0x8080808080808080ULL
    cdef uint64_t chunk
    cdef int64_t i
    if length >= 8:
        for i in range(0, length - 8, 8):
            memcpy(&chunk, text + i, 8)
            if chunk & top or not plain8(chunk):
                return False
        memcpy(&chunk, text + length - 8, 8)       # overlaps the one before
        return not chunk & top and plain8(chunk)
    for i in range(length):
        if <unsigned char>text[i] >= 0x80 or eta_escapes[<unsigned char>text[i]]:
            return False
    return True


cdef inline int64_t delay_us(double seconds) noexcept nogil:
    # timedelta(seconds=...) in microseconds: the whole seconds apart, so that 1e6 * fraction alone is rounded.
    cdef int64_t whole = <int64_t>seconds
    return whole * 1000000 + llrint((seconds - <double>whole) * 1e6)


cdef inline bint has_iso(int64_t time_us) noexcept nogil:
    # 0001-01-01T00:00:00 .. 9999-12-31T23:59:59.999999, the years of datetime.
    return -62135596800000000LL <= time_us <= 253402300799999999LL


cdef inline bint usable(double eta_s, int64_t time_us) noexcept nogil:
    # Whether an ETA can be shown. Models clip to 7200; what is not a number in [0, 1e9] is a defect of the model.
    return 0.0 <= eta_s <= 1e9 and has_iso(time_us + delay_us(eta_s))


# The day last written: times of a batch lie close together, and a date costs more than the rest of a time.
cdef struct day_t:
    int64_t begin_us
    char text[16]          # 2026-01-20T, and more room, so that it is copied at once


cdef inline void find_day(day_t* day, int64_t time_us) noexcept nogil:
    # Calendar: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms". has_iso(time_us) holds, so the count of days
    # from 0000-03-01 is positive and needs no signed cases.
    cdef uint64_t days = <uint64_t>(time_us + 62162035200000000LL) // 86400000000ULL
    cdef unsigned int era = <unsigned int>(days // 146097)
    cdef unsigned int day_of_era = <unsigned int>(days - <uint64_t>era * 146097)
    cdef unsigned int leap_days = day_of_era // 1460 - day_of_era // 36524 + day_of_era // 146096
    cdef unsigned int year_of_era = (day_of_era - leap_days) // 365
    cdef unsigned int day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef unsigned int month_ix = (5 * day_of_year + 2) // 153
    cdef unsigned int day_of_month = day_of_year - (153 * month_ix + 2) // 5 + 1
    cdef unsigned int month = month_ix + 3 if month_ix < 10 else month_ix - 9
    cdef unsigned int year = year_of_era + era * 400 + (month <= 2)
    cdef char* out = day.text
    day.begin_us = <int64_t>(days * 86400000000ULL) - 62162035200000000LL
    out = put_pair(put_pair(out, year // 100), year % 100)
    out[0] = c'-'
    out = put_pair(out + 1, month)
    out[0] = c'-'
    put_pair(out + 1, day_of_month)[0] = c'T'


cdef inline char* put_iso_of_day(char* out, int64_t time_us, day_t* day) noexcept nogil:
    # As put_iso; `day` is one that find_day has filled.
    cdef uint64_t rest_us = <uint64_t>time_us - <uint64_t>day.begin_us
    cdef unsigned int second, micro, minute, hour
    cdef uint64_t word
    if rest_us >= 86400000000ULL:
        find_day(day, time_us)
        rest_us = <uint64_t>time_us - <uint64_t>day.begin_us
    memcpy(out, day.text, 16)
    second = <unsigned int>(rest_us // 1000000)
    micro = <unsigned int>(rest_us - <uint64_t>second * 1000000)
    minute = second // 60
    hour = second // 3600
    word = (
        digit_pair(hour) | <uint64_t>c':' << 16 | digit_pair(minute - 60 * hour) << 24 | <uint64_t>c':' << 40
        | digit_pair(second - 60 * minute) << 48
    )
    out = put_word(out + 11, word, 8)
    if micro:
        word = (
            c'.' | digit_pair(micro // 10000) << 8 | digit_pair(micro // 100 % 100) << 24
            | digit_pair(micro % 100) << 40
        )
        out = put_word(out, word, 7)
    return put_literal(out, b"+00:00")


cdef inline char* put_iso(char* out, int64_t time_us) noexcept nogil:
    # As datetime.isoformat() of a UTC time; has_iso(time_us) holds.
    cdef day_t day
    find_day(&day, time_us)
    return put_iso_of_day(out, time_us, &day)


cdef inline char* put_duration(char* out, double seconds) noexcept nogil:
    # "45s", "12m 5s", "1h 2m": truncated, never rounded up. 0 <= seconds <= 1e9.
    cdef unsigned int whole = <unsigned int>seconds
    cdef unsigned int minutes = whole // 60
    if whole < 3600:
        if minutes:
            out = put_literal(put_below_100(out, minutes), b"m ")
        out = put_below_100(out, whole - 60 * minutes)
        out[0] = c's'
        return out + 1
    out = put_literal(put_natural(out, minutes // 60), b"h ")
    out = put_below_100(out, minutes % 60)
    out[0] = c'm'
    return out + 1
