"""Which service day a fix belongs to, anywhere on earth, and where one run of a trip ends and the next begins."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from etacore.mlops.dataset.build import build_dataset
from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.transit.arrivals import arrivals_frame, observe_arrivals
from etacore.mlops.transit.gtfs import NO_TIME, Feed, read_feed
from etacore.mlops.transit.lines import pattern_line
from etacore.mlops.transit.positions import Positions, read_positions
from etacore.mlops.transit.service import service_days, trip_index
from etacore.mlops.transit.tracks import match_tracks
from tests.transit import FILES, M_PER_DEGREE, drive, write_feed, write_positions

FAR_ZONES = (
    "Pacific/Auckland",  # UTC+12, in summer +13
    "Pacific/Chatham",  # UTC+12:45 and +13:45
    "Pacific/Kiritimati",  # UTC+14, nobody is earlier
    "Pacific/Honolulu",  # UTC-10
    "Pacific/Pago_Pago",  # UTC-11, nobody is later
    "Asia/Kathmandu",  # UTC+5:45
    "UTC",
)
EPOCH = date(1970, 1, 1)


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return read_feed(write_feed(tmp_path / "feed"))


def timetable(feed: Feed, zone: str, *runs: tuple[int, int]) -> Feed:
    """The feed in another zone, its trips with these first and last times, in seconds of their service day."""
    start_s, end_s = (np.array(column, np.int32) for column in zip(*runs, strict=True))
    return dataclasses.replace(
        feed, time_zone=zone, trips=dataclasses.replace(feed.trips, start_s=start_s, end_s=end_s)
    )


def days_of(feed: Feed, *moments: datetime, trip: int = 0) -> list[date]:
    """Service days of moments in which a vehicle was on a trip."""
    time_us = np.array([round(moment.timestamp() * 1e6) for moment in moments], np.int64)
    days = service_days(time_us, np.full(len(moments), trip, np.int32), feed)
    assert days.dtype == np.int32
    return [EPOCH + timedelta(days=int(day)) for day in days]


@pytest.mark.parametrize("zone", FAR_ZONES)
def test_a_trip_within_six_hours_of_its_time_is_of_its_own_day(feed: Feed, zone: str) -> None:
    days = [date(2024, 1, 1), date(2024, 2, 29), date(2024, 7, 1), date(2024, 12, 31)]
    for hour in (0, 1, 4, 8, 12, 16, 20, 23, 24, 25, 27):
        local = timetable(feed, zone, (hour * 3600, hour * 3600 + 1800))
        for day in days:
            midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
            moments = [midnight + timedelta(hours=hour, minutes=late) for late in (-360, 0, 15, 30, 360)]
            assert days_of(local, *moments) == [day] * 5, (hour, day)


@pytest.mark.parametrize("zone", FAR_ZONES)
def test_the_days_part_half_a_day_from_the_middle_of_the_run(feed: Feed, zone: str) -> None:
    local = timetable(feed, zone, (8 * 3600, 10 * 3600))  # the middle is 9:00, so a day lasts from 21:00 to 21:00
    evening = datetime(2024, 5, 14, 21, tzinfo=ZoneInfo(zone))
    microsecond = timedelta(microseconds=1)
    found = days_of(local, evening - microsecond, evening, evening + timedelta(days=1) - microsecond)
    assert found == [date(2024, 5, 14), date(2024, 5, 15), date(2024, 5, 15)]


@pytest.mark.parametrize("zone", FAR_ZONES)
def test_a_trip_without_times_counts_as_run_at_noon(feed: Feed, zone: str) -> None:
    local = timetable(feed, zone, (3600, 7200), (NO_TIME, NO_TIME))
    midnight = datetime(2024, 5, 14, tzinfo=ZoneInfo(zone))
    second = timedelta(seconds=1)
    assert days_of(local, midnight - second, midnight, trip=1) == [date(2024, 5, 13), date(2024, 5, 14)]
    assert days_of(local, midnight - second, midnight, trip=0) == [date(2024, 5, 14)] * 2


@pytest.mark.parametrize(
    ("zone", "border", "utc", "days"),
    [
        # Clocks go from 2:00 to 3:00 on 29 September; the border of a day at 2:30 is skipped with that hour.
        ("Pacific/Auckland", (2, 30), datetime(2024, 9, 28, 14, tzinfo=UTC), (28, 29)),
        # Clocks go from 3:00 to 2:00 on 7 April, and come to a border at 3:00 an hour later.
        ("Pacific/Auckland", (3, 0), datetime(2024, 4, 6, 15, tzinfo=UTC), (6, 7)),
        # The same moments by the clocks of the Chatham Islands, from 2:45 to 3:45 and from 3:45 to 2:45.
        ("Pacific/Chatham", (3, 15), datetime(2024, 9, 28, 14, tzinfo=UTC), (28, 29)),
        ("Pacific/Chatham", (3, 45), datetime(2024, 4, 6, 15, tzinfo=UTC), (6, 7)),
        ("America/Toronto", (2, 30), datetime(2024, 3, 10, 7, tzinfo=UTC), (9, 10)),
        ("America/Toronto", (2, 0), datetime(2024, 11, 3, 7, tzinfo=UTC), (2, 3)),
    ],
)
def test_days_on_which_clocks_change(
    feed: Feed, zone: str, border: tuple[int, int], utc: datetime, days: tuple[int, int]
) -> None:
    middle_s = (border[0] + 12) * 3600 + border[1] * 60
    local = timetable(feed, zone, (middle_s - 600, middle_s + 600))
    found = days_of(local, utc - timedelta(minutes=15), utc - timedelta(microseconds=1), utc, utc + timedelta(hours=20))
    assert [day.day for day in found] == [days[0], days[0], days[1], days[1]]


def test_each_moment_has_the_offset_of_its_own_quarter_in_whatever_order(feed: Feed) -> None:
    local = timetable(feed, "Pacific/Auckland", (0, 0), (26 * 3600, 26 * 3600))
    zone = ZoneInfo("Pacific/Auckland")
    moments = [datetime(2024, month, 15, 12, tzinfo=zone) - timedelta(microseconds=1) for month in (7, 1, 7, 12, 1)]
    assert [day.month for day in days_of(local, *moments)] == [7, 1, 7, 12, 1]
    assert {day.day for day in days_of(local, *moments)} == {15}
    assert {day.day for day in days_of(local, *moments, trip=1)} == {14}
    assert service_days(np.empty(0, np.int64), np.empty(0, np.int32), local).tolist() == []


def start_of(zone: str, day: date, hour: int) -> int:
    return round(datetime(day.year, day.month, day.day, hour, tzinfo=ZoneInfo(zone)).timestamp())


def record(tmp_path: Path, rows: list[dict]) -> Positions:
    return read_positions(write_positions(tmp_path / "p.parquet", rows))


@pytest.mark.parametrize("zone", FAR_ZONES)
def test_a_dataset_of_a_town_far_from_greenwich(tmp_path: Path, zone: str) -> None:
    agency = FILES["agency.txt"].replace("Africa/Abidjan", zone)
    feed = read_feed(write_feed(tmp_path / "feed", {"agency.txt": agency}))
    day = date(2024, 1, 2)
    late_s = start_of(zone, day, 0) + 25 * 3600 + 600  # 25:10 by the timetable
    rows = drive("out", [0.0, 0.032], start_of(zone, day, 8)) + drive("back", [0.030, -0.002], late_s)
    rows += drive("out", [0.0, 0.032], start_of(zone, day, 8) + 86_400)
    frame = build_dataset(record(tmp_path, rows), feed, BuildConfig(name="town")).frame
    runs = frame.group_by("trip_id", "service_date").agg(pl.col("hour").unique()).sort("trip_id", "service_date")
    assert runs.rows() == [("back", day, [1]), ("out", day, [8]), ("out", date(2024, 1, 3), [8])]
    ahead = frame.filter((pl.col("trip_id") == "out") & (pl.col("stop_id") == "D"))
    local = ahead["scheduled_arrival"].dt.convert_time_zone(zone).unique().sort()
    assert [str(time) for time in local.dt.strftime("%Y-%m-%d %H:%M")] == ["2024-01-02 08:09", "2024-01-03 08:09"]


@pytest.mark.parametrize("zone", FAR_ZONES)
def test_arrivals_that_others_observed_find_their_day(tmp_path: Path, zone: str) -> None:
    agency = FILES["agency.txt"].replace("Africa/Abidjan", zone)
    feed = read_feed(write_feed(tmp_path / "feed", {"agency.txt": agency}))
    begin_s = start_of(zone, date(2024, 1, 2), 8)
    positions = record(tmp_path, drive("out", [0.0, 0.032], begin_s))
    given = {"trip_id": "out", "vehicle_id": "bus", "stop_id": "C", "stop_sequence": 40, "arrival_ts": begin_s + 277}
    pl.DataFrame([given]).write_parquet(tmp_path / "a.parquet")
    frame = build_dataset(positions, feed, BuildConfig(name="town"), arrivals=tmp_path / "a.parquet").frame
    assert frame["service_date"].unique().to_list() == [date(2024, 1, 2)]
    assert frame["stop_id"].unique().to_list() == ["C"]


def test_a_run_ends_where_trip_day_or_vehicle_change(tmp_path: Path, feed: Feed) -> None:
    begin_s = start_of("UTC", date(2024, 1, 2), 8)
    rows = [
        *drive("out", [0.0, 0.030], begin_s),
        *drive("out", [0.0, 0.030], begin_s + 3, vehicle_id="other"),
        *drive("out", [0.0, 0.030], begin_s + 86_400),  # the vehicle's next day, and its next trip on that day
        *drive("loop", [0.0, 0.020, 0.0], begin_s + 90_000, route_id="r2"),
    ]
    positions = record(tmp_path, rows)
    tracks = match_tracks(positions, feed)
    vehicles = positions.vehicle_id.values
    runs = zip(tracks.trip_ix.tolist(), tracks.service_day.tolist(), tracks.vehicle_code.tolist(), strict=True)
    assert [(feed.trips.trip_id[t], day - 19_724, vehicles[v]) for t, day, v in runs] == [
        ("out", 0, "bus"),
        ("out", 0, "other"),
        ("out", 1, "bus"),
        ("loop", 1, "bus"),
    ]
    sizes = [len(drive("out", [0.0, 0.030], 0))] * 3 + [len(drive("loop", [0.0, 0.020, 0.0], 0))]
    assert np.diff(tracks.offset).tolist() == sizes
    assert tracks.offset[0] == 0
    assert tracks.offset[-1] == len(tracks.row) == len(rows)


def test_the_first_and_the_last_fix_of_a_recording_are_part_of_their_runs(tmp_path: Path, feed: Feed) -> None:
    rows = drive("out", [0.0, 0.030], start_of("UTC", date(2024, 1, 2), 8))
    rows[-1] |= {"lon": 0.030}  # the last fix stands at the last stop exactly
    positions = record(tmp_path, rows)
    tracks = match_tracks(positions, feed)
    assert tracks.row.tolist() == list(range(len(rows)))
    seen = arrivals_frame(observe_arrivals(positions, feed, tracks), positions, feed)
    assert seen["stop_id"].to_list() == list("ABCD")
    assert seen["arrival_ts"][0] == rows[0]["timestamp"]
    assert seen["interp_ts"][3] == rows[-1]["timestamp"]


def test_trips_that_the_feed_does_not_know_have_no_number(tmp_path: Path, feed: Feed) -> None:
    fixes = drive("out", [0.0, 0.004], 0)[:4]
    rows = [row | {"trip_id": name} for row, name in zip(fixes, ("loop", "x", None, "out"), strict=True)]
    assert trip_index(record(tmp_path, rows), feed).tolist() == [2, -1, -1, 0]


def test_two_fixes_that_advance_are_the_shortest_run(tmp_path: Path, feed: Feed) -> None:
    rows = drive("out", [0.0, 0.032], start_of("UTC", date(2024, 1, 2), 8))
    assert len(match_tracks(record(tmp_path, rows[:2]), feed)) == 1
    alone = match_tracks(record(tmp_path, rows[:1]), feed)
    assert (len(alone), alone.n_unmatched, alone.offset.tolist()) == (0, 1, [0])


def test_a_fix_outside_a_corner_is_at_the_corner(tmp_path: Path) -> None:
    stops = FILES["stops.txt"].replace("D,Dogwood,0.000,0.030", "D,Dogwood,0.010,0.020")
    feed = read_feed(write_feed(tmp_path / "feed", {"stops.txt": stops, "shapes.txt": None}))
    rows = drive("out", [0.0, 0.020], start_of("UTC", date(2024, 1, 2), 8))
    last = rows[-1]
    outside = last | {"timestamp": last["timestamp"] + 10, "lat": -0.0004, "lon": 0.0204}  # 63 m from C
    north = [last | {"timestamp": last["timestamp"] + 20 + 10 * i, "lat": 0.001 * i, "lon": 0.020} for i in (1, 2)]
    tracks = match_tracks(record(tmp_path, [*rows, outside, *north]), feed)
    assert tracks.n_unmatched == 0
    legs = tracks.progress_m[len(rows) - 1 :] / M_PER_DEGREE
    assert legs.tolist() == pytest.approx([0.020, 0.020, 0.021, 0.022], rel=1e-4)


def test_a_degree_of_longitude_is_half_as_long_at_60_degrees_north(tmp_path: Path) -> None:
    stops = "stop_id,stop_lat,stop_lon\nA,60,25\nB,60,25.01\nC,60.01,25.01\nD,60.02,25.01\n"
    feed = read_feed(write_feed(tmp_path / "feed", {"stops.txt": stops, "shapes.txt": None}))
    line = pattern_line(feed.patterns[int(feed.trips.pattern_ix[0])], feed.shapes)
    assert line is not None
    step_m = 0.01 * M_PER_DEGREE
    assert line.x_m.tolist() == pytest.approx([0, step_m / 2, step_m / 2, step_m / 2])
    assert line.y_m.tolist() == pytest.approx([0, 0, step_m, 2 * step_m])
    assert line.stop_s_m.tolist() == pytest.approx([0, step_m / 2, 1.5 * step_m, 2.5 * step_m], rel=1e-6)
