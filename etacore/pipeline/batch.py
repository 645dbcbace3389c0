"""The columns of a batch, and what came out of it: arrays that are made once and used for every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from etacore.models.model import Model
from etacore.pipeline.encoding import Documents
from etacore.pipeline.motion import Motion
from etacore.pipeline.snapshots import SnapshotColumns
from etacore.status import Status

_STATUSES: Final = tuple(Status)


@dataclass(slots=True)
class Part:
    """The rows of a batch that one model predicts, and what came out. Its arrays hold until the batch is used again.

    Attributes
    ----------
    row_offset : ndarray of int32, shape (n + 1,)
        Feature rows of vehicle i: ``row_offset[i]:row_offset[i + 1]``.
    features : ndarray of float32, shape (rows, n_features)
    distance_m : ndarray of float64, shape (rows,)
    stop_ix : ndarray of int32, shape (rows,)
        Position of the stop in the vehicle's pattern.
    eta_s : ndarray of float32, shape (rows,)
        Seconds from the snapshot's time to the arrival, clipped.
    documents : Documents
    """

    model: Model
    row_offset: NDArray[np.int32]
    features: NDArray[np.float32]
    distance_m: NDArray[np.float64]
    stop_ix: NDArray[np.int32]
    eta_s: NDArray[np.float32]
    documents: Documents


class PartBuffers:
    """Arrays of one part, used again for every batch and larger when one needs it: a batch allocates nothing."""

    __slots__ = ("_distance_m", "_eta_s", "_features", "_row_offset", "_shape", "_stop_ix", "_views", "documents")

    def __init__(self) -> None:
        self._row_offset = np.empty(1, np.int32)
        self._features = np.empty(0, np.float32)
        self._make_room(0)
        self.documents: Final = Documents()

    def _make_room(self, n_rows: int) -> None:
        self._distance_m = np.empty(n_rows, np.float64)
        self._stop_ix = np.empty(n_rows, np.int32)
        self._eta_s = np.empty(n_rows, np.float32)
        self._shape = (-1, -1, -1)

    def row_offset(self, n: int) -> NDArray[np.int32]:
        """For `n` vehicles, shape (>= n + 1,)."""
        if len(self._row_offset) <= n:
            self._row_offset = np.empty(n + n // 2 + 1, np.int32)
            self._shape = (-1, -1, -1)
        return self._row_offset

    def part(self, model: Model, n: int, n_rows: int) -> Part:
        """A part of `n` vehicles and `n_rows` feature rows."""
        width = len(model.feature_codes)
        if len(self._eta_s) < n_rows:
            self._make_room(n_rows + n_rows // 2)
        if len(self._features) < n_rows * width:
            self._features = np.empty((n_rows + n_rows // 2) * width, np.float32)
            self._shape = (-1, -1, -1)
        if self._shape != (n, n_rows, width):
            # Views cost as much as a kernel does for one vehicle, and most small batches have the shape of the last.
            self._views = (
                self._row_offset[: n + 1],
                self._features[: n_rows * width].reshape(n_rows, width),
                self._distance_m[:n_rows],
                self._stop_ix[:n_rows],
                self._eta_s[:n_rows],
            )
            self._shape = (n, n_rows, width)
        return Part(model, *self._views, self.documents)


class Batch:
    """The columns of one batch; made once for a capacity and used again.

    What was remembered of a vehicle is in the columns ``prev_*`` (`VehicleState.gather`), what follows from the fix at
    hand in ``first_stop``, ``progress_m``, ``strikes`` and ``motion`` (`select_stops`).
    """

    def __init__(self, capacity: int) -> None:
        self.capacity: Final = capacity
        self.columns: Final = SnapshotColumns(capacity)
        self.keys: Sequence[bytes] = ()
        self.parts: list[Part] = []
        self.now_us = 0
        """Time at which the batch had been fetched, microseconds; ages are counted from here."""
        self.computed_us = 0
        self.vehicle_ix: Final = np.empty(capacity, np.int32)
        self.is_new: Final = np.empty(capacity, np.uint8)
        self.pattern_ix: Final = np.empty(capacity, np.int32)
        self.trip_key: Final = np.empty(capacity, np.uint64)
        self.first_stop: Final = np.empty(capacity, np.int32)
        self.progress_m: Final = np.empty(capacity, np.float64)
        self.strikes: Final = np.empty(capacity, np.uint8)
        self.prev_progress_m: Final = np.empty(capacity, np.float64)
        self.prev_time_us: Final = np.empty(capacity, np.int64)
        self.prev_strikes: Final = np.empty(capacity, np.uint8)
        self.motion: Final = Motion(capacity)
        self._buffers: Final[list[PartBuffers]] = []

    def buffers(self, part: int) -> PartBuffers:
        """What a part is written into: this batch's own, so that it can be sent while the next batch is computed."""
        while part >= len(self._buffers):
            self._buffers.append(PartBuffers())
        return self._buffers[part]

    def start(self, now_us: int, keys: Sequence[bytes] = ()) -> None:
        """Begin anew, at the time `now_us`.

        `Engine.parse` does this and fills the columns from JSON. Who has the columns already calls it, then
        `fill_snapshots`, then the other stages; only `Engine.encode` needs the keys.
        """
        self.keys, self.now_us, self.parts = keys, now_us, []

    @property
    def n(self) -> int:
        """Rows in use."""
        return self.columns.n

    @property
    def status(self) -> NDArray[np.uint8]:
        """What became of each row, shape (n,); see `etacore.status.Status`."""
        return self.columns.status[: self.n]

    def counts(self) -> dict[Status, int]:
        """Rows by status, only those that occur."""
        found = np.bincount(self.status, minlength=len(_STATUSES)).tolist()
        return {status: n for status, n in zip(_STATUSES, found, strict=True) if n}
