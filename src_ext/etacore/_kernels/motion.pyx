"""Speed and waiting of vehicles between two fixes."""

cimport cython
from libc.math cimport NAN, expm1, isnan
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t

from etacore._kernels.types cimport OK, TRIP_FINISHED

cdef double MAX_SPEED_MPS = 40.0         # nothing drives faster: one stray fix must not count for minutes


@cython.final
cdef class MotionPointers:
    def __init__(
        self, int32_t[::1] prev_stop not None, int64_t[::1] prev_since_us not None, float[::1] prev_speed_mps not None,
        int64_t[::1] since_us not None, float[::1] speed_mps not None, double[::1] since_s not None, double tau_s,
    ):
        self._views = [prev_stop, prev_since_us, prev_speed_mps, since_us, speed_mps, since_s]
        self.capacity = prev_stop.shape[0]
        if self.capacity == 0 or any(len(view) != self.capacity for view in self._views):
            raise ValueError("the columns must have the same length, and at least one row")
        if not tau_s > 0.0:
            raise ValueError("the time of smoothing has to be positive")
        self.columns.prev_stop = &prev_stop[0]
        self.columns.prev_since_us = &prev_since_us[0]
        self.columns.prev_speed_mps = &prev_speed_mps[0]
        self.columns.since_us = &since_us[0]
        self.columns.speed_mps = &speed_mps[0]
        self.columns.since_s = &since_s[0]
        self.tau_s = tau_s

    cdef int require(self, Py_ssize_t n) except -1:
        if self.capacity < n:
            raise ValueError(f"motion has {self.capacity} rows, {n} are needed")
        return 0

    cdef void measure(
        self, Py_ssize_t n, const uint8_t* status, const int64_t* time_us, const double* progress_m,
        const int32_t* first_stop, const double* prev_progress_m, const int64_t* prev_time_us, int64_t reset_after_us,
    ) noexcept nogil:
        cdef motion_t* columns = &self.columns
        cdef Py_ssize_t i
        cdef int64_t elapsed_us, last_us = 0
        cdef double speed_mps, before_mps, per_s = 0.0, weight = 0.0
        for i in range(n):
            columns.speed_mps[i] = NAN
            columns.since_s[i] = NAN
            columns.since_us[i] = time_us[i]
            if (status[i] != OK and status[i] != TRIP_FINISHED) or isnan(prev_progress_m[i]):
                continue
            elapsed_us = time_us[i] - prev_time_us[i]
            if elapsed_us > reset_after_us:
                continue
            before_mps = columns.prev_speed_mps[i]
            speed_mps = before_mps
            if elapsed_us > 0:
                # Fleets report in step: the time of the row before is often that of this one.
                if elapsed_us != last_us:
                    last_us = elapsed_us
                    per_s = 1e6 / <double>elapsed_us
                    weight = -expm1(-1e-6 * <double>elapsed_us / self.tau_s)
                speed_mps = (progress_m[i] - prev_progress_m[i]) * per_s
                if not speed_mps > 0.0:
                    speed_mps = 0.0
                elif speed_mps > MAX_SPEED_MPS:
                    speed_mps = MAX_SPEED_MPS
                if not isnan(before_mps):
                    speed_mps = before_mps + weight * (speed_mps - before_mps)
            columns.speed_mps[i] = <float>speed_mps
            if <uint16_t>first_stop[i] == <uint16_t>columns.prev_stop[i]:
                columns.since_us[i] = columns.prev_since_us[i]
            if not isnan(speed_mps):
                columns.since_s[i] = 1e-6 * <double>(time_us[i] - columns.since_us[i])
