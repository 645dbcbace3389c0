"""Where recorded vehicles were along their trips, run by run: fixes matched to lines, in metres of progress.

A run is (trip, vehicle, start). Where the fixes give a start time, it names the
run. Else the fixes of a vehicle on a trip are cut into runs: where the progress
falls back, and after a silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from etacore.mlops.transit.geodesy import leg_lengths_m
from etacore.mlops.transit.gtfs import NO_TIME, Feed
from etacore.mlops.transit.lines import N_CANDIDATES, Line, candidates, pattern_line, search
from etacore.mlops.transit.positions import Positions
from etacore.mlops.transit.service import (
    NO_DAY,
    exact_starts_s,
    given_starts,
    is_repeated,
    service_days,
    trip_index,
)
from etacore.schema import NO_START_TIME

MAX_BACKWARDS_M: Final = 300.0
"""A track that falls back farther than this is cut in two: not the same run of the trip."""
SILENCE_S: Final = 3600.0
"""After this without a fix, another run begins."""
PAUSE_S: Final = 1200.0
PAUSE_BACKWARDS_M: Final = 100.0
"""After `PAUSE_S` without a fix, a track is cut if it has fallen back by more than this."""
MIN_STOPS: Final = 2
MIN_FIXES: Final = 3
"""A piece of a track that passes fewer stops, or has fewer fixes, is no further run."""
MAX_SPEED_MPS: Final = 40.0
"""What advances faster has jumped."""

# Nothing is this long: keeps the progress of different runs apart in one ascending column.
APART_M: Final = 1e8
_AT_STOP_M: Final = 50.0
_LEFT_M: Final = 100.0
_STANDING_M: Final = 30.0

_F8 = npt.NDArray[np.float64]
_I4 = npt.NDArray[np.int32]
_I8 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Runs of trips, by trip, service day, vehicle and time.

    Attributes
    ----------
    trip_ix, pattern_ix, vehicle_code, service_day : ndarray of int32, shape (n_tracks,)
        Indices into ``feed.trips``, ``feed.patterns``, ``positions.vehicle_id.values``; days since 1970-01-01.
    start_s : ndarray of int32, shape (n_tracks,)
        Start since noon minus 12 h, if the fixes give it or exact frequencies tell it, else `NO_START_TIME`.
    number : ndarray of int32, shape (n_tracks,)
        1 for the vehicle's first run of the trip on the service day, 2 for the next one.
    offset : ndarray of int64, shape (n_tracks + 1,)
        Track i owns the fixes ``offset[i]:offset[i + 1]``, in time order.
    row : ndarray of int64, shape (n_fixes,)
        Row of the fix in the positions.
    progress_m : ndarray of float64, shape (n_fixes,)
        Along the line, never descending within a track; up to ``max_off_m`` before its start or past its end.
    run_of_fix : ndarray of int64, shape (n_positions,)
        Track to which each position belongs, on its line or not; -1 where none is known.
    lines : dict of pattern index to Line
    n_unmatched : int
        Fixes of known trips that lie off their line, or outside the runs of their trip.
    """

    trip_ix: _I4
    pattern_ix: _I4
    vehicle_code: _I4
    service_day: _I4
    start_s: _I4
    number: _I4
    offset: _I8
    row: _I8
    progress_m: _F8
    run_of_fix: _I8
    lines: dict[int, Line]
    n_unmatched: int

    def __len__(self) -> int:
        return len(self.trip_ix)


@dataclass(frozen=True, slots=True, eq=False)
class _Fixes:
    """Fixes of known trips, by trip, vehicle, given start and time."""

    row: _I8
    time_us: _I8
    trip_ix: _I4
    vehicle_code: _I4
    given_day: _I4
    start_s: _I4
    group: _I8
    """Equal trip, vehicle and given start."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Parts of tracks that go forward; the fixes of piece i are ``fix[offset[i]:offset[i + 1]]``."""

    fix: _I8
    offset: _I8
    progress_m: _F8
    """Never descending within a piece."""

    def __len__(self) -> int:
        return len(self.offset) - 1

    @property
    def first(self) -> _I8:
        return self.fix[self.offset[:-1]]

    @property
    def advance_m(self) -> _F8:
        return self.progress_m[self.offset[1:] - 1] - self.progress_m[self.offset[:-1]]

    def reached(self, progress_m: _F8) -> _I8:
        """Index into ``fix`` of the first fix of each piece at or behind a place that the piece reaches."""
        apart_m = np.arange(len(self)) * APART_M
        column_m = self.progress_m + np.repeat(apart_m, np.diff(self.offset))
        found = np.searchsorted(column_m, progress_m + apart_m, side="left")
        return np.clip(found, self.offset[:-1], self.offset[1:] - 1)

    def take(self, pieces: _I8) -> _Pieces:
        """Some of them, in another order."""
        lengths = np.diff(self.offset)[pieces]
        offset = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        place = np.arange(offset[-1]) + np.repeat(self.offset[:-1][pieces] - offset[:-1], lengths)
        return _Pieces(self.fix[place], offset, self.progress_m[place])


def match_tracks(positions: Positions, feed: Feed) -> Tracks:
    """Match every fix that names a trip of the feed to that trip's line, and find the runs.

    Parameters
    ----------
    positions : Positions
        Sorted by time, as `read_positions` gives them.
    feed : Feed
        The timetable whose trip ids they carry.
    """
    fixes = _fixes(positions, feed)
    lines, progress_m = _progress(positions, feed, fixes)
    pieces = _cut(fixes, progress_m)
    trip_ix, start_s = fixes.trip_ix[pieces.first], fixes.start_s[pieces.first]
    stop_s_m = [lines[ix].stop_s_m for ix in feed.trips.pattern_ix[trip_ix].tolist()]
    start_us = _observed_starts_us(feed, fixes, pieces, stop_s_m)
    day = _days(feed, fixes, pieces, start_us)
    advanced = np.zeros(len(fixes.row), dtype=bool)
    advanced[pieces.fix] = np.repeat(pieces.advance_m > _LEFT_M, np.diff(pieces.offset))
    runs = _runs(fixes, pieces, day, stop_s_m)
    first = pieces.first[runs]
    runs = runs[np.lexsort((fixes.time_us[first], fixes.vehicle_code[first], day[runs], trip_ix[runs]))]
    pieces, trip_ix, day, start_s = pieces.take(runs), trip_ix[runs], day[runs], start_s[runs]
    exact_s = exact_starts_s(feed, trip_ix, day, start_us[runs])
    vehicle_code = fixes.vehicle_code[pieces.first]
    same = _borders(trip_ix, day, vehicle_code)
    number = np.arange(len(runs)) - np.repeat(same[:-1], np.diff(same)) + 1
    run_of_fix = np.full(len(positions), -1)
    run_of_fix[fixes.row] = _runs_of_fixes(feed, fixes, pieces, day, np.where(advanced, progress_m, np.nan))
    return Tracks(
        trip_ix,
        feed.trips.pattern_ix[trip_ix].astype(np.int32),
        vehicle_code,
        day,
        np.where(start_s == NO_START_TIME, exact_s, start_s),
        number.astype(np.int32),
        pieces.offset,
        fixes.row[pieces.fix],
        pieces.progress_m,
        run_of_fix,
        lines,
        len(fixes.row) - len(pieces.fix),
    )


def _fixes(positions: Positions, feed: Feed) -> _Fixes:
    trip_ix = trip_index(positions, feed)
    rows = np.flatnonzero((trip_ix >= 0) & np.isfinite(positions.lat) & np.isfinite(positions.lon))
    trip_ix = trip_ix[rows]
    given = given_starts(positions, rows, trip_ix, feed)
    vehicle, time_us = positions.vehicle_id.codes[rows], positions.time_us[rows]
    order = np.lexsort((time_us, given.start_s, given.day, vehicle, trip_ix))
    columns = trip_ix[order], vehicle[order], given.day[order], given.start_s[order]
    borders = _borders(*columns)
    group = np.repeat(np.arange(len(borders) - 1), np.diff(borders))
    return _Fixes(rows[order], time_us[order], *columns, group)


def _progress(positions: Positions, feed: Feed, fixes: _Fixes) -> tuple[dict[int, Line], _F8]:
    """The lines in use, and how far along its line each fix is; NaN off the line."""
    pattern_ix = feed.trips.pattern_ix[fixes.trip_ix]
    lines: dict[int, Line] = {}
    off_m = np.full((len(fixes.row), N_CANDIDATES), np.inf)
    along_m = np.zeros((len(fixes.row), N_CANDIDATES))
    lat, lon = positions.lat[fixes.row], positions.lon[fixes.row]
    for ix in np.unique(pattern_ix).tolist():
        line = pattern_line(feed.patterns[ix], feed.shapes)
        if line is None:
            continue
        lines[ix] = line
        mine = np.flatnonzero(pattern_ix == ix)
        x_m, y_m = line.to_xy(lat[mine], lon[mine])
        off_m[mine], along_m[mine] = candidates(line, x_m, y_m, line.max_off_m)
    found = np.flatnonzero(np.isfinite(off_m[:, 0]))
    offset = _borders(fixes.group[found], _n_silences(fixes, found))
    progress_m = np.full(len(fixes.row), np.nan)
    progress_m[found] = search(off_m[found], along_m[found], _flat_steps_m(lat[found], lon[found]), offset)
    return lines, progress_m


def _n_silences(fixes: _Fixes, found: _I8) -> _I8:
    """Silences up to each fix after which another run begins; none within a run that has a name."""
    silent = np.zeros(len(found), dtype=bool)
    silent[1:] = (np.diff(fixes.time_us[found]) > SILENCE_S * 1e6) & (fixes.start_s[found[1:]] == NO_START_TIME)
    counted: _I8 = np.cumsum(silent)
    return counted


def _flat_steps_m(lat: _F8, lon: _F8) -> _F8:
    return np.concatenate(([0.0], leg_lengths_m(lat, lon))) if lat.size else np.empty(0)


def _borders(*columns: npt.NDArray[Any]) -> _I8:
    """Borders between stretches of equal rows, 0 and n included."""
    changed = np.zeros(max(len(columns[0]) - 1, 0), dtype=bool)
    for column in columns:
        changed |= column[1:] != column[:-1]
    inner = np.flatnonzero(changed) + 1
    return np.unique(np.concatenate(([0], inner, [len(columns[0])]))).astype(np.int64)


def _cut(fixes: _Fixes, progress_m: _F8) -> _Pieces:
    """Cut the fixes on the line into pieces that go forward; those of a single fix are left out."""
    found = np.flatnonzero(np.isfinite(progress_m))
    along_m, time_us = progress_m[found], fixes.time_us[found]
    offset = _borders(fixes.group[found], _n_silences(fixes, found))
    kept: list[_I8] = []
    for start, stop in zip(offset[:-1].tolist(), offset[1:].tolist(), strict=True):
        for piece in _forward_pieces(along_m[start:stop], time_us[start:stop]):
            # What comes before its lowest place is the way back to it.
            lowest_m = max(float(along_m[start + piece].min()), 0.0)
            begun = piece[int(np.argmax(along_m[start + piece] <= lowest_m + _STANDING_M)) :]
            if len(begun) > 1:
                kept.append(start + begun)
    lengths = np.array([len(piece) for piece in kept], np.int64)
    index = np.concatenate(kept) if kept else np.empty(0, np.int64)
    apart_m = np.repeat(np.arange(len(kept)) * APART_M, lengths)
    climbing_m = np.maximum.accumulate(along_m[index] + apart_m) - apart_m
    return _Pieces(found[index], np.concatenate(([0], np.cumsum(lengths))).astype(np.int64), climbing_m)


def _forward_pieces(along_m: _F8, time_us: _I8) -> list[_I8]:
    """Rows of the pieces of one track.

    A piece ends where the track falls back by more than `MAX_BACKWARDS_M`, after a pause by more than
    `PAUSE_BACKWARDS_M`. A single fix that lies back, or too far ahead, between others that go on belongs to no piece.
    """
    pieces = []
    rest = np.arange(len(along_m))
    while rest.size:
        along, paused = along_m[rest], np.diff(time_us[rest], prepend=time_us[rest[0]]) > PAUSE_S * 1e6
        high = np.maximum.accumulate(along)
        fallen = high - along > np.where(paused, PAUSE_BACKWARDS_M, MAX_BACKWARDS_M)
        if not fallen.any():
            pieces.append(rest)
            break
        at = int(np.argmax(fallen))
        around_us = time_us[rest[min(at + 1, len(rest) - 1)]] - time_us[rest[at - 1]]
        is_brief = around_us <= PAUSE_S * 1e6
        if is_brief and at + 1 < len(rest) and along[at + 1] >= high[at - 1] - MAX_BACKWARDS_M:
            rest = np.delete(rest, at)
        elif is_brief and at > 2 and high[at - 2] - along[at] <= MAX_BACKWARDS_M:
            rest = np.delete(rest, at - 1)
        else:
            pieces.append(rest[:at])
            rest = rest[at:]
    return pieces


def _observed_starts_us(feed: Feed, fixes: _Fixes, pieces: _Pieces, stop_s_m: list[_F8]) -> _I8:
    """When each piece had left its first place, less what the timetable takes from the first stop to there."""
    begin_m = pieces.progress_m[pieces.offset[:-1]]
    left = pieces.reached(begin_m + np.minimum(_LEFT_M, pieces.advance_m))
    start_us: _I8 = fixes.time_us[pieces.fix[left]]
    left_m = pieces.progress_m[left].tolist()
    for piece, trip in enumerate(fixes.trip_ix[pieces.first].tolist()):
        times_s = feed.trips.arrival_s[feed.trips.offset[trip] : feed.trips.offset[trip + 1]]
        known = times_s != NO_TIME
        if known.any():
            since_s = np.interp(left_m[piece], stop_s_m[piece][known], times_s[known]) - feed.trips.start_s[trip]
            start_us[piece] -= round(float(since_s) * 1e6)
    return start_us


def _days(feed: Feed, fixes: _Fixes, pieces: _Pieces, start_us: _I8) -> _I4:
    """The service day of each piece: as given, else by when it was half way; of frequency-based trips by its start."""
    trip_ix, given = fixes.trip_ix[pieces.first], fixes.given_day[pieces.first]
    half = pieces.reached(pieces.progress_m[pieces.offset[:-1]] + pieces.advance_m / 2)
    half_us = fixes.time_us[pieces.fix[half]]
    time_us = np.where(is_repeated(feed)[trip_ix], start_us, half_us)
    return np.where(given == NO_DAY, service_days(time_us, trip_ix, feed), given).astype(np.int32)


def _runs(fixes: _Fixes, pieces: _Pieces, day: _I4, stop_s_m: list[_F8]) -> _I8:
    """The pieces that are runs: of a vehicle, trip and day the one that advances most, and all that pass stops.

    Vehicles carry a trip id on the way to its start and after its end, on the same streets backwards: such pieces
    advance little. What jumps ahead faster than `MAX_SPEED_MPS` is no run if there is another, and what has a start
    time is one run.
    """
    group, named = fixes.group[pieces.first], fixes.start_s[pieces.first] != NO_START_TIME
    begin, end = pieces.offset[:-1], pieces.offset[1:] - 1
    first_m, last_m = pieces.progress_m[begin] - _AT_STOP_M, pieces.progress_m[end] + _AT_STOP_M
    ends = zip(stop_s_m, first_m.tolist(), last_m.tolist(), strict=True)
    n_stops = np.array([np.diff(np.searchsorted(stops_m, (low, high)))[0] for stops_m, low, high in ends], np.int64)
    taken_s = (fixes.time_us[pieces.fix[end]] - fixes.time_us[pieces.fix[begin]]) / 1e6
    jumps = pieces.advance_m > MAX_SPEED_MPS * taken_s + MAX_BACKWARDS_M
    is_run = ~named & ~jumps & (pieces.advance_m > MAX_BACKWARDS_M) & (n_stops >= MIN_STOPS)
    is_run &= np.diff(pieces.offset) >= MIN_FIXES
    farthest = np.lexsort((-pieces.advance_m, jumps, day, group))
    is_run[farthest[_borders(day[farthest], group[farthest])[:-1]]] = True
    return np.flatnonzero(is_run & (pieces.advance_m > 0))


def _runs_of_fixes(feed: Feed, fixes: _Fixes, runs: _Pieces, day: _I4, advanced_m: _F8) -> _I8:
    """The run of each fix: its own, else the one in whose time it lies, else the one before it on the same day.

    Before the first run of a day a fix is of that run, unless the vehicle went forward on the line ahead of where the
    run began (``advanced_m``, NaN elsewhere): it was on another run, of which too little was seen.
    """
    n = len(fixes.row)
    own = np.full(n, -1)
    own[runs.fix] = np.repeat(np.arange(len(runs)), np.diff(runs.offset))
    unknown = np.flatnonzero(fixes.given_day == NO_DAY)
    fix_day = fixes.given_day.copy()
    fix_day[unknown] = service_days(fixes.time_us[unknown], fixes.trip_ix[unknown], feed)
    nowhere = len(runs)
    run_day, begin_m = np.append(day, NO_DAY), np.append(runs.progress_m[runs.offset[:-1]], np.nan)
    place, borders = np.arange(n), _borders(fixes.group)
    starts, ends = (np.repeat(column, np.diff(borders)) for column in (borders[:-1], borders[1:]))
    before = np.maximum.accumulate(np.where(own >= 0, place, -1))
    after = np.minimum.accumulate(np.where(own >= 0, place, n)[::-1])[::-1]
    earlier = np.where(before >= starts, own[np.maximum(before, 0)], nowhere)
    later = np.where(after < ends, own[np.minimum(after, n - 1)], nowhere)
    is_ahead = (fixes.start_s == NO_START_TIME) & (advanced_m > begin_m[later] + MAX_BACKWARDS_M)
    doubtful = np.zeros(nowhere + 1, dtype=bool)
    doubtful[later[is_ahead & (run_day[earlier] != fix_day) & (run_day[later] == fix_day)]] = True
    within = (earlier == later) & (earlier < nowhere)
    is_before = (run_day[later] == fix_day) & ~doubtful[later]
    run: _I8 = np.select((within, run_day[earlier] == fix_day, is_before), (earlier, earlier, later), -1)
    return run
