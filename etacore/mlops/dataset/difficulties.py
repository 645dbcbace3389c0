"""What is odd about a recording: counted, so that nobody has to wonder.

Nothing is removed here. The loop is given odd fixes as well, and screens them
by its own rules; labels come from fixes that lie on the line of their trip.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from etacore.mlops.transit.geodesy import distance_m
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.positions import Positions
from etacore.mlops.transit.service import is_repeated
from etacore.mlops.transit.tracks import Tracks

MAX_SPEED_MPS: Final = 40.0
SLACK_M: Final = 300.0
FAR_IN_TIME_S: Final = 7 * 86_400.0
FAR_SHARE: Final = 0.02
_DAY_S: Final = 86_400


def count_oddities(
    positions: Positions,
    feed: Feed,
    trip_ix: npt.NDArray[np.int32],
    day: npt.NDArray[np.int32],
    run: npt.NDArray[np.int64],
    tracks: Tracks,
) -> dict[str, int]:
    """Count what may surprise.

    Parameters
    ----------
    positions : Positions
        All of them, sorted by time.
    feed : Feed
        The timetable.
    trip_ix, day : ndarray of int32, shape (n_fixes,)
        Trip of the feed (-1 without one) and service day of each fix.
    run : ndarray of int64, shape (n_fixes,)
        Run of each fix in ``tracks``, -1 without one.
    tracks : Tracks
        Of those with a trip that was asked for.

    Returns
    -------
    dict of name to count
        The names are explained in `etacore.mlops.dataset.report.MEANING`.
    """
    order = np.argsort(positions.vehicle_id.codes, kind="stable")
    return {
        **_motion(positions, order),
        **_trips(positions, feed, trip_ix, day, run, order, tracks),
        "off_line_or_outside_run": tracks.n_unmatched,
        "runs_past_24h": int((feed.trips.end_s[tracks.trip_ix] >= _DAY_S).sum()) if len(tracks) else 0,
        "runs_with_repeated_stops": _runs_with_repeated_stops(feed, tracks),
    }


def _motion(positions: Positions, order: npt.NDArray[np.int64]) -> dict[str, int]:
    """Fixes sent twice, fixes off their way, and jumps, all by the fixes of one vehicle in order of time."""
    vehicle, time_us = positions.vehicle_id.codes[order], positions.time_us[order]
    repeated = (vehicle[1:] == vehicle[:-1]) & (time_us[1:] == time_us[:-1])
    lat, lon = positions.lat[order], positions.lon[order]
    usable = (np.abs(lat) <= 90.0) & (np.abs(lon) <= 180.0)
    usable[1:] &= ~repeated
    vehicle, time_us, lat, lon = vehicle[usable], time_us[usable], lat[usable], lon[usable]
    too_far = (vehicle[1:] == vehicle[:-1]) & _too_far(lat, lon, time_us, 1)
    outlier = too_far[1:] & too_far[:-1] & (vehicle[2:] == vehicle[:-2]) & ~_too_far(lat, lon, time_us, 2)
    of_outlier = np.zeros_like(too_far)
    of_outlier[1:] |= outlier
    of_outlier[:-1] |= outlier
    return {
        "sent_twice": int(repeated.sum()),
        "outliers": int(outlier.sum()),
        "jumps": int((too_far & ~of_outlier).sum()),
    }


def _too_far(
    lat: npt.NDArray[np.float64], lon: npt.NDArray[np.float64], time_us: npt.NDArray[np.int64], step: int
) -> npt.NDArray[np.bool_]:
    way_m = distance_m(lat[:-step], lon[:-step], lat[step:], lon[step:])
    return way_m > MAX_SPEED_MPS * (time_us[step:] - time_us[:-step]) / 1e6 + SLACK_M


def far_in_time(time_us: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Fixes of a clock that was off by weeks: a few that lie more than a week apart from all others.

    Parameters
    ----------
    time_us : ndarray of int64, shape (n,)
        Ascending.
    """
    borders = np.flatnonzero(np.diff(time_us) > FAR_IN_TIME_S * 1e6) + 1
    sizes = np.diff(np.concatenate(([0], borders, [len(time_us)])))
    return np.repeat(sizes < FAR_SHARE * len(time_us), sizes)


def _trips(
    positions: Positions,
    feed: Feed,
    trip_ix: npt.NDArray[np.int32],
    day: npt.NDArray[np.int32],
    run: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    tracks: Tracks,
) -> dict[str, int]:
    known = order[trip_ix[order] >= 0]
    columns = positions.vehicle_id.codes[known], trip_ix[known], day[known]
    begins = np.ones(len(known), dtype=bool)
    if known.size:
        begins[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    runs = np.maximum.reduceat(run[known], np.flatnonzero(begins)) if known.size else run[known]
    pieces = np.stack([*(column[begins] for column in columns), runs], axis=1)
    once = np.flatnonzero((tracks.number == 1) & ~is_repeated(feed)[tracks.trip_ix])
    served = np.stack([tracks.trip_ix[once], tracks.service_day[once]], axis=1)
    return {
        "repeated_runs": int((tracks.number > 1).sum()),
        "returns_to_trip": len(pieces) - len(np.unique(pieces, axis=0)),
        "trips_with_several_vehicles": int((np.unique(served, axis=0, return_counts=True)[1] > 1).sum()),
    }


def _runs_with_repeated_stops(feed: Feed, tracks: Tracks) -> int:
    repeats = np.array([len(set(pattern.stop_id)) < pattern.n_stops for pattern in feed.patterns], dtype=bool)
    return int(repeats[tracks.pattern_ix].sum()) if len(tracks) else 0
