"""What a bundle says of its model: a typed, checked view of ``manifest.json``, and the names models go by."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson

from etacore.errors import RegistryError
from etacore.models.facts import ModelFacts
from etacore.models.json_reader import Reader
from etacore.models.predictors import PREDICTORS
from etacore.schema import feature_codes, feature_groups

FORMAT_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"
MAX_KEY_LENGTH: Final = 200

RESERVED: Final = ("archive", "evaluations")
"""Folders of a registry that are no bundles."""

_KEY: Final = re.compile(r"[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]*")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+=-]")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def check_model_key(key: str) -> str:
    """Return `key` if it can be a folder's name, so that no key ever leaves the registry folder.

    Allowed are ASCII letters, digits and ``. _ = + - @``, no leading dot, at most 200 characters; not the names of
    a registry's own folders.

    Raises
    ------
    RegistryError
        If it cannot.
    """
    if key in RESERVED:
        raise RegistryError(f"model key {key!r} is a folder of the registry itself", hint="use another key")
    if not isinstance(key, str) or not _KEY.fullmatch(key) or len(key) > MAX_KEY_LENGTH or key.endswith(".json"):
        raise RegistryError(
            f"model key {key!r} cannot be a file name",
            hint=f"letters, digits and . _ = + - @, no leading dot, no .json at the end, at most {MAX_KEY_LENGTH}",
        )
    return key


def make_model_key(
    model_type: str,
    dataset: str,
    features: Sequence[str],
    route_id: str | None,
    saved_at: datetime,
    parameters: Mapping[str, object] | None = None,
) -> str:
    """Key of a new model: ``{type}_{dataset}_{groups}_{route_<id>|global}_{YYYYmmdd_HHMMSS}[_k=v]``.

    A character that a key may not hold is written as ``@`` and its UTF-8 bytes in hexadecimal. A key is a name: the
    parts hold underscores themselves, so what it means is read from the manifest and never by splitting it.

    Parameters
    ----------
    model_type, dataset : str
        Family, and the data it was trained on.
    features : sequence of str
        Feature names; the key holds their groups, sorted and joined by ``-``.
    route_id : str or None
        The one route it was trained for; None for a global model.
    saved_at : datetime
        Naive or aware; written as it stands.
    parameters : mapping, optional
        Hyperparameters to show, sorted by name.

    Raises
    ------
    SchemaError
        If a feature is unknown.
    RegistryError
        If the key gets too long.
    """
    scope = "global" if route_id is None else f"route_{route_id}"
    parts = [model_type, dataset, feature_groups(features), scope, f"{saved_at:%Y%m%d_%H%M%S}"]
    parts += [f"{name}={value}" for name, value in sorted((parameters or {}).items())]
    return check_model_key(_UNSAFE.sub(lambda m: "".join(f"@{byte:02X}" for byte in m[0].encode()), "_".join(parts)))


def parse_time(text: str) -> datetime:
    """ISO 8601 to an aware time; naive is UTC."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the bundle and its content hash: the model as it was trained, byte for byte, or a table of its own."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class LibraryFile:
    """A compiled form of the model for one platform and CPU."""

    file: str
    sha256: str
    platform: str
    cpu: str
    backend: str
    compiler: str


@dataclass(frozen=True, slots=True)
class Parity:
    """How the library was held against the library that trained it.

    ``bound`` is the largest difference that float32 summation explains; both numbers are in the unit of a
    prediction, seconds.
    """

    rows: int
    max_abs_error: float
    bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(ModelFacts):
    """Everything that is known about a model. The fields are those of ``manifest.json``.

    Attributes
    ----------
    model_key : str
        Its name.
    saved_at : str
        ISO 8601.
    source : SourceFile
        The model as it was trained.
    libraries : tuple of LibraryFile
        What it was compiled to.
    parity : Parity or None
        How the library was held against the source.
    predictor : str
        What predicts: a compiled ``forest``, or a ``polynomial`` or ``mean_table`` in the source file.
    typical : SourceFile or None
        The table of typical travel times.
    """

    model_key: str
    saved_at: str
    source: SourceFile
    libraries: tuple[LibraryFile, ...]
    parity: Parity | None
    predictor: str = "forest"
    typical: SourceFile | None = None
    format_version: int = FORMAT_VERSION

    def files(self) -> dict[str, str]:
        """Names of the bundle's files, the manifest aside, and their SHA-256."""
        named = (self.source, *self.libraries, *((self.typical,) if self.typical else ()))
        return {entry.file: entry.sha256 for entry in named}

    def to_json(self) -> bytes:
        """The manifest as indented JSON. A number that is not finite becomes null.

        Fields that came later are left out where they say nothing, so that older versions read such a bundle too.
        """
        raw = {name: getattr(self, name) for name in _ORDER}
        for name, nothing in _LATER.items():
            if raw[name] == nothing:
                del raw[name]
        return orjson.dumps(raw, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)

    @classmethod
    def from_json(cls, data: bytes, name: str = MANIFEST_FILE) -> Manifest:
        """Read and check a manifest.

        Parameters
        ----------
        data : bytes
            Content of the file.
        name : str
            What to call it in errors.

        Raises
        ------
        RegistryError
            If a field is missing or has a wrong type or value; the message names the field and the file.
        SchemaError
            If a feature is unknown to this version.
        """
        read = _Reader(_Reader.decode(data, name), name)
        version = read.integer("format_version")
        if version != FORMAT_VERSION:
            read.fail("format_version", f"is {version}, this version reads {FORMAT_VERSION}", "upgrade etacore")
        unknown = read.raw.keys() - set(_ORDER)
        if unknown:
            read.fail(min(unknown), "is not a field of a manifest")
        for name, nothing in _LATER.items():
            read.raw.setdefault(name, nothing)
        manifest = cls(
            model_key=check_model_key(read.text("model_key")),
            model_type=read.text("model_type"),
            dataset=read.text("dataset"),
            route_id=read.optional("route_id", read.text),
            saved_at=read.converted("saved_at", "an ISO 8601 time", parse_time)[0],
            features=read.texts("features"),
            time_zone=read.converted("time_zone", "the name of a time zone", ZoneInfo)[0],
            source=read.source_file("source"),
            libraries=tuple(
                LibraryFile(
                    file=entry.file_name(),
                    sha256=entry.sha256(),
                    **{k: entry.text(k) for k in ("platform", "cpu", "backend", "compiler")},
                )
                for entry in read.objects("libraries")
            ),
            parity=read.optional("parity", read.parity),
            metrics={k: read.metric(k, v) for k, v in read.mapping("metrics").items()},
            hyperparameters=read.mapping("hyperparameters"),
            provenance=read.mapping("provenance"),
            holiday_region=read.optional("holiday_region", read.text),
            holidays=read.dates("holidays"),
            nan_at_serving=read.optional("nan_at_serving", read.number),
            distance=read.text("distance"),
            clip_seconds=read.bounds("clip_seconds"),
            n_samples=read.optional("n_samples", read.integer),
            n_trips=read.optional("n_trips", read.integer),
            train_samples=read.optional("train_samples", read.integer),
            test_samples=read.optional("test_samples", read.integer),
            predictor=read.text("predictor"),
            routes=read.different("routes"),
            typical=read.optional("typical", read.source_file),
        )
        if manifest.distance not in ("straight", "along_route"):
            read.fail("distance", f"is {manifest.distance!r}, not 'straight' or 'along_route'")
        if manifest.nan_at_serving not in (None, 0.0):
            read.fail("nan_at_serving", f"is {manifest.nan_at_serving!r}, not 0.0 or null")
        for feature, name in (("route_code", "routes"), ("typical_travel_s", "typical")):
            if feature in manifest.features and not getattr(manifest, name):
                read.fail(name, f"is empty, and feature {feature} needs it")
        feature_codes(manifest.features)
        if manifest.predictor not in PREDICTORS:
            read.fail("predictor", f"is {manifest.predictor!r}, not {', '.join(PREDICTORS)}", "upgrade etacore")
        if manifest.predictor != "forest" and manifest.libraries:
            read.fail("libraries", f"is not empty, and a {manifest.predictor} has none")
        if len(manifest.files()) != 1 + len(manifest.libraries) + (manifest.typical is not None):
            read.fail("source", "and the other files do not all have different names")
        return manifest


class _Reader(Reader):
    """What a manifest holds besides plain values."""

    def parity(self, key: str) -> Parity:
        inner = self.inner(key, self.raw[key])
        return Parity(inner.integer("rows"), inner.number("max_abs_error"), inner.number("bound"))

    def source_file(self, key: str) -> SourceFile:
        inner = self.inner(key, self.raw.get(key))
        return SourceFile(inner.file_name(), inner.sha256())

    def file_name(self) -> str:
        name = self.text("file")
        if not _KEY.fullmatch(name) or name == MANIFEST_FILE:
            self.fail("file", f"is {name!r}, not the name of a file inside the bundle")
        return name

    def sha256(self) -> str:
        text = self.text("sha256")
        return text if _SHA256.fullmatch(text) else self.fail("sha256", f"is {text!r}, not 64 hexadecimal digits")


# As every manifest is written; its hash stands in an index, so the order stays, and what comes later goes to the end.
_ORDER: Final = (
    *("model_key", "model_type", "dataset", "route_id", "saved_at", "features", "time_zone", "source", "libraries"),
    *("parity", "metrics", "hyperparameters", "provenance", "holiday_region", "holidays", "nan_at_serving", "distance"),
    *("clip_seconds", "n_samples", "n_trips", "train_samples", "test_samples", "predictor", "routes", "typical"),
    "format_version",
)
# Fields that older bundles do not have, and what their absence means.
_LATER: Final[Mapping[str, Any]] = {"predictor": "forest", "routes": (), "typical": None}


def finite_or_none(value: object) -> float | None:
    """`value` if it is a finite number, else None."""
    try:
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:  # a whole number with hundreds of digits
        return None
