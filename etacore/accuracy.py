"""How wrong were the predictions: error figures, the ETA Accuracy Benchmark and the MBTA's bands, on arrays.

Two signs are in use, and both are kept because readers know them: ``bias_s``
is predicted minus actual (the convention of model metrics), while the bands
of the ETA Accuracy Benchmark and of the MBTA look at actual minus predicted
(positive: the bus came later than promised).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Band:
    """One bucket of the ETA Accuracy Benchmark.

    Attributes
    ----------
    from_min, to_min : float
        Minutes from the sample to the actual arrival, ``from_min <= m < to_min``.
    earliest_s, latest_s : float
        Accepted error, actual minus predicted, both ends included.
    """

    from_min: float
    to_min: float
    earliest_s: float
    latest_s: float


BANDS: Final = (
    Band(0, 3, -30, 90),
    Band(3, 6, -60, 150),
    Band(6, 10, -60, 210),
    Band(10, 15, -90, 270),
)
MINUTES_AHEAD: Final = (0.0, 3.0, 6.0, 10.0, 15.0, 30.0, math.inf)
"""Edges of the rows by minutes ahead; the first four rows are the benchmark's buckets."""

COLUMNS: Final = ("minutes", "n", "MAE s", "median", "bias s", "≤60 s", "≤120 s", "≤300 s", "band")
"""Headings of `AccuracyReport.rows`: minutes ahead, errors in seconds, then percentages."""


def mae_s(predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike) -> float:
    """Mean absolute error in seconds; NaN without samples."""
    return _mean(np.abs(_errors(predicted_s, actual_s)))


def median_ae_s(predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike) -> float:
    """Median absolute error in seconds; NaN without samples."""
    errors = _errors(predicted_s, actual_s)
    return float(np.median(np.abs(errors))) if errors.size else math.nan


def bias_s(predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike) -> float:
    """Mean of predicted minus actual in seconds (positive: promised too late); NaN without samples."""
    return _mean(_errors(predicted_s, actual_s))


def within(predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike, limit_s: float) -> float:
    """Share (0..1) of samples whose absolute error is at most `limit_s`; NaN without samples."""
    return _mean(np.abs(_errors(predicted_s, actual_s)) <= limit_s)


def band_shares(predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike) -> tuple[float, ...]:
    """Share (0..1) of accurate predictions in each bucket of the ETA Accuracy Benchmark.

    Parameters
    ----------
    predicted_s, actual_s : array_like of float, shape (n,)
        Seconds from the sample to the predicted and to the actual arrival.

    Returns
    -------
    tuple of float
        One share per entry of `BANDS`; NaN for a bucket without samples.
    """
    lateness_s = -_errors(predicted_s, actual_s)
    minutes = np.asarray(actual_s, dtype=np.float64) / 60.0
    shares = []
    for band in BANDS:
        inside = lateness_s[(minutes >= band.from_min) & (minutes < band.to_min)]
        shares.append(_mean((inside >= band.earliest_s) & (inside <= band.latest_s)))
    return tuple(shares)


def bands_score(predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike) -> float:
    """ETA Accuracy Benchmark: the unweighted mean (0..1) of the shares of its four buckets.

    NaN if a bucket has no samples: a mean of fewer buckets is another figure
    and must not pass for this one.
    """
    return float(np.mean(band_shares(predicted_s, actual_s)))


MBTA_BANDS: Final = (
    Band(0, 3, -60, 60),
    Band(3, 6, -90, 120),
    Band(6, 12, -150, 210),
    Band(12, 30, -240, 360),
)
"""Bins of the MBTA's prediction accuracy, by minutes to the *predicted* arrival, ``from_min <= m < to_min``.

An error at either end of the window is not accurate. Source: the bins and the query of
github.com/mbta/prediction_analyzer.
"""


@dataclass(frozen=True, slots=True)
class MbtaBin:
    """One of `MBTA_BANDS` with what fell into it.

    Attributes
    ----------
    band : Band
    n : int
        Predictions whose horizon lies in the bin.
    n_accurate : int
        Those of them with ``earliest_s < actual - predicted < latest_s``.
    """

    band: Band
    n: int
    n_accurate: int

    @property
    def share(self) -> float:
        """Share (0..1) of accurate predictions; NaN without any."""
        return self.n_accurate / self.n if self.n else math.nan


@dataclass(frozen=True, slots=True)
class MbtaReport:
    """The MBTA's prediction accuracy; made by `mbta_accuracy`.

    Attributes
    ----------
    bins : tuple of MbtaBin
        One per entry of `MBTA_BANDS`.
    n_outside : int
        Predictions of 30 minutes and more, which have no bin and do not count.
    """

    bins: tuple[MbtaBin, ...]
    n_outside: int

    @property
    def overall(self) -> float:
        """Accurate predictions of all bins over all predictions of all bins (0..1), as the MBTA sums them."""
        n = sum(piece.n for piece in self.bins)
        return sum(piece.n_accurate for piece in self.bins) / n if n else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; what is not known is None, shares are 0..1."""
        return {
            "overall": _known(self.overall, 4),
            "n_outside": self.n_outside,
            "by_predicted_minutes": [
                {
                    "from_min": piece.band.from_min,
                    "to_min": piece.band.to_min,
                    "n": piece.n,
                    "share": _known(piece.share, 4),
                }
                for piece in self.bins
            ],
        }


def mbta_accuracy(predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike) -> MbtaReport:
    """Prediction accuracy as the MBTA counts it: by predicted horizon, with strict windows.

    Parameters
    ----------
    predicted_s, actual_s : array_like of float, shape (n,)
        Seconds from the sample to the predicted and to the actual arrival.

    Raises
    ------
    ValueError
        If shapes differ or a value is not finite.
    """
    lateness_s = -_errors(predicted_s, actual_s)
    minutes = np.asarray(predicted_s, dtype=np.float64) / 60.0
    pieces = []
    for band in MBTA_BANDS:
        inside = lateness_s[(minutes >= band.from_min) & (minutes < band.to_min)]
        accurate = (inside > band.earliest_s) & (inside < band.latest_s)
        pieces.append(MbtaBin(band, int(inside.size), int(accurate.sum())))
    return MbtaReport(tuple(pieces), int(minutes.size) - sum(piece.n for piece in pieces))


@dataclass(frozen=True, slots=True)
class AccuracySlice:
    """The figures of the samples between two limits of minutes ahead. NaN where there are no samples."""

    from_min: float
    to_min: float
    n: int
    mae_s: float
    median_ae_s: float
    bias_s: float
    within_60s: float
    within_120s: float
    within_300s: float
    in_band: float

    @property
    def label(self) -> str:
        """The limits as a table shows them."""
        if math.isinf(self.to_min):
            return "all" if self.from_min == 0 else f"{self.from_min:g}+"
        return f"{self.from_min:g}-{self.to_min:g}"


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """How wrong a set of predictions was; made by `score`.

    Attributes
    ----------
    overall : AccuracySlice
        All samples; its ``in_band`` is `bands_score`.
    by_minutes : tuple of AccuracySlice
        The samples by minutes from the sample to the actual arrival (`MINUTES_AHEAD`).
        ``in_band`` is NaN past 15 minutes, where the benchmark defines no band.
    """

    overall: AccuracySlice
    by_minutes: tuple[AccuracySlice, ...]

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.overall.n

    @property
    def bands_score(self) -> float:
        """ETA Accuracy Benchmark score, 0..1; NaN if one of its buckets is empty."""
        return self.overall.in_band

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; what is not known is None, shares are 0..1."""
        return {
            **_slice_dict(self.overall, "bands_score"),
            "by_minutes_ahead": [
                {
                    "from_min": piece.from_min,
                    "to_min": None if math.isinf(piece.to_min) else piece.to_min,
                    **_slice_dict(piece, "in_band"),
                }
                for piece in self.by_minutes
            ],
        }

    def rows(self) -> list[tuple[str, ...]]:
        """Rows of text under `COLUMNS`: one per slice that has samples, then all of them."""
        return [_slice_row(piece) for piece in (*self.by_minutes, self.overall) if piece.n or piece is self.overall]


def score(predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike) -> AccuracyReport:
    """Score predictions against what happened.

    Parameters
    ----------
    predicted_s, actual_s : array_like of float, shape (n,)
        Seconds from the sample to the predicted and to the actual arrival.
        `actual_s` must not be negative: an arrival before its sample is no
        prediction.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, or an actual arrival lies before its sample.
    """
    predicted = np.asarray(predicted_s, dtype=np.float64)
    actual = np.asarray(actual_s, dtype=np.float64)
    _errors(predicted, actual)
    if actual.size and actual.min() < 0:
        raise ValueError(f"actual_s[{int(actual.argmin())}] is {actual.min():g}: the arrival lies before its sample")
    minutes = actual / 60.0
    shares = (*band_shares(predicted, actual), *(math.nan,) * (len(MINUTES_AHEAD) - 1 - len(BANDS)))
    pieces = []
    for from_min, to_min, share in zip(MINUTES_AHEAD[:-1], MINUTES_AHEAD[1:], shares, strict=True):
        rows = (minutes >= from_min) & (minutes < to_min)
        pieces.append(_slice(from_min, to_min, predicted[rows], actual[rows], share))
    return AccuracyReport(_slice(0.0, math.inf, predicted, actual, bands_score(predicted, actual)), tuple(pieces))


def _slice(from_min: float, to_min: float, predicted_s: _Array, actual_s: _Array, in_band: float) -> AccuracySlice:
    return AccuracySlice(
        from_min,
        to_min,
        int(actual_s.size),
        mae_s(predicted_s, actual_s),
        median_ae_s(predicted_s, actual_s),
        bias_s(predicted_s, actual_s),
        within(predicted_s, actual_s, 60),
        within(predicted_s, actual_s, 120),
        within(predicted_s, actual_s, 300),
        in_band,
    )


def _slice_dict(piece: AccuracySlice, band_name: str) -> dict[str, Any]:
    return {
        "n": piece.n,
        "mae_s": _known(piece.mae_s, 1),
        "median_ae_s": _known(piece.median_ae_s, 1),
        "bias_s": _known(piece.bias_s, 1),
        "within_60s": _known(piece.within_60s, 4),
        "within_120s": _known(piece.within_120s, 4),
        "within_300s": _known(piece.within_300s, 4),
        band_name: _known(piece.in_band, 4),
    }


def _slice_row(piece: AccuracySlice) -> tuple[str, ...]:
    seconds = (f"{value:.1f}" if math.isfinite(value) else "-" for value in (piece.mae_s, piece.median_ae_s))
    bias = f"{piece.bias_s:+.1f}" if math.isfinite(piece.bias_s) else "-"
    shares = (piece.within_60s, piece.within_120s, piece.within_300s, piece.in_band)
    percent = (f"{100 * share:.1f}" if math.isfinite(share) else "-" for share in shares)
    return (piece.label, f"{piece.n:,}", *seconds, bias, *percent)


def _errors(predicted_s: npt.ArrayLike, actual_s: npt.ArrayLike) -> _Array:
    predicted = np.asarray(predicted_s, dtype=np.float64)
    actual = np.asarray(actual_s, dtype=np.float64)
    if predicted.ndim != 1 or predicted.shape != actual.shape:
        raise ValueError(f"predicted_s {predicted.shape} and actual_s {actual.shape} must be two vectors of one length")
    errors = predicted - actual
    if not np.isfinite(errors).all():
        raise ValueError(f"row {int(np.argmin(np.isfinite(errors)))} is not finite: leave out what has no prediction")
    return errors


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if values.size else math.nan


def _known(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
