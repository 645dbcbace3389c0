"""A small made-up town for tests: a GTFS feed as files, and positions of buses that follow it exactly."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

M_PER_DEGREE = 6_371_000.0 * np.pi / 180.0
SPEED_MPS = 8.0

STOPS = """stop_id,stop_name,stop_lat,stop_lon
A,Alder,0.000,0.000
B,"Birch, north side",0.000,0.010
C,Cedar,0.000,0.020
D,Dogwood,0.000,0.030
"""
# r1: out (A B C D) and back (D C B A) on one street; r2: a loop that passes B twice.
FILES = {
    "agency.txt": "agency_id,agency_name,agency_url,agency_timezone\nx,X,http://x.example,Africa/Abidjan\n",
    "routes.txt": "route_id,route_short_name,route_type\nr1,1,3\nr2,2,3\n",
    "stops.txt": STOPS,
    "trips.txt": "route_id,service_id,trip_id,direction_id,shape_id\nr1,S,out,0,line\nr1,S,back,1,\nr2,S,loop,0,\n",
    "stop_times.txt": "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n"
    "out,08:00:00,08:00:00,A,10\nout,08:03:00,08:03:00,B,20\nout,08:06:00,08:06:00,C,40\nout,08:09:00,08:09:00,D,50\n"
    "back,25:10:00,25:10:00,D,1\nback,,,C,2\nback,25:16:00,25:16:00,B,3\nback,25:19:00,25:19:00,A,4\n"
    "loop,09:00:00,09:00:00,A,1\nloop,09:03:00,09:03:00,B,2\nloop,09:06:00,09:06:00,C,3\n"
    "loop,09:09:00,09:09:00,B,4\nloop,09:12:00,09:12:00,A,5\n",
    "shapes.txt": "shape_id,shape_pt_lat,shape_pt_lon,shape_pt_sequence\n"
    "line,0.0,0.03,30\nline,0.0,0.0,10\nline,0.0,0.015,20\n",
    "calendar.txt": "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\n"
    "S,1,1,1,1,1,0,0,20240101,20240114\n",
    "calendar_dates.txt": "service_id,date,exception_type\nS,20240106,1\nS,20240103,2\n",
}
DAY_S = 1_704_153_600  # 2024-01-02 00:00 UTC, a Tuesday


def write_feed(path: Path, changes: Mapping[str, str | None] | None = None) -> Path:
    """The town's feed as a zip file (name ends in .zip) or a folder; `changes` replaces files, None removes them."""
    files = {**FILES, **(changes or {})}
    kept = {name: text for name, text in files.items() if text is not None}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in kept.items():
                archive.writestr(name, text)
    else:
        path.mkdir()
        for name, text in kept.items():
            (path / name).write_text(text, encoding="utf-8")
    return path


def drive(
    trip_id: str,
    waypoints_lon: Sequence[float],
    start_s: int,
    *,
    vehicle_id: str = "bus",
    route_id: str = "r1",
    every_s: int = 10,
    speed_mps: float = SPEED_MPS,
) -> list[dict[str, Any]]:
    """Fixes of a bus that drives along the equator from longitude to longitude at one speed."""
    legs_m = np.abs(np.diff(waypoints_lon)) * M_PER_DEGREE
    at_m = np.concatenate(([0.0], np.cumsum(legs_m)))
    times_s = np.arange(0, at_m[-1] / speed_mps + every_s, every_s)
    lon = np.interp(times_s * speed_mps, at_m, waypoints_lon)
    return [
        {
            "vehicle_id": vehicle_id,
            "timestamp": start_s + int(t),
            "lat": 0.0,
            "lon": float(x),
            "route_id": route_id,
            "trip_id": trip_id,
        }
        for t, x in zip(times_s, lon, strict=True)
    ]


def write_positions(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as Parquet or, if the name says so, CSV."""
    frame = pl.DataFrame(rows)
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return path


def real_data(*parts: str) -> Path:
    """A file of the recorded data, or skip."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("ETACORE_REAL_DATA", default)).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no recorded transit data at {path} (set ETACORE_REAL_DATA)")
    return path
