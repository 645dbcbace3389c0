"""From predictions to figures: metrics, bands, slices, and who beats whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.accuracy import mbta_accuracy, score
from etacore.mlops.evaluation.bootstrap import Comparison, compare
from etacore.mlops.evaluation.results import FAN_QUANTILES, Band, Entrant, EvaluationConfig, Fan, HeldOut, Result, Slice
from etacore.mlops.metrics import Metric, regression_metrics
from etacore.mlops.progress import Progress, silent

FAN_EDGES_MIN: Final = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)
"""Edges of the bins by predicted minutes ahead."""
NEAR_MIN: Final = 10
"""Up to here a band is a minute: riders look at these, and errors are small."""
BAND_EDGES_MIN: Final = (*range(NEAR_MIN + 1), 12, 15, 20, 25, 30, 45, 60, 90, 120)
"""Edges of the bands by minutes to the actual arrival."""


def score_all(
    entrants: Sequence[Entrant],
    held_out: HeldOut,
    metric: Metric,
    config: EvaluationConfig,
    progress: Progress = silent,
) -> tuple[Result, ...]:
    """Score everybody and compare each with the active model and the best baseline that predicts every row.

    Returns
    -------
    tuple of Result
        Those that predict every row first, each group by `metric`, the best first.
    """
    scored = []
    for done, entrant in enumerate(entrants):
        progress("scoring", done, len(entrants))
        scored.append((score_entrant(entrant, held_out), entrant))
    progress("scoring", len(entrants), len(entrants))
    by_name = {result.name: entrant for result, entrant in scored}
    complete = [r for r, _ in scored if r.is_complete and r.identity.kind == "baseline"]
    best = min(complete, key=lambda result: _rank(result, metric), default=None)
    results = []
    for done, (result, entrant) in enumerate(scored):
        progress("comparing", done, len(scored))
        references = (config.active_model, None if best is None else best.name)
        vs_active, vs_baseline = (
            _compare(metric, entrant, by_name.get(name), held_out, config) if name else None for name in references
        )
        results.append(replace(result, vs_active=vs_active, vs_baseline=vs_baseline))
    progress("comparing", len(scored), len(scored))
    return tuple(sorted(results, key=lambda result: (not result.is_complete, _rank(result, metric))))


def _rank(result: Result, metric: Metric) -> tuple[bool, float, str]:
    loss = metric.loss(result.metrics[metric.name])
    return math.isnan(loss), loss if math.isfinite(loss) else 0.0, result.name


def _compare(
    metric: Metric, entrant: Entrant, reference: Entrant | None, held_out: HeldOut, config: EvaluationConfig
) -> Comparison | None:
    if reference is None or reference is entrant:
        return None
    if not (np.isfinite(entrant.predicted_s) & np.isfinite(reference.predicted_s)).any():
        return None
    return compare(
        metric,
        entrant.predicted_s,
        reference.predicted_s,
        held_out.actual_s,
        held_out.trip,
        reference=reference.identity.name,
        n_resamples=config.n_resamples,
        confidence=config.confidence,
        seed=config.seed,
    )


def score_entrant(entrant: Entrant, held_out: HeldOut) -> Result:
    """All figures of one entrant over the rows that it predicts."""
    known = np.isfinite(entrant.predicted_s)
    predicted = entrant.predicted_s[known].astype(np.float64)
    actual = held_out.actual_s[known]
    errors = predicted - actual
    return Result(
        identity=entrant.identity,
        n=int(known.sum()),
        coverage=float(known.mean()),
        metrics=regression_metrics(predicted, actual),
        eta=score(predicted, actual),
        mbta=mbta_accuracy(predicted, actual),
        by_route=_slices(errors, held_out.route[known]),
        by_hour=_slices(errors, held_out.hour[known]),
        fan=error_fan(predicted, actual),
        by_minutes=mae_by_minutes(predicted, actual),
    )


def _slices(errors: npt.NDArray[np.float64], group: npt.NDArray[np.generic]) -> dict[str, Slice]:
    error, absolute = pl.col("error"), pl.col("error").abs()
    table = (
        pl.DataFrame({"group": group, "error": errors})
        .group_by("group")
        .agg(
            pl.len(),
            absolute.mean().alias("mae"),
            absolute.median().alias("median"),
            error.mean().alias("bias"),
            (absolute <= 120).mean().alias("within"),
        )
        .sort("group")
    )
    return {str(name): Slice(*figures) for name, *figures in table.iter_rows()}


def mae_by_minutes(predicted_s: npt.NDArray[np.float64], actual_s: npt.NDArray[np.float64]) -> tuple[Band, ...]:
    """Mean absolute error by minutes to the actual arrival: single minutes first, wider bands far away.

    Parameters
    ----------
    predicted_s, actual_s : ndarray of float64, shape (n,)
        Seconds from the sample.
    """
    minutes = actual_s / 60.0
    errors_s = np.abs(predicted_s - actual_s)
    bands = []
    for low, high in pairwise(BAND_EDGES_MIN):
        # The last one holds its end: no label is beyond.
        inside = errors_s[(minutes >= low) & ((minutes < high) | (high == BAND_EDGES_MIN[-1]))]
        if inside.size:
            bands.append(Band(low, high, int(inside.size), float(inside.mean())))
    return tuple(bands)


def error_fan(predicted_s: npt.NDArray[np.float64], actual_s: npt.NDArray[np.float64]) -> tuple[Fan, ...]:
    """Quantiles of actual minus predicted by predicted minutes ahead: what a shown prediction turned out to mean.

    Parameters
    ----------
    predicted_s, actual_s : ndarray of float64, shape (n,)
        Seconds from the sample.

    Returns
    -------
    tuple of Fan
        Bins that hold no sample are left out, and so are predictions past 30 minutes.
    """
    minutes = predicted_s / 60.0
    late_s = actual_s - predicted_s
    fans = []
    for low, high in pairwise(FAN_EDGES_MIN):
        inside = late_s[(minutes >= low) & (minutes < high)]
        if inside.size:
            quantiles = tuple(float(q) for q in np.quantile(inside, FAN_QUANTILES))
            fans.append(Fan(low, high, int(inside.size), quantiles))
    return tuple(fans)
