"""What a bundle says of its model: a typed, checked view of ``manifest.json``, and the names models go by."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from typing import Any, Final, NoReturn, cast
from zoneinfo import ZoneInfo

import orjson

from etacore.errors import RegistryError
from etacore.schema import MAX_ETA_S, MIN_ETA_S, feature_codes, feature_groups

FORMAT_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"
MAX_KEY_LENGTH: Final = 200

_KEY: Final = re.compile(r"[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]*")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+=-]")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def check_model_key(key: str) -> str:
    """Return `key` if it can be a folder's name, so that no key ever leaves the registry folder.

    Allowed are ASCII letters, digits and ``. _ = + - @``, no leading dot, at most 200 characters.

    Raises
    ------
    RegistryError
        If it cannot.
    """
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
    """The model as its library wrote it, byte for byte."""

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
class Manifest:
    """Everything that is known about a model. The fields are those of ``manifest.json``."""

    model_key: str
    model_type: str
    dataset: str
    route_id: str | None
    saved_at: str
    features: tuple[str, ...]
    time_zone: str
    source: SourceFile
    libraries: tuple[LibraryFile, ...]
    parity: Parity | None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    holiday_region: str | None = None
    holidays: tuple[date, ...] = ()
    nan_at_serving: float | None = None
    distance: str = "straight"
    clip_seconds: tuple[float, float] = (MIN_ETA_S, MAX_ETA_S)
    n_samples: int | None = None
    n_trips: int | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        """The manifest as indented JSON. A number that is not finite becomes null."""
        return orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)

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
        try:
            raw = orjson.loads(data)
        except orjson.JSONDecodeError as err:
            raise RegistryError(f"{name} is not JSON: {err}") from None
        read = _Reader(raw, name)
        version = read.integer("format_version")
        if version != FORMAT_VERSION:
            read.fail("format_version", f"is {version}, this version reads {FORMAT_VERSION}", "upgrade etacore")
        unknown = read.raw.keys() - {f.name for f in fields(cls)}
        if unknown:
            read.fail(min(unknown), "is not a field of a manifest")
        source = read.inner("source", read.raw.get("source"))
        manifest = cls(
            model_key=check_model_key(read.text("model_key")),
            model_type=read.text("model_type"),
            dataset=read.text("dataset"),
            route_id=read.optional("route_id", read.text),
            saved_at=read.converted("saved_at", "an ISO 8601 time", parse_time)[0],
            features=read.texts("features"),
            time_zone=read.converted("time_zone", "the name of a time zone", ZoneInfo)[0],
            source=SourceFile(source.file_name(), source.sha256()),
            libraries=tuple(
                LibraryFile(
                    file=entry.file_name(),
                    sha256=entry.sha256(),
                    **{k: entry.text(k) for k in ("platform", "cpu", "backend", "compiler")},
                )
                for entry in (read.inner(f"libraries[{i}]", e) for i, e in enumerate(read.sequence("libraries")))
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
        )
        if manifest.distance not in ("straight", "along_route"):
            read.fail("distance", f"is {manifest.distance!r}, not 'straight' or 'along_route'")
        if manifest.nan_at_serving not in (None, 0.0):
            read.fail("nan_at_serving", f"is {manifest.nan_at_serving!r}, not 0.0 or null")
        feature_codes(manifest.features)
        return manifest


class _Reader:
    """Typed access to a decoded JSON object; every failure names the field and the file."""

    def __init__(self, raw: object, name: str, path: str = "") -> None:
        self.name = name
        self.path = path
        if not isinstance(raw, dict):
            raise RegistryError(f"{name}: {path.rstrip('.') or 'the content'} is not a JSON object")
        self.raw: dict[str, Any] = raw

    def fail(self, key: str, reason: str, hint: str | None = None) -> NoReturn:
        raise RegistryError(f"{self.name}: field {self.path}{key} {reason}", hint=hint)

    def value(self, key: str, kind: type | tuple[type, ...], what: str) -> Any:
        if key not in self.raw:
            self.fail(key, "is missing")
        value = self.raw[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            self.fail(key, f"is {value!r}, not {what}")
        return value

    def text(self, key: str) -> str:
        value: str = self.value(key, str, "a text")
        return value if value else self.fail(key, "is empty")

    def integer(self, key: str) -> int:
        return cast(int, self.value(key, int, "an integer"))

    def number(self, key: str) -> float:
        return float(self.value(key, (int, float), "a number"))

    def mapping(self, key: str) -> dict[str, Any]:
        return cast(dict[str, Any], self.value(key, dict, "an object"))

    def sequence(self, key: str) -> list[Any]:
        return cast(list[Any], self.value(key, list, "a list"))

    def optional(self, key: str, read: Any) -> Any:
        if key not in self.raw:
            self.fail(key, "is missing")
        return None if self.raw[key] is None else read(key)

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.sequence(key)
        if not values or not all(isinstance(value, str) for value in values):
            self.fail(key, "is not a list of at least one text")
        return tuple(values)

    def converted(self, key: str, what: str, convert: Any) -> tuple[str, Any]:
        text = self.text(key)
        try:
            return text, convert(text)
        except (ValueError, OSError, LookupError):
            self.fail(key, f"is {text!r}, not {what}")

    def dates(self, key: str) -> tuple[date, ...]:
        try:
            return tuple(date.fromisoformat(text) for text in self.sequence(key))
        except (ValueError, TypeError) as err:
            self.fail(key, f"holds something that is not an ISO date: {err}")

    def bounds(self, key: str) -> tuple[float, float]:
        values = self.sequence(key)
        if len(values) != 2 or not all(type(v) in (int, float) for v in values) or not values[0] < values[1]:
            self.fail(key, f"is {values!r}, not [low, high]")
        return float(values[0]), float(values[1])

    def metric(self, key: str, value: object) -> float | None:
        if value is not None and type(value) not in (int, float):
            self.fail(f"metrics.{key}", f"is {value!r}, not a number or null")
        return None if value is None else float(cast(float, value))

    def inner(self, key: str, raw: object) -> _Reader:
        return _Reader(raw, self.name, f"{self.path}{key}.")

    def parity(self, key: str) -> Parity:
        inner = self.inner(key, self.raw[key])
        return Parity(inner.integer("rows"), inner.number("max_abs_error"), inner.number("bound"))

    def file_name(self) -> str:
        name = self.text("file")
        if not _KEY.fullmatch(name) or name == MANIFEST_FILE:
            self.fail("file", f"is {name!r}, not the name of a file inside the bundle")
        return name

    def sha256(self) -> str:
        text = self.text("sha256")
        return text if _SHA256.fullmatch(text) else self.fail("sha256", f"is {text!r}, not 64 hexadecimal digits")


def finite_or_none(value: object) -> float | None:
    """`value` if it is a finite number, else None."""
    try:
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:  # a whole number with hundreds of digits
        return None
