import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs import read_feed
from etacore.mlops.transit.left_out import ADVICE, MEANING, files_warning, lost_fixes, survival_warning
from etacore.mlops.transit.positions import from_us, read_positions, to_us
from etacore.schema import NO_SEQUENCE, NO_START_DATE, NO_START_TIME
from tests.transit import real_data, write_feed, write_positions

ROWS = [
    {"vehicle_id": "b", "timestamp": 1_700_000_040, "lat": 1.0, "lon": 2.0, "route_id": "7", "trip_id": "t1"},
    {"vehicle_id": "b", "timestamp": 1_700_000_000, "lat": 1.5, "lon": 2.5, "route_id": "7", "trip_id": None},
    {"vehicle_id": "a", "timestamp": 1_700_000_000, "lat": None, "lon": 2.5, "route_id": "9", "trip_id": ""},
]


@pytest.mark.parametrize("name", ["p.parquet", "p.csv"])
def test_required_columns_are_enough(tmp_path: Path, name: str) -> None:
    positions = read_positions(write_positions(tmp_path / name, ROWS))
    assert [positions.vehicle_id[i] for i in range(3)] == ["a", "b", "b"]  # by time, then vehicle
    assert positions.time_us.tolist() == [1_700_000_000_000_000, 1_700_000_000_000_000, 1_700_000_040_000_000]
    assert [positions.trip_id[i] for i in range(3)] == [None, None, "t1"]
    assert np.isnan(positions.lat[0])
    assert positions.lat[1:].tolist() == [1.5, 1.0]
    assert np.isnan(positions.speed_mps).all()
    assert (positions.stop_sequence == NO_SEQUENCE).all()
    assert positions.current_status[0] is None


def test_all_columns(tmp_path: Path) -> None:
    more = {
        "speed_mps": 3.5,
        "bearing": 90.0,
        "current_stop_sequence": 4,
        "stop_id": "S",
        "current_status": "STOPPED_AT",
    }
    positions = read_positions(write_positions(tmp_path / "p.parquet", [ROWS[0] | more]))
    assert (positions.speed_mps[0], positions.bearing_deg[0], positions.stop_sequence[0]) == (3.5, 90.0, 4)
    assert (positions.stop_id[0], positions.current_status[0]) == ("S", "STOPPED_AT")


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([1_700_000_000.25]),
        pl.Series([datetime(2023, 11, 14, 22, 13, 20, 250_000)]),
        pl.Series([datetime(2023, 11, 14, 22, 13, 20, 250_000, UTC)]).dt.convert_time_zone("America/Toronto"),
        pl.Series(["2023-11-14T22:13:20.250Z"]),
        pl.Series(["1700000000.25"]),
    ],
)
def test_kinds_of_time(tmp_path: Path, times: pl.Series) -> None:
    frame = pl.DataFrame({"vehicle_id": ["a"], "timestamp": times, "lat": [1.0], "lon": [2.0], "route_id": ["7"]})
    frame.write_parquet(tmp_path / "p.parquet")
    assert read_positions(tmp_path / "p.parquet").time_us.tolist() == [1_700_000_000_250_000]


def test_the_names_of_snapshots_will_do(tmp_path: Path) -> None:
    row = {
        "vehicleId": "a",
        "timestamp": 1_700_000_000_250,
        "latitude": 1.0,
        "lng": 2.0,
        "route": "7",
        "trip": "t",
        "speed": 3.5,
        "heading": 90.0,
        "stop_sequence": 4,
        "occupancy": "many",
    }
    positions = read_positions(write_positions(tmp_path / "p.csv", [row]))
    assert (positions.vehicle_id[0], positions.route_id[0], positions.trip_id[0]) == ("a", "7", "t")
    assert (positions.lat[0], positions.lon[0], positions.time_us[0]) == (1.0, 2.0, 1_700_000_000_250_000)
    assert (positions.speed_mps[0], positions.bearing_deg[0], positions.stop_sequence[0]) == (3.5, 90.0, 4)
    own = read_positions(write_positions(tmp_path / "own.parquet", [row | {"route_id": "8", "speed_mps": 1.0}]))
    assert (own.route_id[0], own.speed_mps[0]) == ("8", 1.0)


def test_ids_that_came_as_floats_get_no_fraction(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"route_id": 26.0, "trip_id": 5.0}, ROWS[1] | {"route_id": 26.0, "trip_id": None}]
    positions = read_positions(write_positions(tmp_path / "p.parquet", rows))
    assert positions.route_id.values == ("26",)
    assert positions.trip_id.values == ("5",)
    assert read_positions(write_positions(tmp_path / "q.parquet", [ROWS[0] | {"route_id": 2.5}])).route_id[0] == "2.5"


def test_floats_of_pandas_in_csv_are_read_as_in_parquet(tmp_path: Path) -> None:
    rows = [
        ROWS[0] | {"vehicle_id": 12.0, "route_id": 26.0, "trip_id": 123.0, "current_stop_sequence": 5.0},
        ROWS[1] | {"vehicle_id": 13.0, "route_id": 26.0, "trip_id": None, "current_stop_sequence": None},
    ]
    for name in ("p.csv", "p.parquet"):
        positions = read_positions(write_positions(tmp_path / name, rows))
        assert (positions.vehicle_id.values, positions.route_id.values) == (("12", "13"), ("26",))
        assert positions.trip_id.values == ("123",)
        assert positions.stop_sequence.tolist() == [NO_SEQUENCE, 5]
        assert positions.left_out == {}
    versions = [ROWS[0] | {"route_id": "5.0"}, ROWS[1] | {"route_id": "5.0a"}]
    assert read_positions(write_positions(tmp_path / "p.csv", versions)).route_id.values == ("5.0", "5.0a")


def test_csv_as_people_write_it(tmp_path: Path) -> None:
    """Blank lines, rows of commas, spaces beside quotes, an open quote, a comma too many, bytes of Latin-1."""
    (tmp_path / "p.csv").write_bytes(
        b"vehicle_id, timestamp,lat,lon,route_id,trip_id\r\n"
        b'"a" ,1700000000, 1.0 ,2.0, "7",x\r\n'
        b"\r\n"
        b",,,,,\r\n"
        b"b,1700000010,1.0,2.0,7,\xe9,\r\n"
        b'c,1700000020,1.0,2.0,7,"open\r\n'
        b"d,1700000030,1,0,2,0,7\r\n"
        b"e,1700000040,1.0,2.0,7\r\n"
        b"\r\n"
    )
    positions = read_positions(tmp_path / "p.csv")
    assert [positions.vehicle_id[i] for i in range(len(positions))] == ["a", "b", "c", "e"]
    assert [positions.trip_id[i] for i in range(4)] == ["x", "\u00e9", "open", None]
    assert (positions.route_id.values, positions.lon.tolist()) == (("7",), [2.0] * 4)
    assert positions.left_out == {"bad_row": 1}
    assert positions.examples == {"bad_row": "p.csv row 5: its fields do not fit the 6 columns"}


@pytest.mark.parametrize("last", ["", "\n9,z,1,2,3,4,5,6,7,8,9\n"])
def test_columns_without_a_name_and_names_that_are_there_twice_do_no_harm(tmp_path: Path, last: str) -> None:
    """The index that pandas writes has no name; a broken row at the end lets the file be read line by line."""
    heading = ",vehicle_id,timestamp,lat,lon,route_id,lat,"
    path = tmp_path / "p.csv"
    path.write_text(f"{heading}\n0,a,1700000000,1.0,2.0,7,5.0,{last}")
    positions = read_positions(path)
    assert (positions.vehicle_id.values, positions.lat.tolist()) == (("a",), [1.0])
    assert positions.left_out == ({"bad_row": 1} if last else {})


def test_a_blank_line_is_no_row(tmp_path: Path) -> None:
    path = write_positions(tmp_path / "p.csv", ROWS)
    path.write_text(path.read_text().replace("\n", "\n\n") + "\n,,,,,\n")
    positions = read_positions(path)
    assert (len(positions), positions.left_out) == (3, {})


@pytest.mark.parametrize(
    ("dates", "times", "direction"),
    [
        (["20250304", "2025-03-04"], ["8:05:00", "25:30"], ["1", "0"]),
        ([20250304, 20250304], ["08:05:00", "25:30:00"], [1.0, 0.0]),
        ([20250304.0, 20250304.0], ["08:05", "25:30:00"], [1, 0]),
        ([date(2025, 3, 4)] * 2, [timedelta(hours=8, minutes=5), timedelta(hours=25, minutes=30)], [1, 0]),
        ([datetime(2025, 3, 4)] * 2, ["08:05:00", "25:30:00"], [1, 0]),
    ],
)
@pytest.mark.parametrize("camel", [False, True])
def test_the_start_of_a_run_and_its_direction(
    tmp_path: Path, dates: list[Any], times: list[Any], direction: list[Any], camel: bool
) -> None:
    names = ("startDate", "startTime", "directionId") if camel else ("start_date", "start_time", "direction_id")
    given = pl.DataFrame(dict(zip(names, (dates, times, direction), strict=True)))
    frame = pl.concat([pl.DataFrame(ROWS[1::-1]), given], how="horizontal")  # oldest first
    frame.write_parquet(tmp_path / "p.parquet")
    files = [tmp_path / "p.parquet"]
    if frame[names[1]].dtype == pl.String:
        frame.write_csv(tmp_path / "p.csv")
        files.append(tmp_path / "p.csv")
    for file in files:
        positions = read_positions(file)
        assert positions.start_date.tolist() == [20250304] * 2
        assert positions.start_time_s.tolist() == [8 * 3600 + 300, 25 * 3600 + 1800]
        assert positions.direction_id.tolist() == [1, 0]
        assert positions.left_out == {}


def test_a_value_that_nobody_needs_costs_no_row(tmp_path: Path) -> None:
    bad = {
        "start_date": "20250231",
        "start_time": "8 o'clock",
        "direction_id": "north",
        "current_stop_sequence": "5.5",
        "speed_mps": "fast",
        "bearing": "N",
        "current_status": "1",
        "doors": "?",
    }
    positions = read_positions(write_positions(tmp_path / "p.csv", [ROWS[0] | bad]))
    assert positions.left_out == {"bad_start": 2, "bad_value": 4}
    assert positions.examples["bad_start"] == "p.csv row 0: start_date '20250231' is not understood"
    assert (positions.start_date[0], positions.start_time_s[0]) == (NO_START_DATE, NO_START_TIME)
    assert (positions.direction_id[0], positions.stop_sequence[0]) == (-1, NO_SEQUENCE)
    assert np.isnan([positions.speed_mps[0], positions.bearing_deg[0]]).all()
    assert positions.current_status[0] == "STOPPED_AT"


def test_the_first_name_that_has_a_value_wins_row_by_row(tmp_path: Path) -> None:
    rows = [
        ROWS[0] | {"route_id": None, "route": "", "route_short_name": "short", "tripId": "other"},
        ROWS[1] | {"route_id": "own", "route": "r", "route_short_name": "short", "tripId": "other"},
    ]
    positions = read_positions(write_positions(tmp_path / "p.csv", rows))
    assert [positions.route_id[i] for i in range(2)] == ["own", "short"]
    assert [positions.trip_id[i] for i in range(2)] == ["other", "t1"]


@pytest.mark.parametrize("form", ["list", "lines"])
def test_snapshots_in_json(tmp_path: Path, form: str) -> None:
    snapshots: list[Any] = [
        {
            "vehicle_id": "a",
            "lat": "1.5",
            "lng": 2.5,
            "timestamp": "2023-11-14T22:13:20Z",
            "route": 7,
            "_note": {"x": 1},
        },
        {"vehicle": {"id": 12}, "latitude": 1.5, "lon": 2.5, "timestamp": 1_700_000_010_000, "route_id": "7"},
        {"vehicle_id": "c", "lat": 1.5, "lon": 2.5, "timestamp": "14/11/2023", "route": "7"},
        7,
    ]
    text = json.dumps(snapshots) if form == "list" else "\n".join(json.dumps(one) for one in snapshots) + "\n{"
    path = tmp_path / ("p.json" if form == "list" else "p.jsonl")
    path.write_text(text)
    positions = read_positions(path)
    assert [positions.vehicle_id[i] for i in range(len(positions))] == ["a", "12"]
    assert positions.time_us.tolist() == [1_700_000_000_000_000, 1_700_000_010_000_000]
    assert (positions.route_id.values, positions.lat.tolist()) == (("7",), [1.5, 1.5])
    assert positions.left_out == {"bad_time": 1, "bad_row": 1 if form == "list" else 2}


def test_less_than_half_is_said_loudly() -> None:
    lost = {"bad_time": 5, "no_route": 2, "off_route": 9, "no_time": 1}
    assert survival_warning(17, 34, lost, {}) is None
    warning = survival_warning(16, 33, lost, {"bad_time": "p.csv row 0: timestamp 'noon'"})
    assert warning is not None
    assert warning.splitlines() == [
        "WARNING: only 16 of 33 fixes could be used (48%)",
        "  9 off_route",
        "  5 bad_time (neither POSIX seconds or milliseconds nor ISO 8601): p.csv row 0: timestamp 'noon'",
        "  2 no_route (no route, nor a trip that the feed knows)",
    ]


def test_files_of_no_use_are_said_loudly(tmp_path: Path) -> None:
    write_positions(tmp_path / "1.csv", ROWS)
    (tmp_path / "2.csv").write_text("<html>")
    positions = read_positions(tmp_path)
    assert files_warning(positions.n_files, positions.left_out, positions.examples) is None
    (tmp_path / "3.csv").write_text("<html>")
    positions = read_positions(tmp_path)
    warning = files_warning(positions.n_files, positions.left_out, positions.examples)
    assert warning is not None
    title, reason = warning.splitlines()
    assert title == "WARNING: 2 of 3 files could not be used"
    assert reason.startswith("  2 unreadable_file (files that cannot be read): 2.csv holds no vehicle positions")


def test_what_costs_no_fix_is_no_reason_to_warn() -> None:
    assert lost_fixes({"repeated_fix": 90, "bad_start": 3, "bad_time": 1}) == {"bad_time": 1}
    assert set(ADVICE) <= set(MEANING)


def test_many_files_are_one_recording(tmp_path: Path) -> None:
    first = write_positions(tmp_path / "1.parquet", ROWS[:2])
    second = write_positions(tmp_path / "2.csv", [ROWS[2] | {"speed_mps": 4.0}])
    positions = read_positions([first, str(second)])
    whole = read_positions(write_positions(tmp_path / "whole.parquet", ROWS))
    assert positions.time_us.tolist() == whole.time_us.tolist()
    assert [positions.vehicle_id[i] for i in range(3)] == ["a", "b", "b"]
    assert positions.speed_mps[0] == 4.0
    assert np.isnan(positions.speed_mps[1:]).all()
    assert positions.take(np.array([0])).left_out == {}
    with pytest.raises(FeedError, match="no positions given"):
        read_positions([])
    write_positions(tmp_path / "3.csv", [{"stop_id": "arrivals"}])
    with_another = read_positions(tmp_path)
    assert (len(with_another), with_another.left_out) == (6, {"file_without_columns": 1})
    assert "3.csv has no column vehicle_id, timestamp, " in with_another.examples["file_without_columns"]
    with pytest.raises(FeedError, match=r"3\.csv has no column vehicle_id, timestamp, .* \(has: stop_id\)"):
        read_positions(tmp_path / "3.csv")


def test_a_table_without_routes_takes_those_of_the_trips(tmp_path: Path) -> None:
    feed = read_feed(write_feed(tmp_path / "feed"))
    rows = [{name: value for name, value in row.items() if name != "route_id"} | {"trip_id": "loop"} for row in ROWS]
    path = write_positions(tmp_path / "p.parquet", rows)
    assert read_positions(path, feed=feed).route_id.values == ("r2",)
    with pytest.raises(FeedError, match="has no column route_id"):
        read_positions(path)
    write_positions(path, [*rows, rows[0] | {"trip_id": "elsewhere"}])
    positions = read_positions(path, feed=feed)
    assert (len(positions), positions.left_out) == (3, {"no_route": 1})
    assert positions.examples == {"no_route": "p.parquet row 3: no route, trip 'elsewhere'"}


def test_select_by_time_and_route(tmp_path: Path) -> None:
    positions = read_positions(write_positions(tmp_path / "p.parquet", ROWS))
    assert len(positions.select(routes=["9"])) == 1
    assert len(positions.select(start=from_us(1_700_000_000_000_001))) == 1
    assert len(positions.select(end=from_us(1_700_000_040_000_000))) == 2  # the end is not included
    assert len(positions.select(start=datetime(2023, 11, 14, 22, 13, 20))) == 3  # naive is UTC, the start is included
    with pytest.raises(FeedError, match=r"no positions between(.|\n)*covers 2023-11-14 22:13:20"):
        positions.select(start=datetime(2024, 1, 1))
    with pytest.raises(FeedError, match=r"no positions of route 5(.|\n)*7, 9"):
        positions.select(routes=["7", "5"])
    with pytest.raises(FeedError, match="in this time range"):
        positions.select(routes=["9"], start=from_us(1_700_000_020_000_000))
    assert from_us(to_us(datetime(2024, 1, 1))) == datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
@pytest.mark.parametrize(
    ("change", "reason", "example"),
    [
        ({"vehicle_id": None}, "no_vehicle_id", "row 0: vehicle_id is missing"),
        ({"route_id": ""}, "no_route", "row 0: no route, trip 't1'"),
        ({"timestamp": None}, "no_time", "row 0: timestamp is missing"),
        ({"timestamp": "noon"}, "bad_time", "row 0: timestamp 'noon' is neither"),
        ({"timestamp": "1e17"}, "bad_time", "row 0: timestamp '1e17' is neither"),
        ({"timestamp": "03/04/2025 07:00:00"}, "bad_time", "row 0: timestamp '03/04/2025 07:00:00' is neither"),
        ({"timestamp": "04.03.2025 07:00"}, "bad_time", "row 0: timestamp '04.03.2025 07:00' is neither"),
        ({"timestamp": "20250304"}, "bad_time", "row 0: timestamp '20250304' is neither"),
        ({"timestamp": "202503040700"}, "bad_time", "row 0: timestamp '202503040700' is neither"),
        ({"timestamp": "20250304070000"}, "bad_time", "row 0: timestamp '20250304070000' is neither"),
        ({"timestamp": "20250304 070000"}, "bad_time", "row 0: timestamp '20250304 070000' is neither"),
        ({"timestamp": "2025-03-04 07:00 am"}, "bad_time", "row 0: timestamp '2025-03-04 07:00 am' is neither"),
        ({"lat": "north"}, "bad_position", "row 0: lat 'north' is no number"),
    ],
)
def test_a_bad_row_costs_itself(
    tmp_path: Path, name: str, change: dict[str, object], reason: str, example: str
) -> None:
    rows = [{key: str(value) for key, value in row.items()} | {"lat": "1.0"} for row in ROWS[:1] * 2]
    positions = read_positions(write_positions(tmp_path / name, [rows[0] | change, rows[1]]))
    assert (len(positions), positions.left_out) == (1, {reason: 1})
    assert positions.examples[reason].startswith(f"{name} {example}")
    with pytest.raises(FeedError, match="no position that can be used"):
        read_positions(write_positions(tmp_path / name, [rows[0] | change]))


def test_times_that_would_be_guessed_are_refused_with_an_example_and_what_to_do(tmp_path: Path) -> None:
    rows = [row | {"timestamp": "03/04/2025 07:00:00"} for row in ROWS]
    with pytest.raises(FeedError) as refused:
        read_positions(write_positions(tmp_path / "p.csv", rows))
    assert "p.csv has no position that can be used (3 bad_time)" in refused.value.message
    assert "p.csv row 0: timestamp '03/04/2025 07:00:00'" in refused.value.message
    assert "ISO 8601" in str(refused.value.hint)
    number = pl.DataFrame(ROWS).with_columns(timestamp=pl.lit(20250304070000))
    number.write_parquet(tmp_path / "n.parquet")
    with pytest.raises(FeedError, match="3 bad_time"):
        read_positions(tmp_path / "n.parquet")


def test_sampling_is_per_vehicle(tmp_path: Path) -> None:
    positions = read_positions(write_positions(tmp_path / "p.parquet", ROWS))
    assert positions.sampling_s() == 40.0
    assert np.isnan(positions.take(np.array([0])).sampling_s())


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="does not exist"):
        read_positions(tmp_path / "none.parquet")
    with pytest.raises(FeedError, match="has no column lon, route_id"):
        read_positions(write_positions(tmp_path / "p.csv", [{"vehicle_id": "a", "timestamp": 1, "lat": 2}]))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(FeedError, match="no readable Parquet"):
        read_positions(tmp_path / "cut.parquet")
    (tmp_path / "empty.csv").write_text("vehicle_id,timestamp,lat,lon,route_id\n")
    with pytest.raises(FeedError, match="has no rows"):
        read_positions(tmp_path / "empty.csv")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "n"), [("ttc_2016", 970_191), ("capmetro_2016", 149_588), ("mbta_green_2025", 16_731)]
)
def test_real_recordings(folder: str, n: int) -> None:
    positions = read_positions(real_data(folder, "positions.parquet"))
    assert len(positions) == n
    assert (np.diff(positions.time_us) >= 0).all()
