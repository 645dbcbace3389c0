"""Reads recorded vehicle positions (Parquet or CSV) into columns."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.errors import FeedError
from etacore.schema import NO_SEQUENCE

REQUIRED: Final = ("vehicle_id", "timestamp", "lat", "lon", "route_id")
_US: Final = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class TextColumn:
    """A column of repeating texts.

    Attributes
    ----------
    codes : ndarray of int32, shape (n,)
        Index into `values`; -1 where there is no text.
    values : tuple of str
        Ascending.
    """

    codes: npt.NDArray[np.int32]
    values: tuple[str, ...]

    def __getitem__(self, row: int) -> str | None:
        code = int(self.codes[row])
        return None if code < 0 else self.values[code]

    def take(self, rows: npt.NDArray[Any]) -> TextColumn:
        """The same texts at other rows (an index or a mask)."""
        return replace(self, codes=self.codes[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """Recorded fixes, sorted by time, then vehicle. All columns have n rows.

    Attributes
    ----------
    time_us : ndarray of int64
        UTC, since the epoch.
    lat, lon : ndarray of float64
        Degrees as recorded, not checked: judging a fix is the loop's business. NaN if missing.
    speed_mps, bearing_deg : ndarray of float32
        NaN if missing.
    stop_sequence : ndarray of int32
        `NO_SEQUENCE` if missing.
    vehicle_id, route_id, trip_id, stop_id, current_status : TextColumn
    """

    time_us: npt.NDArray[np.int64]
    lat: npt.NDArray[np.float64]
    lon: npt.NDArray[np.float64]
    speed_mps: npt.NDArray[np.float32]
    bearing_deg: npt.NDArray[np.float32]
    stop_sequence: npt.NDArray[np.int32]
    vehicle_id: TextColumn
    route_id: TextColumn
    trip_id: TextColumn
    stop_id: TextColumn
    current_status: TextColumn

    def __len__(self) -> int:
        return len(self.time_us)

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The rows of an index or a mask."""
        columns: dict[str, Any] = {}
        for column in fields(self):
            whole = getattr(self, column.name)
            columns[column.name] = whole.take(rows) if isinstance(whole, TextColumn) else whole[rows]
        return type(self)(**columns)

    def sampling_s(self) -> float:
        """Median time in seconds between two fixes of a vehicle; NaN if none has two."""
        order = np.lexsort((self.time_us, self.vehicle_id.codes))
        vehicle, time_us = self.vehicle_id.codes[order], self.time_us[order]
        gaps_us = np.diff(time_us)[vehicle[1:] == vehicle[:-1]]
        return float(np.median(gaps_us)) / _US if gaps_us.size else float("nan")

    def select(
        self, *, start: datetime | None = None, end: datetime | None = None, routes: Collection[str] | None = None
    ) -> Self:
        """Rows of a time range and of some routes.

        Parameters
        ----------
        start, end : datetime, optional
            ``start <= time < end``; naive means UTC.
        routes : collection of str, optional
            Route ids; all if None.

        Raises
        ------
        FeedError
            If nothing is left; says what the recording covers.
        """
        keep = np.ones(len(self), dtype=bool)
        if start is not None:
            keep &= self.time_us >= to_us(start)
        if end is not None:
            keep &= self.time_us < to_us(end)
        if not keep.any():
            raise FeedError(
                f"no positions between {start or 'the beginning'} and {end or 'the end'}",
                hint=f"the recording covers {from_us(self.time_us[0])} to {from_us(self.time_us[-1])}",
            )
        if routes is not None:
            wanted = np.array([value in routes for value in self.route_id.values], dtype=bool)
            if unknown := sorted(set(routes) - set(self.route_id.values)):
                raise FeedError(
                    f"no positions of route {', '.join(unknown)}",
                    hint=f"routes of the recording: {', '.join(sorted(self.route_id.values))}",
                )
            keep &= wanted[self.route_id.codes]
            if not keep.any():
                raise FeedError(f"no positions of route {', '.join(sorted(routes))} in this time range")
        return self.take(keep)


def read_positions(path: str | Path) -> Positions:
    """Read a recording.

    Parameters
    ----------
    path : str or Path
        Parquet or CSV with ``vehicle_id, timestamp, lat, lon, route_id`` and,
        if there are any, ``trip_id, speed_mps, bearing, current_stop_sequence,
        stop_id, current_status``. ``timestamp`` is POSIX seconds or a time
        type (naive means UTC); in CSV also ISO 8601 text.

    Raises
    ------
    FeedError
        If the file is absent, no table, empty, lacks a required column, or has
        a row without vehicle, time or route.
    """
    path = Path(path)
    frame = _read_table(path)
    absent = [column for column in REQUIRED if column not in frame.columns]
    if absent:
        raise FeedError(f"{path} has no column {', '.join(absent)} (has: {', '.join(frame.columns)})")
    if not len(frame):
        raise FeedError(f"{path} has no rows")
    time_us = _times_us(path, frame["timestamp"])
    for name in ("vehicle_id", "route_id"):
        if (missing := frame[name].is_null() | (frame[name].cast(pl.String) == "")).any():
            raise FeedError(f"{path} row {int(missing.arg_true()[0])}: {name} is missing")
    names = (("speed_mps", pl.Float32), ("bearing", pl.Float32), ("lat", pl.Float64), ("lon", pl.Float64))
    numbers = {
        name: _numbers(path, frame, name, dtype).fill_null(float("nan")).to_numpy().copy() for name, dtype in names
    }
    sequence = _numbers(path, frame, "current_stop_sequence", pl.Int32).fill_null(NO_SEQUENCE)
    texts = {name: _text(frame, name) for name in ("vehicle_id", "route_id", "trip_id", "stop_id", "current_status")}
    positions = Positions(
        time_us=time_us,
        lat=numbers["lat"],
        lon=numbers["lon"],
        speed_mps=numbers["speed_mps"],
        bearing_deg=numbers["bearing"],
        stop_sequence=sequence.to_numpy(),
        **texts,
    )
    return positions.take(np.lexsort((positions.vehicle_id.codes, time_us)))


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch; naive means UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * _US)


def from_us(time_us: int) -> datetime:
    """UTC time of microseconds since the epoch."""
    return datetime.fromtimestamp(int(time_us) / _US, UTC)


def _read_table(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise FeedError(f"{path} does not exist or is no file", hint="give a Parquet or CSV file of positions")
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    try:
        if is_parquet:
            return pl.read_parquet(path)
        frame = pl.read_csv(path, infer_schema=False, encoding="utf8")
    except (pl.exceptions.PolarsError, OSError) as error:
        kind = "Parquet" if is_parquet else "CSV"
        raise FeedError(f"{path} is no readable {kind} file ({str(error).splitlines()[0]})") from None
    return frame.rename({column: column.strip() for column in frame.columns})


def _times_us(path: Path, column: pl.Series) -> npt.NDArray[np.int64]:
    if isinstance(column.dtype, pl.Datetime):
        value = column.dt.cast_time_unit("us").cast(pl.Int64)
    else:
        value = (column.cast(pl.Float64, strict=False) * _US).round().cast(pl.Int64, strict=False)
        if column.dtype == pl.String:
            parsed = column.str.to_datetime(strict=False, time_unit="us", time_zone="UTC").cast(pl.Int64)
            value = pl.select(pl.coalesce(value, parsed)).to_series()
    if (bad := value.is_null()).any():
        row = int(bad.arg_true()[0])
        raise FeedError(f"{path} row {row}: timestamp {column[row]!r} is neither POSIX seconds nor a time")
    return value.to_numpy().astype(np.int64)


def _numbers(path: Path, frame: pl.DataFrame, name: str, dtype: type[pl.DataType]) -> pl.Series:
    if name not in frame.columns:
        return pl.Series(name, [None], dtype=dtype).new_from_index(0, len(frame))
    column = frame[name]
    if column.dtype == pl.String:
        column = column.replace("", None)
    value = column.cast(dtype, strict=False)
    if (bad := value.is_null() & column.is_not_null()).any():
        row = int(bad.arg_true()[0])
        raise FeedError(f"{path} row {row}: {name} {column[row]!r} is no number")
    return value


def _text(frame: pl.DataFrame, name: str) -> TextColumn:
    if name not in frame.columns:
        return TextColumn(np.full(len(frame), -1, dtype=np.int32), ())
    text = frame[name].cast(pl.String).replace("", None)
    values = text.drop_nulls().unique().sort()
    lookup = pl.DataFrame({"text": values, "code": np.arange(len(values), dtype=np.int32)})
    codes = text.rename("text").to_frame().join(lookup, on="text", how="left", maintain_order="left")["code"]
    return TextColumn(codes.fill_null(-1).to_numpy().astype(np.int32), tuple(values))
