"""The simulated buses: a truth that holds together, reports that stay near it, and a stream of snapshots."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pytest

from etacore._kernels.batch import Batch
from etacore.demo.buses import drive_day, midnight_s
from etacore.demo.city import TIME_ZONE, City, build_city
from etacore.demo.producer import HASHES, Producer
from etacore.demo.reports import GPS_SIGMA_M, Recording, make_fleet, record, report
from etacore.demo.timetable import WEEKDAY, build_timetable
from etacore.schema import EARTH_RADIUS_M
from etacore.status import Status
from tests.reference.columns import parse_into

TUESDAY = date(2026, 3, 3)
START = datetime(2026, 3, 3, 7, 30, tzinfo=ZoneInfo(TIME_ZONE))


@pytest.fixture(scope="module")
def city() -> City:
    return build_city(7)


@pytest.fixture(scope="module")
def recording(city: City) -> Recording:
    return record(city, TUESDAY, 2, seed=5)


def test_arrivals_never_go_back_and_belong_to_the_trip(city: City):
    for run in drive_day(city, build_timetable(city), TUESDAY, seed=1):
        assert (np.diff(run.arrival_s) > 0).all()
        assert (np.diff(run.time_s) >= 0).all()
        assert (np.diff(run.progress_m) >= 0).all()
        pattern = city.patterns[run.trip.pattern_ix]
        reached_m = np.interp(run.arrival_s[1:-1] - 1e-3, run.time_s, run.progress_m)
        assert reached_m == pytest.approx(pattern.stop_s_m[1:-1], abs=0.1)
        mean_mps = pattern.shape_s_m[-1] / (run.arrival_s[-1] - run.arrival_s[0])
        assert 2 < mean_mps < 12


def test_a_vehicle_is_never_on_two_trips(city: City):
    free_s: dict[int, float] = {}
    for run in drive_day(city, build_timetable(city), TUESDAY, seed=1):
        assert run.arrival_s[0] > free_s.get(run.trip.vehicle, 0.0)
        assert run.arrival_s[0] >= run.trip.departure_s + midnight_s(run.day) - 1e-3
        free_s[run.trip.vehicle] = run.arrival_s[-1]


def test_buses_are_late_by_minutes_not_hours(city: City):
    runs = drive_day(city, build_timetable(city), TUESDAY, seed=1)
    late_s = np.array([run.arrival_s[-1] - midnight_s(run.day) - run.trip.stop_times_s[-1] for run in runs])
    assert abs(np.median(late_s)) < 240
    assert 60 < np.std(late_s) < 480


def test_reports_stay_near_the_line(city: City):
    runs = drive_day(city, build_timetable(city), TUESDAY, seed=1)[:150]
    rng = np.random.default_rng(1)
    reports = report(city, runs, make_fleet(200, rng), rng)
    off_m = []
    for run_ix in np.unique(reports.run_ix):
        run = runs[run_ix]
        rows = reports.run_ix == run_ix
        s_m = np.interp(reports.time_s[rows], run.time_s, run.progress_m)
        lat, lon, _ = city.patterns[run.trip.pattern_ix].locate(s_m)
        north = np.radians(reports.lat[rows] - lat) * EARTH_RADIUS_M
        east = np.radians(reports.lon[rows] - lon) * EARTH_RADIUS_M * np.cos(np.radians(lat))
        off_m.append(np.column_stack([north, east]))
    off = np.concatenate(off_m)
    assert off.std(axis=0) == pytest.approx([GPS_SIGMA_M, GPS_SIGMA_M], rel=0.05)
    assert off.mean(axis=0) == pytest.approx([0, 0], abs=0.5)


def test_reports_are_5_to_10_seconds_apart_each_on_its_own_clock(city: City):
    runs = drive_day(city, build_timetable(city), TUESDAY, seed=1)[:80]
    rng = np.random.default_rng(1)
    reports = report(city, runs, make_fleet(200, rng), rng)
    assert (np.diff(reports.time_s) >= 0).all()
    intervals = [np.median(np.diff(reports.time_s[reports.vehicle == v])) for v in np.unique(reports.vehicle)]
    assert 5 <= min(intervals) < 6
    assert 9 < max(intervals) <= 10


def test_no_runs_no_reports(city: City):
    rng = np.random.default_rng(1)
    assert len(report(city, [], make_fleet(3, rng), rng)) == 0


def test_a_recording_has_the_columns_of_recorded_positions(recording: Recording):
    assert list(recording.positions) == [
        "vehicle_id", "timestamp", "lat", "lon", "speed_mps", "bearing",
        "route_id", "trip_id", "current_stop_sequence", "stop_id", "current_status",
    ]  # fmt: skip
    assert len({len(values) for values in recording.positions.values()}) == 1
    assert (np.diff(recording.positions["timestamp"]) >= 0).all()
    told = ~np.ma.getmaskarray(recording.positions["current_stop_sequence"])
    assert 0.05 < told.mean() < 0.4
    assert 0.0 < np.ma.getmaskarray(recording.positions["trip_id"]).mean() < 0.2


def test_a_vehicle_says_the_stop_that_it_reaches_next(recording: Recording):
    positions, arrivals = recording.positions, recording.arrivals
    truth = {
        (day, vehicle, trip, sequence): at
        for day, vehicle, trip, sequence, at in zip(
            *(
                arrivals[name].tolist()
                for name in ("service_date", "vehicle_id", "trip_id", "stop_sequence", "arrival_s")
            ),
            strict=True,
        )
    }
    told = ~np.ma.getmaskarray(positions["current_stop_sequence"]) & ~np.ma.getmaskarray(positions["trip_id"])
    moving = told & (np.ma.filled(positions["current_status"], "") == "IN_TRANSIT_TO")
    rows = np.flatnonzero(moving)[::101]
    assert len(rows) > 100
    for row in rows:
        name = positions["vehicle_id"][row], positions["trip_id"][row], positions["current_stop_sequence"][row]
        at = [truth[day, *name] for day in ("20260303", "20260304") if (day, *name) in truth]
        assert any(-2 <= arrival_s - positions["timestamp"][row] < 900 for arrival_s in at)


def test_a_recording_is_the_same_for_the_same_seed_only(city: City, recording: Recording):
    again, other = (record(city, TUESDAY, 2, seed=seed) for seed in (5, 6))
    for name, values in recording.positions.items():
        assert np.ma.allequal(values, again.positions[name]), name
    assert (recording.arrivals["arrival_s"] == again.arrivals["arrival_s"]).all()
    assert not np.array_equal(recording.arrivals["arrival_s"], other.arrivals["arrival_s"])


def test_days_differ_and_weekends_have_their_own_timetable(city: City):
    weekdays = build_timetable(city, WEEKDAY)
    first, second = (drive_day(city, weekdays, date(2026, 3, day), seed=1) for day in (3, 4))
    drives = [run.arrival_s[-1] - run.arrival_s[0] for run in first], [r.arrival_s[-1] - r.arrival_s[0] for r in second]
    assert np.abs(np.subtract(*drives)).mean() > 10
    saturday = record(city, date(2026, 3, 7), 1)
    assert all("-WE-" in trip for trip in saturday.arrivals["trip_id"])


def test_snapshots_come_once_in_order_and_up_to_now(city: City):
    producer, at_once = Producer(city, START, seed=7), Producer(city, START, seed=7)
    until_us = producer.start_us + 120_000_000
    step_by_step = [
        snapshot
        for now_us in range(producer.start_us, until_us + 1, 10_000_000)
        for snapshot in producer.snapshots(now_us)
        if snapshot[0].startswith("vehicle:bus-")
    ]
    together = [snapshot for snapshot in at_once.snapshots(until_us) if snapshot[0].startswith("vehicle:bus-")]
    assert step_by_step == together
    assert len({key for key, _ in together}) > 40
    assert producer.snapshots(until_us) == []


def test_snapshots_are_named_and_timed_in_different_ways(city: City):
    producer = Producer(city, START, seed=7)
    documents = [
        orjson.loads(payload)
        for key, payload in producer.snapshots(producer.start_us + 60_000_000)
        if key.startswith("vehicle:bus-")
    ]
    assert {"vehicle_id", "vehicleId"} <= {name for document in documents for name in document}
    assert {type(document["timestamp"]) for document in documents} == {str, float, int}
    assert any("current_stop_sequence" in document for document in documents)
    assert any(document.get("trip_id", document.get("tripId")) is None for document in documents)


def test_some_arrive_late_and_out_of_order(city: City):
    producer = Producer(city, START, seed=7)
    newest: dict[str, float] = defaultdict(float)
    now_us, n_late = producer.start_us, 0
    for _ in range(60):
        now_us += 10_000_000
        for key, payload in producer.snapshots(now_us):
            if key.startswith("vehicle:bus-"):
                told = orjson.loads(payload)["timestamp"]
                sent_s = datetime.fromisoformat(told).timestamp() if isinstance(told, str) else told
                n_late += sent_s < newest[key]
                newest[key] = max(newest[key], sent_s)
    assert 0 < n_late < 100


def test_garbage_is_rejected_for_every_reason_it_was_made_for(city: City):
    producer = Producer(city, START, seed=7)
    sent = [payload for key, payload in producer.snapshots(producer.start_us) if not key.startswith("vehicle:bus-")]
    columns = Batch(len(sent))
    parse_into(columns, sent, now_us=producer.start_us, max_future_us=60_000_000, max_age_us=600_000_000)
    reasons = {Status(int(code)).label for code in columns.status}
    assert reasons >= {
        "invalid_json", "not_an_object", "missing_position", "invalid_position", "position_out_of_range",
        "missing_timestamp", "invalid_timestamp", "future_timestamp", "too_old", "missing_route",
    }  # fmt: skip
    assert all(key.startswith("vehicle:") for key in HASHES)
