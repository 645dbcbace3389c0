"""What the buses say about where they are, live or recorded: positions in columns, with noise and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from etacore.demo.buses import Run, arrival_columns, drive_day, service_of, texts, vehicle_id
from etacore.demo.city import M_PER_DEGREE, City, FloatArray, Pattern
from etacore.demo.timetable import WEEKDAY, WEEKEND, build_timetable

GPS_SIGMA_M: Final = 8.0
REPORT_INTERVAL_S: Final = (5.0, 10.0)
BEFORE_TRIP_S: Final = 60.0
"""A bus logs on to its trip this long before it leaves, at most."""
AFTER_TRIP_S: Final = 40.0


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """How each vehicle reports; arrays of shape (n_vehicles,).

    Attributes
    ----------
    interval_s, phase_s : ndarray of float64
        Seconds between reports, and when the first falls due.
    tells_stop : ndarray of bool
        Reports ``current_stop_sequence``, ``stop_id`` and ``current_status``.
    hides_trip : ndarray of bool
        Never reports a ``trip_id``.
    """

    interval_s: FloatArray
    phase_s: FloatArray
    tells_stop: npt.NDArray[np.bool_]
    hides_trip: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Reports:
    """Position reports in columns of n rows, by time.

    Attributes
    ----------
    run_ix : ndarray of int64
        Row of the runs they were made from.
    vehicle : ndarray of int64
        Vehicle number.
    time_s : ndarray of float64
        POSIX seconds.
    lat, lon, bearing : ndarray of float64
        Degrees, with noise.
    speed_mps : ndarray of float64
    next_stop : ndarray of int64
        Position (0 .. n_stops-1) of the stop it stands at or drives to.
    at_stop : ndarray of bool
    """

    run_ix: npt.NDArray[np.int64]
    vehicle: npt.NDArray[np.int64]
    time_s: FloatArray
    lat: FloatArray
    lon: FloatArray
    bearing: FloatArray
    speed_mps: FloatArray
    next_stop: npt.NDArray[np.int64]
    at_stop: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.time_s)


def make_fleet(n_vehicles: int, rng: np.random.Generator) -> Fleet:
    """Draw how each of `n_vehicles` reports."""
    interval_s = rng.uniform(*REPORT_INTERVAL_S, n_vehicles)
    return Fleet(
        interval_s,
        rng.uniform(0.0, 1.0, n_vehicles) * interval_s,
        rng.random(n_vehicles) < 0.2,
        rng.random(n_vehicles) < 0.06,
    )


def report(city: City, runs: Sequence[Run], fleet: Fleet, rng: np.random.Generator) -> Reports:
    """What the buses say while they drive: each on its own clock, with noise on position, speed and bearing.

    Parameters
    ----------
    city : City
        Where.
    runs : sequence of Run
        The runs of a vehicle by departure.
    fleet : Fleet
        How each vehicle reports.
    rng : Generator
        Source of the noise.
    """
    logged_off_s: dict[int, float] = {}
    parts: list[dict[str, npt.NDArray[Any]]] = []
    for run_ix, run in enumerate(runs):
        vehicle = run.trip.vehicle
        from_s = max(run.arrival_s[0] - BEFORE_TRIP_S, logged_off_s.get(vehicle, 0.0))
        to_s = run.arrival_s[-1] + AFTER_TRIP_S
        logged_off_s[vehicle] = to_s
        interval_s, phase_s = fleet.interval_s[vehicle], fleet.phase_s[vehicle]
        ticks = np.arange(np.ceil((from_s - phase_s) / interval_s), np.floor((to_s - phase_s) / interval_s) + 1)
        parts.append(_seen(city.patterns[run.trip.pattern_ix], run, ticks * interval_s + phase_s, run_ix))
    seen = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else _nothing()
    order = np.argsort(seen["time_s"], kind="stable")
    seen = {name: values[order] for name, values in seen.items()}
    n = len(order)
    seen["lat"] += rng.normal(0.0, GPS_SIGMA_M / M_PER_DEGREE, n)
    seen["lon"] += rng.normal(0.0, GPS_SIGMA_M / M_PER_DEGREE, n) / np.cos(np.radians(seen["lat"]))
    seen["bearing"] = (seen["bearing"] + rng.normal(0.0, 4.0, n)) % 360.0
    moving = seen["speed_mps"] > 0
    seen["speed_mps"] = np.where(moving, np.maximum(seen["speed_mps"] + rng.normal(0.0, 0.5, n), 0.1), 0.0)
    return Reports(**seen)


def _seen(pattern: Pattern, run: Run, time_s: FloatArray, run_ix: int) -> dict[str, npt.NDArray[Any]]:
    s_m = np.interp(time_s, run.time_s, run.progress_m)
    lat, lon, bearing = pattern.locate(s_m)
    leg = np.searchsorted(run.time_s, time_s, side="right") - 1
    leg_m, leg_s = np.diff(run.progress_m), np.maximum(np.diff(run.time_s), 1e-9)
    under_way = (leg >= 0) & (leg < len(leg_s))
    next_stop = np.minimum(np.searchsorted(pattern.stop_s_m, s_m - 1e-6), len(pattern.stop_s_m) - 1)
    speed_mps = np.where(under_way, (leg_m / leg_s)[np.clip(leg, 0, len(leg_s) - 1)], 0.0)
    return {
        "run_ix": np.full(len(time_s), run_ix),
        "vehicle": np.full(len(time_s), run.trip.vehicle),
        "time_s": time_s,
        "lat": lat,
        "lon": lon,
        "bearing": bearing,
        "speed_mps": speed_mps,
        "next_stop": next_stop,
        "at_stop": (speed_mps == 0.0) & (np.abs(pattern.stop_s_m[next_stop] - s_m) < 1e-3),
    }


def _nothing() -> dict[str, npt.NDArray[Any]]:
    whole = ("run_ix", "vehicle", "next_stop")
    return {
        name: np.empty(0, np.int64 if name in whole else np.bool_ if name == "at_stop" else np.float64)
        for name in Reports.__slots__
    }


@dataclass(frozen=True, slots=True)
class Recording:
    """Recorded positions and true arrivals, each a dict of columns.

    Attributes
    ----------
    positions : dict of ndarray
        ``vehicle_id, timestamp`` (int64, POSIX s)``, lat, lon, speed_mps, bearing, route_id, trip_id,
        current_stop_sequence, stop_id, current_status``, by time; what is not told is masked.
    arrivals : dict of ndarray
        ``service_date`` (YYYYMMDD)``, vehicle_id, route_id, trip_id, stop_id, stop_sequence, arrival_s``
        (float64, POSIX s; at the first stop, when the bus left).
    """

    positions: dict[str, npt.NDArray[Any]]
    arrivals: dict[str, npt.NDArray[Any]]


def record(city: City, first_day: date, n_days: int, *, seed: int = 1) -> Recording:
    """Drive `n_days` days and keep what the buses reported.

    Parameters
    ----------
    city : City
        Where.
    first_day : date
        First service day; weekends have their own timetable.
    n_days : int
        At least 1.
    seed : int
        Another seed is another history of the same days, and another fleet.
    """
    timetables = {service: build_timetable(city, service) for service in (WEEKDAY, WEEKEND)}
    rng = np.random.default_rng([city.seed, seed, 3])
    fleet = make_fleet(max(timetable.n_vehicles for timetable in timetables.values()), rng)
    runs: list[Run] = []
    for day in (first_day + timedelta(days=n) for n in range(n_days)):
        runs += drive_day(city, timetables[service_of(day)], day, seed)
    return Recording(position_columns(city, runs, fleet, report(city, runs, fleet, rng)), arrival_columns(city, runs))


def position_columns(city: City, runs: Sequence[Run], fleet: Fleet, reports: Reports) -> dict[str, npt.NDArray[Any]]:
    """Reports as recorded positions are laid out; see `Recording`."""
    pattern_ix = np.array([run.trip.pattern_ix for run in runs])[reports.run_ix]
    widest = max(len(pattern.stop_ix) for pattern in city.patterns)
    sequence = np.zeros((len(city.patterns), widest), np.int32)
    stop_id = np.full((len(city.patterns), widest), "", object)
    for ix, pattern in enumerate(city.patterns):
        sequence[ix, : len(pattern.stop_ix)] = pattern.stop_sequence
        stop_id[ix, : len(pattern.stop_ix)] = [city.stops[stop].stop_id for stop in pattern.stop_ix]
    silent = ~fleet.tells_stop[reports.vehicle]
    status = np.where(reports.at_stop, "STOPPED_AT", "IN_TRANSIT_TO").astype(object)
    return {
        "vehicle_id": texts(vehicle_id(n) for n in range(len(fleet.phase_s)))[reports.vehicle],
        "timestamp": reports.time_s.astype(np.int64),
        "lat": reports.lat.round(6),
        "lon": reports.lon.round(6),
        "speed_mps": reports.speed_mps.astype(np.float32),
        "bearing": reports.bearing.astype(np.float32),
        "route_id": texts(pattern.route_id for pattern in city.patterns)[pattern_ix],
        "trip_id": np.ma.MaskedArray(
            texts(run.trip.trip_id for run in runs)[reports.run_ix], fleet.hides_trip[reports.vehicle]
        ),
        "current_stop_sequence": np.ma.MaskedArray(sequence[pattern_ix, reports.next_stop], silent),
        "stop_id": np.ma.MaskedArray(stop_id[pattern_ix, reports.next_stop], silent),
        "current_status": np.ma.MaskedArray(status, silent),
    }
