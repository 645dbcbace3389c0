from dataclasses import replace
from pathlib import Path

import numpy as np

from etacore.mlops.transit.gtfs import NO_TIME, Feed, Frequencies, read_feed
from etacore.mlops.transit.run_starts import run_starts
from tests.transit import write_feed


def starts_of(feed: Feed) -> dict[str, list[int]]:
    """Starts by trip of the town, whose three trips have a pattern each."""
    trip_of = {pattern: trip for trip, pattern in feed.trip_patterns().items()}
    starts: dict[str, list[int]] = {}
    for pattern_id, start_s in run_starts(feed):
        starts.setdefault(trip_of[pattern_id], []).append(start_s)
    return starts


def test_a_trip_starts_once_and_a_frequent_one_as_often_as_its_timetable_says(tmp_path: Path) -> None:
    feed = read_feed(write_feed(tmp_path / "feed"))
    ix = {trip: number for number, trip in enumerate(feed.trips.trip_id)}
    assert starts_of(feed) == {"out": [8 * 3600], "back": [25 * 3600 + 600], "loop": [9 * 3600]}
    frequencies = Frequencies(
        np.array([ix["out"], ix["out"], ix["loop"]], np.int32),
        np.array([6 * 3600, 7 * 3600, 6 * 3600], np.int32),
        np.array([6 * 3600 + 1200, 7 * 3600 + 1, 9 * 3600], np.int32),
        np.array([600, 900, 600], np.int32),
        np.array([True, True, False]),
    )
    feed = replace(feed, frequencies=frequencies)
    # The end is no start any more; and of a headway that is no timetable nobody knows the starts.
    assert starts_of(feed) == {"out": [21600, 22200, 25200], "back": [25 * 3600 + 600]}


def test_a_trip_without_times_starts_at_no_time(tmp_path: Path) -> None:
    feed = read_feed(write_feed(tmp_path / "feed"))
    feed.trips.start_s[:] = NO_TIME
    assert list(run_starts(feed)) == []
