"""Typed access to JSON that somebody else may have written."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Any, ClassVar, NoReturn, Self, cast

import orjson

from etacore.errors import EtacoreError, RegistryError


class Reader:
    """Typed access to a decoded JSON object; every failure names the field and the file.

    Attributes
    ----------
    error : type of EtacoreError
        What a failure raises.
    hint : str or None
        What to do about one, where nothing better is known.
    raw : dict
        The object.
    name : str
        What the file is called in errors.
    path : str
        Where in the file the object is: ``libraries[0].``.
    """

    error: ClassVar[type[EtacoreError]] = RegistryError
    hint: ClassVar[str | None] = None

    def __init__(self, raw: object, name: str, path: str = "") -> None:
        self.name = name
        self.path = path
        if not isinstance(raw, dict):
            where = f"field {path.rstrip('.')} is {shown(raw)}, not an object"
            raise self.error(f"{name}: {where if path else 'the content is not a JSON object'}", hint=self.hint)
        self.raw: dict[str, Any] = raw

    @classmethod
    def decode(cls, content: bytes, name: str, max_bytes: int | None = None) -> Any:
        """What a file holds, of whatever type."""
        if max_bytes is not None and len(content) > max_bytes:
            raise cls.error(f"{name} has {len(content)} bytes, at most {max_bytes} are read", hint=cls.hint)
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as err:
            raise cls.error(f"{name} is not JSON: {err}", hint=cls.hint) from None

    def fail(self, key: str, reason: str, hint: str | None = None) -> NoReturn:
        """Raise, naming the field and the file."""
        raise self.error(f"{self.name}: field {self.path}{key} {reason}", hint=hint or self.hint)

    def only(self, names: Collection[str]) -> None:
        """Refuse an object that lacks one of these fields or has another one."""
        if absent := sorted(set(names) - self.raw.keys()):
            self.fail(absent[0], "is missing")
        if unknown := sorted(self.raw.keys() - set(names)):
            self.fail(shown(unknown[0]), "is not known to this version")

    def value(self, key: str, kind: type | tuple[type, ...], what: str) -> Any:
        """A value of this type (booleans are no numbers)."""
        if key not in self.raw:
            self.fail(key, "is missing")
        value = self.raw[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            self.fail(key, f"is {shown(value)}, not {what}")
        return value

    def text(self, key: str) -> str:
        """A text that is not empty."""
        value: str = self.value(key, str, "a text")
        return value if value else self.fail(key, "is empty")

    def integer(self, key: str) -> int:
        """A whole number."""
        return cast(int, self.value(key, int, "an integer"))

    def whole(self, key: str, low: int, high: int) -> int:
        """A whole number within bounds."""
        value = self.raw.get(key)
        if type(value) is not int or not low <= value <= high:
            self.fail(key, f"is {shown(value)}, not a whole number from {low} to {high}")
        return value

    def number(self, key: str) -> float:
        """A number as float."""
        return float(self.value(key, (int, float), "a number"))

    def mapping(self, key: str) -> dict[str, Any]:
        """An object."""
        return cast(dict[str, Any], self.value(key, dict, "an object"))

    def sequence(self, key: str) -> list[Any]:
        """A list."""
        return cast(list[Any], self.value(key, list, "a list"))

    def objects(self, key: str) -> list[Self]:
        """Access to the objects of a list."""
        return [self.inner(f"{key}[{i}]", raw) for i, raw in enumerate(self.sequence(key))]

    def optional(self, key: str, read: Any) -> Any:
        """What `read` makes of the field; None if it is null."""
        if key not in self.raw:
            self.fail(key, "is missing")
        return None if self.raw[key] is None else read(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of at least one text."""
        values = self.sequence(key)
        if not values or not all(isinstance(value, str) for value in values):
            self.fail(key, "is not a list of at least one text")
        return tuple(values)

    def different(self, key: str) -> tuple[str, ...]:
        """A list of texts that are not empty and all different."""
        values = self.value(key, (list, tuple), "a list")
        if not all(isinstance(value, str) and value for value in values) or len(set(values)) != len(values):
            self.fail(key, "is not a list of different texts")
        return tuple(values)

    def converted(self, key: str, what: str, convert: Any) -> tuple[str, Any]:
        """A text and what `convert` makes of it."""
        text = self.text(key)
        try:
            return text, convert(text)
        except (ValueError, OSError, LookupError):
            self.fail(key, f"is {text!r}, not {what}")

    def dates(self, key: str) -> tuple[date, ...]:
        """A list of ISO dates."""
        try:
            return tuple(date.fromisoformat(text) for text in self.sequence(key))
        except (ValueError, TypeError) as err:
            self.fail(key, f"holds something that is not an ISO date: {err}")

    def bounds(self, key: str) -> tuple[float, float]:
        """Two numbers, the first one smaller."""
        values = self.sequence(key)
        if len(values) != 2 or not all(type(v) in (int, float) for v in values) or not values[0] < values[1]:
            self.fail(key, f"is {shown(values)}, not [low, high]")
        return float(values[0]), float(values[1])

    def metric(self, key: str, value: object) -> float | None:
        """A number or null, already taken out."""
        if value is not None and type(value) not in (int, float):
            self.fail(f"metrics.{key}", f"is {shown(value)}, not a number or null")
        return None if value is None else float(cast(float, value))

    def inner(self, key: str, raw: object) -> Self:
        """Access to an object inside this one."""
        return type(self)(raw, self.name, f"{self.path}{key}.")


def shown(value: object) -> str:
    """The beginning of a value, for an error."""
    return repr(value)[:80]
