"""Stops and shapes of routes, as Redis holds them: JSON becomes arrays, or a reason why it cannot."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from etacore._kernels.routes import Line
from etacore._kernels.select import along
from etacore.errors import RouteDataError
from etacore.status import Status

MAX_SHAPE_POINTS: Final = 100_000
MAX_STOPS: Final = 10_000

_STOP_ID: Final = ("stop_id", "stopId", "id")
_LAT: Final = ("lat", "latitude", "stop_lat", "shape_pt_lat")
_LON: Final = ("lon", "longitude", "lng", "stop_lon", "shape_pt_lon")
_SEQUENCE: Final = ("stop_sequence", "sequence", "stop_order")


class ShapePolyline:
    """The line that a route follows.

    Parameters
    ----------
    points : sequence of (lat, lon)
        Degrees, at least 2 points.

    Attributes
    ----------
    line : Line
        As the kernels see it.
    length_m : float
    digest : bytes
        Of the points.

    Raises
    ------
    RouteDataError
        If there are fewer than 2 points, or a coordinate is not a number or out of range.
    """

    __slots__ = ("digest", "length_m", "line")

    def __init__(self, points: Sequence[Sequence[float]]) -> None:
        pairs = [(_degrees(point[0], 90.0), _degrees(point[1], 180.0)) for point in points]
        if len(pairs) < 2 or not all(math.isfinite(lat) and math.isfinite(lon) for lat, lon in pairs):
            raise RouteDataError(
                f"a shape needs two points or more with finite coordinates; got {len(pairs)} points",
                hint="give (lat, lon) pairs in degrees",
            )
        if len(pairs) > MAX_SHAPE_POINTS:
            raise RouteDataError(f"a shape of {len(pairs)} points; at most {MAX_SHAPE_POINTS} are taken")
        # A point said twice is a piece without length: it costs time at every projection and says nothing.
        kept = [pairs[0]] + [pair for before, pair in pairwise(pairs) if pair != before]
        if len(kept) < 2:
            kept.append(kept[0])
        lat, lon = np.array(kept, np.float64).T
        self.line: Line = Line(np.ascontiguousarray(lat), np.ascontiguousarray(lon))
        self.length_m: float = self.line.length_m
        self.digest: bytes = digest(lat.tobytes(), lon.tobytes())

    def distance_m(self, lat: float, lon: float, stop_lat: float, stop_lon: float) -> float:
        """Metres along the shape from a vehicle to a stop.

        Vehicle and stop are projected on the shape, the vehicle on the earliest of equally near passes, the stop at or
        after the vehicle.

        Parameters
        ----------
        lat, lon, stop_lat, stop_lon : float
            Degrees.

        Returns
        -------
        float
            At least 0.0; 0.0 for a stop that the vehicle has passed.

        Raises
        ------
        RouteDataError
            If a coordinate is not finite.
        """
        if not all(map(math.isfinite, (lat, lon, stop_lat, stop_lon))):
            raise RouteDataError("positions have to be finite")
        vehicle_m, _, stop_m, _ = along(self.line, lat, lon, stop_lat, stop_lon)
        return stop_m - vehicle_m

    @classmethod
    def from_blob(cls, blob: bytes) -> ShapePolyline:
        """Read the value of a ``route_shape:`` key.

        Parameters
        ----------
        blob : bytes
            JSON ``{"points": [{"shape_pt_lat", "shape_pt_lon", "shape_pt_sequence"}]}``, or the list alone. Points
            are put in the order of their sequence when all have one.

        Raises
        ------
        RouteDataError
            If it is not that.
        """
        try:
            value = orjson.loads(blob)
        except orjson.JSONDecodeError as error:
            raise RouteDataError(f"a shape is not JSON: {error}") from None
        points = value.get("points") if isinstance(value, dict) else value
        if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
            raise RouteDataError("a shape is not a list of points")
        points = _in_order(points)
        return cls([(_first(point, _LAT), _first(point, _LON)) for point in points])


class StopList:
    """Stops of a pattern as read from a blob, ready for `PatternTable.add`.

    Attributes
    ----------
    route_id, direction_id : optional
        Whose stops these are, if the blob says so.
    n_patterns : int
        For how many patterns of a route or direction these stops stand; 0 if the blob does not say.
    """

    __slots__ = ("direction_id", "ids", "lat", "lon", "n_patterns", "route_id", "sequence", "status")

    def __init__(self, status: Status, ids: Sequence[str | None] = (), rows: Sequence[tuple[float, float, int]] = ()):
        self.route_id: str | None = None
        self.direction_id: int | None = None
        self.n_patterns = 0
        self.status = status
        self.ids = list(ids)
        self.lat: NDArray[np.float64] = np.array([row[0] for row in rows], np.float64)
        self.lon: NDArray[np.float64] = np.array([row[1] for row in rows], np.float64)
        self.sequence: NDArray[np.int32] = np.array([row[2] for row in rows], np.int32)


def parse_stops(blob: bytes) -> StopList:
    """Read the value of a ``route_stops:``, ``direction_stops:`` or ``pattern_stops:`` key; never raises.

    Parameters
    ----------
    blob : bytes
        JSON list of stops, or ``{"stops": [...]}``, with ``"route_id"``, ``"direction_id"`` and ``"patterns"`` where
        it says whose they are and for how many patterns they stand. The order is that of the list; a stop without a
        sequence is called by its position, from 1.

    Returns
    -------
    StopList
        ``status`` is `Status.OK`, or why the stops cannot be used: ``UNKNOWN_ROUTE`` (not such JSON),
        ``TOO_FEW_STOPS`` (fewer than 2), ``STOP_WITHOUT_COORDINATES``.
    """
    try:
        value = orjson.loads(blob)
    except orjson.JSONDecodeError:
        return StopList(Status.UNKNOWN_ROUTE)
    if not isinstance(value, dict):
        return _stop_list(value)
    stops = _stop_list(value.get("stops"))
    stops.route_id, stops.direction_id = _identifier(value.get("route_id")), _integer(value.get("direction_id"))
    stops.n_patterns = max(_integer(value.get("patterns")) or 0, 0)
    return stops


def _stop_list(stops: Any) -> StopList:
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        return StopList(Status.UNKNOWN_ROUTE)
    if len(stops) < 2:
        return StopList(Status.TOO_FEW_STOPS)
    if not all(isinstance(stop, dict) for stop in stops):
        return StopList(Status.STOP_WITHOUT_COORDINATES)
    # The list is the order. A sequence is for display: real feeds begin anew or count down where directions meet.
    given = [_integer(_first(stop, _SEQUENCE)) for stop in stops]
    sequence = [position if number is None else number for position, number in enumerate(given, 1)]
    rows = [
        (_degrees(_first(stop, _LAT), 90.0), _degrees(_first(stop, _LON), 180.0), number)
        for stop, number in zip(stops, sequence, strict=True)
    ]
    if not all(math.isfinite(lat) and math.isfinite(lon) for lat, lon, _ in rows):
        return StopList(Status.STOP_WITHOUT_COORDINATES)
    return StopList(Status.OK, [_identifier(_first(stop, _STOP_ID)) for stop in stops], rows)


def parse_shape(blob: bytes | None) -> ShapePolyline | None:
    """Read a shape blob; None if there is none or it cannot be used, since a pattern does without."""
    try:
        return None if blob is None else ShapePolyline.from_blob(blob)
    except RouteDataError:
        return None


def digest(*parts: bytes) -> bytes:
    """Digest of these parts, 16 bytes."""
    whole = hashlib.blake2b(digest_size=16)
    for part in parts:
        whole.update(b"%d:" % len(part))
        whole.update(part)
    return whole.digest()


def content_digest(stops: StopList, shape: ShapePolyline | None) -> bytes:
    """Digest of what a pattern says, whatever else its blobs hold (names, times of writing)."""
    ids = orjson.dumps(stops.ids)
    arrays = (stops.lat.tobytes(), stops.lon.tobytes(), stops.sequence.tobytes())
    return digest(b"%d" % stops.status, ids, *arrays, shape.digest if shape else b"")


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        value = item.get(name)
        if value is not None and value != "":
            return value
    return None


def _in_order(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Points sorted by their numbers, stably, if all have one; else as given.
    numbered = [(_integer(point.get("shape_pt_sequence")), point) for point in points]
    if any(number is None for number, _ in numbered):
        return points
    return [point for _, point in sorted(numbered, key=lambda pair: pair[0] or 0)]


def _degrees(value: Any, limit: float) -> float:
    # NaN for what is no coordinate.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return number if -limit <= number <= limit else math.nan


def _integer(value: Any) -> int | None:
    # None for what is no whole number of 32 bits.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and -(2**31) < number < 2**31 else None


def _identifier(value: Any) -> str | None:
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
