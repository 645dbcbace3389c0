"""The stop times of a GTFS feed: which row, and which trip, can be used."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs.files import DAMAGED, FeedFiles, Notes, shown

NO_TIME: Final = -1
"""``arrival_s`` of a stop for which the timetable gives no time."""

_NAME: Final = "stop_times.txt"
_DAY_S: Final = 24 * 3600
_HMS: Final = r"^(?<h>\d{1,3}):(?<m>[0-5]?\d)(?::(?<s>[0-5]?\d)(?:\.\d+)?)?$"


def read_stop_times(
    files: FeedFiles, trips: pl.DataFrame, left_out: set[str], stop_ids: pl.Series, notes: Notes
) -> pl.DataFrame:
    """The stop times of the trips that can be used, sorted by trip and sequence.

    Columns trip_ix, stop_ix, sequence, arrival_s, and departure_s of first stops where that is another time.

    Parameters
    ----------
    files : FeedFiles
        Of the feed.
    trips : polars.DataFrame
        With trip_id, and trip_ix, its row.
    left_out : set of str
        Trip ids that trips.txt has and that are not used: their rows are no orphans.
    stop_ids : polars.Series
        Of stops.txt; stop_ix is the index into them.
    notes : Notes
        Gets what was odd.
    """
    rows = files.rows(
        _NAME,
        ("trip_id", "stop_id", "stop_sequence"),
        ("arrival_time", "departure_time", "location_id", "location_group_id"),
    )
    if not {"arrival_time", "departure_time"} & set(rows.headings):
        raise FeedError(f"{files.path}: {_NAME} has neither arrival_time nor departure_time")
    stops = pl.DataFrame({"stop_id": stop_ids, "stop_ix": np.arange(len(stop_ids), dtype=np.int32)})
    frame = rows.frame.join(trips.select("trip_id", "trip_ix"), on="trip_id", how="left", maintain_order="left")
    frame = _drop_orphans(frame, left_out, notes)
    frame = frame.join(stops, on="stop_id", how="left", maintain_order="left")
    frame = frame.with_columns(_whole_numbers(frame["stop_sequence"]).alias("sequence"))
    _note_trips_without_stop_times(frame, rows.damaged, trips, notes)
    frame = _lose_damaged_trips(frame, rows.damaged, trips, notes)
    location = pl.col("location_id").is_not_null() | pl.col("location_group_id").is_not_null()
    flex = pl.col("stop_id").is_null() & location
    frame = _lose_trips(frame, flex, "they stop in an area (location_id, location_group_id), not at a stop_id", notes)
    reason = "stop_sequence is no whole number"
    frame = _lose_trips(frame, pl.col("sequence").is_null(), reason, notes, "stop_sequence")
    trips_with_stops = frame["trip_ix"].unique()
    frame = notes.drop(_NAME, frame, pl.col("stop_id").is_null(), "stop_id is missing", "trip_id")
    frame = notes.drop(_NAME, frame, pl.col("stop_ix").is_null(), "stop_id is not in stops.txt", "stop_id")
    frame = frame.with_columns(_arrivals(frame, notes).alias("arrival_s"))
    table = frame.select("trip_ix", "stop_ix", "sequence", "arrival_s", "row")
    departures = frame.filter(pl.col("departure_time") != pl.col("arrival_time")).select("row", "departure_time")
    del frame, rows
    table = table.sort("trip_ix", "sequence", maintain_order=True)
    table, contrary = _once_each(table, trips, notes)
    trips_with_stops = trips_with_stops.filter(~trips_with_stops.is_in(contrary))
    table = _past_midnight(table, trips, notes)
    table = _lose_short_trips(table, trips_with_stops, trips, notes)
    if untimed := int((table["arrival_s"] == NO_TIME).sum()):
        notes.add(f"{_NAME}: {untimed} stops without a time")
    return _with_departures(table, departures).drop("row")


def _with_departures(table: pl.DataFrame, departures: pl.DataFrame) -> pl.DataFrame:
    """Add departure_s of first stops: a run is named by the time at which it leaves."""
    is_first = pl.col("trip_ix").is_first_distinct()
    leaving = table.filter(is_first).select("row", "arrival_s").join(departures, on="row", maintain_order="left")
    leaving = leaving.with_columns(seconds_of_day(leaving["departure_time"]).alias("departure_s"))
    # Times past midnight have been moved on by a day with their arrivals.
    at_least = pl.when(pl.col("departure_s") >= pl.col("arrival_s")).then("departure_s")
    leaving = leaving.select("row", at_least.alias("departure_s"))
    return table.join(leaving, on="row", how="left", maintain_order="left")


def seconds_of_day(text: pl.Series) -> pl.Series:
    """Times H:MM or H:MM:SS as seconds, null where there is none."""
    # A feed has few distinct times: parse those, then spread them over the rows.
    distinct = text.unique().drop_nulls().to_frame("text")
    parts = pl.col("text").str.extract_groups(_HMS)
    hours, minutes, rest = (parts.struct.field(unit).cast(pl.Int32) for unit in ("h", "m", "s"))
    seconds = hours * 3600 + minutes * 60 + rest.fill_null(0)
    distinct = distinct.with_columns(pl.Series("seconds", distinct.select(seconds).to_series(), dtype=pl.Int32))
    return text.to_frame("text").join(distinct, on="text", how="left", maintain_order="left")["seconds"]


def _whole_numbers(text: pl.Series) -> pl.Series:
    value = text.cast(pl.Int32, strict=False)
    if value.null_count() == text.null_count():
        return value
    number = text.cast(pl.Float64, strict=False)
    whole = number.cast(pl.Int32, strict=False)
    return pl.select(pl.when(whole == number).then(whole)).to_series()


def _drop_orphans(frame: pl.DataFrame, left_out: set[str], notes: Notes) -> pl.DataFrame:
    if not frame["trip_ix"].null_count():
        return frame
    frame = notes.drop(_NAME, frame, pl.col("trip_id").is_null(), "trip_id is missing", "stop_id")
    orphan = pl.col("trip_ix").is_null() & ~pl.col("trip_id").is_in(list(left_out))
    orphans = frame.filter(orphan)
    if n := len(orphans):
        example = f"trip {shown(orphans['trip_id'][0])}, row {orphans['row'][0]}"
        notes.add(f"{_NAME}: {n} rows of trips that trips.txt does not have are left out ({example})")
    return frame.drop_nulls("trip_ix")


def _note_trips_without_stop_times(
    frame: pl.DataFrame, damaged: pl.DataFrame, trips: pl.DataFrame, notes: Notes
) -> None:
    named = pl.col("trip_ix").is_in(frame["trip_ix"].unique().to_list())
    unnamed = trips.filter(~named & ~pl.col("trip_id").is_in(damaged["trip_id"].drop_nulls().to_list()))
    if n := len(unnamed):
        notes.left_out("trips.txt", n, "trips", f"{_NAME} does not have them", f"trip {shown(unnamed['trip_id'][0])}")


def _lose_damaged_trips(frame: pl.DataFrame, damaged: pl.DataFrame, trips: pl.DataFrame, notes: Notes) -> pl.DataFrame:
    """Leave out the trips that a damaged row names: one of their stops is not known."""
    if not len(damaged):
        return frame
    damaged = damaged.join(trips.select("trip_id", "trip_ix"), on="trip_id", how="left", maintain_order="left")
    lost = damaged.drop_nulls("trip_ix")
    nameless = damaged.filter(pl.col("trip_ix").is_null())
    if n := len(nameless):
        notes.left_out(_NAME, n, "rows", DAMAGED, f"row {nameless['row'][0]}")
    if n := lost["trip_ix"].n_unique():
        example = f"trip {shown(lost['trip_id'][0])}, row {lost['row'][0]}"
        notes.left_out(_NAME, n, "trips", f"rows that are no stop time: {DAMAGED}", example)
    return frame.filter(~pl.col("trip_ix").is_in(lost["trip_ix"].to_list()))


def _lose_trips(frame: pl.DataFrame, bad: pl.Expr, reason: str, notes: Notes, show: str | None = None) -> pl.DataFrame:
    """Leave out every trip that has a row for which `bad` is true."""
    marked = frame.filter(bad)
    if not len(marked):
        return frame
    value = "" if show is None or marked[show][0] is None else f", {show} {shown(marked[show][0])}"
    example = f"trip {shown(marked['trip_id'][0])}{value}, row {marked['row'][0]}"
    lost = marked["trip_ix"].unique()
    notes.left_out(_NAME, len(lost), "trips", reason, example)
    return frame.filter(~pl.col("trip_ix").is_in(lost.to_list()))


def _arrivals(frame: pl.DataFrame, notes: Notes) -> pl.Series:
    """Arrival, else departure, in seconds since the start of the service day; `NO_TIME` without both."""
    best = pl.repeat(None, len(frame), dtype=pl.Int32, eager=True)
    for column in ("arrival_time", "departure_time"):
        if not best.null_count():
            break
        text = frame[column]
        value = seconds_of_day(text)
        # Only what is wanted is a reason to speak.
        wrong = text.is_not_null() & value.is_null() & best.is_null()
        if n := int(wrong.sum()):
            at = int(wrong.arg_true()[0])
            example = f"{shown(text[at])}, row {frame['row'][at]}"
            notes.add(f"{_NAME}: {n} {column} are no HH:MM:SS and count as not given ({example})")
        best = pl.select(pl.coalesce(best, value)).to_series()
    return best.fill_null(NO_TIME)


def _once_each(table: pl.DataFrame, trips: pl.DataFrame, notes: Notes) -> tuple[pl.DataFrame, list[int]]:
    """Identical rows once; trips with contradictory ones are left out, and returned."""
    trip, sequence, stop, arrival = (
        table[column].to_numpy() for column in ("trip_ix", "sequence", "stop_ix", "arrival_s")
    )
    twice = np.flatnonzero((trip[1:] == trip[:-1]) & (sequence[1:] == sequence[:-1])) + 1
    if not twice.size:
        return table, []
    same = (stop[twice] == stop[twice - 1]) & (arrival[twice] == arrival[twice - 1])
    again, contrary = twice[same], twice[~same]
    keep = np.ones(len(table), dtype=bool)
    keep[again] = False
    if again.size:
        example = _example(table, trips, int(again[0]))
        notes.left_out(_NAME, len(again), "rows", "they are there twice, and count once", example)
    lost = np.unique(trip[contrary])
    if lost.size:
        reason = "a stop_sequence is there twice with different stops or times"
        notes.left_out(_NAME, len(lost), "trips", reason, _example(table, trips, int(contrary[0])))
        keep &= ~np.isin(trip, lost)
    return table.filter(pl.Series(keep)), lost.tolist()


def _past_midnight(table: pl.DataFrame, trips: pl.DataFrame, notes: Notes) -> pl.DataFrame:
    """Times that start at 00:00 again within a trip go on past 24:00, as GTFS wants it."""
    arrival_s = table["arrival_s"].to_numpy()
    known = np.flatnonzero(arrival_s != NO_TIME)
    time_s, trip = arrival_s[known], table["trip_ix"].to_numpy()[known]
    later_s = np.diff(time_s, prepend=time_s[:1])
    later_s[1:][trip[1:] != trip[:-1]] = 0
    back = later_s < 0
    if not back.any():
        return table
    new_day = later_s < -_DAY_S // 2
    if (falls := np.flatnonzero(back & ~new_day)).size:
        n, example = len(np.unique(trip[falls])), _example(table, trips, int(known[falls[0]]))
        notes.add(f"{_NAME}: {n} trips have times that go back, as they stand ({example})")
    if not new_day.any():
        return table
    n, example = len(np.unique(trip[new_day])), _example(table, trips, int(known[np.argmax(new_day)]))
    notes.add(f"{_NAME}: {n} trips go on at 00:00 after midnight, which counts as 24:00 ({example})")
    days = np.cumsum(new_day)
    first_of_trip = np.searchsorted(trip, trip, side="left")
    arrival_s = arrival_s.copy()
    arrival_s[known] += (days - days[first_of_trip]).astype(np.int32) * _DAY_S
    return table.with_columns(pl.Series("arrival_s", arrival_s))


def _lose_short_trips(
    table: pl.DataFrame, trips_with_stops: pl.Series, trips: pl.DataFrame, notes: Notes
) -> pl.DataFrame:
    """Leave out the trips that have one stop, or lost all that they had."""
    n_stops = np.bincount(table["trip_ix"].to_numpy(), minlength=len(trips))
    short = trips_with_stops.filter(pl.Series(n_stops < 2)[trips_with_stops]).sort()
    if not len(short):
        return table
    notes.left_out(
        _NAME, len(short), "trips", "they have fewer than two stops", f"trip {shown(trips['trip_id'][short[0]])}"
    )
    return table.filter(~pl.col("trip_ix").is_in(short.to_list()))


def _example(table: pl.DataFrame, trips: pl.DataFrame, ix: int) -> str:
    return f"trip {shown(trips['trip_id'][int(table['trip_ix'][ix])])}, row {table['row'][ix]}"
