"""On which days services run, and the rows of both calendars that cannot be used."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from etacore.mlops.transit.gtfs import Feed, read_feed
from tests.transit import FILES, write_feed

DAYS = np.arange(np.datetime64("2023-12-01"), np.datetime64("2024-04-01"))


def of_calendar(feed: Feed) -> list[str]:
    return [note for note in feed.notes if note.startswith("calendar")]


def test_services_by_date(tmp_path: Path) -> None:
    feed = read_feed(write_feed(tmp_path / "feed"))
    assert feed.services_on(date(2024, 1, 2)) == {"S"}
    assert feed.services_on(date(2024, 1, 3)) == set()  # taken out by calendar_dates
    assert feed.services_on(date(2024, 1, 6)) == {"S"}  # a Saturday, added
    assert feed.services_on(date(2024, 1, 7)) == set()


def calendar(rows: str, dates: str | None = None) -> dict[str, str | None]:
    heading = FILES["calendar.txt"].splitlines()[0]
    added = None if dates is None else f"service_id,date,exception_type\n{dates}"
    return {"calendar.txt": f"{heading}\n{rows}", "calendar_dates.txt": added}


def test_a_service_runs_from_its_start_date_to_its_end_date_both_included(tmp_path: Path) -> None:
    changes = calendar("S,1,1,1,1,1,1,1,20231230,20240102\none,1,1,1,1,1,1,1,20240229,20240229\n")
    feed = read_feed(write_feed(tmp_path / "feed", changes))
    days = {
        name: [str(day) for day in DAYS if feed.services.runs_on(name, int(day.astype(int)))] for name in ("S", "one")
    }
    assert days == {"S": ["2023-12-30", "2023-12-31", "2024-01-01", "2024-01-02"], "one": ["2024-02-29"]}
    assert [feed.services_on(date(2024, 1, day)) for day in (1, 2, 3)] == [{"S"}, {"S"}, set()]
    assert feed.services_on(date(2023, 12, 30)) == {"S"}
    assert feed.services_on(date(2023, 12, 29)) == set()


def test_each_weekday_has_its_own_column(tmp_path: Path) -> None:
    names = ("mo", "tu", "we", "th", "fr", "sa", "su")
    runs = [",".join("1" if i == n else "0" for i in range(7)) for n in range(7)]
    rows = [f"{name},{on},20240101,20240107\n" for name, on in zip(names, runs, strict=True)]
    feed = read_feed(write_feed(tmp_path / "feed", calendar("".join(rows))))  # 2024-01-01 was a Monday
    assert [feed.services_on(date(2024, 1, 1 + n)) for n in range(7)] == [{name} for name in names]


def test_exceptions_count_on_the_last_day_and_beyond_it(tmp_path: Path) -> None:
    changes = calendar(
        "S,1,1,1,1,1,1,1,20240101,20240103\n", "S,20240103,2\nS,20240104,1\nS,20231231,1\nS,20240102,1\nT,20240103,1\n"
    )
    feed = read_feed(write_feed(tmp_path / "feed", changes))
    runs = [feed.services_on(day) for day in (date(2023, 12, 31), *(date(2024, 1, n) for n in range(1, 6)))]
    assert runs == [{"S"}, {"S"}, {"S"}, {"T"}, {"S"}, set()]


def test_an_end_before_the_start_and_a_day_taken_out_that_never_ran_leave_nothing(tmp_path: Path) -> None:
    changes = calendar("S,1,1,1,1,1,1,1,20240103,20240102\n", "S,20240110,2\n")
    feed = read_feed(write_feed(tmp_path / "feed", changes))
    assert not any(feed.services.runs_on("S", int(day.astype(int))) for day in DAYS)
    assert of_calendar(feed) == ["calendar.txt: 1 rows left out: end_date is before start_date (service_id 'S', row 2)"]


def test_a_calendar_without_an_end_is_a_rule_and_no_list_of_days(tmp_path: Path) -> None:
    rows = "".join(f"D{n},1,1,1,1,1,0,0,20240101,99991231\n" for n in range(500))
    services = read_feed(write_feed(tmp_path / "feed", calendar(rows, "D7,99991231,2\n"))).services
    assert len(services) == 500
    assert services.first_day.size + services.last_day.size + services.added.size + services.removed.size == 1001
    friday, saturday = date(9999, 12, 31), date(9999, 12, 25)
    assert (services.runs_on("D6", friday), services.runs_on("D7", friday)) == (True, False)
    assert (services.runs_on("D6", saturday), services.runs_on("unknown", friday)) == (False, False)


def test_many_services_and_days_at_once(tmp_path: Path) -> None:
    changes = calendar(
        "S,1,1,1,1,1,0,0,20240101,20240131\nS,0,0,0,0,0,1,0,20240201,20240229\nT,0,0,0,0,0,0,1,20240101,20240229\n",
        "T,20240103,1\nS,20240103,2\nU,20240104,1\n",
    )
    services = read_feed(write_feed(tmp_path / "feed", changes)).services
    number = services.numbers(["S", "T", "U", "V"])
    assert number.tolist() == [0, 1, 2, -1]
    days = DAYS.astype(np.int64)
    table = services.run_on(number[:, None], days[None, :])
    for row, name in zip(table, "STUV", strict=True):
        assert row.tolist() == [services.runs_on(name, int(day)) for day in days]
    assert table.sum(axis=1).tolist() == [22 + 4, 8 + 1, 1, 0]  # 23 weekdays of January less one; Saturdays, Sundays


def test_trips_are_asked_by_index(tmp_path: Path) -> None:
    feed = read_feed(write_feed(tmp_path / "feed"))
    tuesday = (date(2024, 1, 2) - date(1970, 1, 1)).days
    runs = feed.trips_run_on(np.array([0, 1, -1, 2]), np.array([tuesday, tuesday + 1, tuesday, tuesday + 4]))
    assert runs.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ("bad,1,1,1,1,1,1,1,20240101,20240230", "end_date is no date YYYYMMDD (end_date '20240230', row 3)"),
        ("bad,1,1,1,1,1,1,1,01/02/2024,20240202", "start_date is no date YYYYMMDD (start_date '01/02/2024', row 3)"),
        ("bad,1,yes,1,1,1,1,1,20240101,20240202", "tuesday is neither 0 nor 1 (tuesday 'yes', row 3)"),
        (",1,1,1,1,1,1,1,20240101,20240202", "service_id is missing (row 3)"),
    ],
)
def test_a_row_of_the_calendar_that_is_wrong_costs_itself(tmp_path: Path, row: str, note: str) -> None:
    feed = read_feed(write_feed(tmp_path / "feed", calendar(f"S,1,1,1,1,1,0,0,20240101,20240114\n{row}\n")))
    assert of_calendar(feed) == [f"calendar.txt: 1 rows left out: {note}"]
    assert feed.services_on(date(2024, 1, 2)) == {"S"}


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ("S,20240106,3", "exception_type is neither 1 nor 2 (exception_type '3', row 3)"),
        ("S,20240106,", "exception_type is neither 1 nor 2 (row 3)"),
        ("S,2024,1", "date is no date YYYYMMDD (date '2024', row 3)"),
        (",20240106,1", "service_id is missing (row 3)"),
    ],
)
def test_an_exception_that_is_wrong_costs_itself(tmp_path: Path, row: str, note: str) -> None:
    dates = f"service_id,date,exception_type\nS,20240103,2\n{row}\nS,2024-01-07,1\n"
    feed = read_feed(write_feed(tmp_path / "feed", {"calendar_dates.txt": dates}))
    assert of_calendar(feed) == [f"calendar_dates.txt: 1 rows left out: {note}"]
    assert [feed.services_on(date(2024, 1, day)) for day in (2, 3, 6, 7)] == [{"S"}, set(), set(), {"S"}]


def test_of_two_exceptions_that_contradict_each_other_the_later_row_counts(tmp_path: Path) -> None:
    dates = "service_id,date,exception_type\nS,20240103,2\nS,20240103,2\nS,20240106,1\nS,20240106,2\n"
    feed = read_feed(write_feed(tmp_path / "feed", {"calendar_dates.txt": dates}))
    assert (feed.services_on(date(2024, 1, 3)), feed.services_on(date(2024, 1, 6))) == (set(), set())
    (note,) = of_calendar(feed)
    assert note.startswith("calendar_dates.txt: 1 days are added to a service and taken out of it, too")


def test_a_feed_with_calendar_dates_alone_or_a_calendar_without_its_columns(tmp_path: Path) -> None:
    feed = read_feed(write_feed(tmp_path / "dates", {"calendar.txt": None}))
    assert [feed.services_on(date(2024, 1, day)) for day in (2, 6)] == [set(), {"S"}]
    assert of_calendar(feed) == []
    feed = read_feed(write_feed(tmp_path / "bad", {"calendar.txt": "service_id,start_date\nS,20240101\n"}))
    assert [feed.services_on(date(2024, 1, day)) for day in (2, 6)] == [set(), {"S"}]
    (note,) = of_calendar(feed)
    assert note.startswith("calendar.txt has no column monday")
    assert note.endswith("the file is left out")


def test_trips_whose_days_nobody_says_are_told(tmp_path: Path) -> None:
    trips = FILES["trips.txt"].replace("r2,S,loop", "r2,T,loop").replace("r1,S,back", "r1,,back")
    feed = read_feed(write_feed(tmp_path / "feed", {"trips.txt": trips}))
    assert feed.trips.trip_id == ("out", "back", "loop")
    assert feed.notes[-1] == (
        "trips.txt: 2 trips are of a service that no calendar names: the days on which they run are not known "
        "(trip 'back', service_id '')"
    )
