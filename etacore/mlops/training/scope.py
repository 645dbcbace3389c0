"""All families on the rows of one scope; for one route also in another process, with the same results."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etacore.errors import EtacoreError, TrainingError
from etacore.mlops.metrics import prefixed, regression_metrics
from etacore.mlops.progress import Progress, silent
from etacore.mlops.training.config import TrainingConfig
from etacore.mlops.training.families import Fitted, fit_family
from etacore.mlops.training.parts import Prepared, Scope

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RouteTask:
    """What a worker needs to train the models of one route. Plain data.

    Attributes
    ----------
    dataset_path, dataset_sha256, time_zone : str
        The file, what it must hold, and the zone of a file that does not say.
    route_id : str or None
        None: one model for all routes.
    config : TrainingConfig
    """

    dataset_path: str
    dataset_sha256: str
    time_zone: str
    route_id: str | None
    config: TrainingConfig


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained and measured model. Plain data.

    ``metrics`` are those of the validation (``val_*``) and the test rows (``test_*``).
    """

    model_type: str
    fitted: Fitted
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class RouteOutcome:
    """What became of the families of one scope: models, and (model type, what was wrong). Plain data."""

    route_id: str | None
    candidates: tuple[Candidate, ...]
    failures: tuple[tuple[str, str], ...]
    samples: Mapping[str, int]


def train_route(task: RouteTask) -> RouteOutcome:
    """Train the families of one route from the dataset's file; for the workers of a cluster.

    Parameters
    ----------
    task : RouteTask
        Which file, route and settings.

    Raises
    ------
    TrainingError
        If the file is not the one that the task was made for.
    """
    prepared = _prepared(task.dataset_path, task.dataset_sha256, task.time_zone, _Identity(task.config))
    return train_scope(prepared.scope(task.route_id), task.config)


def train_scope(scope: Scope, config: TrainingConfig, progress: Progress = silent) -> RouteOutcome:
    """Train the families of one scope. What goes wrong in one of them is written down and loses no other.

    Parameters
    ----------
    scope : Scope
        The rows.
    config : TrainingConfig
        Settings.
    progress : Progress
        Told of boosting rounds.
    """
    candidates: list[Candidate] = []
    failures: list[tuple[str, str]] = []
    for model_type in config.model_types:
        start = time.perf_counter()
        try:
            fitted = fit_family(model_type, scope, config, progress)
            metrics = _measure(scope, fitted)
        except Exception as err:
            failures.append((model_type, what_failed(err)))
        else:
            candidates.append(Candidate(model_type, fitted, metrics, time.perf_counter() - start))
    samples = {
        "n_samples": sum(len(part.rows) for part in (scope.train, scope.validation, scope.test)),
        "n_trips": scope.n_trips,
        "train_samples": len(scope.train.rows),
        "test_samples": len(scope.test.rows),
    }
    return RouteOutcome(scope.route_id, tuple(candidates), tuple(failures), samples)


def what_failed(error: Exception) -> str:
    """An error as one line of a report."""
    if isinstance(error, EtacoreError):
        return error.message + (f" ({error.hint})" if error.hint else "")
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0]}"


def _measure(scope: Scope, fitted: Fitted) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, part, predicted in zip(("val", "test"), (scope.validation, scope.test), fitted.predictions, strict=True):
        if len(part.rows):
            metrics |= prefixed(regression_metrics(predicted, part.seconds), name)
    return metrics


class _Identity:
    """A cache key of settings that hold mappings."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self._text = repr((config.label, config.n_test_days, config.n_validation_days, config.test_days))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@functools.lru_cache(maxsize=1)
def _prepared(path: str, sha256: str, time_zone: str, identity: _Identity) -> Prepared:
    from etacore.mlops.dataset.layout import read_dataset

    dataset = read_dataset(path, time_zone=time_zone)
    if dataset.sha256 != sha256:
        raise TrainingError(
            f"{path} has changed since the training began", hint="start again; every worker must see the same file"
        )
    return Prepared(dataset, identity.config)
