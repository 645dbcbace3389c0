"""Reads a GTFS feed (zip file or folder) into columns.

A row, trip, stop, shape or service that is wrong costs itself, counted in
`Feed.notes`; a feed is refused only if a required file or column is missing
or nothing is left that could be used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs.agency import read_time_zone
from etacore.mlops.transit.gtfs.calendar import Services, read_services
from etacore.mlops.transit.gtfs.files import FeedFiles, Notes, shown
from etacore.mlops.transit.gtfs.find import TripFinder
from etacore.mlops.transit.gtfs.frequencies import Frequencies, read_frequencies
from etacore.mlops.transit.gtfs.places import note_stops_without_coordinates, read_shapes, read_stops
from etacore.mlops.transit.gtfs.stop_times import read_stop_times
from etacore.mlops.transit.gtfs.trips import Trips, build_patterns, read_trips
from etacore.mlops.transit.patterns import Pattern, Shape


@dataclass(frozen=True, eq=False)
class Feed:
    """A timetable.

    Attributes
    ----------
    time_zone : str
        In which most trips run, e.g. ``America/Toronto``.
    patterns : tuple of Pattern
    trips : Trips
    shapes : dict of shape id to Shape
    services : Services
        On which days they run.
    notes : tuple of str
        What was odd and how it was taken, a line for each reason.
    frequencies : Frequencies
        Of the trips that run more than once a day.
    """

    time_zone: str
    patterns: tuple[Pattern, ...]
    trips: Trips
    shapes: dict[str, Shape]
    services: Services
    notes: tuple[str, ...] = field(default=())
    frequencies: Frequencies = field(default_factory=Frequencies.none)

    def trip_patterns(self) -> dict[str, str]:
        """Pattern id of each trip id, as `etacore.mlops.transit.patterns.seed_pairs` wants it."""
        names = [pattern.pattern_id for pattern in self.patterns]
        return {t: names[ix] for t, ix in zip(self.trips.trip_id, self.trips.pattern_ix.tolist(), strict=True)}

    def services_on(self, day: date) -> set[str]:
        """Service ids that run on a day."""
        return self.services.on(day)

    def trips_run_on(self, trip_ix: npt.NDArray[Any], day: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether trips, by index, run on days since 1970-01-01; False for index -1."""
        return self.services.run_on(self._service_of_trip[trip_ix], day) & (np.asarray(trip_ix) >= 0)

    def find_trips(
        self,
        route_id: Sequence[str],
        direction_id: npt.NDArray[Any],
        start_s: npt.NDArray[Any],
        day: npt.NDArray[Any],
    ) -> npt.NDArray[np.int32]:
        """Index of the trips that are named by route, direction and start alone.

        Parameters
        ----------
        route_id : sequence of str, length n
            As the feed names its routes.
        direction_id : ndarray of int, shape (n,)
            Negative where it is not known. A trip of which the feed gives no direction fits any.
        start_s : ndarray of int, shape (n,)
            First departure since the start of the service day, may exceed 24 h. A frequency-based trip starts
            anywhere in its span, with ``exact_times`` 1 at each headway.
        day : ndarray of int, shape (n,)
            Service day, since 1970-01-01; not asked where the feed has no calendar.

        Returns
        -------
        ndarray of int32, shape (n,)
            -1 where no trip fits, or trips of several patterns do.
        """
        asked = list(zip(route_id, direction_id.tolist(), start_s.tolist(), day.tolist(), strict=True))
        found = {query: self._finder.find(*query) for query in set(asked)}
        return np.array([found[query] for query in asked], dtype=np.int32)

    @cached_property
    def _finder(self) -> TripFinder:
        return TripFinder(self.patterns, self.trips, self.frequencies, self.services)

    @cached_property
    def _service_of_trip(self) -> npt.NDArray[np.int32]:
        return self.services.numbers(self.trips.service_id)


def read_feed(path: str | Path) -> Feed:
    """Read a GTFS feed.

    Parameters
    ----------
    path : str or Path
        A zip file or a folder; the text files lie in it, or in one folder inside it.

    Raises
    ------
    FeedError
        If a required file or column is missing, or nothing can be used.
    """
    notes = Notes()
    files = FeedFiles(Path(path), notes)
    stops = read_stops(files, notes)
    trips, left_out = read_trips(files, notes)
    stop_times = read_stop_times(files, trips, left_out, stops.ids, notes)
    if not len(stop_times):
        reasons = [line for line in notes.lines if line.startswith(("stop_times.txt", "trips.txt", "stops.txt"))]
        raise FeedError(
            f"{files.path}: stop_times.txt has no stop times of any trip in trips.txt that could be used",
            hint="; ".join(reasons) or None,
        )
    patterns, columns = build_patterns(trips, stops, stop_times)
    note_stops_without_coordinates(stops, stop_times["stop_ix"].unique(maintain_order=True).to_numpy(), notes)
    del trips, stop_times
    n_trips = Counter(patterns[ix].route_id for ix in columns.pattern_ix.tolist())
    time_zone = read_time_zone(files, n_trips, notes)
    shapes = read_shapes(files, notes)
    missing = sorted({p.shape_id for p in patterns if p.shape_id is not None} - shapes.keys())
    if missing:
        notes.add(
            f"{len(missing)} shape_id of trips.txt are not in shapes.txt, or left out: those patterns have no shape "
            f"({shown(missing[0])})"
        )
    services = read_services(files, notes)
    _note_trips_without_service(columns, services, notes)
    frequencies = read_frequencies(files, columns.trip_id, notes)
    return Feed(time_zone, patterns, columns, shapes, services, tuple(notes.lines), frequencies)


def _note_trips_without_service(trips: Trips, services: Services, notes: Notes) -> None:
    unknown = np.flatnonzero(services.numbers(trips.service_id) < 0)
    if unknown.size and len(services):
        trip_id, service_id = trips.trip_id[unknown[0]], trips.service_id[unknown[0]]
        notes.add(
            f"trips.txt: {unknown.size} trips are of a service that no calendar names: the days on which they run are "
            f"not known (trip {shown(trip_id)}, service_id {shown(service_id)})"
        )
