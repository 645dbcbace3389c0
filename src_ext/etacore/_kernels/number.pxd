# JSON numbers and their doubles: scanned where they lie, correctly rounded, never dependent on the locale.

from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    typedef unsigned __int128 etacore_u128_t;
    static const double ETACORE_POW10[23] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
        1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    static const uint64_t ETACORE_POW10_U64[20] = {
        1ULL, 10ULL, 100ULL, 1000ULL, 10000ULL, 100000ULL, 1000000ULL, 10000000ULL, 100000000ULL, 1000000000ULL,
        10000000000ULL, 100000000000ULL, 1000000000000ULL, 10000000000000ULL, 100000000000000ULL,
        1000000000000000ULL, 10000000000000000ULL, 100000000000000000ULL, 1000000000000000000ULL,
        10000000000000000000ULL};
    """
    ctypedef unsigned long long u128_t "etacore_u128_t"
    const double POW10 "ETACORE_POW10"[23]
    const uint64_t POW10_U64 "ETACORE_POW10_U64"[20]
    int count_leading_zeros "__builtin_clzll" (unsigned long long) noexcept nogil
    int count_trailing_zeros "__builtin_ctzll" (unsigned long long) noexcept nogil

cdef extern from "Python.h":
    ctypedef int PyGILState_STATE
    PyGILState_STATE PyGILState_Ensure() noexcept nogil
    void PyGILState_Release(PyGILState_STATE) noexcept nogil
    double PyOS_string_to_double(const char*, char**, void*) noexcept nogil
    void* PyErr_Occurred() noexcept nogil
    void PyErr_Clear() noexcept nogil

cdef enum:
    MAX_DECIMAL_DIGITS = 800      # more than the 767 that can matter for the rounding of a double

# (-1)**negative * mantissa * 10**exponent; `exact` is 0 if the digits did not fit and the literal has to be read again.
cdef struct number_t:
    const uint8_t* start
    int64_t length
    uint64_t mantissa
    int64_t exponent
    uint8_t negative
    uint8_t exact


cdef inline uint64_t load8(const uint8_t* p) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, p, 8)
    return word


cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return <uint8_t>(c - 48) < 10


cdef inline uint64_t eight_digits(uint64_t word) noexcept nogil:
    # The number of eight digits (their values, not their characters), the first one in the lowest byte: pairs, then
    # fours, then eight, each step with one multiplication for all of them.
    word = word * 10 + (word >> 8)
    return (
        (word & 0x000000FF000000FFULL) * 0x000F424000000064ULL
        + (word >> 16 & 0x000000FF000000FFULL) * 0x0000271000000001ULL
    ) >> 32


cdef inline const uint8_t* scan_digits(const uint8_t* p, const uint8_t* end, uint64_t* value) noexcept nogil:
    """Digits, appended to `value` (modulo 2**64); eight bytes at a time while there are eight."""
    cdef uint64_t word, others
    cdef int n
    while end - p >= 8:
        word = load8(p)
        # The top bit of each byte that is no digit; carries can set wrong ones only above a right one.
        others = ((word + 0x4646464646464646ULL) | (word - 0x3030303030303030ULL)) & 0x8080808080808080ULL
        word -= 0x3030303030303030ULL
        if others:
            # Up to seven digits at once as well, as eight with zeros in front: a loop over them would end at another
            # place for each number, which no branch predictor foresees.
            n = count_trailing_zeros(others) >> 3
            if n > 0:
                value[0] = value[0] * POW10_U64[n] + eight_digits(word << (64 - 8 * n))
            return p + n
        value[0] = value[0] * 100000000 + eight_digits(word)
        p += 8
    while p < end and is_digit(p[0]):
        value[0] = value[0] * 10 + (p[0] - 48)
        p += 1
    return p


cdef inline const uint8_t* scan_number(const uint8_t* p, const uint8_t* end, number_t* out) noexcept nogil:
    """A number, p at its first byte. What follows it is the caller's business."""
    cdef const uint8_t* digits
    cdef const uint8_t* point
    cdef uint64_t mantissa = 0
    cdef int64_t n_digits, power = 0
    cdef bint negative_power
    out.start = p
    out.exponent = 0
    out.negative = p[0] == c'-'
    p += out.negative
    digits = p
    if p == end or not is_digit(p[0]):
        return NULL
    if p[0] == c'0':
        p += 1
    else:
        p = scan_digits(p, end, &mantissa)
    n_digits = p - digits
    if p < end and p[0] == c'.':
        point = p + 1
        p = scan_digits(point, end, &mantissa)
        if p == point:
            return NULL
        n_digits += p - point
        out.exponent = point - p
    out.mantissa = mantissa
    out.exact = 1
    if n_digits > 19:
        # Zeros in front are free: 0.000...
        while n_digits > 0 and (digits[0] == c'0' or digits[0] == c'.'):
            n_digits -= digits[0] == c'0'
            digits += 1
        out.exact = n_digits <= 19
    if p < end and p[0] | 32 == c'e':
        p += 1
        negative_power = p < end and p[0] == c'-'
        if p < end and (p[0] == c'-' or p[0] == c'+'):
            p += 1
        if p == end or not is_digit(p[0]):
            return NULL
        while p < end and is_digit(p[0]):
            if power < 1000000000:
                power = power * 10 + (p[0] - 48)
            p += 1
        out.exponent += -power if negative_power else power
    out.length = p - out.start
    return p


cdef inline void strip_space(const uint8_t** start, const uint8_t** end) noexcept nogil:
    """Leave out ASCII white space at both ends."""
    while start[0] < end[0] and (start[0][0] == 32 or 9 <= start[0][0] <= 13):
        start[0] += 1
    while start[0] < end[0] and ((end[0] - 1)[0] == 32 or 9 <= (end[0] - 1)[0] <= 13):
        end[0] -= 1


cdef inline bint scan_numeric(const uint8_t* p, const uint8_t* end, number_t* out) noexcept nogil:
    """Whether a text is one JSON number, with white space around it and a plus sign in front if it likes."""
    strip_space(&p, &end)
    if p < end and p[0] == c'+':
        p += 1
        if p < end and p[0] == c'-':
            return False
    return p < end and scan_number(p, end, out) == end


cdef inline double divide_by_power(uint64_t mantissa, int power) noexcept nogil:
    """mantissa / 10**power, correctly rounded, for a mantissa that is not 0 and power 0..19.

    Both are shifted up to their top bit, so that the quotient of mantissa * 2**63 by the power has 63 or 64 bits. Its
    lowest bit then says "and something more" if a remainder is left (rounding to odd). A double keeps 53 bits of
    these, so the one rounding to nearest that the conversion does sees whether it is below, on or above the middle,
    and the exact quotient would have been rounded to the same double. Scaling by a power of two is exact.
    """
    cdef int up = count_leading_zeros(mantissa)
    cdef int up_power = count_leading_zeros(POW10_U64[power])
    cdef uint64_t divisor = POW10_U64[power] << up_power
    cdef u128_t dividend = <u128_t>(mantissa << up) << 63
    cdef uint64_t quotient = <uint64_t>(dividend // divisor)
    cdef uint64_t scale_bits = <uint64_t>(1023 - 63 + up_power - up) << 52
    cdef double scale
    quotient |= <u128_t>quotient * divisor != dividend
    memcpy(&scale, &scale_bits, 8)
    return <double>quotient * scale


cdef inline double slow_value(const number_t* number) noexcept nogil:
    """The value of a scanned literal by Python's own conversion, for what is too long or too far from 1.

    The copy is bounded: all digits in front, one exponent behind. Digits after the 800th count only as "and something
    more", which is all that can matter behind the 767 digits of the longest midpoint of two doubles.
    """
    cdef char text[MAX_DECIMAL_DIGITS + 32]
    cdef const uint8_t* p = number.start + number.negative
    cdef const uint8_t* end = number.start + number.length
    cdef bint behind_point = False, negative_power, more = False
    cdef int64_t exponent = 0, power = 0
    cdef int n = 0, n_exponent
    cdef PyGILState_STATE gil
    cdef double value
    while p < end and p[0] | 32 != c'e':
        if p[0] == c'.':
            behind_point = True
        else:
            exponent -= behind_point
            if n == MAX_DECIMAL_DIGITS:
                more |= p[0] != c'0'
                exponent += 1
            elif n > 0 or p[0] != c'0':
                text[n] = p[0]
                n += 1
        p += 1
    if p < end:
        p += 1
        negative_power = p[0] == c'-'
        p += p[0] == c'-' or p[0] == c'+'
        while p < end:
            if power < 1000000000:
                power = power * 10 + (p[0] - 48)
            p += 1
        exponent += -power if negative_power else power
    value = 0.0
    if n > 0 and n + exponent > 400:
        value = INFINITY
    elif n > 0 and n + exponent > -400:
        if more:
            text[n] = c'1'
            n += 1
            exponent -= 1
        text[n] = c'e'
        text[n + 1] = c'-' if exponent < 0 else c'+'
        n_exponent = <int>(-exponent if exponent < 0 else exponent)
        text[n + 2] = 48 + n_exponent // 1000
        text[n + 3] = 48 + n_exponent // 100 % 10
        text[n + 4] = 48 + n_exponent // 10 % 10
        text[n + 5] = 48 + n_exponent % 10
        text[n + 6] = 0
        gil = PyGILState_Ensure()
        value = PyOS_string_to_double(text, NULL, NULL)
        if PyErr_Occurred() != NULL:
            PyErr_Clear()
            value = NAN
        PyGILState_Release(gil)
    return -value if number.negative else value


cdef inline double number_value(const number_t* number) noexcept nogil:
    """The double nearest to a scanned literal (ties to even); infinite if it is too large for one.

    Up to 2**53 and 10**22 both sides are doubles, and one division or product of doubles is rounded once (Clinger).
    The 16 to 19 digits of a repr go through 128-bit integers. The rest is rare and goes to Python.
    """
    cdef uint64_t mantissa = number.mantissa
    cdef int64_t exponent = number.exponent
    cdef double value
    if not number.exact:
        return slow_value(number)
    if mantissa == 0:
        value = 0.0
    elif mantissa <= 9007199254740992ULL and -22 <= exponent <= 22:
        value = <double>mantissa
        if exponent < 0:
            value /= POW10[-exponent]
        else:
            value *= POW10[exponent]
    elif -19 <= exponent < 0:
        value = divide_by_power(mantissa, <int>-exponent)
    elif 0 <= exponent <= 19:
        value = <double>(<u128_t>mantissa * POW10_U64[exponent])
    else:
        return slow_value(number)
    return -value if number.negative else value
