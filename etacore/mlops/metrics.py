r"""The error figures of a model, under the names that registries and flows know.

With ``e = predicted - actual`` in seconds over n samples and y the actual seconds:

=================  =====  ====================================================================
name               unit   definition
=================  =====  ====================================================================
mae_seconds        s      mean \|e\|
mae_minutes        min    mean \|e\| / 60
rmse_seconds       s      sqrt(mean e^2)
rmse_minutes       min    sqrt(mean e^2) / 60
mape               %      100 * mean(\|e\| / (y + 1)); the 1 s keeps arrivals at hand finite
median_ae          s      median \|e\|
bias_seconds       s      mean e; positive: predicted later than it came
r2                 1      1 - sum e^2 / sum (y - mean y)^2; NaN where y does not vary
within_60s         share  share of \|e\| <= 60 s, 0..1
within_120s        share  share of \|e\| <= 120 s
within_300s        share  share of \|e\| <= 300 s
late_penalty_mae   s      mean w \|e\| with w = 2 where e < 0 (the bus came later than
                          predicted, and riders waited), else 1; it equals
                          (3 * mae_seconds - bias_seconds) / 2
error_q50          s      median of \|e\| (equals median_ae)
error_q90          s      90 % quantile of \|e\|, linear between order statistics
error_q95          s      95 % quantile of \|e\|
=================  =====  ====================================================================

``late_penalty_mae`` is the definition of the models in the field: their recorded metrics hold the identity above
to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from etacore.errors import EvaluationError

LATE_WEIGHT: Final = 2.0
"""How much more a second counts by which the bus came later than predicted."""
SPLITS: Final = ("train", "val", "test")
"""Prefixes of metric names in a manifest: ``test_mae_seconds``."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric is called and how it is read.

    Attributes
    ----------
    name : str
    unit : str
        ``s``, ``min``, ``%``, ``share`` or ``1``.
    higher_is_better : bool
    quantile : float or None
        Which quantile of the absolute error it is; None if it is made of sums over samples.
    signed : bool
        Whether 0 is best and the sign says which way it is off.
    """

    name: str
    unit: str
    higher_is_better: bool = False
    quantile: float | None = None
    signed: bool = False

    def loss(self, value: float) -> float:
        """The value as something to make small: negated where higher is better, without its sign where 0 is best."""
        if self.signed:
            return abs(value)
        return -value if self.higher_is_better else value


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("mae_seconds", "s"),
            Metric("mae_minutes", "min"),
            Metric("rmse_seconds", "s"),
            Metric("rmse_minutes", "min"),
            Metric("mape", "%"),
            Metric("median_ae", "s", quantile=0.5),
            Metric("bias_seconds", "s", signed=True),
            Metric("r2", "1", higher_is_better=True),
            Metric("within_60s", "share", higher_is_better=True),
            Metric("within_120s", "share", higher_is_better=True),
            Metric("within_300s", "share", higher_is_better=True),
            Metric("late_penalty_mae", "s"),
            Metric("error_q50", "s", quantile=0.5),
            Metric("error_q90", "s", quantile=0.9),
            Metric("error_q95", "s", quantile=0.95),
        )
    }
)
"""Every metric by its name, in the order in which they are shown."""


def regression_metrics(predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike) -> dict[str, float]:
    """All of `METRICS` for one set of predictions.

    Parameters
    ----------
    predicted_s, actual_s : array_like of float, shape (n,)
        Seconds from the sample to the predicted and to the actual arrival. Computed with in float64.

    Returns
    -------
    dict of str to float
        Plain Python numbers, in the order of `METRICS`. All NaN without samples.

    Raises
    ------
    ValueError
        If the shapes differ or a value is not finite.
    """
    predicted, actual = _vectors(predicted_s, actual_s)
    if not actual.size:
        return dict.fromkeys(METRICS, math.nan)
    errors = predicted - actual
    absolute = np.abs(errors)
    mae = float(absolute.mean())
    squares = float(errors @ errors)
    rmse = math.sqrt(squares / errors.size)
    spread = float(np.square(actual - actual.mean()).sum())
    q50, q90, q95 = (float(q) for q in np.quantile(absolute, (0.5, 0.9, 0.95)))
    return {
        "mae_seconds": mae,
        "mae_minutes": mae / 60.0,
        "rmse_seconds": rmse,
        "rmse_minutes": rmse / 60.0,
        "mape": 100.0 * float((absolute / (actual + 1.0)).mean()),
        "median_ae": q50,
        "bias_seconds": float(errors.mean()),
        "r2": 1.0 - squares / spread if spread > 0 else math.nan,
        "within_60s": float((absolute <= 60.0).mean()),
        "within_120s": float((absolute <= 120.0).mean()),
        "within_300s": float((absolute <= 300.0).mean()),
        "late_penalty_mae": float(np.where(errors < 0, LATE_WEIGHT * absolute, absolute).mean()),
        "error_q50": q50,
        "error_q90": q90,
        "error_q95": q95,
    }


def prefixed(metrics: Mapping[str, float], split: str) -> dict[str, float]:
    """The metrics under the names of a manifest: ``prefixed(m, "test")["test_mae_seconds"]``."""
    return {f"{split}_{name}": value for name, value in metrics.items()}


def find_metric(name: str) -> Metric:
    """The metric of this name, with or without the prefix ``train_``, ``val_`` or ``test_``.

    Raises
    ------
    EvaluationError
        If there is none; the message names those there are.
    """
    split, _, rest = name.partition("_")
    bare = rest if split in SPLITS else name
    if bare not in METRICS:
        raise EvaluationError(f"there is no metric {name!r}", hint=f"one of {', '.join(METRICS)}")
    return METRICS[bare]


def metric_value(name: str, predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike) -> float:
    """One metric, named as `find_metric` takes it.

    Raises
    ------
    EvaluationError
        If there is no such metric.
    ValueError
        As `regression_metrics`.
    """
    return regression_metrics(predicted_s, actual_s)[find_metric(name).name]


def _vectors(
    predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    predicted = np.asarray(predicted_s, dtype=np.float64)
    actual = np.asarray(actual_s, dtype=np.float64)
    if predicted.ndim != 1 or predicted.shape != actual.shape:
        raise ValueError(f"predicted_s {predicted.shape} and actual_s {actual.shape} must be two vectors of one length")
    finite = np.isfinite(predicted) & np.isfinite(actual)
    if not finite.all():
        raise ValueError(f"row {int(finite.argmin())} is not finite: leave out what has no prediction")
    return predicted, actual
