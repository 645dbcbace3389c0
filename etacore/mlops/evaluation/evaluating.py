"""The evaluation itself: the same held-out days for every candidate, with the baselines beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from etacore.errors import EvaluationError
from etacore.mlops.dataset.layout import Dataset
from etacore.mlops.evaluation.baselines import baselines
from etacore.mlops.evaluation.candidates import choose_candidates, predict_all
from etacore.mlops.evaluation.document import keep, to_dict
from etacore.mlops.evaluation.holding_out import hold_out
from etacore.mlops.evaluation.recommending import recommend
from etacore.mlops.evaluation.report import to_markdown
from etacore.mlops.evaluation.results import EvaluationConfig, Findings, Recommendation, Result, RollingWindow
from etacore.mlops.evaluation.rolling import rolling_windows, training_like
from etacore.mlops.evaluation.scoring import score_all
from etacore.mlops.metrics import Metric, find_metric
from etacore.mlops.progress import Progress, silent
from etacore.models.registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation(Findings):
    """The outcome of `evaluate`; the attributes are those of `Findings`."""

    def to_markdown(self) -> str:
        """The report without its plots."""
        return to_markdown(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON, see `etacore.mlops.evaluation.document`."""
        return to_dict(self)


def evaluate(
    dataset: Dataset, registry: Registry, config: EvaluationConfig | None = None, progress: Progress = silent
) -> Evaluation:
    """Score every candidate and the baselines on the same held-out days, and say which model to promote.

    Parameters
    ----------
    dataset : Dataset
        Its held-out days are what everybody is scored on.
    registry : Registry
        Where the candidates are. With ``config.keep`` the evaluation is written into its folder ``evaluations``.
    config : EvaluationConfig, optional
        What to compare, and by what.
    progress : Progress
        Told of each model that is predicted, scored and compared.

    Raises
    ------
    EvaluationError
        If the metric or a model is unknown, a setting cannot work, there is no model or no row to score, or a model
        that was named cannot predict this dataset.
    DatasetError, TrainingError
        If the label is unknown to the dataset, or it has too few days to split.
    """
    config = config or EvaluationConfig()
    metric = _checked(config)
    candidates = choose_candidates(dataset, registry, config)
    held_out = hold_out(dataset, config, candidates.manifests)
    models, unpredicted = predict_all(dataset, registry, held_out, candidates, config.label, progress)
    if not models:
        raise EvaluationError(
            f"no model can predict dataset {dataset.name}",
            hint="; ".join(f"{key}: {why}" for key, why in (candidates.skipped | unpredicted).items()),
        )
    progress("fitting baselines", 0, 1)
    others, absent = baselines(dataset, held_out, config.label)
    progress("fitting baselines", 1, 1)
    results = score_all([*models, *others], held_out, metric, config, progress)
    recommendation = recommend(results, metric, config)
    evaluation = Evaluation(
        created_at=datetime.now(UTC),
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        time_zone=dataset.time_zone,
        test_days=held_out.days,
        days_from=held_out.days_from,
        n_rows=len(held_out.actual_s),
        n_trips=len(set(held_out.trip.tolist())),
        n_dropped=held_out.n_dropped,
        config=config,
        metric=metric,
        results=results,
        skipped=candidates.skipped | unpredicted | absent,
        recommendation=recommendation,
        rolling=_rolling(dataset, registry, results, recommendation, config, progress),
    )
    return replace(evaluation, kept_at=keep(evaluation, registry.path)) if config.keep else evaluation


def _rolling(
    dataset: Dataset,
    registry: Registry,
    results: Sequence[Result],
    recommendation: Recommendation,
    config: EvaluationConfig,
    progress: Progress,
) -> tuple[RollingWindow, ...]:
    if not config.n_rolling_windows:
        return ()
    models = [r.name for r in results if r.identity.kind == "model" and r.is_complete and r.identity.eligible]
    for key in (recommendation.key, *models):
        training = training_like(registry.manifest(key)) if key is not None else None
        if training is not None:
            return rolling_windows(dataset, training, config.n_rolling_windows, progress=progress)
    raise EvaluationError(
        "rolling windows need an eligible global model of a family that is trained here", hint="train one first"
    )


def _checked(config: EvaluationConfig) -> Metric:
    metric = find_metric(config.metric)
    if config.minimize is not None and config.minimize == metric.higher_is_better:
        better = "higher" if metric.higher_is_better else "lower"
        raise EvaluationError(
            f"metric {metric.name} is better when {better}", hint=f"set minimize to {not metric.higher_is_better}"
        )
    if not (math.isfinite(config.improvement_threshold) and 0 <= config.improvement_threshold < 1):
        raise EvaluationError(
            f"improvement_threshold is {config.improvement_threshold:g}", hint="a share from 0 to 1: 0.05 is 5 %"
        )
    if config.n_resamples < 1 or not 0 < config.confidence < 1:
        raise EvaluationError(
            f"{config.n_resamples} resamples at confidence {config.confidence:g} give no interval",
            hint="at least one resample, and a confidence between 0 and 1",
        )
    return metric
