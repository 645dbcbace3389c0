"""Reads recorded vehicle positions (Parquet, CSV, GTFS-Realtime captures) into columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.realtime import FIX_SCHEMA, is_capture, read_captures
from etacore.mlops.transit.tables import ids, numbers, read_table, times_us
from etacore.schema import NO_SEQUENCE, NO_START_DATE, NO_START_TIME

REQUIRED: Final = ("vehicle_id", "timestamp", "lat", "lon", "route_id")
ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "vehicle_id": ("vehicleId",),
    "timestamp": (),
    "lat": ("latitude",),
    "lon": ("longitude", "lng"),
    "speed_mps": ("speed",),
    "bearing": ("heading",),
    "route_id": ("route", "routeId"),
    "trip_id": ("trip", "tripId"),
    "current_stop_sequence": ("stop_sequence",),
    "stop_id": (),
    "current_status": (),
}
"""Columns of a recording, and other names that snapshots have for them; ``speed`` is m/s, as the loop takes it."""

TABLES: Final = (".parquet", ".csv", ".csv.gz")
_US: Final = 1_000_000
_MISSING: Final = {
    "stop_sequence": NO_SEQUENCE,
    "direction_id": -1,
    "start_date": NO_START_DATE,
    "start_time_s": NO_START_TIME,
}


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
    direction_id : ndarray of int8
        -1 if missing.
    start_date, start_time_s : ndarray of int32
        Which run of the trip: YYYYMMDD as a number, and seconds since noon minus 12 h of that date; `NO_START_DATE` and
        `NO_START_TIME` if missing.
    vehicle_id, route_id, trip_id, stop_id, current_status : TextColumn
    left_out : mapping of str to int
        What the reader did not take, by reason.
    """

    time_us: npt.NDArray[np.int64]
    lat: npt.NDArray[np.float64]
    lon: npt.NDArray[np.float64]
    speed_mps: npt.NDArray[np.float32]
    bearing_deg: npt.NDArray[np.float32]
    stop_sequence: npt.NDArray[np.int32]
    direction_id: npt.NDArray[np.int8]
    start_date: npt.NDArray[np.int32]
    start_time_s: npt.NDArray[np.int32]
    vehicle_id: TextColumn
    route_id: TextColumn
    trip_id: TextColumn
    stop_id: TextColumn
    current_status: TextColumn
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.time_us)

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The rows of an index or a mask."""
        columns: dict[str, Any] = {}
        for column in fields(self):
            whole = getattr(self, column.name)
            if isinstance(whole, TextColumn):
                columns[column.name] = whole.take(rows)
            else:
                columns[column.name] = whole[rows] if isinstance(whole, np.ndarray) else whole
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


def read_positions(source: str | Path | Iterable[str | Path], *, feed: Feed | None = None) -> Positions:
    """Read a recording.

    Parameters
    ----------
    source : path, or paths
        Files, and folders with files at any depth: Parquet and CSV tables and captures of GTFS-Realtime
        VehiclePositions (``.pb``, ``.bin``, either with ``.gz``), mixed as they come. In a folder, files of other
        kinds and hidden ones are passed over. A table has ``vehicle_id, timestamp, lat, lon, route_id`` and, if there
        are any, ``trip_id, speed_mps, bearing, current_stop_sequence, stop_id, current_status``; the names of
        snapshots (`ALIASES`) will do too. ``timestamp`` is POSIX seconds (above 1e11 milliseconds) or a time type
        (naive means UTC); in CSV also ISO 8601 text.
    feed : Feed, optional
        Gives a fix without a route that of its trip.

    Returns
    -------
    Positions
        Fixes of tables that are there twice (same vehicle, same time) are kept, for whoever builds on them to judge;
        those that captures repeat are there once. ``left_out`` counts what captures had and was not taken:
        ``repeated_fix``, ``no_route``, ``no_position``, ``no_time``, ``no_vehicle_id``, ``deleted_entity``,
        ``unreadable_file``, ``file_without_vehicles``.

    Raises
    ------
    FeedError
        If a path is absent, nothing is there to read, no capture can be read, or a table is no table, empty, lacks a
        required column, or has a row without vehicle, time or route: names file, row (the first is 0) and column.
    """
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    if not paths:
        raise FeedError("no positions given", hint="give a Parquet or CSV file, or a folder of them or of captures")
    files = list(dict.fromkeys(file for path in paths for file in _files(path)))
    left_out: Counter[str] = Counter()
    captures = [file for file in files if is_capture(file)]
    tables = [_read_fixes(file, feed) for file in files if not is_capture(file)]
    if captures:
        fixes = _fill_routes(read_captures(captures, left_out), feed)
        if without := fixes["route_id"].null_count():
            left_out["no_route"] += without
            fixes = fixes.drop_nulls("route_id")
        tables.append(fixes)
    fixes = pl.concat(tables)
    del tables
    if not len(fixes):
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "the captures are empty"
        hint = "give the GTFS feed too: it knows the routes of the trips" if left_out["no_route"] else None
        raise FeedError(f"{paths[0]} has no position that can be used ({reasons})", hint=hint)
    return _columns(fixes, dict(left_out))


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch; naive means UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * _US)


def from_us(time_us: int) -> datetime:
    """UTC time of microseconds since the epoch."""
    return datetime.fromtimestamp(int(time_us) / _US, UTC)


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    found = False
    for file in sorted(path.rglob("*")):
        is_hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if not is_hidden and (is_capture(file) or file.name.lower().endswith(TABLES)) and file.is_file():
            found = True
            yield file
    if not found:
        raise FeedError(f"{path} has no positions in it", hint="files of positions end in .parquet, .csv or .pb")


def _columns(fixes: pl.DataFrame, left_out: Mapping[str, int]) -> Positions:
    texts = {name: _text(fixes[name]) for name in ("vehicle_id", "route_id", "trip_id", "stop_id", "current_status")}
    time_us = fixes["time_us"].to_numpy()
    order = np.lexsort((texts["vehicle_id"].codes, time_us))

    def values(name: str) -> npt.NDArray[Any]:
        ordered: npt.NDArray[Any] = fixes[name].fill_null(_MISSING.get(name, float("nan"))).to_numpy()[order]
        return ordered

    return Positions(
        time_us=time_us[order],
        lat=values("lat"),
        lon=values("lon"),
        speed_mps=values("speed_mps"),
        bearing_deg=values("bearing"),
        stop_sequence=values("stop_sequence"),
        direction_id=values("direction_id"),
        start_date=values("start_date"),
        start_time_s=values("start_time_s"),
        **{name: text.take(order) for name, text in texts.items()},
        left_out=left_out,
    )


def _text(text: pl.Series) -> TextColumn:
    values = text.drop_nulls().unique().sort()
    lookup = pl.DataFrame({"text": values, "code": np.arange(len(values), dtype=np.int32)})
    codes = text.rename("text").to_frame().join(lookup, on="text", how="left", maintain_order="left")["code"]
    return TextColumn(codes.fill_null(-1).to_numpy(), tuple(values))


def _fill_routes(fixes: pl.DataFrame, feed: Feed | None) -> pl.DataFrame:
    """Routes of the trips where a fix gives none."""
    if feed is None or not fixes["route_id"].null_count():
        return fixes
    routes = pl.Series([pattern.route_id for pattern in feed.patterns], dtype=pl.String)
    of_trip = pl.DataFrame({"trip_id": feed.trips.trip_id, "of_trip": routes.gather(feed.trips.pattern_ix)})
    joined = fixes.join(of_trip, on="trip_id", how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce("route_id", "of_trip").alias("route_id")).drop("of_trip")


# -- tables ---------------------------------------------------------------------------------------------------------


def _read_fixes(path: Path, feed: Feed | None) -> pl.DataFrame:
    """A table of positions as `FIX_SCHEMA`."""
    frame = read_table(path, {name for names in ALIASES.items() for name in (names[0], *names[1])})
    own = {name: next((n for n in (name, *others) if n in frame.columns), None) for name, others in ALIASES.items()}
    absent = [name for name in REQUIRED if own[name] is None and not (name == "route_id" and feed and own["trip_id"])]
    if absent:
        has = ", ".join(read_table(path).columns)
        raise FeedError(f"{path} has no column {', '.join(absent)} (has: {has})")
    if not len(frame):
        raise FeedError(f"{path} has no rows")
    columns: dict[str, pl.Series] = {}
    for name, dtype in FIX_SCHEMA.items():
        source = own.get({"time_us": "timestamp", "stop_sequence": "current_stop_sequence"}.get(name, name))
        if source is None:
            columns[name] = pl.Series(name, [None], dtype=dtype).new_from_index(0, len(frame))
        elif name == "time_us":
            columns[name] = pl.Series(times_us(path, frame[source]))
        else:
            columns[name] = ids(frame[source]) if dtype == pl.String else numbers(path, frame[source], dtype)
        if source is not None:
            frame = frame.drop(source)
    fixes = _fill_routes(pl.DataFrame(columns), feed)
    for name in ("vehicle_id", "route_id"):
        if (missing := fixes[name].is_null()).any():
            raise FeedError(f"{path} row {int(missing.arg_true()[0])}: {own[name] or name} is missing")
    return fixes
