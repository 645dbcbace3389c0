"""Which rows are held out, and which came before them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl

from etacore.errors import EvaluationError
from etacore.mlops.dataset.columns import run_columns
from etacore.mlops.dataset.layout import Dataset
from etacore.mlops.dataset.split import split_days
from etacore.mlops.evaluation.results import EvaluationConfig, HeldOut
from etacore.models.manifest import Manifest
from etacore.schema import MAX_ETA_S


def hold_out(dataset: Dataset, config: EvaluationConfig, candidates: Sequence[Manifest] = ()) -> HeldOut:
    """Choose the held-out days and take their rows.

    Parameters
    ----------
    dataset : Dataset
        Where the rows are.
    config : EvaluationConfig
        Which days, and which label.
    candidates : sequence of Manifest
        Models to be compared; without an order in `config`, the newest one trained on this very file says which
        days it left out.

    Raises
    ------
    EvaluationError
        If a wanted day is not in the dataset, or no row is left to score.
    TrainingError
        If the dataset has too few days to split.
    """
    known = sorted(dataset.frame["service_date"].unique().to_list())
    days_from = "the last days of the dataset"
    wanted, n_days = config.test_days, config.n_test_days
    if wanted is not None and n_days is not None:
        raise EvaluationError("both test_days and n_test_days are given", hint="give one of them")
    if wanted is not None:
        days_from = "as asked"
    elif n_days is None:
        wanted, key = _left_out_in_training(dataset, candidates, known)
        days_from = f"those that {key} left out in training" if key else days_from
    if wanted is not None:
        absent = sorted(set(wanted) - set(known))
        if absent or not wanted:
            named = ", ".join(map(str, absent)) or "none"
            raise EvaluationError(
                f"dataset {dataset.name} has no rows of the held-out days asked for: {named}",
                hint=f"its service days are {known[0]} to {known[-1]}" if known else "it is empty",
            )
    if n_days is not None and n_days < 1:
        raise EvaluationError(f"n_test_days is {n_days}", hint="hold out at least one day")
    n_held_out = len(wanted) if wanted is not None else n_days
    if n_held_out is not None and n_held_out >= len(known):
        test = np.ones(dataset.frame.height, dtype=bool)
        return _take(dataset, config, test, ~test, known, "all days of the dataset")
    split = split_days(dataset, n_test_days=n_days, test_days=wanted)
    before = split.train | split.validation
    return _take(dataset, config, split.test, before, sorted(split.test_days), days_from)


def _left_out_in_training(
    dataset: Dataset, candidates: Sequence[Manifest], known: Sequence[date]
) -> tuple[tuple[date, ...] | None, str | None]:
    for manifest in sorted(candidates, key=lambda manifest: manifest.saved_at, reverse=True):
        if manifest.provenance.get("dataset_sha256") != dataset.sha256:
            continue
        days = days_of(manifest, "test_days")
        if days and set(days) <= set(known):
            return days, manifest.model_key
    return None, None


def days_of(manifest: Manifest, part: str) -> tuple[date, ...]:
    """Service days that the provenance names as a part; none if it names none.

    Parameters
    ----------
    manifest : Manifest
        Of the model.
    part : str
        ``train_days``, ``validation_days`` or ``test_days``.

    Raises
    ------
    EvaluationError
        If what stands there is no list of ISO dates.
    """
    texts = manifest.provenance.get(part) or []
    try:
        return tuple(date.fromisoformat(text) for text in texts)
    except (TypeError, ValueError) as err:
        raise EvaluationError(f"provenance of model {manifest.model_key}: {part} is no list of dates: {err}") from None


def _take(
    dataset: Dataset,
    config: EvaluationConfig,
    test: np.ndarray,
    before: np.ndarray,
    days: Sequence[date],
    days_from: str,
) -> HeldOut:
    seconds = dataset.label_seconds(config.label).to_numpy()
    usable = (seconds >= 0) & (seconds <= MAX_ETA_S)  # NaN is neither
    rows = test & usable
    if not rows.any():
        raise EvaluationError(
            f"dataset {dataset.name} has no row to score on {', '.join(map(str, days)) or 'the held-out days'}",
            hint="hold out other days",
        )
    frame = dataset.frame.filter(pl.Series(rows))
    trip = frame.select(pl.struct(run_columns(frame)).rank("dense")).to_series().to_numpy().astype(np.int64)
    return HeldOut(
        rows=rows,
        history=before & usable,
        days=tuple(days),
        days_from=days_from,
        n_dropped=int((test & ~usable).sum()),
        actual_s=seconds[rows].astype(np.float64),
        trip=trip,
        route=frame["route_id"].to_numpy().astype(np.str_),
        hour=frame["hour"].to_numpy().astype(np.int64),
    )
