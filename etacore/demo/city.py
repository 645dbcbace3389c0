"""A made-up city: streets, stops and bus routes, the same for the same seed.

The streets are a bent grid. The routes have what makes real ones hard: two
directions and a branch, a loop whose first and last stop are one, an
out-and-back that passes the same stops twice, an express, streets shared by
several routes, and ``stop_sequence`` with gaps or starting at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from etacore.schema import EARTH_RADIUS_M

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Node = tuple[int, int]

TIME_ZONE: Final = "America/Costa_Rica"
CENTRE: Final = (9.935, -84.09)
N_STREETS, N_AVENUES = 24, 16
BLOCK_M: Final = (430.0, 370.0)
M_PER_DEGREE: Final = EARTH_RADIUS_M * np.pi / 180.0

AVENUES: Final = (
    "Acacia", "Balsa", "Cedar", "Dahlia", "Ebony", "Fern", "Guava", "Hazel",
    "Indigo", "Jasmine", "Kapok", "Laurel", "Mango", "Nutmeg", "Orchid", "Palm",
)  # fmt: skip
PLACES: Final[dict[Node, str]] = {
    (0, 8): "Westgate",
    (23, 11): "Harbour",
    (20, 2): "University",
    (12, 0): "South Park",
    (10, 15): "North Hill",
    (6, 4): "Old Market",
    (12, 8): "Central Station",
    (20, 14): "Botanic Garden",
    (2, 2): "Brickworks",
    (22, 14): "Lighthouse",
    (0, 12): "Mills",
    (21, 6): "Stadium",
    (1, 5): "Airport",
    (22, 10): "Fair Grounds",
    (4, 14): "Lakeside",
    (18, 1): "Hospital",
}


@dataclass(frozen=True, slots=True)
class Course:
    """One way to drive a route: corners to pass, in order."""

    pattern_id: str
    direction_id: int
    headsign: str
    corners: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """A route and how it is served.

    Attributes
    ----------
    peak_headway_min : float
        Minutes between departures in the peak; more at other hours.
    first_sequence, sequence_step : int
        How its feed numbers stops.
    blocks_per_stop : int
        Street blocks from one stop to the next.
    returns_on_itself : bool
        The second half of the trip passes the stops of the first half again.
    """

    route_id: str
    name: str
    color: str
    peak_headway_min: float
    courses: tuple[Course, ...]
    first_sequence: int = 1
    sequence_step: int = 1
    blocks_per_stop: int = 1
    returns_on_itself: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop; `lat`, `lon` in degrees."""

    stop_id: str
    name: str
    lat: float
    lon: float


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """A sequence of stops and the line between them.

    The line is cut into pieces that end at a stop or a crossing; a bus drives
    a piece at one speed and may wait at its end.

    Attributes
    ----------
    stop_ix : ndarray of int64, shape (n_stops,)
        Rows of `City.stops`.
    stop_sequence : ndarray of int64, shape (n_stops,)
    stop_s_m : ndarray of float64, shape (n_stops,)
        Metres from the start, along the line.
    shape_lat, shape_lon, shape_s_m : ndarray of float64, shape (n_points,)
        The line, degrees and metres from the start.
    piece_length_m, piece_speed_mps, piece_sensitivity : ndarray of float64, shape (n_pieces,)
        Length, speed on an empty street, and how much of the rush hour is felt there (1 = the city's mean).
    piece_street : ndarray of int64, shape (n_pieces,)
        The street it lies on (0 .. n_streets-1).
    piece_light_p : ndarray of float64, shape (n_pieces,)
        Chance of a red light at its end.
    piece_stop : ndarray of int64, shape (n_pieces,)
        The stop (0 .. n_stops-1) at its end, -1 if none.
    """

    pattern_id: str
    route_id: str
    direction_id: int
    headsign: str
    stop_ix: IntArray
    stop_sequence: IntArray
    stop_s_m: FloatArray
    shape_lat: FloatArray
    shape_lon: FloatArray
    shape_s_m: FloatArray
    piece_length_m: FloatArray
    piece_speed_mps: FloatArray
    piece_sensitivity: FloatArray
    piece_street: IntArray
    piece_light_p: FloatArray
    piece_stop: IntArray

    def locate(self, s_m: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Latitude, longitude (degrees) and bearing (degrees, north = 0) at `s_m` metres along the line."""
        lat = np.interp(s_m, self.shape_s_m, self.shape_lat)
        lon = np.interp(s_m, self.shape_s_m, self.shape_lon)
        leg = np.clip(np.searchsorted(self.shape_s_m, s_m, side="right") - 1, 0, len(self.shape_s_m) - 2)
        north = np.diff(self.shape_lat)[leg]
        east = np.diff(self.shape_lon)[leg] * np.cos(np.radians(CENTRE[0]))
        return lat, lon, np.degrees(np.arctan2(east, north)) % 360.0


@dataclass(frozen=True, slots=True, eq=False)
class City:
    """The network: what `build_city` makes of a seed."""

    seed: int
    routes: tuple[Route, ...]
    stops: tuple[Stop, ...]
    patterns: tuple[Pattern, ...]

    def route(self, route_id: str) -> Route:
        """The route with this id."""
        return next(route for route in self.routes if route.route_id == route_id)

    def patterns_of(self, route_id: str, direction_id: int | None = None) -> list[int]:
        """Rows of `patterns` that belong to a route, or to one direction of it."""
        return [
            ix
            for ix, pattern in enumerate(self.patterns)
            if pattern.route_id == route_id and direction_id in (None, pattern.direction_id)
        ]


def _both_ways(route_id: str, there: str, back: str, *corners: Node, branch: str = "") -> tuple[Course, Course]:
    return (
        Course(f"{route_id}{branch}-0", 0, there, corners),
        Course(f"{route_id}{branch}-1", 1, back, corners[::-1]),
    )


ROUTES: Final = (
    Route(
        "10",
        "Westgate - Harbour / University",
        "C0392B",
        6,
        (
            *_both_ways("10", "Harbour", "Westgate", (0, 8), (14, 8), (14, 9), (23, 9), (23, 11), branch="A"),
            *_both_ways("10", "University", "Westgate", (0, 8), (14, 8), (14, 2), (20, 2), branch="B"),
        ),
        first_sequence=10,
        sequence_step=10,
    ),
    Route(
        "20",
        "South Park - North Hill",
        "2471A3",
        8,
        _both_ways("20", "North Hill", "South Park", (12, 0), (12, 6), (10, 6), (10, 15)),
        first_sequence=0,
    ),
    Route(
        "30",
        "Ring",
        "1E8449",
        8,
        (Course("30-0", 0, "Ring", ((6, 4), (17, 4), (17, 12), (6, 12), (6, 4))),),
    ),
    Route(
        "40",
        "Central Station - Botanic Garden and back",
        "9A7D0A",
        9,
        (Course("40-0", 0, "Botanic Garden", ((12, 8), (12, 13), (20, 13), (20, 14), (20, 13), (12, 13), (12, 8))),),
        returns_on_itself=True,
    ),
    Route(
        "50",
        "Brickworks - Lighthouse",
        "7D3C98",
        9,
        _both_ways(
            "50", "Lighthouse", "Brickworks", (2, 2), (6, 2), (6, 6), (10, 6), (10, 10), (16, 10), (16, 14), (22, 14)
        ),
        sequence_step=5,
    ),
    Route(
        "60",
        "Mills - Stadium",
        "117A65",
        10,
        _both_ways("60", "Stadium", "Mills", (0, 12), (9, 12), (9, 10), (21, 10), (21, 6)),
    ),
    Route(
        "70_X",
        "Airport Express",
        "34495E",
        12,
        _both_ways("70_X", "Fair Grounds", "Airport", (1, 5), (8, 5), (8, 8), (22, 8), (22, 10)),
        first_sequence=100,
        sequence_step=100,
        blocks_per_stop=3,
    ),
    Route(
        "80",
        "Lakeside - Hospital",
        "BA4A00",
        12,
        _both_ways("80", "Hospital", "Lakeside", (4, 14), (4, 9), (15, 9), (15, 5), (18, 5), (18, 1)),
    ),
)


def build_city(seed: int = 7) -> City:
    """Lay out the city of a seed: the same routes over other streets, bends, stops and speeds.

    Parameters
    ----------
    seed : int
        Any non-negative number.
    """
    streets = _Streets(np.random.default_rng([seed, 1]))
    patterns = tuple(_pattern(streets, route, course) for route in ROUTES for course in route.courses)
    return City(seed, ROUTES, tuple(streets.stops), patterns)


class _Streets:
    """Corners in metres, what each street is like, and the stops that routes have asked for so far."""

    def __init__(self, rng: np.random.Generator) -> None:
        x_m, y_m = (
            np.cumsum(rng.uniform(0.85, 1.15, n) * block)
            for n, block in zip((N_STREETS, N_AVENUES), BLOCK_M, strict=True)
        )
        x, y = np.meshgrid(x_m - x_m.mean(), y_m - y_m.mean(), indexing="ij")
        phase = rng.uniform(0, 2 * np.pi, 4)
        bent_x = x + 110 * np.sin(y / 900 + phase[0]) + 40 * np.sin(x / 700 + phase[1])
        bent_y = y + 130 * np.sin(x / 1300 + phase[2]) + 40 * np.sin(y / 600 + phase[3])
        turn = rng.uniform(-0.35, 0.35)
        self.x_m = bent_x * np.cos(turn) - bent_y * np.sin(turn)
        self.y_m = bent_x * np.sin(turn) + bent_y * np.cos(turn)
        n = N_STREETS + N_AVENUES
        self.speed_mps = rng.uniform(7.0, 11.5, n)
        self.sensitivity = rng.uniform(0.5, 1.6, n)
        self.light_p = rng.choice([0.0, 0.0, 0.25, 0.4, 0.55], (N_STREETS, N_AVENUES))
        self.setback_m = rng.uniform(20.0, 60.0, (N_STREETS, N_AVENUES))
        self.skipped = rng.random((N_STREETS, N_AVENUES)) < 0.15
        self.stops: list[Stop] = []
        self._stop_ix: dict[tuple[Node, Node, float], int] = {}

    def stop_between(self, a: Node, b: Node, along: float, right_m: float) -> int:
        """Row of the stop on the way from `a` to `b`, made when first asked for; `along` is a share of the block."""
        if (a, b, along) not in self._stop_ix:
            dx, dy = self.x_m[b] - self.x_m[a], self.y_m[b] - self.y_m[a]
            block_m = np.hypot(dx, dy) or 1.0
            x_m = self.x_m[a] + along * dx + right_m * dy / block_m
            y_m = self.y_m[a] + along * dy - right_m * dx / block_m
            lat, lon = to_degrees(np.array([x_m]), np.array([y_m]))
            self._stop_ix[a, b, along] = len(self.stops)
            name = PLACES[b] if a == b and b in PLACES else f"{AVENUES[b[1]]} Av / {_ordinal(b[0] + 1)} St"
            stop_id = f"S{len(self.stops) + 1:03d}"
            self.stops.append(Stop(stop_id, name, round(float(lat[0]), 6), round(float(lon[0]), 6)))
        return self._stop_ix[a, b, along]


def to_degrees(x_m: FloatArray, y_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Latitude and longitude of points given in metres east and north of the centre."""
    lat = CENTRE[0] + y_m / M_PER_DEGREE
    return lat, CENTRE[1] + x_m / (M_PER_DEGREE * np.cos(np.radians(CENTRE[0])))


def _pattern(streets: _Streets, route: Route, course: Course) -> Pattern:
    nodes = _walk(course.corners)
    x_m, y_m = (np.array([axis[node] for node in nodes]) for axis in (streets.x_m, streets.y_m))
    node_s_m = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x_m), np.diff(y_m)))])

    stop_ix, stop_s_m, turning = [], [], len(nodes) // 2 if route.returns_on_itself else -1
    for k, node in enumerate(nodes):
        if k in (0, turning, len(nodes) - 1):
            stop_ix.append(streets.stop_between(node, node, 0.0, 0.0))
            stop_s_m.append(node_s_m[k])
        elif k % route.blocks_per_stop == 0:
            block_m = node_s_m[k] - node_s_m[k - 1]
            a, b = nodes[k - 1], node
            along, right_m = 1.0 - streets.setback_m[node] / block_m, 6.0
            if route.returns_on_itself:
                a, b = min(a, b), max(a, b)
                along, right_m = 0.5, 0.0
            if streets.skipped[b] and route.blocks_per_stop == 1:
                continue
            if route.returns_on_itself and k in (1, turning + 1):
                continue  # the other half ends with these blocks, and does not stop in them
            stop_ix.append(streets.stop_between(a, b, along, right_m))
            stop_s_m.append(node_s_m[k - 1] + along * block_m)

    ends_m = np.union1d(node_s_m[1:], stop_s_m[1:])
    leg = np.searchsorted(node_s_m, ends_m) - 1  # a piece that ends at a corner belongs to the leg before it
    street = np.array([_street(nodes[k], nodes[k + 1]) for k in leg])
    is_crossing = np.isin(ends_m, node_s_m)
    piece_stop = np.full(len(ends_m), -1, dtype=np.int64)
    piece_stop[np.searchsorted(ends_m, stop_s_m[1:])] = np.arange(1, len(stop_ix))
    lat, lon = to_degrees(x_m, y_m)
    return Pattern(
        course.pattern_id,
        route.route_id,
        course.direction_id,
        course.headsign,
        np.array(stop_ix),
        route.first_sequence + route.sequence_step * np.arange(len(stop_ix)),
        np.array(stop_s_m),
        lat,
        lon,
        node_s_m,
        np.diff(ends_m, prepend=0.0),
        streets.speed_mps[street],
        streets.sensitivity[street],
        street,
        np.where(is_crossing, [streets.light_p[nodes[k + 1]] for k in leg], 0.0),
        piece_stop,
    )


def _walk(corners: tuple[Node, ...]) -> list[Node]:
    """Every crossing from corner to corner, one block at a time, along the street first."""
    nodes = [corners[0]]
    for goal in corners[1:]:
        while nodes[-1] != goal:
            i, j = nodes[-1]
            step_i, step_j = int(np.sign(goal[0] - i)), int(np.sign(goal[1] - j))
            nodes.append((i + step_i, j) if step_i else (i, j + step_j))
    return nodes


def _street(a: Node, b: Node) -> int:
    return a[0] if a[0] == b[0] else N_STREETS + a[1]


def _ordinal(n: int) -> str:
    suffix = "th" if 10 < n % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"
