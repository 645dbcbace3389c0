"""Trips, service days and starts: which trip a fix is on, and of which day its run is.

A service day begins at noon minus 12 h of its date, as GTFS counts; times of a
run may lie past its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from etacore.mlops.transit.gtfs import NO_TIME, Feed
from etacore.mlops.transit.positions import Positions
from etacore.schema import NO_START_DATE, NO_START_TIME

NO_DAY: Final = -(2**31)
"""Service day of a fix that has none."""
MAX_FROM_SPAN_S: Final = 3600
"""Farther from the times of its frequencies, a run without a start is of its local date."""

_DAY_S: Final = 86_400
# Farther from the middle of its times, a timetable trip is of another day: producers name a run of 24:30 by the date of
# the morning, or give it 00:30.
_MAX_FROM_MIDDLE_S: Final = 20 * 3600
# A fix is sent on its start date or up to three days after it (times go past 24 h), or on the evening before.
_START_DATE_DAYS: Final = (-3, 1)
_EPOCH: Final = date(1970, 1, 1)

_I4 = npt.NDArray[np.int32]
_I8 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Starts:
    """What fixes say of the run that they belong to; arrays of shape (n,).

    Attributes
    ----------
    day : ndarray of int32
        Service day, days since 1970-01-01; `NO_DAY` if neither start date nor start time tells it.
    start_s : ndarray of int32
        Start since noon minus 12 h of that day, `NO_START_TIME` if not given.
    """

    day: _I4
    start_s: _I4


def trip_index(positions: Positions, feed: Feed) -> _I4:
    """Index into ``feed.trips`` for every fix; -1 where neither trip id nor route and start name a trip of the feed."""
    number = {trip_id: ix for ix, trip_id in enumerate(feed.trips.trip_id)}
    of_value = np.array([*(number.get(value, -1) for value in positions.trip_id.values), -1], dtype=np.int32)
    found: _I4 = of_value[positions.trip_id.codes]
    nameless = (positions.trip_id.codes < 0) & (positions.start_date != NO_START_DATE)
    rows = np.flatnonzero(nameless & (positions.start_time_s != NO_START_TIME) & (positions.route_id.codes >= 0))
    if rows.size:
        columns = positions.route_id.codes, positions.direction_id, positions.start_date, positions.start_time_s
        asked, link = np.unique(np.stack([column[rows] for column in columns], axis=1), axis=0, return_inverse=True)
        route, direction, start_date, start_s = asked.T
        routes = [positions.route_id.values[code] for code in route.tolist()]
        day = np.array([_day_number(number) for number in start_date.tolist()], np.int64)
        trip_ix = np.where(day == NO_DAY, -1, feed.find_trips(routes, direction, start_s, day))
        found[rows] = trip_ix[link.reshape(-1)]
    return found


def given_starts(positions: Positions, rows: _I8, trip_ix: _I4, feed: Feed) -> Starts:
    """Starts by the words of the fixes ``rows``, which are on the trips ``trip_ix``.

    A start date that is farther from the time of the fix than any run reaches is not believed, nor one whose timetable
    is another day's. A start time without a date is of the day on which it is nearest.
    """
    dates, link = np.unique(positions.start_date[rows], return_inverse=True)
    day = np.array([_day_number(number) for number in dates.tolist()], np.int64)[link]
    time_us, start_s = positions.time_us[rows], positions.start_time_s[rows]
    local_s = time_us // 1_000_000 + _utc_offsets_s(time_us, feed.time_zone)
    local_day = local_s // _DAY_S
    believed = (day - local_day >= _START_DATE_DAYS[0]) & (day - local_day <= _START_DATE_DAYS[1])
    day = np.where(believed, day, NO_DAY)
    timed = np.flatnonzero(~believed & (start_s != NO_START_TIME))
    day[timed] = service_days(time_us[timed], trip_ix[timed], feed, start_s[timed])
    has_times = (feed.trips.start_s != NO_TIME) & ~is_repeated(feed)
    from_middle_s = np.abs(local_s - day * _DAY_S - _middles_s(feed)[trip_ix])
    day[has_times[trip_ix] & (from_middle_s > _MAX_FROM_MIDDLE_S)] = NO_DAY
    return Starts(day.astype(np.int32), start_s)


def fix_days(positions: Positions, rows: _I8, trip_ix: _I4, feed: Feed) -> _I4:
    """Service days of the fixes ``rows``, which are on the trips ``trip_ix``: as given, else by their own time."""
    given = given_starts(positions, rows, trip_ix, feed).day
    return np.where(given == NO_DAY, service_days(positions.time_us[rows], trip_ix, feed), given).astype(np.int32)


def _day_number(start_date: int) -> int:
    try:
        return (date(start_date // 10_000, start_date // 100 % 100, start_date % 100) - _EPOCH).days
    except ValueError:
        return NO_DAY


def service_days(time_us: _I8, trip_ix: npt.NDArray[Any], feed: Feed, start_s: _I4 | None = None) -> _I4:
    """The service day to which a time belongs: the one whose run of the trip is nearest.

    A frequency-based trip runs all day long, so it is the day on which its service runs and one of whose spans (to the
    end of the last run in it) holds the time or is nearest to it; the local date where none is nearer than
    `MAX_FROM_SPAN_S`.

    Parameters
    ----------
    time_us : ndarray of int64, shape (n,)
        UTC, since the epoch.
    trip_ix : ndarray of int, shape (n,)
        Index into ``feed.trips``.
    feed : Feed
        The timetable.
    start_s : ndarray of int32, shape (n,), optional
        Starts that are known, since noon minus 12 h: they count instead of the timetable's.

    Returns
    -------
    ndarray of int32, shape (n,)
        Days since 1970-01-01. A trip without times counts as run at noon.
    """
    middle_s = _middles_s(feed)[trip_ix]
    if start_s is not None:
        middle_s = start_s + (feed.trips.end_s.astype(np.int64) - feed.trips.start_s)[trip_ix] // 2
    local_s = time_us // 1_000_000 + _utc_offsets_s(time_us, feed.time_zone)
    days: _I4 = ((local_s - middle_s + _DAY_S // 2) // _DAY_S).astype(np.int32)
    if start_s is None and len(feed.frequencies):
        rows = np.flatnonzero(is_repeated(feed)[trip_ix])
        days[rows] = _days_of_spans(time_us[rows] // 1_000_000, local_s[rows] // _DAY_S, trip_ix[rows], feed)
    return days


def _middles_s(feed: Feed) -> _I8:
    """Half way between first and last time of each trip, since noon minus 12 h; noon where there are none."""
    trips = feed.trips
    middle_s = trips.start_s + (trips.end_s.astype(np.int64) - trips.start_s) // 2
    middle_s[trips.start_s == NO_TIME] = _DAY_S // 2
    return middle_s


def is_repeated(feed: Feed) -> npt.NDArray[np.bool_]:
    """Which trips are frequency-based; shape (n_trips,)."""
    repeated = np.zeros(len(feed.trips), dtype=bool)
    repeated[feed.frequencies.trip_ix] = True
    return repeated


def _days_of_spans(time_s: _I8, local_day: _I8, trip_ix: npt.NDArray[Any], feed: Feed) -> _I8:
    frequencies = feed.frequencies
    first = np.searchsorted(frequencies.trip_ix, trip_ix, side="left")
    last = np.searchsorted(frequencies.trip_ix, trip_ix, side="right")
    length_s = (feed.trips.end_s.astype(np.int64) - feed.trips.start_s)[trip_ix]
    chosen = local_day.copy()
    nearest_s = np.full(len(time_s), MAX_FROM_SPAN_S, np.int64)
    for shift in (0, -1, 1):
        day = local_day + shift
        since_s = time_s - day_begins_s(day, feed.time_zone)
        # A feed without any calendar says nothing about days.
        runs = feed.trips_run_on(trip_ix, day) | (len(feed.services) == 0)
        for number in range(int((last - first).max(initial=0))):
            span = np.minimum(first + number, last - 1)
            early_s = frequencies.start_s[span] - since_s
            late_s = since_s - (frequencies.end_s[span] + length_s)
            off_s = np.maximum(np.maximum(early_s, late_s), 0)
            better = runs & (off_s < nearest_s)
            chosen[better], nearest_s[better] = day[better], off_s[better]
    return chosen


def exact_starts_s(feed: Feed, trip_ix: _I4, day: _I4, start_us: _I8) -> _I4:
    """Starts of runs of trips with ``exact_times`` 1: the step of the headway that is nearest to the observed start.

    Returns
    -------
    ndarray of int32, shape (n,)
        Since noon minus 12 h; `NO_START_TIME` for other trips, and where no step is within one headway.
    """
    frequencies = feed.frequencies
    found = np.full(len(trip_ix), NO_START_TIME, np.int32)
    rows = np.flatnonzero(np.isin(trip_ix, frequencies.trip_ix[frequencies.exact]))
    since_s = start_us[rows] / 1e6 - day_begins_s(day[rows], feed.time_zone)
    for row, at_s in zip(rows.tolist(), since_s.tolist(), strict=True):
        nearest_s = np.inf
        for span in np.flatnonzero((frequencies.trip_ix == trip_ix[row]) & frequencies.exact).tolist():
            begin_s, end_s, headway_s = (
                int(column[span]) for column in (frequencies.start_s, frequencies.end_s, frequencies.headway_s)
            )
            last = max((end_s - 1 - begin_s) // headway_s, 0)
            start_s = begin_s + min(max(round((at_s - begin_s) / headway_s), 0), last) * headway_s
            if abs(start_s - at_s) < min(nearest_s, headway_s):
                found[row], nearest_s = start_s, abs(start_s - at_s)
    return found


def day_begins_s(day: npt.NDArray[Any], time_zone: str) -> _I8:
    """POSIX seconds of noon minus 12 h of service days."""
    zone = ZoneInfo(time_zone)
    days, link = np.unique(day, return_inverse=True)
    noons = [datetime(1970, 1, 1, 12) + timedelta(int(number)) for number in days.tolist()]
    begin_s = [round(noon.replace(tzinfo=zone).astimezone(UTC).timestamp()) - _DAY_S // 2 for noon in noons]
    return np.array(begin_s, np.int64)[link]


def _utc_offsets_s(time_us: _I8, time_zone: str) -> _I8:
    zone = ZoneInfo(time_zone)
    # Zones change at quarter hours, and a recording covers few of them.
    quarters, link = np.unique(time_us // 900_000_000, return_inverse=True)
    offsets = [datetime.fromtimestamp(q * 900, UTC).astimezone(zone).utcoffset() for q in quarters.tolist()]
    seconds = np.array([int(o.total_seconds()) if o is not None else 0 for o in offsets], dtype=np.int64)
    return seconds[link]
