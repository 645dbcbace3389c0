"""Bundles: what every family's has in common, and those of the families that are no forests."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Final

from etacore.errors import ModelLoadError, TrainingError
from etacore.mlops.transit.holiday_calendar import holiday_dates
from etacore.models.bundle import Bundle
from etacore.models.facts import ModelFacts
from etacore.models.forest import sha256_hex
from etacore.models.manifest import LibraryFile, Manifest, Parity, SourceFile, make_model_key
from etacore.models.predictors import load_predictor
from etacore.models.travel_times import TypicalTimes

SOURCE_FILE: Final = "model.json"
TYPICAL_FILE: Final = "typical.json"


def bundle_predictor(
    content: bytes,
    facts: ModelFacts,
    *,
    typical: bytes | None = None,
    model_key: str | None = None,
    saved_at: datetime | None = None,
) -> Bundle:
    """Check a polynomial or a table of means as serving would, and make a bundle of it.

    Parameters
    ----------
    content : bytes
        JSON as `etacore.models.predictors.load_predictor` reads it; kept byte for byte.
    facts, typical, model_key, saved_at
        As for `make_bundle`.

    Raises
    ------
    TrainingError
        If serving could not read the content or the typical times; names the field.
    SchemaError
        If a feature is unknown to this version.
    CompileError
        If the holiday region is unknown.
    RegistryError
        If the key is unusable, or a field is wrong.
    """
    saved_at = saved_at or datetime.now(UTC)
    try:
        kind = load_predictor(content, len(facts.features), f"model {facts.model_type}").kind
    except ModelLoadError as err:
        raise TrainingError(err.message) from None
    versions = {name: _version(name) for name in ("etacore", "numpy")} | {"python": platform.python_version()}
    facts = replace(with_holidays(facts, saved_at), provenance={**facts.provenance, "versions": versions})
    return make_bundle(
        facts, (SOURCE_FILE, content), predictor=kind, typical=typical, model_key=model_key, saved_at=saved_at
    )


def with_holidays(facts: ModelFacts, saved_at: datetime) -> ModelFacts:
    """Fill in the days of the holiday region around the year in which the model is saved.

    Raises
    ------
    CompileError
        If the region is unknown.
    """
    region = facts.holiday_region
    return replace(facts, holidays=holiday_dates(region, saved_at.year)) if region else facts


def make_bundle(
    facts: ModelFacts,
    source: tuple[str, bytes],
    *,
    saved_at: datetime,
    model_key: str | None = None,
    predictor: str = "forest",
    libraries: Mapping[LibraryFile, bytes] | None = None,
    parity: Parity | None = None,
    typical: bytes | None = None,
) -> Bundle:
    """Put files and what is known about them together.

    Parameters
    ----------
    facts : ModelFacts
        What is known.
    source : tuple of str and bytes
        Name and content of the source file.
    saved_at : datetime
        Aware.
    model_key : str, optional
        Default: made by `make_model_key` from the hyperparameters.
    predictor : str
        What predicts, as `Manifest` has it.
    libraries : mapping, optional
        Compiled forms with their content.
    parity : Parity, optional
        How they were held against the source.
    typical : bytes, optional
        Typical travel times as `etacore.models.travel_times.TypicalTimes.to_json` writes them.

    Raises
    ------
    TrainingError
        If the typical times cannot be read.
    RegistryError, SchemaError
        As `Bundle`.
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
    files |= {library.file: data for library, data in (libraries or {}).items()}
    if model_key is None:
        model_key = make_model_key(
            facts.model_type, facts.dataset, facts.features, facts.route_id, saved_at, facts.hyperparameters
        )
    manifest = Manifest(
        **asdict(facts),
        model_key=model_key,
        saved_at=saved_at.isoformat(),
        source=SourceFile(name, sha256_hex(content)),
        libraries=tuple(libraries or ()),
        parity=parity,
        predictor=predictor,
        typical=table,
    )
    return Bundle(manifest, files)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
