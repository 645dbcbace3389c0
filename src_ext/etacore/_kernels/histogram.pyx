"""Durations in bounded memory: counters whose width grows with the value.

Buckets 0..63 hold one microsecond each; above, every power of two is cut into 64 equal buckets, so that a bucket is
never wider than 1/64 of its values. Count, sum, minimum and maximum are kept apart and are exact.
"""

import numpy as np

from libc.math cimport INFINITY, ceil, rint
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

cdef extern from * nogil:
    int __builtin_clzll(unsigned long long x)

cdef enum:
    SUB_BITS = 6
    SUB_BUCKETS = 1 << SUB_BITS
    MAX_BITS = 31    # values of 2**31 us (36 minutes) and more share the last bucket
    N_BUCKETS = SUB_BUCKETS * (MAX_BITS - SUB_BITS + 1)

cdef struct counters_t:
    int64_t count
    double total
    double low
    double high
    int64_t buckets[N_BUCKETS]


cdef inline int _bucket_of(double value) noexcept nogil:
    cdef uint64_t whole
    cdef int top
    if value >= <double>(<uint64_t>1 << MAX_BITS):
        return N_BUCKETS - 1
    whole = <uint64_t>value
    if whole < SUB_BUCKETS:
        return <int>whole
    top = 63 - __builtin_clzll(whole)
    # The leading 1 and the SUB_BITS bits behind it count on from block to block.
    return ((top - SUB_BITS) << SUB_BITS) + <int>(whole >> (top - SUB_BITS))


cdef inline double _lower_edge(int bucket) noexcept nogil:
    cdef int block = bucket >> SUB_BITS
    if block <= 1:
        return bucket
    return <double>(<uint64_t>(SUB_BUCKETS + (bucket & (SUB_BUCKETS - 1))) << (block - 1))


cdef class Histogram:
    """Bounded histogram of durations in microseconds.

    Every method runs under the GIL from begin to end, so that one thread may record while another copies: a copy is
    always of one moment. To read several figures of one moment, read them from a copy.
    """

    cdef counters_t c

    def __cinit__(self):
        self.reset()

    def reset(self):
        """Forget all values."""
        memset(&self.c, 0, sizeof(counters_t))
        self.c.low = INFINITY
        self.c.high = -INFINITY

    def copy(self):
        """An independent histogram of the values so far."""
        cdef Histogram other = Histogram.__new__(Histogram)
        other.c = self.c
        return other

    def take(self):
        """A copy of the values so far, which are forgotten here: no value is lost or counted twice."""
        cdef Histogram other = Histogram.__new__(Histogram)
        other.c = self.c
        self.reset()
        return other

    def merge(self, Histogram other not None):
        """Add the values of another histogram."""
        cdef int i
        for i in range(N_BUCKETS):
            self.c.buckets[i] += other.c.buckets[i]
        self.c.count += other.c.count
        self.c.total += other.c.total
        self.c.low = min(self.c.low, other.c.low)
        self.c.high = max(self.c.high, other.c.high)

    def record(self, double value_us, int64_t count=1):
        """Add a value `count` times. ValueError if it is negative or not finite, or the count is negative."""
        if not 0.0 <= value_us < INFINITY or count < 0:
            raise ValueError(f"cannot record {value_us} us {count} times")
        self.add(value_us, count)

    def record_many(self, const double[::1] values_us not None, const int64_t[::1] counts=None):
        """Add values, each as often as `counts` says (once by default). If one is bad, none is added."""
        cdef Py_ssize_t n = values_us.shape[0]
        cdef Py_ssize_t i
        if counts is not None and counts.shape[0] != n:
            raise ValueError(f"{n} values and {counts.shape[0]} counts")
        for i in range(n):
            if not 0.0 <= values_us[i] < INFINITY or (counts is not None and counts[i] < 0):
                raise ValueError(f"cannot record {values_us[i]} us {1 if counts is None else counts[i]} times")
        for i in range(n):
            self.add(values_us[i], 1 if counts is None else counts[i])

    cdef void add(self, double value_us, int64_t count) noexcept nogil:
        if count > 0:
            self.c.buckets[_bucket_of(value_us)] += count
            self.c.count += count
            self.c.total += value_us * <double>count
            self.c.low = min(self.c.low, value_us)
            self.c.high = max(self.c.high, value_us)

    @property
    def count(self):
        """How many values."""
        return self.c.count

    @property
    def sum_us(self):
        """Their sum."""
        return self.c.total

    @property
    def min_us(self):
        """The smallest, exactly; 0 if there is none."""
        return self.c.low if self.c.count else 0.0

    @property
    def max_us(self):
        """The largest, exactly; 0 if there is none."""
        return self.c.high if self.c.count else 0.0

    @property
    def mean_us(self):
        """Their mean; 0 if there is none."""
        return self.c.total / <double>self.c.count if self.c.count else 0.0

    @property
    def nbytes(self):
        return sizeof(counters_t)

    def percentile(self, double percent):
        """Smallest value that `percent` per cent of the values do not exceed (nearest rank), to about 1 per cent.

        The lowest and the highest rank are exact; 0 if there is no value.
        """
        cdef int64_t rank
        cdef int64_t seen = 0
        cdef int i
        if not 0.0 <= percent <= 100.0:
            raise ValueError(f"a percentile is between 0 and 100, not {percent}")
        if self.c.count == 0:
            return 0.0
        rank = <int64_t>ceil(percent * <double>self.c.count / 100.0)
        if rank <= 1:
            return self.c.low
        if rank >= self.c.count:
            return self.c.high
        for i in range(N_BUCKETS):
            seen += self.c.buckets[i]
            if seen >= rank:
                break
        # The last bucket is open above, so it has no middle; what is in there lies next to the maximum.
        if i == N_BUCKETS - 1:
            return self.c.high
        return min(max(0.5 * (_lower_edge(i) + _lower_edge(i + 1)), self.c.low), self.c.high)

    def equal_bins(self, int n_bins):
        """Edges and counts of equal bins between minimum and maximum.

        A bucket that crosses a bin's edge is shared between the bins as if its values lay evenly in it; the minimum and
        the maximum are where they are. The counts add up to `count`. If all values are equal they are in bin 0.

        Returns
        -------
        edges : ndarray of float64, shape (n_bins + 1,)
            Microseconds.
        counts : ndarray of int64, shape (n_bins,)
        """
        if n_bins < 1:
            raise ValueError(f"there must be at least one bin, not {n_bins}")
        cdef double low = self.min_us
        cdef double high = self.max_us
        cdef double[::1] edges = np.empty(n_bins + 1)
        cdef int64_t[::1] counts = np.zeros(n_bins, dtype=np.int64)
        cdef int64_t below = 0
        cdef int64_t inner
        cdef double left, right, share
        cdef int bucket = 0
        cdef int b
        for b in range(n_bins + 1):
            edges[b] = low + (high - low) * (<double>b / <double>n_bins)
        edges[n_bins] = high
        if self.c.count == 0 or low == high or n_bins == 1:
            counts[0] = self.c.count
            return np.asarray(edges), np.asarray(counts)

        cdef int low_bucket = _bucket_of(low)
        cdef int high_bucket = _bucket_of(high)
        cdef int64_t whole = 0      # values in the buckets entirely below the edge
        cdef int64_t previous = 0
        for b in range(1, n_bins):
            # `inner` leaves out one minimum and one maximum, whose places are known.
            while bucket < N_BUCKETS - 1 and _lower_edge(bucket + 1) <= edges[b]:
                whole += self.c.buckets[bucket] - (bucket == low_bucket) - (bucket == high_bucket)
                bucket += 1
            inner = self.c.buckets[bucket] - (bucket == low_bucket) - (bucket == high_bucket)
            left = max(_lower_edge(bucket), low)
            right = high if bucket == N_BUCKETS - 1 else min(_lower_edge(bucket + 1), high)
            share = min(max((edges[b] - left) / (right - left), 0.0), 1.0) if right > left else 0.0
            below = 1 + whole + <int64_t>rint(<double>inner * share)
            counts[b - 1] = below - previous
            previous = below
        counts[n_bins - 1] = self.c.count - previous
        return np.asarray(edges), np.asarray(counts)
