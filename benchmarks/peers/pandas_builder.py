"""A dataset builder as it is first written: pandas, a loop over the fixes, `apply` over stops and later fixes.

For each fix of a trip: the distance to every stop of the trip; the stops from
the nearest one on, as many as wanted; for each of them the features, and its
arrival by looking through the fixes from this one on. That search again and
again for the same stop is the plain way; `search_once` does it once for each
stop of a trip instead.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import pandas as pd

R_M: Final = 6_371_000.0
FIRST_WITHIN_M: Final = 50.0
CLOSEST_WITHIN_M: Final = 200.0
MAX_S: Final = 7200.0
MIN_M: Final = 10.0


def haversine_m(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    phi1, phi2 = math.radians(lat1), math.radians(lat2)
    h = (
        math.sin((phi2 - phi1) / 2) ** 2
        + math.cos(phi1) * math.cos(phi2) * math.sin(math.radians(lon2 - lon1) / 2) ** 2
    )
    return 2 * R_M * math.asin(math.sqrt(min(h, 1.0)))


def arrival(fixes: pd.DataFrame, lat: float, lon: float) -> float | None:
    """Time of the first fix within 50 m of a stop, else of the closest within 200 m; POSIX seconds."""
    metres = fixes.apply(lambda fix: haversine_m(fix["lat"], fix["lon"], lat, lon), axis=1)
    near = metres[metres <= FIRST_WITHIN_M]
    if len(near):
        return float(fixes.loc[near.index[0], "timestamp"])
    if metres.min() <= CLOSEST_WITHIN_M:
        return float(fixes.loc[metres.idxmin(), "timestamp"])
    return None


def build(
    positions: pd.DataFrame,
    stop_times: pd.DataFrame,
    time_zone: str,
    *,
    max_stops: int = 5,
    search_once: bool = False,
) -> pd.DataFrame:
    """Rows of a dataset with straight distances.

    Parameters
    ----------
    positions : DataFrame
        ``trip_id, vehicle_id, timestamp`` (POSIX s)``, lat, lon, bearing``.
    stop_times : DataFrame
        ``trip_id, stop_id, stop_sequence, lat, lon`` in the order of the stops.
    time_zone : str
        Of hour and day.
    """
    zone = ZoneInfo(time_zone)
    rows: list[dict[str, Any]] = []
    for (trip_id, vehicle_id), fixes in positions.sort_values("timestamp").groupby(["trip_id", "vehicle_id"]):
        stops = stop_times[stop_times["trip_id"] == trip_id].reset_index(drop=True)
        fixes = fixes.reset_index(drop=True)
        known: dict[int, float | None] = {}
        for position, fix in fixes.iterrows():
            metres = stops.apply(
                lambda stop, at=fix: haversine_m(at["lat"], at["lon"], stop["lat"], stop["lon"]), axis=1
            )
            nearest = int(metres.idxmin())
            local = datetime.fromtimestamp(fix["timestamp"], UTC).astimezone(zone)
            for ordinal in range(nearest, min(nearest + max_stops, len(stops))):
                stop = stops.loc[ordinal]
                if search_once and ordinal in known:
                    arrival_s = known[ordinal]
                else:
                    later = fixes if search_once else fixes.loc[position:]
                    arrival_s = known[ordinal] = arrival(later, stop["lat"], stop["lon"])
                if arrival_s is None or not 0 <= arrival_s - fix["timestamp"] <= MAX_S or metres[ordinal] < MIN_M:
                    continue
                progress = 0.0
                if ordinal + 1 < len(stops):
                    after = stops.loc[ordinal + 1]
                    leg_m = haversine_m(stop["lat"], stop["lon"], after["lat"], after["lon"])
                    progress = min(max(1 - metres[ordinal + 1] / leg_m, 0.0), 1.0) if leg_m > 0 else 0.0
                weekend = local.weekday() >= 5
                rows.append(
                    {
                        "trip_id": trip_id,
                        "vehicle_id": vehicle_id,
                        "stop_id": stop["stop_id"],
                        "stop_sequence": stop["stop_sequence"],
                        "timestamp": fix["timestamp"],
                        "vp_lat": fix["lat"],
                        "vp_lon": fix["lon"],
                        "vp_bearing": fix["bearing"],
                        "stop_lat": stop["lat"],
                        "stop_lon": stop["lon"],
                        "distance_to_stop": metres[ordinal],
                        "progress_on_segment": progress,
                        "progress_ratio": min(max((ordinal + progress) / len(stops), 0.0), 1.0),
                        "arrival": arrival_s,
                        "time_to_arrival_seconds": arrival_s - fix["timestamp"],
                        "hour": local.hour,
                        "day_of_week": local.weekday(),
                        "is_weekend": weekend,
                        "is_peak_hour": not weekend and (7 <= local.hour <= 9 or 16 <= local.hour <= 19),
                    }
                )
    return pd.DataFrame(rows)
