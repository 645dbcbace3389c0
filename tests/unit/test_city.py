"""The made-up city: geometry that holds together, routes that make trouble, a feed others can read."""

from __future__ import annotations

import csv
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import orjson
import pytest

from etacore.demo.city import City, Pattern, build_city
from etacore.demo.feed import redis_pairs, write_gtfs
from etacore.demo.timetable import WEEKDAY, WEEKEND, build_timetable
from etacore.mlops.transit.geodesy import leg_lengths_m

MONDAY = date(2026, 3, 2)


@pytest.fixture(scope="module")
def city() -> City:
    return build_city(7)


def pattern(city: City, pattern_id: str) -> Pattern:
    return next(p for p in city.patterns if p.pattern_id == pattern_id)


def test_the_same_seed_is_the_same_city_and_another_is_not(tmp_path: Path):
    one, same, other = (write_gtfs(build_city(s), tmp_path / f"{k}.zip", MONDAY) for k, s in enumerate((7, 7, 8)))
    assert one.read_bytes() == same.read_bytes()
    assert build_city(7).stops != build_city(8).stops
    assert one.read_bytes() != other.read_bytes()


def test_stops_lie_on_their_line_in_order(city: City):
    for p in city.patterns:
        assert (np.diff(p.stop_s_m) > 50).all()
        assert p.stop_s_m[0] == 0
        assert p.stop_s_m[-1] == pytest.approx(p.shape_s_m[-1])
        lat, lon, _ = p.locate(p.stop_s_m)
        for ix, at_lat, at_lon in zip(p.stop_ix, lat, lon, strict=True):
            stop = city.stops[ix]
            assert leg_lengths_m(np.array([stop.lat, at_lat]), np.array([stop.lon, at_lon]))[0] < 7, stop


def test_metres_along_the_line_are_metres_on_earth(city: City):
    for p in city.patterns:
        assert np.diff(p.shape_s_m) == pytest.approx(leg_lengths_m(p.shape_lat, p.shape_lon), rel=1e-3)


def test_pieces_make_up_the_line_and_end_at_every_stop(city: City):
    for p in city.patterns:
        ends_m = np.cumsum(p.piece_length_m)
        assert (p.piece_length_m > 1).all()
        assert ends_m[-1] == pytest.approx(p.shape_s_m[-1])
        at_stop = p.piece_stop >= 0
        assert p.piece_stop[at_stop].tolist() == list(range(1, len(p.stop_ix)))
        assert ends_m[at_stop] == pytest.approx(p.stop_s_m[1:])


def test_bearing_points_along_the_line(city: City):
    p = pattern(city, "10A-0")
    lat, lon, bearing = p.locate(p.shape_s_m[:-1] + 1.0)
    ahead_lat, ahead_lon, _ = p.locate(p.shape_s_m[:-1] + 11.0)
    north, east = ahead_lat - lat, (ahead_lon - lon) * np.cos(np.radians(lat))
    assert np.cos(np.radians(bearing)) == pytest.approx(north / np.hypot(north, east), abs=1e-3)
    assert np.sin(np.radians(bearing)) == pytest.approx(east / np.hypot(north, east), abs=1e-3)


def test_there_is_a_branch_a_loop_and_an_out_and_back(city: City):
    trunk, branch = pattern(city, "10A-0"), pattern(city, "10B-0")
    shared = set(trunk.stop_ix) & set(branch.stop_ix)
    assert len(shared) >= 8
    assert trunk.stop_ix[-1] != branch.stop_ix[-1]
    assert trunk.direction_id == branch.direction_id == 0

    ring = pattern(city, "30-0")
    assert ring.stop_ix[0] == ring.stop_ix[-1]
    assert len(set(ring.stop_ix)) == len(ring.stop_ix) - 1

    there_and_back = pattern(city, "40-0").stop_ix
    assert there_and_back.tolist() == there_and_back[::-1].tolist()
    assert len(set(there_and_back)) == (len(there_and_back) + 1) // 2


def test_sequences_start_and_step_as_real_ones_do(city: City):
    assert pattern(city, "10A-0").stop_sequence[:3].tolist() == [10, 20, 30]
    assert pattern(city, "20-0").stop_sequence[:3].tolist() == [0, 1, 2]


def test_routes_cross_and_share_stops(city: City):
    by_route: dict[str, set[int]] = {}
    for p in city.patterns:
        by_route.setdefault(p.route_id, set()).update(p.stop_ix.tolist())
    routes = list(by_route)
    shared = {(a, b) for a in routes for b in routes if a < b and by_route[a] & by_route[b]}
    assert shared


@pytest.mark.parametrize("service", [WEEKDAY, WEEKEND])
def test_a_vehicle_drives_one_trip_at_a_time_and_starts_where_it_stopped(city: City, service: str):
    timetable = build_timetable(city, service)
    last: dict[int, tuple[float, int]] = {}
    for trip in timetable.trips:
        p = city.patterns[trip.pattern_ix]
        assert (np.diff(trip.stop_times_s) > 0).all()
        if trip.vehicle in last:
            free_s, terminal = last[trip.vehicle]
            assert trip.departure_s > free_s
            assert p.stop_ix[0] == terminal
        last[trip.vehicle] = float(trip.stop_times_s[-1]), int(p.stop_ix[-1])
    assert len(last) == timetable.n_vehicles
    assert len({trip.trip_id for trip in timetable.trips}) == len(timetable.trips)


def test_the_rush_hour_is_slower_and_busier(city: City):
    trips = [t for t in build_timetable(city).trips if city.patterns[t.pattern_ix].pattern_id == "10A-0"]
    minutes = {t.departure_s // 3600: (t.stop_times_s[-1] - t.departure_s) / 60 for t in trips}
    assert minutes[17] > 1.3 * minutes[22]
    departures = [t.departure_s // 3600 for t in trips]
    assert departures.count(8) > departures.count(21)


def test_the_feed_refers_to_nothing_that_is_missing(city: City, tmp_path: Path):
    folder = write_gtfs(city, tmp_path / "feed", MONDAY)
    tables = {path.stem: list(csv.DictReader(path.open(encoding="utf-8"))) for path in folder.iterdir()}
    assert set(tables) == {
        "agency", "calendar", "feed_info", "routes", "shapes", "stop_times", "stops", "trips"
    }  # fmt: skip
    ids = {name: {row[f"{name[:-1]}_id"] for row in tables[name]} for name in ("routes", "stops", "shapes", "trips")}
    for trip in tables["trips"]:
        assert trip["route_id"] in ids["routes"]
        assert trip["shape_id"] in ids["shapes"]
        assert trip["service_id"] in {row["service_id"] for row in tables["calendar"]}
    assert {row["trip_id"] for row in tables["stop_times"]} == ids["trips"]
    assert {row["stop_id"] for row in tables["stop_times"]} == ids["stops"]
    assert max(row["arrival_time"] for row in tables["stop_times"]) > "24:30:00"


def test_a_folder_and_a_zip_hold_the_same(city: City, tmp_path: Path):
    folder, archive = (write_gtfs(city, tmp_path / name, MONDAY) for name in ("feed", "feed.zip"))
    with zipfile.ZipFile(archive) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }


def test_our_own_reader_reads_the_feed(city: City, tmp_path: Path):
    pytest.importorskip("polars")
    from etacore.mlops.transit.gtfs import read_feed

    feed = read_feed(write_gtfs(city, tmp_path / "feed.zip", MONDAY))
    assert len(feed.patterns) == len(city.patterns)
    n_trips = sum(len(build_timetable(city, service).trips) for service in (WEEKDAY, WEEKEND))
    assert len(feed.trips) == n_trips


def test_the_loop_is_told_every_trip_and_the_stops_of_its_pattern(city: City):
    timetable = build_timetable(city)
    pairs = dict(redis_pairs(city, timetable))
    for trip in timetable.trips[::50]:
        name = city.patterns[trip.pattern_ix].pattern_id
        assert pairs[f"trip_pattern:{trip.trip_id}"] == name.encode()
        stops = orjson.loads(pairs[f"pattern_stops:{name}"])["stops"]
        expected = [city.stops[ix].stop_id for ix in city.patterns[trip.pattern_ix].stop_ix]
        assert [stop["stop_id"] for stop in stops] == expected
        assert f"pattern_shape:{name}" in pairs
    for route in city.routes:
        assert f"route_stops:{route.route_id}" in pairs
        assert f"direction_stops:0:{route.route_id}" in pairs
