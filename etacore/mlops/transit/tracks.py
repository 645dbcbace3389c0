"""Where recorded vehicles were along their trips: fixes matched to the line of a pattern, in metres of progress.

A fix may lie near several parts of its line (loops, out-and-back streets), so
each gets up to `N_CANDIDATES` places and a Viterbi search over the whole trip
picks the sequence that moves forward as far as the vehicle moved. The search
runs over all trips at once: step t handles the t-th fix of every trip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from etacore.mlops.transit.geodesy import leg_lengths_m
from etacore.mlops.transit.gtfs import NO_TIME, Feed
from etacore.mlops.transit.patterns import Pattern, Shape
from etacore.mlops.transit.positions import Positions
from etacore.schema import EARTH_RADIUS_M

N_CANDIDATES: Final = 6
MAX_OFF_SHAPE_M: Final = 200.0
MAX_OFF_CHAIN_M: Final = 500.0
"""Farther limit where the line is only the chain of stops: streets bend between them."""
MAX_BACKWARDS_M: Final = 300.0
"""A track that falls back farther than this is cut in two: not the same run of the trip."""

_NOISE_M: Final = 30.0
_JITTER_M: Final = 15.0
_DAY_S: Final = 86_400
_ROWS_PER_BLOCK: Final = 4_096
# Nothing is this long: keeps the progress of different trips apart in one ascending column.
APART_M: Final = 1e8

_F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A pattern's way in a flat local frame (metres east and north of its first point).

    Attributes
    ----------
    x_m, y_m, s_m : ndarray of float64, shape (n_vertices,)
        Vertices, and distance travelled at each.
    stop_s_m : ndarray of float64, shape (n_stops,)
        Distance travelled at each stop, never descending.
    max_off_m : float
        Fixes farther away are not on this line.
    """

    origin: tuple[float, float]
    x_m: _F8
    y_m: _F8
    s_m: _F8
    stop_s_m: _F8
    max_off_m: float

    def to_xy(self, lat: _F8, lon: _F8) -> tuple[_F8, _F8]:
        """Degrees to metres of the local frame."""
        return _to_xy(self.origin, lat, lon)


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Runs of trips: one vehicle, one trip, one service day.

    Attributes
    ----------
    trip_ix, pattern_ix, vehicle_code, service_day : ndarray of int32, shape (n_tracks,)
        Indices into ``feed.trips``, ``feed.patterns``, ``positions.vehicle_id.values``; days since 1970-01-01.
    offset : ndarray of int64, shape (n_tracks + 1,)
        Track i owns the fixes ``offset[i]:offset[i + 1]``, in time order.
    row : ndarray of int64, shape (n_fixes,)
        Row of the fix in the positions.
    progress_m : ndarray of float64, shape (n_fixes,)
        Along the line, never descending within a track; up to ``max_off_m`` before its start or past its end.
    lines : dict of pattern index to Line
    n_unmatched : int
        Fixes of known trips that lie off their line, or outside the run of their trip.
    """

    trip_ix: npt.NDArray[np.int32]
    pattern_ix: npt.NDArray[np.int32]
    vehicle_code: npt.NDArray[np.int32]
    service_day: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    progress_m: _F8
    lines: dict[int, Line]
    n_unmatched: int

    def __len__(self) -> int:
        return len(self.trip_ix)


def pattern_line(pattern: Pattern, shapes: Mapping[str, Shape]) -> Line | None:
    """The line of a pattern: its shape, else the chain of its stops; None if a stop has no coordinates."""
    if pattern.n_stops < 2 or np.isnan(pattern.lat).any():
        return None
    shape = shapes.get(pattern.shape_id) if pattern.shape_id is not None else None
    lat, lon = (pattern.lat, pattern.lon) if shape is None else (shape.lat, shape.lon)
    origin = (float(lat[0]), float(lon[0]))
    x_m, y_m = _to_xy(origin, lat, lon)
    s_m = np.concatenate(([0.0], np.cumsum(leg_lengths_m(lat, lon))))
    if shape is None:
        return Line(origin, x_m, y_m, s_m, s_m, MAX_OFF_CHAIN_M)
    line = Line(origin, x_m, y_m, s_m, s_m, MAX_OFF_SHAPE_M)
    stop_x, stop_y = _to_xy(origin, pattern.lat, pattern.lon)
    off_m, along_m = _candidates(line, stop_x, stop_y, np.inf)
    steps_m = np.hypot(np.diff(stop_x, prepend=stop_x[0]), np.diff(stop_y, prepend=stop_y[0]))
    stop_s_m = _search(off_m, along_m, steps_m, np.array([0, pattern.n_stops]))
    return Line(origin, x_m, y_m, s_m, np.maximum.accumulate(stop_s_m), MAX_OFF_SHAPE_M)


def match_tracks(positions: Positions, feed: Feed) -> Tracks:
    """Match every fix that names a trip of the feed to that trip's line.

    Parameters
    ----------
    positions : Positions
        Sorted by time, as `read_positions` gives them.
    feed : Feed
        The timetable whose trip ids they carry.
    """
    rows, trip_ix, day = _trip_and_day(positions, feed)
    order = np.lexsort((positions.time_us[rows], positions.vehicle_id.codes[rows], day, trip_ix))
    rows, trip_ix, day = rows[order], trip_ix[order], day[order]
    pattern_ix = feed.trips.pattern_ix[trip_ix]
    lines: dict[int, Line] = {}
    off_m = np.full((len(rows), N_CANDIDATES), np.inf)
    along_m = np.zeros((len(rows), N_CANDIDATES))
    for ix in np.unique(pattern_ix).tolist():
        line = pattern_line(feed.patterns[ix], feed.shapes)
        if line is None:
            continue
        lines[ix] = line
        mine = np.flatnonzero(pattern_ix == ix)
        x_m, y_m = line.to_xy(positions.lat[rows[mine]], positions.lon[rows[mine]])
        off_m[mine], along_m[mine] = _candidates(line, x_m, y_m, line.max_off_m)
    found = np.isfinite(off_m[:, 0])
    rows_found = rows[found]
    vehicle = positions.vehicle_id.codes[rows_found]
    offset = _run_starts(trip_ix[found], day[found], vehicle)
    steps_m = _flat_steps_m(positions.lat[rows_found], positions.lon[rows_found])
    progress_m = _search(off_m[found], along_m[found], steps_m, offset)
    keep, offset = _forward_runs(progress_m, offset)
    first = np.flatnonzero(found)[keep][offset[:-1]]
    apart = np.repeat(np.arange(len(offset) - 1), np.diff(offset)) * APART_M
    climbing = np.maximum.accumulate(progress_m[keep] + apart) - apart
    return Tracks(
        trip_ix[first].astype(np.int32),
        pattern_ix[first].astype(np.int32),
        positions.vehicle_id.codes[rows[first]],
        day[first].astype(np.int32),
        offset,
        rows_found[keep],
        climbing,
        lines,
        int(len(rows) - keep.size),
    )


def trip_index(positions: Positions, feed: Feed) -> npt.NDArray[np.int32]:
    """Index into ``feed.trips`` for every fix, -1 without a trip id or for a trip that the feed does not know."""
    number = {trip_id: ix for ix, trip_id in enumerate(feed.trips.trip_id)}
    of_value = np.array([*(number.get(value, -1) for value in positions.trip_id.values), -1], dtype=np.int32)
    return of_value[positions.trip_id.codes]


def service_days(time_us: npt.NDArray[np.int64], trip_ix: npt.NDArray[Any], feed: Feed) -> npt.NDArray[np.int32]:
    """The service day to which a time belongs: the one whose run of the trip is nearest.

    Returns
    -------
    ndarray of int32, shape (n,)
        Days since 1970-01-01. A trip without times counts as run at noon.
    """
    middle_s = (feed.trips.start_s.astype(np.int64) + feed.trips.end_s) // 2
    middle_s[feed.trips.start_s == NO_TIME] = _DAY_S // 2
    local_s = time_us // 1_000_000 + _utc_offsets_s(time_us, feed.time_zone)
    days: npt.NDArray[np.int32] = ((local_s - middle_s[trip_ix] + _DAY_S // 2) // _DAY_S).astype(np.int32)
    return days


def _trip_and_day(
    positions: Positions, feed: Feed
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    trip_ix = trip_index(positions, feed)
    rows = np.flatnonzero((trip_ix >= 0) & np.isfinite(positions.lat) & np.isfinite(positions.lon))
    trip_ix = trip_ix[rows]
    return rows, trip_ix, service_days(positions.time_us[rows], trip_ix, feed)


def _utc_offsets_s(time_us: npt.NDArray[np.int64], time_zone: str) -> npt.NDArray[np.int64]:
    zone = ZoneInfo(time_zone)
    # Zones change at quarter hours, and a recording covers few of them.
    quarters, link = np.unique(time_us // 900_000_000, return_inverse=True)
    offsets = [datetime.fromtimestamp(q * 900, UTC).astimezone(zone).utcoffset() for q in quarters.tolist()]
    seconds = np.array([int(o.total_seconds()) if o is not None else 0 for o in offsets], dtype=np.int64)
    return seconds[link]


def _to_xy(origin: tuple[float, float], lat: _F8, lon: _F8) -> tuple[_F8, _F8]:
    x_m = np.radians(lon - origin[1]) * np.cos(np.radians(origin[0])) * EARTH_RADIUS_M
    return x_m, np.radians(lat - origin[0]) * EARTH_RADIUS_M


def _flat_steps_m(lat: _F8, lon: _F8) -> _F8:
    return np.concatenate(([0.0], leg_lengths_m(lat, lon))) if lat.size else np.empty(0)


def _run_starts(*columns: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Borders between runs of equal rows, 0 and n included."""
    changed = np.zeros(max(len(columns[0]) - 1, 0), dtype=bool)
    for column in columns:
        changed |= column[1:] != column[:-1]
    inner = np.flatnonzero(changed) + 1
    return np.unique(np.concatenate(([0], inner, [len(columns[0])]))).astype(np.int64)


def _candidates(line: Line, x_m: _F8, y_m: _F8, max_off_m: float) -> tuple[_F8, _F8]:
    """The places on a line that are locally nearest: distance (inf where there is none) and progress, nearest first."""
    off_m = np.full((len(x_m), N_CANDIDATES), np.inf)
    along_m = np.zeros((len(x_m), N_CANDIDATES))
    dx, dy, ds = np.diff(line.x_m), np.diff(line.y_m), np.diff(line.s_m)
    length2 = np.maximum(dx * dx + dy * dy, 1e-9)
    length = np.sqrt(length2)
    n = min(N_CANDIDATES, len(dx))
    for start in range(0, len(x_m), _ROWS_PER_BLOCK):
        block = slice(start, start + _ROWS_PER_BLOCK)
        px, py = x_m[block, None] - line.x_m[:-1], y_m[block, None] - line.y_m[:-1]
        unbound = (px * dx + py * dy) / length2
        part = np.clip(unbound, 0.0, 1.0)
        distance2 = (px - part * dx) ** 2 + (py - part * dy) ** 2
        # Nearest inside a leg, or at a corner that both of its legs (or an end of the line) lead to.
        valley = (part > 0.0) & (part < 1.0)
        valley[:, 1:] |= (part[:, 1:] == 0.0) & (part[:, :-1] == 1.0)
        valley[:, 0] |= part[:, 0] == 0.0
        valley[:, -1] |= part[:, -1] == 1.0
        distance2[~valley | (distance2 > max_off_m * max_off_m)] = np.inf
        best = np.argpartition(distance2, n - 1, axis=1)[:, :n]
        near2 = np.take_along_axis(distance2, best, axis=1)
        ranked = np.argsort(near2, axis=1)
        best = np.take_along_axis(best, ranked, axis=1)
        off_m[block, :n] = np.sqrt(np.take_along_axis(near2, ranked, axis=1))
        if np.isfinite(max_off_m):
            # A vehicle also moves before the start and past the end: a passage there needs a place on both sides.
            part[:, 0] = np.where(part[:, 0] == 0.0, np.maximum(unbound[:, 0], -max_off_m / length[0]), part[:, 0])
            part[:, -1] = np.where(
                part[:, -1] == 1.0, np.minimum(unbound[:, -1], 1 + max_off_m / length[-1]), part[:, -1]
            )
        along_m[block, :n] = line.s_m[best] + np.take_along_axis(part, best, axis=1) * ds[best]
    return off_m, along_m


def _search(off_m: _F8, along_m: _F8, steps_m: _F8, offset: npt.NDArray[np.int64]) -> _F8:
    """Cheapest sequence of candidates per run (Viterbi); returns the progress of each fix.

    A place costs its squared distance in units of GPS noise. A step costs what
    it goes backwards, and how much it differs from what the vehicle moved.
    """
    place = 0.5 * (off_m / _NOISE_M) ** 2
    n = len(off_m)
    back = np.zeros((n, N_CANDIDATES), dtype=np.int8)
    lengths = np.diff(offset)
    by_length = np.argsort(-lengths, kind="stable")
    start, length = offset[:-1][by_length], lengths[by_length]
    cost = np.full((n, N_CANDIDATES), np.inf)
    cost[start] = place[start]
    for step in range(1, int(length[0]) if len(length) else 0):
        rows = start[: np.searchsorted(-length, -step)] + step
        ahead_m = along_m[rows, :, None] - along_m[rows - 1, None, :]
        move = np.abs(np.maximum(ahead_m, 0.0) - steps_m[rows, None, None]) / 100.0
        move += np.maximum(-ahead_m - _JITTER_M, 0.0) / _JITTER_M
        total = cost[rows - 1, None, :] + move
        back[rows] = np.argmin(total, axis=2)
        cost[rows] = place[rows] + np.min(total, axis=2)
    progress_m = np.empty(n)
    last = offset[1:][by_length] - 1
    choice = np.argmin(cost[last], axis=1)
    for step in range(int(length[0]) if len(length) else 0):
        alive = int(np.searchsorted(-length, -step))
        rows = last[:alive] - step
        choice = choice[:alive]
        progress_m[rows] = along_m[rows, choice]
        choice = back[rows, choice].astype(np.int64)
    return progress_m


def _forward_runs(
    progress_m: _F8, offset: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each track the part that is the run of the trip: rows kept, and their offsets.

    Vehicles carry a trip id on the way to its start and after its end, on the
    same streets backwards. A track is cut wherever it falls back by more than
    `MAX_BACKWARDS_M`; the piece that advances most is kept.
    """
    pieces = []
    for start, stop in zip(offset[:-1].tolist(), offset[1:].tolist(), strict=True):
        track = progress_m[start:stop]
        best = (0.0, start, start)
        begin = 0
        while begin < len(track):
            highest = np.maximum.accumulate(track[begin:])
            fallen = highest - track[begin:] > MAX_BACKWARDS_M
            end = begin + (int(np.argmax(fallen)) if fallen.any() else len(track) - begin)
            advance = float(highest[end - begin - 1] - track[begin])
            best = max(best, (advance, start + begin, start + end))
            begin = end
        if best[2] - best[1] >= 2:
            pieces.append(best[1:])
    lengths = np.array([stop - start for start, stop in pieces], dtype=np.int64)
    keep = np.concatenate([np.arange(start, stop) for start, stop in pieces]) if pieces else np.empty(0, dtype=np.int64)
    return keep, np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
