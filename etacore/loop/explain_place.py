"""Which stops and line a vehicle was given, from which key, and where on it the vehicle is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import orjson

from etacore._kernels.select import along
from etacore.config import KeyNames, RuntimeConfig
from etacore.errors import RouteDataError
from etacore.loop.explain_snapshot import STOP_STATUSES
from etacore.loop.reasons import HINTS, REASONS, age_text, cut, quoted
from etacore.loop.rehearsal import Rehearsal
from etacore.pipeline.engine import Batch
from etacore.pipeline.route_blobs import ShapePolyline, parse_shape, parse_stops
from etacore.schema import NO_SEQUENCE
from etacore.status import Status, StopHint

_US: Final = 1_000_000
_STRIKES: Final = 15  # lower four bits of a vehicle's strikes; the upper ones count confirmations


@dataclass(frozen=True, slots=True)
class AskedKey:
    """A key that was asked for, in the order of asking, and whether Redis has it."""

    key: str
    found: bool


@dataclass(frozen=True, slots=True)
class PatternChosen:
    """The stops that a vehicle was given.

    Attributes
    ----------
    key : str or None
        Where they came from.
    why : str
        Why from there.
    guessed : bool
        Whether patterns are seeded, and which one it runs is not known.
    """

    key: str | None
    why: str
    guessed: bool
    n_stops: int
    length_m: float


@dataclass(frozen=True, slots=True)
class StopShown:
    """A stop of the pattern; `position` counts from 1, `at_m` along the line."""

    position: int
    stop_id: str
    name: str
    sequence: int
    at_m: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where on its line a vehicle is, metres, and between which stops; `why` says what decided."""

    progress_m: float | None
    share: float | None
    off_line_m: float | None
    previous_stop: StopShown | None
    next_stop: StopShown | None
    stop_hint: str
    why: list[str]


class Line:
    """One pattern of a rehearsal: its stops, its names, and how far from its line something is."""

    def __init__(self, rehearsal: Rehearsal, pattern_ix: int, keys: KeyNames) -> None:
        self.key: Final = _origin(rehearsal, pattern_ix, keys)
        found = rehearsal.engine.routes.patterns.describe(pattern_ix)
        self.facts: Final[dict[str, Any]] = found or {"stop_ids": [], "sequences": [], "s_m": [], "length_m": 0.0}
        self.n_stops: Final = len(self.facts["sequences"])
        self.length_m: Final = float(self.facts["length_m"])
        self._stops_blob: Final = rehearsal.asked.get(self.key.encode()) if self.key else None
        self._shape_blob: Final = self._find_shape(rehearsal, keys)
        self._names: Final = _stop_names(self._stops_blob)

    def stop(self, ix: int) -> StopShown | None:
        """The stop at an index; None outside of the pattern."""
        if not 0 <= ix < self.n_stops:
            return None
        stop_id = self.facts["stop_ids"][ix].decode(errors="replace")
        name = self._names[ix] if ix < len(self._names) else ""
        return StopShown(ix + 1, cut(stop_id), name, self.facts["sequences"][ix], round(self.facts["s_m"][ix], 1))

    def distance_m(self, lat: float, lon: float) -> float | None:
        """Metres from a position to the nearest point of the line."""
        return None if self._line is None else along(self._line.line, lat, lon, lat, lon)[1]

    def _find_shape(self, rehearsal: Rehearsal, keys: KeyNames) -> bytes | None:
        for stops, shape in (
            (keys.route_stops, keys.route_shape),
            (keys.direction_stops, keys.direction_shape),
            (keys.pattern_stops, keys.pattern_shape),
        ):
            if self.key and self.key.startswith(stops):
                return rehearsal.asked.get((shape + self.key[len(stops) :]).encode())
        return None

    @cached_property
    def _line(self) -> ShapePolyline | None:
        # The pattern's line is its shape only where that passes the stops; the length tells which one was taken.
        shape = parse_shape(self._shape_blob)
        if shape is not None and abs(shape.length_m - self.length_m) < 1.0:
            return shape
        stops = parse_stops(self._stops_blob or b"")
        try:
            return ShapePolyline(list(zip(stops.lat.tolist(), stops.lon.tolist(), strict=True)))
        except RouteDataError:
            return None


def asked_keys(rehearsal: Rehearsal, keys: KeyNames) -> list[AskedKey]:
    """The keys that say which stops a vehicle serves, without those of lines."""
    shapes = tuple(name.encode() for name in (keys.route_shape, keys.direction_shape, keys.pattern_shape))
    return [
        AskedKey(cut(key.decode(errors="replace"), 200), value is not None)
        for key, value in rehearsal.asked.items()
        if not key.startswith((*shapes, keys.predictions.encode()))
    ]


def chosen_pattern(line: Line, batch: Batch, row: int, keys: KeyNames) -> PatternChosen:
    """Which stops a row was given, and why."""
    guessed = bool(batch.is_guessed[row])
    why = _why(line.key or "", batch, row, keys)
    if guessed and batch.text_at("trip_id", row):
        why += "; patterns are seeded, and its trip is not among them, so this is a guess"
    elif guessed:
        why += "; that is one of several patterns, so this is a guess"
    return PatternChosen(line.key and cut(line.key, 200), why, guessed, line.n_stops, round(line.length_m, 1))


def place_on(line: Line, batch: Batch, row: int) -> Place:
    """Where a row is on its line, and what decided that."""
    lat, lon = float(batch.lat[row]), float(batch.lon[row])
    off_line_m = line.distance_m(lat, lon)
    progress_m, next_ix = float(batch.progress_m[row]), int(batch.first_stop[row])
    has_place = next_ix >= 0 and not math.isnan(progress_m)
    hint = StopHint(int(batch.stop_hint[row]))
    return Place(
        progress_m=round(progress_m, 1) if has_place else None,
        share=round(progress_m / line.length_m, 4) if has_place and line.length_m > 0.0 else None,
        off_line_m=None if off_line_m is None else round(off_line_m, 1),
        previous_stop=line.stop(next_ix - 1) if has_place else None,
        next_stop=line.stop(next_ix) if has_place else None,
        stop_hint=hint.name.lower(),
        why=_why_here(batch, row, hint, next_ix),
    )


def why_no_stops(status: Status, rehearsal: Rehearsal, keys: KeyNames) -> list[str]:
    """What Redis says, and does not say, of the stops of a vehicle."""
    stops_prefixes = tuple(name.encode() for name in (keys.route_stops, keys.direction_stops, keys.pattern_stops))
    names_prefixes = tuple(name.encode() for name in (keys.trip_pattern, keys.run_pattern))
    said = []
    for key, blob in rehearsal.asked.items():
        name = cut(key.decode(errors="replace"), 200)
        if blob is None:
            continue
        if key.startswith(names_prefixes):
            said.append(f"{name} names the pattern {quoted(blob.decode(errors='replace'))}")
        elif key.startswith(stops_prefixes):
            stops = parse_stops(blob)
            if stops.status == Status.UNKNOWN_ROUTE:
                said.append(f"{name} is there, but is no JSON list of stops")
            elif stops.status == Status.STOP_WITHOUT_COORDINATES:
                said.append(f"{name}: {_unplaced_stop(blob)}")
            elif stops.status != Status.OK:
                said.append(f"{name} is there, but {REASONS[stops.status].meaning}")
    absent = [asked.key for asked in asked_keys(rehearsal, keys) if not asked.found]
    if status in (Status.UNKNOWN_ROUTE, Status.GUESSED_PATTERN) and absent:
        said.append(f"not in Redis: {', '.join(absent)}")
    return said


def why_off_route(line: Line, batch: Batch, row: int, config: RuntimeConfig) -> list[str]:
    """How far from its line a vehicle is, and what may have put it there."""
    lat, lon, limit_m = float(batch.lat[row]), float(batch.lon[row]), config.max_off_route_metres
    distance_m = line.distance_m(lat, lon)
    if distance_m is None:
        return []
    said = [f"it is {length_text(distance_m)} from the line, and the limit is {length_text(limit_m)}"]
    if distance_m <= limit_m:
        said = [
            f"it is {length_text(distance_m)} from the line, but farther than {length_text(limit_m)} from the part of "
            "it where it can be"
        ]
    elif lat == lon == 0.0:
        said.append("0/0 is what many receivers report without a fix")
    else:
        others = ((lon, lat, "lat and lon may be exchanged"), (lat, -lon, "the sign of lon may be wrong"))
        for other_lat, other_lon, words in (*others, (-lat, lon, "the sign of lat may be wrong")):
            if abs(other_lat) <= 90.0:
                other_m = line.distance_m(other_lat, other_lon)
                if other_m is not None and other_m <= limit_m:
                    said.append(f"{words}: then it would be {length_text(other_m)} from the line")
    return said


def length_text(metres: float) -> str:
    """Metres, or kilometres from 10 km on."""
    return f"{metres:.0f} m" if metres < 10_000.0 else f"{metres / 1e3:,.0f} km"


def _origin(rehearsal: Rehearsal, pattern_ix: int, keys: KeyNames) -> str | None:
    if pattern_ix < 0:
        return None
    prefixes = tuple(name.encode() for name in (keys.route_stops, keys.direction_stops, keys.pattern_stops))
    for key, value in rehearsal.asked.items():
        if not key.startswith(prefixes):
            continue
        try:
            is_it = rehearsal.engine.routes.pattern_ix(key) == pattern_ix
        except ValueError:
            continue
        if is_it:
            # A direction's stops may lie under the key that older versions gave them.
            if value is None and key.startswith(prefixes[1]):
                direction, _, route = key[len(prefixes[1]) :].partition(b":")
                key = prefixes[0] + route + b":" + direction
            return key.decode(errors="replace")
    return None


def _why(key: str, batch: Batch, row: int, keys: KeyNames) -> str:
    trip, route = batch.text_at("trip_id", row), batch.text_at("route_id", row)
    if key.startswith(keys.pattern_stops):
        if trip:
            return f"its trip's own pattern, named by {cut(keys.trip_pattern + trip, 120)}"
        return f"the pattern of its run, named by its route, direction and start below {keys.run_pattern}"
    before = "it names no trip" if not trip else f"no pattern is known of its trip {quoted(trip, 60)}"
    if key == keys.route_stops + route:
        direction = "its direction has no stops of its own" if batch.direction_id[row] >= 0 else "it names no direction"
        return f"the stops of its route: {before}, and {direction}"
    if batch.direction_id[row] >= 0:
        return f"the stops of its route and direction {int(batch.direction_id[row])}: {before}"
    return f"the direction of its route that it follows: {before}, and it names no direction"


def _why_here(batch: Batch, row: int, hint: StopHint, next_ix: int) -> list[str]:
    said = [HINTS[hint] + _named(batch, row)]
    if batch.other_pattern_ix[row] >= 0 and batch.status[row] != Status.DIRECTION_UNKNOWN:
        said.append("of two directions this is the one that it follows, by movement, nearness and bearing")
    if next_ix == 0:
        said.append("the first stop is not reached yet")
    before_m = float(batch.prev_progress_m[row])
    if not math.isnan(before_m):
        since_s = float(batch.time_us[row] - batch.prev_time_us[row]) / _US
        said.append(f"at its fix before, {age_text(since_s)} earlier, it was at {before_m:.0f} m")
    elif batch.prev_time_us[row] > 0:
        said.append("a new run begins here")
    else:
        said.append("no earlier fix on this run is known")
    if n_strikes := int(batch.strikes[row]) & _STRIKES:
        said.append(
            f"it fits an earlier part of the line, for {n_strikes} fixes now, and keeps its place until that is sure"
        )
    return said


def _named(batch: Batch, row: int) -> str:
    named = []
    if (sequence := int(batch.stop_sequence[row])) != NO_SEQUENCE:
        named.append(f"stop sequence {sequence}")
    if stop_id := batch.text_at("stop_id", row):
        named.append(f"stop id {quoted(stop_id, 40)}")
    if named and 0 <= (code := int(batch.current_status[row])) < len(STOP_STATUSES):
        named.append(STOP_STATUSES[code])
    return f" ({', '.join(named)})" if named else ""


def _stops_of(blob: bytes | None) -> list[Any]:
    try:
        value = orjson.loads(blob or b"[]")
    except orjson.JSONDecodeError:
        return []
    stops = value.get("stops") if isinstance(value, dict) else value
    return stops if isinstance(stops, list) else []


def _stop_names(blob: bytes | None) -> list[str]:
    return [
        cut(str(stop.get("stop_name") or stop.get("name") or ""), 40) if isinstance(stop, dict) else ""
        for stop in _stops_of(blob)
    ]


def _unplaced_stop(blob: bytes) -> str:
    """The first stop that makes a list unusable: whatever two of the first make a usable list with it does not."""
    stops = _stops_of(blob)
    for position, stop in enumerate(stops, 1):
        if parse_stops(orjson.dumps([stop, stop])).status != Status.OK:
            return f"stop {position} of {len(stops)} is {quoted(orjson.dumps(stop).decode(errors='replace'), 100)}"
    return "a stop has no coordinates"
