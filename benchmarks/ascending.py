"""What it costs that ETAs never fall along the stops: the same predictions before and after `order_arrivals`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore._kernels.batch import Batch
from etacore.accuracy import bands_score, mae_s, mbta_accuracy, within
from etacore.mlops.dataset.layout import Dataset
from etacore.mlops.evaluation.results import Entrant, HeldOut
from etacore.pipeline.encoding import order_arrivals

COLUMNS: Final = ("predictor", "documents %", "largest fall s", "MAE s", "≤60 s %", "ETA bands %", "MBTA bands %")
_FIX: Final = ("vehicle_id", "trip_id", "vp_ts")

_Seconds = npt.NDArray[np.float32]
_Offsets = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Error figures of some predictions: seconds and shares."""

    mae_s: float
    within_60s: float
    eta_bands: float
    mbta_bands: float


@dataclass(frozen=True, slots=True)
class Falls:
    """Where the times of a document fall along its stops.

    Attributes
    ----------
    share : float
        Of the documents, those in which a later stop has an earlier time.
    largest_s : float
        By how much a stop is at most before any stop that it comes after.
    """

    share: float
    largest_s: float


@dataclass(frozen=True, slots=True)
class Ordered:
    """What the order of arrivals changed for one predictor."""

    title: str
    falls: Falls
    before: Accuracy
    after: Accuracy


@dataclass(frozen=True, slots=True, eq=False)
class DocumentRows:
    """Test rows as documents have them: the stops of one fix, one after another.

    Attributes
    ----------
    order : ndarray of int64, shape (n_rows,)
        Puts the test rows in this order.
    row_offset : ndarray of int32, shape (n_documents + 1,)
        Document i owns the ordered rows ``row_offset[i]:row_offset[i + 1]``.
    actual_s : ndarray of float64, shape (n_rows,)
        Seconds to the arrival, in this order.
    """

    order: npt.NDArray[np.int64]
    row_offset: _Offsets
    actual_s: npt.NDArray[np.float64]


def document_rows(dataset: Dataset, held_out: HeldOut) -> DocumentRows:
    """The documents of the test rows: one for each fix of a vehicle on a trip, its stops as the trip has them."""
    rows = (
        dataset.frame.select(*_FIX, "stop_ordinal")
        .filter(pl.Series(held_out.rows))
        .with_row_index("row")
        .sort(*_FIX, "stop_ordinal")
    )
    order = rows["row"].to_numpy().astype(np.int64)
    first_rows = np.flatnonzero(rows.select(pl.struct(_FIX).rle_id()).to_series().diff().fill_null(1).to_numpy())
    return DocumentRows(order, np.append(first_rows, len(order)).astype(np.int32), held_out.actual_s[order])


def ascending(eta_s: _Seconds, row_offset: _Offsets) -> _Seconds:
    """ETAs of documents as the loop writes them."""
    n = len(row_offset) - 1
    part = Batch(n).add_part(None)
    part.resize(n, len(eta_s), 1)
    part.row_offset[:] = row_offset
    part.eta_s[:] = eta_s
    order_arrivals(part)
    return part.eta_s.copy()


def falls_of(seconds: npt.NDArray[np.floating], row_offset: _Offsets) -> Falls:
    """How often and how far times fall along the stops of documents."""
    document = np.repeat(np.arange(len(row_offset) - 1), np.diff(row_offset))
    fall_s = pl.col("seconds").cum_max().over("document") - pl.col("seconds")
    per_document = (
        pl.DataFrame({"document": document, "seconds": seconds.astype(np.float64)})
        .with_columns(fall_s=fall_s)
        .group_by("document")
        .agg(pl.col("fall_s").max())["fall_s"]
        .to_numpy()
    )
    return Falls(float((per_document > 0).mean()), float(per_document.max()))


def order_all(entrants: Iterable[Entrant], titles: dict[str, str], documents: DocumentRows) -> list[Ordered]:
    """Each predictor before and after, the worst first.

    Raises
    ------
    RuntimeError
        If the ETAs of a document fall even after they were put in order.
    """
    found = []
    for entrant in entrants:
        before = entrant.predicted_s[documents.order]
        after = ascending(before, documents.row_offset)
        title = titles[entrant.identity.name]
        if left := falls_of(after, documents.row_offset).share:
            raise RuntimeError(f"{title}: ETAs still fall in {left:.2%} of the documents")
        falls = falls_of(before, documents.row_offset)
        found.append(Ordered(title, falls, *(_accuracy(eta_s, documents) for eta_s in (before, after))))
    return sorted(found, key=lambda ordered: -ordered.before.mae_s)


def _accuracy(eta_s: _Seconds, documents: DocumentRows) -> Accuracy:
    predicted_s, actual_s = eta_s.astype(np.float64), documents.actual_s
    return Accuracy(
        mae_s(predicted_s, actual_s),
        within(predicted_s, actual_s, 60),
        bands_score(predicted_s, actual_s),
        mbta_accuracy(predicted_s, actual_s).overall,
    )


def markdown(found: Iterable[Ordered], documents: DocumentRows) -> str:
    """The table, and how the arrivals themselves are."""
    truth = falls_of(documents.actual_s, documents.row_offset)
    n = len(documents.row_offset) - 1
    lines = [
        f"{n:,} documents with {len(documents.order):,} predictions: the share of those in which an ETA falls along "
        "the stops, by how much at most, and the accuracy before → after the ETAs are put in order. The arrivals "
        f"themselves fall in {100 * truth.share:.2f} % of the documents, by {truth.largest_s:.1f} s at most.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---|{'---:|' * (len(COLUMNS) - 1)}",
    ]
    for ordered in found:
        before, after = ordered.before, ordered.after
        row = (
            ordered.title,
            f"{100 * ordered.falls.share:.2f}",
            f"{ordered.falls.largest_s:.1f}",
            f"{before.mae_s:.2f} → {after.mae_s:.2f}",
            f"{100 * before.within_60s:.2f} → {100 * after.within_60s:.2f}",
            f"{100 * before.eta_bands:.2f} → {100 * after.eta_bands:.2f}",
            f"{100 * before.mbta_bands:.2f} → {100 * after.mbta_bands:.2f}",
        )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"
