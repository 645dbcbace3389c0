"""Makes fixes of a table of positions, or of snapshots: by the rules of snapshots, a bad row costs only itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.left_out import LeftOut, quoted
from etacore.mlops.transit.realtime import FIX_SCHEMA, STATUS_NAMES, OtherKindError
from etacore.mlops.transit.start_texts import parse_start_date, parse_start_time
from etacore.mlops.transit.tables import ROW, as_numbers, as_times_us, given, ids

REQUIRED: Final = ("vehicle_id", "timestamp", "lat", "lon", "route_id")
ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "vehicle_id": ("vehicleId", "id", "vehicle.id"),
    "timestamp": (),
    "lat": ("latitude",),
    "lon": ("longitude", "lng"),
    "speed_mps": ("speed",),
    "bearing": ("heading",),
    "route_id": ("route", "routeId", "route_short_name"),
    "trip_id": ("trip", "tripId"),
    "current_stop_sequence": ("stop_sequence",),
    "stop_id": (),
    "current_status": (),
    "direction_id": ("directionId",),
    "start_date": ("startDate",),
    "start_time": ("startTime",),
}
"""Columns of a recording, and other names that snapshots have for them; ``speed`` is m/s, as the loop takes it."""

NAMES: Final = frozenset(name for names in ALIASES.items() for name in (names[0], *names[1]))
"""All of them."""

_HINT: Final = "the first row names the columns, with commas between them; see docs/real-feeds.md"
_STATUS_OF_NUMBER: Final = {str(number): name for number, name in STATUS_NAMES.items()}


def fixes_of_table(
    frame: pl.DataFrame, path: Path, file: int, left_out: LeftOut, *, routes_known: bool
) -> pl.DataFrame:
    """The fixes of a table.

    Parameters
    ----------
    frame : DataFrame
        As `etacore.mlops.transit.tables.read_rows` gives it. The first column of `ALIASES` that has a value wins, row
        by row.
    path : Path
        Where it comes from, for examples and errors.
    file : int
        Its number.
    left_out : LeftOut
        Is added to: ``no_vehicle_id``, ``bad_position``, ``no_time``, ``bad_time``, ``bad_value``, ``bad_start``.
    routes_known : bool
        Whether a timetable is there to give routes to trips, in the place of a column.

    Returns
    -------
    DataFrame
        `FIX_SCHEMA`; a fix whose coordinates are missing or out of range is for the engine to judge, as it judges
        snapshots.

    Raises
    ------
    LacksColumnsError
        If a required column is missing.
    OtherKindError
        If there is no row.
    """
    columns = {
        own: [frame[column] for column in (own, *others) if column in frame.columns] for own, others in ALIASES.items()
    }
    by_trip = routes_known and columns["trip_id"]
    if absent := [own for own in REQUIRED if not columns[own] and not (own == "route_id" and by_trip)]:
        raise LacksColumnsError(f"{path} has no column {', '.join(absent)}", hint=_HINT)
    if not len(frame):
        raise OtherKindError(f"{path} has no rows")
    reader = _Rows(columns, frame[ROW], path.name, left_out)
    fixes = pl.DataFrame(
        {
            "vehicle_id": reader.texts("vehicle_id"),
            "time_us": reader.values("timestamp", as_times_us),
            "lat": reader.values("lat", _float64),
            "lon": reader.values("lon", _float64),
            "speed_mps": reader.optional("speed_mps", _float32),
            "bearing": reader.optional("bearing", _float32),
            "stop_sequence": reader.optional("current_stop_sequence", lambda column: as_numbers(column, pl.Int32)),
            "direction_id": reader.optional("direction_id", _direction),
            "start_date": reader.optional("start_date", _start_date, "bad_start"),
            "start_time_s": reader.optional("start_time", _start_time, "bad_start"),
            "route_id": reader.texts("route_id"),
            "trip_id": reader.texts("trip_id"),
            "stop_id": reader.texts("stop_id"),
            "current_status": reader.texts("current_status").replace(_STATUS_OF_NUMBER),
            "file": pl.Series([file], dtype=pl.Int32).new_from_index(0, len(frame)),
            "row": frame[ROW],
        },
        schema=FIX_SCHEMA,
        strict=False,
    )
    return reader.without_bad(fixes)


class LacksColumnsError(FeedError):
    """A table without a column that positions need."""


class _Rows:
    """Columns of a table, some of them under several names, and what is wrong in them."""

    def __init__(
        self, columns: Mapping[str, Sequence[pl.Series]], row: pl.Series, name: str, left_out: LeftOut
    ) -> None:
        self._columns = columns
        self._row = row
        self._name = name
        self._left_out = left_out
        self._bad = pl.zeros(len(row), dtype=pl.Boolean, eager=True)

    def texts(self, name: str) -> pl.Series:
        """Ids, and other texts."""
        return self._coalesced(name, ids, pl.String)

    def values(self, name: str, parse: Callable[[pl.Series], pl.Series]) -> pl.Series:
        """A required column; a row with a bad value is left out."""
        value = self._coalesced(name, parse, None)
        reason = "bad_time" if name == "timestamp" else "bad_position"
        what = "neither POSIX seconds or milliseconds nor ISO 8601" if name == "timestamp" else "no number"
        self._lose(self._wrong(name, value), reason, name, what)
        if name == "timestamp":
            self._lose(value.is_null(), "no_time", name, "missing")
        return value

    def optional(self, name: str, parse: Callable[[pl.Series], pl.Series], reason: str = "bad_value") -> pl.Series:
        """A column whose bad values are as if not given."""
        value = self._coalesced(name, parse, FIX_SCHEMA.get(name, pl.Int32))
        self._count(self._wrong(name, value), reason, name, "not understood")
        return value

    def without_bad(self, fixes: pl.DataFrame) -> pl.DataFrame:
        """The rows that are left."""
        self._lose(fixes["vehicle_id"].is_null(), "no_vehicle_id", "vehicle_id", "missing")
        return fixes.filter(~self._bad)

    def _coalesced(self, name: str, parse: Callable[[pl.Series], pl.Series], dtype: Any) -> pl.Series:
        parsed = [parse(column) for column in self._columns[name]]
        if not parsed:
            return pl.Series(name, [None], dtype=dtype).new_from_index(0, len(self._row))
        value = parsed[0]
        for other in parsed[1:]:
            value = value.zip_with(value.is_not_null(), other)
        return value

    def _wrong(self, name: str, value: pl.Series) -> pl.Series:
        wrong = pl.zeros(len(value), dtype=pl.Boolean, eager=True)
        if value.null_count():
            for column in self._columns[name]:
                wrong |= value.is_null() & given(column)
        return wrong

    def _lose(self, rows: pl.Series, reason: str, name: str, what: str) -> None:
        self._count(rows & ~self._bad, reason, name, what)
        self._bad |= rows

    def _count(self, rows: pl.Series, reason: str, name: str, what: str) -> None:
        if n := int(rows.sum()):
            at = int(rows.arg_true()[0])
            shown = next((column for column in self._columns[name] if given(column)[at]), None)
            text = f"{shown.name} {quoted(shown[at])}" if shown is not None else name
            self._left_out.add(reason, f"{self._name} row {self._row[at]}: {text} is {what}", n)


def table_of_snapshots(snapshots: Iterable[Any], name: str, left_out: LeftOut) -> pl.DataFrame:
    """Snapshots as a table of texts, with the column `ROW`; what is no object is left out as ``bad_row``."""
    rows: list[list[Any]] = []
    columns = sorted(NAMES)
    for number, snapshot in enumerate(snapshots):
        if not isinstance(snapshot, dict):
            left_out.add("bad_row", f"{name} row {number}: {quoted(snapshot)} is no object")
            continue
        vehicle = snapshot.get("vehicle")
        nested = {"vehicle.id": vehicle["id"]} if isinstance(vehicle, dict) and "id" in vehicle else {}
        rows.append([number, *(_scalar((nested | snapshot).get(column)) for column in columns)])
    frame = pl.DataFrame(rows, schema={ROW: pl.UInt32} | dict.fromkeys(columns, pl.String), orient="row")
    return frame.select(ROW, *(column for column in columns if frame[column].count()))


def _scalar(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value)


def _float64(column: pl.Series) -> pl.Series:
    return as_numbers(column, pl.Float64)


def _float32(column: pl.Series) -> pl.Series:
    return as_numbers(column, pl.Float32)


def _direction(column: pl.Series) -> pl.Series:
    value = as_numbers(column, pl.Int8)
    return value.set((value < 0).fill_null(False), None)


def _start_date(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.Datetime | pl.Date):
        column = column.dt.strftime("%Y%m%d")
    return _parsed(ids(column), parse_start_date)


def _start_time(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.Duration):
        return column.dt.total_seconds().cast(pl.Int32, strict=False)
    if isinstance(column.dtype, pl.Time):
        column = column.dt.strftime("%H:%M:%S")
    return _parsed(ids(column), parse_start_time)


def _parsed(text: pl.Series, parse: Callable[[str], int | None]) -> pl.Series:
    known = {value: number for value in text.drop_nulls().unique().to_list() if (number := parse(value)) is not None}
    return text.replace_strict(list(known), list(known.values()), default=None, return_dtype=pl.Int32)
