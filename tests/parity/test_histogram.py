import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from etacore._kernels import histogram as _histogram
from tests.reference import histogram as twin

EDGES = st.sampled_from(twin.EDGES)
DURATIONS = (
    st.floats(0, 100)
    | st.floats(0, 1e13)
    | st.integers(0, 5000).map(float)
    | EDGES
    | EDGES.map(lambda edge: float(np.nextafter(edge, 0.0)))
    | EDGES.map(lambda edge: float(np.nextafter(edge, np.inf)))
)
RECORDS = st.lists(st.tuples(DURATIONS, st.integers(0, 5)), max_size=40)


def test_compiled_module_is_loaded():
    assert _histogram.__file__.endswith((".so", ".pyd"))


def both(records):
    mine, theirs = _histogram.Histogram(), twin.Histogram()
    for value_us, count in records:
        mine.record(value_us, count)
        theirs.record(value_us, count)
    return mine, theirs


def assert_same(mine, theirs):
    assert mine.count == len(theirs.values)
    assert mine.sum_us == theirs.total
    assert mine.min_us == min(theirs.values, default=0.0)
    assert mine.max_us == max(theirs.values, default=0.0)
    for percent in (0, 0.1, 25, 50, 90, 95, 99, 99.9, 100):
        assert mine.percentile(percent) == theirs.percentile(percent)
    for n_bins in (1, 2, 10, 33):
        edges, counts = mine.equal_bins(n_bins)
        expected_edges, expected_counts = theirs.equal_bins(n_bins)
        assert edges.tolist() == expected_edges
        assert counts.tolist() == expected_counts
        assert counts.sum() == mine.count
        assert counts.min() >= 0


@settings(deadline=None, max_examples=300)
@given(RECORDS)
def test_agrees_with_the_twin(records):
    assert_same(*both(records))


@settings(deadline=None)
@given(RECORDS, RECORDS)
def test_merged_agrees_with_the_twin(first, second):
    mine, theirs = both(first)
    more, others = both(second)
    mine.merge(more)
    theirs.merge(others)
    assert mine.sum_us == theirs.total
    assert_same(mine, theirs)


@settings(deadline=None)
@given(RECORDS)
def test_record_many_is_record_repeated(records):
    mine, _ = both(records)
    many = _histogram.Histogram()
    values, counts = np.array([v for v, _ in records], np.float64), np.array([c for _, c in records], np.int64)
    many.record_many(values, counts)
    assert (many.count, many.sum_us, many.min_us, many.max_us) == (mine.count, mine.sum_us, mine.min_us, mine.max_us)
    assert [many.percentile(p) for p in range(101)] == [mine.percentile(p) for p in range(101)]


def test_every_bucket_begins_at_its_edge():
    # Two neighbours share a bucket (and so its middle) exactly if no edge lies between them.
    for edge in twin.EDGES:
        below, above = float(np.nextafter(edge, 0.0)), float(np.nextafter(edge, np.inf))
        mine, theirs = both([(0.0, 1), (below, 1), (edge, 1), (above, 1), (2.0**40, 1)])
        assert [mine.percentile(p) for p in (40, 60, 80)] == [theirs.percentile(p) for p in (40, 60, 80)], edge
