"""Trips that run again and again, and trips that are named by route, direction and start alone."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from etacore.mlops.transit.gtfs import Feed, read_feed
from tests.transit import FILES, write_feed

TUESDAY = (date(2024, 1, 2) - date(1970, 1, 1)).days
WEDNESDAY = TUESDAY + 1  # taken out by calendar_dates
OFTEN = "trip_id,start_time,end_time,headway_secs,exact_times\n"


def find(feed: Feed, route_id: str, direction_id: int, start: str, day: int = TUESDAY) -> int:
    hours, minutes, seconds = map(int, start.split(":"))
    start_s = np.array([hours * 3600 + minutes * 60 + seconds])
    return int(feed.find_trips([route_id], np.array([direction_id]), start_s, np.array([day]))[0])


def with_frequencies(tmp_path: Path, rows: str, heading: str = OFTEN) -> Feed:
    return read_feed(write_feed(tmp_path / "feed", {"frequencies.txt": heading + rows}))


def frequency_notes(feed: Feed) -> list[str]:
    return [note for note in feed.notes if note.startswith("frequencies.txt")]


def test_a_trip_is_found_by_route_direction_and_start(tmp_path: Path) -> None:
    feed = read_feed(write_feed(tmp_path / "feed"))
    assert find(feed, "r1", 0, "8:00:00") == 0
    assert find(feed, "r1", -1, "8:00:00") == 0
    assert find(feed, "r1", 1, "25:10:00") == 1
    assert find(feed, "r2", 0, "9:00:00") == 2
    assert find(feed, "r1", 1, "8:00:00") == -1  # the other direction
    assert find(feed, "r1", 0, "8:00:01") == -1
    assert find(feed, "r1", 1, "1:10:00") == -1  # of the service day, not of the clock
    assert find(feed, "r2", 0, "8:00:00") == -1
    assert find(feed, "r9", 0, "8:00:00") == -1


def test_many_are_found_at_once(tmp_path: Path) -> None:
    feed = read_feed(write_feed(tmp_path / "feed"))
    start_s = np.array([28_800, 90_600, 32_400, 28_800])
    found = feed.find_trips(["r1", "r1", "r2", "r1"], np.array([0, 1, -1, 1]), start_s, np.full(4, TUESDAY))
    assert found.tolist() == [0, 1, 2, -1]
    assert feed.find_trips([], np.empty(0, int), np.empty(0, int), np.empty(0, int)).size == 0


def test_a_trip_is_found_on_days_of_its_service(tmp_path: Path) -> None:
    assert find(read_feed(write_feed(tmp_path / "feed")), "r1", 0, "8:00:00", WEDNESDAY) == -1
    trips = FILES["trips.txt"].replace("r2,S,loop", "r2,T,loop")
    feed = read_feed(write_feed(tmp_path / "other", {"trips.txt": trips}))
    assert find(feed, "r2", 0, "9:00:00") == -1  # no file says when T runs
    feed = read_feed(write_feed(tmp_path / "none", {"calendar.txt": None, "calendar_dates.txt": None}))
    assert find(feed, "r2", 0, "9:00:00") == 2  # nothing says when anything runs


def test_the_first_known_time_is_the_start(tmp_path: Path) -> None:
    times = FILES["stop_times.txt"].replace("out,08:00:00,08:00:00", "out,,")
    feed = read_feed(write_feed(tmp_path / "feed", {"stop_times.txt": times}))
    assert feed.trips.start_s[0] == 28_980
    assert (find(feed, "r1", 0, "8:03:00"), find(feed, "r1", 0, "8:00:00")) == (0, -1)


def test_trips_of_one_pattern_are_as_good_as_each_other_and_of_two_are_not(tmp_path: Path) -> None:
    again = "".join(
        row.replace("out", "twin") + "\n" for row in FILES["stop_times.txt"].splitlines() if row.startswith("out")
    )
    trips = FILES["trips.txt"] + "r1,S,twin,0,line\n"
    changes = {"trips.txt": trips, "stop_times.txt": FILES["stop_times.txt"] + again}
    assert find(read_feed(write_feed(tmp_path / "same", changes)), "r1", 0, "8:00:00") == 0
    changes["stop_times.txt"] = changes["stop_times.txt"].replace("twin,08:06:00,08:06:00,C,40\n", "")
    assert find(read_feed(write_feed(tmp_path / "other", changes)), "r1", 0, "8:00:00") == -1


def test_a_trip_without_a_direction_fits_any(tmp_path: Path) -> None:
    trips = FILES["trips.txt"].replace("out,0,", "out,,")
    feed = read_feed(write_feed(tmp_path / "feed", {"trips.txt": trips}))
    assert [find(feed, "r1", direction, "8:00:00") for direction in (0, 1, -1)] == [0, 0, 0]


def test_frequencies_are_read(tmp_path: Path) -> None:
    rows = "loop,22:00:00,26:00:00,1200,\nout,9:00:00,12:00:00,900,1\n" + 2 * "out,6:00:00,9:00:00,600,0\n"
    often = with_frequencies(tmp_path, rows).frequencies
    assert often.trip_ix.tolist() == [0, 0, 2]
    assert often.start_s.tolist() == [21_600, 32_400, 79_200]
    assert often.end_s.tolist() == [32_400, 43_200, 93_600]
    assert often.headway_s.tolist() == [600, 900, 1200]
    assert often.exact.tolist() == [False, True, False]


def test_frequencies_without_exact_times_and_of_every_trip(tmp_path: Path) -> None:
    heading = OFTEN.replace(",exact_times", "")
    feed = with_frequencies(tmp_path, "out,6:00:00,9:00:00,600\n", heading)
    assert (feed.frequencies.exact.tolist(), frequency_notes(feed)) == ([False], [])
    feed = read_feed(write_feed(tmp_path / "none"))
    assert len(feed.frequencies) == 0


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ("out,6:00:00,9:00:00,0,", "headway_secs is no number above 0 (headway_secs '0', row 3)"),
        ("out,6:00:00,9:00:00,-600,", "headway_secs is no number above 0 (headway_secs '-600', row 3)"),
        ("out,6:00:00,9:00:00,often,", "headway_secs is no number above 0 (headway_secs 'often', row 3)"),
        ("out,6:00:00,9:00:00,,", "headway_secs is no number above 0 (row 3)"),
        ("out,9:00:00,9:00:00,600,", "end_time is not after start_time (trip_id 'out', row 3)"),
        ("out,22:00:00,2:00:00,600,", "end_time is not after start_time (trip_id 'out', row 3)"),
        ("out,early,9:00:00,600,", "start_time is no HH:MM:SS (start_time 'early', row 3)"),
        ("out,6:00:00,,600,", "end_time is no HH:MM:SS (row 3)"),
        ("ghost,6:00:00,9:00:00,600,", "their trip is not in the feed, or left out (trip_id 'ghost', row 3)"),
    ],
)
def test_a_frequency_that_is_wrong_costs_itself(tmp_path: Path, row: str, note: str) -> None:
    feed = with_frequencies(tmp_path, f"loop,6:00:00,9:00:00,600,\n{row}\n")
    assert frequency_notes(feed) == [f"frequencies.txt: 1 rows left out: {note}"]
    assert feed.frequencies.trip_ix.tolist() == [2]


def test_a_frequency_based_trip_is_found_by_its_span_and_never_by_its_own_times(tmp_path: Path) -> None:
    feed = with_frequencies(tmp_path, "out,10:00:00,12:00:00,600,0\nloop,13:00:00,15:00:00,600,1\n")
    assert [find(feed, "r1", 0, at) for at in ("8:00:00", "9:59:59", "10:00:00", "11:07:13", "12:00:00")] == [
        -1, -1, 0, 0, -1,
    ]  # fmt: skip
    assert [find(feed, "r2", 0, at) for at in ("13:00:00", "13:05:00", "13:10:00", "14:50:00", "15:00:00")] == [
        2, -1, 2, 2, -1,
    ]  # fmt: skip
    assert find(feed, "r1", 0, "11:00:00", WEDNESDAY) == -1
    assert find(feed, "r1", 1, "25:10:00") == 1  # the timetable's trips are found as before
