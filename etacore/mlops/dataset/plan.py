"""Which fixes of a recording a dataset needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from etacore.errors import DatasetError
from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.dataset.difficulties import far_in_time
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.positions import Positions
from etacore.mlops.transit.service import NO_DAY, fix_days, trip_index
from etacore.mlops.transit.tracks import Tracks, match_tracks
from etacore.status import Status

MIN_MATCH_RATE: Final = 0.05
"""Below this, positions and feed are taken not to belong together."""
MAX_EXAMPLES: Final = 5

_EPOCH: Final = date(1970, 1, 1)
_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is to be done with each fix; arrays of shape (n_fixes,).

    Attributes
    ----------
    trip_ix : ndarray of int32
        Trip in the feed, -1 without one.
    names_trip : ndarray of bool
        Whether the fix names a trip, by its id or by route and start.
    run : ndarray of int64
        Index of the run in ``tracks``; -1 where none is known, and outside ``emit``.
    day : ndarray of int32
        Service day of the run, else the one that is nearest, days since 1970-01-01; `NO_DAY` without a trip.
    emit : ndarray of bool
        Of a known trip, a wanted route and a wanted service date; without a first or last date, none that
        `far_in_time` finds: the day of a broken clock would be the one to test on.
    process : ndarray of bool
        Of a vehicle of those, up to the last of them: what moves the engine's state.
    match_rate : float
        Share of the fixes with a trip id whose trip is in the feed.
    n_far_in_time : int
        Fixes that `far_in_time` finds.
    tracks : Tracks
        The runs of the fixes of ``emit``, taken alone.
    examples : mapping of name to texts
    """

    trip_ix: npt.NDArray[np.int32]
    names_trip: npt.NDArray[np.bool_]
    run: npt.NDArray[np.int64]
    day: npt.NDArray[np.int32]
    emit: npt.NDArray[np.bool_]
    process: npt.NDArray[np.bool_]
    match_rate: float
    n_far_in_time: int
    tracks: Tracks
    examples: Mapping[str, list[str]] = field(default_factory=dict)

    def pattern_ix(self, feed: Feed) -> npt.NDArray[np.int32]:
        """Pattern of each fix's trip, -1 without one."""
        patterns = np.append(feed.trips.pattern_ix, np.int32(-1))
        return patterns[self.trip_ix]

    def sampled(self, positions: Positions, status: npt.NDArray[np.uint8], every: int) -> npt.NDArray[np.bool_]:
        """Fixes whose rows are wanted: of those accepted of each run the first, and every n-th after it."""
        accepted = np.flatnonzero(self.emit & (status == Status.OK))
        columns = tuple(column[accepted] for column in (positions.vehicle_id.codes, self.run, self.day, self.trip_ix))
        order = np.lexsort((accepted, *columns))
        begins = np.ones(len(accepted), dtype=bool)
        if accepted.size:
            begins[1:] = np.logical_or.reduce([column[order][1:] != column[order][:-1] for column in columns])
        first = np.flatnonzero(begins)
        turn = np.arange(len(accepted)) - np.repeat(first, np.diff(np.append(first, len(accepted))))
        chosen = np.zeros(len(status), dtype=bool)
        chosen[accepted[order[turn % every == 0]]] = True
        return chosen


def make_plan(positions: Positions, feed: Feed, config: BuildConfig) -> Plan:
    """Choose fixes.

    Raises
    ------
    DatasetError
        If no fix names a trip, too few of the trips are in the feed, or nothing is left of a route or of the dates.
    """
    trip_ix = trip_index(positions, feed)
    known = trip_ix >= 0
    names_trip = known | (positions.trip_id.codes >= 0)
    n_named = int(names_trip.sum())
    if not n_named:
        raise DatasetError(
            f"none of the {len(positions)} fixes has a trip_id, or a start that tells its trip",
            hint="an arrival belongs to a trip: positions need a trip_id as in trips.txt, or route, direction, "
            "start date and start time of a first departure",
        )
    match_rate = float(known.sum()) / n_named
    unknown = _most_frequent(positions, names_trip & ~known)
    if match_rate < MIN_MATCH_RATE:
        theirs = ", ".join(repr(name) for name in unknown)
        ours = ", ".join(repr(name) for name in feed.trips.trip_id[:MAX_EXAMPLES])
        raise DatasetError(
            f"{match_rate:.1%} of the fixes with a trip_id ({int(known.sum())} of {n_named}) name a trip of the feed",
            hint=f"positions have {theirs}; trips.txt has {ours}: give the feed that was valid then",
        )
    rows = np.flatnonzero(known)
    day = np.full(len(positions), NO_DAY, np.int32)
    day[rows] = fix_days(positions, rows, trip_ix[rows], feed)
    far = far_in_time(positions.time_us)
    wanted = known & _of_routes(positions, config)
    if config.start is None and config.end is None:
        wanted &= ~far
    emit = wanted
    if (dates := _dates(day[known], config)) is not None:
        first, last = dates
        # The day of a run is that of its start: a fix of it may be nearer to the next.
        near = np.flatnonzero(wanted & (day >= first - 1) & (day <= last + 1))
        _, day[near], _ = _runs(positions, feed, near, day)
        emit = wanted & (day >= first) & (day <= last)
    rows = np.flatnonzero(emit)
    run = np.full(len(positions), -1)
    run[rows], day[rows], tracks = _runs(positions, feed, rows, day)
    if not emit.any():
        raise DatasetError(f"no fix of a known trip is left{_asked_for(config)}", hint=_covers(day[known]))
    for route in config.routes or ():
        if not (emit & (positions.route_id.codes == positions.route_id.values.index(route))).any():
            raise DatasetError(
                f"route {route} has no fix of a known trip{_asked_for(config)}", hint=_covers(day[known])
            )
    served = np.zeros(len(positions.vehicle_id.values), dtype=bool)
    served[positions.vehicle_id.codes[emit]] = True
    wanted_us = positions.time_us[emit]
    process = served[positions.vehicle_id.codes]
    process &= (positions.time_us >= wanted_us.min() - _DAY_US) & (positions.time_us <= wanted_us.max())
    return Plan(
        trip_ix,
        names_trip,
        run,
        day,
        emit,
        process,
        match_rate,
        int(far.sum()),
        tracks,
        {"unknown_trip": unknown},
    )


def _of_routes(positions: Positions, config: BuildConfig) -> npt.NDArray[np.bool_]:
    if config.routes is None:
        return np.ones(len(positions), dtype=bool)
    if absent := sorted(set(config.routes) - set(positions.route_id.values)):
        raise DatasetError(
            f"no positions of route {', '.join(absent)}",
            hint=f"routes of the recording: {', '.join(positions.route_id.values)}",
        )
    wanted = np.array([value in config.routes for value in positions.route_id.values], dtype=bool)
    chosen: npt.NDArray[np.bool_] = wanted[positions.route_id.codes]
    return chosen


def _runs(
    positions: Positions, feed: Feed, rows: npt.NDArray[np.int64], day: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Tracks]:
    """Run and service day of some fixes, and the runs."""
    tracks = match_tracks(positions.take(rows), feed)
    run = tracks.run_of_fix
    return run, np.where(run >= 0, np.append(tracks.service_day, NO_DAY)[run], day[rows]).astype(np.int32), tracks


def _dates(day: npt.NDArray[np.int32], config: BuildConfig) -> tuple[int, int] | None:
    """First and last service day that is asked for; None for all."""
    first, last = config.start, config.end
    if first is None and config.days_back is not None:
        end = last or _EPOCH + timedelta(_last_full_day(day))
        first = end - timedelta(config.days_back - 1)
    if first is None and last is None:
        return None
    first_day, last_day = (first or date.min) - _EPOCH, (last or date.max) - _EPOCH
    return first_day.days, last_day.days


def _last_full_day(day: npt.NDArray[np.int32]) -> int:
    """The last day with a fair number of fixes: not that of a clock that is years ahead."""
    days, counts = np.unique(day, return_counts=True)
    return int(days[counts >= 0.01 * counts.max()][-1])


def _most_frequent(positions: Positions, rows: npt.NDArray[np.bool_]) -> list[str]:
    counts = np.bincount(positions.trip_id.codes[rows], minlength=len(positions.trip_id.values))
    order = np.argsort(-counts, kind="stable")[:MAX_EXAMPLES]
    return [positions.trip_id.values[code] for code in order.tolist() if counts[code]]


def _asked_for(config: BuildConfig) -> str:
    parts = [f" from {config.start}" if config.start else "", f" to {config.end}" if config.end else ""]
    return "".join(parts)


def _covers(day: npt.NDArray[np.int32]) -> str:
    if not day.size:
        return "no trip of the recording is in the feed"
    first, last = (_EPOCH + timedelta(int(number)) for number in (day.min(), day.max()))
    return f"the recording has trips of the service dates {first} to {last}"
