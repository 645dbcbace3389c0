# Speed and waiting of vehicles between two fixes.
#
# With v the progress made between two fixes of a vehicle on one trip and pattern, divided by the time dt between them
# (0 if the vehicle was put back, and 40 m/s at most: one stray fix must not count for minutes), the smoothed speed s
# becomes s + (1 - exp(-dt / SPEED_TAU_S)) (v - s): an exponential mean that does not depend on how often a vehicle
# reports. The first v starts it; two fixes of one time leave it. A vehicle is on its way to a stop since the fix at
# which that stop became its next one. Both begin anew with a new trip or pattern, and after a silence longer than
# reset_after_us.

from libc.math cimport NAN, expm1, isnan
from libc.stdint cimport int64_t, uint16_t

from etacore._kernels.batch cimport columns_t
from etacore._kernels.types cimport OK, TRIP_FINISHED

cdef enum:
    SPEED_TAU_S = 60      # what happened this long ago counts 1/e
    MAX_SPEED_MPS = 40    # nothing drives faster


# IN: the columns prev_*, status, time_us, progress_m, first_stop of n rows. OUT: since_us, recent_speed_mps, since_s.
cdef inline void measure_motion(columns_t columns, Py_ssize_t n, int64_t reset_after_us) noexcept nogil:
    cdef Py_ssize_t i
    cdef int64_t elapsed_us, last_us = 0
    cdef double speed_mps, before_mps, per_s = 0.0, weight = 0.0
    for i in range(n):
        columns.recent_speed_mps[i] = NAN
        columns.since_s[i] = NAN
        columns.since_us[i] = columns.time_us[i]
        if (columns.status[i] != OK and columns.status[i] != TRIP_FINISHED) or isnan(columns.prev_progress_m[i]):
            continue
        elapsed_us = columns.time_us[i] - columns.prev_time_us[i]
        if elapsed_us > reset_after_us:
            continue
        before_mps = columns.prev_speed_mps[i]
        speed_mps = before_mps
        if elapsed_us > 0:
            # Fleets report in step: the time of the row before is often that of this one.
            if elapsed_us != last_us:
                last_us = elapsed_us
                per_s = 1e6 / <double>elapsed_us
                weight = -expm1(-1e-6 * <double>elapsed_us / SPEED_TAU_S)
            speed_mps = (columns.progress_m[i] - columns.prev_progress_m[i]) * per_s
            if not speed_mps > 0.0:
                speed_mps = 0.0
            elif speed_mps > MAX_SPEED_MPS:
                speed_mps = MAX_SPEED_MPS
            if not isnan(before_mps):
                speed_mps = before_mps + weight * (speed_mps - before_mps)
        columns.recent_speed_mps[i] = <float>speed_mps
        if <uint16_t>columns.first_stop[i] == <uint16_t>columns.prev_stop[i]:
            columns.since_us[i] = columns.prev_since_us[i]
        if not isnan(speed_mps):
            columns.since_s[i] = 1e-6 * <double>(columns.time_us[i] - columns.since_us[i])
