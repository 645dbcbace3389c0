"""An evaluation as JSON: for people's tools, and the evidence that promotion asks for.

::

    {"format": 1, "created_at", "dataset", "dataset_sha256", "test_days", "label", "metric", "minimize",
     "improvement_threshold", "active_model",
     "models": {key: {"model_type", "route_id", "manifest_sha256", "eligible", "reason", "n", "metrics", "eta_bands",
                      "mbta_bands", "vs_active": {"difference_s", "low_s", "high_s", ...} | null, ...}},
     "baselines": {name: {...}}, "recommended": key | null, "recommendation": text, ...}

``difference_s`` and its bounds are in the unit of the metric, which is seconds unless another metric was asked for;
``improvement`` and its bounds are shares of the active model's value. What is not known is null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from etacore.errors import EvaluationError
from etacore.files import write_whole
from etacore.mlops.evaluation.bootstrap import Comparison
from etacore.mlops.evaluation.results import FAN_QUANTILES, Findings, Result, Slice

FORMAT: Final = 1
FOLDER: Final = "evaluations"
"""Below the registry's folder."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._=+-]")


def to_dict(evaluation: Findings) -> dict[str, Any]:
    """Plain types for JSON."""
    config = evaluation.config
    return {
        "format": FORMAT,
        "created_at": evaluation.created_at.isoformat(),
        "dataset": evaluation.dataset,
        "dataset_sha256": evaluation.dataset_sha256,
        "time_zone": evaluation.time_zone,
        "test_days": [day.isoformat() for day in evaluation.test_days],
        "test_days_from": evaluation.days_from,
        "n_rows": evaluation.n_rows,
        "n_trips": evaluation.n_trips,
        "n_dropped": evaluation.n_dropped,
        "label": config.label,
        "metric": f"test_{evaluation.metric.name}",
        "metric_unit": evaluation.metric.unit,
        "minimize": not evaluation.metric.higher_is_better,
        "improvement_threshold": config.improvement_threshold,
        "active_model": config.active_model,
        "confidence": config.confidence,
        "n_resamples": config.n_resamples,
        "seed": config.seed,
        "models": {result.name: _model(result) for result in evaluation.models},
        "baselines": {result.name: _baseline(result) for result in evaluation.baselines},
        "leaderboard": [result.name for result in evaluation.leaderboard],
        "skipped": dict(evaluation.skipped),
        "recommended": evaluation.recommendation.key,
        "recommendation": evaluation.recommendation.text,
        "why_not": dict(evaluation.recommendation.reasons),
        "rolling": [
            {
                "train_days": [day.isoformat() for day in window.train_days],
                "test_day": window.test_day.isoformat(),
                "n": window.n,
                "metrics": {name: _numbers(metrics) for name, metrics in window.metrics.items()},
            }
            for window in evaluation.rolling
        ],
    }


def to_json(evaluation: Findings) -> bytes:
    """Indented JSON with a newline at the end; without NaN."""
    return orjson.dumps(to_dict(evaluation), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def keep(evaluation: Findings, registry_path: Path) -> Path:
    """Write the evaluation to ``<registry>/evaluations/<UTC YYYYmmdd_HHMMSS>_<dataset>.json``, whole or not at all.

    Returns
    -------
    Path
        Of the file. A second evaluation of one second gets ``_2`` at the end of its name.

    Raises
    ------
    EvaluationError
        If it cannot be written.
    """
    folder = registry_path / FOLDER
    stem = f"{evaluation.created_at:%Y%m%d_%H%M%S}_{_UNSAFE.sub('_', evaluation.dataset)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path, number = folder / f"{stem}.json", 1
        while path.exists():
            number += 1
            path = folder / f"{stem}_{number}.json"
        write_whole(path, to_json(evaluation))
    except OSError as err:
        raise EvaluationError(
            f"the evaluation cannot be kept in {folder}: {err.strerror or err}",
            hint="promotion looks for it there; make the folder writable",
        ) from None
    return path


def _model(result: Result) -> dict[str, Any]:
    identity = result.identity
    return {
        "model_type": identity.model_type,
        "route_id": identity.route_id,
        "title": result.title,
        "trained_on": identity.trained_on,
        "saved_at": identity.saved_at,
        "manifest_sha256": identity.manifest_sha256,
        "eligible": identity.eligible,
        "reason": identity.reason,
        **_figures(result),
    }


def _baseline(result: Result) -> dict[str, Any]:
    return {"title": result.title, "note": result.identity.note, **_figures(result)}


def _figures(result: Result) -> dict[str, Any]:
    return {
        "n": result.n,
        "coverage": result.coverage,
        "metrics": _numbers(result.metrics),
        "eta_bands": result.eta.to_dict(),
        "mbta_bands": result.mbta.to_dict(),
        "vs_active": _comparison(result.vs_active),
        "vs_baseline": _comparison(result.vs_baseline),
        "by_route": _slices(result.by_route),
        "by_hour": _slices(result.by_hour),
        "late_by_predicted_minutes": [
            {
                "from_min": fan.from_min,
                "to_min": fan.to_min,
                "n": fan.n,
                "quantiles_s": dict(zip(map(str, FAN_QUANTILES), fan.quantiles_s, strict=True)),
            }
            for fan in result.fan
        ],
    }


def _comparison(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    raw = asdict(comparison)
    renamed = {name: raw.pop(name.removesuffix("_s")) for name in ("difference_s", "low_s", "high_s")}
    return _numbers(renamed) | {name: known(value) for name, value in raw.items()}


def _slices(slices: Mapping[str, Slice]) -> dict[str, Any]:
    return {name: _numbers(asdict(piece)) for name, piece in slices.items()}


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: known(value) for name, value in values.items()}


def known(value: Any) -> Any:
    """The value, or None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
