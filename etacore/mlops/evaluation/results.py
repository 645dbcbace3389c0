"""What an evaluation is asked, and what it found: plain records without behaviour of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from etacore.accuracy import AccuracyReport, MbtaReport
from etacore.mlops.evaluation.bootstrap import CONFIDENCE, N_RESAMPLES, Comparison
from etacore.mlops.metrics import Metric

THIS_DATASET: Final = "this dataset"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """What to compare, and by what.

    Attributes
    ----------
    metric : str
        What decides; one of `etacore.mlops.metrics.METRICS`, with or without ``test_``.
    minimize : bool or None
        Whether less is better; None takes the metric's own direction. Asking for the wrong one is an error.
    improvement_threshold : float
        By how much a candidate must beat the active model; 0.05 is 5 %.
    label : str
        ``rule`` or ``interpolated``: which arrival time counts.
    model_keys : tuple of str
        Candidates; empty takes every servable model of the registry that was trained on this dataset.
    active_model : str or None
        Key of the model in production; it is compared with even if it is no candidate.
    n_test_days : int or None
        Hold out this many last service days. All days can be held out; then baselines that are fitted are absent.
    test_days : tuple of date or None
        Hold out these service days. With neither, those that the newest candidate of this very file left out in
        its training, else what `etacore.mlops.dataset.split.split_days` leaves out.
    n_rolling_windows : int
        Also train anew, as the recommended model was (else the best eligible one), for each of this many last days.
    n_resamples : int
    confidence : float
    seed : int
        Of the bootstrap.
    keep : bool
        Whether to write the evaluation into ``<registry>/evaluations``, where promotion looks for it.
    """

    metric: str = "test_mae_seconds"
    minimize: bool | None = None
    improvement_threshold: float = 0.05
    label: str = "rule"
    model_keys: tuple[str, ...] = ()
    active_model: str | None = None
    n_test_days: int | None = None
    test_days: tuple[date, ...] | None = None
    n_rolling_windows: int = 0
    n_resamples: int = N_RESAMPLES
    confidence: float = CONFIDENCE
    seed: int = 42
    keep: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """The samples that everything is scored on.

    Attributes
    ----------
    rows : ndarray of bool, shape (n_dataset,)
        Which rows of the dataset they are.
    history : ndarray of bool, shape (n_dataset,)
        Rows of the days before, which baselines may be fitted on.
    days : tuple of date
    days_from : str
        How the days were chosen.
    n_dropped : int
        Rows of these days without a usable label: outside 0 to 7200 s.
    actual_s : ndarray of float64, shape (n,)
    trip : ndarray of int64, shape (n,)
        One number a run of a trip.
    route : ndarray of str, shape (n,)
    hour : ndarray of int64, shape (n,)
        Local hour of the sample.
    """

    rows: npt.NDArray[np.bool_]
    history: npt.NDArray[np.bool_]
    days: tuple[date, ...]
    days_from: str
    n_dropped: int
    actual_s: npt.NDArray[np.float64]
    trip: npt.NDArray[np.int64]
    route: npt.NDArray[np.str_]
    hour: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who was scored.

    Attributes
    ----------
    name : str
        Model key, or name of the baseline.
    kind : str
        ``model`` or ``baseline``.
    model_type : str
    title : str
        Short name for tables and plots.
    route_id : str or None
        The one route it predicts.
    trained_on : str
        `THIS_DATASET`, or what else it was trained on.
    saved_at : str or None
    manifest_sha256 : str or None
    eligible : bool
        Whether it may be recommended: it saw none of the held-out days.
    reason : str or None
        Why it is not eligible.
    note : str or None
        What a baseline is, and what it was fitted on.
    """

    name: str
    kind: Literal["model", "baseline"]
    model_type: str
    title: str = ""
    route_id: str | None = None
    trained_on: str = THIS_DATASET
    saved_at: str | None = None
    manifest_sha256: str | None = None
    eligible: bool = True
    reason: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Entrant:
    """Somebody with predictions: float32 seconds for every held-out row, NaN where there is none."""

    identity: Identity
    predicted_s: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Slice:
    """Figures of some of the samples; seconds, and a share for ``within_120s``."""

    n: int
    mae_s: float
    median_ae_s: float
    bias_s: float
    within_120s: float


@dataclass(frozen=True, slots=True)
class Fan:
    """Quantiles of actual minus predicted (seconds) of the samples with a predicted horizon in ``[from_min, to_min)``.

    ``quantiles_s`` holds those of `FAN_QUANTILES`.
    """

    from_min: float
    to_min: float
    n: int
    quantiles_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """Mean absolute error of the samples with ``[from_min, to_min)`` minutes to the actual arrival."""

    from_min: float
    to_min: float
    n: int
    mae_s: float


FAN_QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The figures of one model or baseline, over the rows that it predicts.

    Attributes
    ----------
    identity : Identity
    n : int
        Rows that it predicts.
    coverage : float
        Share of the held-out rows that it predicts.
    metrics : dict of str to float
        All contract metrics.
    eta : AccuracyReport
        ETA Accuracy Benchmark and figures by minutes to the actual arrival.
    mbta : MbtaReport
        The MBTA's accuracy, by minutes to the predicted arrival.
    by_route, by_hour : dict of str to Slice
    fan : tuple of Fan
    by_minutes : tuple of Band
        Finer than those of `eta`; bands without a sample are left out.
    vs_active, vs_baseline : Comparison or None
        Held against the active model and against the best baseline that predicts every row, on common rows.
    """

    identity: Identity
    n: int
    coverage: float
    metrics: Mapping[str, float]
    eta: AccuracyReport
    mbta: MbtaReport
    by_route: Mapping[str, Slice]
    by_hour: Mapping[str, Slice]
    fan: tuple[Fan, ...]
    by_minutes: tuple[Band, ...] = ()
    vs_active: Comparison | None = None
    vs_baseline: Comparison | None = None

    @property
    def name(self) -> str:
        """Model key, or name of the baseline."""
        return self.identity.name

    @property
    def title(self) -> str:
        """Short name for tables and plots."""
        return self.identity.title or self.identity.name

    @property
    def is_complete(self) -> bool:
        """Whether it predicts every held-out row: only then it stands on the leaderboard."""
        return self.coverage == 1.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Which model to promote.

    Attributes
    ----------
    key : str or None
        None: none of them.
    text : str
        One or two sentences for people.
    reasons : dict of str to str
        For every model but the recommended one, why not.
    """

    key: str | None
    text: str
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RollingWindow:
    """One retraining: the days it saw, the day it predicted, and the metrics by model type or baseline."""

    train_days: tuple[date, ...]
    test_day: date
    n: int
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Everything that an evaluation found, as plain data.

    Attributes
    ----------
    created_at : datetime
    dataset, dataset_sha256, time_zone : str
    test_days : tuple of date
    days_from : str
    n_rows, n_trips, n_dropped : int
        Held-out samples and trips, and rows of these days without a usable label.
    config : EvaluationConfig
    metric : Metric
    results : tuple of Result
        Models and baselines, the best first; those that predict every row before the others.
    skipped : dict of str to str
        Models that could not be scored, with the reason.
    recommendation : Recommendation
    rolling : tuple of RollingWindow
    kept_at : Path or None
        Where promotion finds it.
    """

    created_at: datetime
    dataset: str
    dataset_sha256: str
    time_zone: str
    test_days: tuple[date, ...]
    days_from: str
    n_rows: int
    n_trips: int
    n_dropped: int
    config: EvaluationConfig
    metric: Metric
    results: tuple[Result, ...]
    skipped: Mapping[str, str]
    recommendation: Recommendation
    rolling: tuple[RollingWindow, ...] = ()
    kept_at: Path | None = None

    def result(self, name: str) -> Result:
        """The result of a model key or baseline.

        Raises
        ------
        KeyError
            If it was not scored.
        """
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(name)

    @property
    def models(self) -> tuple[Result, ...]:
        """Results of models."""
        return tuple(result for result in self.results if result.identity.kind == "model")

    @property
    def baselines(self) -> tuple[Result, ...]:
        """Results of baselines."""
        return tuple(result for result in self.results if result.identity.kind == "baseline")

    @property
    def leaderboard(self) -> tuple[Result, ...]:
        """Results over every held-out row, the best first."""
        return tuple(result for result in self.results if result.is_complete)

    @property
    def partial(self) -> tuple[Result, ...]:
        """Results over some of the rows: route models, and baselines that do not know every row."""
        return tuple(result for result in self.results if not result.is_complete)
