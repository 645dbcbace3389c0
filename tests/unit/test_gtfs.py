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
    days = {name: [str(np.datetime64(int(day), "D")) for day in numbers] for name, numbers in feed.service_days.items()}
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
    assert feed.service_days["S"].tolist() == sorted(feed.service_days["S"].tolist())


def test_an_end_before_the_start_and_a_day_taken_out_that_never_ran_leave_nothing(tmp_path: Path) -> None:
    changes = calendar("S,1,1,1,1,1,1,1,20240103,20240102\n", "S,20240110,2\n")
    feed = read_feed(write_feed(tmp_path / "feed", changes))
    assert feed.service_days["S"].tolist() == []


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
    assert feed.service_days == {}
    assert [note for note in feed.notes if "without coordinates" in note or "says when services run" in note]


def test_a_folder_inside_the_zip_and_frequencies(tmp_path: Path) -> None:
    changes = {f"town/{name}": text for name, text in FILES.items()} | dict.fromkeys(FILES)
    changes["town/frequencies.txt"] = "trip_id,start_time,end_time,headway_secs\nout,6:00:00,9:00:00,600\n"
    feed = read_feed(write_feed(tmp_path / "feed.zip", changes))
    assert len(feed.patterns) == 3
    assert any(note.startswith("frequencies.txt: 1 rows") for note in feed.notes)


def test_rows_of_unknown_trips_are_left_out_and_said(tmp_path: Path) -> None:
    times = FILES["stop_times.txt"] + "ghost,10:00:00,10:00:00,A,1\n"
    feed = read_feed(write_feed(tmp_path / "feed", {"stop_times.txt": times}))
    assert len(feed.trips) == 3
    assert any("1 rows of trips" in note for note in feed.notes)


TIMES = FILES["stop_times.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stops.txt": None}, r"stops\.txt is missing"),
        ({"trips.txt": ""}, r"trips\.txt is empty"),
        ({"agency.txt": None}, r"agency\.txt is missing"),
        ({"agency.txt": "agency_timezone\nMars/Base\n"}, r"agency\.txt row 2: .*'Mars/Base' is not known"),
        ({"stop_times.txt": TIMES.replace("stop_sequence", "order", 1)}, r"has no column stop_sequence"),
        ({"stop_times.txt": TIMES.replace("08:03:00,08:03:00", "08:63:00,")}, r"row 3: arrival_time '08:63:00'"),
        ({"stop_times.txt": TIMES.replace("C,40", "C,forty")}, r"row 4: stop_sequence 'forty' is no whole number"),
        ({"stop_times.txt": TIMES.replace("C,40", "C,20")}, r"row 4: stop_sequence 20 is there twice"),
        ({"stop_times.txt": TIMES.replace("C,40", "Z,40")}, r"row 4: stop_id 'Z' is not in stops\.txt"),
        ({"stop_times.txt": TIMES.splitlines()[0] + "\n"}, r"has no stop times of any trip"),
        ({"stop_times.txt": TIMES + "out,1:00:00,1:00:00,A,60,more,and more\n"}, r"txt row 15 has 7 fields"),
        ({"stops.txt": FILES["stops.txt"].replace("0.020", "190")}, r"stops\.txt row 4: stop_lon '190' is no"),
        ({"stops.txt": FILES["stops.txt"].replace("0.020", "nan")}, r"stops\.txt row 4: stop_lon 'nan'"),
        ({"stops.txt": FILES["stops.txt"] + "A,again,0,0\n"}, r"stops\.txt row 6: stop_id 'A' is there twice"),
        ({"trips.txt": FILES["trips.txt"].replace(",1,\n", ",2,\n")}, r"trips\.txt row 3: direction_id '2'"),
        ({"calendar.txt": FILES["calendar.txt"].replace("20240114", "20240230")}, r"calendar\.txt row 2: end_date"),
        ({"calendar_dates.txt": "service_id,date,exception_type\nS,20240106,3\n"}, r"exception_type '3'"),
    ],
)
def test_what_cannot_be_used_is_named_by_file_row_and_reason(
    tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    with pytest.raises(FeedError, match=message):
        read_feed(write_feed(tmp_path / "feed", changes))


def test_what_is_no_feed(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="does not exist"):
        read_feed(tmp_path / "nowhere.zip")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(FeedError, match="neither a folder nor a zip file"):
        read_feed(tmp_path / "text.zip")
    feed = write_feed(tmp_path / "feed")
    (feed / "stops.txt").write_bytes(FILES["stops.txt"].replace("Cedar", "Cèdre").encode("latin-1"))
    with pytest.raises(FeedError, match=r"stops\.txt row 4 is not UTF-8"):
        read_feed(feed)


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
