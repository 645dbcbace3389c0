"""Trips that run again and again: frequencies.txt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.mlops.transit.gtfs.files import FeedFiles, Notes
from etacore.mlops.transit.gtfs.stop_times import seconds_of_day


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


def read_frequencies(files: FeedFiles, trip_ids: tuple[str, ...], notes: Notes) -> Frequencies:
    """Read the file, which may be absent; the trips are those of the feed."""
    name = "frequencies.txt"
    frame = files.read_optional(name, ("trip_id", "start_time", "end_time", "headway_secs"), ("exact_times",))
    if frame is None or not len(frame):
        return Frequencies.none()
    trips = pl.DataFrame({"trip_id": trip_ids, "trip_ix": np.arange(len(trip_ids), dtype=np.int32)})
    frame = frame.join(trips, on="trip_id", how="left", maintain_order="left").with_columns(
        seconds_of_day(frame["start_time"]).alias("start_s"),
        seconds_of_day(frame["end_time"]).alias("end_s"),
        frame["headway_secs"].cast(pl.Float64, strict=False).round().cast(pl.Int32, strict=False).alias("headway_s"),
    )
    for bad, reason, show in (
        (pl.col("trip_ix").is_null(), "their trip is not in the feed, or left out", "trip_id"),
        (pl.col("start_s").is_null(), "start_time is no HH:MM:SS", "start_time"),
        (pl.col("end_s").is_null(), "end_time is no HH:MM:SS", "end_time"),
        (~(pl.col("headway_s") > 0).fill_null(False), "headway_secs is no number above 0", "headway_secs"),
        (pl.col("end_s") <= pl.col("start_s"), "end_time is not after start_time", "trip_id"),
    ):
        frame = notes.drop(name, frame, bad, reason, show)
    exact = pl.col("exact_times").str.strip_suffix(".0") == "1"
    frame = frame.with_columns(exact.fill_null(False).alias("exact"))
    frame = (
        frame.select("trip_ix", "start_s", "end_s", "headway_s", "exact").unique().sort("trip_ix", "start_s", "end_s")
    )
    return Frequencies(
        frame["trip_ix"].to_numpy().astype(np.int32),
        frame["start_s"].to_numpy().astype(np.int32),
        frame["end_s"].to_numpy().astype(np.int32),
        frame["headway_s"].to_numpy().astype(np.int32),
        frame["exact"].to_numpy().astype(bool),
    )
