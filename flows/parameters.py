"""Parameters of the flows about datasets and models, turned into what the library takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from etacore.errors import ConfigError
from etacore.extras import absent_packages, install_hint

Names = list[str | int] | str | int | None
"""A list, or its items with commas between them; None is the default.

``--param route_ids=9`` arrives as a number, since Prefect reads the value as JSON: one item is a list of one.
"""


def names(value: Sequence[str | int] | str | int | None) -> tuple[str, ...] | None:
    """A list of names, of a list, of a text with commas, or of one item; None if there are none."""
    parts: Sequence[str | int] = [value] if isinstance(value, int) else value or ()
    texts = parts.split(",") if isinstance(parts, str) else map(str, parts)
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip())) or None


def day(name: str, text: str | None) -> date | None:
    """A date of a parameter.

    Raises
    ------
    ConfigError
        If it is none.
    """
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}", hint="give a date such as 2026-01-31") from None


def existing(name: str, variable: str, value: Names) -> tuple[Path, ...]:
    """Paths of a parameter, else of an environment variable (with the system's path separator between them).

    Raises
    ------
    ConfigError
        If there are none, or one does not exist.
    """
    items = value if isinstance(value, list) else [value] if value or isinstance(value, int) else []
    given = [str(item) for item in items]
    giver = name if given else f"{name} (environment {variable})"
    given = given or [text for text in os.environ.get(variable, "").split(os.pathsep) if text]
    if not given:
        raise ConfigError(f"{name} is not given", hint=f"give it, or set {variable}")
    for text in given:
        if not Path(text).exists():
            raise ConfigError(f"{giver}: {text} does not exist on this machine")
    return tuple(Path(text) for text in given)


def need_extra(extra: str, *modules: str) -> None:
    """Refuse a flow whose libraries are not installed.

    Raises
    ------
    ConfigError
        If one of them is absent.
    """
    if absent := absent_packages(*modules):
        raise ConfigError(
            f"this flow needs {', '.join(absent)}",
            hint=f"{install_hint(f'flows,{extra}')}; or run it where that is installed: eta-training-pool",
        )
