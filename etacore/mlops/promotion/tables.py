"""A registry on the console: its models, one model, what is wrong, what was promoted or archived."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any, Final, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from etacore.errors import EtacoreError, ModelLoadError
from etacore.mlops.fitted_table import Column, FittedTable
from etacore.mlops.promotion.evidence import Evidence
from etacore.mlops.promotion.health import HealthReport
from etacore.mlops.promotion.promote import Promotion
from etacore.mlops.promotion.retention import Archived
from etacore.models.manifest import Manifest, finite_or_none
from etacore.models.registry import Entry, Registry
from etacore.models.short_ids import known_keys, resolve_key, short_ids, shorten

PLAIN_WIDTH: Final = 200
_COLOURS: Final = {"error": "red", "warning": "yellow", "note": "cyan", "active": "green", "refused": "red"}
_SHOWN_ITEMS: Final = 3


def open_console(file: TextIO | None = None) -> Console:
    """The terminal; into a pipe lines are long, so that no key is broken."""
    console = Console(file=file or sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=console.file, highlight=False, width=PLAIN_WIDTH)


def model_rows(registry: Registry, active: Collection[str]) -> list[dict[str, Any]]:
    """One record a model: of the index, of an older system, and of the archive.

    Returns
    -------
    list of dict
        ``id, key, model_type, route_id, dataset, saved_at, test_mae_seconds, state, why``; the state is ``active``,
        ``servable``, ``shipped`` (servable, and not of this folder), ``refused`` (``why`` says the reason), ``legacy``
        or ``archived``. What is not known is None.
    """
    rows = []
    shipped = registry.shipped_keys()
    for entry in registry.entries():
        try:
            registry.manifest(entry.key)
            why = None if entry.servable else "needs weather, which serving does not have"
        except EtacoreError as err:
            why = err.message
        state = "refused" if why else "active" if entry.key in active else "servable"
        if state == "servable" and entry.key in shipped:
            state = "shipped"
        rows.append(_row(entry, state, why))
    rows += [_bare(key, "refused", why) for key, why in registry.refused().items()]
    rows += [_bare(key, "legacy", "a pickle of an older system, never opened") for key in registry.legacy()]
    archived = {entry.key: entry for entry in registry.archive_registry.entries()}
    for key in registry.archived():
        rows.append(_row(archived[key], "archived", None) if key in archived else _bare(key, "archived", None))
    ids = short_ids(row["key"] for row in rows)
    return [{"id": ids[row["key"]], **row} for row in rows]


def _row(entry: Entry, state: str, why: str | None) -> dict[str, Any]:
    return {
        "key": entry.key,
        "model_type": entry.model_type,
        "route_id": entry.route_id,
        "dataset": entry.dataset,
        "saved_at": entry.saved_at.isoformat(),
        "test_mae_seconds": finite_or_none(entry.metrics.get("test_mae_seconds")),
        "state": state,
        "why": why,
    }


def _bare(key: str, state: str, why: str | None) -> dict[str, Any]:
    names = ("model_type", "route_id", "dataset", "saved_at", "test_mae_seconds")
    return {"key": key, **dict.fromkeys(names), "state": state, "why": why}


def model_table(rows: Collection[Mapping[str, Any]], *, full_keys: bool = False) -> FittedTable:
    """The records of `model_rows` as a table."""
    columns = (
        Column("id"),
        Column("model", "prose", 9) if full_keys else Column("model", "key", 1),
        Column("type", "word", 7),
        Column("route", "word", 5),
        Column("dataset", "word", 3),
        Column("saved", "word", 4),
        Column("test MAE", "number", 6),
        Column("state", "word", 8),
    )
    shown = []
    for row in rows:
        mae_s = row["test_mae_seconds"]
        route = "all" if row["route_id"] is None else row["route_id"]
        shown.append(
            (
                row["id"],
                row["key"] if full_keys else shorten(row["key"]),
                row["model_type"] or "",
                route if row["model_type"] else "",
                row["dataset"] or "",
                (row["saved_at"] or "")[:16].replace("T", " "),
                "" if mae_s is None else f"{mae_s:.1f} s",
                _coloured(row["state"]),
            )
        )
    return FittedTable(columns, shown)


def findings_table(report: HealthReport) -> FittedTable:
    """What is wrong, errors first."""
    columns = (
        Column("severity"),
        Column("kind", "word", 1),
        Column("model", "key", 7),
        Column("what", "prose", 9),
        Column("what to do", "prose", 8),
    )
    rows = [(_coloured(one.severity), one.kind, shorten(one.key, 40), one.text, one.advice) for one in report.findings]
    return FittedTable(columns, rows)


def archive_table(archived: Archived) -> FittedTable:
    """What was archived, and what was kept and why."""
    done = "would be archived" if archived.dry_run else "archived"
    rows = [(key, done, "") for key in archived.keys]
    rows += [(key, "kept", why) for key, why in archived.kept.items()]
    return FittedTable((Column("model", "prose", 9), Column("outcome", "word", 8), Column("why", "prose", 2)), rows)


def promotion_table(promotion: Promotion) -> Table:
    """Before, after, and what spoke for it."""
    record = promotion.record
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("before", escape(record.previous or "nothing was promoted"))
    table.add_row("after", escape(record.model_key), style="bold")
    if promotion.was_active:
        table.add_row("note", "it was active already, and has been announced again")
    if promotion.evidence is not None:
        for name, text in _evidence_rows(promotion.evidence):
            table.add_row(name, escape(text))
    if record.forced_reason:
        table.add_row("forced", escape(record.forced_reason))
    for key, why in promotion.skipped.items():
        table.add_row("passed over", escape(f"{key}: {why}"))
    if promotion.warm_s is not None:
        table.add_row("warmed", f"{promotion.warm_s * 1e3:.0f} ms for a batch")
    return table


def _evidence_rows(evidence: Evidence) -> list[tuple[str, str]]:
    interval = f" [{evidence.interval[0]:+.4g}, {evidence.interval[1]:+.4g}]" if evidence.interval else ""
    unit = "" if evidence.unit == "1" else f" {evidence.unit}"
    return [
        (
            evidence.metric,
            f"{evidence.value:.4g}{unit}, against {evidence.against_value:.4g}{unit} of {evidence.against}",
        ),
        ("difference", f"{evidence.difference:+.4g}{unit}{interval}, {evidence.improvement:.1%} better"),
        ("evaluation", f"{evidence.file}, dataset {evidence.dataset}"),
    ]


def find_manifest(registry: Registry, key: str) -> tuple[Manifest, bool]:
    """The manifest of the model that a key or short id means, and whether it is archived.

    Raises
    ------
    ModelNotFoundError, ModelLoadError, RegistryError, SchemaError
        If there is none, or it cannot be read.
    """
    key = resolve_key(registry, key, among=known_keys(registry))
    if key in registry.archived():
        return registry.archive_registry.manifest(key), True
    if key in registry.legacy():
        raise ModelLoadError(f"model {key} is a pickle of an older system; pickles run code and are never opened")
    return registry.manifest(key), False


def manifest_table(manifest: Manifest, state: str, short_id: str) -> Table:
    """The essence of a manifest."""
    table = Table(show_header=False, box=None, pad_edge=False)
    calendar = f"{manifest.time_zone}, holidays of {manifest.holiday_region or 'nowhere'}"
    nan = "missing" if manifest.nan_at_serving is None else f"{manifest.nan_at_serving:g}"
    rows = [
        ("model", manifest.model_key),
        ("id", short_id),
        ("state", state),
        ("type", f"{manifest.model_type} ({manifest.predictor})"),
        ("route", "all" if manifest.route_id is None else manifest.route_id),
        ("dataset", manifest.dataset),
        ("saved", manifest.saved_at),
        ("calendar", calendar),
        ("features", ", ".join(manifest.features)),
        ("serving", f"distance {manifest.distance}, NaN is {nan}, clipped to {manifest.clip_seconds} s"),
    ]
    if manifest.routes:
        rows.append(("routes", _some(manifest.routes)))
    counts = {name: getattr(manifest, name) for name in ("n_samples", "n_trips", "train_samples", "test_samples")}
    rows += [(name, str(count)) for name, count in counts.items() if count is not None]
    rows += [(f"  {k}", "" if v is None else f"{v:.4g}") for k, v in manifest.metrics.items()]
    rows += [(f"  {k}", str(v)) for k, v in manifest.hyperparameters.items()]
    for name, value in manifest.provenance.items():
        pieces = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"  {name}{f'.{k}' if k else ''}", _some(v) if isinstance(v, list) else str(v)) for k, v in pieces]
    if manifest.parity is not None:
        parity = manifest.parity
        text = f"{parity.rows} rows, largest difference {parity.max_abs_error:.3g} s, allowed {parity.bound:.3g} s"
        rows.append(("parity", text))
    rows += [("file", f"{name}  {sha256}") for name, sha256 in manifest.files().items()]
    for name, text in rows:
        table.add_row(name, escape(text))
    return table


def _some(values: Collection[object]) -> str:
    shown = list(map(str, values))
    if len(shown) <= 2 * _SHOWN_ITEMS:
        return ", ".join(shown)
    return f"{', '.join(shown[:_SHOWN_ITEMS])} … {shown[-1]} ({len(shown)})"


def _coloured(word: str) -> Text:
    return Text(word, style=_COLOURS.get(word, ""))
