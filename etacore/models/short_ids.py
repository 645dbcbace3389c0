"""Short names of models for people: six characters in front of every table instead of a key as long as a line.

A key begins with its family and dataset, so its first characters tell few models apart. The short id is the beginning
of the key's SHA-256 in hexadecimal digits: it stays the same wherever the model goes, and needs no file to be read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from hashlib import sha256
from typing import Final

from etacore.errors import ModelNotFoundError
from etacore.models.registry import Registry

MIN_ID_LENGTH: Final = 6
MIN_GIVEN: Final = 4
"""Fewer characters name nothing: a slip of the finger must not choose a model."""
KEY_WIDTH: Final = 56
_SHOWN: Final = 5


def short_ids(keys: Iterable[str]) -> dict[str, str]:
    """The short id of each key: six characters, and as many more as it takes to tell these keys apart."""
    digests = {key: _digest(key) for key in keys}
    ids: dict[str, str] = {}
    for key, digest in digests.items():
        length = MIN_ID_LENGTH
        others = [other for name, other in digests.items() if name != key]
        while any(other.startswith(digest[:length]) for other in others):
            length += 1
        ids[key] = digest[:length]
    return ids


def known_keys(registry: Registry) -> list[str]:
    """Every key that a registry lists, whatever its state: servable, refused, of an older system, archived."""
    return sorted({*registry.keys(), *registry.refused(), *registry.legacy(), *registry.archived()})


def resolve_key(
    registry: Registry,
    given: str,
    *,
    among: Collection[str] | None = None,
    advice: str = "etacore registry list shows those there are",
) -> str:
    """Find the model that somebody means by a key, its first characters, or a short id or its first characters.

    Parameters
    ----------
    registry : Registry
        Where to look.
    given : str
        A whole key always means that model; anything shorter needs at least four characters.
    among : collection of str, optional
        Keys that come into question; default those that can be loaded. If it is none of them but another one that
        the registry knows, that one is returned: whoever asked can say best why it will not do.
    advice : str
        What to do about a model that is not there.

    Raises
    ------
    ModelNotFoundError
        If no model is meant, or more than one; the message lists the candidates.
    """
    found = _matching(given, registry.keys() if among is None else among) or _matching(given, known_keys(registry))
    if len(found) == 1:
        return found[0]
    everything = known_keys(registry)
    if found:
        raise ModelNotFoundError(
            f"{given} may be any of {len(found)} models: {_listed(found, everything)}",
            hint="give more characters, or the id in front of the key",
        )
    nearest = _nearest(registry, given, everything)
    raise ModelNotFoundError(f"Model {given} not found in registry", hint=f"{advice}; {nearest}")


def shorten(text: str, width: int = KEY_WIDTH) -> str:
    """`text` without its middle if it is longer than `width`: a key begins with the type and ends with settings."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def _matching(given: str, keys: Collection[str]) -> list[str]:
    if given in keys:
        return [given]
    if len(given) < MIN_GIVEN:
        return []
    digits = given.lower()
    return sorted(key for key in keys if key.startswith(given) or _digest(key).startswith(digits))


def _nearest(registry: Registry, given: str, everything: Collection[str]) -> str:
    if not everything:
        return f"{registry.path} holds none"
    by_id = {_digest(key)[:MIN_ID_LENGTH]: key for key in everything}
    close = get_close_matches(given, everything, _SHOWN, 0.5)
    close = close or [by_id[one] for one in get_close_matches(given, by_id, _SHOWN)]
    if close:
        return f"the nearest in {registry.path}: {_listed(close, everything)}"
    return f"{registry.path} holds {_listed(sorted(everything), everything)}"


def _listed(keys: Collection[str], everything: Collection[str]) -> str:
    ids = short_ids(everything)
    shown = [f"{ids[key]} {shorten(key)}" for key in list(keys)[:_SHOWN]]
    n_more = len(keys) - len(shown)
    return "; ".join([*shown, *([f"{n_more} more (etacore registry list)"] if n_more else [])])


def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()
