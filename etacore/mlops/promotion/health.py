"""What is wrong with a registry, model by model, and what to do about it. Nothing of an older system is opened."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from etacore.errors import RegistryError
from etacore.files import leftovers
from etacore.finding import Finding
from etacore.mlops.promotion.bundle_check import examine_bundle
from etacore.mlops.promotion.history import HISTORY_FILE, read_history
from etacore.mlops.promotion.retention import MAX_AGE_DAYS, Archived, archive, stale_keys
from etacore.models.manifest import MANIFEST_FILE, RESERVED
from etacore.models.registry import Registry
from etacore.models.registry_index import INDEX_FILE

__all__ = ["MAX_AGE_DAYS", "Archived", "HealthReport", "archive", "check_registry"]

_ORDER: Final = {"error": 0, "warning": 1, "note": 2}
_PICKLES: Final = (".pkl", ".pickle", ".joblib")


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What a look at a registry found.

    Attributes
    ----------
    path : str
        The registry's folder.
    checked_at : datetime
    n_models, n_archived : int
        Models of the index that were examined, and models in the archive.
    findings : tuple of Finding
        Errors first. Kinds are those of `examine_bundle`, and ``unregistered``, ``stale``, ``legacy``, ``leftover``
        and ``active_missing``.
    """

    path: str
    checked_at: datetime
    n_models: int
    n_archived: int
    findings: tuple[Finding, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is broken; there may be warnings and notes."""
        return not self.of("error")

    def of(self, severity: str) -> tuple[Finding, ...]:
        """Findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def of_kind(self, kind: str) -> tuple[Finding, ...]:
        """Findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def line(self) -> str:
        """One line for a log."""
        counts = ", ".join(f"{len(self.of(severity))} {severity}s" for severity in _ORDER)
        return f"{self.path}: {self.n_models} models, {self.n_archived} archived; {counts}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "path": self.path,
            "checked_at": self.checked_at.isoformat(),
            "healthy": self.is_healthy,
            "n_models": self.n_models,
            "n_archived": self.n_archived,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def to_markdown(self) -> str:
        """A heading, the line of counts, and a table of the findings."""
        lines = ["# Model registry", "", self.line(), ""]
        if self.findings:
            lines += ["| severity | kind | model | what | what to do |", "|---|---|---|---|---|"]
            for one in self.findings:
                cells = (one.severity, one.kind, one.key, one.text, one.advice)
                lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        else:
            lines.append("Nothing is wrong.")
        return "\n".join(lines) + "\n"


def check_registry(
    registry: Registry,
    *,
    max_age_days: float = MAX_AGE_DAYS,
    check_stale: bool = True,
    active: Collection[str] = (),
    now: datetime | None = None,
) -> HealthReport:
    """Examine every model of a registry and everything else that lies in its folder. Changes nothing.

    Parameters
    ----------
    registry : Registry
        A folder that does not exist is reported as such.
    max_age_days : float
        Older models are stale.
    check_stale : bool
        False leaves the age out.
    active : collection of str
        Keys that Redis announces or settings name; one that is not in the registry is an error.
    now : datetime, optional
        Aware.

    Raises
    ------
    RegistryError
        If `max_age_days` is negative.
    """
    if not max_age_days >= 0:
        raise RegistryError(f"max_age_days is {max_age_days}, but must be 0 or more")
    now = now or datetime.now(UTC)
    findings: list[Finding] = []
    keys: list[str] = []
    n_archived = 0
    try:
        keys = registry.keys()
        n_archived = len(registry.archived())
        findings += _entries(registry)
        for key in keys:
            findings += examine_bundle(registry, key).findings
        findings += _strangers(registry)
        findings += _active(registry, active)
        if check_stale:
            findings += _stale(registry, max_age_days, now)
        findings += _leftovers(registry.path)
    except RegistryError as err:
        findings.append(Finding("corrupt", INDEX_FILE, "error", err.message, err.hint or "restore it from a backup"))
    except OSError as err:
        text = f"{err.filename or registry.path} cannot be read: {err.strerror or err}"
        findings.append(Finding("corrupt", INDEX_FILE, "error", text, "look for who may read there"))
    if not registry.path.is_dir() and not keys:
        findings.append(Finding("missing", str(registry.path), "error", "there is no registry", _WHERE))
    findings.sort(key=lambda finding: (_ORDER[finding.severity], finding.kind, finding.key))
    return HealthReport(str(registry.path), now, len(keys), n_archived, tuple(findings))


_WHERE: Final = "set MODEL_REGISTRY_DIR, or save a first model there"
_PICKLE_ADVICE: Final = "save its booster as XGBoost JSON where it was trained, then: etacore compile MODEL"


def _entries(registry: Registry) -> Iterator[Finding]:
    for key, reason in registry.refused().items():
        yield Finding("corrupt", key, "error", reason, "restore the index, update etacore, or archive the entry")
    raw = registry.raw_entries()
    for key in registry.legacy():
        has_path = any(isinstance(value, str) and Path(value).is_absolute() for value in _values(raw.get(key)))
        text = "a pickle of an older system; it is never opened"
        yield Finding("legacy", key, "note", text + (", and its entry has an absolute path" * has_path), _PICKLE_ADVICE)


def _values(entry: object) -> Collection[object]:
    return entry.values() if isinstance(entry, dict) else ()


def _strangers(registry: Registry) -> Iterator[Finding]:
    known = registry.raw_entries().keys()
    archived = set(registry.archived())
    for path in sorted(registry.path.iterdir()) if registry.path.is_dir() else ():
        name = path.name
        if not path.is_dir() or name.startswith(".") or name in known or name in RESERVED:
            continue
        if name in archived:
            text, advice = "left over from archiving", "delete the folder; the archive holds the model"
            yield Finding("unregistered", name, "warning", text, advice)
        elif (path / MANIFEST_FILE).is_file():
            text = "a bundle that is not in the index"
            advice = "move it elsewhere and bring it in with Registry.import_bundle, or delete it"
            yield Finding("unregistered", name, "warning", text, advice)
        elif any(child.suffix in _PICKLES for child in path.iterdir()):
            yield Finding("legacy", name, "note", "a folder of pickles; they are never opened", _PICKLE_ADVICE)
        else:
            yield Finding("unregistered", name, "warning", "a folder that is no bundle", "delete it, or move it away")


def _active(registry: Registry, active: Collection[str]) -> Iterator[Finding]:
    wanted = dict.fromkeys(active, "is announced or configured")
    try:
        history = read_history(registry)
    except RegistryError as err:
        yield Finding("corrupt", HISTORY_FILE, "error", err.message, err.hint or "")
    else:
        if history:
            wanted.setdefault(history[-1].model_key, "was promoted last")
    for key, why in wanted.items():
        if key not in registry.keys():  # noqa: SIM118
            archived = key in registry.archived()
            advice = f"etacore registry restore {key}" if archived else "promote another model, or restore a backup"
            where = "is archived" if archived else "is not in the registry"
            yield Finding("active_missing", key, "error", f"{why}, and {where}", advice)


def _stale(registry: Registry, max_age_days: float, now: datetime) -> Iterator[Finding]:
    shipped = registry.shipped_keys()
    entries = {entry.key: entry for entry in registry.entries() if entry.key not in shipped}
    for key in stale_keys(entries.values(), max_age_days, now):
        days = (now - entries[key].saved_at).days
        text = f"saved {days} days ago, more than {max_age_days:g}"
        yield Finding("stale", key, "warning", text, "train anew; then: etacore registry archive --stale")


def _leftovers(path: Path) -> Iterator[Finding]:
    for folder in (path, path / "archive"):
        for one in leftovers(folder):
            text = "a writer left it that died, or is at work"
            yield Finding("leftover", one.name, "warning", text, "the next writer clears it away")
