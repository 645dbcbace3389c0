"""Reads a GTFS feed (zip file or folder) into columns.

GTFS is plain CSV, so the files are read by polars, every column as text, and
turned into numbers here, where a bad value can still be named by file and row.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.patterns import NO_DIRECTION, Pattern, Shape, pattern_id

NO_TIME: Final = -1
"""``arrival_s`` of a stop for which the timetable gives no time."""

_EPOCH: Final = date(1970, 1, 1)
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, slots=True, eq=False)
class Trips:
    """The trips of a feed, in columns.

    Attributes
    ----------
    trip_id, service_id : tuple of str, length n
    pattern_ix : ndarray of int32, shape (n,)
        Index into ``Feed.patterns``.
    start_s, end_s : ndarray of int32, shape (n,)
        First and last known time since the start of the service day (noon
        minus 12 h), may exceed 24 h; `NO_TIME` if a trip has no times.
    offset : ndarray of int64, shape (n + 1,)
        Trip i owns ``arrival_s[offset[i]:offset[i + 1]]``, one entry per stop of its pattern.
    arrival_s : ndarray of int32, shape (n_stop_times,)
    """

    trip_id: tuple[str, ...]
    service_id: tuple[str, ...]
    pattern_ix: npt.NDArray[np.int32]
    start_s: npt.NDArray[np.int32]
    end_s: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    arrival_s: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.trip_id)


@dataclass(frozen=True, slots=True, eq=False)
class Frequencies:
    """When frequency-based trips run (frequencies.txt), in columns; a trip has a row for each span of time.

    Attributes
    ----------
    trip_ix : ndarray of int32, shape (n,)
        Index into ``Feed.trips``, ascending.
    start_s, end_s : ndarray of int32, shape (n,)
        First start, and the time before which the last one is, since the start of the service day.
    headway_s : ndarray of int32, shape (n,)
        Seconds between two starts.
    exact : ndarray of bool, shape (n,)
        Whether the starts are a timetable (``exact_times`` 1).
    """

    trip_ix: npt.NDArray[np.int32]
    start_s: npt.NDArray[np.int32]
    end_s: npt.NDArray[np.int32]
    headway_s: npt.NDArray[np.int32]
    exact: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.trip_ix)

    @classmethod
    def none(cls) -> Frequencies:
        """Of a feed in which every trip runs once a day."""
        empty = np.empty(0, np.int32)
        return cls(empty, empty, empty, empty, np.empty(0, bool))


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """A timetable.

    Attributes
    ----------
    time_zone : str
        Of the first agency, e.g. ``America/Toronto``.
    patterns : tuple of Pattern
    trips : Trips
    shapes : dict of shape id to Shape
    service_days : dict of service id to ndarray of int32
        Days since 1970-01-01 on which the service runs, ascending.
    notes : tuple of str
        What was odd and how it was taken.
    frequencies : Frequencies
        Of the trips that run more than once a day.
    """

    time_zone: str
    patterns: tuple[Pattern, ...]
    trips: Trips
    shapes: dict[str, Shape]
    service_days: dict[str, npt.NDArray[np.int32]]
    notes: tuple[str, ...] = field(default=())
    frequencies: Frequencies = field(default_factory=Frequencies.none)

    def trip_patterns(self) -> dict[str, str]:
        """Pattern id of each trip id, as `etacore.mlops.transit.patterns.seed_pairs` wants it."""
        names = [pattern.pattern_id for pattern in self.patterns]
        return {t: names[ix] for t, ix in zip(self.trips.trip_id, self.trips.pattern_ix.tolist(), strict=True)}

    def services_on(self, day: date) -> set[str]:
        """Service ids that run on a day."""
        number = (day - _EPOCH).days
        return {name for name, days in self.service_days.items() if number in days}


def read_feed(path: str | Path) -> Feed:
    """Read a GTFS feed.

    Parameters
    ----------
    path : str or Path
        A zip file (the text files may lie in a folder inside it) or a folder.

    Raises
    ------
    FeedError
        If a required file or column is missing or a value cannot be used;
        the message names file, row (the heading is row 1) and reason.
    """
    files = _Files(Path(path))
    notes: list[str] = []
    stops = _read_stops(files, notes)
    trips = _read_trips(files)
    stop_times = _read_stop_times(files, trips, stops, notes)
    patterns, columns = _build_patterns(trips, stops, stop_times)
    shapes = _read_shapes(files, notes)
    missing = {p.shape_id for p in patterns if p.shape_id is not None} - shapes.keys()
    if missing:
        notes.append(f"{len(missing)} shape_id of trips.txt are not in shapes.txt: those patterns have no shape")
    if (frequencies := files.read("frequencies.txt", (), required=False)) is not None and len(frequencies):
        notes.append(f"frequencies.txt: {len(frequencies)} rows noted, not expanded to single trips")
    return Feed(_time_zone(files), patterns, columns, shapes, _service_days(files, notes), tuple(notes))


class _Files:
    """Opens the text files of a feed, wherever they lie, and reads them as text columns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            self._names = {entry.name: entry.name for entry in path.iterdir()}
            self._archive = None
        elif path.is_file():
            try:
                self._archive = zipfile.ZipFile(path)
            except zipfile.BadZipFile as error:
                raise FeedError(f"{path} is neither a folder nor a zip file ({error})") from None
            depth = sorted(self._archive.namelist(), key=lambda name: -name.count("/"))
            self._names = {name.rpartition("/")[2]: name for name in depth if not name.startswith("__MACOSX/")}
        else:
            raise FeedError(f"{path} does not exist", hint="give a GTFS zip file or a folder with its text files")

    def _bytes(self, name: str) -> bytes | None:
        if name not in self._names:
            return None
        if self._archive is None:
            return (self.path / name).read_bytes()
        try:
            return self._archive.read(self._names[name])
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise FeedError(f"{self.path}: {name} cannot be unpacked ({error})") from None

    def read(self, name: str, columns: Sequence[str], *, required: bool = True) -> pl.DataFrame | None:
        """All columns of a file as stripped text, empty = null; None if an optional file is absent or empty."""
        data = self._bytes(name)
        if data is None or not data.strip():
            if required:
                raise FeedError(f"{self.path}: {name} is {'missing' if data is None else 'empty'}")
            return None
        frame = self._parse(name, data.removeprefix(b"\xef\xbb\xbf"))
        frame = frame.rename({c: c.strip().strip('"').lower() for c in frame.columns})
        absent = [column for column in columns if column not in frame.columns]
        if absent:
            raise FeedError(f"{self.path}: {name} has no column {', '.join(absent)} (has: {', '.join(frame.columns)})")
        text = pl.all().str.strip_chars(" \t\r\n\u00a0")
        return frame.select(pl.when(text == "").then(None).otherwise(text).name.keep())

    def _parse(self, name: str, data: bytes) -> pl.DataFrame:
        try:
            return pl.read_csv(data, infer_schema=False, encoding="utf8")
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
        try:
            rows = csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)
            width = len(next(rows))
            for number, row in enumerate(rows, start=2):
                if len(row) > width:
                    raise FeedError(f"{self.path}: {name} row {number} has {len(row)} fields, the heading has {width}")
        except UnicodeDecodeError as error:
            number = data.count(b"\n", 0, error.start) + 1
            raise FeedError(f"{self.path}: {name} row {number} is not UTF-8") from None
        except csv.Error as error:
            raise FeedError(f"{self.path}: {name} row {rows.line_num} is not CSV ({error})") from None
        raise FeedError(f"{self.path}: {name} is not CSV ({reason})")

    def bad(self, name: str, row_ix: int, reason: str) -> FeedError:
        """The error for row `row_ix` of the data (0 = the row under the heading)."""
        return FeedError(f"{self.path}: {name} row {row_ix + 2}: {reason}")

    def check(self, name: str, bad: pl.Series, values: pl.Series, reason: str) -> None:
        """Raise for the first row that is marked in `bad`."""
        if (first := bad.arg_true()).len():
            row_ix = int(first[0])
            raise self.bad(name, row_ix, f"{values.name} {values[row_ix]!r} {reason}")

    def numbers(self, frame: pl.DataFrame, name: str, column: str, low: float, high: float) -> npt.NDArray[np.float64]:
        """A column as float64, NaN where empty, each value finite and in range."""
        text = frame[column]
        value = text.cast(pl.Float64, strict=False)
        self.check(name, text.is_not_null() & ~(value.is_finite() & value.is_between(low, high)).fill_null(False),
                   text, f"is no number in [{low:g}, {high:g}]")  # fmt: skip
        return value.fill_null(float("nan")).to_numpy()

    def integers(self, frame: pl.DataFrame, name: str, column: str) -> npt.NDArray[np.int64]:
        """A column as int64, each value given."""
        text = frame[column]
        value = text.cast(pl.Int64, strict=False)
        self.check(name, value.is_null() | ~value.is_between(-(2**31) + 1, 2**31 - 1), text, "is no whole number")
        return value.to_numpy()


@dataclass(slots=True, eq=False)
class _Stops:
    ids: pl.Series
    name: list[str]
    lat: npt.NDArray[np.float64]
    lon: npt.NDArray[np.float64]


def _read_stops(files: _Files, notes: list[str]) -> _Stops:
    frame = files.read("stops.txt", ("stop_id", "stop_lat", "stop_lon"))
    assert frame is not None
    _unique_ids(files, "stops.txt", frame["stop_id"])
    lat = files.numbers(frame, "stops.txt", "stop_lat", -90, 90)
    lon = files.numbers(frame, "stops.txt", "stop_lon", -180, 180)
    nowhere = np.isnan(lat) | np.isnan(lon)
    if nowhere.any():
        lat, lon = np.where(nowhere, np.nan, lat), np.where(nowhere, np.nan, lon)
        notes.append(f"stops.txt: {int(nowhere.sum())} stops without coordinates")
    names = frame["stop_name"].fill_null("").to_list() if "stop_name" in frame.columns else [""] * len(frame)
    return _Stops(frame["stop_id"], names, lat, lon)


def _unique_ids(files: _Files, name: str, ids: pl.Series) -> None:
    files.check(name, ids.is_null(), ids, "is missing")
    files.check(name, ~ids.is_first_distinct(), ids, "is there twice")


def _read_trips(files: _Files) -> pl.DataFrame:
    frame = files.read("trips.txt", ("trip_id", "route_id", "service_id"))
    assert frame is not None
    _unique_ids(files, "trips.txt", frame["trip_id"])
    files.check("trips.txt", frame["route_id"].is_null(), frame["route_id"], "is missing")
    empty = pl.lit(None, dtype=pl.String)
    frame = frame.with_columns(empty.alias(c) for c in ("direction_id", "shape_id") if c not in frame.columns)
    direction = frame["direction_id"]
    files.check("trips.txt", ~direction.is_in(["0", "1"]).fill_null(True), direction, "is neither 0 nor 1")
    return frame.select(
        "trip_id",
        "route_id",
        pl.col("service_id").fill_null(""),
        pl.col("direction_id").cast(pl.Int32).fill_null(NO_DIRECTION),
        "shape_id",
        pl.int_range(pl.len(), dtype=pl.Int32).alias("trip_ix"),
    )


def _read_stop_times(files: _Files, trips: pl.DataFrame, stops: _Stops, notes: list[str]) -> pl.DataFrame:
    """Columns trip_ix, stop_ix, stop_id, sequence, arrival_s; sorted by trip and sequence."""
    name = "stop_times.txt"
    frame = files.read(name, ("trip_id", "stop_id", "stop_sequence"))
    assert frame is not None
    stop_lookup = pl.DataFrame({"stop_id": stops.ids, "stop_ix": np.arange(len(stops.ids), dtype=np.int32)})
    frame = frame.join(trips.select("trip_id", "trip_ix"), on="trip_id", how="left", maintain_order="left")
    frame = frame.join(stop_lookup, on="stop_id", how="left", maintain_order="left")
    files.check(name, frame["stop_ix"].is_null(), frame["stop_id"], "is not in stops.txt")
    sequence = files.integers(frame, name, "stop_sequence")
    arrival_s = _times(files, frame, name)
    table = pl.DataFrame(
        {
            "trip_ix": frame["trip_ix"],
            "stop_ix": frame["stop_ix"],
            "stop_id": frame["stop_id"],
            "sequence": sequence,
            "arrival_s": arrival_s,
            "row_ix": np.arange(len(frame), dtype=np.int64),
        }
    )
    if orphans := table["trip_ix"].null_count():
        notes.append(f"{name}: {orphans} rows of trips that trips.txt does not have are left out")
        table = table.drop_nulls("trip_ix")
    if not len(table):
        raise FeedError(f"{files.path}: {name} has no stop times of any trip in trips.txt")
    table = table.sort("trip_ix", "sequence", maintain_order=True)
    trip, order = table["trip_ix"].to_numpy(), table["sequence"].to_numpy()
    twice = np.flatnonzero((trip[1:] == trip[:-1]) & (order[1:] == order[:-1]))
    if twice.size:
        row_ix = int(table["row_ix"][int(twice[0]) + 1])
        raise files.bad(name, row_ix, f"stop_sequence {int(order[twice[0]])} is there twice in its trip")
    if untimed := int((table["arrival_s"] == NO_TIME).sum()):
        notes.append(f"{name}: {untimed} stops without a time")
    return table


def _times(files: _Files, frame: pl.DataFrame, name: str) -> npt.NDArray[np.int32]:
    """Arrival, else departure, in seconds since the start of the service day; `NO_TIME` without both."""
    best: pl.Series | None = None
    for column in ("arrival_time", "departure_time"):
        if column not in frame.columns:
            continue
        text = frame[column]
        # A feed has few distinct times: parse those, then spread them over the rows.
        distinct = text.unique().drop_nulls().to_frame("text")
        parts = pl.col("text").str.extract_groups(r"^(?<h>\d{1,3}):(?<m>[0-5]\d):(?<s>[0-5]\d)$")
        seconds = sum(parts.struct.field(f).cast(pl.Int32) * k for f, k in (("h", 3600), ("m", 60), ("s", 1)))
        distinct = distinct.with_columns(pl.Series("seconds", distinct.select(seconds).to_series(), dtype=pl.Int32))
        value = frame.select(text.alias("text")).join(distinct, on="text", how="left", maintain_order="left")["seconds"]
        files.check(name, text.is_not_null() & value.is_null(), text, "is no HH:MM:SS")
        best = value if best is None else pl.select(pl.coalesce(best, value)).to_series()
    if best is None:
        raise FeedError(f"{files.path}: {name} has neither arrival_time nor departure_time")
    return best.fill_null(NO_TIME).to_numpy().astype(np.int32)


def _build_patterns(trips: pl.DataFrame, stops: _Stops, stop_times: pl.DataFrame) -> tuple[tuple[Pattern, ...], Trips]:
    # Two trips share a pattern if route, direction, shape and the whole list of stops with their sequences agree.
    per_trip = (
        stop_times.group_by("trip_ix", maintain_order=True)
        .agg(
            pl.concat_str("stop_ix", "sequence", separator=":").str.join(",").alias("stop_list"),
            pl.len().alias("n_stops"),
            pl.col("arrival_s").filter(pl.col("arrival_s") != NO_TIME).min().fill_null(NO_TIME).alias("start_s"),
            pl.col("arrival_s").max().alias("end_s"),
        )
        .join(trips, on="trip_ix", how="left", maintain_order="left")
    )
    same = ["route_id", "direction_id", "shape_id", "stop_list"]
    first_row = per_trip["n_stops"].cum_sum() - per_trip["n_stops"]
    per_trip = per_trip.with_columns(first_row.alias("first_row"))
    distinct = per_trip.unique(same, keep="first", maintain_order=True).with_row_index("pattern_ix")
    per_trip = per_trip.join(
        distinct.select(*same, "pattern_ix"), on=same, how="left", nulls_equal=True, maintain_order="left"
    )
    stop_ix, sequence = stop_times["stop_ix"].to_numpy(), stop_times["sequence"].to_numpy()
    all_ids = stops.ids.to_list()
    patterns = []
    for row in distinct.iter_rows(named=True):
        rows = slice(row["first_row"], row["first_row"] + row["n_stops"])
        ids = tuple(all_ids[ix] for ix in stop_ix[rows])
        patterns.append(
            Pattern(
                pattern_id(row["route_id"], row["direction_id"], ids, sequence[rows], row["shape_id"]),
                row["route_id"],
                row["direction_id"],
                row["shape_id"],
                ids,
                stops.lat[stop_ix[rows]],
                stops.lon[stop_ix[rows]],
                sequence[rows].astype(np.int32),
                tuple(stops.name[ix] for ix in stop_ix[rows]),
            )
        )
    columns = Trips(
        tuple(per_trip["trip_id"]),
        tuple(per_trip["service_id"]),
        per_trip["pattern_ix"].to_numpy().astype(np.int32),
        per_trip["start_s"].to_numpy().astype(np.int32),
        per_trip["end_s"].to_numpy().astype(np.int32),
        np.concatenate(([0], per_trip["n_stops"].to_numpy())).cumsum().astype(np.int64),
        stop_times["arrival_s"].to_numpy().astype(np.int32),
    )
    return tuple(patterns), columns


def _read_shapes(files: _Files, notes: list[str]) -> dict[str, Shape]:
    name = "shapes.txt"
    frame = files.read(name, ("shape_id", "shape_pt_lat", "shape_pt_lon", "shape_pt_sequence"), required=False)
    if frame is None or not len(frame):
        return {}
    files.check(name, frame["shape_id"].is_null(), frame["shape_id"], "is missing")
    for column in ("shape_pt_lat", "shape_pt_lon"):
        files.check(name, frame[column].is_null(), frame[column], "is missing")
    table = pl.DataFrame(
        {
            "shape_id": frame["shape_id"],
            "lat": files.numbers(frame, name, "shape_pt_lat", -90, 90),
            "lon": files.numbers(frame, name, "shape_pt_lon", -180, 180),
            "sequence": files.integers(frame, name, "shape_pt_sequence"),
        }
    ).sort("sequence", maintain_order=True)
    shapes = {}
    for (shape_id,), points in table.group_by(["shape_id"], maintain_order=True):
        if len(points) < 2:
            notes.append(f"{name}: shape {shape_id} has one point and is left out")
            continue
        shapes[str(shape_id)] = Shape(points["lat"].to_numpy(), points["lon"].to_numpy())
    return shapes


def _time_zone(files: _Files) -> str:
    frame = files.read("agency.txt", ("agency_timezone",))
    assert frame is not None
    if not len(frame) or frame["agency_timezone"][0] is None:
        raise FeedError(f"{files.path}: agency.txt gives no agency_timezone")
    name = str(frame["agency_timezone"][0])
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise files.bad("agency.txt", 0, f"agency_timezone {name!r} is not known") from None
    return name


def _service_days(files: _Files, notes: list[str]) -> dict[str, npt.NDArray[np.int32]]:
    days: dict[str, set[int]] = {}
    calendar = files.read("calendar.txt", ("service_id", *_WEEKDAYS, "start_date", "end_date"), required=False)
    for row_ix, row in enumerate(calendar.iter_rows(named=True) if calendar is not None else ()):
        first = _date(files, "calendar.txt", row_ix, "start_date", row)
        last = _date(files, "calendar.txt", row_ix, "end_date", row)
        runs = [row[name] == "1" for name in _WEEKDAYS]
        span = ((first + timedelta(n)) for n in range((last - first).days + 1))
        days.setdefault(row["service_id"], set()).update((d - _EPOCH).days for d in span if runs[d.weekday()])
    dates = files.read("calendar_dates.txt", ("service_id", "date", "exception_type"), required=False)
    for row_ix, row in enumerate(dates.iter_rows(named=True) if dates is not None else ()):
        number = (_date(files, "calendar_dates.txt", row_ix, "date", row) - _EPOCH).days
        service = days.setdefault(row["service_id"], set())
        if row["exception_type"] == "1":
            service.add(number)
        elif row["exception_type"] == "2":
            service.discard(number)
        else:
            raise files.bad(
                "calendar_dates.txt", row_ix, f"exception_type {row['exception_type']!r} is neither 1 nor 2"
            )
    if not days:
        notes.append("neither calendar.txt nor calendar_dates.txt says when services run")
    return {name: np.array(sorted(numbers), dtype=np.int32) for name, numbers in days.items()}


def _date(files: _Files, name: str, row_ix: int, column: str, row: dict[str, str | None]) -> date:
    text = row[column] or ""
    try:
        if len(text) != 8:
            raise ValueError
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        raise files.bad(name, row_ix, f"{column} {text!r} is no date YYYYMMDD") from None
