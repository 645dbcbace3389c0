"""Frequency-based trips are runs with their own start: their day, their schedule, and labels of the fix's own run."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from etacore.mlops.dataset.build import build_dataset
from etacore.mlops.replay.scoring import Recording, score_recording, truth_of_arrivals
from etacore.mlops.transit.arrivals import arrivals_frame, observe_arrivals
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.positions import Positions, read_positions
from etacore.mlops.transit.service import service_days, trip_index
from etacore.mlops.transit.tracks import match_tracks
from tests.recorded_runs import CONFIG, LEG_S, TUESDAY, Row, frequent, out, record, runs, starting
from tests.transit import DAY_S, FILES, drive, real_data, write_feed


def test_runs_of_a_frequency_based_trip_have_their_local_date_and_no_schedule(tmp_path: Path) -> None:
    feed = frequent(tmp_path, "out,05:00:00,23:00:00,3600,0")
    rows = [row for hour in (5, 12, 20) for row in out(DAY_S + hour * 3600, vehicle_id=f"at{hour}")]
    rows += [row for hour in (6, 8, 10) for row in out(DAY_S + hour * 3600 + 1800, vehicle_id="thrice")]
    built = build_dataset(record(tmp_path, rows), feed, CONFIG)
    per_run = built.frame.group_by("vehicle_id", "run_number").agg(
        pl.col("service_date").unique(), pl.col("time_to_arrival_seconds").max(), pl.col("scheduled_arrival").count()
    )
    assert per_run.sort("vehicle_id", "run_number").select("vehicle_id", "run_number").rows() == [
        ("at12", 1), ("at20", 1), ("at5", 1), ("thrice", 1), ("thrice", 2), ("thrice", 3),
    ]  # fmt: skip
    assert per_run["service_date"].to_list() == [[TUESDAY]] * 6
    assert (per_run["time_to_arrival_seconds"] < 3 * LEG_S + 10).all()
    assert per_run["scheduled_arrival"].to_list() == [0] * 6
    assert built.report.oddities["trips_with_several_vehicles"] == 0


def test_the_schedule_of_a_run_with_a_start_counts_from_it(tmp_path: Path) -> None:
    feed = frequent(tmp_path, "out,05:00:00,23:00:00,3600,0")
    positions = starting(record(tmp_path, out(DAY_S + 20 * 3600)), 20240102, 19 * 3600 + 3500)
    frame = build_dataset(positions, feed, CONFIG).frame
    assert frame.filter(pl.col("stop_id") == "C")["scheduled_arrival"].unique().to_list() == [
        datetime(2024, 1, 2, 19, 58, 20, tzinfo=UTC) + timedelta(minutes=6)
    ]


def test_exact_times_give_the_nearest_start(tmp_path: Path) -> None:
    feed = frequent(tmp_path, "out,06:00:00,09:00:00,1200,1", "out,16:00:00,18:00:00,600,1")
    starts_s = [6 * 3600 - 90, 8 * 3600 + 700, 9 * 3600 - 60, 16 * 3600 + 3580, 12 * 3600]
    rows = [row for n, second in enumerate(starts_s) for row in out(DAY_S + second, vehicle_id=f"v{n}")]
    # seen from B on only: its start was a leg before
    rows += [row for row in out(DAY_S + 16 * 3600 + 600, vehicle_id="v5") if row["lon"] >= 0.01]
    tracks = match_tracks(record(tmp_path, rows), feed)
    expected = [6 * 3600, 8 * 3600 + 1200, 8 * 3600 + 2400, 17 * 3600, -1, 16 * 3600 + 600]
    assert tracks.start_s[np.argsort(tracks.vehicle_code)].tolist() == expected
    frame = build_dataset(record(tmp_path, rows), feed, CONFIG).frame
    to_c = frame.filter((pl.col("vehicle_id") == "v1") & (pl.col("stop_id") == "C"))
    assert to_c["scheduled_arrival"].unique().to_list() == [datetime(2024, 1, 2, 8, 26, tzinfo=UTC)]
    assert frame.filter(pl.col("vehicle_id") == "v4")["scheduled_arrival"].null_count() > 0


def test_a_run_around_the_clock_is_of_the_day_of_its_start(tmp_path: Path) -> None:
    feed = frequent(tmp_path, "out,00:00:00,24:00:00,600,0")
    midnight = DAY_S + 86_400 + 86_400  # between the third, on which nothing runs by calendar_dates, and the fourth
    for start_s, day in ((midnight + 60, "2024-01-04"), (midnight + 86_400 - 200, "2024-01-04")):
        assert [run[2] for run in runs(record(tmp_path, out(start_s)), feed)] == [day]
    built = build_dataset(record(tmp_path, out(midnight + 86_400 - 200)), feed, CONFIG)
    assert built.frame["service_date"].unique().to_list() == [date(2024, 1, 4)]
    assert built.report.oddities["rows_past_midnight"] > 0
    day_only = dataclasses.replace(CONFIG, start=date(2024, 1, 4), end=date(2024, 1, 4))
    both = record(tmp_path, out(midnight + 86_400 - 200) + out(midnight + 86_400 + 7200))
    assert build_dataset(both, feed, day_only).frame.equals(built.frame)


def test_spans_past_midnight_and_days_without_service(tmp_path: Path) -> None:
    calendar = (
        "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\n"
        "S,0,1,0,0,0,0,0,20240101,20240114\n"
    )
    feed = frequent(tmp_path, "out,20:00:00,26:00:00,600,0", calendar=calendar)
    trip = np.zeros(1, np.int32)
    for moment, day in (
        (DAY_S + 25 * 3600, "2024-01-02"),  # 01:00 of Wednesday: still Tuesday's
        (DAY_S + 26 * 3600 + 800, "2024-01-02"),  # started before two, three minutes later than it should have
        (DAY_S + 20 * 3600 - 600, "2024-01-02"),
        (DAY_S + 3600, "2024-01-02"),  # Monday has no service: the local date
        (DAY_S + 44 * 3600, "2024-01-03"),  # Wednesday has none: its local date all the same
    ):
        found = service_days(np.array([moment * 1_000_000]), trip, feed)
        assert str(np.datetime64(int(found[0]), "D")) == day, moment


def merged(feed: Feed) -> tuple[Feed, dict[str, str]]:
    """The feed with one frequency-based trip a pattern, and which trip that is for each of the others."""
    pattern_ix = feed.trips.pattern_ix.tolist()
    stands_for = {pattern: feed.trips.trip_id[pattern_ix.index(pattern)] for pattern in set(pattern_ix)}
    trips = sorted(feed.trips.trip_id.index(name) for name in stands_for.values())
    n = len(trips)
    frequencies = dataclasses.replace(
        feed.frequencies,
        trip_ix=np.array(trips, np.int32),
        start_s=np.full(n, 4 * 3600, np.int32),
        end_s=np.full(n, 28 * 3600, np.int32),
        headway_s=np.full(n, 600, np.int32),
        exact=np.zeros(n, bool),
    )
    names = {name: stands_for[ix] for name, ix in zip(feed.trips.trip_id, pattern_ix, strict=True)}
    return dataclasses.replace(feed, frequencies=frequencies), names


def renamed(positions: Positions, names: dict[str, str]) -> Positions:
    values = tuple(sorted(set(names.values())))
    code = np.array([*(values.index(names[v]) if v in names else -1 for v in positions.trip_id.values), -1], np.int32)
    text = dataclasses.replace(positions.trip_id, codes=code[positions.trip_id.codes], values=values)
    return dataclasses.replace(positions, trip_id=text)


def test_a_day_of_frequency_based_trips_has_the_runs_and_labels_of_a_day_with_a_trip_id_each(tmp_path: Path) -> None:
    starts = [("out", 6 * 3600 + 1200 * n, f"bus{n % 2}") for n in range(30)]
    starts += [("back", 6 * 3600 + 600 + 1200 * n, f"bus{n % 2}") for n in range(30)]
    ways = {"out": ("ABCD", [0.0, 0.032]), "back": ("DCBA", [0.030, -0.002])}
    trips: list[str] = []
    times: list[str] = []
    rows: list[Row] = []
    for trip, start_s, vehicle in starts:
        name = f"{trip}{start_s}"
        stops, way = ways[trip]
        trips.append(f"r1,S,{name},{int(trip == 'back')},\n")
        for n, stop in enumerate(stops):
            at_s = start_s + 140 * n
            clock = f"{at_s // 3600:02}:{at_s // 60 % 60:02}:{at_s % 60:02}"
            times.append(f"{name},{clock},{clock},{stop},{n}\n")
        rows += drive(name, way, DAY_S + start_s + 30, vehicle_id=vehicle)
    heads = {name: FILES[name].split("\n")[0] + "\n" for name in ("trips.txt", "stop_times.txt")}
    texts = {"trips.txt": trips, "stop_times.txt": times}
    single = read_feed(write_feed(tmp_path / "single", {name: heads[name] + "".join(texts[name]) for name in texts}))
    one_trip, names = merged(single)
    positions = record(tmp_path, rows)
    nameless = renamed(positions, names)
    assert len(match_tracks(nameless, one_trip)) == len(match_tracks(positions, single)) == 60
    whole, without = (
        build_dataset(p, f, CONFIG).frame.sort("vehicle_id", "vp_ts", "stop_ordinal")
        for p, f in ((positions, single), (nameless, one_trip))
    )
    columns = ["vehicle_id", "vp_ts", "stop_id", "actual_arrival", "interpolated_arrival", "label_rule", "service_date"]
    assert without.select(columns).equals(whole.select(columns))
    assert (without["time_to_arrival_seconds"] < 3 * LEG_S + 10).all()
    assert without["run_number"].max() == 15
    errors = []
    for recorded, feed in ((positions, single), (nameless, one_trip)):
        tracks = match_tracks(recorded, feed)
        truth = truth_of_arrivals(observe_arrivals(recorded, feed, tracks), feed)
        recording = Recording()
        for row in range(0, len(recorded), 7):
            stop = "D" if single.trips.trip_id[trip_index(positions, single)[row]].startswith("out") else "A"
            recording.add(row, [{"stop_id": stop, "stop_sequence": 3, "eta_seconds": 200.0}])
        scores = score_recording(recording, recorded, feed, tracks, truth)
        errors.append((scores.model.n, scores.model.overall.mae_s, scores.unscored))
    assert errors[0] == errors[1]


def test_a_real_day_has_its_runs_when_all_trips_of_a_pattern_are_one() -> None:
    feed = read_feed(real_data("ttc_2016", "gtfs_derived.zip"))
    recording = read_positions(real_data("ttc_2016", "positions.parquet"))
    positions = recording.select(start=datetime(2016, 12, 16, 4), end=datetime(2016, 12, 17, 4), routes=["26", "104"])
    positions = positions.take(np.flatnonzero(trip_index(positions, feed) >= 0))
    one_trip, names = merged(feed)
    nameless = renamed(positions, names)
    whole = arrivals_frame(observe_arrivals(positions, feed), positions, feed)
    without = arrivals_frame(observe_arrivals(nameless, one_trip), nameless, one_trip)
    key = ["vehicle_id", "stop_id", "interp_ts"]
    passed = whole.filter(pl.col("interp_ts").is_not_null())
    found = passed.with_columns(pl.col("interp_ts").round(3)).join(
        without.with_columns(pl.col("interp_ts").round(3)), on=key, how="semi"
    )
    assert len(found) / len(passed) > 0.99
    assert len(without) == pytest.approx(len(whole), rel=0.01)
    assert without["service_date"].unique().sort().to_list() == whole["service_date"].unique().sort().to_list()
