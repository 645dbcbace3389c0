"""Traffic by the hour, and the timetable and vehicle duties that come of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np

from etacore.demo.city import City, FloatArray, Pattern

WEEKDAY, WEEKEND = "WK", "WE"
FIRST_DEPARTURE_S, LAST_DEPARTURE_S = 5 * 3600, 25 * 3600
LAYOVER_S: Final = 300.0
MEAN_RED_S: Final = 20.0
STOP_CHANCE: Final = 0.85
"""Chance that somebody wants to get on or off at a stop."""


@dataclass(frozen=True, slots=True, eq=False)
class Trip:
    """One trip of the timetable.

    Attributes
    ----------
    pattern_ix : int
        Row of `City.patterns`.
    vehicle : int
        Number of the duty, 0 .. n_vehicles-1; its trips follow one another.
    stop_times_s : ndarray of float64, shape (n_stops,)
        Seconds after the midnight that the service day starts with; past 86 400 for late trips.
    """

    trip_id: str
    pattern_ix: int
    vehicle: int
    stop_times_s: FloatArray

    @property
    def departure_s(self) -> float:
        """When it leaves its first stop."""
        return float(self.stop_times_s[0])


@dataclass(frozen=True, slots=True, eq=False)
class Timetable:
    """The trips of a weekday or of a weekend day, by departure."""

    service: str
    trips: tuple[Trip, ...]
    n_vehicles: int


def rush(hour: FloatArray, service: str) -> FloatArray:
    """How much longer a street of mean sensitivity takes than when it is empty, by local hour (0 = no longer)."""
    clock = hour % 24.0

    def bump(centre: float, width: float) -> FloatArray:
        return np.exp(-0.5 * ((clock - centre) / width) ** 2)

    if service == WEEKEND:
        return 0.25 * bump(13.5, 3.5)
    return 0.55 * bump(8.0, 1.1) + 0.2 * bump(13.0, 2.0) + 0.7 * bump(17.6, 1.4)


def demand(hour: FloatArray, service: str) -> FloatArray:
    """Passengers by local hour, 1 in the peak of a weekday."""
    return 0.35 + rush(hour, service)


def boarding_s(hour: FloatArray, service: str) -> FloatArray:
    """Mean seconds at a stop where somebody gets on or off."""
    return 6.0 + 9.0 * demand(hour, service)


def hours_under_way(pattern: Pattern, departure_s: FloatArray) -> FloatArray:
    """Local hour at which trips are about to drive each piece.

    Parameters
    ----------
    pattern : Pattern
        What they drive.
    departure_s : ndarray of float64, shape (n_trips,)
        Seconds after the midnight of the service day.

    Returns
    -------
    ndarray of float64, shape (n_trips, n_pieces)
        From a rough mean speed: close enough to look the traffic up with. Past 24 after midnight.
    """
    driving_s = 1.5 * pattern.piece_length_m / pattern.piece_speed_mps
    under_way_s = np.cumsum(driving_s + np.where(pattern.piece_stop >= 0, 10.0, 0.0))
    return (departure_s[:, None] + under_way_s) / 3600.0


def expected_pieces_s(pattern: Pattern, departure_s: FloatArray, service: str) -> tuple[FloatArray, FloatArray]:
    """Mean driving time of each piece, and mean wait at its end.

    Parameters
    ----------
    pattern : Pattern
        What they drive.
    departure_s : ndarray of float64, shape (n_trips,)
        Seconds after the midnight of the service day.
    service : {"WK", "WE"}
        Weekday or weekend traffic.

    Returns
    -------
    drive_s, wait_s : ndarray of float64, shape (n_trips, n_pieces)
    """
    hour = hours_under_way(pattern, departure_s)
    empty_s = pattern.piece_length_m / pattern.piece_speed_mps
    drive_s = empty_s * (1.0 + pattern.piece_sensitivity * rush(hour, service))
    at_stop_s = STOP_CHANCE * boarding_s(hour, service)
    at_light_s = pattern.piece_light_p * MEAN_RED_S
    return drive_s, np.where(pattern.piece_stop >= 0, at_stop_s, at_light_s)


def build_timetable(city: City, service: str = WEEKDAY) -> Timetable:
    """Departures by the hour's headway, stop times from the mean traffic, and duties that fit the trips.

    Parameters
    ----------
    city : City
        Its seed also draws the first departures.
    service : {"WK", "WE"}
        Weekday or weekend.
    """
    rng = np.random.default_rng([city.seed, 2])
    trips: list[Trip] = []
    n_vehicles = 0
    for route in city.routes:
        planned: list[tuple[float, int]] = []
        offset_s = float(rng.integers(0, 10) * 60)
        for direction in sorted({course.direction_id for course in route.courses}):
            branches = city.patterns_of(route.route_id, direction)
            departures = _departures_s(route.peak_headway_min, service, offset_s)
            planned += [(at_s, branches[k % len(branches)]) for k, at_s in enumerate(departures)]
        of_route, n_vehicles = _assign(city, service, sorted(planned), n_vehicles)
        trips += of_route
    trips.sort(key=lambda trip: (trip.departure_s, trip.trip_id))
    return Timetable(service, tuple(trips), n_vehicles)


def _departures_s(peak_headway_min: float, service: str, offset_s: float) -> list[float]:
    departures, at_s = [], FIRST_DEPARTURE_S + offset_s
    while at_s < LAST_DEPARTURE_S:
        departures.append(at_s)
        passengers = float(demand(np.array(at_s / 3600.0), service))
        at_s += 60.0 * round(peak_headway_min * min(2.5, 0.95 / passengers))
    return departures


def _assign(city: City, service: str, planned: list[tuple[float, int]], n_vehicles: int) -> tuple[list[Trip], int]:
    """Give each planned trip to the vehicle that has waited longest at its first stop, or to a new one."""
    stop_times = _stop_times_s(city, service, planned)
    free: list[tuple[float, int, int]] = []  # (free from, terminal, vehicle)
    trips = []
    for (at_s, pattern_ix), times_s in zip(planned, stop_times, strict=True):
        pattern = city.patterns[pattern_ix]
        waiting = [duty for duty in free if duty[1] == pattern.stop_ix[0] and duty[0] <= at_s]
        if waiting:
            duty = min(waiting)
            free.remove(duty)
            vehicle = duty[2]
        else:
            vehicle, n_vehicles = n_vehicles, n_vehicles + 1
        free.append((float(times_s[-1]) + LAYOVER_S, int(pattern.stop_ix[-1]), vehicle))
        hour, minute = divmod(int(at_s) // 60, 60)
        trip_id = f"{pattern.pattern_id}-{service}-{hour:02d}{minute:02d}"
        trips.append(Trip(trip_id, pattern_ix, vehicle, times_s))
    return trips, n_vehicles


def _stop_times_s(city: City, service: str, planned: list[tuple[float, int]]) -> list[FloatArray]:
    rows_of = defaultdict(list)
    for row, (_, pattern_ix) in enumerate(planned):
        rows_of[pattern_ix].append(row)
    stop_times: list[FloatArray] = [np.empty(0)] * len(planned)
    for pattern_ix, rows in rows_of.items():
        pattern = city.patterns[pattern_ix]
        departure_s = np.array([planned[row][0] for row in rows])
        drive_s, wait_s = expected_pieces_s(pattern, departure_s, service)
        reached_s = departure_s[:, None] + np.cumsum(drive_s + wait_s, axis=1) - wait_s
        at_stops_s = np.rint(reached_s[:, pattern.piece_stop >= 0])
        for row, at_s, reached in zip(rows, departure_s, at_stops_s, strict=True):
            stop_times[row] = np.concatenate([[at_s], reached])
    return stop_times
