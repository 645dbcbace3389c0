"""How sure a difference between two models is: a paired bootstrap that draws whole trips.

The samples of one trip share its traffic, its driver and its delays, so their errors go up and down together.
Drawing samples one by one would treat them as so many independent observations and give intervals that are far too
narrow; drawing trips keeps what belongs together. Both models are looked at on the same drawn trips, so what makes
a day hard for both of them cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from etacore.mlops.metrics import LATE_WEIGHT, Metric, metric_value

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Statistic = Callable[[Counts], Floats]

N_RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
_BATCH_VALUES: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model held against a reference on the samples that both predict.

    Attributes
    ----------
    reference : str
        Model key or name of the baseline.
    n, n_trips : int
        Samples, and runs of trips that were drawn from.
    value, reference_value : float
        The metric of both on these samples, in its own unit.
    difference, low, high : float
        Value minus reference value with the bounds of its interval, in the metric's unit. For a signed metric
        (`Metric.signed`) the difference of the absolute values. Bounds are NaN with fewer than two trips.
    improvement, improvement_low, improvement_high : float
        How much better than the reference, as a share of the reference's value: 0.05 is 5 % better, negative is
        worse. The bounds are those of the difference over the reference's value.
    """

    reference: str
    n: int
    n_trips: int
    value: float
    reference_value: float
    difference: float
    low: float
    high: float
    improvement: float
    improvement_low: float
    improvement_high: float

    @property
    def is_certain(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        return self.low > 0 or self.high < 0

    def beats(self, threshold: float = 0.0) -> bool:
        """Better by at least `threshold` (a share), and the interval excludes no difference."""
        return self.improvement > 0 and self.improvement >= threshold and self.is_certain


def compare(
    metric: Metric,
    predicted_s: npt.ArrayLike,
    reference_s: npt.ArrayLike,
    actual_s: npt.ArrayLike,
    trip: npt.ArrayLike,
    *,
    reference: str = "reference",
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 42,
) -> Comparison:
    """Difference of a metric between two predictions of the same samples, with a percentile interval.

    Parameters
    ----------
    metric : Metric
        Any of `etacore.mlops.metrics.METRICS`.
    predicted_s, reference_s, actual_s : array_like of float, shape (n,)
        Seconds. Samples where either prediction is NaN are left out.
    trip : array_like of int, shape (n,)
        Equal for samples of one run of a trip: what is drawn.
    reference : str
        What the reference is called.
    n_resamples : int
        How often trips are drawn.
    confidence : float
        Share (0..1) of the resamples that the interval holds.
    seed : int
        The same seed gives the same interval.

    Notes
    -----
    A metric that is made of sums over samples (all but the quantiles) is computed from the sums of each drawn trip;
    a quantile is found anew in every resample. The interval is `scipy.stats.bootstrap`'s percentile interval.
    """
    arrays = [np.asarray(array, dtype=np.float64) for array in (predicted_s, reference_s, actual_s)]
    both = np.isfinite(arrays[0]) & np.isfinite(arrays[1])
    predicted, ref, actual = (array[both] for array in arrays)
    n = int(actual.size)
    labels, code = np.unique(np.asarray(trip)[both], return_inverse=True)
    n_trips = len(labels)
    value, ref_value = metric_value(metric.name, predicted, actual), metric_value(metric.name, ref, actual)
    difference = _shown(metric, value) - _shown(metric, ref_value)
    low, high = math.nan, math.nan
    if n_trips >= 2:
        mine, theirs = (_statistic(metric, p - actual, actual, code, n_trips) for p in (predicted, ref))
        low, high = _interval(lambda counts: mine(counts) - theirs(counts), n_trips, n_resamples, confidence, seed)
    # A loss goes down where the model gets better: the bounds change places.
    towards = 1.0 if metric.higher_is_better else -1.0
    scale = towards / abs(ref_value) if ref_value else math.nan
    bounds = sorted((low * scale, high * scale))
    return Comparison(reference, n, n_trips, value, ref_value, difference, low, high, difference * scale, *bounds)


def _shown(metric: Metric, value: float) -> float:
    return abs(value) if metric.signed else value


def _interval(
    statistic: Statistic, n_trips: int, n_resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    drawn: Any = stats.bootstrap(
        (np.arange(n_trips),),
        lambda ix, axis=-1: statistic(draw_counts(ix, n_trips)),
        vectorized=True,
        method="percentile",
        n_resamples=n_resamples,
        batch=max(1, _BATCH_VALUES // n_trips),
        confidence_level=confidence,
        rng=np.random.default_rng(seed),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def draw_counts(ix: npt.NDArray[np.int64], n_trips: int) -> Counts:
    """How often each trip was drawn.

    Parameters
    ----------
    ix : ndarray of int64, shape (n_draws, n_drawn) or (n_drawn,)
        Numbers of the drawn trips.
    n_trips : int
        How many there are to draw from.

    Returns
    -------
    ndarray of int64, shape (n_draws, n_trips)
    """
    rows = np.atleast_2d(ix)
    start = n_trips * np.arange(len(rows))[:, None]
    return np.bincount((rows + start).ravel(), minlength=len(rows) * n_trips).reshape(len(rows), n_trips)


def _statistic(metric: Metric, error: Floats, actual: Floats, code: npt.NDArray[np.int64], n_trips: int) -> Statistic:
    """The metric of draws, from how often each trip was drawn: shape (n_draws, n_trips) to shape (n_draws,)."""
    if metric.quantile is not None:
        return _quantile_statistic(metric.quantile, np.abs(error), code)
    parts = _parts(metric, error, actual)
    sums = np.stack([np.bincount(code, weights=part, minlength=n_trips) for part in (np.ones_like(error), *parts)])

    def statistic(counts: Counts) -> Floats:
        n, *totals = sums @ counts.T.astype(np.float64)
        return _combined(metric, n, totals)

    return statistic


def _parts(metric: Metric, error: Floats, actual: Floats) -> tuple[Floats, ...]:
    """What has to be summed over samples for a metric."""
    absolute = np.abs(error)
    name = metric.name
    if name.startswith("mae"):
        return (absolute / (60.0 if metric.unit == "min" else 1.0),)
    if name.startswith("rmse"):
        return (np.square(error / (60.0 if metric.unit == "min" else 1.0)),)
    if name.startswith("within"):
        return ((absolute <= float(name.removeprefix("within_").removesuffix("s"))).astype(np.float64),)
    if name == "r2":
        centred = actual - actual.mean()  # nothing but rounding changes, and sums of squares stay small
        return np.square(error), centred, np.square(centred)
    if name == "mape":
        return (100.0 * absolute / (actual + 1.0),)
    if name == "late_penalty_mae":
        return (np.where(error < 0, LATE_WEIGHT * absolute, absolute),)
    return (error,)  # bias_seconds


def _combined(metric: Metric, n: Floats, totals: list[Floats]) -> Floats:
    if metric.name == "r2":
        squares, y, y_squares = totals
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(1.0 - squares / (y_squares - y * y / n))
    mean = totals[0] / n
    if metric.name.startswith("rmse"):
        return np.asarray(np.sqrt(mean))
    return np.asarray(np.abs(mean) if metric.signed else mean)


def _quantile_statistic(q: float, absolute: Floats, code: npt.NDArray[np.int64]) -> Statistic:
    """Quantile of the samples of drawn trips, linear between order statistics as `numpy.quantile`."""
    order = np.argsort(absolute, kind="stable")
    values, trip = absolute[order], code[order]

    def one(counts: Counts) -> float:
        upto = np.cumsum(counts[trip])
        position = q * (upto[-1] - 1)
        below = math.floor(position)
        at = np.searchsorted(upto, (below, min(below + 1, upto[-1] - 1)), side="right")
        low, high = values[at]
        return float(low + (position - below) * (high - low))

    def statistic(counts: Counts) -> Floats:
        return np.array([one(draw) for draw in counts])

    return statistic
