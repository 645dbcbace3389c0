"""Prediction documents of a batch, and the Redis commands that store them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson
from numpy.typing import NDArray

from etacore import _encode

if TYPE_CHECKING:
    from etacore.routes import RouteTable
    from etacore.snapshots import SnapshotColumns


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the documents of one model in one batch have in common. Times are ISO 8601 texts."""

    model_key: str
    model_type: str
    model_scope: str
    computed_at: str
    fetched_at: str
    persisted_at: str
    latency_ms: float
    source: str = "prefect"

    def parts(self) -> tuple[bytes, bytes, bytes, bytes]:
        """The ready-made JSON around a document's stops, Redis key and source timestamp."""
        text = orjson.dumps
        return (
            b',"computed_at":%b,"model_key":%b,"model_type":%b,"model_scope":%b,"predictions":['
            % (text(self.computed_at), text(self.model_key), text(self.model_type), text(self.model_scope)),
            b'],"source":%b,"redis_key":' % text(self.source),
            b',"fetched_at":%b,"persisted_at":%b,"source_timestamp":'
            % (text(self.fetched_at), text(self.persisted_at)),
            b',"prefect_pipeline_latency_ms":%b}' % text(round(float(self.latency_ms), 3)),
        )


class Documents:
    """The documents of one batch, back to back in a buffer that is reused for the next one.

    Attributes
    ----------
    buffer : bytearray
        Grows as needed; only the first ``offsets[n]`` bytes count. It cannot grow while a view of it is held.
    offsets : ndarray of int64, shape (capacity + 1,)
        Document of row i: ``buffer[offsets[i]:offsets[i + 1]]``; empty for a row without one.
    n : int
        Rows of the batch.
    """

    __slots__ = ("buffer", "n", "offsets")

    def __init__(self, capacity: int = 0) -> None:
        self.buffer = bytearray()
        self.offsets: NDArray[np.int64] = np.zeros(capacity + 1, dtype=np.int64)
        self.n = 0

    def resize(self, n: int) -> None:
        """Make room for a batch of `n` rows and forget the last one."""
        if len(self.offsets) <= n:
            self.offsets = np.zeros(n + 1, dtype=np.int64)
        self.offsets[: n + 1] = 0
        self.n = n

    def __len__(self) -> int:
        """How many rows have a document."""
        return len(self.rows())

    def rows(self) -> NDArray[np.int64]:
        """Rows that have a document, ascending."""
        return np.flatnonzero(np.diff(self.offsets[: self.n + 1]))

    def __getitem__(self, row: int) -> bytes:
        """The document of a row, b"" if it has none."""
        if not 0 <= row < self.n:
            raise IndexError(row)
        return bytes(self.buffer[self.offsets[row] : self.offsets[row + 1]])


def encode_documents(
    columns: SnapshotColumns,
    keys: Sequence[bytes],
    table: RouteTable,
    pattern_ix: NDArray[np.int32],
    row_offset: NDArray[np.int32],
    stop_ix: NDArray[np.int32],
    distance_m: NDArray[np.float64],
    eta_s: NDArray[np.float32],
    envelope: Envelope,
    documents: Documents,
) -> None:
    """Write one JSON document for every row that is OK and has stops.

    A stop whose ETA is not a number in [0, 1e9] is written with an ``error`` and null ``eta_*``. A row in which no
    stop has a usable ETA gets no document and the status PREDICTION_FAILED.

    Parameters
    ----------
    columns : SnapshotColumns
        The parsed batch of n rows; ``status`` may be changed.
    keys : sequence of bytes, length n
        Redis keys of the snapshots. Bytes that are not UTF-8 are shown as U+FFFD.
    table : RouteTable
        Where the stops' ids and sequences come from.
    pattern_ix : ndarray of int32, shape (n,)
        Pattern of each row.
    row_offset : ndarray of int32, shape (n + 1,)
        Stops of row i: ``row_offset[i]`` to ``row_offset[i + 1]`` in the next three arrays.
    stop_ix : ndarray of int32, shape (rows,)
        Position of the stop in its pattern.
    distance_m : ndarray of float64, shape (rows,)
        Metres to the stop; written with one decimal, null when it is not a number below 1e12.
    eta_s : ndarray of float32, shape (rows,)
        Seconds to arrival, clipped by the model.
    envelope : Envelope
        What the documents have in common. Rows that another model predicts have no stops in this call.
    documents : Documents
        Receives the result.

    Raises
    ------
    ValueError
        If an array is shorter than the batch, the row offsets are negative or decrease, or a text lies outside the
        arena.
    BufferError
        If the buffer has to grow while a view of it is held.
    """
    documents.resize(columns.n)
    _encode.encode_documents(
        columns.text,
        columns.status,
        columns.vehicle_id,
        columns.route_id,
        columns.trip_id,
        columns.timestamp,
        columns.timestamp_is_number,
        columns.time_us,
        tuple(keys),
        table.patterns,
        pattern_ix,
        row_offset,
        stop_ix,
        distance_m,
        eta_s,
        envelope.parts(),
        documents.buffer,
        documents.offsets,
        columns.n,
    )


def pack_set_commands(
    columns: SnapshotColumns, documents: Documents, *, prefix: bytes, ttl_s: int, out: bytearray
) -> tuple[memoryview, int]:
    """RESP bytes of ``SET <prefix><vehicle_id> <document> EX <ttl_s>`` for every row with a document.

    Parameters
    ----------
    columns : SnapshotColumns
        The batch the documents were made of.
    documents : Documents
        What `encode_documents` wrote.
    prefix : bytes
        Start of every key.
    ttl_s : int
        Lifetime, seconds, at least 1.
    out : bytearray
        Reused buffer; grows. Drop the returned view before the next call.

    Returns
    -------
    view : memoryview
        The commands, back to back.
    n_commands : int
        How many they are: as many replies follow.

    Raises
    ------
    ValueError
        If `ttl_s` is below 1, or the documents are not those of this batch.
    BufferError
        If `out` has to grow while a view of it is held.
    """
    if ttl_s < 1:
        raise ValueError(f"a time to live must be at least 1 s, not {ttl_s}")
    size, n_commands = _encode.pack_set_commands(
        columns.text,
        columns.vehicle_id,
        documents.buffer,
        documents.offsets,
        prefix,
        b"%d" % ttl_s,
        out,
        documents.n,
    )
    return memoryview(out)[:size], n_commands
