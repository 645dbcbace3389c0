import math
import threading

import numpy as np
import pytest

from etacore._kernels.histogram import Histogram


def histogram_of(values):
    histogram = Histogram()
    histogram.record_many(np.array(values, np.float64))
    return histogram


def test_empty_is_all_zero():
    empty = Histogram()
    assert (empty.count, empty.sum_us, empty.min_us, empty.max_us, empty.mean_us) == (0, 0.0, 0.0, 0.0, 0.0)
    assert empty.percentile(50) == 0.0
    edges, counts = empty.equal_bins(10)
    assert edges.tolist() == [0.0] * 11
    assert counts.tolist() == [0] * 10


def test_memory_does_not_grow():
    histogram = Histogram()
    before = histogram.nbytes
    histogram.record_many(np.geomspace(1e-3, 1e12, 10_000))
    assert histogram.nbytes == before < 16_000


def test_count_sum_and_extremes_are_exact():
    histogram = Histogram()
    histogram.record(1234.567)
    histogram.record(0.25, 4)
    histogram.record(7e9, 0)
    assert (histogram.count, histogram.min_us, histogram.max_us) == (5, 0.25, 1234.567)
    assert histogram.sum_us == 1235.567
    assert histogram.mean_us == 1235.567 / 5


def test_percentiles_take_the_nearest_rank():
    histogram = histogram_of(range(1, 51))
    assert histogram.percentile(0) == 1
    assert histogram.percentile(2) == 1
    assert histogram.percentile(50) == 25.5, "value 25 lies in the bucket 25..26"
    assert histogram.percentile(98) == 49.5
    assert histogram.percentile(98.1) == 50
    assert histogram.percentile(100) == 50
    assert histogram_of(range(100)).percentile(7) == 6.5, "rank 7, though 0.07 * 100 > 7 in floating point"


def test_percentiles_hold_about_one_per_cent():
    values = np.random.default_rng(5).lognormal(8, 2, 20_000)
    histogram = histogram_of(values)
    ordered = np.sort(values)
    for percent in (1, 10, 50, 90, 95, 99, 99.9):
        exact = ordered[math.ceil(percent * len(ordered) / 100) - 1]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=1 / 64)


def test_weights_are_as_good_as_repetition():
    a, b = Histogram(), Histogram()
    a.record_many(np.array([5.0, 100.0, 3e6]), np.array([3, 0, 2]))
    for value in (5.0, 5.0, 5.0, 3e6, 3e6):
        b.record(value)
    assert (a.count, a.sum_us, a.min_us, a.max_us) == (b.count, b.sum_us, b.min_us, b.max_us)
    assert [a.percentile(p) for p in range(101)] == [b.percentile(p) for p in range(101)]


def test_values_beyond_the_buckets_share_the_last_one():
    histogram = histogram_of([1.0, 2.0**31, 1e10, 5e11, 1e12])
    assert histogram.max_us == 1e12
    assert histogram.percentile(60) == 1e12
    assert histogram.equal_bins(4)[1].sum() == 5


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf])
def test_bad_values_are_refused_and_leave_nothing(value):
    histogram = histogram_of([1.0])
    with pytest.raises(ValueError, match="cannot record"):
        histogram.record(value)
    with pytest.raises(ValueError, match="cannot record"):
        histogram.record_many(np.array([2.0, value]))
    assert (histogram.count, histogram.max_us) == (1, 1.0)


def test_bad_counts_are_refused_and_leave_nothing():
    histogram = Histogram()
    with pytest.raises(ValueError, match="cannot record"):
        histogram.record(1.0, -1)
    with pytest.raises(ValueError, match="cannot record"):
        histogram.record_many(np.ones(2), np.array([1, -1]))
    with pytest.raises(ValueError, match="2 values and 1 counts"):
        histogram.record_many(np.ones(2), np.array([1]))
    assert histogram.count == 0


@pytest.mark.parametrize("percent", [-0.1, 100.1, math.nan])
def test_refuses_a_senseless_percentile(percent):
    with pytest.raises(ValueError, match="percentile"):
        Histogram().percentile(percent)


def test_merge_adds():
    a, b = histogram_of([1.0, 50.0]), histogram_of([7e6, 0.5])
    a.merge(b)
    a.merge(Histogram())
    assert (a.count, a.sum_us, a.min_us, a.max_us) == (4, 7_000_051.5, 0.5, 7e6)
    assert b.count == 2
    empty = Histogram()
    empty.merge(b)
    assert (empty.min_us, empty.max_us) == (0.5, 7e6)
    doubled = histogram_of([3.0])
    doubled.merge(doubled)
    assert (doubled.count, doubled.sum_us) == (2, 6.0)


def test_copy_is_independent_and_take_empties():
    histogram = histogram_of([1.0, 2.0])
    copy = histogram.copy()
    histogram.record(3.0)
    taken = histogram.take()
    assert (copy.count, taken.count, histogram.count, histogram.max_us) == (2, 3, 0, 0.0)
    histogram.record(9.0)
    assert (taken.max_us, histogram.min_us) == (3.0, 9.0)
    histogram.reset()
    assert histogram.count == 0


def test_equal_bins_add_up_and_hold_the_extremes():
    values = np.random.default_rng(1).gamma(2.0, 3000.0, 5000)
    edges, counts = histogram_of(values).equal_bins(10)
    assert edges.tolist() == pytest.approx(np.linspace(values.min(), values.max(), 11).tolist())
    assert (edges[0], edges[-1]) == (values.min(), values.max())
    assert counts.sum() == 5000
    assert counts.min() >= 0
    assert counts.tolist() == pytest.approx(np.histogram(values, 10)[0].tolist(), abs=40)


def test_equal_bins_of_a_narrow_range_are_shared_out():
    edges, counts = histogram_of([100_000.0 + i / 10 for i in range(1001)]).equal_bins(10)
    assert edges[0] == 100_000.0
    assert counts.tolist() == pytest.approx([100] * 10, abs=2)
    assert histogram_of([100_000.0, 100_000.1]).equal_bins(4)[1].tolist() == [1, 0, 0, 1]


def test_equal_values_are_in_the_first_bin():
    edges, counts = histogram_of([5.5] * 7).equal_bins(3)
    assert edges.tolist() == [5.5] * 4
    assert counts.tolist() == [7, 0, 0]
    with pytest.raises(ValueError, match="bin"):
        Histogram().equal_bins(0)


def test_a_reader_thread_sees_whole_moments():
    histogram, totals, done = Histogram(), [], threading.Event()

    def read():
        while True:
            last = done.is_set()
            taken = histogram.take()
            totals.append((taken.count, taken.sum_us, int(taken.equal_bins(7)[1].sum())))
            if last:
                return

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(2000):
        histogram.record_many(np.full(100, 8.0))
    done.set()
    reader.join()
    assert all(count % 100 == 0 and total == 8.0 * count and binned == count for count, total, binned in totals)
    assert sum(count for count, _, _ in totals) == 200_000
