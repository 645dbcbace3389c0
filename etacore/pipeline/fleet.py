"""What is remembered of the fleet between two batches, and which snapshots bring nothing new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from etacore._kernels.fleet import NO_TIME, VehicleTable
from etacore._kernels.fleet import text_keys as _text_keys
from etacore._kernels.index import hash_bytes

if TYPE_CHECKING:
    from etacore.pipeline.motion import Motion
    from etacore.pipeline.snapshots import SnapshotColumns

__all__ = ["NO_TIME", "VehicleState", "text_key", "text_keys"]

_MAX_TIME_US: Final = 2**63 - 1


def text_keys(columns: SnapshotColumns, column: str, out: NDArray[np.uint64]) -> None:
    """Hash a text column, so that two rows can be compared by a number.

    Parameters
    ----------
    columns : SnapshotColumns
        The batch.
    column : str
        A text column, such as ``trip_id``.
    out : ndarray of uint64, shape (n,)
        Filled: 0 where there is no text, never 0 otherwise. The numbers are those of this process only.
    """
    _text_keys(columns.text, getattr(columns, column), out, columns.n)


def text_key(text: bytes) -> int:
    """The number that `text_keys` gives to one text (UTF-8)."""
    return hash_bytes(text) or 1 if text else 0


class VehicleState:
    """Last event time, stored prediction, progress and motion of each vehicle, in about 120 bytes each.

    A batch goes through `lookup`, `restore` (for the new ones), `screen`, `gather`, and, once its
    documents are stored, `commit`. Each is one call whatever the number of rows.

    Parameters
    ----------
    capacity : int
        Vehicles to make room for at once; the table grows by itself.

    Notes
    -----
    Event time only moves forward, and only in `commit` (or, once after a start, in `restore`): a row
    that is rejected on its way leaves no trace but "seen".

    A row past its last stop (``Status.TRIP_FINISHED``) is committed too, without a valid prediction. At the
    next poll the same snapshot is therefore not ``UNCHANGED``: it takes the same way again and is counted
    as ``TRIP_FINISHED`` at each poll, until its time moves on.

    Not for two threads at once.
    """

    __slots__ = ("_table",)

    def __init__(self, capacity: int = 1024) -> None:
        self._table: Final = VehicleTable(capacity)

    @property
    def n(self) -> int:
        """Vehicles remembered."""
        return self._table.n

    @property
    def nbytes(self) -> int:
        """Bytes held, free room included."""
        return self._table.nbytes

    def record(self, vehicle_ix: int) -> tuple[bytes, int, int, int, int, int, float, int, int, int, float, bool]:
        """One vehicle, for tests and diagnosis.

        Returns
        -------
        tuple
            vehicle_id, time_us, valid_until_us, seen_us, trip_key, pattern_ix, progress_m, strikes, next_stop,
            stop_since_us, speed_mps, known.

        Raises
        ------
        IndexError
            If there is no such vehicle.
        """
        return self._table.record(vehicle_ix)

    def lookup(self, columns: SnapshotColumns, vehicle_ix: NDArray[np.int32], is_new: NDArray[np.uint8]) -> int:
        """Find the vehicles of a batch; unknown ids are added.

        Parameters
        ----------
        columns : SnapshotColumns
            Rows with status OK are looked at.
        vehicle_ix : ndarray of int32, shape (n,)
            Filled: the vehicle's number, -1 for rows with another status. Good until the next `evict`.
        is_new : ndarray of uint8, shape (n,)
            Filled: 1 on the first row of each vehicle that was never restored nor committed.

        Returns
        -------
        int
            How many rows have `is_new` set.

        Raises
        ------
        ValueError
            If a row with status OK has no vehicle id, or an array is too short.
        MemoryError
            If the table cannot grow; it then holds the vehicles up to that row.
        """
        return self._table.lookup(columns.text, columns.vehicle_id, columns.status, vehicle_ix, is_new, columns.n)

    def restore(
        self,
        vehicle_ix: NDArray[np.int32],
        time_us: NDArray[np.int64],
        valid_until_us: NDArray[np.int64],
        max_time_us: int = _MAX_TIME_US,
    ) -> None:
        """Take over what stored predictions say of vehicles that are new since the start.

        A vehicle that has been restored or committed before is left alone. Afterwards it is no
        longer new, so give also those without a stored prediction, with `NO_TIME`: else they are
        looked up again at every poll until their first commit.

        Parameters
        ----------
        vehicle_ix : ndarray of int32, shape (k,)
            Negative numbers are passed over.
        time_us : ndarray of int64, shape (k,)
            Event time of the stored prediction, `NO_TIME` if there is none.
        valid_until_us : ndarray of int64, shape (k,)
            When it expires.
        max_time_us : int, optional
            Later event times count as `NO_TIME`: a damaged document from the far future must not
            silence its vehicle.

        Raises
        ------
        ValueError
            If a number is out of range, or an array is too short.
        """
        self._table.restore(vehicle_ix, time_us, valid_until_us, max_time_us)

    def screen(self, columns: SnapshotColumns, vehicle_ix: NDArray[np.int32], now_us: int) -> None:
        """Set aside the rows that bring nothing new; all vehicles of the batch count as seen now.

        Of several rows of one vehicle, the newest stays (of equal times the first), the others become
        ``DUPLICATE``. A row older than the vehicle's last committed time becomes ``OUT_OF_ORDER``; one of
        the same time becomes ``UNCHANGED`` while its stored prediction is valid (`now_us` before its end).

        Parameters
        ----------
        columns : SnapshotColumns
            `status` is updated; only rows with status OK are looked at.
        vehicle_ix : ndarray of int32, shape (n,)
            From `lookup`.
        now_us : int
            Time of the poll.

        Raises
        ------
        ValueError
            If a number is out of range, or an array is too short.
        """
        self._table.screen(columns.status, vehicle_ix, columns.time_us, now_us, columns.n)

    def gather(
        self,
        vehicle_ix: NDArray[np.int32],
        trip_key: NDArray[np.uint64],
        pattern_ix: NDArray[np.int32],
        prev_progress_m: NDArray[np.float64],
        prev_time_us: NDArray[np.int64],
        prev_strikes: NDArray[np.uint8],
        motion: Motion,
    ) -> None:
        """Earlier progress and motion of each row's vehicle, if it was on the same trip and pattern.

        Parameters
        ----------
        vehicle_ix : ndarray of int32, shape (n,)
            From `lookup`.
        trip_key : ndarray of uint64, shape (n,)
            From `text_keys`; 0 (no trip) equals 0.
        pattern_ix : ndarray of int32, shape (n,)
            Resolved pattern, -1 for none.
        prev_progress_m : ndarray of float64, shape (n,)
            Filled: metres along the pattern, NaN where there is no earlier progress.
        prev_time_us : ndarray of int64, shape (n,)
            Filled: event time of that progress, 0 where trip or pattern differ.
        prev_strikes : ndarray of uint8, shape (n,)
            Filled: 0 where trip or pattern differ.
        motion : Motion
            Its columns ``prev_*`` are filled.

        Raises
        ------
        ValueError
            If a number is out of range, or an array is too short.
        """
        self._table.gather(
            vehicle_ix, trip_key, pattern_ix, prev_progress_m, prev_time_us, prev_strikes, motion.pointers
        )

    def commit(
        self,
        status: NDArray[np.uint8],
        vehicle_ix: NDArray[np.int32],
        time_us: NDArray[np.int64],
        valid_until_us: int,
        trip_key: NDArray[np.uint64],
        pattern_ix: NDArray[np.int32],
        progress_m: NDArray[np.float64],
        strikes: NDArray[np.uint8],
        next_stop: NDArray[np.int32],
        motion: Motion,
        seen_us: int,
    ) -> None:
        """Let the vehicles move on whose rows are OK (documents stored) or TRIP_FINISHED.

        Other rows change nothing. Neither does a row older than what is committed already.

        Parameters
        ----------
        status : ndarray of uint8, shape (n,)
            What became of each row.
        vehicle_ix : ndarray of int32, shape (n,)
            From `lookup`.
        time_us : ndarray of int64, shape (n,)
            Event time of the row.
        valid_until_us : int
            When the documents stored for the OK rows expire.
        trip_key : ndarray of uint64, shape (n,)
            From `text_keys`; with `pattern_ix` what the progress belongs to.
        pattern_ix : ndarray of int32, shape (n,)
            Resolved pattern.
        progress_m : ndarray of float64, shape (n,)
            Metres along the pattern.
        strikes : ndarray of uint8, shape (n,)
            How often in a row the position contradicted the progress.
        next_stop : ndarray of int32, shape (n,)
            Index of the next stop in the pattern.
        motion : Motion
            Measured by `select_stops`.
        seen_us : int
            Time of the poll.

        Raises
        ------
        ValueError
            If a number is out of range, or an array is too short.
        """
        self._table.commit(
            status,
            vehicle_ix,
            time_us,
            valid_until_us,
            trip_key,
            pattern_ix,
            progress_m,
            strikes,
            next_stop,
            motion.pointers,
            seen_us,
        )

    def forget_prediction(self, vehicle_ix: NDArray[np.int32]) -> None:
        """Note that stored documents are gone, so that the same snapshots are predicted again.

        Parameters
        ----------
        vehicle_ix : ndarray of int32, shape (k,)
            Negative numbers are passed over.

        Raises
        ------
        ValueError
            If a number is out of range.
        """
        self._table.forget_prediction(vehicle_ix)

    def evict(self, older_than_us: int) -> int:
        """Forget vehicles last seen before a time, and close the gaps.

        Parameters
        ----------
        older_than_us : int
            A vehicle seen at exactly this time stays.

        Returns
        -------
        int
            How many are forgotten. Vehicle numbers handed out before are void.
        """
        return self._table.evict(older_than_us)
