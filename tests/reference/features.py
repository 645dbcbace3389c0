"""Stop choice and feature rows for one vehicle at a time. Obvious, slow."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from tests.reference.geo import cumulative_m, haversine_m, nearest_pass

NOT_OF_ONE_POSITION = frozenset({"recent_speed_mps", "since_last_stop_s"})
"""Features that the drop-in call does not know: they take more than one report of a vehicle."""

CONFIRM_M, CONFIRMED, MOST = 10.0, 3, 15
FINISHED, OFF_ROUTE = "finished", "off_route"


class Pattern:
    """Stops as (id, lat, lon, sequence), and the points of the line (the stops themselves without a shape)."""

    def __init__(self, stops, points=None, stop_s_m=None):
        self.stops = stops
        self.points = points or [(lat, lon) for _, lat, lon, _ in stops]
        self.line_s_m = cumulative_m(self.points)
        self.stop_s_m = stop_s_m or self.line_s_m

    def nearest(self, vehicle, low_m, high_m, options):
        return nearest_pass(
            self.points,
            self.line_s_m,
            (vehicle["lat"], vehicle["lon"]),
            vehicle.get("bearing"),
            low_m,
            high_m,
            options.near_equal_m,
            options.heading_penalty_m,
        )

    def bracket(self, next_stop):
        low_m = self.stop_s_m[next_stop - 1] if next_stop > 0 else 0.0
        high_m = self.stop_s_m[next_stop] if next_stop < len(self.stops) else self.line_s_m[-1]
        return low_m, high_m


def stop_said(pattern, vehicle, progress_m, options):
    """Next stop by the vehicle's own words, or None."""
    after = 1 if vehicle.get("current_status") == "STOPPED_AT" else 0
    sequence, stop_id = vehicle.get("current_stop_sequence"), vehicle.get("stop_id")
    sequences = [stop[3] for stop in pattern.stops]
    if sequence is not None and sequence in sequences:
        return sequences.index(sequence) + after
    visits = [i for i, stop in enumerate(pattern.stops) if stop_id and stop[0] == stop_id]
    if len(visits) == 1:
        return visits[0] + after
    if visits:
        if progress_m is not None:
            least_m = progress_m - (options.tolerance_m if after else 0.0)
            ahead = [i for i in visits if pattern.stop_s_m[i] >= least_m]
            if ahead:
                return ahead[0] + after
        best, best_m = None, math.inf
        for i in visits:
            distance = pattern.nearest(vehicle, *pattern.bracket(i + after), options)[1]
            if distance + options.near_equal_m < best_m:
                best, best_m = i, distance
        return best + after
    if sequence is not None:
        greater = [i for i, value in enumerate(sequences) if value > sequence]
        if greater:
            return greater[0]
    return None


def confirmed(confirmations, progress_m, place, options):
    """One confirmation more if the vehicle is on the line and has come forward."""
    if progress_m is not None and place[1] <= options.fit_m and place[0] >= progress_m + CONFIRM_M:
        return min(confirmations + 1, MOST)
    return confirmations


def select(pattern, vehicle, options, previous=None, has_trip=True):
    """Next stop of a vehicle: (stop | FINISHED | OFF_ROUTE, progress_m, confirmations * 16 + strikes).

    previous: (progress_m, time_us, confirmations * 16 + strikes) of the last fix, or None.
    """
    progress_m, strikes, confirmations, elapsed_s = None, 0, 0, 0.0
    if previous is not None:
        elapsed_s = (vehicle["time_us"] - previous[1]) / 1e6
        if elapsed_s <= options.reset_after_s:
            progress_m = previous[0]
            confirmations, strikes = divmod(previous[2], 16)
    stop = stop_said(pattern, vehicle, progress_m, options)
    if stop is not None:
        low_m, high_m = pattern.bracket(stop)
        if progress_m is not None and low_m <= progress_m <= high_m:
            low_m = progress_m
        place = pattern.nearest(vehicle, low_m, high_m, options)
        if place[1] > options.max_off_route_m:
            return OFF_ROUTE, progress_m, 16 * confirmations + strikes
        confirmations = confirmed(confirmations, progress_m, place, options)
        return (stop if stop < len(pattern.stops) else FINISHED), place[0], 16 * confirmations

    new_strikes = 0
    place = None
    if progress_m is not None:
        low_m = progress_m - options.tolerance_m
        reach_m = progress_m + max(elapsed_s, 0.0) * options.max_speed_mps + options.slack_m
        place = pattern.nearest(vehicle, low_m, reach_m, options)
        if place[1] > options.fit_m:
            ahead = pattern.nearest(vehicle, low_m, math.inf, options)
            if ahead[1] <= options.fit_m or place[1] > options.max_off_route_m:
                place = ahead
        if place[1] > options.fit_m and low_m > 0:
            behind = pattern.nearest(vehicle, 0.0, low_m, options)
            if behind[1] <= options.restart_fit_m:
                new_strikes = min(strikes + 1, MOST)
                place = (progress_m, 0.0)
                limit = options.restart_strikes
                if has_trip:
                    limit = options.trip_strikes if confirmations < CONFIRMED else 0
                if 0 < limit <= new_strikes:
                    progress_m, place, new_strikes, confirmations = None, None, 0, 0
    if place is None:
        place = pattern.nearest(vehicle, 0.0, math.inf, options)
    if place[1] > options.max_off_route_m:
        return OFF_ROUTE, progress_m, 16 * confirmations + new_strikes
    confirmations = confirmed(confirmations, progress_m, place, options)
    progress_m = place[0] if progress_m is None else max(place[0], progress_m)
    ahead = [i for i, s in enumerate(pattern.stop_s_m) if s > progress_m]
    return (ahead[0] if ahead else FINISHED), progress_m, 16 * confirmations + new_strikes


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
