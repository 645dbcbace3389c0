from datetime import date
from pathlib import Path

import numpy as np
import pytest

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs import NO_TIME, read_feed
from tests.transit import FILES, real_data, write_feed


@pytest.mark.parametrize("name", ["feed.zip", "feed"])
def test_the_whole_town(tmp_path: Path, name: str) -> None:
    feed = read_feed(write_feed(tmp_path / name))
    assert feed.time_zone == "Africa/Abidjan"
    assert feed.trips.trip_id == ("out", "back", "loop")
    out, back, loop = (feed.patterns[ix] for ix in feed.trips.pattern_ix)
    assert (out.stop_id, back.stop_id, loop.stop_id) == (tuple("ABCD"), tuple("DCBA"), tuple("ABCBA"))
    assert out.stop_sequence.tolist() == [10, 20, 40, 50]
    assert out.stop_name[1] == "Birch, north side"
    assert (out.direction_id, back.direction_id, out.shape_id, back.shape_id) == (0, 1, "line", None)
    assert feed.shapes["line"].lon.tolist() == [0.0, 0.015, 0.03]  # by sequence, not as written
    assert feed.trip_patterns()["loop"] == loop.pattern_id


def test_times_run_past_midnight_and_may_be_missing(tmp_path: Path) -> None:
    feed = read_feed(write_feed(tmp_path / "feed"))
    back = slice(feed.trips.offset[1], feed.trips.offset[2])
    assert feed.trips.arrival_s[back].tolist() == [90_600, NO_TIME, 90_960, 91_140]
    assert (feed.trips.start_s[1], feed.trips.end_s[1]) == (90_600, 91_140)
    assert any("1 stops without a time" in note for note in feed.notes)


def test_departure_stands_in_for_a_missing_arrival(tmp_path: Path) -> None:
    times = FILES["stop_times.txt"].replace("out,08:00:00,08:00:00", "out,,7:59:59")
    assert read_feed(write_feed(tmp_path / "feed", {"stop_times.txt": times})).trips.arrival_s[0] == 28_799


def test_trips_with_the_same_stops_share_a_pattern_whatever_the_order_of_rows(tmp_path: Path) -> None:
    trips = "route_id,service_id,trip_id\nr,S,t1\nr,S,t2\nr,S,t3\n"
    rows = ["t1,1:00:00,A,1", "t1,1:01:00,B,2", "t2,2:01:00,B,2", "t2,2:00:00,A,1", "t3,3:00:00,A,1", "t3,3:01:00,B,3"]
    times = "trip_id,arrival_time,stop_id,stop_sequence\n" + "\n".join(rows) + "\n"
    changes = {"trips.txt": trips, "stop_times.txt": times, "shapes.txt": None}
    feed = read_feed(write_feed(tmp_path / "feed", changes))
    first, second, third = feed.trips.pattern_ix.tolist()
    assert first == second != third  # t3 numbers its stops otherwise, and its documents must show that
    assert feed.trips.arrival_s.tolist() == [3600, 3660, 7200, 7260, 10800, 10860]
    assert feed.patterns[0].direction_id == -1


def test_bom_quotes_white_space_crlf_and_missing_optional_files(tmp_path: Path) -> None:
    rows = [
        '\ufeff"stop_id", stop_lat ,stop_lon,stop_name',
        '" A ", 0.5 ,1,"say ""hi"", ok"',
        "B,0,1,",
        "C,,,x",
        "D,0,2,",
        "",
    ]
    stops = "\r\n".join(rows)
    feed = read_feed(
        write_feed(
            tmp_path / "feed.zip",
            {
                "stops.txt": stops,
                "shapes.txt": None,
                "calendar.txt": None,
                "calendar_dates.txt": None,
                "routes.txt": None,
            },
        )
    )
    pattern = feed.patterns[0]
    assert pattern.stop_id[0] == "A"
    assert pattern.lat[0] == 0.5
    assert pattern.stop_name[:2] == ('say "hi", ok', "")
    assert np.isnan(pattern.lat[2])
    assert feed.shapes == {}
    assert len(feed.services) == 0
    assert [note for note in feed.notes if "without coordinates" in note or "says when services run" in note]


def test_rows_of_unknown_trips_are_left_out_and_said(tmp_path: Path) -> None:
    times = FILES["stop_times.txt"] + "ghost,10:00:00,10:00:00,A,1\n"
    feed = read_feed(write_feed(tmp_path / "feed", {"stop_times.txt": times}))
    assert len(feed.trips) == 3
    assert any("1 rows of trips" in note for note in feed.notes)


TIMES = FILES["stop_times.txt"]
TRIPS = FILES["trips.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stops.txt": None}, r"stops\.txt is missing"),
        ({"trips.txt": ""}, r"trips\.txt is empty"),
        ({"agency.txt": None}, r"agency\.txt is missing"),
        ({"agency.txt": "agency_timezone\nMars/Base\n"}, r"agency\.txt row 2: .*'Mars/Base' is not known"),
        ({"agency.txt": "agency_timezone\nEurope\n"}, r"agency\.txt row 2: .*'Europe' is not known"),
        (
            {"agency.txt": "agency_name,agency_timezone\nFoo, Bar and Sons,Europe/Rome\n"},
            r"agency\.txt gives no agency_timezone\n.*rows left out: their fields do not fit the heading \(row 2\)",
        ),
        ({"agency.txt": "agency_id,agency_timezone\nx,\n"}, r"agency\.txt gives no agency_timezone"),
        ({"stop_times.txt": TIMES.replace("stop_sequence", "order", 1)}, r"has no column stop_sequence"),
        (
            {"stop_times.txt": "trip_id,stop_id,stop_sequence\nout,A,1\n"},
            r"has neither arrival_time nor departure_time",
        ),
        ({"stop_times.txt": TIMES.splitlines()[0] + "\n"}, r"has no stop times of any trip"),
        (
            {"trips.txt": TRIPS.splitlines()[0] + "\n"},
            r"has no stop times of any trip(.|\n)*: 13 rows of trips that trips",
        ),
    ],
)
def test_a_feed_is_refused_if_a_file_or_column_is_missing_or_nothing_is_left(
    tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    with pytest.raises(FeedError, match=message):
        read_feed(write_feed(tmp_path / "feed", changes))


def test_what_is_no_feed(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="does not exist"):
        read_feed(tmp_path / "nowhere.zip")
    whole = write_feed(tmp_path / "whole.zip").read_bytes()
    for content, what in (
        (b"hello", "text that begins with 'hello'"),
        (b"<html>404</html>", "an HTML page"),
        (b"", "an empty file"),
        (whole[:-200], "a zip file that was cut off or damaged"),
    ):
        (tmp_path / "odd.zip").write_bytes(content)
        with pytest.raises(FeedError, match=f"neither a folder nor a zip file, but {what}"):
            read_feed(tmp_path / "odd.zip")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("parts", "n_trips", "n_patterns", "end_s"),
    [
        (("ttc_2016", "gtfs_derived.zip"), 15546, 38, 103_132),
        (("capmetro_2016", "gtfs.zip"), 5362, 246, 102_120),
        (("gtfs_static", "gtfs_kit__cairns_gtfs.zip"), 1339, 54, 106_740),
        (("gtfs_static", "gtfs_kit__sample_gtfs.zip"), 11, 9, 57_600),
        (("gtfs_static", "gtfspy__kuopio.zip"), 2149, 212, 126_420),
        (("gtfs_static", "manisa1__darwin_au.zip"), 1554, 102, 87_960),
        (("gtfs_static", "partridge__caltrain-2017-07-24.zip"), 188, 47, 92_580),
        (("gtfs_static", "partridge__seattle-area-2017-11-16.zip"), 3888, 59, 91_440),
    ],
)
def test_real_feeds_are_readable(parts: tuple[str, str], n_trips: int, n_patterns: int, end_s: int) -> None:
    feed = read_feed(real_data(*parts))
    assert (len(feed.trips), len(feed.patterns), int(feed.trips.end_s.max())) == (n_trips, n_patterns, end_s)
    n_stops = np.array([pattern.n_stops for pattern in feed.patterns])
    assert (np.diff(feed.trips.offset) == n_stops[feed.trips.pattern_ix]).all()
    assert len({pattern.pattern_id for pattern in feed.patterns}) == n_patterns


def test_a_run_is_named_by_the_time_at_which_it_leaves_its_first_stop(tmp_path: Path) -> None:
    stop_times = FILES["stop_times.txt"].replace("out,08:00:00,08:00:00,A,10", "out,07:52:00,08:00:00,A,10")
    feed = read_feed(write_feed(tmp_path / "feed", {"stop_times.txt": stop_times}))
    trip_ix = feed.trips.trip_id.index("out")
    assert feed.trips.start_s[trip_ix] == 8 * 3600
    assert feed.trips.arrival_s[feed.trips.offset[trip_ix]] == 7 * 3600 + 52 * 60
    day = np.array([(date(2024, 1, 2) - date(1970, 1, 1)).days])
    found = feed.find_trips(["r1"], np.array([0]), np.array([8 * 3600]), day)
    assert found.tolist() == [trip_ix]
