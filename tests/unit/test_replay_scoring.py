"""Recorded predictions held against arrivals: what counts, what does not and why, and how the baseline is made."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from etacore.errors import FeedError
from etacore.mlops.replay.scoring import (
    LABEL_KINDS,
    Recording,
    Scores,
    Truth,
    Unscored,
    mean_speed_mps,
    score_recording,
    truth_of_arrivals,
    truth_of_frame,
)
from etacore.mlops.transit.arrivals import NO_ARRIVAL, Rule, observe_arrivals
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.positions import Positions, read_positions
from etacore.mlops.transit.tracks import match_tracks
from tests.transit import DAY_S, M_PER_DEGREE, SPEED_MPS, drive, write_feed, write_positions

EIGHT = DAY_S + 8 * 3600
OUT = drive("out", [0.0, 0.030], EIGHT)
LEG_M = 0.010 * M_PER_DEGREE


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return read_feed(write_feed(tmp_path / "feed"))


def record(tmp_path: Path, rows: list[dict[str, Any]]) -> Positions:
    return read_positions(write_positions(tmp_path / "p.parquet", rows))


def given(*rows: dict[str, Any]) -> pl.DataFrame:
    """Arrivals in the form of `read_arrivals`; seconds after eight."""
    whole: dict[str, Any] = {"trip_id": "out", "vehicle_id": "bus", "stop_id": "C", "stop_sequence": 40, "at_s": 0.0}
    rows_of_file = [
        {name: value for name, value in (whole | row).items() if name != "at_s"}
        | {"rule_us": int((EIGHT + (whole | row)["at_s"]) * 1e6), "rule": "given"}
        for row in rows
    ]
    return pl.DataFrame(rows_of_file).with_columns(interp_us=pl.lit(None, pl.Int64))


def predicted(row: int, *stops: tuple[str, int, float | None]) -> Recording:
    recording = Recording()
    recording.add(row, [{"stop_id": name, "stop_sequence": n, "eta_seconds": eta_s} for name, n, eta_s in stops])
    return recording


def score(positions: Positions, feed: Feed, recording: Recording, arrivals: pl.DataFrame) -> Scores:
    tracks = match_tracks(positions, feed)
    return score_recording(recording, positions, feed, tracks, truth_of_frame(arrivals, positions, feed, tracks))


def test_the_first_and_the_last_key_are_found_and_what_lies_between_and_beyond_is_not() -> None:
    keys = np.array([3, 5, 8], np.int64)
    truth = Truth(keys, keys * 10, np.zeros(3, np.int64), ("x",))
    assert truth.find(np.array([3, 5, 8], np.int64)).tolist() == [0, 1, 2]
    assert truth.find(np.array([2, 4, 6, 9, -1], np.int64)).tolist() == [-1] * 5
    one = Truth(keys[:1], keys[:1], np.zeros(1, np.int64), ("x",))
    assert one.find(np.array([2, 3, 4], np.int64)).tolist() == [-1, 0, -1]
    empty = Truth(keys[:0], keys[:0], np.zeros(0, np.int64), ("x",))
    assert empty.find(np.array([3, 0], np.int64)).tolist() == [-1, -1]


def test_an_error_is_predicted_minus_actual_from_the_position_s_own_time(tmp_path: Path, feed: Feed) -> None:
    positions = record(tmp_path, OUT)
    arrivals = given({"at_s": 277.5}, {"stop_id": "D", "stop_sequence": 50, "at_s": 420.0})
    scores = score(positions, feed, predicted(3, ("C", 40, 250.0), ("D", 50, 400.0)), arrivals)
    assert scores.model.n == 2
    assert scores.model.overall.bias_s == pytest.approx(((250 - 247.5) + (400 - 390)) / 2)
    assert scores.model.overall.mae_s == pytest.approx((2.5 + 10) / 2)
    assert scores.unscored == {}
    assert scores.labels == {"arrivals file": 2}
    left_m = [2 * LEG_M - 30 * SPEED_MPS, 3 * LEG_M - 30 * SPEED_MPS]
    errors = [m / scores.baseline_speed_mps - actual for m, actual in zip(left_m, (247.5, 390.0), strict=True)]
    assert scores.baseline.overall.bias_s == pytest.approx(np.mean(errors), abs=0.01)


@pytest.mark.parametrize(
    ("actual_s", "reason"),
    [
        (-1.0, Unscored.ALREADY_ARRIVED),
        (0.0, Unscored.ALREADY_ARRIVED),  # it is there
        (0.001, None),
        (7200.0, None),  # the longest time that is predicted
        (7200.001, Unscored.TOO_FAR_AHEAD),
    ],
)
def test_the_borders_of_what_is_scored(tmp_path: Path, feed: Feed, actual_s: float, reason: Unscored | None) -> None:
    scores = score(record(tmp_path, OUT), feed, predicted(0, ("C", 40, 60.0)), given({"at_s": actual_s}))
    assert scores.unscored == ({} if reason is None else {str(reason): 1})
    assert scores.model.n == (1 if reason is None else 0)
    assert scores.labels == ({"arrivals file": 1} if reason is None else {})


def test_each_prediction_without_a_score_has_one_reason_the_first_that_applies(tmp_path: Path, feed: Feed) -> None:
    strays = [OUT[0] | {"vehicle_id": "stray", "trip_id": None}, OUT[0] | {"vehicle_id": "other"}]
    positions = record(tmp_path, OUT + strays)
    vehicle = [positions.vehicle_id.values[code] for code in positions.vehicle_id.codes.tolist()]
    stray, other, bus = (vehicle.index(name) for name in ("stray", "other", "bus"))
    recording = Recording()
    for row, stop_id, sequence, eta_s in (
        (stray, "C", 40, None),  # no trip, and no ETA
        (bus, "A", 10, None),  # no ETA, and the first stop
        (bus, "C", 41, 60.0),
        (bus, "Z", 40, 60.0),
        (bus, "A", 10, 60.0),
        (bus, "D", 50, 60.0),
        (other, "C", 40, 60.0),  # which was seen too rarely to be on a run
        (bus, "C", 40, 60.0),
    ):
        recording.add(row, [{"stop_id": stop_id, "stop_sequence": sequence, "eta_seconds": eta_s}])
    assert len(recording) == 8
    scores = score(positions, feed, recording, given({"at_s": 100.0}))
    assert scores.unscored == {
        str(Unscored.NO_TRIP): 1,
        str(Unscored.NO_ETA): 1,
        str(Unscored.OTHER_PATTERN): 2,
        str(Unscored.FIRST_STOP): 1,
        str(Unscored.NO_RUN): 1,
        str(Unscored.NOT_OBSERVED): 1,
    }
    assert scores.model.n == 1


def test_runs_of_other_days_trips_and_vehicles_are_not_mixed_up(tmp_path: Path, feed: Feed) -> None:
    tomorrow = [row | {"timestamp": row["timestamp"] + 86_400} for row in OUT]
    second = [row | {"vehicle_id": "tram"} for row in OUT]
    positions = record(tmp_path, [*OUT, *tomorrow, *second])
    arrivals = given(
        {"at_s": 400.0, "vehicle_id": "tram"},
        {"at_s": 86_400 + 300.0},
        {"at_s": 86_400 + 150.0, "stop_id": "B", "stop_sequence": 20},
        {"at_s": 200.0},
        {"trip_id": "back"},  # has no stop C of this sequence
    )
    tracks = match_tracks(positions, feed)
    truth = truth_of_frame(arrivals, positions, feed, tracks)
    assert len(truth.key) == 4
    assert (np.diff(truth.key) > 0).all()
    at_start = np.flatnonzero(positions.lon == 0.0).tolist()
    vehicle = [positions.vehicle_id.values[code] for code in positions.vehicle_id.codes[at_start].tolist()]
    assert vehicle == ["bus", "tram", "bus"]
    for row, actual_s in zip(at_start, (200.0, 400.0, 300.0), strict=True):
        scores = score_recording(predicted(row, ("C", 40, actual_s)), positions, feed, tracks, truth)
        assert (scores.model.n, scores.model.overall.mae_s) == (1, 0.0)


def test_vehicles_of_several_patterns_are_measured_each_along_its_own(tmp_path: Path, feed: Feed) -> None:
    loop = drive("loop", [0.0, 0.020, 0.0], EIGHT + 3605, route_id="r2", vehicle_id="tram")
    astray = OUT[6] | {"lat": 0.004, "timestamp": EIGHT + 61}  # 445 m beside the line
    positions = record(tmp_path, [*OUT, astray, *loop])
    vehicle = np.array(positions.vehicle_id.values)[positions.vehicle_id.codes]
    bus, tram = np.flatnonzero((vehicle == "bus") & (positions.lat == 0)), np.flatnonzero(vehicle == "tram")
    beside = int(np.flatnonzero(positions.lat > 0)[0])
    recording = Recording()
    expected_m = []
    for row, stop_id, sequence, left_m in (
        (bus[3], "A", 10, None),  # is not scored
        (tram[6], "B", 4, 3 * LEG_M - 480),
        (bus[3], "C", 40, 2 * LEG_M - 240),
        (beside, "D", 50, math.hypot(3 * LEG_M - 480, 0.004 * M_PER_DEGREE)),
        (bus[6], "D", 50, 3 * LEG_M - 480),
        (tram[1], "C", 3, 2 * LEG_M - 80),
        (bus[20], "B", 20, 0.0),  # behind it already, though its arrival comes late
    ):
        recording.add(int(row), [{"stop_id": stop_id, "stop_sequence": sequence, "eta_seconds": 0.0}])
        expected_m += [] if left_m is None else [left_m]
    tram_trip = {"trip_id": "loop", "vehicle_id": "tram"}
    arrivals = given(
        {"at_s": 4600.0, "stop_id": "B", "stop_sequence": 4} | tram_trip,
        {"at_s": 400.0},
        {"at_s": 4400.0, "stop_id": "C", "stop_sequence": 3} | tram_trip,
        {"at_s": 300.0, "stop_id": "B", "stop_sequence": 20},
        {"at_s": 500.0, "stop_id": "D", "stop_sequence": 50},
    )
    scores = score(positions, feed, recording, arrivals)
    actual_s = [4600 - 3605 - 60, 400 - 30, 500 - 61, 500 - 60, 4400 - 3605 - 10, 300 - 200]
    assert scores.model.overall.bias_s == pytest.approx(-np.mean(actual_s))
    errors = np.array(expected_m) / scores.baseline_speed_mps - actual_s
    assert scores.baseline.overall.mae_s == pytest.approx(np.abs(errors).mean(), abs=0.1)
    assert scores.baseline.overall.bias_s == pytest.approx(errors.mean(), abs=0.1)


def test_the_truth_of_our_own_arrivals_prefers_the_interpolated_time(tmp_path: Path, feed: Feed) -> None:
    positions = record(tmp_path, OUT)
    tracks = match_tracks(positions, feed)
    seen = observe_arrivals(positions, feed, tracks)
    truth = truth_of_arrivals(seen, feed)
    assert truth.kinds == LABEL_KINDS
    assert (np.diff(truth.key) > 0).all()
    assert truth.kind.tolist() == [Rule.FIRST_50M, 0, 0, 0]  # the bus was at A before its first fix
    assert truth.label_us.tolist() == [int(seen.rule_us[0]), *seen.interp_us[1:].tolist()]
    none = dataclasses.replace(seen, interp_us=np.full(len(seen), NO_ARRIVAL), rule=np.array([1, 1, 2, 2], np.uint8))
    by_rule = truth_of_arrivals(none, feed)
    assert (by_rule.kind.tolist(), by_rule.label_us.tolist()) == ([1, 1, 2, 2], seen.rule_us.tolist())
    stops = predicted(1, ("B", 20, 100.0), ("D", 50, 400.0))
    assert score_recording(stops, positions, feed, tracks, by_rule).labels == {LABEL_KINDS[1]: 1, LABEL_KINDS[2]: 1}


def test_a_label_keeps_its_kind_whatever_the_order_of_the_keys(tmp_path: Path, feed: Feed) -> None:
    tomorrow = [row | {"timestamp": row["timestamp"] + 86_400} for row in OUT]
    positions = record(tmp_path, [*OUT, *tomorrow, *(row | {"vehicle_id": "tram"} for row in OUT)])
    seen = observe_arrivals(positions, feed)
    assert seen.tracks.vehicle_code.tolist() == [0, 1, 0]
    rule = np.array([0, Rule.FIRST_50M, Rule.CLOSEST_200M], np.uint8)[seen.track_ix]
    interp_us = np.where(rule == 0, seen.rule_us, NO_ARRIVAL)
    backwards = dataclasses.replace(
        seen,
        track_ix=seen.track_ix[::-1],
        stop_ix=seen.stop_ix[::-1],
        interp_us=interp_us[::-1],
        rule_us=seen.rule_us[::-1],
        rule=rule[::-1],
    )
    truth = truth_of_arrivals(backwards, feed)
    assert truth.kind.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_the_speed_of_the_baseline_is_that_between_the_second_and_the_last_stop(tmp_path: Path, feed: Feed) -> None:
    waits_at_a = [OUT[0] | {"timestamp": EIGHT - 10 * n} for n in range(30, 0, -1)]
    waits_at_d = [OUT[-1] | {"timestamp": OUT[-1]["timestamp"] + 10 * n} for n in range(1, 30)]
    positions = record(tmp_path, waits_at_a + OUT + waits_at_d)
    # from the first fix behind B, 140 s after the start, to the first at D, 420 s after it
    whole = (3 * LEG_M - 140 * SPEED_MPS) / 280
    assert mean_speed_mps(positions, match_tracks(positions, feed)) == pytest.approx(whole, rel=1e-4)
    slow = drive("out", [0.0, 0.030], EIGHT + 86_400, speed_mps=4.0)
    both = record(tmp_path, OUT + slow)
    # metres over seconds of both runs together: the harmonic mean, as each drives the same way
    assert mean_speed_mps(both, match_tracks(both, feed)) == pytest.approx(2 / (1 / 8 + 1 / 4), rel=0.02)
    stands = [OUT[14] | {"timestamp": EIGHT + 140 + 10 * n} for n in range(1, 4)]  # just behind B
    parked = record(tmp_path, OUT[:15] + stands)
    assert math.isnan(mean_speed_mps(parked, match_tracks(parked, feed)))
    short = record(tmp_path, OUT[:5])
    assert math.isnan(mean_speed_mps(short, match_tracks(short, feed)))  # never past the second stop


def test_without_a_speed_the_baseline_says_zero_and_never_more_than_two_hours(tmp_path: Path, feed: Feed) -> None:
    short = score(record(tmp_path, OUT[:5]), feed, predicted(0, ("C", 40, 60.0)), given({"at_s": 100.0}))
    assert math.isnan(short.baseline_speed_mps)
    assert short.baseline.overall.bias_s == -100.0
    crawl = record(tmp_path, drive("out", [0.0, 0.030], EIGHT, speed_mps=0.25, every_s=400))
    arrivals = given({"stop_id": "D", "stop_sequence": 50, "at_s": 7000.0})
    found = score(crawl, feed, predicted(0, ("D", 50, 60.0)), arrivals)
    assert found.baseline.overall.bias_s == 200.0


def test_a_position_that_could_not_be_matched_counts_straight(tmp_path: Path, feed: Feed) -> None:
    off = OUT[6] | {"lat": 0.004, "timestamp": EIGHT + 61}  # 445 m beside the line
    positions = record(tmp_path, [*OUT, off])
    row = int(np.flatnonzero(positions.lat == 0.004)[0])
    found = score(positions, feed, predicted(row, ("C", 40, 60.0)), given({"at_s": 200.0}))
    east_m, north_m = 2 * LEG_M - 480.0, 0.004 * M_PER_DEGREE
    expected_s = math.hypot(east_m, north_m) / found.baseline_speed_mps - (200 - 61)
    assert found.baseline.overall.bias_s == pytest.approx(expected_s, abs=0.1)


def test_arrivals_of_another_town_are_refused(tmp_path: Path, feed: Feed) -> None:
    positions = record(tmp_path, OUT)
    for change in ({"trip_id": "x"}, {"vehicle_id": "x"}, {"stop_id": "x"}, {"stop_sequence": 41}):
        with pytest.raises(FeedError, match="none of the 1 arrivals fits"):
            truth_of_frame(given(change), positions, feed, match_tracks(positions, feed))
