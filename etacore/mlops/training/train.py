"""The one way in: check, split, probe, train every scope, save, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import polars as pl

from etacore.errors import TrainingError
from etacore.mlops.progress import Progress, silent
from etacore.mlops.training.config import TrainingConfig
from etacore.mlops.training.leakage import Leak, find_leaks
from etacore.mlops.training.matrix import feature_matrix
from etacore.mlops.training.parts import Prepared, Scope
from etacore.mlops.training.report import Failure, SkippedRoute, TrainedModel, TrainingReport
from etacore.mlops.training.scope import RouteOutcome, RouteTask, train_route, train_scope
from etacore.mlops.training.store import Saved, save_outcomes
from etacore.models.registry import Registry
from etacore.schema import WEATHER_FEATURES

if TYPE_CHECKING:
    from etacore.mlops.dataset.layout import Dataset

MapRoutes = Callable[[Callable[[RouteTask], RouteOutcome], Sequence[RouteTask]], Iterable[RouteOutcome]]
"""Like `map`: calls the function for each task, anywhere, and gives the outcomes in the order of the tasks."""


def train(
    dataset: Dataset,
    registry: Registry | None,
    config: TrainingConfig | None = None,
    progress: Progress = silent,
    *,
    map_routes: MapRoutes | None = None,
    saved_at: datetime | None = None,
) -> TrainingReport:
    """Train models on the first days of a dataset, measure them on the last, and save them.

    Parameters
    ----------
    dataset : Dataset
        From `read_dataset`.
    registry : Registry or None
        None, as well as ``save_models`` False, trains and reports only: nothing is compiled or saved.
    config : TrainingConfig, optional
        Default: the five families on all routes.
    progress : Progress
        Told of models and boosting rounds.
    map_routes : callable, optional
        With ``by_route``: ``map_routes(train_route, tasks)`` trains the routes, for example on a cluster whose
        workers see the dataset's file. The models are the same as without.
    saved_at : datetime, optional
        Aware; default now.

    Returns
    -------
    TrainingReport
        A family that failed is in it, and the others are trained and saved.

    Raises
    ------
    TrainingError
        If nothing can be trained: too few days, an unknown route, a feature that the dataset does not hold, or a
        column that knows the future.
    DatasetError
        If the dataset has no such label.
    """
    config = config or TrainingConfig()
    prepared = Prepared(dataset, config)
    _check_features(prepared, config)
    progress("looking for leaks", 0, 1)
    leaks = find_leaks(dataset, prepared.split, label=config.label)
    progress("looking for leaks", 1, 1)
    if leaks and not config.allow_leaks:
        raise TrainingError(
            f"dataset {dataset.name}: {leaks[0].line()}; it knows the future",
            hint="build the dataset anew; if the column is honest, allow it (--allow-leaks)",
        )
    scopes, skipped = _scopes(prepared, config)
    outcomes = _train_all(prepared, scopes, config, progress, map_routes)
    split = prepared.split.to_dict()
    if registry is not None and config.save_models:
        saved = save_outcomes(outcomes, dataset, registry, config, split, progress, saved_at)
    else:
        saved = [Saved(outcome, candidate, None, None, 0.0) for outcome in outcomes for candidate in outcome.candidates]
    failures = [Failure(name, outcome.route_id, why) for outcome in outcomes for name, why in outcome.failures]
    failures += [
        Failure(result.candidate.model_type, result.outcome.route_id, result.failure)
        for result in saved
        if result.failure is not None
    ]
    return TrainingReport(
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        label=config.label,
        features=tuple(config.features),
        split=split,
        models=tuple(_model(result) for result in saved if result.failure is None),
        skipped=tuple(skipped),
        failures=tuple(failures),
        leaks=leaks,
        notes=tuple(_notes(prepared, config, leaks)),
    )


def _check_features(prepared: Prepared, config: TrainingConfig) -> None:
    """Fail now, and by name, if the dataset does not hold what XGBoost shall learn from."""
    if "xgboost" in config.model_types:
        scope = prepared.scope()
        plain = [name for name in config.features if name not in ("typical_travel_s", "route_code")]
        feature_matrix(scope.dataset, scope.train.rows, plain)


def _scopes(prepared: Prepared, config: TrainingConfig) -> tuple[list[str | None], list[SkippedRoute]]:
    present = prepared.routes()
    wanted = list(dict.fromkeys(config.route_ids)) if config.route_ids is not None else present
    unknown = [route for route in wanted if route not in present]
    if unknown or not wanted:
        shown = ", ".join(present[:20]) + (" ..." if len(present) > 20 else "")
        raise TrainingError(
            f"dataset {prepared.dataset.name} has no row of route {', '.join(map(repr, unknown)) or '(none)'}",
            hint=f"it has {shown}",
        )
    if not config.by_route:
        if config.route_ids is not None:
            raise TrainingError("routes are named, and one model for all routes is asked for", hint="use by_route")
        return [None], []
    scopes: list[str | None] = []
    skipped: list[SkippedRoute] = []
    for route in sorted(wanted):
        scope = prepared.scope(route)
        reason = _why_not(prepared, scope, config)
        if reason is None:
            scopes.append(route)
        else:
            skipped.append(SkippedRoute(route, scope.n_train_trips, reason))
    if not scopes:
        raise TrainingError(
            f"no route of dataset {prepared.dataset.name} has {config.min_trips_per_route} trips on the training days",
            hint=f"most has {max(route.n_trips for route in skipped)}; lower min_trips_per_route, or take more days",
        )
    return scopes, skipped


def _why_not(prepared: Prepared, scope: Scope, config: TrainingConfig) -> str | None:
    if scope.n_train_trips < config.min_trips_per_route:
        return f"{scope.n_train_trips} trips on the training days, {config.min_trips_per_route} are needed"
    if not len(scope.test.rows):
        return "no row on the test days"
    if prepared.split.validation_days and not len(scope.validation.rows):
        return "no row on the validation days"
    return None


def _train_all(
    prepared: Prepared,
    scopes: Sequence[str | None],
    config: TrainingConfig,
    progress: Progress,
    map_routes: MapRoutes | None,
) -> list[RouteOutcome]:
    stage = "training routes" if config.by_route else "training"
    progress(stage, 0, len(scopes))
    outcomes: list[RouteOutcome] = []
    if map_routes is None or not config.by_route:
        for n_done, route_id in enumerate(scopes, 1):
            outcomes.append(train_scope(prepared.scope(route_id), config, silent if config.by_route else progress))
            progress(stage, n_done, len(scopes))
        return outcomes
    dataset = prepared.dataset
    path = str(dataset.path.resolve())
    tasks = [RouteTask(path, dataset.sha256, dataset.time_zone, route_id, config) for route_id in scopes]
    for outcome in map_routes(train_route, tasks):
        outcomes.append(outcome)
        progress(stage, len(outcomes), len(scopes))
    if [outcome.route_id for outcome in outcomes] != list(scopes):
        raise TrainingError("map_routes did not give the outcome of every route in order")
    return outcomes


def _model(saved: Saved) -> TrainedModel:
    samples, candidate = saved.outcome.samples, saved.candidate
    return TrainedModel(
        key=saved.key,
        model_type=candidate.model_type,
        route_id=saved.outcome.route_id,
        metrics=candidate.metrics,
        features=candidate.fitted.features,
        n_train=samples["train_samples"],
        n_validation=samples["n_samples"] - samples["train_samples"] - samples["test_samples"],
        n_test=samples["test_samples"],
        n_trips=samples["n_trips"],
        best_iteration=candidate.fitted.best_iteration,
        seconds=candidate.seconds + saved.seconds,
    )


def _notes(prepared: Prepared, config: TrainingConfig, leaks: Sequence[Leak]) -> list[str]:
    notes = []
    split = prepared.split
    if not split.validation_days:
        notes.append("no validation days: nothing stopped XGBoost early, and there are no val_ metrics")
    if split.unused_days:
        notes.append(f"not used, since they come after the first test day: {', '.join(map(str, split.unused_days))}")
    weather = [name for name in config.features if name in WEATHER_FEATURES]
    if weather and "xgboost" in config.model_types:
        notes.append(f"the XGBoost models need {', '.join(weather)}: serving has no weather source and refuses them")
        rows = prepared.dataset.frame.filter(pl.any_horizontal(pl.col(weather).is_null())).height
        if rows:
            notes.append(f"the weather is unknown in {rows} of {prepared.dataset.frame.height} rows")
    if leaks:
        notes.append("trained although a column seems to know the future, since that was allowed")
    return notes
