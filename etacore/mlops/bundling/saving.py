"""New models into the registry: what every family's bundle has in common, and the families that are no forests."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from importlib import metadata
from typing import Any, Final

from etacore.errors import ModelLoadError, TrainingError
from etacore.mlops.transit.holiday_calendar import holiday_dates
from etacore.models.forest import sha256_hex
from etacore.models.manifest import LibraryFile, Manifest, Parity, SourceFile, make_model_key
from etacore.models.predictors import load_predictor
from etacore.models.registry import Registry
from etacore.models.travel_times import TypicalTimes
from etacore.schema import MAX_ETA_S, MIN_ETA_S

SOURCE_FILE: Final = "model.json"
TYPICAL_FILE: Final = "typical.json"
SAMPLES: Final = ("n_samples", "n_trips", "train_samples", "test_samples")


def save_predictor(
    registry: Registry,
    *,
    model_type: str,
    content: bytes,
    features: Sequence[str],
    time_zone: str = "UTC",
    holiday_region: str | None = None,
    dataset: str = "unknown",
    route_id: str | None = None,
    metrics: Mapping[str, float | None] | None = None,
    model_key: str | None = None,
    nan_at_serving: float | None = None,
    distance: str = "straight",
    clip_seconds: tuple[float, float] = (MIN_ETA_S, MAX_ETA_S),
    hyperparameters: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    samples: Mapping[str, int] | None = None,
    saved_at: datetime | None = None,
    routes: Sequence[str] = (),
    typical: bytes | None = None,
) -> str:
    """Check a polynomial or a table of means as serving would, and add it to a registry as a bundle.

    Parameters
    ----------
    registry : Registry
        Where the bundle goes.
    model_type : str
        The family, for example ``historical_mean``.
    content : bytes
        JSON as `etacore.models.predictors.load_predictor` reads it; kept byte for byte.
    features : sequence of str
        The columns it predicts from, in order.
    nan_at_serving : float or None
        0.0 if a NaN feature was 0.0 in training. None leaves it NaN: a table then gives its default, a polynomial
        no prediction.
    time_zone, holiday_region, dataset, route_id, metrics, model_key, distance, clip_seconds, hyperparameters, \
provenance, samples, saved_at, routes, typical
        As for `etacore.mlops.bundling.compile.compile_to_registry`.

    Returns
    -------
    str
        The model key.

    Raises
    ------
    TrainingError
        If serving could not read the content or the typical times; names the field.
    SchemaError
        If a feature is unknown to this version.
    RegistryError
        If the key is taken or unusable, or a field is wrong.
    """
    saved_at = saved_at or datetime.now(UTC)
    try:
        kind = load_predictor(content, len(features), f"model {model_type}").kind
    except ModelLoadError as err:
        raise TrainingError(err.message) from None
    versions = {name: _version(name) for name in ("etacore", "numpy")} | {"python": platform.python_version()}
    return save_bundle(
        registry,
        source=(SOURCE_FILE, content),
        predictor=kind,
        typical=typical,
        model_key=model_key,
        model_type=model_type,
        dataset=dataset,
        route_id=route_id,
        saved_at=saved_at,
        features=features,
        time_zone=time_zone,
        metrics=metrics,
        hyperparameters=hyperparameters,
        provenance={**(provenance or {}), "versions": versions},
        holiday_region=holiday_region,
        holidays=holiday_dates(holiday_region, saved_at.year) if holiday_region else (),
        nan_at_serving=nan_at_serving,
        distance=distance,
        clip_seconds=clip_seconds,
        routes=routes,
        samples=samples,
    )


def save_bundle(
    registry: Registry,
    *,
    source: tuple[str, bytes],
    model_key: str | None,
    model_type: str,
    dataset: str,
    route_id: str | None,
    saved_at: datetime,
    features: Sequence[str],
    time_zone: str,
    metrics: Mapping[str, float | None] | None,
    hyperparameters: Mapping[str, Any] | None,
    provenance: Mapping[str, Any],
    holiday_region: str | None,
    holidays: tuple[date, ...],
    nan_at_serving: float | None,
    distance: str,
    clip_seconds: tuple[float, float],
    routes: Sequence[str],
    samples: Mapping[str, int] | None,
    predictor: str = "forest",
    libraries: Mapping[LibraryFile, bytes] | None = None,
    typical: bytes | None = None,
    parity: Parity | None = None,
) -> str:
    """Put files and what is known about them together, and save the bundle.

    The keywords are those of `save_predictor`; ``source`` is the name and the content of the source file,
    ``libraries`` its compiled forms with their content. Returns the model key.

    Raises
    ------
    TrainingError
        If the typical times cannot be read, or `samples` names something else.
    RegistryError, SchemaError
        As `save_predictor`.
    """
    name, content = source
    files = {name: content}
    table = None
    if typical is not None:
        try:
            TypicalTimes.from_json(typical)
        except ModelLoadError as err:
            raise TrainingError(err.message) from None
        table = SourceFile(TYPICAL_FILE, sha256_hex(typical))
        files[TYPICAL_FILE] = typical
    unknown = sorted((samples or {}).keys() - set(SAMPLES))
    if unknown:
        raise TrainingError(f"samples names {unknown[0]!r}", hint=f"known: {', '.join(SAMPLES)}")
    files |= {library.file: data for library, data in (libraries or {}).items()}
    manifest = Manifest(
        model_key=model_key or make_model_key(model_type, dataset, features, route_id, saved_at, hyperparameters),
        model_type=model_type,
        dataset=dataset,
        route_id=route_id,
        saved_at=saved_at.isoformat(),
        features=tuple(features),
        time_zone=time_zone,
        source=SourceFile(name, sha256_hex(content)),
        libraries=tuple(libraries or ()),
        parity=parity,
        metrics=dict(metrics or {}),
        hyperparameters=dict(hyperparameters or {}),
        provenance=dict(provenance),
        holiday_region=holiday_region,
        holidays=holidays,
        nan_at_serving=nan_at_serving,
        distance=distance,
        clip_seconds=clip_seconds,
        predictor=predictor,
        routes=tuple(routes),
        typical=table,
        **(samples or {}),
    )
    return registry.save(manifest, files)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
