"""Prediction documents of a batch, inside the Redis commands that store them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson
from numpy.typing import NDArray

from etacore._kernels import encode as _encode

if TYPE_CHECKING:
    from etacore.pipeline.routes import RouteTable
    from etacore.pipeline.snapshots import SnapshotColumns


@dataclass(slots=True)
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
        of_model, source = _of_model(self.model_key, self.model_type, self.model_scope, self.source)
        return (
            b',"computed_at":%b%b' % (text(self.computed_at), of_model),
            source,
            b',"fetched_at":%b,"persisted_at":%b,"source_timestamp":'
            % (text(self.fetched_at), text(self.persisted_at)),
            b',"prefect_pipeline_latency_ms":%b}' % text(round(float(self.latency_ms), 3)),
        )


@functools.lru_cache(maxsize=1024)
def _of_model(model_key: str, model_type: str, model_scope: str, source: str) -> tuple[bytes, bytes]:
    """The two parts of an envelope that no batch changes."""
    text = orjson.dumps
    return (
        b',"model_key":%b,"model_type":%b,"model_scope":%b,"predictions":['
        % (text(model_key), text(model_type), text(model_scope)),
        b'],"source":%b,"redis_key":' % text(source),
    )


def iso_time(time_us: int) -> str:
    """A UTC time in microseconds since 1970 as `datetime.isoformat` writes it.

    Raises
    ------
    ValueError
        If it lies outside the years 1 to 9999.
    """
    return _encode.time_text(time_us).decode()


class Documents:
    """The documents of one batch inside the commands that store them, in buffers that are reused for the next batch.

    Whoever sends the commands while the next batch is computed needs two of these.

    Attributes
    ----------
    buffer : bytearray
        ``SET <prefix><vehicle_id> <document> EX <seconds>`` for every row with a document, as RESP, back to back. Grows
        as needed; only the first ``size`` bytes count. It cannot grow while a view of it is held.
    starts, ends : ndarray of int64, shape (capacity,)
        Document of row i: ``buffer[starts[i]:ends[i]]``; both 0 for a row without one.
    n : int
        Rows of the batch.
    found : ndarray of int64, shape (capacity,)
        Its first ``n_found`` places are the rows that have a document, ascending.
    n_found : int
    size : int
        Bytes of all commands.
    """

    __slots__ = ("buffer", "ends", "found", "n", "n_found", "size", "starts")

    def __init__(self, capacity: int = 0) -> None:
        self.buffer = bytearray()
        self._make_room(capacity)
        self.n = self.size = self.n_found = 0

    def _make_room(self, capacity: int) -> None:
        self.starts: NDArray[np.int64] = np.zeros(capacity, np.int64)
        self.ends: NDArray[np.int64] = np.zeros(capacity, np.int64)
        self.found: NDArray[np.int64] = np.zeros(capacity, np.int64)

    @property
    def commands(self) -> memoryview:
        """The commands, ready to be sent. Release the view before the next batch is written."""
        return memoryview(self.buffer)[: self.size]

    def __len__(self) -> int:
        """How many rows have a document: as many commands are sent, as many replies follow."""
        return self.n_found

    def rows(self) -> NDArray[np.int64]:
        """Rows that have a document, ascending: the order of the commands. Holds until the next batch is written."""
        return self.found[: self.n_found]

    def __getitem__(self, row: int) -> bytes:
        """The document of a row, b"" if it has none."""
        if not 0 <= row < self.n:
            raise IndexError(row)
        return bytes(self.buffer[self.starts[row] : self.ends[row]])

    def begin(self, n: int) -> None:
        """Forget the last batch and make room for one of `n` rows."""
        self.n = self.size = self.n_found = 0
        if len(self.starts) < n:
            self._make_room(n + n // 2)


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
    *,
    prefix: bytes,
    ttl_s: int,
) -> None:
    """Write one JSON document for every row that is OK and has stops, and the Redis command that stores it.

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
    prefix : bytes
        Start of every key: ``SET <prefix><vehicle_id> <document> EX <ttl_s>``.
    ttl_s : int
        Lifetime, seconds, at least 1.

    Raises
    ------
    ValueError
        If an array is shorter than the batch, the row offsets are negative or decrease, a text lies outside the
        arena, or `ttl_s` is below 1. There are then no documents.
    BufferError
        If the buffer has to grow while a view of it is held.
    """
    n = columns.n
    documents.begin(n)
    documents.size, documents.n_found = _encode.encode_documents(
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
        prefix,
        ttl_s,
        documents.buffer,
        documents.starts,
        documents.ends,
        documents.found,
        n,
    )
    documents.n = n
