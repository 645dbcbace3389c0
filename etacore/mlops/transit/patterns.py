"""From the stop patterns of a timetable to the Redis keys that the loop reads.

Knows neither GTFS nor Redis: patterns, trips and shapes come in, pairs of key
and JSON bytes come out. Who writes them chooses the TTL.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from etacore.config import KeyNames
from etacore.mlops.transit.geodesy import leg_lengths_m
from etacore.schema import service_time_text

SEED_TTL_S: Final = 24 * 3600
"""Time to live that the compatibility contract gives to seeded keys."""

NO_DIRECTION: Final = -1

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """The ordered stops that some trips of a route share.

    Attributes
    ----------
    pattern_id, route_id : str
    direction_id : int
        `NO_DIRECTION` if the timetable gives none.
    shape_id : str or None
    stop_id, stop_name : tuple of str, length n_stops
    lat, lon : ndarray of float64, shape (n_stops,)
        Degrees; NaN for a stop without coordinates.
    stop_sequence : ndarray of int32, shape (n_stops,)
        As the timetable numbers them: for display, gaps allowed.
    """

    pattern_id: str
    route_id: str
    direction_id: int
    shape_id: str | None
    stop_id: tuple[str, ...]
    lat: npt.NDArray[np.float64]
    lon: npt.NDArray[np.float64]
    stop_sequence: npt.NDArray[np.int32]
    stop_name: tuple[str, ...]

    @property
    def n_stops(self) -> int:
        """Number of stops, repeated ones counted each time."""
        return len(self.stop_id)


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A polyline: ``lat`` and ``lon`` in degrees, ndarrays of float64, shape (n_points,)."""

    lat: npt.NDArray[np.float64]
    lon: npt.NDArray[np.float64]


def pattern_id(
    route_id: str,
    direction_id: int,
    stop_ids: Sequence[str],
    stop_sequence: Iterable[int],
    shape_id: str | None,
) -> str:
    """Name of a pattern: the same for the same stops, sequences and shape, on every machine.

    Returns
    -------
    str
        ``<route>:<direction>:<12 hexadecimal digits>``, at most 56 characters of ``[A-Za-z0-9_.:-]``.
    """
    text = orjson.dumps([route_id, direction_id, list(stop_ids), [int(s) for s in stop_sequence], shape_id])
    digest = hashlib.blake2b(text, digest_size=6).hexdigest()
    route = _UNSAFE.sub("_", route_id)[:38]
    direction = "-" if direction_id == NO_DIRECTION else str(direction_id)
    return f"{route}:{direction}:{digest}"


def seed_pairs(
    patterns: Sequence[Pattern],
    trips: Mapping[str, str],
    shapes: Mapping[str, Shape],
    keys: KeyNames | None = None,
    runs: Iterable[tuple[str, int]] = (),
) -> Iterator[tuple[str, bytes]]:
    """Every key that the loop may ask for, with its value.

    Parameters
    ----------
    patterns : sequence of Pattern
        Every pattern of the timetable, in any order.
    trips : mapping of trip id to pattern id
        Also decides which pattern speaks for a whole route or direction: the
        one with the most trips, then the one with the most stops.
    shapes : mapping of shape id to Shape
        A pattern whose shape is missing gets no shape key.
    keys : KeyNames, optional
        Prefixes, if the deployment renamed them.
    runs : iterable of (pattern id, start), optional
        Every start of a run that the timetable fixes, in seconds since noon
        minus 12 h, as `etacore.mlops.transit.run_starts.run_starts` gives
        them. Repeated ones do no harm.

    Yields
    ------
    (str, bytes)
        Redis key and value: ``pattern_stops:``, ``pattern_shape:``,
        ``trip_pattern:``, per route ``route_stops:`` and ``route_shape:``, per
        direction of a route ``direction_stops:`` and ``direction_shape:``, and
        ``run_pattern:`` where all runs of a route, direction and start have
        one pattern.
    """
    names = keys or KeyNames()
    shape_blobs: dict[str, bytes] = {}
    n_trips = Counter(trips.values())
    for pattern in patterns:
        yield f"{names.pattern_stops}{pattern.pattern_id}", stops_blob(pattern)
        if pattern.shape_id is not None and pattern.shape_id in shapes:
            if pattern.shape_id not in shape_blobs:
                shape_blobs[pattern.shape_id] = shape_blob(pattern.shape_id, shapes[pattern.shape_id])
            yield f"{names.pattern_shape}{pattern.pattern_id}", shape_blobs[pattern.shape_id]
    for (route_id, direction_id), (pattern, n_patterns) in _spokesmen(patterns, n_trips).items():
        if direction_id is None:
            stops_key, shape_key, name = names.route_stops, names.route_shape, route_id
        else:
            # The direction first: then no route id can make two of these keys the same.
            stops_key, shape_key, name = names.direction_stops, names.direction_shape, f"{direction_id}:{route_id}"
        yield f"{stops_key}{name}", stops_blob(pattern, n_patterns)
        if pattern.shape_id in shape_blobs:
            yield f"{shape_key}{name}", shape_blobs[pattern.shape_id]
    for trip_id, its_pattern_id in trips.items():
        yield f"{names.trip_pattern}{trip_id}", its_pattern_id.encode()
    for run, its_pattern_id in _run_patterns(patterns, runs).items():
        yield f"{names.run_pattern}{run}", its_pattern_id.encode()


def _spokesmen(
    patterns: Sequence[Pattern], n_trips: Mapping[str, int]
) -> dict[tuple[str, int | None], tuple[Pattern, int]]:
    """The pattern for each route (direction None) and each of its directions, and for how many patterns it stands."""
    chosen: dict[tuple[str, int | None], tuple[Pattern, int]] = {}
    for pattern in sorted(patterns, key=lambda p: (-n_trips[p.pattern_id], -p.n_stops, p.pattern_id)):
        for direction_id in (None,) if pattern.direction_id == NO_DIRECTION else (None, pattern.direction_id):
            spokesman, n_before = chosen.get((pattern.route_id, direction_id), (pattern, 0))
            chosen[pattern.route_id, direction_id] = spokesman, n_before + 1
    return chosen


def _run_patterns(patterns: Sequence[Pattern], runs: Iterable[tuple[str, int]]) -> dict[str, str]:
    """Pattern id of each ``<direction or ->:<HH:MM:SS>:<route>`` that has only one.

    A run of a trip without a direction may be asked for with any, and each run without one.
    """
    pattern_of = {pattern.pattern_id: pattern for pattern in patterns}
    found: dict[str, str | None] = {}
    for its_pattern_id, start_s in runs:
        pattern = pattern_of[its_pattern_id]
        start = service_time_text(start_s)
        directions = ("-", "0", "1") if pattern.direction_id == NO_DIRECTION else ("-", str(pattern.direction_id))
        for direction in directions:
            run = f"{direction}:{start}:{pattern.route_id}"
            if found.setdefault(run, its_pattern_id) != its_pattern_id:
                found[run] = None
    return {run: its_pattern_id for run, its_pattern_id in found.items() if its_pattern_id is not None}


def stops_blob(pattern: Pattern, n_patterns: int | None = None) -> bytes:
    """JSON of a pattern's stops; a coordinate that is not known is null.

    With `n_patterns` it says that it stands for so many patterns of its route or direction.
    """
    stops = [
        {
            "stop_id": stop_id,
            "lat": None if math.isnan(lat) else lat,
            "lon": None if math.isnan(lon) else lon,
            "stop_sequence": sequence,
            "stop_name": name,
            "total_stop_sequence": pattern.n_stops,
        }
        for stop_id, lat, lon, sequence, name in zip(
            pattern.stop_id,
            pattern.lat.tolist(),
            pattern.lon.tolist(),
            pattern.stop_sequence.tolist(),
            pattern.stop_name,
            strict=True,
        )
    ]
    document: dict[str, Any] = {"stops": stops, "route_id": pattern.route_id}
    if pattern.direction_id != NO_DIRECTION:
        document["direction_id"] = pattern.direction_id
    if n_patterns is not None:
        document["patterns"] = n_patterns
    return orjson.dumps(document)


def shape_blob(shape_id: str, shape: Shape) -> bytes:
    """JSON of a polyline; ``shape_dist_traveled`` is recomputed, in metres along it."""
    travelled_m = np.concatenate(([0.0], np.cumsum(leg_lengths_m(shape.lat, shape.lon))))
    points = [
        {
            "shape_pt_lat": lat,
            "shape_pt_lon": lon,
            "shape_pt_sequence": sequence,
            "shape_dist_traveled": round(distance_m, 2),
        }
        for sequence, (lat, lon, distance_m) in enumerate(
            zip(shape.lat.tolist(), shape.lon.tolist(), travelled_m.tolist(), strict=True), start=1
        )
    ]
    return orjson.dumps({"shape_id": shape_id, "points": points})
