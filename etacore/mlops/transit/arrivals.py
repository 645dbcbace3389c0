"""Observed arrivals: when a recorded vehicle was at the stops of its trip.

Two labels per stop. The rule of the compatibility contract takes a fix: the
first within 50 m of the stop, else the closest within 200 m. The interpolated
label takes the moment between two fixes at which the vehicle's progress along
its line passed the stop; it does not depend on how often positions are sent.
Both look only at fixes whose progress is near the stop's, so that the second
visit of a loop is not taken for the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.mlops.transit.geodesy import distance_m
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.positions import Positions
from etacore.mlops.transit.tracks import APART_M, Tracks, match_tracks

NO_ARRIVAL: Final = -(2**63)
FIRST_WITHIN_M: Final = 50.0
CLOSEST_WITHIN_M: Final = 200.0
MAX_GAP_S: Final = 600.0
"""No interpolation between fixes that lie farther apart in time."""

STANDING_M: Final = 25.0
"""At its last stop a vehicle has arrived when it is seen so near before it: it stands there, and may not pass it."""

_WINDOW_M: Final = 250.0
_NEVER: Final = 2**63 - 1


class Rule(IntEnum):
    """Which fix gave ``rule_us``; with a label of `INTERPOLATED` none did, but the vehicle passed between two."""

    NONE = 0
    FIRST_50M = 1
    CLOSEST_200M = 2
    INTERPOLATED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Observed arrivals, one row per track and stop of its pattern; rows without any label are left out.

    Attributes
    ----------
    tracks : Tracks
    track_ix, stop_ix : ndarray of int32, shape (n,)
        Link to the track; position of the stop in the pattern, 0-based.
    interp_us : ndarray of int64, shape (n,)
        Passage interpolated between two fixes, at the last stop no later than the first fix within `STANDING_M` before
        it; `NO_ARRIVAL` if the track does not pass the stop.
    rule_us : ndarray of int64, shape (n,)
        Time of the fix that the 50 m / 200 m rule takes; `NO_ARRIVAL` if none is close.
    rule : ndarray of uint8, shape (n,)
        `Rule`.
    """

    tracks: Tracks
    track_ix: npt.NDArray[np.int32]
    stop_ix: npt.NDArray[np.int32]
    interp_us: npt.NDArray[np.int64]
    rule_us: npt.NDArray[np.int64]
    rule: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.track_ix)

    @property
    def label_us(self) -> npt.NDArray[np.int64]:
        """The interpolated time where there is one, else the time by rule."""
        return np.where(self.interp_us == NO_ARRIVAL, self.rule_us, self.interp_us)


def observe_arrivals(
    positions: Positions,
    feed: Feed,
    tracks: Tracks | None = None,
    *,
    first_within_m: float = FIRST_WITHIN_M,
    closest_within_m: float = CLOSEST_WITHIN_M,
) -> Arrivals:
    """Arrivals of every trip that was recorded.

    Parameters
    ----------
    positions : Positions
        Sorted by time.
    feed : Feed
        The timetable whose trip ids they carry.
    tracks : Tracks, optional
        What `match_tracks` gave for these positions, if already known.
    first_within_m, closest_within_m : float
        Limits of the rule: the first fix within the one, else the closest within the other.
    """
    tracks = match_tracks(positions, feed) if tracks is None else tracks
    n_stops = np.array([pattern.n_stops for pattern in feed.patterns], dtype=np.int64)[tracks.pattern_ix]
    track_ix = np.repeat(np.arange(len(tracks)), n_stops)
    stop_ix = np.arange(len(track_ix)) - np.repeat(np.cumsum(n_stops) - n_stops, n_stops)
    lat, lon, stop_s_m = _stop_columns(feed, tracks)
    time_us = positions.time_us[tracks.row]
    column_m = tracks.progress_m + np.repeat(np.arange(len(tracks)), np.diff(tracks.offset)) * APART_M
    target_m = stop_s_m + track_ix * APART_M

    interp_us = _passages(column_m, target_m, time_us, tracks.offset, track_ix)
    last = np.cumsum(n_stops) - 1
    standing_us = _first_at(column_m, target_m[last] - STANDING_M, time_us, tracks.offset, track_ix[last])
    interp_us[last] = np.where(standing_us == NO_ARRIVAL, interp_us[last], _earlier(interp_us[last], standing_us))
    window_m = max(_WINDOW_M, first_within_m + 50.0, closest_within_m + 50.0)
    low = np.searchsorted(column_m, target_m - window_m, side="left")
    high = np.searchsorted(column_m, target_m + window_m, side="right")
    limits_m = first_within_m, closest_within_m
    rule_us, rule = _by_rule(positions, tracks.row, time_us, low, high, lat, lon, limits_m)
    spans_us = time_us[tracks.offset[:-1]], time_us[tracks.offset[1:] - 1]
    interp_us, rule_us = (_not_before_earlier_stops(times, track_ix, *spans_us) for times in (interp_us, rule_us))
    seen = (interp_us != NO_ARRIVAL) | (rule_us != NO_ARRIVAL)
    return Arrivals(
        tracks,
        track_ix[seen].astype(np.int32),
        stop_ix[seen].astype(np.int32),
        interp_us[seen],
        rule_us[seen],
        rule[seen],
    )


def _stop_columns(feed: Feed, tracks: Tracks) -> tuple[npt.NDArray[np.float64], ...]:
    """Latitude, longitude and progress of the stops of all tracks, one after the other."""
    if not len(tracks):
        return np.empty(0), np.empty(0), np.empty(0)
    per_track = [
        (feed.patterns[ix].lat, feed.patterns[ix].lon, tracks.lines[ix].stop_s_m) for ix in tracks.pattern_ix.tolist()
    ]
    return tuple(np.concatenate(columns) for columns in zip(*per_track, strict=True))


def _passages(
    column_m: npt.NDArray[np.float64],
    target_m: npt.NDArray[np.float64],
    time_us: npt.NDArray[np.int64],
    offset: npt.NDArray[np.int64],
    track_ix: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """When the progress reached each target, linear between the two fixes around it."""
    passed, inside, after = _behind(column_m, target_m, time_us, offset, track_ix)
    leg_m = column_m[after] - column_m[after - 1]
    part = (target_m[inside] - column_m[after - 1]) / np.maximum(leg_m, 1e-9)
    gap_us = time_us[after] - time_us[after - 1]
    passed[inside] = time_us[after - 1] + np.rint(part * gap_us).astype(np.int64)
    return passed


def _first_at(
    column_m: npt.NDArray[np.float64],
    target_m: npt.NDArray[np.float64],
    time_us: npt.NDArray[np.int64],
    offset: npt.NDArray[np.int64],
    track_ix: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Time of the first fix at or behind each target."""
    first_us, inside, after = _behind(column_m, target_m, time_us, offset, track_ix)
    first_us[inside] = time_us[after]
    return first_us


def _behind(
    column_m: npt.NDArray[np.float64],
    target_m: npt.NDArray[np.float64],
    time_us: npt.NDArray[np.int64],
    offset: npt.NDArray[np.int64],
    track_ix: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """No arrival for each target yet; which of them lie between two fixes not far in time, and the later of the two."""
    after = np.searchsorted(column_m, target_m, side="left")
    inside = np.flatnonzero((after > offset[track_ix]) & (after < offset[track_ix + 1]))
    inside = inside[time_us[after[inside]] - time_us[after[inside] - 1] <= MAX_GAP_S * 1e6]
    return np.full(len(target_m), NO_ARRIVAL), inside, after[inside]


def _earlier(one_us: npt.NDArray[np.int64], other_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.where(one_us == NO_ARRIVAL, other_us, np.minimum(one_us, other_us))


def _by_rule(
    positions: Positions,
    row: npt.NDArray[np.int64],
    time_us: npt.NDArray[np.int64],
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
    lat: npt.NDArray[np.float64],
    lon: npt.NDArray[np.float64],
    limits_m: tuple[float, float],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """First fix of ``low:high`` within the first limit of the stop, else the closest if within the second."""
    rule_us = np.full(len(low), NO_ARRIVAL)
    rule = np.zeros(len(low), dtype=np.uint8)
    some = np.flatnonzero(high > low)
    if not some.size:
        return rule_us, rule
    counts = (high - low)[some]
    starts = np.cumsum(counts) - counts
    fix = np.arange(counts.sum()) - np.repeat(starts - low[some], counts)
    pair = np.repeat(some, counts)
    pair_m = distance_m(positions.lat[row[fix]], positions.lon[row[fix]], lat[pair], lon[pair])
    never = len(fix)
    first = np.minimum.reduceat(np.where(pair_m <= limits_m[0], np.arange(never), never), starts)
    closest_m = np.minimum.reduceat(pair_m, starts)
    is_closest = pair_m == np.repeat(closest_m, counts)
    closest = np.minimum.reduceat(np.where(is_closest, np.arange(never), never), starts)
    within = first < never
    near = ~within & (closest_m <= limits_m[1])
    rule[some[within]], rule[some[near]] = Rule.FIRST_50M, Rule.CLOSEST_200M
    rule_us[some[within]] = time_us[fix[first[within]]]
    rule_us[some[near]] = time_us[fix[closest[near]]]
    return rule_us, rule


def _not_before_earlier_stops(
    times_us: npt.NDArray[np.int64],
    track_ix: npt.NDArray[np.int64],
    first_us: npt.NDArray[np.int64],
    last_us: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """A stop is not reached before the stops in front of it: late labels push later ones.

    ``first_us`` and ``last_us`` are of the tracks: counted from its first fix, and that from the last one of the track
    before, the times of all tracks fit into one ascending column, whatever a clock said.
    """
    known = np.flatnonzero(times_us != NO_ARRIVAL)
    if not known.size:
        return times_us
    begins_us = np.concatenate(([0], np.cumsum(last_us - first_us + 1)))[:-1]
    origin = (begins_us - first_us)[track_ix[known]]
    monotone = times_us.copy()
    monotone[known] = np.maximum.accumulate(times_us[known] + origin) - origin
    return monotone


def with_interpolated(
    rule_us: npt.NDArray[np.int64], interp_us: npt.NDArray[np.int64], offset: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Times by rule, and the interpolated ones where the rule has none, never descending along the stops of a run.

    Parameters
    ----------
    rule_us, interp_us : ndarray of int64, shape (n,)
        `NO_ARRIVAL` where unknown.
    offset : ndarray of int64, shape (n_runs + 1,)
        Run i owns the entries ``offset[i]:offset[i + 1]``, in order of the stops.
    """
    filled = (rule_us == NO_ARRIVAL) & (interp_us != NO_ARRIVAL)
    times_us = np.where(filled, interp_us, rule_us)
    run = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
    for run_ix in np.unique(run[filled]).tolist():
        mine = slice(int(offset[run_ix]), int(offset[run_ix + 1]))
        by_rule = rule_us[mine]
        latest = np.where(by_rule == NO_ARRIVAL, _NEVER, by_rule)[::-1]
        between = np.clip(interp_us[mine], np.maximum.accumulate(by_rule), np.minimum.accumulate(latest)[::-1])
        times_us[mine] = np.where(filled[mine], between, times_us[mine])
    return times_us


def arrivals_frame(arrivals: Arrivals, positions: Positions, feed: Feed) -> pl.DataFrame:
    """Arrivals as a table: as others give them, plus ``service_date`` and ``run_number``."""
    tracks = arrivals.tracks
    trips, patterns = tracks.trip_ix[arrivals.track_ix].tolist(), tracks.pattern_ix[arrivals.track_ix].tolist()
    stops = list(zip(patterns, arrivals.stop_ix.tolist(), strict=True))
    vehicles = positions.vehicle_id.values
    return pl.DataFrame(
        {
            "trip_id": [feed.trips.trip_id[ix] for ix in trips],
            "route_id": [feed.patterns[ix].route_id for ix in patterns],
            "vehicle_id": [vehicles[code] for code in tracks.vehicle_code[arrivals.track_ix].tolist()],
            "stop_id": [feed.patterns[p].stop_id[s] for p, s in stops],
            "stop_sequence": [int(feed.patterns[p].stop_sequence[s]) for p, s in stops],
            "arrival_ts": pl.Series(_seconds(arrivals.rule_us), nan_to_null=True),
            "interp_ts": pl.Series(_seconds(arrivals.interp_us), nan_to_null=True),
            "method": [Rule(rule).name.lower() for rule in arrivals.rule.tolist()],
            "service_date": pl.Series(tracks.service_day[arrivals.track_ix]).cast(pl.Date),
            "run_number": tracks.number[arrivals.track_ix],
        }
    )


def _seconds(time_us: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.where(time_us == NO_ARRIVAL, np.nan, time_us / 1e6)
