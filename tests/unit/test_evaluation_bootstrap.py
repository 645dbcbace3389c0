"""Intervals of a difference: right on clustered data, and the metric is that of `regression_metrics`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etacore.mlops.evaluation.bootstrap import Comparison, _statistic, compare, draw_counts
from etacore.mlops.metrics import METRICS, metric_value


def clustered(
    rng: np.random.Generator, n_trips: int = 40, per_trip: int = 25, worse_s: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two equally good predictions whose errors are shared by all samples of a trip; the first can be made worse."""
    trip = np.repeat(np.arange(n_trips), per_trip)
    actual = rng.uniform(60, 1200, trip.size)
    first, second = (
        actual + 100 + rng.normal(0, 20, n_trips)[trip] + rng.normal(0, 5, trip.size) for _ in range(2)
    )  # errors of about +100: their absolute values differ as the errors do
    return first + worse_s, second, actual, trip


def test_trips_give_the_promised_coverage_and_samples_do_not() -> None:
    rng = np.random.default_rng(11)
    missed = {"trips": 0, "samples": 0}
    n_worlds = 100
    for seed in range(n_worlds):
        first, second, actual, trip = clustered(rng)
        for name, group in (("trips", trip), ("samples", np.arange(trip.size))):
            found = compare(METRICS["mae_seconds"], first, second, actual, group, n_resamples=200, seed=seed)
            missed[name] += not found.low <= 0 <= found.high
    # 95 % intervals: 5 of 100 worlds lie outside on average. Forty trips cost a little, single samples a lot.
    assert missed["trips"] <= 14
    assert missed["samples"] > n_worlds / 2


def test_a_real_difference_is_found_with_its_sign() -> None:
    first, second, actual, trip = clustered(np.random.default_rng(5), worse_s=30.0)
    worse = compare(METRICS["mae_seconds"], first, second, actual, trip, reference="other")
    assert worse.reference == "other"
    assert (worse.n, worse.n_trips) == (1000, 40)
    assert worse.difference == pytest.approx(worse.value - worse.reference_value)
    assert 0 < worse.low < worse.difference < worse.high
    assert worse.improvement == pytest.approx(-worse.difference / worse.reference_value)
    assert worse.improvement_low < worse.improvement < worse.improvement_high < 0
    assert worse.is_certain
    assert not worse.beats()
    better = compare(METRICS["mae_seconds"], second, first, actual, trip)
    assert better.beats(0.05)
    assert not better.beats(0.9)
    assert better.high == pytest.approx(-worse.low)


def test_pairing_cancels_what_is_hard_for_both() -> None:
    rng = np.random.default_rng(2)
    trip = np.repeat(np.arange(50), 20)
    actual = rng.uniform(60, 1200, trip.size)
    shared = rng.normal(0, 200, 50)[trip]
    found = compare(METRICS["mae_seconds"], actual + 1.05 * shared, actual + shared, actual, trip)
    assert found.is_certain  # the MAE of either alone is uncertain by far more than 5 %
    assert found.high - found.low < 0.1 * found.value


@pytest.mark.parametrize("name", METRICS)
def test_resamples_compute_the_same_metric(name: str) -> None:
    rng = np.random.default_rng(8)
    n_trips = 30
    trip = rng.integers(0, n_trips, 700)
    actual = rng.uniform(0, 1500, trip.size)
    predicted = actual + rng.normal(-10, 120, trip.size)
    statistic = _statistic(METRICS[name], predicted - actual, actual, trip, n_trips)
    draws = np.vstack([np.arange(n_trips), rng.integers(0, n_trips, n_trips)])
    expected = []
    for draw in draws:
        rows = np.concatenate([np.flatnonzero(trip == one) for one in draw])
        value = metric_value(name, predicted[rows], actual[rows])
        expected.append(abs(value) if METRICS[name].signed else value)
    assert statistic(draw_counts(draws, n_trips)) == pytest.approx(expected)


def test_where_higher_is_better_an_improvement_is_a_gain() -> None:
    rng = np.random.default_rng(4)
    trip = np.repeat(np.arange(30), 10)
    actual = rng.uniform(60, 1200, trip.size)
    good, bad = actual + rng.normal(0, 40, trip.size), actual + rng.normal(0, 120, trip.size)
    found = compare(METRICS["within_60s"], good, bad, actual, trip)
    assert found.difference > 0
    assert found.improvement == pytest.approx(found.difference / found.reference_value)
    assert 0 < found.improvement_low < found.improvement < found.improvement_high
    assert found.beats(0.05)


def test_bias_is_compared_by_its_size() -> None:
    trip = np.repeat(np.arange(20), 5)
    actual = np.full(100, 500.0)
    found = compare(METRICS["bias_seconds"], actual - 50, actual + 10, actual, trip)
    assert found.difference == pytest.approx(40)
    assert found.improvement < 0


def test_only_samples_that_both_predict_count() -> None:
    actual = np.arange(100.0, 110.0)
    first, second = actual + 1, actual + 2
    first[0] = second[1] = np.nan
    found = compare(METRICS["mae_seconds"], first, second, actual, np.arange(10) // 2)
    assert (found.n, found.n_trips) == (8, 4)


def test_one_trip_has_no_interval_and_equals_have_an_empty_one() -> None:
    actual = np.arange(100.0, 110.0)
    alone = compare(METRICS["mae_seconds"], actual + 1, actual + 2, actual, np.zeros(10))
    assert math.isnan(alone.low)
    assert alone.improvement == pytest.approx(0.5)
    assert not alone.beats()
    same = compare(METRICS["mae_seconds"], actual + 1, actual + 1, actual, np.arange(10))
    assert (same.low, same.difference, same.high) == (0, 0, 0)
    assert not same.is_certain
    perfect = compare(METRICS["mae_seconds"], actual + 1, actual, actual, np.arange(10))
    assert math.isnan(perfect.improvement)
    assert not perfect.beats()


def test_the_seed_decides() -> None:
    data = clustered(np.random.default_rng(5))
    one, again, other = (compare(METRICS["error_q90"], *data, n_resamples=100, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one.low != other.low


@pytest.mark.parametrize(
    ("improvement", "low", "high", "threshold", "certain", "beats"),
    [
        (0.05, -9.0, -1.0, 0.05, True, True),  # exactly what is asked for
        (0.0499, -9.0, -1.0, 0.05, True, False),
        (0.05, -9.0, 0.0, 0.05, False, False),  # an interval that ends at no difference does not exclude it
        (0.05, -9.0, -0.001, 0.0, True, True),
        (0.0, -9.0, -1.0, 0.0, True, False),
        (0.05, 0.0, 9.0, 0.05, False, False),
        (0.05, 0.001, 9.0, 0.05, True, True),
        (-0.05, 1.0, 9.0, 0.0, True, False),
        (0.05, -1.0, 9.0, 0.0, False, False),
    ],
)
def test_what_is_certain_and_what_beats(
    improvement: float, low: float, high: float, threshold: float, certain: bool, beats: bool
) -> None:
    found = Comparison("r", 10, 5, 95.0, 100.0, -5.0, low, high, improvement, improvement, improvement)
    assert (found.is_certain, found.beats(threshold)) == (certain, beats)


def test_two_trips_have_an_interval() -> None:
    actual = np.arange(100.0, 110.0)
    found = compare(METRICS["mae_seconds"], actual + 1, actual + 2, actual, np.arange(10) // 5)
    assert found.n_trips == 2
    assert (found.low, found.high) == pytest.approx((-1.0, -1.0))
    assert found.beats(0.5)
