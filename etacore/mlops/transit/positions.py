"""Reads recorded vehicle positions (Parquet, CSV, GTFS-Realtime captures) into columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.left_out import ADVICE, LeftOut, quoted
from etacore.mlops.transit.position_files import find_files, read_files
from etacore.schema import NO_SEQUENCE, NO_START_DATE, NO_START_TIME

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
        What the reader did not take, by reason: `etacore.mlops.transit.left_out.MEANING`.
    examples : mapping of str to str
        Of each reason the first: file, row or entity, and what stood there.
    n_files : int
        Of the recording, with those that could not be used.
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
    examples: Mapping[str, str] = field(default_factory=dict)
    n_files: int = 1

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
    """Read a recording; what is wrong in it costs itself, and is counted.

    Parameters
    ----------
    source : path, or paths
        Files, and folders with files at any depth, mixed as they come and told by their content, gzipped or not:
        Parquet and CSV tables, captures of GTFS-Realtime VehiclePositions (a message as it came, or in protobuf's
        JSON form), and JSON of snapshots (a list, or one a line). In a folder, files of other kinds and hidden ones
        are passed over. A table has ``vehicle_id, timestamp, lat, lon, route_id`` and, if there are any, ``trip_id,
        start_date, start_time, direction_id, speed_mps, bearing, current_stop_sequence, stop_id, current_status``; the
        names of snapshots (`etacore.mlops.transit.position_tables.ALIASES`) will do too. ``timestamp`` is POSIX
        seconds (above 1e11 milliseconds), a time type or ISO 8601 text (naive means UTC), and nothing else.
    feed : Feed, optional
        Gives a fix without a route that of its trip.

    Returns
    -------
    Positions
        Fixes of tables that are there twice (same vehicle, same time) are kept, for whoever builds on them to judge;
        those that captures repeat are there once. ``left_out`` counts what was not taken.

    Raises
    ------
    FeedError
        If a path is absent, no file can be used, or nothing usable is left: says what is wrong with the first, and
        what to do.
    """
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    if not paths:
        raise FeedError("no positions given", hint="give a Parquet or CSV file, or a folder of them or of captures")
    if absent := next((path for path in paths if not path.exists()), None):
        raise FeedError(f"{absent} does not exist", hint="give files of positions, or a folder of them")
    files = list(dict.fromkeys(file for path in paths for file in find_files(path)))
    left_out = LeftOut()
    fixes = _fill_routes(read_files(files, left_out, routes_known=feed is not None), feed)
    if without := fixes["route_id"].null_count():
        first = fixes.filter(pl.col("route_id").is_null()).row(0, named=True)
        trip = "no trip" if first["trip_id"] is None else f"trip {quoted(first['trip_id'])}"
        left_out.add("no_route", f"{files[first['file']].name} row {first['row']}: no route, {trip}", without)
        fixes = fixes.drop_nulls("route_id")
    if not len(fixes):
        raise _nothing_left(paths[0], left_out, feed)
    return _columns(fixes, left_out, len(files))


def _nothing_left(path: Path, left_out: LeftOut, feed: Feed | None) -> FeedError:
    reasons = [reason for reason, _ in left_out.most_common()]
    shown = next((left_out.examples[reason] for reason in reasons if reason in left_out.examples), None)
    hint = next((ADVICE[reason] for reason in reasons if reason in ADVICE), None)
    if feed is not None and hint == ADVICE["no_route"]:
        hint = "give the feed that was valid then: it knows none of these trips"
    return FeedError(
        f"{path} has no position that can be used ({left_out.listed() or 'the captures are empty'})"
        + (f"; for example {shown}" if shown else ""),
        hint=hint,
    )


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch; naive means UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * _US)


def from_us(time_us: int) -> datetime:
    """UTC time of microseconds since the epoch."""
    return datetime.fromtimestamp(int(time_us) / _US, UTC)


def _columns(fixes: pl.DataFrame, left_out: LeftOut, n_files: int) -> Positions:
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
        left_out=dict(left_out),
        examples=left_out.examples,
        n_files=n_files,
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
