"""A made-up recording as a dataset: buses on two lines whose legs take their time of the hour, the trip and chance."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from etacore.mlops.dataset.layout import Dataset, read_dataset, write_dataset

FIRST_DAY = date(2026, 3, 2)  # a Monday
M_PER_DEGREE = 6_371_000.0 * np.pi / 180.0
FIX_S = 30
MAX_AHEAD = 3
ROUTES: Mapping[str, int] = {"r1": 9, "r2": 6}
"""Number of stops of each route."""


def frame(n_days: int = 6, trips_per_day: Mapping[str, int] | None = None, seed: int = 5) -> pl.DataFrame:
    """All rows; each fix sees up to three stops ahead."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for route, n_stops in ROUTES.items():
        legs = np.random.default_rng(len(route) + n_stops)  # the street is the same every day
        leg_m = legs.uniform(250, 900, n_stops - 1)
        pace = legs.uniform(0.1, 0.35, n_stops - 1)  # seconds a metre
        at_m = np.concatenate(([0.0], np.cumsum(leg_m)))
        for day in range(n_days):
            for trip in range((trips_per_day or {}).get(route, 12)):
                hour = 6 + trip
                start = datetime.combine(FIRST_DAY + timedelta(days=day), datetime.min.time(), UTC)
                start += timedelta(hours=hour, seconds=int(rng.integers(0, 600)))
                rush = 1.5 if hour in (7, 8, 16, 17) else 1.0
                leg_s = leg_m * pace * rush * rng.lognormal(0, 0.12) * rng.lognormal(0, 0.2, n_stops - 1)
                at_s = np.concatenate(([0.0], np.cumsum(leg_s)))
                rows += _fixes(route, f"{route}-{trip}", f"bus{trip % 5}", start, at_m, at_s, day)
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(
        pl.col("vp_ts", "actual_arrival", "interpolated_arrival").cast(pl.Datetime("us", "UTC")),
        scheduled_arrival=pl.lit(None, pl.Datetime("us", "UTC")),
        temperature_c=pl.lit(None, pl.Float64),
        precipitation_mm=pl.lit(None, pl.Float64),
        wind_speed_kmh=pl.lit(None, pl.Float64),
    )


def _fixes(
    route: str, trip_id: str, vehicle_id: str, start: datetime, at_m: np.ndarray, at_s: np.ndarray, day: int
) -> list[dict[str, Any]]:
    rows = []
    last_m = float("nan")
    since_s, seen = float("nan"), -1
    for t in np.arange(5.0, at_s[-1], FIX_S):
        along_m = float(np.interp(t, at_s, at_m))
        first = int(np.searchsorted(at_m, along_m, side="right"))
        since_s = (float("nan") if seen < 0 else 0.0) if first != seen else since_s + FIX_S
        seen = first
        for ordinal in range(first + 1, min(first + MAX_AHEAD, len(at_m)) + 1):
            distance_m = float(at_m[ordinal - 1] - along_m)
            if distance_m < 10:
                continue
            arrival = start + timedelta(seconds=float(at_s[ordinal - 1]))
            rule = start + timedelta(seconds=float(t + FIX_S * np.ceil((at_s[ordinal - 1] - t) / FIX_S)))
            now = start + timedelta(seconds=float(t))
            progress = _f32(1 - (at_m[first] - along_m) / (at_m[first] - at_m[first - 1]))
            rows.append(
                {
                    "trip_id": trip_id,
                    "route_id": route,
                    "vehicle_id": vehicle_id,
                    "stop_id": f"{route}s{ordinal}",
                    "stop_sequence": ordinal * 10,
                    "vp_ts": now,
                    "vp_lat": 0.0,
                    "vp_lon": along_m / M_PER_DEGREE,
                    "vp_bearing": None,
                    "stop_lat": 0.0,
                    "stop_lon": float(at_m[ordinal - 1]) / M_PER_DEGREE,
                    "distance_to_stop": _f32(distance_m),
                    "progress_on_segment": progress,
                    "progress_ratio": _f32((ordinal - 1 + progress) / len(at_m)),
                    "actual_arrival": rule,
                    "time_to_arrival_seconds": (rule - now).total_seconds(),
                    "hour": now.hour,
                    "day_of_week": now.weekday(),
                    "is_weekend": now.weekday() >= 5,
                    "is_holiday": False,
                    "is_peak_hour": now.weekday() < 5 and (7 <= now.hour <= 9 or 16 <= now.hour <= 19),
                    "current_speed_kmh": 0.0,
                    "along_route_distance_m": _f32(distance_m),
                    "stops_ahead": ordinal - first,
                    "stop_ordinal": ordinal,
                    "n_stops": len(at_m),
                    "leg_left": _f32((at_m[first] - along_m) / (at_m[first] - at_m[first - 1])),
                    "recent_speed_mps": _known((along_m - last_m) / FIX_S),
                    "since_last_stop_s": _known(since_s),
                    "service_date": start.date(),
                    "pattern_id": f"{route}-out",
                    "label_rule": "first_50m",
                    "label_uncertainty_s": FIX_S / 2,
                    "interpolated_arrival": arrival,
                }
            )
        last_m = along_m
    return rows


def _f32(value: float) -> float:
    return float(np.float32(value))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else _f32(value)


PATTERNS = {f"{route}-out": tuple(f"{route}s{i}" for i in range(1, n + 1)) for route, n in ROUTES.items()}


def save(rows: pl.DataFrame, path: Path, *, time_zone: str = "UTC", **fields: Any) -> Dataset:
    """Write rows as a dataset and read them back."""
    facts: dict[str, Any] = {"name": path.stem, "distance": "along_route", "patterns": PATTERNS, **fields}
    return read_dataset(write_dataset(rows, path, time_zone=time_zone, **facts))
