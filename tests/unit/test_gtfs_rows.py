"""A row, trip, stop or shape of a feed that is wrong costs itself, and is counted with one example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs import NO_TIME, Feed, read_feed
from tests.transit import FILES, write_feed

TIMES = FILES["stop_times.txt"]
TRIPS = FILES["trips.txt"]
STOPS = FILES["stops.txt"]


def read(tmp_path: Path, **changes: str | None) -> Feed:
    return read_feed(write_feed(tmp_path / "feed", {f"{name}.txt": text for name, text in changes.items()}))


def told(feed: Feed) -> list[str]:
    """What is odd beyond the town's own stop without a time."""
    return [note for note in feed.notes if note != "stop_times.txt: 1 stops without a time"]


def times_of(feed: Feed, trip_id: str) -> list[int]:
    ix = feed.trips.trip_id.index(trip_id)
    return feed.trips.arrival_s[feed.trips.offset[ix] : feed.trips.offset[ix + 1]].tolist()


def stops_of(feed: Feed, trip_id: str) -> str:
    return "".join(feed.patterns[feed.trips.pattern_ix[feed.trips.trip_id.index(trip_id)]].stop_id)


def timetable(*rows: str) -> dict[str, str]:
    """Trips of one route, by rows ``trip,time,stop,sequence``."""
    trip_ids = dict.fromkeys(row.partition(",")[0] for row in rows)
    return {
        "stop_times": "\n".join(["trip_id,arrival_time,stop_id,stop_sequence", *rows, ""]),
        "trips": "\n".join(["route_id,service_id,trip_id", *(f"r1,S,{trip_id}" for trip_id in trip_ids), ""]),
    }


def test_a_trip_that_stops_in_areas_is_left_out(tmp_path: Path) -> None:
    heading, *rows = TIMES.splitlines()
    lines = [heading + ",location_group_id,location_id", *(row + ",," for row in rows)]
    lines += ["flex,,,,1,LG,", "flex,,,,2,,zone", "half,10:00:00,10:00:00,A,1,,", "half,,,,2,LG,", ""]
    trips = TRIPS + "r2,S,flex,0,\nr2,S,half,0,\n"
    feed = read(tmp_path, stop_times="\n".join(lines), trips=trips)
    assert feed.trips.trip_id == ("out", "back", "loop")
    reason = "they stop in an area (location_id, location_group_id), not at a stop_id"
    assert told(feed) == [f"stop_times.txt: 2 trips left out: {reason} (trip 'flex', row 15)"]


def test_identical_stop_times_count_once(tmp_path: Path) -> None:
    feed = read(tmp_path, stop_times=TIMES + "out,08:03:00,08:03:00,B,20\nout,8:03:00,,B,20\n")
    assert (stops_of(feed, "out"), times_of(feed, "out")) == ("ABCD", [28_800, 28_980, 29_160, 29_340])
    reason = "they are there twice, and count once"
    assert told(feed) == [f"stop_times.txt: 2 rows left out: {reason} (trip 'out', row 15)"]


@pytest.mark.parametrize("row", ["out,08:04:00,08:04:00,C,20", "out,08:03:30,08:03:30,B,20"])
def test_contradictory_stop_times_lose_their_trip(tmp_path: Path, row: str) -> None:
    feed = read(tmp_path, stop_times=f"{TIMES}{row}\n{row}\n")
    assert feed.trips.trip_id == ("back", "loop")
    reason = "a stop_sequence is there twice with different stops or times"
    assert f"stop_times.txt: 1 trips left out: {reason} (trip 'out', row 15)" in told(feed)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("forty", ", stop_sequence 'forty'"),
        ("", ""),
        ("4.5", ", stop_sequence '4.5'"),
        ("99999999999", ", stop_sequence '99999999999'"),
    ],
)
def test_a_sequence_that_is_no_number_loses_its_trip(tmp_path: Path, written: str, shown: str) -> None:
    feed = read(tmp_path, stop_times=TIMES.replace("C,40", f"C,{written}"))
    assert feed.trips.trip_id == ("back", "loop")
    reason = "stop_sequence is no whole number"
    assert told(feed) == [f"stop_times.txt: 1 trips left out: {reason} (trip 'out'{shown}, row 4)"]


def test_sequences_that_pandas_made_floats(tmp_path: Path) -> None:
    feed = read(tmp_path, stop_times=TIMES.replace("C,40", "C,40.0"))
    assert feed.patterns[0].stop_sequence.tolist() == [10, 20, 40, 50]
    assert told(feed) == []


@pytest.mark.parametrize(
    ("stop", "note"),
    [("Z", "stop_id is not in stops.txt (stop_id 'Z', row 4)"), ("", "stop_id is missing (trip_id 'out', row 4)")],
)
def test_a_stop_time_whose_stop_nobody_knows_costs_itself(tmp_path: Path, stop: str, note: str) -> None:
    feed = read(tmp_path, stop_times=TIMES.replace("C,40", f"{stop},40"))
    assert (stops_of(feed, "out"), times_of(feed, "out")) == ("ABD", [28_800, 28_980, 29_340])
    assert told(feed) == [f"stop_times.txt: 1 rows left out: {note}"]


def test_trips_without_stops_or_with_one(tmp_path: Path) -> None:
    times = TIMES + "one,10:00:00,10:00:00,A,1\ngone,10:00:00,10:00:00,Y,1\ngone,10:05:00,10:05:00,Z,2\n"
    feed = read(tmp_path, stop_times=times, trips=TRIPS + "r1,S,one,0,\nr1,S,gone,0,\nr1,S,never,0,\n")
    assert feed.trips.trip_id == ("out", "back", "loop")
    assert told(feed) == [
        "trips.txt: 1 trips left out: stop_times.txt does not have them (trip 'never')",
        "stop_times.txt: 2 rows left out: stop_id is not in stops.txt (stop_id 'Y', row 16)",
        "stop_times.txt: 2 trips left out: they have fewer than two stops (trip 'one')",
    ]


def test_rows_without_a_trip(tmp_path: Path) -> None:
    feed = read(tmp_path, stop_times=TIMES + ",10:00:00,10:00:00,A,1\nghost,10:00:00,10:00:00,A,1\n")
    assert told(feed) == [
        "stop_times.txt: 1 rows left out: trip_id is missing (stop_id 'A', row 15)",
        "stop_times.txt: 1 rows of trips that trips.txt does not have are left out (trip 'ghost', row 16)",
    ]


@pytest.mark.parametrize("written", [" 8:03:00", "8:03", "08:03:00.0", "8:3:0", "08:03:00 "])
def test_times_as_they_are_written(tmp_path: Path, written: str) -> None:
    feed = read(tmp_path, stop_times=TIMES.replace("out,08:03:00,08:03:00", f"out,{written},"))
    assert times_of(feed, "out")[1] == 28_980
    assert told(feed) == []


def test_a_time_that_is_none_is_not_given(tmp_path: Path) -> None:
    times = TIMES.replace("out,08:03:00,08:03:00", "out,08:63:00,").replace(
        "out,08:06:00,08:06:00", "out,soon,08:06:10"
    )
    feed = read(tmp_path, stop_times=times.replace("out,08:00:00,08:00:00", "out,,"))
    assert times_of(feed, "out") == [NO_TIME, NO_TIME, 29_170, 29_340]
    assert (feed.trips.start_s[0], feed.trips.end_s[0]) == (29_170, 29_340)  # the first known
    assert feed.notes == (
        "stop_times.txt: 2 arrival_time are no HH:MM:SS and count as not given ('08:63:00', row 3)",
        "stop_times.txt: 3 stops without a time",
    )


def test_a_departure_is_not_asked_where_there_is_an_arrival(tmp_path: Path) -> None:
    times = TIMES.replace("out,08:03:00,08:03:00", "out,08:03:00,soon").replace("out,08:06:00,08:06:00", "out,,later")
    feed = read(tmp_path, stop_times=times)
    assert times_of(feed, "out") == [28_800, 28_980, NO_TIME, 29_340]
    assert feed.notes == (
        "stop_times.txt: 1 departure_time are no HH:MM:SS and count as not given ('later', row 4)",
        "stop_times.txt: 2 stops without a time",
    )


def test_times_that_fall_at_midnight_go_on_past_24(tmp_path: Path) -> None:
    rows = ["n,23:50:00,A,1", "n,23:59:00,B,2", "n,,C,3", "n,00:05:00,D,4", "m,24:00:00,A,1", "m,24:05:00,B,2"]
    feed = read(
        tmp_path, **timetable(*rows, "far,23:00:00,A,1", "far,11:30:00,B,2", "far,23:30:00,C,3", "far,00:10:00,D,4")
    )
    assert times_of(feed, "n") == [85_800, 86_340, NO_TIME, 86_700]
    assert times_of(feed, "m") == [86_400, 86_700]
    assert times_of(feed, "far") == [82_800, 41_400, 84_600, 87_000]
    assert (feed.trips.start_s[0], feed.trips.end_s[0]) == (85_800, 86_700)
    assert feed.notes[0] == "stop_times.txt: 1 trips have times that go back, as they stand (trip 'far', row 9)"
    assert (
        feed.notes[1]
        == "stop_times.txt: 2 trips go on at 00:00 after midnight, which counts as 24:00 (trip 'n', row 5)"
    )


def test_a_trip_over_two_midnights(tmp_path: Path) -> None:
    rows = ["t,23:00:00,A,1", "t,10:00:00,B,2", "t,22:00:00,C,3", "t,01:00:00,D,4", "u,01:00:00,A,1", "u,02:00:00,B,2"]
    feed = read(tmp_path, **timetable(*rows))
    assert times_of(feed, "t") == [82_800, 122_400, 165_600, 176_400]
    assert times_of(feed, "u") == [3_600, 7_200]


def test_directions(tmp_path: Path) -> None:
    trips = TRIPS.replace("back,1,", "back,2,").replace("out,0,", "out,1.0,").replace("loop,0,", "loop,,")
    feed = read(tmp_path, trips=trips)
    assert [feed.patterns[ix].direction_id for ix in feed.trips.pattern_ix] == [1, -1, -1]
    reason = "direction_id is neither 0 nor 1"
    assert told(feed) == [f"trips.txt: 1 trips get no direction: {reason} (trip 'back', direction_id '2', row 3)"]


def test_trips_that_are_there_twice(tmp_path: Path) -> None:
    feed = read(tmp_path, trips=TRIPS + "r1,S,out,0,line\nr2,S,back,1,\n")
    assert feed.trips.trip_id == ("out", "loop")
    assert told(feed) == [
        "trips.txt: 1 trips left out: they are there twice with different values (trip 'back', row 6)",
        "trips.txt: 1 rows left out: they are there twice, and count once (trip_id 'out', row 5)",
    ]


def test_trips_without_an_id_or_a_route(tmp_path: Path) -> None:
    feed = read(tmp_path, trips=TRIPS.replace("r2,S,loop", ",S,loop") + "r2,S,,0,\n")
    assert feed.trips.trip_id == ("out", "back")
    assert told(feed) == [
        "trips.txt: 1 rows left out: trip_id is missing (route_id 'r2', row 5)",
        "trips.txt: 1 rows left out: route_id is missing (trip_id 'loop', row 4)",
    ]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (",", "are not given"),
        ("0.0,", "are not given"),
        ("0.0,190", "are no degrees"),
        ("nan,0.02", "are no degrees"),
        ("north,0.02", "are no degrees"),
    ],
)
def test_a_stop_that_is_nowhere_stays_in_the_list(tmp_path: Path, place: str, why: str) -> None:
    feed = read(tmp_path, stops=STOPS.replace("Cedar,0.000,0.020", f"Cedar,{place}"))
    pattern = feed.patterns[0]
    assert pattern.stop_id == tuple("ABCD")
    assert np.isnan(pattern.lat).tolist() == np.isnan(pattern.lon).tolist() == [False, False, True, False]
    note = f"stops.txt: 1 stops without coordinates on the way of trips: their coordinates {why} (stop 'C', row 4)"
    assert told(feed) == [note]


def moved(text: str) -> str:
    """The town, away from the place where latitude and longitude are 0."""
    return text.replace(",0.000,0.0", ",45.000,7.0").replace("line,0.0,0.0", "line,45.0,7.0")


def test_0_0_is_no_place_for_a_stop_or_a_point_of_a_town_elsewhere(tmp_path: Path) -> None:
    stops = moved(STOPS).replace("Cedar,45.000,7.020", "Cedar,0,0.0")
    feed = read(tmp_path, stops=stops, shapes=moved(FILES["shapes.txt"]) + "line,0,0,25\n")
    assert np.isnan(feed.patterns[0].lon).tolist() == [False, False, True, False]
    assert feed.shapes["line"].lon.tolist() == [7.0, 7.015, 7.03]
    assert told(feed) == [
        "stops.txt: 1 stops without coordinates on the way of trips: their coordinates are 0, 0 (stop 'C', row 4)",
        "shapes.txt: 1 rows left out: their coordinates are 0, 0 (shape_id 'line', row 5)",
    ]


def test_stations_entrances_and_nodes_may_be_nowhere(tmp_path: Path) -> None:
    heading, *rows = STOPS.splitlines()
    rows = [f"{row},0" for row in rows] + ["P,Station,0,0.01,1", "E,Entrance,,,2", "N,Node,,,3", "Q,Boarding area,,,4"]
    feed = read(tmp_path, stops="\n".join([heading + ",location_type", *rows, ""]))
    assert feed.trips.trip_id == ("out", "back", "loop")
    assert told(feed) == []


def test_stops_that_are_there_twice(tmp_path: Path) -> None:
    feed = read(tmp_path, stops=STOPS + "A,Alder,0.000,0.000\nB,Elsewhere,1,1\n,Nameless,0,0\n")
    assert (feed.patterns[0].stop_name[1], feed.patterns[0].lat.tolist()) == ("Birch, north side", [0, 0, 0, 0])
    assert told(feed) == [
        "stops.txt: 1 rows left out: stop_id is missing (stop_name 'Nameless', row 8)",
        "stops.txt: 1 rows left out: their stop_id was there before, with other values (stop_id 'B', row 7)",
        "stops.txt: 1 rows left out: they are there twice, and count once (stop_id 'A', row 6)",
    ]


def test_points_of_shapes_cost_themselves(tmp_path: Path) -> None:
    heading = "shape_id,shape_pt_lat,shape_pt_lon,shape_pt_sequence,shape_dist_traveled\n"
    rows = ["line,0.0,0.03,30,1e300", "line,0.0,0.0,10,far", "line,0.0,0.01,15,", "line,,0.01,16,", "line,91,0.01,17,"]
    rows += ["line,0.0,0.01,last,", ",0.0,0.01,1,", "short,0.0,0.0,1,", "bad,x,0.0,1,", "bad,0.0,0.1,2,"]
    feed = read(tmp_path, shapes=heading + "\n".join(rows) + "\n")
    assert feed.shapes.keys() == {"line"}
    assert feed.shapes["line"].lon.tolist() == [0.0, 0.01, 0.03]
    assert told(feed) == [
        "shapes.txt: 1 rows left out: shape_id is missing (row 8)",
        "shapes.txt: 1 rows left out: their coordinates are not given (shape_id 'line', row 5)",
        "shapes.txt: 2 rows left out: their coordinates are no degrees (shape_id 'line', row 6)",
        "shapes.txt: 1 rows left out: shape_pt_sequence is no number (shape_pt_sequence 'last', row 7)",
        "shapes.txt: 2 shapes left out: they have one point (shape 'short')",
    ]


AGENCIES = "agency_id,agency_timezone\na,Europe/Rome\nb,America/New_York\nc,Europe/Rome\n"


@pytest.mark.parametrize(
    ("routes", "zone", "listed"),
    [
        ("r1,a\nr2,b\n", "Europe/Rome", "Europe/Rome (2 trips), America/New_York (1 trips)"),
        ("r1,b\nr2,a\n", "America/New_York", "America/New_York (2 trips), Europe/Rome (1 trips)"),
        ("r1,b\nr1,a\nr2,\n", "America/New_York", "America/New_York (2 trips), Europe/Rome (1 trips)"),
        ("r2,b\n", "America/New_York", "America/New_York (1 trips), Europe/Rome (0 trips)"),
        ("r1,unknown\nr9,b\n,b\n", "Europe/Rome", "Europe/Rome (0 trips), America/New_York (0 trips)"),
    ],
)
def test_of_several_time_zones_that_of_most_trips_counts(tmp_path: Path, routes: str, zone: str, listed: str) -> None:
    feed = read(tmp_path, agency=AGENCIES, routes=f"route_id,agency_id\n{routes}")
    assert feed.time_zone == zone
    assert told(feed) == [f"agency.txt: several time zones, {listed}: all times are taken as those of {zone}"]


def test_agencies_whose_time_zone_is_not_known(tmp_path: Path) -> None:
    feed = read(tmp_path, agency="agency_id,agency_timezone\nx,Mars/Base\ny,\nz,europe/rome\n")
    assert feed.time_zone == "Europe/Rome"
    assert told(feed) == [
        "agency.txt: 1 rows left out: agency_timezone is missing (agency_id 'y', row 3)",
        "agency.txt: 1 rows left out: agency_timezone is not known (agency_timezone 'Mars/Base', row 2)",
        "agency.txt: agency_timezone 'europe/rome' is taken as Europe/Rome",
    ]


def test_what_nobody_needs_is_never_a_reason(tmp_path: Path) -> None:
    times = "\n".join(f"{row},{'pickup_type' if n == 0 else 'x'}" for n, row in enumerate(TIMES.splitlines()))
    feed = read(
        tmp_path,
        stop_times=times,
        routes="route_id,route_type,route_color\n,boat,mauve\nr1,,\nr1,3,\n",
        agency="agency_id,agency_url,agency_timezone\n,nowhere,Africa/Abidjan\n,,Africa/Abidjan\n",
        frequencies="trip_id\nout\n",
        feed_info="\x00",
    )
    assert feed.trips.trip_id == ("out", "back", "loop")
    assert [note for note in told(feed) if not note.startswith("frequencies.txt has no column")] == []


def test_when_nothing_is_left_the_reasons_are_told(tmp_path: Path) -> None:
    heading, *rows = TIMES.splitlines()
    with pytest.raises(FeedError, match="no stop times of any trip") as error:
        read(tmp_path, stop_times="\n".join([heading, *(row + ",surplus" for row in rows)]))
    assert error.value.hint is not None
    assert "their fields do not fit the heading" in error.value.hint


def test_text_from_outside_is_cut(tmp_path: Path) -> None:
    feed = read(tmp_path, stop_times=TIMES + f"{'g' * 10_000},10:00:00,10:00:00,A,1\n")
    assert len(told(feed)[0]) < 200
