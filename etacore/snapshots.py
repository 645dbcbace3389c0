"""Vehicle snapshots: the payloads of a batch become columns, one row each, bad ones with the reason as a status."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Final

import numpy as np
import numpy.typing as npt

from etacore._snapshots import ColumnPointers, parse_payloads, text_list, timestamp_us
from etacore.schema import TEXT_DTYPE

__all__ = ["MAX_PAYLOAD_BYTES", "SnapshotColumns", "parse_snapshots", "parse_timestamp"]

MAX_PAYLOAD_BYTES: Final = 65536
"""Longer payloads are refused unless the caller says otherwise."""

_INT64: Final = np.iinfo(np.int64)


class SnapshotColumns:
    """The columns of one batch, allocated once and used again for every batch.

    Every array has ``capacity`` places; the first ``n`` are rows of the batch in hand.

    Parameters
    ----------
    capacity : int
        The largest number of rows of a batch.

    Attributes
    ----------
    capacity : int
    n : int
        Rows in use.
    text : ndarray of uint8
        The arena: UTF-8 bytes of all texts, one after another. Replaced by a larger one when a batch needs it.
    status : ndarray of uint8, shape (capacity,)
        `etacore.schema.Status`.
    vehicle_id, route_id, trip_id, stop_id, timestamp : ndarray of TEXT_DTYPE, shape (capacity,)
        Where in the arena a text lies; length 0 is none. ``timestamp`` is verbatim.
    timestamp_is_number : ndarray of uint8, shape (capacity,)
        1 if the timestamp was a JSON number.
    direction_id : ndarray of int8, shape (capacity,)
        0..127, or -1 if not given.
    lat, lon : ndarray of float64, shape (capacity,)
        Degrees; NaN if not given or not a number.
    speed_mps : ndarray of float32, shape (capacity,)
        Metres a second, 0.0 if not given, negative or bad.
    bearing_deg : ndarray of float32, shape (capacity,)
        Degrees as given, NaN if not given or bad.
    time_us : ndarray of int64, shape (capacity,)
        Time of the snapshot in microseconds since 1970-01-01 UTC; 0 if there is none.
    stop_sequence : ndarray of int32, shape (capacity,)
        The current stop sequence, or `etacore.schema.NO_SEQUENCE`.
    current_status : ndarray of int8, shape (capacity,)
        GTFS-Realtime VehicleStopStatus 0..2, or -1 if not given or unknown.

    Raises
    ------
    ValueError
        If ``capacity`` is below 1.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity: Final = capacity
        self.n = 0
        self.text = np.empty(256 * min(capacity, 16), dtype=np.uint8)
        self.status: Final = np.zeros(capacity, dtype=np.uint8)
        self.vehicle_id: Final = np.zeros(capacity, dtype=TEXT_DTYPE)
        self.route_id: Final = np.zeros(capacity, dtype=TEXT_DTYPE)
        self.trip_id: Final = np.zeros(capacity, dtype=TEXT_DTYPE)
        self.stop_id: Final = np.zeros(capacity, dtype=TEXT_DTYPE)
        self.timestamp: Final = np.zeros(capacity, dtype=TEXT_DTYPE)
        self.timestamp_is_number: Final = np.zeros(capacity, dtype=np.uint8)
        self.direction_id: Final = np.zeros(capacity, dtype=np.int8)
        self.lat: Final = np.zeros(capacity, dtype=np.float64)
        self.lon: Final = np.zeros(capacity, dtype=np.float64)
        self.speed_mps: Final = np.zeros(capacity, dtype=np.float32)
        self.bearing_deg: Final = np.zeros(capacity, dtype=np.float32)
        self.time_us: Final = np.zeros(capacity, dtype=np.int64)
        self.stop_sequence: Final = np.zeros(capacity, dtype=np.int32)
        self.current_status: Final = np.zeros(capacity, dtype=np.int8)
        self.pointers: Final = ColumnPointers(
            self.status,
            self.vehicle_id,
            self.route_id,
            self.trip_id,
            self.stop_id,
            self.timestamp,
            self.timestamp_is_number,
            self.direction_id,
            self.lat,
            self.lon,
            self.speed_mps,
            self.bearing_deg,
            self.time_us,
            self.stop_sequence,
            self.current_status,
        )

    def reserve_text(self, n_bytes: int) -> npt.NDArray[np.uint8]:
        """The arena, made larger if it has less than ``n_bytes``; what was in it is then gone."""
        if len(self.text) < n_bytes:
            self.text = np.empty(n_bytes + n_bytes // 2, dtype=np.uint8)
        return self.text

    def text_at(self, column: str, row: int) -> str:
        """A text as ``str``, for tests and log lines.

        Parameters
        ----------
        column : str
            Name of one of the text columns.
        row : int
            Row of the batch.

        Returns
        -------
        str
            Empty if the row has no such text.

        Raises
        ------
        IndexError
            If the batch has no such row.
        """
        if not 0 <= row < self.n:
            raise IndexError(f"row {row} of a batch of {self.n}")
        start, length, _ = getattr(self, column)[row].item()
        return self.text[start : start + length].tobytes().decode()

    def texts(self, column: str, rows: npt.NDArray[np.int64], prefix: bytes = b"") -> list[bytes]:
        """Texts of some rows in UTF-8, each behind ``prefix``; for Redis keys.

        Parameters
        ----------
        column : str
            Name of one of the text columns.
        rows : ndarray of int64, shape (m,)
            Rows of the batch.
        prefix : bytes, optional
            Start of every text.

        Returns
        -------
        list of bytes, length m

        Raises
        ------
        IndexError
            If the batch has no such row.
        """
        if rows.size and not (rows.min() >= 0 and rows.max() < self.n):
            raise IndexError(f"a row is outside the batch of {self.n}")
        return text_list(self.text, getattr(self, column), rows, prefix)


def parse_snapshots(
    payloads: Sequence[bytes | None],
    columns: SnapshotColumns,
    *,
    now_us: int,
    max_future_us: int,
    max_age_us: int,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> None:
    """Parse a batch: row ``i`` of the columns becomes payload ``i``.

    Nothing a payload says raises. All fields of an object are read; ``status`` is the first check that failed, in the
    order of the status codes. Of a payload that is not a JSON object nothing is set.

    Parameters
    ----------
    payloads : sequence of bytes or None, length n
        JSON objects in UTF-8. None stands for a key that holds no string: ``EXPIRED``.
    columns : SnapshotColumns
        Where to; its ``n`` becomes the number of payloads.
    now_us : int
        The present, microseconds since 1970-01-01 UTC.
    max_future_us : int
        How far a snapshot's time may be ahead of ``now_us``.
    max_age_us : int
        How far behind; 0 or less is no limit.
    max_payload_bytes : int, optional
        Longer payloads are ``TOO_LARGE`` and not read.

    Raises
    ------
    ValueError
        If there are more payloads than the columns have places.
    TypeError
        If a payload is neither bytes nor None.
    """
    earliest_us = max(now_us - max_age_us, _INT64.min) if max_age_us > 0 else _INT64.min
    latest_us = min(now_us + max_future_us, _INT64.max)
    columns.n = 0
    columns.n = parse_payloads(
        payloads, columns.pointers, columns.reserve_text, earliest_us, latest_us, max_payload_bytes
    )


def parse_timestamp(value: object) -> int | None:
    """A timestamp as it stands in a snapshot or in a prediction's ``source_timestamp``.

    Parameters
    ----------
    value : object
        ISO 8601 text, or POSIX seconds (milliseconds above 1e11) as a number or as text.

    Returns
    -------
    int or None
        Microseconds since 1970-01-01 UTC, or None if it is no timestamp between the years 1 and 9999.
    """
    if isinstance(value, str):
        text = value.encode("utf-8", "replace")
        return timestamp_us(text) if len(text) <= 64 else None
    if isinstance(value, Integral | float) and not isinstance(value, bool):
        try:
            return timestamp_us(float(value))
        except OverflowError:
            return None
    return None
