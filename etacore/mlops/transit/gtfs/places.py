"""Where things are in a GTFS feed: stops.txt and shapes.txt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.mlops.transit.gtfs.files import FeedFiles, Notes, shown
from etacore.mlops.transit.patterns import Shape

_F8 = npt.NDArray[np.float64]
_NEAR_DEG: Final = 1.0
_WHY: Final = ("their coordinates are not given", "their coordinates are no degrees", "their coordinates are 0, 0")


@dataclass(frozen=True, slots=True, eq=False)
class Stops:
    """The stops, in columns; ``lat`` and ``lon`` are NaN, and ``problem`` above 0, where a stop is not known to be."""

    ids: pl.Series
    name: list[str]
    lat: _F8
    lon: _F8
    problem: npt.NDArray[np.int8]
    row: pl.Series


def read_stops(files: FeedFiles, notes: Notes) -> Stops:
    """Every stop of the file, stations and entrances too; of several rows of one stop the first counts."""
    name = "stops.txt"
    frame = files.read(name, ("stop_id", "stop_lat", "stop_lon"), ("stop_name",))
    frame = notes.drop(name, frame, pl.col("stop_id").is_null(), "stop_id is missing", "stop_name")
    again = ~pl.col("stop_id").is_first_distinct()
    other = pl.struct("stop_lat", "stop_lon", "stop_name")
    contrary = again & (other != other.first().over("stop_id"))
    frame = notes.drop(name, frame, contrary, "their stop_id was there before, with other values", "stop_id")
    frame = notes.drop(name, frame, again, "they are there twice, and count once", "stop_id")
    lat, lon, problem = _coordinates(frame, "stop_lat", "stop_lon")
    return Stops(frame["stop_id"], frame["stop_name"].fill_null("").to_list(), lat, lon, problem, frame["row"])


def note_stops_without_coordinates(stops: Stops, used: npt.NDArray[np.int32], notes: Notes) -> None:
    """Say which stops of trips are nowhere; stations and entrances, where no trip stops, may be so."""
    for problem, why in enumerate(_WHY, start=1):
        if (nowhere := used[stops.problem[used] == problem]).size:
            example = f"stop {shown(stops.ids[int(nowhere[0])])}, row {stops.row[int(nowhere[0])]}"
            notes.add(f"stops.txt: {nowhere.size} stops without coordinates on the way of trips: {why} ({example})")


def read_shapes(files: FeedFiles, notes: Notes) -> dict[str, Shape]:
    """Every shape of which two points can be used."""
    name = "shapes.txt"
    frame = files.read_optional(name, ("shape_id", "shape_pt_lat", "shape_pt_lon", "shape_pt_sequence"))
    if frame is None or not len(frame):
        return {}
    sequence = frame["shape_pt_sequence"].cast(pl.Float64, strict=False)
    lat, lon, problem = _coordinates(frame, "shape_pt_lat", "shape_pt_lon")
    table = pl.DataFrame(
        {
            "shape_id": frame["shape_id"],
            "shape_pt_sequence": frame["shape_pt_sequence"],
            "lat": lat,
            "lon": lon,
            "sequence": sequence,
            "problem": problem,
            "row": frame["row"],
        }
    )
    del frame
    table = notes.drop(name, table, pl.col("shape_id").is_null(), "shape_id is missing", "shape_id")
    for number, why in enumerate(_WHY, start=1):
        table = notes.drop(name, table, pl.col("problem") == number, why, "shape_id")
    bad = ~pl.col("sequence").is_finite().fill_null(False)
    table = notes.drop(name, table, bad, "shape_pt_sequence is no number", "shape_pt_sequence")
    table = table.select("shape_id", "lat", "lon", "sequence").sort("sequence", maintain_order=True)
    shapes, short = {}, []
    for (shape_id,), points in table.group_by(["shape_id"], maintain_order=True):
        if len(points) < 2:
            short.append(shape_id)
        else:
            shapes[str(shape_id)] = Shape(points["lat"].to_numpy(), points["lon"].to_numpy())
    if short:
        notes.left_out(name, len(short), "shapes", "they have one point", f"shape {shown(short[0])}")
    return shapes


def _coordinates(frame: pl.DataFrame, lat_column: str, lon_column: str) -> tuple[_F8, _F8, npt.NDArray[np.int8]]:
    """Degrees, NaN where they cannot be used, and why: 0 or the number of a line of `_WHY`."""
    columns = []
    missing = np.zeros(len(frame), dtype=bool)
    for column, limit in ((lat_column, 90.0), (lon_column, 180.0)):
        value = frame[column].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
        columns.append(np.where(np.abs(value) <= limit, value, np.nan))
        missing |= frame[column].is_null().to_numpy()
    lat, lon = columns
    unknown = np.isnan(lat) | np.isnan(lon)
    at_zero = (lat == 0.0) & (lon == 0.0)
    elsewhere = ~unknown & ~at_zero
    if at_zero.any() and elsewhere.any() and _is_near_zero(lat[elsewhere], lon[elsewhere]):
        at_zero[:] = False
    problem = np.select([missing, unknown, at_zero], [1, 2, 3], 0).astype(np.int8)
    return np.where(problem > 0, np.nan, lat), np.where(problem > 0, np.nan, lon), problem


def _is_near_zero(lat: _F8, lon: _F8) -> bool:
    """Whether the feed is of the one place where 0, 0 is no slip."""
    return bool(abs(np.median(lat)) < _NEAR_DEG and abs(np.median(lon)) < _NEAR_DEG)
