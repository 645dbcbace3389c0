# How vehicles moved from fix to fix: columns of a batch, looked up once, so that passing them costs nothing.

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t

cdef struct motion_t:
    int32_t* prev_stop           # next stop at the last fix, low 16 bits; NO_STOP without one
    int64_t* prev_since_us       # when it had become the next stop
    float* prev_speed_mps        # smoothed speed then
    int64_t* since_us            # when the next stop became the next stop
    float* speed_mps             # smoothed speed
    double* since_s              # seconds since since_us


@cython.final
cdef class MotionPointers:
    """Where the columns of one `etacore.pipeline.motion.Motion` lie, kept alive as long as this."""
    cdef readonly Py_ssize_t capacity
    cdef list _views
    cdef motion_t columns
    cdef double tau_s

    # Fails if there are fewer than n places.
    cdef int require(self, Py_ssize_t n) except -1

    # Measures n rows after their stops have been chosen; every array has n places.
    cdef void measure(
        self, Py_ssize_t n, const uint8_t* status, const int64_t* time_us, const double* progress_m,
        const int32_t* first_stop, const double* prev_progress_m, const int64_t* prev_time_us, int64_t reset_after_us,
    ) noexcept nogil
