"""When the runs of a timetable start: what a vehicle that names no trip is told from."""

from __future__ import annotations

from collections.abc import Iterator

from etacore.mlops.transit.gtfs import NO_TIME, Feed


def run_starts(feed: Feed) -> Iterator[tuple[str, int]]:
    """Every start of a run that the timetable fixes, whatever the day, as `seed_pairs` wants them.

    A trip starts at its first time; a frequency-based one at its spans' starts and every headway after them if these
    are a timetable (``exact_times`` 1), and at no time that anybody could know if they are not.

    Yields
    ------
    (str, int)
        Pattern id and start, seconds since noon minus 12 h of the service day.
    """
    names = [pattern.pattern_id for pattern in feed.patterns]
    pattern_ix, spans = feed.trips.pattern_ix.tolist(), feed.frequencies
    is_frequent = set(spans.trip_ix.tolist())
    for trip_ix, start_s in enumerate(feed.trips.start_s.tolist()):
        if start_s != NO_TIME and trip_ix not in is_frequent:
            yield names[pattern_ix[trip_ix]], start_s
    columns = (spans.trip_ix, spans.start_s, spans.end_s, spans.headway_s, spans.exact)
    for trip_ix, first_s, end_s, headway_s, is_exact in zip(*(column.tolist() for column in columns), strict=True):
        for start_s in range(first_s, end_s, headway_s) if is_exact else ():
            yield names[pattern_ix[trip_ix]], start_s
