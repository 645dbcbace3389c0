"""The index of a registry: one line a model, enough to choose one without opening its bundle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from etacore.errors import RegistryError
from etacore.models.forest import sha256_hex
from etacore.models.json_reader import Reader
from etacore.models.manifest import Manifest, finite_or_none, parse_time
from etacore.schema import WEATHER_FEATURES

INDEX_FILE: Final = "registry.json"
INDEX_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the index: enough to choose a model without opening its bundle."""

    key: str
    model_type: str
    route_id: str | None
    dataset: str
    saved_at: datetime
    metrics: Mapping[str, Any]
    features: tuple[str, ...]

    @property
    def test_mae_s(self) -> float:
        """``metrics.test_mae_seconds``; infinite if there is no finite one."""
        value = finite_or_none(self.metrics.get("test_mae_seconds"))
        return math.inf if value is None else value

    @property
    def servable(self) -> bool:
        """Whether serving can compute all of its features: there is no weather source."""
        return not set(self.features) & set(WEATHER_FEATURES)


@dataclass(frozen=True, slots=True)
class Index:
    """An index as it was read.

    Attributes
    ----------
    signature : object
        Changes when the file does.
    raw : dict
        The whole content, entries of an older system included.
    entries : dict
        Models by key.
    refused : dict
        Entries that are ours and cannot be used, and why: damaged, or written by a newer version.
    """

    signature: object
    raw: dict[str, Any]
    entries: dict[str, Entry]
    refused: dict[str, RegistryError]


EMPTY: Final = Index(None, {}, {}, {})


def read_index(path: Path, known: Index | None) -> Index:
    """Read an index file, unless `known` is what it still holds.

    Returns
    -------
    Index
        `known` itself if nothing changed; `EMPTY` if there is no file.

    Raises
    ------
    RegistryError
        If the file cannot be read or is no JSON object.
    """
    try:
        stat = os.stat(path)  # noqa: PTH116
        signature = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if known is not None and known.signature == signature:
            return known
        raw = json.loads(path.read_bytes())  # not orjson: older systems wrote NaN into their metrics
    except (FileNotFoundError, NotADirectoryError):
        return EMPTY
    except OSError as err:
        raise RegistryError(f"{path} cannot be read: {err.strerror or err}") from err
    except (ValueError, RecursionError) as err:
        raise RegistryError(f"{path} is not JSON: {err}", hint="restore it from a backup") from None
    if not isinstance(raw, dict):
        raise RegistryError(f"{path} is not a JSON object of models")
    index = Index(signature, raw, {}, {})
    for key, value in raw.items():
        if isinstance(value, dict) and "format" in value:
            try:
                index.entries[key] = _entry(key, value, path)
            except RegistryError as err:
                index.refused[key] = err
    return index


def index_entry(manifest: Manifest, content: bytes) -> dict[str, Any]:
    """The line of a model; `content` is its manifest as written."""
    return {
        "format": INDEX_FORMAT,
        "saved_at": manifest.saved_at,
        "model_type": manifest.model_type,
        "route_id": manifest.route_id,
        "dataset": manifest.dataset,
        "metrics": dict(manifest.metrics),
        "features": list(manifest.features),
        "manifest_sha256": sha256_hex(content),
    }


def _entry(key: str, raw: dict[str, Any], path: Path) -> Entry:
    if raw["format"] != INDEX_FORMAT:
        raise RegistryError(
            f"{path}: entry {key!r} has format {raw['format']!r}, this version knows {INDEX_FORMAT}",
            hint="a newer etacore wrote it: update this one",
        )
    read = _Reader(raw, f"{path}: entry {key!r}")
    features = read.sequence("features")
    if not all(isinstance(feature, str) for feature in features):
        read.fail("features", "is not a list of texts")
    return Entry(
        key=key,
        model_type=read.text("model_type"),
        route_id=read.optional("route_id", read.text),
        dataset=read.text("dataset"),
        saved_at=read.converted("saved_at", "an ISO 8601 time", parse_time)[1],
        metrics=read.mapping("metrics"),
        features=tuple(features),
    )


class _Reader(Reader):
    hint = "restore it from a backup"
