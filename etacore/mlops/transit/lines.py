"""Where a fix may lie on the line of its pattern, and the way through those places that a vehicle took.

A fix may lie near several parts of its line (loops, out-and-back streets), so
each gets up to `N_CANDIDATES` places and a Viterbi search over all fixes of a
vehicle on a trip picks the sequence that moves forward as far as the vehicle
moved. The search runs over all of them at once: step t handles the t-th fix of
every sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from etacore.mlops.transit.geodesy import leg_lengths_m
from etacore.mlops.transit.patterns import Pattern, Shape
from etacore.schema import EARTH_RADIUS_M

N_CANDIDATES: Final = 6
MAX_OFF_SHAPE_M: Final = 200.0
MAX_OFF_CHAIN_M: Final = 500.0
"""Farther limit where the line is only the chain of stops: streets bend between them."""

_NOISE_M: Final = 30.0
_JITTER_M: Final = 15.0
# What it costs to start over, however far back: as much as to fall back by 900 m in one step.
_RESTART: Final = 60.0
_ROWS_PER_BLOCK: Final = 4_096

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
    off_m, along_m = candidates(line, stop_x, stop_y, np.inf)
    steps_m = np.hypot(np.diff(stop_x, prepend=stop_x[0]), np.diff(stop_y, prepend=stop_y[0]))
    stop_s_m = search(off_m, along_m, steps_m, np.array([0, pattern.n_stops]))
    return Line(origin, x_m, y_m, s_m, np.maximum.accumulate(stop_s_m), MAX_OFF_SHAPE_M)


def candidates(line: Line, x_m: _F8, y_m: _F8, max_off_m: float) -> tuple[_F8, _F8]:
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


def search(off_m: _F8, along_m: _F8, steps_m: _F8, offset: npt.NDArray[np.int64]) -> _F8:
    """Cheapest sequence of candidates for each part of ``offset`` (Viterbi); returns the progress of each fix.

    A place costs its squared distance in units of GPS noise. A step costs what
    it goes backwards, up to the price of a new run, and how much it differs
    from what the vehicle moved.
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
        move += np.clip((-ahead_m - _JITTER_M) / _JITTER_M, 0.0, _RESTART)
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


def _to_xy(origin: tuple[float, float], lat: _F8, lon: _F8) -> tuple[_F8, _F8]:
    x_m = np.radians(lon - origin[1]) * np.cos(np.radians(origin[0])) * EARTH_RADIUS_M
    return x_m, np.radians(lat - origin[0]) * EARTH_RADIUS_M
