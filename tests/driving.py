"""Made-up buses that drive along made-up lines, for tests: what they report, and which stop truly comes next."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from tests.reference import routes
from tests.reference.drive import EPOCH_US
from tests.reference.geo import RADIUS_M, short_way
from tests.reference.select import Pattern

KINDS = ("line", "out and back", "circle")
BEARINGS = ("given", "missing", "wrong")  # wrong: three of ten
HINTS = ("none", "right sequence", "right id", "stuck", "wrong", "unknown")
EMPTY_MPS = 12.0


@dataclass
class Road:
    """A line in metres and its stops."""

    kind: str
    has_shape: bool
    corners: list[tuple[float, float]]  # (east, north)
    stop_s_m: list[float]
    origin: tuple[float, float] = (45.0, 7.0)
    corner_s_m: list[float] = field(init=False)

    def __post_init__(self):
        self.corner_s_m = [0.0, *accumulate(math.dist(a, b) for a, b in pairwise(self.corners))]

    @property
    def length_m(self):
        return self.corner_s_m[-1]

    def place(self, s_m, aside_m=0.0):
        """(east, north, bearing in degrees) so far along the line, and to the right of it."""
        i = min(max(bisect_right(self.corner_s_m, s_m) - 1, 0), len(self.corners) - 2)
        (x_1, y_1), (x_2, y_2) = self.corners[i], self.corners[i + 1]
        length = self.corner_s_m[i + 1] - self.corner_s_m[i]
        t, east, north = (s_m - self.corner_s_m[i]) / length, (x_2 - x_1) / length, (y_2 - y_1) / length
        x, y = x_1 + t * (x_2 - x_1), y_1 + t * (y_2 - y_1)
        return x + aside_m * north, y - aside_m * east, math.degrees(math.atan2(east, north)) % 360

    def degrees(self, x, y):
        lat, lon = self.origin
        scale = math.cos(math.radians(lat))
        return lat + math.degrees(y / RADIUS_M), short_way(lon + math.degrees(x / RADIUS_M / scale))

    def stops(self):
        """(id, lat, lon, sequence), with gaps in the sequence."""
        places = [self.degrees(*self.place(s_m)[:2]) for s_m in self.stop_s_m]
        return [(f"S{i}", lat, lon, 10 * i) for i, (lat, lon) in enumerate(places, 1)]

    def shape(self):
        return [self.degrees(x, y) for x, y in self.corners] if self.has_shape else None

    def pattern(self):
        """As the twin knows it."""
        stops, shape = self.stops(), self.shape()
        s_m = routes.place_stops(shape, [(lat, lon) for _, lat, lon, _ in stops]) if shape else None
        return Pattern(stops, shape, s_m)

    def back(self, aside_m=0.0):
        """The same stops the other way; with `aside_m` the middle of the line leads through another street."""
        n = len(self.corners)
        middle = range(n // 4, 3 * n // 4)
        corners = [(x + aside_m * (i in middle), y) for i, (x, y) in enumerate(self.corners)][::-1]
        road = Road(self.kind, self.has_shape, corners, [], self.origin)
        stretch = road.length_m / self.length_m
        road.stop_s_m = [(self.length_m - s_m) * stretch for s_m in reversed(self.stop_s_m)]
        if not self.has_shape:
            road.stop_s_m = list(road.corner_s_m)
        return road


def random_road(rng, kind, has_shape):
    """A line of 3 to 8 km with a stop every 250 to 700 m; without a shape its corners are its stops."""
    if kind == "circle":
        n, radius_m = rng.randint(8, 16), rng.uniform(700, 1200)
        turns = [2 * math.pi * (i + rng.uniform(-0.2, 0.2)) / n for i in range(n)]
        corners = [(radius_m * math.sin(turn), radius_m * math.cos(turn)) for turn in turns]
        gap_m = rng.choice([0, 0, 0, 120, 180])  # a lap ends at another stop of the same place, or nearly there
        corners.append((corners[0][0], corners[0][1] - gap_m))
    else:
        corners, heading = [(0.0, 0.0)], rng.uniform(0, 2 * math.pi)
        for _ in range(rng.randint(5, 9) if kind == "out and back" else rng.randint(8, 14)):
            turn, step_m = heading + rng.gauss(0, 0.5), rng.uniform(250, 700)
            x, y = corners[-1]
            corners.append((x + step_m * math.sin(turn), y + step_m * math.cos(turn)))
        if kind == "out and back":
            corners += corners[-2::-1]
    origin = rng.choice([(45.0, 7.0), (-33.1, 179.999), (64.2, -149.0)])
    road = Road(kind, has_shape, corners, [], origin)
    if not has_shape:
        road.stop_s_m = list(road.corner_s_m)
    elif kind == "out and back":
        # There is a stop where it turns: else nothing says on which side of the turn the stops beside it are.
        turn_m = road.length_m / 2
        road.stop_s_m = [*_stops_between(rng, 0.0, turn_m), *_stops_between(rng, turn_m, road.length_m), road.length_m]
    else:
        road.stop_s_m = [*_stops_between(rng, 0.0, road.length_m), road.length_m]
    return road


def _stops_between(rng, s_m, end_m):
    while s_m < end_m - 200:
        yield s_m
        s_m += rng.uniform(250, 700)


@dataclass
class Moment:
    """Where a bus is at a second, and what it does: drives a run, stands at a terminal, returns empty, goes round."""

    road: Road
    s_m: float
    does: str = "drives"
    at_stop: int | None = None
    aside_m: float = 0.0


def random_run(rng, road, has_detour=False, is_first=True):
    """Every second of one run."""
    last = len(road.stop_s_m) - 1
    if is_first or rng.random() < 0.5:
        yield from [Moment(road, 0.0, "waits", 0)] * rng.randrange(20, 240)
    detour = sorted(rng.sample(range(last + 1), 2)) if has_detour else (0, 0)
    detour_m = rng.choice([-1, 1]) * rng.uniform(100, 500)
    s_m = 0.0
    for stop in range(1, last + 1):
        speed_mps = rng.uniform(5, 14)
        aside_m = detour_m if detour[0] < stop <= detour[1] else 0.0
        while s_m < road.stop_s_m[stop]:
            yield Moment(road, s_m, "goes round" if aside_m else "drives", None, aside_m)
            s_m += speed_mps
        s_m = road.stop_s_m[stop]
        if rng.random() < 0.6:
            yield from [Moment(road, s_m, "drives" if stop < last else "waits", stop)] * rng.randrange(10, 40)


def random_runs(rng, road, has_detour):
    """Every second of one to four runs, one after another; between those of a line the bus returns empty."""
    for run in range(rng.randint(1, 4)):
        yield from random_run(rng, road, has_detour, run == 0)
        if road.kind == "line":
            yield from [Moment(road, road.length_m, "waits", len(road.stop_s_m) - 1)] * rng.randrange(10, 300)
            for i in range(int(road.length_m / EMPTY_MPS), -1, -1):
                yield Moment(road, EMPTY_MPS * i, "returns")


def random_runs_there_and_back(rng, roads):
    """Every second of one to three runs on two lines in turns."""
    first = rng.randrange(2)
    for run in range(rng.randint(1, 3)):
        yield from random_run(rng, roads[(first + run) % 2], is_first=run == 0)


@dataclass
class Drive:
    """A bus with its habits: how it reports while it drives."""

    noise_m: float
    every_s: float
    bearings: str
    hints: str = "none"
    has_detour: bool = False


def random_drive(rng):
    return Drive(
        rng.choice([3.0, 8.0, 15.0, 40.0]),
        rng.uniform(5, 90),
        rng.choice(BEARINGS),
        "none" if rng.random() < 0.4 else rng.choice(HINTS[1:]),
        rng.random() < 0.3,
    )


def reports(rng, drive, moments):
    """(snapshot, moment) of each report; at times none for 5 to 70 minutes, in which the bus stands or drives on."""
    moments = list(moments)
    stuck = rng.randrange(len(moments[0].road.stop_s_m))
    # First seen at the begin, or anywhere.
    second, late_s = rng.randrange(60 if rng.random() < 0.6 else len(moments)), 0
    while second < len(moments):
        moment = moments[second]
        x, y, bearing = moment.road.place(moment.s_m, moment.aside_m)
        lat, lon = moment.road.degrees(x + rng.gauss(0, drive.noise_m), y + rng.gauss(0, drive.noise_m))
        snapshot = {"lat": lat, "lon": lon, "time_us": EPOCH_US + (second + late_s) * 1_000_000}
        if drive.bearings != "missing":
            bearing += 180.0 * (moment.does == "returns") + rng.gauss(0, 15)
            is_wrong = drive.bearings == "wrong" and rng.random() < 0.3
            snapshot["bearing"] = (rng.uniform(0, 360) if is_wrong else bearing) % 360
        yield snapshot | _hint(rng, drive.hints, stuck, moment), moment
        second += max(1, round(drive.every_s * rng.uniform(0.7, 1.3)))
        if rng.random() < 0.01:
            silence_s = rng.randrange(300, 4200)
            if rng.random() < 0.5:
                late_s += silence_s
            else:
                second += silence_s


def _hint(rng, hints, stuck, moment):
    """What a report says of its stop."""
    if hints == "none":
        return {}
    stops, stands = moment.road.stops(), moment.at_stop is not None
    stop = moment.at_stop if stands else min(bisect_right(moment.road.stop_s_m, moment.s_m), len(stops) - 1)
    if hints == "stuck":
        stop, stands = stuck, stuck % 2 == 0
    elif hints == "wrong":
        stop, stands = rng.randrange(len(stops)), rng.random() < 0.3
    stop_id, _, _, sequence = stops[stop]
    status = {"current_status": "STOPPED_AT" if stands else "IN_TRANSIT_TO"}
    if hints == "unknown":
        return status | {"current_stop_sequence": sequence + 1, "stop_id": f"X{stop}"}
    if hints == "right id" or (hints == "wrong" and rng.random() < 0.5):
        return status | {"stop_id": stop_id}
    return status | {"current_stop_sequence": sequence}


def true_next_stop(moment):
    """The stop that comes next on the run; None where the bus is on none, beside the line, or within 30 m of a stop."""
    stop_s_m = moment.road.stop_s_m
    if moment.does != "drives" or min(abs(moment.s_m - s_m) for s_m in stop_s_m) <= 30.0:
        return None
    return bisect_right(stop_s_m, moment.s_m)
