import dataclasses
import datetime as dt
import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from etacore.errors import ConfigError, DatasetError, FeedError
from etacore.mlops.dataset.assemble import REASONS, _scheduled_us, why_dropped
from etacore.mlops.dataset.build import BuiltDataset, build_dataset
from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.dataset.features import FEATURE_COLUMNS, FeatureRows, FeatureTap, compute_features
from etacore.mlops.dataset.labels import MAX_GAP_S, Labels, half_gap_s
from etacore.mlops.dataset.layout import COLUMNS, read_dataset
from etacore.mlops.dataset.plan import make_plan
from etacore.mlops.transit.arrivals import NO_ARRIVAL
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.positions import Positions, read_positions
from etacore.schema import NO_START_TIME
from tests.transit import DAY_S, FILES, M_PER_DEGREE, SPEED_MPS, drive, write_feed, write_positions

LEG_M = 0.010 * M_PER_DEGREE
LEG_S = LEG_M / SPEED_MPS  # 139 s from stop to stop
EIGHT = DAY_S + 8 * 3600
CONFIG = BuildConfig(name="town")
OUT = drive("out", [0.0, 0.032], EIGHT)


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return read_feed(write_feed(tmp_path / "feed"))


def record(tmp_path: Path, rows: list[dict[str, Any]]) -> Positions:
    return read_positions(write_positions(tmp_path / "p.parquet", rows))


def build(tmp_path: Path, feed: Feed, rows: list[dict[str, Any]], **changes: Any) -> BuiltDataset:
    return build_dataset(record(tmp_path, rows), feed, dataclasses.replace(CONFIG, **changes))


def at(second: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(second, dt.UTC)


def test_rows_of_one_trip(tmp_path: Path, feed: Feed) -> None:
    built = build(tmp_path, feed, [row | {"speed_mps": 8.0, "bearing": 90.0} for row in OUT])
    frame = built.frame
    assert dict(frame.schema) == dict(COLUMNS)
    start = frame.filter(pl.col("vp_ts") == at(EIGHT))
    # the first stop is reached, the next one is the first ahead
    assert start["stop_id"].to_list() == list("BCD")
    assert start["stop_sequence"].to_list() == [20, 40, 50]
    assert start["stop_ordinal"].to_list() == [2, 3, 4]
    assert start["n_stops"].to_list() == [4, 4, 4]
    assert start["stops_ahead"].to_list() == [1, 2, 3]
    assert start["distance_to_stop"].to_list() == pytest.approx([LEG_M, 2 * LEG_M, 3 * LEG_M], rel=1e-5)
    assert start["along_route_distance_m"].to_list() == start["distance_to_stop"].to_list()
    assert start["vp_bearing"].to_list() == [90.0] * 3
    assert start["current_speed_kmh"].to_list() == pytest.approx([28.8] * 3)
    assert start["hour"].to_list() == [8] * 3
    assert start["day_of_week"].to_list() == [1] * 3
    assert start["is_peak_hour"].all()
    assert not start["is_holiday"].any()
    assert start["service_date"].to_list() == [dt.date(2024, 1, 2)] * 3
    assert start["label_rule"].to_list() == ["first_50m"] * 3
    assert start["label_uncertainty_s"].to_list() == [5.0] * 3
    assert start["interpolated_arrival"].to_list() == pytest.approx(
        [at(EIGHT + k * LEG_S) for k in (1, 2, 3)], abs=dt.timedelta(seconds=0.1)
    )
    assert start["scheduled_arrival"].to_list() == [at(EIGHT + 180 * k) for k in (1, 2, 3)]
    left_s = start["time_to_arrival_seconds"].to_list()
    assert left_s == [(arrival - at(EIGHT)).total_seconds() for arrival in start["actual_arrival"]]
    assert left_s == pytest.approx([LEG_S, 2 * LEG_S, 3 * LEG_S], abs=10)
    assert start.select("temperature_c", "precipitation_mm", "wind_speed_kmh").null_count().row(0) == (3, 3, 3)
    assert frame["recent_speed_mps"].null_count() == 3  # the first fix has no past
    assert frame["recent_speed_mps"].drop_nulls().to_list() == pytest.approx([SPEED_MPS] * (len(frame) - 3), rel=0.02)
    assert frame["time_to_arrival_seconds"].is_between(0, 7200).all()
    assert frame["distance_to_stop"].min() >= 10  # type: ignore[operator]
    assert frame.equals(frame.sort("vp_ts", "vehicle_id", "stop_ordinal"))
    assert built.patterns == {feed.patterns[0].pattern_id: ("A", "B", "C", "D")}


def test_speed_is_null_where_the_source_gives_none(tmp_path: Path, feed: Feed) -> None:
    rows = [row | {"speed_mps": [8.0, None, -1.0, 0.0][n % 4]} for n, row in enumerate(OUT)]
    speeds = build(tmp_path, feed, rows).frame.select("vp_ts", "current_speed_kmh").unique().sort("vp_ts")
    assert speeds["current_speed_kmh"][:4].to_list() == [pytest.approx(28.8), None, None, 0.0]


def test_straight_distance_and_holidays(tmp_path: Path, feed: Feed) -> None:
    north = [row | {"lat": 0.001} for row in OUT]
    along = build(tmp_path, feed, north, holiday_region="CA-QC").frame
    straight = build(tmp_path, feed, north, use_shapes=False).frame
    first = [frame.filter(pl.col("stop_id") == "B")["distance_to_stop"][0] for frame in (along, straight)]
    assert first == pytest.approx([LEG_M, float(np.hypot(LEG_M, 0.001 * M_PER_DEGREE))], rel=1e-4)
    assert not along["is_holiday"].any()
    new_year = drive("out", [0.0, 0.032], EIGHT - 86_400)
    assert build(tmp_path, feed, new_year, holiday_region="CA-QC").frame["is_holiday"].all()
    with pytest.raises(DatasetError, match="holiday region 'XX' is unknown"):
        build(tmp_path, feed, OUT, holiday_region="XX")


def test_holidays_are_known_to_the_last_day_of_a_recording_over_a_new_year(tmp_path: Path, feed: Feed) -> None:
    new_year = DAY_S - 86_400
    past_midnight = drive("back", [0.030, -0.002], new_year - 86_400 + 90_600)  # of 31 December, at 01:10
    eve = build(tmp_path, feed, past_midnight, holiday_region="CA-QC").frame
    assert eve["service_date"].unique().to_list() == [dt.date(2023, 12, 31)]
    assert eve["is_holiday"].all()
    both = drive("out", [0.0, 0.032], new_year - 86_400 + 28_800) + drive("out", [0.0, 0.032], new_year + 28_800)
    by_day = build(tmp_path, feed, both, holiday_region="CA-QC").frame.select("service_date", "is_holiday").unique()
    assert by_day.sort("service_date").rows() == [(dt.date(2023, 12, 31), False), (dt.date(2024, 1, 1), True)]


def test_trip_past_midnight_belongs_to_its_service_date(tmp_path: Path, feed: Feed) -> None:
    built = build(tmp_path, feed, drive("back", [0.030, -0.002], DAY_S + 90_600))  # 01:10, timetable 25:10
    frame = built.frame
    assert frame["service_date"].unique().to_list() == [dt.date(2024, 1, 2)]
    assert frame["hour"].unique().to_list() == [1]
    assert built.report.oddities["rows_past_midnight"] == len(frame)
    assert built.report.oddities["runs_past_24h"] == 1
    by_stop = dict(frame.select("stop_id", "scheduled_arrival").unique().iter_rows())
    assert by_stop["B"] == at(DAY_S + 25 * 3600 + 16 * 60)
    assert by_stop["C"] is None  # the timetable gives no time


def test_a_trip_over_midnight_is_one_run(tmp_path: Path, feed: Feed) -> None:
    times = dict.fromkeys(("25:10:00", "25:16:00", "25:19:00"))
    text = (tmp_path / "feed" / "stop_times.txt").read_text()
    for old, new in zip(times, ("23:57:00", "24:02:00", "24:05:00"), strict=True):
        text = text.replace(old, new)
    late = read_feed(write_feed(tmp_path / "late", {"stop_times.txt": text}))
    built = build(tmp_path, late, drive("back", [0.030, -0.002], DAY_S + 86_400 - 180))
    assert built.report.labels["runs"] == 1
    assert built.frame["service_date"].unique().to_list() == [dt.date(2024, 1, 2)]
    assert sorted(built.frame["hour"].unique()) == [0, 23]
    assert 0 < built.report.oddities["rows_past_midnight"] < len(built.frame)


def test_scheduled_times_count_from_noon_minus_12_hours(feed: Feed) -> None:
    local = dataclasses.replace(feed, time_zone="America/Toronto")
    days = np.array([(dt.date(2024, 3, 10) - dt.date(1970, 1, 1)).days, 19_724], np.int32)  # clocks go forward, winter
    scheduled = _scheduled_us(local, np.zeros(2, np.int32), np.zeros(2, np.int64), days, np.full(2, NO_START_TIME))
    assert [at(value / 1e6).isoformat() for value in scheduled.tolist()] == [
        "2024-03-10T12:00:00+00:00",  # 08:00 summer time
        "2024-01-02T13:00:00+00:00",
    ]


def test_second_visit_of_a_loop_has_its_own_label(tmp_path: Path, feed: Feed) -> None:
    start = DAY_S + 9 * 3600
    built = build(tmp_path, feed, drive("loop", [0.0, 0.020, -0.002], start, route_id="r2"))
    visits = built.frame.filter((pl.col("stop_id") == "B") & (pl.col("vp_ts") == at(start)))
    assert visits["stop_ordinal"].to_list() == [2, 4]
    first, second = visits["time_to_arrival_seconds"]
    assert second - first == pytest.approx(2 * LEG_S, abs=20)
    # behind B there is only the second visit ahead
    after = built.frame.filter((pl.col("stop_id") == "B") & (pl.col("vp_ts") > at(start + 1.5 * LEG_S)))
    assert after["stop_ordinal"].unique().to_list() == [4]
    assert built.report.oddities["runs_with_repeated_stops"] == 1


def test_every_row_and_fix_is_accounted_for(tmp_path: Path, feed: Feed) -> None:
    rows = [
        *OUT,
        *drive("out", [0.0, 0.032], EIGHT + 5, vehicle_id="other"),  # the same trip on the same day
        *OUT[3:6],  # sent twice
        OUT[4] | {"timestamp": EIGHT + 45, "lat": 0.01, "lon": 0.1},  # off the way
        OUT[4] | {"timestamp": EIGHT + 46, "lat": None},
        OUT[4] | {"timestamp": EIGHT + 47, "lat": 95.0},
        OUT[4] | {"timestamp": EIGHT + 48, "lat": float("inf")},
        OUT[4] | {"timestamp": EIGHT + 40 * 86_400, "vehicle_id": "mars"},  # a clock 40 days ahead
        OUT[4] | {"vehicle_id": "brief"},
        *(row | {"vehicle_id": "shy", "trip_id": None} for row in OUT[:4]),
        *(row | {"vehicle_id": "lost", "trip_id": "nowhere"} for row in OUT[:3]),
        *(row | {"vehicle_id": "alien", "route_id": "r9", "trip_id": None} for row in OUT[:2]),
    ]
    report = build(tmp_path, feed, rows).report
    # vehicles that never were on a trip of the feed are not needed, nor is the one far in time
    assert report.fixes["not_needed"] == 10
    assert report.fixes["unchanged"] == 3
    assert (report.fixes["missing_position"], report.fixes["position_out_of_range"]) == (1, 1)
    assert report.fixes["off_route"] == report.fixes["invalid_position"] == 1
    statuses = (
        "unchanged",
        "invalid_position",
        "missing_position",
        "position_out_of_range",
        "off_route",
        "trip_finished",
    )
    assert sum(report.fixes.get(name, 0) for name in ("not_needed", "accepted", *statuses)) == len(rows)
    accounted = ("without_trip", "unknown_trip", "other_route_or_date", "not_sampled", "without_rows", "used")
    assert sum(report.fixes[name] for name in accounted) == report.fixes["accepted"]
    assert report.oddities["sent_twice"] == 3
    assert report.oddities["outliers"] == 1
    assert report.oddities["far_in_time"] == 1
    assert report.oddities["trips_with_several_vehicles"] == 1
    assert report.recording["match_rate"] == pytest.approx(1 - 3 / (len(rows) - 6), abs=1e-4)
    assert report.examples["unknown_trip"] == ["nowhere"]
    reasons = [name for name in report.rows if name not in ("candidates", "other_pattern", "written")]
    assert report.rows["candidates"] == sum(report.rows[name] for name in reasons) + report.rows["written"]
    assert report.rows["run_not_observed"] > 0  # one fix is no run


def test_of_what_was_lost_there_are_examples_and_a_loud_word(tmp_path: Path, feed: Feed) -> None:
    assert build(tmp_path, feed, OUT).report.warnings == ()
    rows = [
        *OUT,
        *(row | {"vehicle_id": "lost", "trip_id": "nowhere"} for row in OUT),
        *(OUT[4] | {"timestamp": EIGHT + 45, "lat": 95.0} for _ in range(2)),
        *(row | {"vehicle_id": None} for row in OUT[:1]),
    ]
    report = build(tmp_path, feed, rows).report
    assert report.fixes["unreadable: no_vehicle_id"] == 1
    assert report.examples["unreadable: no_vehicle_id"] == [f"p.parquet row {len(rows) - 1}: vehicle_id is missing"]
    (example,) = report.examples["position_out_of_range"]
    assert example == "vehicle 'bus' at 2024-01-02T08:00:45+00:00, 95, 0.00287783"
    assert report.warnings == ()  # vehicles of which no trip is known are not needed
    rows += [row | {"trip_id": None, "timestamp": row["timestamp"] + 5} for row in OUT]
    rows += [row | {"lat": 95.0, "timestamp": row["timestamp"] + 6} for row in OUT]
    built = build(tmp_path, feed, rows)
    (warning,) = built.report.warnings
    assert warning.startswith("WARNING: only ")
    assert "position_out_of_range: vehicle 'bus' at 2024-01-02T08:00:06+00:00, 95, 0\n" in warning
    assert warning in built.report.to_markdown()
    assert built.report.to_dict()["warnings"] == [warning]


def test_a_vehicle_that_swaps_trips_and_comes_back(tmp_path: Path, feed: Feed) -> None:
    rows = [row | ({"trip_id": "loop", "route_id": "r2"} if n in (7, 8) else {}) for n, row in enumerate(OUT)]
    built = build(tmp_path, feed, rows)
    assert built.report.oddities["returns_to_trip"] == 1
    whole = build(tmp_path, feed, OUT).frame
    same = built.frame.filter(pl.col("trip_id") == "out").join(whole, on=["vp_ts", "stop_ordinal"], suffix="_whole")
    assert (same["actual_arrival"] == same["actual_arrival_whole"]).all()
    # what it knew of the trip is gone at the ninth fix, as it is for the loop that serves
    assert same.filter(pl.col("vp_ts") == at(EIGHT + 90))["recent_speed_mps"].null_count() == 3


def test_fixes_without_trip_or_with_an_unknown_one_move_the_state_but_give_no_rows(tmp_path: Path, feed: Feed) -> None:
    for trip_id, reason in ((None, "without_trip"), ("nowhere", "unknown_trip")):
        other = {"trip_id": trip_id, "bearing": 90.0}  # or nobody knows which direction it is
        built = build(tmp_path, feed, [row | (other if n == 5 else {}) for n, row in enumerate(OUT)])
        assert built.report.fixes[reason] == 1
        assert built.frame["vp_ts"].n_unique() == build(tmp_path, feed, OUT).frame["vp_ts"].n_unique() - 1
        after = built.frame.filter(pl.col("vp_ts") == at(EIGHT + 60))
        assert after["recent_speed_mps"].null_count() == len(after) > 0


def test_a_clock_that_is_centuries_ahead_spoils_no_other_label(tmp_path: Path, feed: Feed) -> None:
    ahead_s = 300 * 365 * 86_400
    mars = [row | {"timestamp": row["timestamp"] + ahead_s, "vehicle_id": "mars"} for row in OUT]
    built = build(tmp_path, feed, OUT + mars)
    assert built.frame.filter(pl.col("vehicle_id") == "bus").equals(build(tmp_path, feed, OUT).frame)
    often = drive("out", [0.0, 0.032], EIGHT, every_s=1)
    few = drive("out", [0.0, 0.0102], EIGHT + ahead_s, vehicle_id="mars", every_s=25)  # to B
    whole = build(tmp_path, feed, often + few)
    assert whole.report.oddities["far_in_time"] == len(few)
    assert whole.frame.equals(build(tmp_path, feed, often).frame)
    asked = build(tmp_path, feed, often + few, start=at(EIGHT + ahead_s).date())
    assert asked.frame["vehicle_id"].unique().to_list() == ["mars"]
    recent = build(tmp_path, feed, often + mars[:1], days_back=1)  # from the last day with a fair number of fixes
    assert recent.frame["service_date"].unique().to_list() == [dt.date(2024, 1, 2)]


def test_half_the_gap_around_a_moment(tmp_path: Path) -> None:
    rows = [OUT[0] | {"vehicle_id": v, "timestamp": EIGHT + s} for v, s in (("a", 0), ("a", 10), ("a", 50), ("b", 20))]
    positions = record(tmp_path, rows)
    vehicle = np.array([0, 0, 0, 0, 1, 1], np.int32)
    moments = (EIGHT + np.array([10, 11, 0, 60, 20, 21])) * 1_000_000
    gaps = half_gap_s(positions, vehicle, moments)
    np.testing.assert_array_equal(gaps, [5.0, 20.0, np.nan, np.nan, np.nan, np.nan])


def test_the_gap_is_known_for_the_last_fix_of_the_last_vehicle_and_up_to_two_hours(tmp_path: Path) -> None:
    last_s = int(MAX_GAP_S)
    times = (("a", 0), ("b", 5), ("b", last_s + 5), ("c", 10), ("c", last_s + 11))
    positions = record(tmp_path, [OUT[0] | {"vehicle_id": v, "timestamp": EIGHT + s} for v, s in times])
    vehicle = np.array([0, 1, 1, 2], np.int32)
    moments = (EIGHT + np.array([0, last_s + 5, last_s + 6, last_s + 11])) * 1_000_000
    np.testing.assert_array_equal(half_gap_s(positions, vehicle, moments), [np.nan, MAX_GAP_S / 2, np.nan, np.nan])
    # The last time of one vehicle is not the first of the next.
    short = (("a", 0), ("a", 30), ("b", 0))
    two = record(tmp_path, [OUT[0] | {"vehicle_id": v, "timestamp": EIGHT + s} for v, s in short])
    assert half_gap_s(two, np.zeros(1, np.int32), np.array([EIGHT + 30]) * 1_000_000).tolist() == [15.0]


def test_the_borders_of_what_a_row_may_be(tmp_path: Path) -> None:
    positions = record(tmp_path, OUT[:1])
    reasons = []
    for left_us, distance_m in (
        (-1, 500.0),
        (0, 500.0),
        (7_200_000_000, 500.0),
        (7_200_000_001, 500.0),
        (60_000_000, np.nextafter(np.float32(10.0), np.float32(0.0))),
        (60_000_000, 10.0),
    ):
        place = np.array([NO_ARRIVAL, EIGHT * 1_000_000 + left_us])
        zero, ends, rule = np.zeros(1, np.int32), np.array([0, 2], np.int64), np.array([0, 1], np.uint8)
        labels = Labels(zero, zero, zero, ends, place, place, rule, np.ones(2), ("none", "x"))
        values = np.array([[distance_m]], np.float32)
        rows = FeatureRows(zero, np.ones(1, np.int32), values, ("distance_to_stop",), np.zeros(1, np.uint8), 0)
        dropped = why_dropped(rows, np.ones(1, bool), np.zeros(1, np.int64), labels, positions, CONFIG)
        reasons.append(REASONS[int(dropped.reason[0])])
    assert reasons == ["already_arrived", "written", "written", "too_far_ahead", "too_near", "written"]


def test_a_vehicle_that_was_silent_for_days_tells_no_uncertainty(tmp_path: Path, feed: Feed) -> None:
    days_before = [row | {"timestamp": row["timestamp"] - 3 * 86_400} for row in OUT]
    starts_at_b = [row | {"lon": row["lon"] - 0.0003} for row in OUT if row["lon"] > 0.010]  # 27 m before it
    built = build(tmp_path, feed, days_before + starts_at_b)
    today = built.frame.filter((pl.col("service_date") == dt.date(2024, 1, 2)) & (pl.col("stop_id") == "B"))
    assert today["time_to_arrival_seconds"].to_list() == [0.0]
    assert today["label_uncertainty_s"].to_list() == [None]
    assert built.frame["label_uncertainty_s"].max() == 5.0


def test_stops_that_nobody_was_seen_at(tmp_path: Path, feed: Feed) -> None:
    report = build(tmp_path, feed, [row for row in OUT if row["lon"] < 0.017]).report
    assert report.labels["stops_without_label"] == 2
    assert report.examples["stops_without_label"] == ["C", "D"]
    assert report.labels["not_seen"] == 2
    assert report.rows["stop_not_observed"] > 0


def test_a_stop_that_was_passed_without_a_near_fix_has_an_interpolated_label(tmp_path: Path, feed: Feed) -> None:
    near_b = [row for row in OUT if abs(row["lon"] - 0.010) * M_PER_DEGREE > 240]
    built = build(tmp_path, feed, near_b)
    assert built.report.labels["passed_but_no_fix_near"] == 1
    labels = (
        built.frame.select("stop_id", "label_rule", "actual_arrival", "interpolated_arrival").unique().sort("stop_id")
    )
    assert labels["stop_id"].to_list() == list("BCD")
    assert labels["label_rule"].to_list() == ["interpolated", "first_50m", "first_50m"]
    assert labels["actual_arrival"][0] == labels["interpolated_arrival"][0]
    assert labels["actual_arrival"][0].timestamp() == pytest.approx(EIGHT + LEG_S, abs=0.1)
    to_b = built.frame.filter(pl.col("stop_id") == "B")
    passed_s = (to_b["interpolated_arrival"] - to_b["vp_ts"]).dt.total_microseconds() / 1e6
    assert to_b["time_to_arrival_seconds"].to_list() == pytest.approx(passed_s.to_list(), abs=1e-6)
    assert to_b["label_uncertainty_s"].unique().to_list() == [35.0]


def test_thresholds_and_names_of_the_rule(tmp_path: Path, feed: Feed) -> None:
    rarely = drive("out", [0.0, 0.032], EIGHT, every_s=40)  # 152 m before B, 168 m behind it
    seen = build(tmp_path, feed, rarely).frame.filter(pl.col("stop_id") == "B")
    assert seen["label_rule"].unique().to_list() == ["closest_200m"]
    assert seen["label_uncertainty_s"].unique().to_list() == [20.0]
    wide = build(tmp_path, feed, rarely, distance_threshold_m=160).frame.filter(pl.col("stop_id") == "B")
    assert wide["label_rule"].unique().to_list() == ["first_160m"]


def test_no_feature_knows_the_future(tmp_path: Path, feed: Feed) -> None:
    rows = OUT + drive("loop", [0.0, 0.020, 0.0], EIGHT + 3, route_id="r2", vehicle_id="b")
    until = EIGHT + 200
    past = [row for row in rows if row["timestamp"] < until]
    rng = np.random.default_rng(3)
    garbage = [
        row | {"lon": float(rng.uniform(-0.01, 0.04)), "lat": float(rng.normal(0, 0.002)), "trip_id": trip_id}
        for row in rows
        for trip_id in (row["trip_id"], "back", None)
        if row["timestamp"] >= until
    ]
    found = []
    for recording in (past, past + garbage, rows):
        positions = record(tmp_path, recording)
        plan = make_plan(positions, feed, CONFIG)
        before = compute_features(
            positions,
            feed,
            FeatureTap("UTC"),
            max_stops=5,
            pattern_ix=plan.pattern_ix(feed),
            process=plan.process,
            emit=plan.emit & (positions.time_us < until * 1_000_000),
        )
        found.append((before.fix, before.stop_ix, before.values))
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert len(found[0][0]) > 100


def test_sampling_thins_rows_and_leaves_the_rest_as_they_are(tmp_path: Path, feed: Feed) -> None:
    rows = OUT + drive("out", [0.0, 0.032], EIGHT + 5, vehicle_id="b") + drive("out", [0.0, 0.032], EIGHT + 86_400)
    whole = build(tmp_path, feed, rows).frame
    thin = build(tmp_path, feed, rows, sample_every=3)
    per_run = thin.frame.group_by("vehicle_id", "service_date").agg(pl.col("vp_ts").unique().sort().alias("at"))
    for times in per_run["at"]:
        # of every third fix; those less than 10 m from the last stop may have no row
        assert {gap.total_seconds() for gap in times.diff().drop_nulls()} == {30.0}
    both = thin.frame.join(whole, on=["vehicle_id", "vp_ts", "stop_ordinal"], how="semi")
    assert len(both) == len(thin.frame)
    assert whole.join(thin.frame.select("vehicle_id", "vp_ts"), on=["vehicle_id", "vp_ts"], how="semi").equals(
        thin.frame
    )
    assert thin.report.fixes["not_sampled"] > 0


def test_fixes_before_the_second_stop_can_be_left_out(tmp_path: Path, feed: Feed) -> None:
    parked = [OUT[0] | {"timestamp": EIGHT - second} for second in (300, 200, 100)]
    whole = build(tmp_path, feed, parked + OUT).frame
    arrival = whole.filter(pl.col("stop_ordinal") == 2)["actual_arrival"].unique().item()
    assert (whole["vp_ts"] < arrival).sum() > 9
    moving = build(tmp_path, feed, parked + OUT, under_way_only=True)
    assert moving.frame.equals(whole.filter(pl.col("vp_ts") >= arrival))
    assert moving.report.rows["not_under_way"] == (whole["vp_ts"] < arrival).sum()


def test_dates_and_routes_choose_rows_and_change_none(tmp_path: Path, feed: Feed) -> None:
    rows = [row for day in range(3) for row in drive("out", [0.0, 0.032], EIGHT + day * 86_400)]
    rows += drive("loop", [0.0, 0.020, 0.0], EIGHT + 3600, route_id="r2")
    whole = build(tmp_path, feed, rows).frame
    day = dt.date(2024, 1, 2)
    chosen: list[tuple[dict[str, Any], pl.Expr]] = [
        ({"start": day, "end": day}, pl.col("service_date") == day),
        ({"start": day + dt.timedelta(1)}, pl.col("service_date") > day),
        ({"days_back": 2}, pl.col("service_date") > day),
        ({"days_back": 1, "end": day}, pl.col("service_date") == day),
        ({"routes": ("r2",)}, pl.col("route_id") == "r2"),
        ({"routes": ("r1",), "end": day}, (pl.col("route_id") == "r1") & (pl.col("service_date") == day)),
        ({"skip_first_stop": True}, pl.col("stop_ordinal") > 1),
    ]
    for changes, expected in chosen:
        assert build(tmp_path, feed, rows, **changes).frame.equals(whole.filter(expected)), changes


def test_arrivals_that_somebody_else_observed(tmp_path: Path, feed: Feed) -> None:
    base = {"trip_id": "out", "vehicle_id": "bus", "stop_id": "C", "stop_sequence": 40}
    given = [
        base | {"arrival_ts": EIGHT + 277, "interp_ts": EIGHT + 280, "method": "first50m"},
        base | {"arrival_ts": EIGHT + 278 + 86_400, "interp_ts": None, "method": "closest200m"},
        base | {"stop_id": "D", "stop_sequence": 50, "arrival_ts": None, "interp_ts": None, "method": None},
        base | {"vehicle_id": "nobody", "arrival_ts": EIGHT + 1, "interp_ts": None, "method": None},
    ]
    pl.DataFrame(given).write_parquet(tmp_path / "a.parquet")
    positions = record(tmp_path, OUT + [row | {"timestamp": row["timestamp"] + 86_400} for row in OUT])
    frame = build_dataset(positions, feed, CONFIG, arrivals=tmp_path / "a.parquet").frame
    found = frame.select("stop_id", "service_date", "actual_arrival", "label_rule", "label_uncertainty_s").unique()
    day = dt.date(2024, 1, 2)
    assert found.sort("service_date").rows() == [
        ("C", day, at(EIGHT + 277), "first_50m", 5.0),
        ("C", day + dt.timedelta(1), at(EIGHT + 278 + 86_400), "closest_200m", 5.0),
    ]
    passed = frame.select("service_date", "interpolated_arrival").unique().sort("service_date")
    assert passed["interpolated_arrival"].to_list() == [at(EIGHT + 280), None]
    pl.DataFrame(given).drop("interp_ts", "method").write_parquet(tmp_path / "bare.parquet")
    bare = build_dataset(positions, feed, CONFIG, arrivals=tmp_path / "bare.parquet").frame
    assert bare["actual_arrival"].equals(frame["actual_arrival"])
    assert bare["interpolated_arrival"].null_count() == len(bare)
    assert bare["label_rule"].unique().to_list() == ["given"]
    pl.DataFrame(given[3:]).write_parquet(tmp_path / "none.parquet")
    with pytest.raises(FeedError, match="none of the 1 arrivals fits"):
        build_dataset(positions, feed, CONFIG, arrivals=tmp_path / "none.parquet")
    pl.DataFrame(given).drop("stop_id").write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(FeedError, match="has no column stop_id"):
        build_dataset(positions, feed, CONFIG, arrivals=tmp_path / "bad.parquet")


class Rain:
    def hourly(self, lat: float, lon: float, first: dt.datetime, last: dt.datetime) -> pl.DataFrame:
        hours = pl.datetime_range(first, last, "1h", time_zone="UTC", eager=True)
        return pl.DataFrame({"time": hours}).with_columns(
            temperature_c=pl.lit(3.5), precipitation_mm=pl.lit(1.0), wind_speed_kmh=pl.lit(20.0)
        )


def test_weather_is_attached_when_somebody_knows_it(tmp_path: Path, feed: Feed) -> None:
    built = build_dataset(record(tmp_path, OUT), feed, CONFIG, weather=Rain())
    assert dict(built.frame.schema) == dict(COLUMNS)
    assert built.frame["temperature_c"].unique().to_list() == [3.5]
    assert built.report.oddities["rows_without_weather"] == 0


def test_report_and_file(tmp_path: Path, feed: Feed) -> None:
    built = build(tmp_path, feed, OUT)
    path = built.write(tmp_path / "sets")
    first = path.read_bytes()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["town.parquet", "town.report.md"]
    text = (path.parent / "town.report.md").read_text()
    assert text == built.report.to_markdown()
    assert "| written | " in text
    assert "2024-01-02" in text
    read = read_dataset(path)
    assert read.frame.equals(built.frame)
    assert read.metadata["report"] == built.report.to_dict()
    assert read.metadata["build"]["name"] == "town"
    assert (read.time_zone, read.distance, read.metadata["distance_threshold_m"]) == (
        "Africa/Abidjan",
        "along_route",
        50.0,
    )
    assert read.patterns == built.patterns
    assert build(tmp_path, feed, OUT).write(tmp_path / "sets").read_bytes() == first
    console = Console(width=120, record=True, quiet=True)
    console.print(built.report)


def test_report_has_the_notes_of_the_feed_as_they_are(tmp_path: Path) -> None:
    trips = FILES["trips.txt"].replace("out,0,", "out,[red]2[/] :bus:,")
    odd = read_feed(write_feed(tmp_path / "feed", {"trips.txt": trips}))
    [note] = [line for line in odd.notes if "direction_id '[red]2[/] :bus:'" in line]
    report = build(tmp_path, odd, OUT).report
    assert report.to_dict()["feed_notes"] == list(odd.notes)
    assert note in report.to_markdown().splitlines()
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(report)
    assert f"feed: {note}" in console.export_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": dt.date(2024, 2, 1)}, r"no fix of a known trip is left from 2024-02-01\n.*2024-01-02 to 2024-01-02"),
        ({"routes": ("r7", "r1")}, r"no positions of route r7\n.*routes of the recording: r1"),
        ({"routes": ("r2",)}, "no positions of route r2"),
    ],
)
def test_nothing_left(tmp_path: Path, feed: Feed, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        build(tmp_path, feed, OUT, **changes)


def test_a_route_without_data_is_named(tmp_path: Path, feed: Feed) -> None:
    rows = OUT + [row | {"route_id": "r2", "trip_id": None, "vehicle_id": "b"} for row in OUT]
    with pytest.raises(DatasetError, match="route r2 has no fix of a known trip"):
        build(tmp_path, feed, rows, routes=("r1", "r2"))


def test_feed_and_positions_that_do_not_belong_together(tmp_path: Path, feed: Feed) -> None:
    strangers = [row | {"trip_id": f"T-{n % 3}"} for n, row in enumerate(OUT)]
    with pytest.raises(DatasetError, match=r"0\.0% of the fixes .*0 of 46.*\n.*'T-0', 'T-1', 'T-2'; .* 'out', 'back'"):
        build(tmp_path, feed, strangers)
    with pytest.raises(DatasetError, match="none of the 46 fixes has a trip_id, or a start"):
        build(tmp_path, feed, [row | {"trip_id": None} for row in OUT])


def test_no_row_with_a_label_says_why(tmp_path: Path, feed: Feed) -> None:
    with pytest.raises(DatasetError, match=r"no row of dataset town has a label\n.*run not observed"):
        build(tmp_path, feed, OUT[:1])
    nowhere = [row | {"lat": None} for row in OUT]
    said = r"accepted no fix of a known trip; 46 missing_position \(vehicle 'bus' at 2024-01-02T08:00:00"
    with pytest.raises(DatasetError, match=said):
        build(tmp_path, feed, nowhere)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_stops_ahead": 0}, "max_stops_ahead is 0"),
        ({"sample_every": 1.5}, "sample_every is 1.5"),
        ({"distance_threshold_m": float("nan")}, "distance_threshold_m is nan"),
        ({"start": dt.date(2024, 2, 1), "end": dt.date(2024, 1, 1)}, "start 2024-02-01 is after end"),
        ({"routes": ()}, "routes is empty"),
        ({"time_zone": "Mars/Base"}, "time zone 'Mars/Base' is not known"),
        ({"name": "../x"}, "cannot be used"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DatasetError), match=message):
        dataclasses.replace(CONFIG, **changes)


def test_features_are_all_that_the_engine_can_tell() -> None:
    assert {"recent_speed_mps", "since_last_stop_s", "leg_left", "along_route_distance_m"} <= set(FEATURE_COLUMNS)
    assert "temperature_c" not in FEATURE_COLUMNS
