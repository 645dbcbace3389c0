import dataclasses
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from etacore.errors import FeedError
from etacore.mlops.transit.arrivals import (
    MAX_GAP_S,
    NO_ARRIVAL,
    _not_before_earlier_stops,
    arrivals_frame,
    observe_arrivals,
    with_interpolated,
)
from etacore.mlops.transit.geodesy import distance_m
from etacore.mlops.transit.given_arrivals import read_arrivals
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.lines import pattern_line
from etacore.mlops.transit.positions import Positions, read_positions
from etacore.mlops.transit.tracks import match_tracks
from tests.transit import DAY_S, M_PER_DEGREE, SPEED_MPS, drive, real_data, write_feed, write_positions

LEG_S = 0.010 * M_PER_DEGREE / SPEED_MPS  # 139 s from stop to stop
EIGHT = DAY_S + 8 * 3600


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return read_feed(write_feed(tmp_path / "feed"))


def record(tmp_path: Path, rows: list[dict[str, Any]]) -> Positions:
    return read_positions(write_positions(tmp_path / "p.parquet", rows))


def observe(tmp_path: Path, feed: Feed, rows: list[dict[str, Any]]) -> pl.DataFrame:
    positions = record(tmp_path, rows)
    return arrivals_frame(observe_arrivals(positions, feed), positions, feed)


@pytest.mark.parametrize("shaped", [True, False])
def test_times_between_fixes_are_interpolated(tmp_path: Path, feed: Feed, shaped: bool) -> None:
    feed = feed if shaped else dataclasses.replace(feed, shapes={})
    seen = observe(tmp_path, feed, drive("out", [0.0, 0.032], EIGHT))
    assert seen["stop_id"].to_list() == list("ABCD")
    assert seen["stop_sequence"].to_list() == [10, 20, 40, 50]
    assert seen["service_date"].to_list() == [date(2024, 1, 2)] * 4
    assert seen["interp_ts"].to_list()[1:3] == pytest.approx([EIGHT + LEG_S, EIGHT + 2 * LEG_S], abs=0.1)
    assert seen["interp_ts"][0] is None  # it was there before the first fix


def test_rule_takes_the_first_fix_within_50_m_else_the_closest_within_200_m(tmp_path: Path, feed: Feed) -> None:
    often = observe(tmp_path, feed, drive("out", [0.0, 0.032], EIGHT, every_s=2))
    assert often["method"].unique().to_list() == ["first_50m"]
    first = often.filter(pl.col("stop_id") == "B")["arrival_ts"][0]
    assert 0 <= first - (EIGHT + LEG_S - 50 / SPEED_MPS) < 2
    # a fix every 320 m, the nearest ones 152 m before B and 168 m behind it
    rarely = observe(tmp_path, feed, drive("out", [0.0, 0.032], EIGHT, every_s=40))
    near = rarely.filter(pl.col("stop_id") == "B")
    assert near["method"][0] == "closest_200m"
    assert near["arrival_ts"][0] == EIGHT + 120
    assert near["interp_ts"][0] == pytest.approx(EIGHT + LEG_S, abs=0.1)


def test_far_fixes_give_a_passage_but_no_arrival_by_rule(tmp_path: Path, feed: Feed) -> None:
    rows = drive("out", [0.0, 0.032], EIGHT, every_s=60)
    near_b = [abs(row["lon"] - 0.010) * M_PER_DEGREE < 250 for row in rows]
    seen = observe(tmp_path, feed, [row for row, near in zip(rows, near_b, strict=True) if not near])
    stop_b = seen.filter(pl.col("stop_id") == "B")
    assert (stop_b["arrival_ts"][0], stop_b["method"][0]) == (None, "none")
    assert stop_b["interp_ts"][0] == pytest.approx(EIGHT + LEG_S, abs=0.1)


@pytest.mark.parametrize(("short_m", "silence_s"), [(24, 0), (24, MAX_GAP_S + 10), (26, 0)])
def test_a_vehicle_that_stands_before_its_last_stop_has_arrived(
    tmp_path: Path, feed: Feed, short_m: float, silence_s: float
) -> None:
    """It creeps on and passes the stop after 20 minutes."""
    stands = 0.030 - short_m / M_PER_DEGREE
    rows = drive("out", [0.0, stands], EIGHT)
    there = dict(rows.pop(), timestamp=rows[-1]["timestamp"] + 10 + int(silence_s))
    waits = [there | {"timestamp": there["timestamp"] + 30 * n} for n in range(40)]
    leaves = there["timestamp"] + 1200
    seen = observe(tmp_path, feed, [*rows, *waits, there | {"timestamp": leaves, "lon": 0.0301}])
    interp_s = seen.filter(pl.col("stop_id") == "D")["interp_ts"][0]
    if short_m < 25 and not silence_s:
        assert interp_s == there["timestamp"]
    else:
        assert leaves - 30 < interp_s < leaves


def test_no_interpolation_across_a_long_silence(tmp_path: Path, feed: Feed) -> None:
    rows = drive("out", [0.0, 0.032], EIGHT)
    late = [row | {"timestamp": row["timestamp"] + int(MAX_GAP_S)} for row in rows if row["lon"] > 0.015]
    seen = observe(tmp_path, feed, [row for row in rows if row["lon"] < 0.006] + late)
    assert seen["stop_id"].to_list() == ["A", "C", "D"]  # B was passed in silence


@pytest.mark.parametrize(("longer_s", "seen_at_b"), [(0, True), (1, False)])
def test_the_longest_silence_that_is_interpolated(tmp_path: Path, feed: Feed, longer_s: int, seen_at_b: bool) -> None:
    rows = drive("out", [0.0, 0.032], EIGHT)
    before, after = rows[10], rows[18]  # 800 m and 1440 m along, B lies at 1112 m
    late_s = int(MAX_GAP_S) + longer_s - (after["timestamp"] - before["timestamp"])
    late = [row | {"timestamp": row["timestamp"] + late_s} for row in rows[18:]]
    seen = observe(tmp_path, feed, rows[:11] + late)
    assert ("B" in seen["stop_id"].to_list()) == seen_at_b
    if seen_at_b:
        part = (0.010 * M_PER_DEGREE - 800) / 640
        assert seen["interp_ts"][1] == pytest.approx(before["timestamp"] + part * MAX_GAP_S, abs=0.1)


def test_a_fix_at_the_limit_of_the_rule_is_within_it(tmp_path: Path, feed: Feed) -> None:
    positions = record(tmp_path, drive("out", [0.0, 0.032], EIGHT, every_s=40))
    b_lat, b_lon = np.zeros(1), np.array([0.010])
    near_m = float(distance_m(positions.lat[3:4], positions.lon[3:4], b_lat, b_lon)[0])  # 152 m before B, the nearest
    assert 150 < near_m < 155
    below_m = float(np.nextafter(near_m, 0.0))
    for first_m, closest_m, method in (
        (near_m, 200.0, "first_50m"),
        (below_m, 200.0, "closest_200m"),
        (50.0, near_m, "closest_200m"),
        (50.0, below_m, "none"),
    ):
        arrivals = observe_arrivals(positions, feed, first_within_m=first_m, closest_within_m=closest_m)
        seen = arrivals_frame(arrivals, positions, feed)
        assert seen.filter(pl.col("stop_id") == "B")["method"].to_list() == [method]


def test_no_stop_is_reached_before_those_in_front_of_it() -> None:
    unknown = NO_ARRIVAL
    times_us = np.array([10, unknown, 5, 12, 11, unknown, 3, 2, 4], np.int64)
    track_ix = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1], np.int64)
    first_us, last_us = np.array([4, 1]), np.array([13, 5])
    found = _not_before_earlier_stops(times_us, track_ix, first_us, last_us)
    assert found.tolist() == [10, unknown, 10, 12, 12, unknown, 3, 3, 4]
    assert times_us[2] == 5  # what was given stays
    none = np.full(3, unknown)
    assert _not_before_earlier_stops(none, track_ix[:3], first_us, last_us).tolist() == none.tolist()


def test_an_interpolated_time_lies_between_the_times_by_rule_around_it() -> None:
    none = NO_ARRIVAL
    rule_us = np.array([none, 10, none, none, 20, none, none, none], np.int64)
    interp_us = np.array([15, 12, 5, 25, 22, 30, 2, none], np.int64)
    offset = np.array([0, 6, 8], np.int64)
    assert with_interpolated(rule_us, interp_us, offset).tolist() == [10, 10, 10, 20, 20, 30, 2, none]


def test_a_vehicle_that_parks_for_days_with_its_trip_id_on_pushes_no_other_run(tmp_path: Path, feed: Feed) -> None:
    rows = drive("out", [0.0, 0.030], EIGHT)
    parked = [rows[-1] | {"timestamp": rows[-1]["timestamp"] + 1800 * n} for n in range(1, 5 * 48)]
    other = drive("out", [0.0, 0.032], EIGHT, vehicle_id="other")
    seen = observe(tmp_path, feed, rows + parked + other)
    assert seen.filter(pl.col("vehicle_id") == "other").equals(observe(tmp_path, feed, other))


def test_a_trip_that_ran_days_before_the_one_of_the_number_before_keeps_its_times(tmp_path: Path, feed: Feed) -> None:
    days_before = DAY_S - 7 * 86_400 + 9 * 3600
    loop = drive("loop", [0.0, 0.020, 0.0], days_before, route_id="r2")
    seen = observe(tmp_path, feed, drive("out", [0.0, 0.032], EIGHT) + loop)
    assert seen["trip_id"].unique(maintain_order=True).to_list() == ["out", "loop"]
    alone = observe(tmp_path, feed, loop)
    assert seen.filter(pl.col("trip_id") == "loop").equals(alone)
    assert (alone["arrival_ts"] < days_before + 3600).all()


def test_the_second_visit_of_a_loop_is_not_the_first(tmp_path: Path, feed: Feed) -> None:
    start = DAY_S + 9 * 3600
    seen = observe(tmp_path, feed, drive("loop", [0.0, 0.020, 0.0], start, route_id="r2"))
    assert seen["stop_id"].to_list()[:4] == list("ABCB")
    expected = [start + LEG_S, start + 2 * LEG_S, start + 3 * LEG_S]
    assert seen["interp_ts"].to_list()[1:4] == pytest.approx(expected, abs=10)
    by_rule = seen["arrival_ts"].to_list()
    assert by_rule == sorted(by_rule)
    assert by_rule[3] - by_rule[1] == pytest.approx(2 * LEG_S, abs=20)


def test_the_way_to_the_first_stop_is_not_the_trip(tmp_path: Path, feed: Feed) -> None:
    # the bus already carries the trip id while it drives the street backwards, and waits before it leaves
    approach = drive("out", [0.030, 0.0], EIGHT - 600)
    seen = observe(
        tmp_path, feed, [row for row in approach if row["timestamp"] < EIGHT] + drive("out", [0, 0.032], EIGHT)
    )
    assert seen["stop_id"].to_list() == list("ABCD")
    assert seen["interp_ts"].to_list()[1:3] == pytest.approx([EIGHT + LEG_S, EIGHT + 2 * LEG_S], abs=0.1)


def test_service_day_of_a_trip_past_midnight(tmp_path: Path, feed: Feed) -> None:
    seen = observe(tmp_path, feed, drive("back", [0.030, -0.002], DAY_S + 90_600))  # 01:10 of the next day
    assert seen["service_date"].unique().to_list() == [date(2024, 1, 2)]


def test_the_same_trip_on_two_days_is_two_runs(tmp_path: Path, feed: Feed) -> None:
    rows = drive("out", [0.0, 0.032], EIGHT) + drive("out", [0.0, 0.032], EIGHT + 86_400 + 600)
    seen = observe(tmp_path, feed, rows).filter(pl.col("stop_id") == "C")
    assert seen["service_date"].to_list() == [date(2024, 1, 2), date(2024, 1, 3)]
    assert seen["interp_ts"].to_list() == pytest.approx([EIGHT + 2 * LEG_S, EIGHT + 87_000 + 2 * LEG_S], abs=0.1)


def test_fixes_that_belong_nowhere_are_counted(tmp_path: Path, feed: Feed) -> None:
    good = drive("out", [0.0, 0.030], EIGHT)
    far = {"timestamp": EIGHT + 5, "lat": 1.0}
    rows = [
        *good,
        good[0] | far,
        good[0] | {"trip_id": "unknown"},
        good[0] | {"trip_id": None},
        good[0] | {"lat": None},
    ]
    tracks = match_tracks(record(tmp_path, rows), feed)
    assert (len(tracks), tracks.n_unmatched, len(tracks.row)) == (1, 1, len(good))
    assert (np.diff(tracks.progress_m) >= 0).all()


def test_nothing_to_observe(tmp_path: Path, feed: Feed) -> None:
    positions = record(tmp_path, [row | {"trip_id": "x"} for row in drive("out", [0.0, 0.01], EIGHT)])
    assert len(observe_arrivals(positions, feed)) == 0
    assert arrivals_frame(observe_arrivals(positions, feed), positions, feed).is_empty()


def test_line_of_a_pattern(feed: Feed) -> None:
    loop = pattern_line(feed.patterns[int(feed.trips.pattern_ix[2])], feed.shapes)
    assert loop is not None
    assert loop.stop_s_m.tolist() == pytest.approx([k * 0.010 * M_PER_DEGREE for k in range(5)])
    out = feed.patterns[int(feed.trips.pattern_ix[0])]
    out.lat[1] = np.nan
    assert pattern_line(out, feed.shapes) is None


def test_read_arrivals(tmp_path: Path) -> None:
    row = {"trip_id": "t", "vehicle_id": "v", "stop_id": "A", "stop_sequence": 1}
    given = [
        row | {"arrival_ts": 10, "interp_ts": 12.5, "method": "first50m"},
        row | {"arrival_ts": 10, "interp_ts": None, "method": None},
        row | {"arrival_ts": None, "interp_ts": 7.0, "method": None},
        row | {"arrival_ts": None, "interp_ts": None, "method": None},
    ]
    frame = pl.DataFrame(given)
    frame.write_parquet(tmp_path / "a.parquet")
    assert read_arrivals(tmp_path / "a.parquet").select("rule_us", "interp_us", "rule").rows() == [
        (10_000_000, 12_500_000, "first_50m"),
        (10_000_000, None, "given"),
        (None, 7_000_000, "given"),
    ]
    frame.drop("interp_ts", "method").write_parquet(tmp_path / "bare.parquet")
    assert read_arrivals(tmp_path / "bare.parquet")["interp_us"].to_list() == [None, None]
    frame.drop("stop_id").write_parquet(tmp_path / "b.parquet")
    with pytest.raises(FeedError, match="has no column stop_id"):
        read_arrivals(tmp_path / "b.parquet")
    with pytest.raises(FeedError, match="no readable Parquet"):
        read_arrivals(tmp_path / "none.parquet")


def test_agrees_with_arrivals_that_others_observed() -> None:
    feed = read_feed(real_data("ttc_2016", "gtfs_derived.zip"))
    recording = read_positions(real_data("ttc_2016", "positions.parquet"))
    positions = recording.select(start=datetime(2016, 12, 16, 8), end=datetime(2016, 12, 17, 8), routes=["26", "9"])
    mine = arrivals_frame(observe_arrivals(positions, feed), positions, feed).with_columns(
        mine=pl.coalesce("interp_ts", "arrival_ts"), stop_sequence=pl.col("stop_sequence").cast(pl.Int64)
    )
    theirs = pl.read_parquet(real_data("ttc_2016", "arrivals_observed.parquet")).filter(
        pl.col("trip_id").is_in(mine["trip_id"].unique().to_list())
    )
    both = theirs.join(mine, on=["trip_id", "vehicle_id", "stop_sequence", "stop_id"], suffix="_mine")
    close = (both["mine"] - both["interp_ts"]).abs() <= 20
    assert close.sum() / len(theirs) > 0.975
