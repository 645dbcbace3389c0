"""What a training did, for people (tables) and for programs (JSON)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from etacore.models.short_ids import short_ids

if TYPE_CHECKING:
    from etacore.mlops.fitted_table import FittedTable, Kind
    from etacore.mlops.training.leakage import Leak


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """One model. ``key`` is None if it was not saved, ``best_iteration`` if nothing stopped it early."""

    key: str | None
    model_type: str
    route_id: str | None
    metrics: Mapping[str, float]
    features: tuple[str, ...]
    n_train: int
    n_validation: int
    n_test: int
    n_trips: int
    best_iteration: int | None
    seconds: float

    @property
    def scope(self) -> str:
        """``global`` or ``route <id>``."""
        return "global" if self.route_id is None else f"route {self.route_id}"


@dataclass(frozen=True, slots=True)
class SkippedRoute:
    """A route without a model of its own, and why."""

    route_id: str
    n_trips: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A model that could not be trained or saved, and why."""

    model_type: str
    route_id: str | None
    reason: str


_HEADINGS: Final = (
    "model",
    "type",
    "scope",
    "rows",
    "best round",
    "val MAE s",
    "test MAE s",
    "test within 60 s",
    "seconds",
)
_TEXTS: Final[dict[str, Kind]] = {"model": "key", "type": "word", "scope": "word"}
_IMPORTANCE: Final = {"test MAE s": 9, "type": 8, "scope": 7, "test within 60 s": 6, "val MAE s": 5, "rows": 4}
"""What stays longest in a narrow terminal; of the others the right ones go first."""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The outcome of a training.

    Attributes
    ----------
    dataset, dataset_sha256, label, features
        What was learned from, and for XGBoost which features.
    split : mapping
        Days of each part, and the number of purged rows.
    models : tuple of TrainedModel
        In the order in which they were saved.
    skipped : tuple of SkippedRoute
    failures : tuple of Failure
    leaks : tuple of Leak
        Columns that seem to know the future; not empty only where that was allowed.
    notes : tuple of str
        What else there is to know.
    """

    dataset: str
    dataset_sha256: str
    label: str
    features: tuple[str, ...]
    split: Mapping[str, Any]
    models: tuple[TrainedModel, ...]
    skipped: tuple[SkippedRoute, ...] = ()
    failures: tuple[Failure, ...] = ()
    leaks: tuple[Leak, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it; a metric that is not finite is None."""
        return {
            "dataset": self.dataset,
            "dataset_sha256": self.dataset_sha256,
            "label": self.label,
            "features": list(self.features),
            "split": dict(self.split),
            "models": [
                {
                    "key": model.key,
                    "model_type": model.model_type,
                    "route_id": model.route_id,
                    "features": list(model.features),
                    "n_train": model.n_train,
                    "n_validation": model.n_validation,
                    "n_test": model.n_test,
                    "n_trips": model.n_trips,
                    "best_iteration": model.best_iteration,
                    "seconds": round(model.seconds, 3),
                    "metrics": {k: v if math.isfinite(v) else None for k, v in model.metrics.items()},
                }
                for model in self.models
            ],
            "skipped": [
                {"route_id": route.route_id, "n_trips": route.n_trips, "reason": route.reason} for route in self.skipped
            ],
            "failures": [
                {"model_type": failure.model_type, "route_id": failure.route_id, "reason": failure.reason}
                for failure in self.failures
            ],
            "leaks": [leak.to_dict() for leak in self.leaks],
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """The report as Markdown, for an artifact or a file."""
        lines = [f"# Training on {self.dataset}", ""]
        lines += [f"- {line}" for line in self.summary()]
        rule = "".join(" --- |" if name in _TEXTS else " ---: |" for name in _HEADINGS)
        lines += ["", f"| {' | '.join(_HEADINGS)} |", f"|{rule}"]
        lines += [f"| {' | '.join(_escaped(cell) for cell in _cells(model))} |" for model in self.models]
        if self.failures:
            lines += ["", "## Failed", "", "| type | scope | reason |", "| --- | --- | --- |"]
            lines += [
                f"| {failure.model_type} | {_escaped(failure.route_id or 'global')} | {_escaped(failure.reason)} |"
                for failure in self.failures
            ]
        if self.skipped:
            lines += ["", "## Skipped routes", "", "| route | trips | reason |", "| --- | --- | --- |"]
            lines += [
                f"| {_escaped(route.route_id)} | {route.n_trips} | {_escaped(route.reason)} |" for route in self.skipped
            ]
        return "\n".join([*lines, ""])

    def summary(self) -> list[str]:
        """Days, rows and notes, a line each."""
        parts = [
            f"{name} {_days(self.split[f'{name}_days'])}"
            for name in ("train", "validation", "test")
            if self.split[f"{name}_days"]
        ]
        lines = [", ".join(parts) + f"; {self.split['n_purged']} rows purged at the borders", f"label {self.label}"]
        return lines + [leak.line() for leak in self.leaks] + list(self.notes)

    def table(self) -> FittedTable:
        """The models as a table for the console."""
        from etacore.mlops.fitted_table import Column, FittedTable

        ids = short_ids(model.key for model in self.models if model.key is not None)
        columns = [Column("id")]
        columns += [Column(name, _TEXTS.get(name, "number"), _IMPORTANCE.get(name, 0)) for name in _HEADINGS]
        rows = [("" if model.key is None else ids[model.key], *_cells(model)) for model in self.models]
        return FittedTable(columns, rows, title=f"Models trained on {self.dataset}")


def _cells(model: TrainedModel) -> tuple[str, ...]:
    best = "" if model.best_iteration is None else str(model.best_iteration + 1)
    return (
        model.key or "(not saved)",
        model.model_type,
        model.scope,
        str(model.n_train),
        best,
        _number(model.metrics.get("val_mae_seconds")),
        _number(model.metrics.get("test_mae_seconds")),
        _number(model.metrics.get("test_within_60s"), "{:.1%}"),
        f"{model.seconds:.1f}",
    )


def _number(value: float | None, form: str = "{:.1f}") -> str:
    return "" if value is None or not math.isfinite(value) else form.format(value)


def _days(days: list[str]) -> str:
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]} ({len(days)} days)"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
