"""The trips of a GTFS feed and the patterns that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.mlops.transit.gtfs.files import FeedFiles, Notes, shown
from etacore.mlops.transit.gtfs.places import Stops
from etacore.mlops.transit.gtfs.stop_times import NO_TIME
from etacore.mlops.transit.patterns import NO_DIRECTION, Pattern, pattern_id


@dataclass(frozen=True, slots=True, eq=False)
class Trips:
    """The trips of a feed, in columns.

    Attributes
    ----------
    trip_id, service_id : tuple of str, length n
    pattern_ix : ndarray of int32, shape (n,)
        Index into ``Feed.patterns``.
    start_s, end_s : ndarray of int32, shape (n,)
        First known time, in the order of the stops (of the first stop that of departure), and latest one since the
        start of the service day (noon minus 12 h), may exceed 24 h; `NO_TIME` if a trip has no times.
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


def read_trips(files: FeedFiles, notes: Notes) -> tuple[pl.DataFrame, set[str]]:
    """The trips, and the ids of those that are left out."""
    name = "trips.txt"
    frame = files.read(name, ("trip_id", "route_id", "service_id"), ("direction_id", "shape_id"))
    frame = notes.drop(name, frame, pl.col("trip_id").is_null(), "trip_id is missing", "route_id")
    routeless = pl.col("route_id").is_null()
    left_out = set(frame.filter(routeless)["trip_id"])
    frame = notes.drop(name, frame, routeless, "route_id is missing", "trip_id")
    direction = pl.col("direction_id").str.strip_suffix(".0")
    odd = frame.filter(~direction.is_in(["0", "1"]))
    if n := len(odd):
        example = f"trip {shown(odd['trip_id'][0])}, direction_id {shown(odd['direction_id'][0])}, row {odd['row'][0]}"
        notes.add(f"{name}: {n} trips get no direction: direction_id is neither 0 nor 1 ({example})")
    known = pl.when(direction.is_in(["0", "1"])).then(direction.cast(pl.Int32, strict=False))
    frame = frame.with_columns(pl.col("service_id").fill_null(""), known.fill_null(NO_DIRECTION).alias("direction_id"))
    again = ~pl.col("trip_id").is_first_distinct()
    if frame.select(again.any()).item():
        other = pl.struct("route_id", "service_id", "direction_id", "shape_id")
        contrary = frame.filter(again & (other != other.first().over("trip_id")))
        if n := contrary["trip_id"].n_unique():
            example = f"trip {shown(contrary['trip_id'][0])}, row {contrary['row'][0]}"
            notes.left_out(name, n, "trips", "they are there twice with different values", example)
            left_out.update(contrary["trip_id"])
            frame = frame.filter(~pl.col("trip_id").is_in(contrary["trip_id"].to_list()))
        frame = notes.drop(name, frame, again, "they are there twice, and count once", "trip_id")
    return frame.drop("row").with_row_index("trip_ix").cast({"trip_ix": pl.Int32}), left_out


def build_patterns(trips: pl.DataFrame, stops: Stops, stop_times: pl.DataFrame) -> tuple[tuple[Pattern, ...], Trips]:
    """The patterns of trips, and the trips that have stop times, in the order of trips.txt."""
    # Two trips share a pattern if route, direction, shape and the whole list of stops with their sequences agree.
    per_trip = (
        stop_times.group_by("trip_ix", maintain_order=True)
        .agg(
            pl.concat_str("stop_ix", "sequence", separator=":").str.join(",").alias("stop_list"),
            pl.len().alias("n_stops"),
            pl.coalesce(
                pl.col("departure_s").first(), pl.col("arrival_s").filter(pl.col("arrival_s") != NO_TIME).first()
            )
            .fill_null(NO_TIME)
            .alias("start_s"),
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
