"""Vehicle snapshots: the payloads of a batch become columns, one row each, bad ones with the reason as a status.

Columns come from JSON payloads, as the loop reads them, or from arrays that
hold recorded fixes already; both give the same rows::

    batch.start(now_us)
    parse_snapshots(batch, payloads, max_future_us=..., max_age_us=...)

    texts = TextPool(vehicle_id=[...], route_id=[...], trip_id=[...], stop_id=[...])    # once
    batch.start(now_us)                                                                 # each batch
    fill_snapshots(batch, texts, vehicle_id=codes, route_id=codes, trip_id=codes, stop_id=codes,
                   lat=, lon=, time_us=, speed_mps=, bearing_deg=, stop_sequence=, current_status=, direction_id=,
                   max_future_us=, max_age_us=)

In `fill_snapshots` only ``vehicle_id``, ``lat``, ``lon`` and ``time_us`` have
to be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from etacore._kernels.batch import Batch
from etacore._kernels.snapshots import parse_snapshots, parse_timestamp
from etacore.schema import NO_SEQUENCE, NO_START_DATE, NO_START_TIME, TEXT_DTYPE
from etacore.status import Status

__all__ = ["TextPool", "fill_snapshots", "parse_snapshots", "parse_timestamp"]

_LEAST_INT64: Final = -(2**63)
_MOST_INT64: Final = 2**63 - 1
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_FLOAT64_MAX: Final = float(np.finfo(np.float64).max)
_MAX_ID_BYTES: Final = 256
_POOLED: Final = ("vehicle_id", "route_id", "trip_id", "stop_id")
# Years 1 to 9999, as in isotime.pxd.
_MIN_TIME_US: Final = -62_135_596_800_000_000
_MAX_TIME_US: Final = 253_402_300_799_999_999


class TextPool:
    """The distinct texts of recorded columns, laid into one arena once, for any number of batches.

    A row says which text it has by its code: the position in the column's values, -1 for none.

    Parameters
    ----------
    vehicle_id, route_id, trip_id, stop_id : sequence of bytes or str
        Values of each column; UTF-8. An empty one, and one of more than 256 bytes, is as if not given.

    Attributes
    ----------
    text : ndarray of uint8
        The arena; read-only.
    """

    __slots__ = ("_spans", "text")

    def __init__(
        self,
        *,
        vehicle_id: Sequence[bytes | str] = (),
        route_id: Sequence[bytes | str] = (),
        trip_id: Sequence[bytes | str] = (),
        stop_id: Sequence[bytes | str] = (),
    ) -> None:
        arena = bytearray()
        self._spans: dict[str, npt.NDArray[np.void]] = {}
        for name, values in zip(_POOLED, (vehicle_id, route_id, trip_id, stop_id), strict=True):
            spans = np.zeros(len(values) + 1, TEXT_DTYPE)  # the last one is none: code -1 finds it
            for code, value in enumerate(values):
                text = value.encode() if isinstance(value, str) else value
                if 0 < len(text) <= _MAX_ID_BYTES:
                    needs_escape = any(byte < 32 or byte in b'"\\' for byte in text)
                    spans[code] = len(arena), len(text), needs_escape
                    arena += text
            self._spans[name] = spans
        self.text: npt.NDArray[np.uint8] = np.frombuffer(bytes(arena) or b" ", np.uint8)

    def spans(self, column: str, codes: npt.NDArray[np.integer]) -> npt.NDArray[np.void]:
        """Where the texts of some rows lie in the arena.

        Parameters
        ----------
        column : str
            ``vehicle_id``, ``route_id``, ``trip_id`` or ``stop_id``.
        codes : ndarray of integers, shape (n,)
            -1 for none.

        Returns
        -------
        ndarray of TEXT_DTYPE, shape (n,)

        Raises
        ------
        ValueError
            If a code is outside the column's values.
        """
        spans = self._spans[column]
        if codes.size and not (codes.min() >= -1 and codes.max() < len(spans) - 1):
            raise ValueError(f"{column} has {len(spans) - 1} values; a code is {codes.min()} or {codes.max()}")
        chosen: npt.NDArray[np.void] = spans[codes]
        return chosen


def fill_snapshots(
    batch: Batch,
    texts: TextPool,
    *,
    vehicle_id: npt.NDArray[np.integer],
    lat: npt.NDArray[np.float64],
    lon: npt.NDArray[np.float64],
    time_us: npt.NDArray[np.int64],
    max_future_us: int,
    max_age_us: int,
    route_id: npt.NDArray[np.integer] | None = None,
    trip_id: npt.NDArray[np.integer] | None = None,
    stop_id: npt.NDArray[np.integer] | None = None,
    direction_id: npt.NDArray[np.integer] | None = None,
    speed_mps: npt.NDArray[np.floating] | None = None,
    bearing_deg: npt.NDArray[np.floating] | None = None,
    stop_sequence: npt.NDArray[np.int32] | None = None,
    current_status: npt.NDArray[np.integer] | None = None,
    start_date: npt.NDArray[np.int32] | None = None,
    start_time_s: npt.NDArray[np.int32] | None = None,
) -> None:
    """Lay recorded fixes into a batch: what `parse_snapshots` makes of the same fixes in JSON, without the JSON.

    Only ``timestamp``, the text of the time, stays empty: a recording has none.

    Parameters
    ----------
    batch : Batch
        OUT: the columns of the snapshots; its ``n`` becomes the number of fixes, its arena that of ``texts``. IN:
        ``now_us``.
    texts : TextPool
        What the codes stand for.
    vehicle_id, route_id, trip_id, stop_id : ndarray of integers, shape (n,)
        Codes of the pool's values, -1 for none. All but the first may be left out.
    lat, lon : ndarray of float64, shape (n,)
        Degrees; NaN if missing.
    time_us : ndarray of int64, shape (n,)
        Microseconds since 1970-01-01 UTC; the least int64 if missing.
    max_future_us, max_age_us : int
        As in `parse_snapshots`.
    direction_id : ndarray of integers, shape (n,), optional
        0..127; anything else is none.
    speed_mps, bearing_deg : ndarray of float32 or float64, shape (n,), optional
        NaN if missing. A speed that is negative or not finite is 0.0.
    stop_sequence : ndarray of int32, shape (n,), optional
        `etacore.schema.NO_SEQUENCE` if missing.
    current_status : ndarray of integers, shape (n,), optional
        GTFS-Realtime VehicleStopStatus 0..2; anything else is none.
    start_date, start_time_s : ndarray of int32, shape (n,), optional
        As the columns of the batch; `etacore.schema.NO_START_DATE`, `NO_START_TIME` if missing.

    Raises
    ------
    ValueError
        If the arrays differ in length, hold more rows than the columns have places, or a code is outside its values.
    """
    n = len(vehicle_id)
    given = (lat, lon, time_us, route_id, trip_id, stop_id, direction_id, speed_mps, bearing_deg, stop_sequence)
    if any(array is not None and array.shape != (n,) for array in (*given, current_status, start_date, start_time_s)):
        raise ValueError(f"the columns of a batch of {n} fixes have to be of one length")
    if n > batch.capacity:
        raise ValueError(f"{n} fixes do not fit into a batch for {batch.capacity}")
    spans = {
        name: np.zeros(n, TEXT_DTYPE) if codes is None else texts.spans(name, codes)
        for name, codes in zip(_POOLED, (vehicle_id, route_id, trip_id, stop_id), strict=True)
    }
    batch.n, batch.text = n, texts.text
    for name, span in spans.items():
        getattr(batch, name)[:] = span
    batch.timestamp[:] = np.zeros((), TEXT_DTYPE)
    batch.timestamp_is_number[:] = 0
    batch.direction_id[:] = -1 if direction_id is None else _within(direction_id, 0, 127, -1)
    batch.current_status[:] = -1 if current_status is None else _within(current_status, 0, 2, -1)
    batch.stop_sequence[:] = NO_SEQUENCE if stop_sequence is None else stop_sequence
    batch.start_date[:] = NO_START_DATE if start_date is None else start_date
    batch.start_time_s[:] = NO_START_TIME if start_time_s is None else start_time_s
    batch.speed_mps[:] = 0.0 if speed_mps is None else _within(speed_mps, 0.0, _FLOAT32_MAX, 0.0) + 0.0  # no -0.0
    batch.bearing_deg[:] = np.nan if bearing_deg is None else _within(bearing_deg, -_FLOAT32_MAX, _FLOAT32_MAX, np.nan)
    batch.lat[:] = _within(lat, -_FLOAT64_MAX, _FLOAT64_MAX, np.nan)
    batch.lon[:] = _within(lon, -_FLOAT64_MAX, _FLOAT64_MAX, np.nan)
    batch.time_us[:] = _within(time_us, _MIN_TIME_US, _MAX_TIME_US, 0)

    # The first check that fails names the row, as in the kernel.
    earliest_us, latest_us = _bounds_us(batch.now_us, max_future_us, max_age_us)
    failed = (
        (Status.MISSING_VEHICLE_ID, spans["vehicle_id"]["length"] == 0),
        (Status.MISSING_POSITION, np.isnan(lat) | np.isnan(lon)),
        (Status.INVALID_POSITION, np.isinf(lat) | np.isinf(lon)),
        (Status.POSITION_OUT_OF_RANGE, (np.abs(lat) > 90.0) | (np.abs(lon) > 180.0)),
        (Status.MISSING_TIMESTAMP, time_us == _LEAST_INT64),
        (Status.INVALID_TIMESTAMP, (time_us < _MIN_TIME_US) | (time_us > _MAX_TIME_US)),
        (Status.FUTURE_TIMESTAMP, time_us > latest_us),
        (Status.TOO_OLD, time_us < earliest_us),
        (Status.MISSING_ROUTE, spans["route_id"]["length"] == 0),
    )
    status = batch.status
    status[:] = Status.OK
    for reason, rows in reversed(failed):
        status[rows] = reason


def _within(values: npt.NDArray[Any], least: float, most: float, otherwise: float) -> npt.NDArray[Any]:
    return np.where((values >= least) & (values <= most), values, otherwise)


def _bounds_us(now_us: int, max_future_us: int, max_age_us: int) -> tuple[int, int]:
    """Earliest and latest time that a snapshot may have."""
    earliest_us = max(now_us - max_age_us, _LEAST_INT64) if max_age_us > 0 else _LEAST_INT64
    return earliest_us, min(now_us + max_future_us, _MOST_INT64)
