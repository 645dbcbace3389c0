"""Buses that drive the timetable: what they really did, to the second.

A day is driven as a whole: every trip gets the times at which it passes each
piece of its line, with the traffic of the hour and of that day, red lights
and passengers. What the buses then say about it is in `etacore.demo.reports`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from etacore.demo.city import (
    N_AVENUES,
    N_STREETS,
    TIME_ZONE,
    City,
    FloatArray,
    Pattern,
)
from etacore.demo.timetable import (
    MEAN_RED_S,
    STOP_CHANCE,
    WEEKDAY,
    WEEKEND,
    Timetable,
    Trip,
    boarding_s,
    expected_pieces_s,
    hours_under_way,
)

TURNAROUND_S: Final = 90.0
QUARTERS_PER_DAY: Final = 30 * 4
"""Quarter hours of a service day, which ends after midnight."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a trip really did on a day.

    Attributes
    ----------
    day : date
        Service day.
    time_s, progress_m : ndarray of float64, shape (n_knots,)
        Where it was when: POSIX seconds and metres along its line, both never falling; straight in between.
    arrival_s : ndarray of float64, shape (n_stops,)
        POSIX seconds at which it reached each stop; at the first stop, when it left.
    """

    trip: Trip
    day: date
    time_s: FloatArray
    progress_m: FloatArray
    arrival_s: FloatArray


def vehicle_id(vehicle: int) -> str:
    """Name of a vehicle in snapshots."""
    return f"bus-{1001 + vehicle}"


def service_of(day: date) -> str:
    """Which timetable runs on a day."""
    return WEEKEND if day.weekday() >= 5 else WEEKDAY


def midnight_s(day: date) -> float:
    """POSIX seconds of the local midnight that a service day starts with."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(TIME_ZONE)).timestamp()


def drive_day(city: City, timetable: Timetable, day: date, seed: int) -> list[Run]:
    """Drive all trips of a timetable on a day.

    Parameters
    ----------
    city : City
        Where.
    timetable : Timetable
        The one of `service_of` that day.
    day : date
        Service day; each day has traffic of its own.
    seed : int
        Another seed is another history of the same days.

    Returns
    -------
    list of Run
        In the timetable's order.
    """
    rng = np.random.default_rng([city.seed, seed, day.toordinal()])
    slowness = _slowness(rng)
    driver = rng.lognormal(0.0, 0.04, timetable.n_vehicles)
    rows_of: dict[int, list[int]] = {}
    for row, trip in enumerate(timetable.trips):
        rows_of.setdefault(trip.pattern_ix, []).append(row)

    pieces: list[tuple[FloatArray, FloatArray]] = [(np.empty(0), np.empty(0))] * len(timetable.trips)
    for pattern_ix, rows in rows_of.items():
        pattern = city.patterns[pattern_ix]
        departure_s = np.array([timetable.trips[row].departure_s for row in rows])
        style = driver[[timetable.trips[row].vehicle for row in rows]] * rng.lognormal(0.0, 0.04, len(rows))
        drive_s, wait_s = _actual_pieces_s(pattern, departure_s, timetable.service, slowness, style, rng)
        for row, *its_pieces in zip(rows, drive_s, wait_s, strict=True):
            pieces[row] = (its_pieces[0], its_pieces[1])

    zero_s = midnight_s(day)
    late_s = rng.exponential(25.0, len(timetable.trips))
    free_s = np.zeros(timetable.n_vehicles)
    runs = []
    for row, trip in enumerate(timetable.trips):
        leaves_s = max(trip.departure_s + late_s[row], free_s[trip.vehicle] + TURNAROUND_S)
        run = _run(city.patterns[trip.pattern_ix], trip, day, zero_s + leaves_s, *pieces[row])
        free_s[trip.vehicle] = run.arrival_s[-1] - zero_s
        runs.append(run)
    return runs


def _slowness(rng: np.random.Generator) -> FloatArray:
    """How slow each street is in each quarter hour of this day, 1 = as always; a few jams, rain for everybody."""
    n_streets = N_STREETS + N_AVENUES
    steps = rng.normal(0.0, 1.0, (QUARTERS_PER_DAY, n_streets))
    drift = np.zeros_like(steps)
    for quarter in range(1, QUARTERS_PER_DAY):
        drift[quarter] = 0.8 * drift[quarter - 1] + 0.6 * steps[quarter]
    slowness = np.exp(0.09 * drift + rng.normal(0.0, 0.04))
    for _ in range(rng.poisson(4)):
        start, length = rng.integers(20, 100), rng.integers(2, 5)
        slowness[start : start + length, rng.integers(n_streets)] *= rng.uniform(1.4, 2.2)
    return np.asarray(slowness)


def _actual_pieces_s(
    pattern: Pattern,
    departure_s: FloatArray,
    service: str,
    slowness: FloatArray,
    style: FloatArray,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    drive_s, _ = expected_pieces_s(pattern, departure_s, service)
    hour = hours_under_way(pattern, departure_s)
    quarter = np.minimum((hour * 4).astype(np.int64), QUARTERS_PER_DAY - 1)
    noise = rng.lognormal(0.0, 0.10, drive_s.shape)
    drive_s = drive_s * slowness[quarter, pattern.piece_street] * noise * style[:, None]

    stops = rng.random(drive_s.shape) < STOP_CHANCE
    at_stop_s = np.where(stops, boarding_s(hour, service) * rng.gamma(4.0, 0.25, drive_s.shape), 0.0)
    red = rng.random(drive_s.shape) < pattern.piece_light_p
    at_light_s = np.where(red, rng.uniform(0.0, 2 * MEAN_RED_S, drive_s.shape), 0.0)
    return drive_s, np.where(pattern.piece_stop >= 0, at_stop_s, at_light_s)


def _run(pattern: Pattern, trip: Trip, day: date, leaves_s: float, drive_s: FloatArray, wait_s: FloatArray) -> Run:
    gone_s = leaves_s + np.cumsum(drive_s + wait_s)
    reached_s = gone_s - wait_s
    gone_s[-1] = reached_s[-1]
    end_m = np.cumsum(pattern.piece_length_m)
    return Run(
        trip,
        day,
        np.concatenate([[leaves_s], np.column_stack([reached_s, gone_s]).ravel()]),
        np.concatenate([[0.0], np.repeat(end_m, 2)]),
        np.concatenate([[leaves_s], reached_s[pattern.piece_stop >= 0]]),
    )


def arrival_columns(city: City, runs: Sequence[Run]) -> dict[str, npt.NDArray[Any]]:
    """True arrivals of runs, stop by stop; see `etacore.demo.reports.Recording`."""
    patterns = [city.patterns[run.trip.pattern_ix] for run in runs]
    n_stops = [len(pattern.stop_ix) for pattern in patterns]
    stop_ids = texts(stop.stop_id for stop in city.stops)
    return {
        "service_date": texts(f"{run.day:%Y%m%d}" for run in runs).repeat(n_stops),
        "vehicle_id": texts(vehicle_id(run.trip.vehicle) for run in runs).repeat(n_stops),
        "route_id": texts(pattern.route_id for pattern in patterns).repeat(n_stops),
        "trip_id": texts(run.trip.trip_id for run in runs).repeat(n_stops),
        "stop_id": np.concatenate([stop_ids[pattern.stop_ix] for pattern in patterns]),
        "stop_sequence": np.concatenate([pattern.stop_sequence for pattern in patterns]),
        "arrival_s": np.concatenate([run.arrival_s for run in runs]),
    }


def texts(items: Iterable[str]) -> npt.NDArray[Any]:
    """Strings as an object array, cheap to pick from by rows."""
    return np.array(list(items), dtype=object)
