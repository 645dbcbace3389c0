# Timestamps as text: ISO 8601 in the spellings that producers use, and POSIX numbers, to microseconds since 1970 UTC.

from libc.math cimport fabs, rint
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from etacore._kernels.number cimport is_digit, load8, number_t, number_value, scan_numeric, strip_space

cdef extern from *:
    """
    #define ETACORE_NO_TIME INT64_MIN
    #define ETACORE_MIN_TIME_US (-62135596800000000LL)
    #define ETACORE_MAX_TIME_US 253402300799999999LL
    #define ETACORE_NO_DATE UINT64_MAX
    """
    const int64_t NO_TIME "ETACORE_NO_TIME"
    const int64_t MIN_TIME_US "ETACORE_MIN_TIME_US"       # 0001-01-01T00:00:00
    const int64_t MAX_TIME_US "ETACORE_MAX_TIME_US"       # 9999-12-31T23:59:59.999999
    const uint64_t NO_DATE "ETACORE_NO_DATE"              # head of a date_t before the first date: never UTF-8


cdef inline int64_t checked_time_us(int64_t time_us) noexcept nogil:
    return time_us if MIN_TIME_US <= time_us <= MAX_TIME_US else NO_TIME


cdef inline int64_t posix_time_us(double posix) noexcept nogil:
    """Seconds since 1970, or milliseconds if above 1e11, to the nearest microsecond (ties to even)."""
    # No time in range is anywhere near 1e15, and the conversion to an integer must not overflow.
    if not fabs(posix) < 1e15:
        return NO_TIME
    return checked_time_us(<int64_t>rint(posix * (1e3 if fabs(posix) > 1e11 else 1e6)))


cdef inline int64_t days_of_civil(int year, int month, int day) noexcept nogil:
    """Days since 1970-01-01 of a date in the Gregorian calendar, year 1 or later.

    Years begin in March, so that the leap day is the last one; then a month's offset is a linear formula
    (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    """
    cdef int shifted = year - (month <= 2)
    cdef int era = shifted // 400
    cdef int year_of_era = shifted - era * 400
    cdef int day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    cdef int day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return <int64_t>era * 146097 + day_of_era - 719468


cdef inline int days_in_month(int year, int month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


cdef inline int take(const uint8_t** p, const uint8_t* end, int n_digits, int most) noexcept nogil:
    """A field of exactly `n_digits` digits and at most `most`; -1 (and nothing taken) otherwise."""
    cdef int value = 0
    cdef int i
    if end - p[0] < n_digits:
        return -1
    for i in range(n_digits):
        if not is_digit(p[0][i]):
            return -1
        value = value * 10 + (p[0][i] - 48)
    if value > most:
        return -1
    p[0] += n_digits
    return value


cdef inline bint take_sign(const uint8_t** p, const uint8_t* end, uint8_t sign) noexcept nogil:
    if p[0] == end or p[0][0] != sign:
        return False
    p[0] += 1
    return True


cdef inline int64_t take_zone_s(const uint8_t** p, const uint8_t* end) noexcept nogil:
    """Offset from UTC in seconds: none, Z, or +HH[[:]MM] or +HH:MM:SS; what is left over is not a zone."""
    cdef int sign = 1
    cdef int hours, minutes = 0, seconds = 0
    cdef bint colon
    if take_sign(p, end, c'Z') or take_sign(p, end, c'z'):
        return 0
    if take_sign(p, end, c'-'):
        sign = -1
    elif not take_sign(p, end, c'+'):
        return 0
    hours = take(p, end, 2, 23)
    if p[0] < end:
        colon = take_sign(p, end, c':')
        minutes = take(p, end, 2, 59)
        if colon and p[0] < end and take_sign(p, end, c':'):
            seconds = take(p, end, 2, 59)
    if hours < 0 or minutes < 0 or seconds < 0:
        return NO_TIME
    return sign * (hours * 3600 + minutes * 60 + seconds)


cdef inline int64_t iso_time_us(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """YYYY-MM-DD[THH:MM[:SS[.f]][zone]] or YYYYMMDDTHHMMSS[.f][zone]; NO_TIME if it is neither, or no such time.

    Digits alone are never taken for a date.
    """
    cdef int year, month, day, hour = 0, minute = 0, second = 0
    cdef int64_t fraction_us = 0, unit_us = 100000, zone_s = 0
    cdef bint extended, has_seconds = True
    year = take(&p, end, 4, 9999)
    extended = take_sign(&p, end, c'-')
    month = take(&p, end, 2, 12)
    if extended and not take_sign(&p, end, c'-'):
        return NO_TIME
    day = take(&p, end, 2, 31)
    if year < 1 or month < 1 or day < 1 or day > days_in_month(year, month):
        return NO_TIME
    if p < end or not extended:
        if not (take_sign(&p, end, c'T') or take_sign(&p, end, c't') or extended and take_sign(&p, end, c' ')):
            return NO_TIME
        hour = take(&p, end, 2, 23)
        if extended and not take_sign(&p, end, c':'):
            return NO_TIME
        minute = take(&p, end, 2, 59)
        if extended:
            has_seconds = take_sign(&p, end, c':')
        if has_seconds:
            second = take(&p, end, 2, 59)
        if hour < 0 or minute < 0 or second < 0:
            return NO_TIME
        if has_seconds and (take_sign(&p, end, c'.') or take_sign(&p, end, c',')):
            if p == end or not is_digit(p[0]):
                return NO_TIME
            while p < end and is_digit(p[0]):
                fraction_us += (p[0] - 48) * unit_us
                unit_us //= 10
                p += 1
        zone_s = take_zone_s(&p, end)
        if zone_s == NO_TIME or p != end:
            return NO_TIME
    return checked_time_us(
        (days_of_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - zone_s) * 1000000 + fraction_us
    )


cdef inline int service_date(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """YYYYMMDD or YYYY-MM-DD as the number YYYYMMDD; 0 if it is neither, or no such day."""
    cdef int year, month, day
    cdef bint extended
    strip_space(&p, &end)
    year = take(&p, end, 4, 9999)
    extended = take_sign(&p, end, c'-')
    month = take(&p, end, 2, 12)
    if extended and not take_sign(&p, end, c'-'):
        return 0
    day = take(&p, end, 2, 31)
    if p != end or year < 1 or month < 1 or day < 1 or day > days_in_month(year, month):
        return 0
    return year * 10000 + month * 100 + day


cdef inline int service_time_s(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """H:MM[:SS] with one to three digits of hours, in seconds; -1 if it is not that."""
    cdef int hours = 0, minutes, seconds = 0, n = 0
    strip_space(&p, &end)
    while p < end and is_digit(p[0]) and n < 3:
        hours = hours * 10 + (p[0] - 48)
        p += 1
        n += 1
    if n == 0 or not take_sign(&p, end, c':'):
        return -1
    minutes = take(&p, end, 2, 59)
    if take_sign(&p, end, c':'):
        seconds = take(&p, end, 2, 59)
    if p != end or minutes < 0 or seconds < 0:
        return -1
    return hours * 3600 + minutes * 60 + seconds


cdef inline int64_t text_time_us(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Any timestamp text, white space around it allowed. Eight digits alone may be a date: they are refused."""
    cdef number_t number
    cdef const uint8_t* rest
    cdef int64_t time_us
    strip_space(&p, &end)
    time_us = iso_time_us(p, end)
    if time_us != NO_TIME:
        return time_us
    rest = p
    if take(&rest, end, 8, 99999999) >= 0 and rest == end:
        return NO_TIME
    if scan_numeric(p, end, &number):
        return posix_time_us(number_value(&number))
    return NO_TIME


# The date last read, as it stood: YYYY-MM- and -DDT. The snapshots of a fleet are of one day, nearly all of them.
cdef struct date_t:
    uint64_t head
    uint32_t tail
    int64_t days


cdef inline uint32_t load4(const uint8_t* p) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, p, 4)
    return word


cdef inline int64_t text_time_near_us(const uint8_t* p, const uint8_t* end, date_t* date) noexcept nogil:
    """As text_time_us; quicker for YYYY-MM-DDTHH:MM:SS with no zone, Z or +00:00 on the day last read."""
    cdef int64_t time_us
    cdef uint64_t word
    cdef unsigned int hour, minute, second
    cdef bint is_utc
    if end - p >= 19 and load4(p + 7) == date.tail and load8(p) == date.head:
        word = load8(p + 11)
        # Two digits, colon, two digits, colon, two digits: each digit's upper half is 3, and still is with 6 added.
        if (
            word & 0xF0F0FFF0F0FFF0F0ULL == 0x30303A30303A3030ULL
            and (word + 0x0606000606000606ULL) & 0xF0F0FFF0F0FFF0F0ULL == 0x30303A30303A3030ULL
        ):
            hour = 10 * (word & 15) + (word >> 8 & 15)
            minute = 10 * (word >> 24 & 15) + (word >> 32 & 15)
            second = 10 * (word >> 48 & 15) + (word >> 56 & 15)
            is_utc = end - p == 19 or (end - p == 20 and p[19] == c'Z') or (
                end - p == 25 and load4(p + 19) == 0x3A30302BU and load4(p + 21) == 0x30303A30U)     # +00: and 0:00
            if is_utc and hour < 24 and minute < 60 and second < 60:
                return (date.days * 86400 + hour * 3600 + minute * 60 + second) * 1000000
    time_us = text_time_us(p, end)
    if time_us != NO_TIME and end - p >= 19 and p[4] == c'-' and p[7] == c'-' and p[10] == c'T':
        # It was read as a date and a time, so these are digits.
        date.head = load8(p)
        date.tail = load4(p + 7)
        date.days = days_of_civil(
            1000 * (p[0] - 48) + 100 * (p[1] - 48) + 10 * (p[2] - 48) + (p[3] - 48), 10 * (p[5] - 48) + (p[6] - 48),
            10 * (p[8] - 48) + (p[9] - 48))
    return time_us
