"""Which models were promoted, when and why: ``<registry>/promotions.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from etacore.errors import RegistryError
from etacore.files import write_whole
from etacore.models.json_reader import Reader
from etacore.models.registry import Registry

HISTORY_FILE: Final = "promotions.json"
ROLLBACK: Final = "rollback"
"""``source`` of a record that took a promotion back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One promotion.

    Attributes
    ----------
    model_key : str
        What was promoted.
    promoted_at : str
        ISO 8601, UTC.
    source : str
        Who did it; `ROLLBACK` for a step back.
    previous : str or None
        What was active before.
    forced_reason : str or None
        Why it went without a comparison.
    evaluation : str or None
        File of the evaluation that spoke for it.
    difference_s : float or None
        Its metric minus that of the active model there, in the metric's unit (seconds for an error).
    """

    model_key: str
    promoted_at: str
    source: str
    previous: str | None = None
    forced_reason: str | None = None
    evaluation: str | None = None
    difference_s: float | None = None


def read_history(registry: Registry) -> list[Record]:
    """All promotions, the oldest first; none if there is no file.

    Raises
    ------
    RegistryError
        If the file cannot be read or is not such a list; names the record and the field.
    """
    return [_record(raw, f"{registry.path / HISTORY_FILE}: record {i}") for i, raw in enumerate(_read(registry))]


def append_record(registry: Registry, record: Record) -> None:
    """Add a promotion at the end.

    Raises
    ------
    RegistryError
        If the history is damaged or cannot be written; it is then as it was.
    """
    with registry.locked():
        records = [*_read(registry), asdict(record)]
        content = orjson.dumps(records, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        write_whole(registry.path / HISTORY_FILE, content)


def last_promoted(registry: Registry) -> str | None:
    """Key that was promoted last; None without a history.

    Raises
    ------
    RegistryError
        As `read_history`.
    """
    history = read_history(registry)
    return history[-1].model_key if history else None


def ways_back(history: Sequence[Record], active: str | None) -> list[str]:
    """Models to return to from the active one, the latest first.

    A step back is not a promotion that the next step back would undo: it takes off what came after its model.

    Parameters
    ----------
    history : sequence of Record
        The oldest first.
    active : str or None
        What is served now, which a promotion that was cut short may not have written down.
    """
    stack: list[str] = []

    def step(key: str, *, back: bool) -> None:
        if back and key in stack:
            del stack[len(stack) - stack[::-1].index(key) :]
        elif not stack or stack[-1] != key:
            stack.append(key)

    for record in history:
        if record.previous is not None:
            step(record.previous, back=False)
        step(record.model_key, back=record.source == ROLLBACK)
    if active is not None:
        step(active, back=True)
    return [key for key in dict.fromkeys(stack[-2::-1]) if key != active]


def _read(registry: Registry) -> list[Any]:
    path = registry.path / HISTORY_FILE
    try:
        raw = _Reader.decode(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise RegistryError(f"{path} cannot be read: {err.strerror or err}") from err
    if not isinstance(raw, list):
        raise RegistryError(f"{path} is not a JSON list of promotions", hint=_Reader.hint)
    return raw


def _record(raw: object, name: str) -> Record:
    read = _Reader(raw, name)
    return Record(
        model_key=read.text("model_key"),
        promoted_at=read.text("promoted_at"),
        source=read.text("source"),
        previous=read.given("previous", read.text),
        forced_reason=read.given("forced_reason", read.text),
        evaluation=read.given("evaluation", read.text),
        difference_s=read.given("difference_s", read.number),
    )


class _Reader(Reader):
    hint = "restore it from a backup, or move it away"

    def given(self, key: str, read: Any) -> Any:
        return self.optional(key, read) if key in self.raw else None
