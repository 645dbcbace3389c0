"""Something that was looked at, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What somebody should know of a machine or a registry.

    Attributes
    ----------
    kind : str
        What was looked at (``redis``, ``models``), or what is the matter (``missing``, ``stale``).
    key : str
        Of which model, file or folder; empty where there is one of the kind only.
    severity : str
        ``error``: something is broken; ``warning``: look at it; ``note``: good to know; ``ok``: as it should be.
    text : str
        What was found.
    advice : str
        What to do about it.
    """

    kind: str
    key: str
    severity: Severity
    text: str
    advice: str = ""
