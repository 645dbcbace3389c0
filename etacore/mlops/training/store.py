"""Trained models into the registry: all that can be saved, in order, or on a crash none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from etacore.errors import EtacoreError, RegistryError
from etacore.mlops.bundling.compile import compile_bundle
from etacore.mlops.bundling.saving import bundle_predictor
from etacore.mlops.progress import Progress
from etacore.mlops.training.config import TrainingConfig
from etacore.mlops.training.scope import Candidate, RouteOutcome, what_failed
from etacore.models.bundle import Bundle
from etacore.models.facts import ModelFacts
from etacore.models.manifest import make_model_key
from etacore.models.registry import Registry

if TYPE_CHECKING:
    from etacore.mlops.dataset.layout import Dataset

SHOWN_IN_KEY: Final = ("alpha", "degree", "learning_rate", "max_depth", "n_estimators", "ridge_alpha")
"""Hyperparameters that a model key shows."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of one candidate: its key, or what was wrong; and seconds of compiling and checking."""

    outcome: RouteOutcome
    candidate: Candidate
    key: str | None
    failure: str | None
    seconds: float


def save_outcomes(
    outcomes: Sequence[RouteOutcome],
    dataset: Dataset,
    registry: Registry,
    config: TrainingConfig,
    split: Mapping[str, Any],
    progress: Progress,
    saved_at: datetime | None = None,
) -> list[Saved]:
    """Compile, check and save trained models.

    Every bundle is made in memory first. Only when all are made do they go into the registry; if
    anything but a refusal of one of them stops that, those that are in are taken out again.

    Parameters
    ----------
    outcomes : sequence of RouteOutcome
        What was trained, in order.
    dataset : Dataset
        On what.
    registry : Registry
        Where to.
    config : TrainingConfig
        With which settings.
    split : mapping
        As `Split.to_dict` gives it.
    progress : Progress
        Told of each model.
    saved_at : datetime, optional
        Aware; default now.

    Returns
    -------
    list of Saved
        One for each candidate, in order.
    """
    saved_at = saved_at or datetime.now(UTC)
    pairs = [(outcome, candidate) for outcome in outcomes for candidate in outcome.candidates]
    taken = {*registry.keys(), *registry.refused(), *registry.legacy()}
    results: list[Saved] = []
    bundles: dict[str, Bundle] = {}
    for n_done, (outcome, candidate) in enumerate(pairs):
        progress("compiling and checking", n_done, len(pairs))
        start = time.perf_counter()
        key = failure = None
        try:
            bundle = _make(outcome, candidate, dataset, config, split, saved_at, taken)
        except Exception as err:
            failure = what_failed(err)
        else:
            key = bundle.key
            bundles[key] = bundle
            taken.add(key)
        results.append(Saved(outcome, candidate, key, failure, time.perf_counter() - start))
    progress("compiling and checking", len(pairs), len(pairs))
    return _add_all(results, bundles, registry)


def _add_all(results: Sequence[Saved], bundles: Mapping[str, Bundle], registry: Registry) -> list[Saved]:
    added: list[Saved] = []
    try:
        for result in results:
            key, failure = result.key, result.failure
            if key is not None:
                try:
                    registry.add(bundles[key])
                except RegistryError as err:
                    key, failure = None, what_failed(err)
            added.append(Saved(result.outcome, result.candidate, key, failure, result.seconds))
    except BaseException:
        for result in added:
            if result.key is not None:
                with suppress(EtacoreError):
                    registry.remove(result.key)
        raise
    return added


def _make(
    outcome: RouteOutcome,
    candidate: Candidate,
    dataset: Dataset,
    config: TrainingConfig,
    split: Mapping[str, Any],
    saved_at: datetime,
    taken: set[str],
) -> Bundle:
    fitted = candidate.fitted
    hyperparameters = dict(fitted.parameters)
    shown = {name: value for name, value in hyperparameters.items() if name in SHOWN_IN_KEY}
    for time_of_key in _seconds_from(saved_at):
        key = make_model_key(candidate.model_type, dataset.name, fitted.features, outcome.route_id, time_of_key, shown)
        if key not in taken:
            break
    provenance: dict[str, Any] = {
        "made_by": "etacore train",
        "dataset_path": dataset.path.name,
        "dataset_sha256": dataset.sha256,
        "label": config.label,
        "seed": config.seed,
        **split,
    }
    if candidate.model_type == "xgboost" and fitted.best_iteration is not None:
        provenance["best_iteration"] = fitted.best_iteration
    samples: dict[str, Any] = dict(outcome.samples)
    facts = ModelFacts(
        model_type=candidate.model_type,
        dataset=dataset.name,
        route_id=outcome.route_id,
        features=tuple(fitted.features),
        time_zone=dataset.time_zone,
        metrics=candidate.metrics,
        hyperparameters=hyperparameters,
        provenance=provenance,
        holiday_region=dataset.holiday_region,
        nan_at_serving=fitted.nan_fill,
        distance=dataset.distance,
        routes=tuple(fitted.routes),
        **samples,
    )
    bundle = compile_bundle if candidate.model_type == "xgboost" else bundle_predictor
    return bundle(fitted.content, facts, typical=fitted.typical, model_key=key, saved_at=time_of_key)


def _seconds_from(time_of_first: datetime) -> Iterator[datetime]:
    """The time, and a second later, and so on: a key that is taken is never overwritten."""
    moment = time_of_first
    while True:
        yield moment
        moment += timedelta(seconds=1)
