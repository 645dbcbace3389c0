"""What arrives in Redis while the city runs: snapshots of every bus, and of a few that send garbage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from etacore.demo.buses import Run, drive_day, service_of, vehicle_id
from etacore.demo.city import CENTRE, TIME_ZONE, City
from etacore.demo.reports import Fleet, make_fleet, position_columns, report
from etacore.demo.timetable import Timetable, build_timetable

GARBAGE_INTERVAL_S: Final = 20.0
LATE_BUSES, LATE_CHANCE, LATE_BY_S = 3, 0.15, 45.0

COLUMNS: Final = ("vehicle_id", "route_id", "trip_id", "lat", "lon", "speed_mps", "bearing")
CONTRACT_NAMES: Final = ("vehicle_id", "route", "trip_id", "lat", "lon", "speed", "bearing")
GTFS_RT_NAMES: Final = ("vehicleId", "routeId", "tripId", "latitude", "longitude", "speed", "heading")
WHERE_ON_TRIP: Final = ("stop_id", "current_stop_sequence", "current_status")

HASHES: Final[dict[str, dict[Any, Any]]] = {
    "vehicle:bus-1001:position": {"lat": "9.93", "lon": "-84.09"},
    "vehicle:bus-1001:metadata": {"maker": "unknown"},
}
"""What a neighbour system keeps under ``vehicle:*`` in hashes."""


class Producer:
    """The city's buses from a moment on, as a stream of snapshots.

    Parameters
    ----------
    city : City
        Where.
    start : datetime
        City time to begin at, aware.
    hours : float, default 1.0
        How much of the day to prepare.
    seed : int, default 7
        Another seed is other traffic on the same day.

    Attributes
    ----------
    fleet : Fleet
        How each vehicle reports.
    timetable : Timetable
        Of that day.
    runs : list of Run
        What the buses really do, beyond what is reported: all trips of the day.
    start_us : int
        `start` in microseconds since the epoch.
    """

    def __init__(self, city: City, start: datetime, *, hours: float = 1.0, seed: int = 7) -> None:
        day = start.astimezone(ZoneInfo(TIME_ZONE)).date()
        self.start_us: int = round(start.timestamp() * 1e6)
        self.timetable: Timetable = build_timetable(city, service_of(day))
        self.runs: list[Run] = drive_day(city, self.timetable, day, seed)
        rng = np.random.default_rng([city.seed, seed, 4])
        self.fleet: Fleet = make_fleet(self.timetable.n_vehicles, rng)
        begin_s, end_s = start.timestamp(), start.timestamp() + hours * 3600
        window = [run for run in self.runs if run.arrival_s[0] < end_s and run.arrival_s[-1] > begin_s]
        reports = report(city, window, self.fleet, rng)

        columns = position_columns(city, window, self.fleet, reports)
        columns["speed_mps"], columns["bearing"] = reports.speed_mps.round(2), reports.bearing.round(1)
        late = np.isin(reports.vehicle, rng.permutation(np.unique(reports.vehicle))[:LATE_BUSES])
        delay_s = np.where(late & (rng.random(len(reports)) < LATE_CHANCE), LATE_BY_S, 0.0)
        arrives_s = reports.time_s + delay_s
        order = np.argsort(arrives_s, kind="stable")
        order = order[(arrives_s[order] >= begin_s) & (reports.time_s[order] < end_s)]
        self._arrives_us = (arrives_s[order] * 1e6).astype(np.int64)
        self._rows = {name: values[order].tolist() for name, values in columns.items()}
        self._rows["time_s"] = reports.time_s[order].tolist()
        self._rows["vehicle"] = reports.vehicle[order].tolist()
        directions = np.array([city.patterns[run.trip.pattern_ix].direction_id for run in window])
        self._rows["direction_id"] = directions[reports.run_ix[order]].tolist()
        self._next = 0
        self._next_garbage_us = self.start_us

    def snapshots(self, until_us: int) -> list[tuple[str, bytes]]:
        """What arrived since the last call, up to `until_us` (city time, microseconds since the epoch).

        Returns
        -------
        list of (str, bytes)
            Redis key and payload, in the order of arrival.
        """
        end = int(np.searchsorted(self._arrives_us, until_us, side="right"))
        arrived = [self._snapshot(row) for row in range(self._next, end)]
        self._next = max(self._next, end)
        if self._next_garbage_us <= until_us:
            arrived += garbage(until_us / 1e6, self.start_us / 1e6)
            self._next_garbage_us = until_us + round(GARBAGE_INTERVAL_S * 1e6)
        return arrived

    def _snapshot(self, row: int) -> tuple[str, bytes]:
        told = {name: values[row] for name, values in self._rows.items()}
        # Producers differ in how they name things and write times, and so do these, by vehicle.
        style = told["vehicle"]
        names = GTFS_RT_NAMES if style % 4 == 3 else CONTRACT_NAMES
        document = dict(zip(names, (told[column] for column in COLUMNS), strict=True))
        document["timestamp"] = WRITE_TIME[style % len(WRITE_TIME)](told["time_s"])
        if told["trip_id"] is None and style % 2:
            document["direction_id"] = told["direction_id"]
        document |= {name: told[name] for name in WHERE_ON_TRIP if told[name] is not None}
        return f"vehicle:{told['vehicle_id']}", orjson.dumps(document)


def garbage(now_s: float, start_s: float) -> list[tuple[str, bytes]]:
    """What the broken senders send: one of each kind.

    Parameters
    ----------
    now_s : float
        City time, POSIX seconds.
    start_s : float
        When the city began; the ghost has been silent since long before.
    """
    here = {"route": "10", "lat": CENTRE[0], "lon": CENTRE[1], "timestamp": now_s}
    broken: dict[str, dict[str, Any]] = {
        "nowhere": {"lat": None, "lon": None},
        "north": {"lat": "north"},
        "orbit": {"lat": 99.1},
        "adrift": {"lat": CENTRE[0] + 0.2},
        "timeless": {"timestamp": None},
        "yesterday": {"timestamp": "yesterday"},
        "early-clock": {"timestamp": now_s + 7200},
        "ghost": {"timestamp": start_s - 3 * 3600},
        "homeless": {"route": None},
        "stranger": {"route": "999"},
    }
    sent = [(f"vehicle:{name}", orjson.dumps({"vehicle_id": name, **here, **fault})) for name, fault in broken.items()]
    twin = {**here, "vehicle_id": vehicle_id(0), "timestamp": now_s - 30}
    return [
        *sent,
        ("vehicle:twin", orjson.dumps(twin)),
        ("vehicle:list", b'["bus-9001", 9.93, -84.09]'),
        ("vehicle:cut-off", orjson.dumps({"vehicle_id": "cut-off", **here})[:-9]),
    ]


def _iso_offset(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")


def _iso_local(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, ZoneInfo(TIME_ZONE)).isoformat(timespec="seconds")


def _iso_z(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%dT%H:%M:%S}Z"


WRITE_TIME: Final[tuple[Callable[[float], str | float], ...]] = (_iso_offset, _iso_z, float, _iso_local, int)
