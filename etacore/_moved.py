"""Old names of what has moved: they work in this version and say where to look from the next one on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def forwarded(old: str, new: str | None = None, moved: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module whose names are found elsewhere now.

    Nothing is loaded before a name is asked for. The warning points at the line that asks.

    Parameters
    ----------
    old : str
        Name of the module.
    new : str, optional
        Module that has all names but those of `moved`. Without one, only those of `moved` are forwarded.
    moved : mapping, optional
        Names that went somewhere else, with the module where each is now.
    """
    elsewhere = moved or {}

    def find(name: str) -> Any:
        module = elsewhere.get(name, new)
        # Python itself asks every module for names such as __path__.
        if module is None or name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        value = getattr(import_module(module), name)
        warnings.warn(
            f"{old}.{name} is {module}.{name} now; the old name goes with the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return value

    return find
