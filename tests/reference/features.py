"""Feature rows for one vehicle at a time. Obvious, slow."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from tests.reference.geo import haversine_m

NOT_OF_ONE_POSITION = frozenset({"recent_speed_mps", "since_last_stop_s"})
"""Features that the drop-in call does not know: they take more than one report of a vehicle."""


def calendar_features(time_us, time_zone, holidays=()):
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)).astimezone(ZoneInfo(time_zone))
    weekday, hour = local.weekday(), local.hour
    return {
        "hour": hour,
        "day_of_week": weekday,
        "is_weekend": float(weekday >= 5),
        "is_peak_hour": float(weekday < 5 and (7 <= hour <= 9 or 16 <= hour <= 19)),
        "is_holiday": float(local.date() in holidays),
    }


def row(vehicle, stop, successor, number, total, distance_m):
    """Spatial features of one stop; stop and successor are (lat, lon), number counts from 1."""
    position = vehicle["lat"], vehicle["lon"]
    progress = 0.0
    if successor is not None and haversine_m(*stop, *successor) > 0:
        progress = min(max(1 - haversine_m(*position, *successor) / haversine_m(*stop, *successor), 0.0), 1.0)
    return {
        "distance_to_stop": distance_m,
        "progress_on_segment": progress,
        "progress_ratio": min(max((max(number - 1, 0) + progress) / max(total, 1), 0.0), 1.0),
        "current_speed_kmh": 3.6 * vehicle.get("speed", 0.0),
    }


def share_left(ahead_m, leg_m):
    """How much of a leg lies ahead; NaN if its length is unknown, all of one that has none."""
    if math.isnan(ahead_m) or math.isnan(leg_m):
        return math.nan
    return min(max(ahead_m / leg_m, 0.0), 1.0) if leg_m > 0 else 1.0


def typical_s(leg_left, legs_s):
    """Seconds to each stop; legs_s are those that end at the next stop and the ones after it, as float32."""
    total = float(np.float32(leg_left)) * float(legs_s[0])
    out = [total]
    for seconds in legs_s[1:]:
        total += float(seconds)
        out.append(total)
    return out


def rows(pattern, vehicle, first_stop, progress_m, max_stops, time_zone, along_route_distance, holidays=(), legs=None):
    """Feature dictionaries of the next stops, weather and motion left out; legs: float32 of shape (24, stops)."""
    out = []
    n = len(pattern.stops)
    leg_m = pattern.stop_s_m[first_stop] - pattern.stop_s_m[first_stop - 1] if first_stop > 0 else 0.0
    leg_left = share_left(pattern.stop_s_m[first_stop] - progress_m, leg_m)
    hour = calendar_features(vehicle["time_us"], time_zone, holidays)["hour"]
    typical = [math.nan] * n if legs is None else typical_s(leg_left, legs[hour][first_stop:])
    for i in range(first_stop, min(first_stop + max_stops, n)):
        stop = pattern.stops[i][1:3]
        successor = pattern.stops[i + 1][1:3] if i + 1 < n else None
        straight_m = haversine_m(vehicle["lat"], vehicle["lon"], *stop)
        along_m = max(pattern.stop_s_m[i] - progress_m, 0.0)
        values = row(vehicle, stop, successor, i + 1, n, along_m if along_route_distance else straight_m)
        values |= calendar_features(vehicle["time_us"], time_zone, holidays)
        values |= {"along_route_distance_m": along_m, "stops_ahead": i - first_stop + 1, "leg_left": leg_left}
        values |= {"typical_travel_s": typical[i - first_stop], "stop_sequence": pattern.stops[i][3]}
        out.append(values)
    return out
