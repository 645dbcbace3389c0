"""A run is (trip, vehicle, start): where one ends and the next begins, of which day it is, and what labels it has."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest

from etacore.mlops.dataset.build import build_dataset
from etacore.mlops.replay.payloads import snapshot_json
from etacore.mlops.replay.scoring import Recording, score_recording, truth_of_arrivals, truth_of_frame
from etacore.mlops.transit.arrivals import arrivals_frame, observe_arrivals
from etacore.mlops.transit.given_arrivals import read_arrivals
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.service import trip_index
from etacore.mlops.transit.tracks import PAUSE_S, SILENCE_S, match_tracks
from etacore.schema import NO_START_TIME
from tests.recorded_runs import CONFIG, EIGHT, LEG_S, TUESDAY, Row, frequent, later, out, record, runs, starting
from tests.transit import DAY_S, M_PER_DEGREE, SPEED_MPS, drive, write_feed


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return read_feed(write_feed(tmp_path / "feed"))


# -- the same trip id again -----------------------------------------------------------------------------------------


def test_a_trip_driven_again_on_its_day_is_two_runs_with_labels_of_their_own(tmp_path: Path, feed: Feed) -> None:
    positions = record(tmp_path, out(EIGHT) + out(EIGHT + 900))
    assert runs(positions, feed) == [
        ("out", "bus", "2024-01-02", 1, 0),
        ("out", "bus", "2024-01-02", 2, 900),
    ]
    built = build_dataset(positions, feed, CONFIG)
    frame = built.frame
    assert built.report.oddities["repeated_runs"] == 1
    assert (frame["time_to_arrival_seconds"] < 3 * LEG_S + 10).all()
    assert frame["service_date"].unique().to_list() == [TUESDAY]
    first = frame.filter(pl.col("run_number") == 1)
    assert (first["vp_ts"] < datetime.fromtimestamp(EIGHT + 900, UTC)).all()
    arrivals = frame.filter(pl.col("stop_id") == "C").select("run_number", "actual_arrival").unique().sort("run_number")
    seconds = [(number, moment.timestamp() - EIGHT) for number, moment in arrivals.iter_rows()]
    assert seconds == [(1, 280), (2, 900 + 280)]  # the first fixes within 50 m
    # both runs have the schedule of the trip
    assert frame.filter(pl.col("stop_id") == "D")["scheduled_arrival"].unique().to_list() == [
        datetime(2024, 1, 2, 8, 9, tzinfo=UTC)
    ]


def test_predictions_of_the_second_run_are_held_against_its_own_arrivals(tmp_path: Path, feed: Feed) -> None:
    positions = record(tmp_path, out(EIGHT) + out(EIGHT + 900))
    tracks = match_tracks(positions, feed)
    truth = truth_of_arrivals(observe_arrivals(positions, feed, tracks), feed)
    recording = Recording()
    for start_s in (EIGHT, EIGHT + 900):
        row = int(np.flatnonzero(positions.time_us == start_s * 1_000_000)[0])
        recording.add(row, [{"stop_id": "C", "stop_sequence": 40, "eta_seconds": 2 * LEG_S}])
    scores = score_recording(recording, positions, feed, tracks, truth)
    assert scores.model.n == 2
    assert scores.model.overall.mae_s < 0.1


def test_arrivals_of_others_belong_to_the_run_in_whose_time_they_lie(tmp_path: Path, feed: Feed) -> None:
    positions = record(tmp_path, out(EIGHT) + out(EIGHT + 900))
    base = {"trip_id": "out", "vehicle_id": "bus", "stop_id": "C", "stop_sequence": 40}
    # the second row of each run is farther from it
    times_s = (270, 870, 1170, 2000)
    pl.DataFrame([base | {"arrival_ts": EIGHT + second} for second in times_s]).write_parquet(tmp_path / "a.parquet")
    frame = build_dataset(positions, feed, CONFIG, arrivals=tmp_path / "a.parquet").frame
    found = frame.select("run_number", "actual_arrival").unique().sort("run_number")
    assert [(n, at.timestamp() - EIGHT) for n, at in found.iter_rows()] == [(1, 270), (2, 1170)]
    tracks = match_tracks(positions, feed)
    truth = truth_of_frame(read_arrivals(tmp_path / "a.parquet"), positions, feed, tracks)
    assert (truth.label_us // 1_000_000 - EIGHT).tolist() == [270, 1170]


def test_given_arrivals_without_a_rule_may_be_interpolated(tmp_path: Path, feed: Feed) -> None:
    base = {"trip_id": "out", "vehicle_id": "bus", "arrival_ts": None, "method": None}
    given = [
        base | {"stop_id": "B", "stop_sequence": 20, "interp_ts": EIGHT + 139.5},
        base | {"stop_id": "C", "stop_sequence": 40, "interp_ts": EIGHT + 278.5, "arrival_ts": EIGHT + 270},
    ]
    pl.DataFrame(given).write_parquet(tmp_path / "a.parquet")
    frame = build_dataset(record(tmp_path, out(EIGHT)), feed, CONFIG, arrivals=tmp_path / "a.parquet").frame
    found = frame.select("stop_id", "label_rule", "actual_arrival").unique().sort("stop_id")
    assert [(stop, rule, at.timestamp() - EIGHT) for stop, rule, at in found.iter_rows()] == [
        ("B", "interpolated", 139.5),
        ("C", "given", 270.0),
    ]


# -- where a run ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aside_m", [-600.0, 900.0])
def test_a_single_stray_fix_cuts_nothing(tmp_path: Path, feed: Feed, aside_m: float) -> None:
    rows = out(EIGHT)
    stray = rows[14] | {"lon": rows[14]["lon"] + aside_m / M_PER_DEGREE}
    positions = record(tmp_path, [*rows[:14], stray, *rows[15:]])
    tracks = match_tracks(positions, feed)
    assert (len(tracks), tracks.n_unmatched) == (1, 2)  # with the last one, which is past the end
    assert tracks.run_of_fix.tolist() == [0] * len(rows)  # it is of the run, and tells nothing of the way
    whole = observe_arrivals(record(tmp_path, rows[:14] + rows[15:]), feed)
    assert observe_arrivals(positions, feed, tracks).interp_us.tolist() == whole.interp_us.tolist()


def test_fixes_that_fall_back_for_good_begin_another_run(tmp_path: Path, feed: Feed) -> None:
    half = drive("out", [0.0, 0.015], EIGHT)  # turned back behind B, and began again
    positions = record(tmp_path, half + out(EIGHT + 300))
    assert [run[3:] for run in runs(positions, feed)] == [(1, 0), (2, 300)]
    seen = arrivals_frame(observe_arrivals(positions, feed), positions, feed)
    assert seen.filter(pl.col("stop_id") == "B")["run_number"].to_list() == [1, 2]
    assert seen.filter(pl.col("stop_id") == "D")["run_number"].to_list() == [2]


def test_laps_of_a_few_far_fixes_are_runs(tmp_path: Path, feed: Feed) -> None:
    laps = [row for lap in range(3) for row in drive("out", [0.0, 0.030], EIGHT + lap * 800, every_s=200)[:3]]
    assert [run[3:] for run in runs(record(tmp_path, laps), feed)] == [(1, 0), (2, 800), (3, 1600)]


def test_the_way_back_with_the_trip_id_on_is_no_run_and_has_no_labels_of_the_next(tmp_path: Path, feed: Feed) -> None:
    back = drive("out", [0.032, 0.0], EIGHT + 460)
    positions = record(tmp_path, out(EIGHT) + back + out(EIGHT + 1200))
    assert [run[3] for run in runs(positions, feed)] == [1, 2]
    frame = build_dataset(positions, feed, CONFIG).frame
    # at A it waited 300 s for the second run
    assert (frame["time_to_arrival_seconds"] < 300 + 3 * LEG_S + 10).all()
    seen = arrivals_frame(observe_arrivals(positions, feed), positions, feed)
    assert len(seen) == 8


def test_the_end_of_a_run_that_was_seen_too_late_has_no_labels_of_the_next(tmp_path: Path, feed: Feed) -> None:
    end = [row for row in out(EIGHT) if row["lon"] > 0.0275]  # the last 200 m before D
    positions = record(tmp_path, end + out(EIGHT + 900))
    tracks = match_tracks(positions, feed)
    assert len(tracks) == 1
    assert (tracks.run_of_fix[positions.time_us < (EIGHT + 900) * 1_000_000] == -1).all()
    built = build_dataset(positions, feed, CONFIG)
    assert built.frame["vp_ts"].min() == datetime.fromtimestamp(EIGHT + 900, UTC)
    assert built.report.rows["run_not_observed"] > 0


@pytest.mark.parametrize(("silence_s", "n_runs"), [(SILENCE_S, 1), (SILENCE_S + 1, 2)])
def test_after_an_hour_of_silence_another_run_begins(tmp_path: Path, feed: Feed, silence_s: float, n_runs: int) -> None:
    rows = out(EIGHT)
    gone = int(silence_s) - 10
    positions = record(tmp_path, rows[:20] + later(rows[20:], gone))
    assert len(runs(positions, feed)) == n_runs
    # what has a name goes on
    assert len(runs(starting(positions, 20240102, 8 * 3600), feed)) == 1


@pytest.mark.parametrize(("pause_s", "n_runs"), [(PAUSE_S, 1), (PAUSE_S + 1, 2)])
def test_after_a_pause_a_short_way_back_is_enough(tmp_path: Path, feed: Feed, pause_s: float, n_runs: int) -> None:
    rows = drive("out", [0.0, 0.012], EIGHT)
    last = rows[-1]
    again = drive("out", [last["lon"] - 0.002, 0.032], last["timestamp"] + int(pause_s))  # 222 m back
    assert len(runs(record(tmp_path, rows + again), feed)) == n_runs


def test_a_jump_along_the_line_is_no_run(tmp_path: Path, feed: Feed) -> None:
    jump = [{**row, "lon": lon} for row, lon in zip(out(EIGHT - 60), (0.0, 0.001, 0.030, 0.0305), strict=False)]
    positions = record(tmp_path, jump + out(EIGHT))
    assert runs(positions, feed) == [("out", "bus", "2024-01-02", 1, 0)]


def test_parking_with_the_trip_id_on_is_no_run(tmp_path: Path, feed: Feed) -> None:
    rows = out(EIGHT)
    parked = [rows[-1] | {"timestamp": rows[-1]["timestamp"] + 4000 * n, "lon": 0.0305 + 0.001 * (n % 2)} for n in
              range(1, 9)]  # fmt: skip
    assert len(runs(record(tmp_path, rows + parked), feed)) == 1


# -- lines that end where they begin --------------------------------------------------------------------------------

CORNERS = ((0.0, 0.0), (0.0, 0.02), (0.02, 0.02), (0.02, 0.0))
CIRCLE = {
    "stops.txt": "stop_id,stop_lat,stop_lon\n"
    + "".join(f"{name},{lat},{lon}\n" for name, (lat, lon) in zip("PQRS", CORNERS, strict=True)),
    "trips.txt": "route_id,service_id,trip_id,direction_id,shape_id\nr1,S,ring,0,\n",
    "stop_times.txt": "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n"
    + "".join(f"ring,08:{5 * n:02}:00,08:{5 * n:02}:00,{stop},{n}\n" for n, stop in enumerate("PQRSP")),
    "shapes.txt": None,
}
SIDE_M = 0.02 * M_PER_DEGREE


def circle(n_laps: int, start_s: int, wait_s: int = 0) -> list[Row]:
    lat, lon = (np.append(np.tile([c[axis] for c in CORNERS], n_laps), CORNERS[0][axis]) for axis in (0, 1))
    at_m = np.arange(len(lat)) * SIDE_M
    lap_s = 4 * SIDE_M / SPEED_MPS
    times_s = np.arange(0, n_laps * (lap_s + wait_s), 10)
    lap, since_s = np.divmod(times_s, lap_s + wait_s)
    along_m = np.minimum(since_s * SPEED_MPS, 4 * SIDE_M) + lap * 4 * SIDE_M
    return [
        {
            "vehicle_id": "bus",
            "timestamp": start_s + int(t),
            "lat": float(np.interp(m, at_m, lat)),
            "lon": float(np.interp(m, at_m, lon)),
            "route_id": "r1",
            "trip_id": "ring",
        }
        for t, m in zip(times_s, along_m, strict=True)
    ]


@pytest.mark.parametrize("wait_s", [0, 120])
def test_a_circular_line_goes_on_with_the_next_lap(tmp_path: Path, wait_s: int) -> None:
    ring = read_feed(write_feed(tmp_path / "ring", CIRCLE))
    positions = record(tmp_path, circle(3, EIGHT, wait_s))
    lap_s = 4 * SIDE_M / SPEED_MPS + wait_s
    seen = arrivals_frame(observe_arrivals(positions, ring), positions, ring)
    for stop_n, stop in ((1, "Q"), (2, "R"), (3, "S")):
        mine = seen.filter(pl.col("stop_id") == stop)
        assert mine["run_number"].to_list() == [1, 2, 3]
        expected = [EIGHT + lap * lap_s + stop_n * SIDE_M / SPEED_MPS for lap in range(3)]
        assert mine["interp_ts"].to_list() == pytest.approx(expected, abs=10)
    # the end of each lap is not the beginning of the next
    last = seen.filter((pl.col("stop_id") == "P") & (pl.col("stop_sequence") == 4))
    assert last["arrival_ts"].to_list() == pytest.approx([EIGHT + (n + 1) * lap_s - wait_s for n in range(3)], abs=20)


def test_there_and_back_again_is_a_run_each(tmp_path: Path, feed: Feed) -> None:
    rows = drive("loop", [0.0, 0.020, 0.0, 0.020, 0.0], EIGHT, route_id="r2")
    positions = record(tmp_path, rows)
    seen = arrivals_frame(observe_arrivals(positions, feed), positions, feed)
    assert seen.filter(pl.col("stop_id") == "C")["run_number"].to_list() == [1, 2]
    assert seen.filter(pl.col("stop_id") == "C")["interp_ts"].to_list() == pytest.approx(
        [EIGHT + 2 * LEG_S, EIGHT + 6 * LEG_S], abs=10
    )
    second = seen.filter((pl.col("run_number") == 2) & (pl.col("stop_sequence").is_in([2, 4])))
    assert second["interp_ts"].to_list() == pytest.approx([EIGHT + 5 * LEG_S, EIGHT + 7 * LEG_S], abs=10)


# -- starts that are given ------------------------------------------------------------------------------------------


def test_a_start_names_the_run(tmp_path: Path, feed: Feed) -> None:
    positions = record(tmp_path, out(EIGHT) + out(EIGHT + 900))
    start_s = np.where(positions.time_us < (EIGHT + 900) * 1_000_000, 8 * 3600, 8 * 3600 + 900).astype(np.int32)
    named = dataclasses.replace(starting(positions, 20240102), start_time_s=start_s)
    tracks = match_tracks(named, feed)
    assert tracks.start_s.tolist() == [8 * 3600, 8 * 3600 + 900]
    assert tracks.number.tolist() == [1, 2]
    frame = build_dataset(named, feed, CONFIG).frame
    arrivals = frame.filter(pl.col("stop_id") == "C").select("run_number", "actual_arrival").unique().sort("run_number")
    assert [(number, at.timestamp() - EIGHT) for number, at in arrivals.iter_rows()] == [(1, 280), (2, 900 + 280)]
    # one name, one run: the part that advances most
    turned = record(tmp_path, drive("out", [0.0, 0.015], EIGHT) + out(EIGHT + 300))
    one = match_tracks(starting(turned, 20240102, 8 * 3600), feed)
    assert len(one) == 1
    assert one.progress_m[-1] > 0.030 * M_PER_DEGREE


def test_recorded_starts_name_the_runs(tmp_path: Path, feed: Feed) -> None:
    rows = [
        row | {"start_date": "20240102", "start_time": start, "direction_id": 0, "trip_id": None}
        for start, start_s in (("08:00:00", EIGHT - 100), ("08:00:30", EIGHT + 900))
        for row in out(start_s)
    ]
    assert runs(record(tmp_path, rows), feed) == [("out", "bus", "2024-01-02", 1, -100)]  # no run starts at 8:00:30


def test_the_service_date_is_the_start_date_as_far_as_the_clock_bears_it_out(tmp_path: Path, feed: Feed) -> None:
    late = record(tmp_path, out(DAY_S + 26 * 3600))  # 02:00 of the third, by a bus that should have come at 08:00
    for start_date, day in ((20240102, 2), (20240103, 3), (0, 3), (20230102, 3), (99999999, 3)):
        tracks = match_tracks(starting(late, start_date), feed)
        assert [str(np.datetime64(d, "D")) for d in tracks.service_day.tolist()] == [f"2024-01-0{day}"], start_date
    frame = build_dataset(starting(late, 20240102), feed, CONFIG).frame
    assert frame["service_date"].unique().to_list() == [TUESDAY]
    assert frame["scheduled_arrival"].max() == datetime(2024, 1, 2, 8, 9, tzinfo=UTC)


def test_a_start_time_without_a_date_is_of_the_day_on_which_it_is_nearest(tmp_path: Path, feed: Feed) -> None:
    positions = record(tmp_path, out(DAY_S + 26 * 3600))
    for start_s, day in ((26 * 3600, 2), (2 * 3600, 3)):
        tracks = match_tracks(starting(positions, 0, start_s), feed)
        assert [str(np.datetime64(d, "D")) for d in tracks.service_day.tolist()] == [f"2024-01-0{day}"]


@pytest.mark.parametrize(("start_date", "start_time_s"), [(20240103, NO_START_TIME), (20240103, 0), (0, 0)])
def test_a_run_of_24_o_clock_named_by_the_next_morning_has_its_own_schedule(
    tmp_path: Path, start_date: int, start_time_s: int
) -> None:
    folder = write_feed(tmp_path / "night")
    times = folder / "stop_times.txt"
    times.write_text(times.read_text().replace("08:", "24:"))
    feed = read_feed(folder)
    fixes = record(tmp_path, out(DAY_S + 24 * 3600))
    frame = build_dataset(starting(fixes, start_date, start_time_s), feed, CONFIG).frame
    assert frame["service_date"].unique().to_list() == [TUESDAY]
    assert frame["scheduled_arrival"].max() == datetime(2024, 1, 3, 0, 9, tzinfo=UTC)


def test_a_trip_is_found_by_route_direction_and_start(tmp_path: Path) -> None:
    feed = frequent(tmp_path, "back,20:00:00,22:00:00,600,0")
    rows = [row | {"trip_id": None} for row in out(EIGHT)]
    positions = starting(record(tmp_path, rows), 20240102, 8 * 3600)
    towards = dataclasses.replace(positions, direction_id=np.zeros(len(positions), np.int8))
    assert set(trip_index(towards, feed).tolist()) == {feed.trips.trip_id.index("out")}
    assert runs(towards, feed) == [("out", "bus", "2024-01-02", 1, 0)]
    frame = build_dataset(towards, feed, CONFIG).frame
    assert frame["trip_id"].unique().to_list() == ["out"]
    assert frame.drop("trip_id").equals(build_dataset(record(tmp_path, out(EIGHT)), feed, CONFIG).frame.drop("trip_id"))
    assert set(trip_index(dataclasses.replace(towards, direction_id=towards.direction_id + 1), feed).tolist()) == {-1}
    assert set(trip_index(starting(towards, 20240103, 8 * 3600), feed).tolist()) == {-1}  # no service
    assert set(trip_index(starting(towards, 20240102, 9 * 3600), feed).tolist()) == {-1}
    home = dataclasses.replace(towards, direction_id=np.ones(len(positions), np.int8))
    evening = starting(home, 20240102, 20 * 3600 + 77)
    assert set(trip_index(evening, feed).tolist()) == {feed.trips.trip_id.index("back")}


def test_a_replayed_snapshot_names_direction_and_start(tmp_path: Path) -> None:
    positions = record(tmp_path, out(EIGHT)[:1])
    bare = orjson.loads(snapshot_json(positions, 0))
    assert not {"direction_id", "start_date", "start_time"} & set(bare)
    towards = dataclasses.replace(positions, direction_id=np.zeros(1, np.int8))
    named = orjson.loads(snapshot_json(starting(towards, 20240102, 25 * 3600 + 61), 0))
    assert named == bare | {"direction_id": 0, "start_date": "20240102", "start_time": "25:01:01"}
