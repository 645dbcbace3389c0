# Feature rows: of a batch, and of one vehicle and given stops for the drop-in call.

cimport cython
from libc.stdint cimport int32_t, int64_t

# A model's time zone and holidays, with the interval and the day of the last look-up: the times of a batch lie close
# together.
cdef struct clock_t:
    const int64_t* transitions_s     # begins of the intervals; the first is INT64_MIN
    const int32_t* offset_s          # local time - UTC in each
    const int32_t* holiday_days      # ascending, days since 1970-01-01
    int32_t n_transitions
    int32_t n_holidays
    int64_t begin_s, end_s           # of the last interval
    int32_t offset
    int64_t day
    bint holiday

cdef struct window_stop_t:
    double lat, lon                  # degrees
    double given_m                   # metres to the stop where known better than the straight line, else NaN
    double distance_m                # output: metres to the stop, as the model sees it
    int64_t sequence                 # number of the stop on its trip; also the feature stop_sequence
    int64_t shown                    # the number that the document shows
    int64_t total                    # stops of the trip

cdef struct window_t:
    double lat, lon                  # of the vehicle, degrees
    float speed_mps                  # 0.0 if unknown
    int64_t time_us
    double route_code                # NaN for a route that the model does not know
    double leg_m                     # metres of the leg that ends at the first stop; NaN if unknown
    const float* leg_s               # (24, n): typical seconds of the leg that ends at each stop, by hour; or NULL
    Py_ssize_t n
    window_stop_t* stops


@cython.final
cdef class Vectorizer:
    """What a model asks for: its features, its calendar, and what stands for an unknown value."""
    cdef readonly int32_t n_features
    cdef list _views
    cdef clock_t clock
    cdef const int32_t* codes
    cdef double nan_fill
    cdef bint along_route_distance
    cdef bint asks_more              # for something that a position alone does not give

    # Fills n rows of n_features floats, and the distances.
    cdef void fill(self, const window_t* window, float* rows) noexcept nogil
