"""How steady a way of training is: trained anew on the days before each of the last days, and tested on that day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import polars as pl

from etacore.errors import EvaluationError
from etacore.mlops.dataset.layout import Dataset
from etacore.mlops.evaluation.baselines import baselines
from etacore.mlops.evaluation.holding_out import hold_out
from etacore.mlops.evaluation.results import EvaluationConfig, RollingWindow
from etacore.mlops.evaluation.scoring import score_entrant
from etacore.mlops.progress import Progress, silent
from etacore.mlops.training import FAMILIES, TrainingConfig, train
from etacore.models.manifest import Manifest

_MIN_TRAIN_DAYS = 2  # one to train on, one to validate


def rolling_windows(
    dataset: Dataset,
    config: TrainingConfig | str,
    n_windows: int,
    *,
    max_train_days: int | None = None,
    progress: Progress = silent,
) -> tuple[RollingWindow, ...]:
    """Train on the days before each of the last `n_windows` service days, and score that day.

    Parameters
    ----------
    dataset : Dataset
        With at least ``n_windows + 2`` service days.
    config : TrainingConfig or str
        How to train, or one model type with its defaults. Its own test days are not looked at, and nothing is saved.
    n_windows : int
        How many days to test on.
    max_train_days : int, optional
        Train on this many days at most (a sliding window); default all days before (an expanding one).
    progress : Progress
        Told of each window.

    Returns
    -------
    tuple of RollingWindow
        In the order of their days; metrics by model type (with the route for route models) and by baseline.

    Raises
    ------
    EvaluationError
        If there are too few days, or `max_train_days` leaves none to validate on.
    TrainingError
        If a window cannot be trained.
    """
    training = TrainingConfig(model_types=(config,)) if isinstance(config, str) else config
    days = sorted(dataset.frame["service_date"].unique().to_list())
    most = len(days) - _MIN_TRAIN_DAYS
    if not 1 <= n_windows <= most:
        raise EvaluationError(
            f"dataset {dataset.name} has {len(days)} service days: {n_windows} rolling windows cannot be made of them",
            hint=f"from 1 to {most}" if most >= 1 else f"it takes {_MIN_TRAIN_DAYS + 1} days at least",
        )
    if max_train_days is not None and max_train_days < _MIN_TRAIN_DAYS:
        raise EvaluationError(
            f"max_train_days is {max_train_days}", hint=f"at least {_MIN_TRAIN_DAYS}: one of them is for validation"
        )
    windows = []
    for done, test_day in enumerate(days[-n_windows:]):
        progress("rolling windows", done, n_windows)
        before = [day for day in days if day < test_day]
        windows.append(_window(dataset, training, before[-max_train_days:] if max_train_days else before, test_day))
    progress("rolling windows", n_windows, n_windows)
    return tuple(windows)


def _window(dataset: Dataset, training: TrainingConfig, before: list[date], test_day: date) -> RollingWindow:
    part = replace(dataset, frame=dataset.frame.filter(pl.col("service_date").is_in([*before, test_day])))
    config = replace(training, test_days=(test_day,), n_test_days=None, save_models=False)
    report = train(part, None, config)
    held_out = hold_out(part, EvaluationConfig(test_days=(test_day,), label=config.label))
    metrics = {
        model.model_type if model.route_id is None else f"{model.model_type} route {model.route_id}": {
            name.removeprefix("test_"): value for name, value in model.metrics.items() if name.startswith("test_")
        }
        for model in report.models
    }
    if not metrics:
        reasons = "; ".join(f"{failure.model_type}: {failure.reason}" for failure in report.failures)
        raise EvaluationError(f"nothing could be trained for the rolling window of {test_day}: {reasons}")
    scored = [score_entrant(entrant, held_out) for entrant in baselines(part, held_out, config.label)[0]]
    metrics |= {result.name: dict(result.metrics) for result in scored if result.is_complete}
    return RollingWindow(tuple(before), test_day, len(held_out.actual_s), metrics)


def training_like(manifest: Manifest) -> TrainingConfig | None:
    """The settings that would train a model of the same kind; None for a family that is not trained here.

    Parameters
    ----------
    manifest : Manifest
        Of a global model. What it does not say is left at its default.
    """
    family = FAMILIES.get(manifest.model_type)
    if family is None:
        return None
    provenance = manifest.provenance
    objective = provenance.get("objective") or manifest.hyperparameters.get("objective")
    return TrainingConfig(
        model_types=(manifest.model_type,),
        features=manifest.features if manifest.model_type == "xgboost" else "base",
        objective=str(objective or "reg:squarederror"),
        label=str(provenance.get("label", "rule")),
        hyperparameters={name: value for name, value in manifest.hyperparameters.items() if name in family},
        seed=int(provenance.get("seed", 42)),
    )
