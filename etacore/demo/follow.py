"""Reads the prediction documents back, as any consumer would, and holds them against what the buses then did."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from etacore.accuracy import AccuracyReport, score
from etacore.demo.buses import Run, vehicle_id
from etacore.demo.city import TIME_ZONE, City, FloatArray
from etacore.demo.view import Followed, NextStop

TRIPLESS_HORIZON_S: Final = 30 * 60.0
"""Without a trip, an arrival later than this belongs to the bus's next trip."""

MIN_STOPS_AHEAD: Final = 2
"""A followed bus is let go when it has fewer stops than this ahead."""

Visit = tuple[str, str | None, str, int]  # vehicle, trip, stop, stop_sequence


class Follower:
    """Collects predictions and scores them.

    Parameters
    ----------
    city : City
        For the names of stops and terminals.
    runs : sequence of Run
        What the buses really do, seen by nobody else.
    n_followed : int, default 8
        How many vehicles the view can show.

    Attributes
    ----------
    keys : list of str
        Redis keys of the predictions of all buses that run that day.
    n_predicted : int
        Vehicles with a prediction at the last look.
    """

    def __init__(self, city: City, runs: Sequence[Run], *, n_followed: int = 8) -> None:
        self.keys: Final = sorted({f"predictions:{vehicle_id(run.trip.vehicle)}" for run in runs})
        self.n_predicted = 0
        self._zone: Final = ZoneInfo(TIME_ZONE)
        self._stop_name: Final = {stop.stop_id: stop.name for stop in city.stops}
        self._color: Final = {route.route_id: route.color for route in city.routes}
        self._headsign: Final = {run.trip.trip_id: city.patterns[run.trip.pattern_ix].headsign for run in runs}
        self._arrivals: Final = _arrivals(city, runs)
        self._n_followed: Final = n_followed
        self._latest: dict[str, dict[str, Any]] = {}
        self._followed: list[str] = []
        self._sample_s: Final[list[float]] = []
        self._predicted_s: Final[list[float]] = []
        self._actual_s: Final[list[float]] = []
        self.n_unscored = 0

    def look(self, blobs: Iterable[bytes | str | None]) -> None:
        """Take the prediction documents that are in Redis now; one that was seen before is not counted again."""
        self.n_predicted = 0
        for blob in blobs:
            if blob is None:
                continue
            self.n_predicted += 1
            document = orjson.loads(blob)
            vehicle = document["vehicle_id"]
            seen = self._latest.get(vehicle)
            if seen is None or seen["computed_at"] != document["computed_at"]:
                self._latest[vehicle] = document
                self._add(document)

    def accuracy(self, now_s: float = np.inf) -> AccuracyReport:
        """Score the predictions whose bus arrived by `now_s` (city time, POSIX seconds); by default all of them."""
        sample, predicted, actual = (np.array(values) for values in (self._sample_s, self._predicted_s, self._actual_s))
        arrived = actual <= now_s
        return score((predicted - sample)[arrived], (actual - sample)[arrived])

    def followed(self, now_s: float) -> tuple[Followed, ...]:
        """A few vehicles, shared out evenly among the routes, kept until their trip is nearly over."""
        ahead = {vehicle: self._ahead(document, now_s) for vehicle, document in self._latest.items()}
        self._followed = [vehicle for vehicle in self._followed if len(ahead[vehicle]) >= MIN_STOPS_AHEAD]
        n_of_route = Counter(self._latest[vehicle]["route_id"] for vehicle in self._followed)
        turns = []
        for vehicle, document in sorted(self._latest.items()):
            is_fresh = len(ahead[vehicle]) > MIN_STOPS_AHEAD and document["trip_id"] in self._headsign
            if is_fresh and vehicle not in self._followed:
                route_id = document["route_id"]
                turns.append((n_of_route[route_id], route_id, vehicle))
                n_of_route[route_id] += 1
        free = self._n_followed - len(self._followed)
        self._followed += [vehicle for *_, vehicle in sorted(turns)[:free]]
        self._followed.sort(key=lambda vehicle: self._latest[vehicle]["route_id"])
        return tuple(self._describe(vehicle, ahead[vehicle], now_s) for vehicle in self._followed)

    def _add(self, document: dict[str, Any]) -> None:
        for stop in document["predictions"]:
            if stop["eta_timestamp"] is None:
                self.n_unscored += 1
                continue
            predicted_s = datetime.fromisoformat(stop["eta_timestamp"]).timestamp()
            sample_s = predicted_s - stop["eta_seconds"]
            visit = (document["vehicle_id"], document["trip_id"], stop["stop_id"], stop["stop_sequence"])
            actual_s = self._arrival_after(visit, sample_s)
            if actual_s is None:
                self.n_unscored += 1
                continue
            self._sample_s.append(sample_s)
            self._predicted_s.append(predicted_s)
            self._actual_s.append(actual_s)

    def _arrival_after(self, visit: Visit, sample_s: float) -> float | None:
        times_s = self._arrivals.get(visit)
        if times_s is None:
            return None
        k = int(np.searchsorted(times_s, sample_s))
        if k == len(times_s) or (visit[1] is None and times_s[k] - sample_s > TRIPLESS_HORIZON_S):
            return None
        return float(times_s[k])

    def _ahead(self, document: dict[str, Any], now_s: float) -> list[tuple[str, float]]:
        """Stop names and predicted arrivals (POSIX s) that are not over yet."""
        stops = [
            (self._stop_name.get(stop["stop_id"], stop["stop_id"]), stop["eta_timestamp"])
            for stop in document["predictions"]
            if stop["eta_timestamp"] is not None
        ]
        times = [(name, datetime.fromisoformat(arrival).timestamp()) for name, arrival in stops]
        return [(name, arrival_s) for name, arrival_s in times if arrival_s > now_s]

    def _describe(self, vehicle: str, ahead: list[tuple[str, float]], now_s: float) -> Followed:
        document = self._latest[vehicle]
        return Followed(
            vehicle,
            document["route_id"],
            self._color.get(document["route_id"], "555555"),
            self._headsign.get(document["trip_id"], ""),
            tuple(
                NextStop(name, datetime.fromtimestamp(arrival_s, self._zone), arrival_s - now_s)
                for name, arrival_s in ahead
            ),
        )


def _arrivals(city: City, runs: Sequence[Run]) -> dict[Visit, FloatArray]:
    """True arrivals by visit, in order of time; also under no trip. First stops are left out: a bus waits there."""
    times: defaultdict[Visit, list[float]] = defaultdict(list)
    for run in runs:
        pattern = city.patterns[run.trip.pattern_ix]
        for stop, sequence, arrival_s in zip(
            pattern.stop_ix[1:], pattern.stop_sequence[1:].tolist(), run.arrival_s[1:].tolist(), strict=True
        ):
            stop_id = city.stops[stop].stop_id
            for trip_id in (run.trip.trip_id, None):
                times[vehicle_id(run.trip.vehicle), trip_id, stop_id, sequence].append(arrival_s)
    return {visit: np.sort(arrivals) for visit, arrivals in times.items()}
