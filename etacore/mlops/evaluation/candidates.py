"""Which models take part, which of them may win, and what they predict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt

from etacore.errors import EtacoreError, EvaluationError, ModelNotFoundError
from etacore.mlops.dataset.layout import Dataset
from etacore.mlops.evaluation.holding_out import days_of
from etacore.mlops.evaluation.results import THIS_DATASET, Entrant, EvaluationConfig, HeldOut, Identity
from etacore.mlops.progress import Progress, silent
from etacore.mlops.training.matrix import model_predictions
from etacore.models.manifest import Manifest
from etacore.models.registry import Registry
from etacore.schema import feature_groups

_SHOWN_DAYS: Final = 3


@dataclass(frozen=True, slots=True)
class Candidates:
    """The models to score.

    Attributes
    ----------
    manifests : tuple of Manifest
    wanted : frozenset of str
        Keys that were asked for by name, the active model's included: they must take part.
    skipped : dict of str to str
        Models that were left out, with the reason.
    """

    manifests: tuple[Manifest, ...]
    wanted: frozenset[str] = frozenset()
    skipped: dict[str, str] = field(default_factory=dict)


def choose_candidates(dataset: Dataset, registry: Registry, config: EvaluationConfig) -> Candidates:
    """Models named in `config`, else all servable ones trained on this dataset; the active one always.

    Raises
    ------
    EvaluationError
        If a named model is unknown, or there is none to evaluate.
    """
    skipped: dict[str, str] = {}
    named = list(dict.fromkeys(config.model_keys))
    if named:
        chosen = [_known(registry, key) for key in named]
    else:
        chosen = []
        for entry in registry.entries():
            try:
                manifest = registry.manifest(entry.key)
                if not _is_of(manifest, dataset):
                    continue
                if not entry.servable:
                    skipped[entry.key] = "it needs weather, which serving does not have"
                    continue
                chosen.append(manifest)
            except EtacoreError as err:
                skipped[entry.key] = err.message
    if config.active_model is not None and config.active_model not in {manifest.model_key for manifest in chosen}:
        chosen.append(_known(registry, config.active_model))
        skipped.pop(config.active_model, None)
    if not chosen:
        left_out = f"; left out: {'; '.join(f'{key}: {why}' for key, why in skipped.items())}" if skipped else ""
        raise EvaluationError(
            f"no model of {registry.path} was trained on dataset {dataset.name}{left_out}",
            hint="train one, or name models with --model-key",
        )
    wanted = {*named, *([config.active_model] if config.active_model is not None else [])}
    return Candidates(tuple(chosen), frozenset(wanted), skipped)


def _is_of(manifest: Manifest, dataset: Dataset) -> bool:
    return manifest.dataset == dataset.name or manifest.provenance.get("dataset_sha256") == dataset.sha256


def _known(registry: Registry, key: str) -> Manifest:
    try:
        return registry.manifest(key)
    except ModelNotFoundError:
        raise EvaluationError(
            f"there is no model {key} in {registry.path}", hint="etacore registry list shows those there are"
        ) from None


def why_not_eligible(manifest: Manifest, dataset: Dataset, test_days: Sequence[date]) -> str | None:
    """Why a score on these days would not be honest for this model; None if it is."""
    trained = {*days_of(manifest, "train_days"), *days_of(manifest, "validation_days")}
    if not days_of(manifest, "train_days"):
        return "its provenance does not say on which days it was trained, so it may have seen the held-out ones"
    other = "" if manifest.provenance.get("dataset_sha256") == dataset.sha256 else f" (in {manifest.dataset})"
    if seen := sorted(trained & set(test_days)):
        return f"it was trained on held-out days{other}: {_listed(seen)}"
    if later := sorted(day for day in trained if day > min(test_days)):
        return f"it was trained on days after the first held-out one{other}: {_listed(later)}"
    return None


def _listed(days: Sequence[date]) -> str:
    more = f" and {len(days) - _SHOWN_DAYS} more" if len(days) > _SHOWN_DAYS else ""
    return ", ".join(map(str, days[:_SHOWN_DAYS])) + more


def predict_all(
    dataset: Dataset,
    registry: Registry,
    held_out: HeldOut,
    candidates: Candidates,
    label: str = "rule",
    progress: Progress = silent,
) -> tuple[list[Entrant], dict[str, str]]:
    """Load every candidate and predict the held-out rows; route models those of their route.

    Returns
    -------
    entrants : list of Entrant
    skipped : dict of str to str
        Models that could not predict, with the reason.

    Raises
    ------
    EvaluationError
        If a model that was asked for by name cannot predict these rows: it cannot be loaded, a feature is not in the
        dataset, its time zone is another one, or its route has no row.
    """
    entrants: list[Entrant] = []
    skipped: dict[str, str] = {}
    titles = short_titles(candidates.manifests)
    total = len(candidates.manifests)
    for done, manifest in enumerate(candidates.manifests):
        progress("predicting", done, total)
        key = manifest.model_key
        try:
            predicted = _predict(dataset, registry, held_out, manifest)
        except EtacoreError as err:
            if key in candidates.wanted:
                raise EvaluationError(f"model {key} cannot be evaluated: {err.message}", hint=err.hint) from err
            skipped[key] = err.message
            continue
        reason = why_not_eligible(manifest, dataset, held_out.days)
        identity = _identity(manifest, dataset, titles[key], registry.manifest_sha256(key), label)
        entrants.append(Entrant(replace(identity, eligible=reason is None, reason=reason), predicted))
    progress("predicting", total, total)
    return entrants, skipped


def _predict(dataset: Dataset, registry: Registry, held_out: HeldOut, manifest: Manifest) -> npt.NDArray[np.float32]:
    n = len(held_out.actual_s)
    of_route = np.ones(n, dtype=bool) if manifest.route_id is None else held_out.route == manifest.route_id
    if not of_route.any():
        raise EvaluationError(f"route {manifest.route_id} has no row on the held-out days")
    rows = held_out.rows.copy()
    rows[rows] = of_route
    predicted = np.full(n, np.nan, dtype=np.float32)
    predicted[of_route] = model_predictions(dataset, rows, registry.load(manifest.model_key))
    if not np.isfinite(predicted).any():
        raise EvaluationError("it predicts none of the held-out rows")
    return predicted


def _identity(manifest: Manifest, dataset: Dataset, title: str, sha256: str, config_label: str) -> Identity:
    label = manifest.provenance.get("label")
    if manifest.provenance.get("dataset_sha256") == dataset.sha256:
        trained_on = THIS_DATASET
    elif manifest.dataset == dataset.name:
        trained_on = f"another {dataset.name}"
    else:
        trained_on = manifest.dataset
    return Identity(
        name=manifest.model_key,
        kind="model",
        model_type=manifest.model_type,
        title=title,
        route_id=manifest.route_id,
        trained_on=trained_on,
        saved_at=manifest.saved_at,
        manifest_sha256=sha256,
        note=None if label in (None, config_label) else f"trained with label {label}",
    )


def short_titles(manifests: Sequence[Manifest]) -> dict[str, str]:
    """A short name for each model that is its own: the type and route, as much more as it takes, at last a number."""

    def scope(manifest: Manifest) -> str:
        return manifest.model_type + ("" if manifest.route_id is None else f" route {manifest.route_id}")

    more: tuple[Callable[[Manifest], str], ...] = (
        scope,
        lambda manifest: f"{scope(manifest)} {feature_groups(manifest.features)}",
        lambda manifest: f"{scope(manifest)} {feature_groups(manifest.features)} {manifest.saved_at[5:16]}",
    )
    titles: dict[str, str] = {}
    for name_of in more:
        count = Counter(map(name_of, manifests))
        titles |= {m.model_key: name_of(m) for m in manifests if m.model_key not in titles and count[name_of(m)] == 1}
    left = [manifest for manifest in manifests if manifest.model_key not in titles]
    return titles | {manifest.model_key: f"{scope(manifest)} #{i}" for i, manifest in enumerate(left, 1)}
