"""Recordings of the town whose trips are run again and again, and the runs that are found in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.positions import Positions, read_positions
from etacore.mlops.transit.tracks import match_tracks
from tests.transit import DAY_S, M_PER_DEGREE, SPEED_MPS, drive, write_feed, write_positions

LEG_S = 0.010 * M_PER_DEGREE / SPEED_MPS  # 139 s from stop to stop
EIGHT = DAY_S + 8 * 3600
TUESDAY = date(2024, 1, 2)
CONFIG = BuildConfig(name="town")
Row = dict[str, Any]


def frequent(path: Path, *spans: str, calendar: str | None = None) -> Feed:
    """The town's feed with rows of frequencies.txt: trip, from, to, headway, exact_times."""
    text = "trip_id,start_time,end_time,headway_secs,exact_times\n" + "".join(f"{span}\n" for span in spans)
    changes: dict[str, str | None] = {"frequencies.txt": text}
    if calendar is not None:
        changes |= {"calendar.txt": calendar, "calendar_dates.txt": None}
    return read_feed(write_feed(path / "frequent", changes))


def record(tmp_path: Path, rows: Sequence[Row]) -> Positions:
    return read_positions(write_positions(tmp_path / "p.parquet", list(rows)))


def starting(positions: Positions, start_date: int, start_s: int = -1) -> Positions:
    n = len(positions)
    return dataclasses.replace(
        positions, start_date=np.full(n, start_date, np.int32), start_time_s=np.full(n, start_s, np.int32)
    )


def runs(positions: Positions, feed: Feed) -> list[tuple[str, str, str, int, int]]:
    """Trip, vehicle, service date, number and seconds after eight of the first fix of each run."""
    tracks = match_tracks(positions, feed)
    first_s = positions.time_us[tracks.row[tracks.offset[:-1]]] // 1_000_000 - EIGHT
    return [
        (feed.trips.trip_id[trip], positions.vehicle_id.values[vehicle], str(np.datetime64(day, "D")), number, second)
        for trip, vehicle, day, number, second in zip(
            tracks.trip_ix.tolist(),
            tracks.vehicle_code.tolist(),
            tracks.service_day.tolist(),
            tracks.number.tolist(),
            first_s.tolist(),
            strict=True,
        )
    ]


def out(start_s: int, **options: Any) -> list[Row]:
    return drive("out", [0.0, 0.032], start_s, **options)


def later(rows: Sequence[Row], seconds: int) -> list[Row]:
    return [row | {"timestamp": row["timestamp"] + seconds} for row in rows]
