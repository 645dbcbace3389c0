"""Models out of service: which may go into the archive, and which have to stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from etacore.errors import ModelNotFoundError, RegistryError
from etacore.mlops.promotion.bundle_check import examine_bundle
from etacore.mlops.promotion.history import last_promoted
from etacore.models.registry import Registry
from etacore.models.registry_index import Entry

MAX_AGE_DAYS: Final = 90.0
SERVED_TYPE: Final = "xgboost"
"""The family that a loop chooses from by itself, when nothing is announced."""


@dataclass(frozen=True, slots=True)
class Archived:
    """What was archived, or would be.

    Attributes
    ----------
    keys : tuple of str
        Moved to the archive.
    kept : dict of str to str
        Asked for and kept, with the reason.
    dry_run : bool
        Nothing was moved.
    """

    keys: tuple[str, ...]
    kept: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False


def archive(
    registry: Registry,
    keys: Iterable[str] = (),
    *,
    stale: bool = False,
    max_age_days: float = MAX_AGE_DAYS,
    in_use: Collection[str] = (),
    dry_run: bool = False,
    now: datetime | None = None,
) -> Archived:
    """Move models to the archive, except those that are needed.

    Kept are the active ones (`in_use`, and the last of the promotion history; with neither, what a loop would choose
    by itself), and of each route, and of the models for all routes, the last good one of its family. Good is what
    verifies and loads on this machine.

    Parameters
    ----------
    registry : Registry
        Its lock is held throughout.
    keys : iterable of str
        Models to archive, whatever their age.
    stale : bool
        Also all that are older than `max_age_days`.
    max_age_days : float
        Days since a model was saved.
    in_use : collection of str
        Models known to be served: what Redis announces, what settings name.
    dry_run : bool
        Move nothing.
    now : datetime, optional
        Aware.

    Raises
    ------
    RegistryError
        If `max_age_days` is negative, or the registry is damaged or cannot be written.
    ModelNotFoundError
        If a key is not in the index.
    """
    if not max_age_days >= 0:
        raise RegistryError(f"max_age_days is {max_age_days}, but must be 0 or more")
    if not registry.path.is_dir():
        raise RegistryError(f"there is no registry at {registry.path}", hint="set MODEL_REGISTRY_DIR")
    with registry.locked():
        shipped = registry.shipped_keys()
        entries = {entry.key: entry for entry in registry.entries() if entry.key not in shipped}
        wanted = list(dict.fromkeys(keys))
        for key in wanted:
            if key not in entries and key not in registry.refused():
                what = "is not in"
                if key in registry.legacy():
                    what = "is a pickle of an older system and stays as it is in"
                elif key in shipped:
                    what = "ships with etacore, stays where it is, and is not in"
                raise ModelNotFoundError(f"model {key} {what} {registry.path}", hint="see etacore registry list")
        if stale:
            moment = now or datetime.now(UTC)
            wanted += [key for key in stale_keys(entries.values(), max_age_days, moment) if key not in wanted]
        kept = {key: reason for key, reason in _active(registry, in_use).items() if key in wanted}
        going = [key for key in wanted if key not in kept]
        kept |= _last_good(registry, entries, going)
        going = [key for key in going if key not in kept]
        if going and not dry_run:
            registry.archive(going)
    return Archived(tuple(going), kept, dry_run)


def stale_keys(entries: Iterable[Entry], max_age_days: float, now: datetime) -> list[str]:
    """Keys of the models that were saved more than `max_age_days` ago, the oldest first."""
    old = [entry for entry in entries if (now - entry.saved_at).total_seconds() > max_age_days * 86_400]
    return [entry.key for entry in sorted(old, key=lambda entry: (entry.saved_at, entry.key))]


def _active(registry: Registry, in_use: Collection[str]) -> dict[str, str]:
    active = dict.fromkeys(in_use, "it is in use")
    if (promoted := last_promoted(registry)) is not None:
        active.setdefault(promoted, "it was promoted last")
    if not active:
        routes = {entry.route_id for entry in registry.entries()}
        chosen = {registry.choose(SERVED_TYPE, route) for route in routes} - {None}
        active = dict.fromkeys(
            (key for key in chosen if key is not None), "nothing is promoted, and a loop would choose it by itself"
        )
    return active


def _last_good(registry: Registry, entries: Mapping[str, Entry], going: Collection[str]) -> dict[str, str]:
    groups: dict[tuple[str | None, str], list[Entry]] = {}
    for entry in entries.values():
        groups.setdefault((entry.route_id, entry.model_type), []).append(entry)
    kept = {}
    for (route_id, model_type), group in groups.items():
        leaving = [entry for entry in group if entry.key in going]
        if not leaving or any(_is_good(registry, entry) for entry in group if entry.key not in going):
            continue
        newest_first = sorted(leaving, key=lambda entry: (entry.saved_at, entry.key), reverse=True)
        for entry in newest_first:
            if _is_good(registry, entry):
                scope = "for all routes" if route_id is None else f"of route {route_id}"
                kept[entry.key] = f"it is the last good {model_type} model {scope}"
                break
    return kept


def _is_good(registry: Registry, entry: Entry) -> bool:
    return entry.servable and examine_bundle(registry, entry.key).model is not None
