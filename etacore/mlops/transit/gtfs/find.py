"""Finds trips by what a descriptor without a trip id says: route, direction, start date and start time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etacore.mlops.transit.gtfs.calendar import Services
from etacore.mlops.transit.gtfs.frequencies import Frequencies
from etacore.mlops.transit.gtfs.stop_times import NO_TIME
from etacore.mlops.transit.gtfs.trips import Trips
from etacore.mlops.transit.patterns import NO_DIRECTION, Pattern


class TripFinder:
    """The trips of a feed by route and start.

    Parameters
    ----------
    patterns : sequence of Pattern
        Those that ``trips.pattern_ix`` means.
    trips : Trips
        All of the feed.
    frequencies : Frequencies
        The trips that it names are found by its spans of time, never by their own first time.
    services : Services
        On which days they run.
    """

    def __init__(self, patterns: Sequence[Pattern], trips: Trips, frequencies: Frequencies, services: Services) -> None:
        self._patterns = patterns
        self._pattern_ix: list[int] = trips.pattern_ix.tolist()
        self._service_id = trips.service_id
        self._services = services
        self._timetabled: dict[tuple[str, int], list[int]] = {}
        self._repeated: dict[str, list[tuple[int, int, int, int]]] = {}
        trip_ix: list[int] = frequencies.trip_ix.tolist()
        step_s: list[int] = np.where(frequencies.exact, frequencies.headway_s, 1).tolist()
        spans = zip(trip_ix, frequencies.start_s.tolist(), frequencies.end_s.tolist(), step_s, strict=True)
        for span in spans:
            self._repeated.setdefault(self._route(span[0]), []).append(span)
        repeated = set(trip_ix)
        for ix, start_s in enumerate(trips.start_s.tolist()):
            if ix not in repeated and start_s != NO_TIME:
                self._timetabled.setdefault((self._route(ix), start_s), []).append(ix)

    def _route(self, trip_ix: int) -> str:
        return self._patterns[self._pattern_ix[trip_ix]].route_id

    def find(self, route_id: str, direction_id: int, start_s: int, day: int) -> int:
        """Index of the trip; -1 if there is none, or trips of several patterns fit."""
        fitting = list(self._timetabled.get((route_id, start_s), ()))
        for trip_ix, first_s, end_s, step_s in self._repeated.get(route_id, ()):
            if first_s <= start_s < end_s and (start_s - first_s) % step_s == 0:
                fitting.append(trip_ix)
        fitting = [ix for ix in fitting if self._goes(ix, direction_id) and self._runs(ix, day)]
        return fitting[0] if len({self._pattern_ix[ix] for ix in fitting}) == 1 else -1

    def _goes(self, trip_ix: int, direction_id: int) -> bool:
        direction = self._patterns[self._pattern_ix[trip_ix]].direction_id
        return direction_id < 0 or direction in (direction_id, NO_DIRECTION)

    def _runs(self, trip_ix: int, day: int) -> bool:
        # A feed without any calendar says nothing about days.
        return not len(self._services) or self._services.runs_on(self._service_id[trip_ix], day)
