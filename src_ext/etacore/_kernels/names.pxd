# Names of directions and runs, and the number of a run.

from libc.stdint cimport int8_t, int32_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    MAX_NAME = 1024                # bytes of such a name
    MAX_ROUTE = MAX_NAME - 16      # a longer route has none
    MAX_START_S = 100 * 3600
    # Runs without a trip id live among the trips. Ids are UTF-8, where this byte never occurs, so none begins with it.
    RUN_BYTE = 0xFF


cdef inline int32_t direction_name(char* out, const char* route, int32_t length, int8_t direction) noexcept nogil:
    # "<direction>:<route>"; its length, 0 if there is no room or no direction.
    cdef int32_t n = 0
    if direction < 0 or length > MAX_ROUTE:
        return 0
    if direction >= 100:
        out[n] = c'1'
        n += 1
    if direction >= 10:
        out[n] = <char>(c'0' + direction // 10 % 10)
        n += 1
    out[n] = <char>(c'0' + direction % 10)
    out[n + 1] = c':'
    memcpy(out + n + 2, route, <size_t>length)
    return n + 2 + length


cdef inline int32_t run_name(
    char* out, const char* route, int32_t length, int8_t direction, int32_t start_s,
) noexcept nogil:
    # RUN_BYTE "<direction or ->:<HH:MM:SS>:<route>"; its length, 0 if there is no room or no such time.
    cdef int32_t n, i
    cdef int32_t parts[3]
    if not 0 <= start_s < MAX_START_S or length > MAX_ROUTE:
        return 0
    out[0] = <char>RUN_BYTE
    n = 1 + direction_name(out + 1, route, 0, direction)
    if n == 1:
        out[1], out[2] = c'-', c':'
        n = 3
    parts[0], parts[1], parts[2] = start_s // 3600, start_s // 60 % 60, start_s % 60
    for i in range(3):
        out[n] = <char>(c'0' + parts[i] // 10)
        out[n + 1] = <char>(c'0' + parts[i] % 10)
        out[n + 2] = c':'
        n += 3
    memcpy(out + n, route, <size_t>length)
    return n + length


cdef inline uint64_t run_key(uint64_t trip_code, int32_t start_date, int32_t start_time_s) noexcept nogil:
    # The finalizer of SplitMix64 (Steele, Lea and Flood, 2014) over trip and start.
    cdef uint64_t code = trip_code ^ (<uint64_t><uint32_t>start_date << 32 | <uint32_t>start_time_s)
    code += <uint64_t>0x9E3779B97F4A7C15
    code = (code ^ (code >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    code = (code ^ (code >> 27)) * <uint64_t>0x94D049BB133111EB
    return code ^ (code >> 31)
