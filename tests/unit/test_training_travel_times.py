"""Typical times from arrivals, checked against sums done by hand, and never from a row's own day."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from etacore.errors import TrainingError
from etacore.mlops.dataset.layout import Dataset
from etacore.mlops.training.travel_times import (
    MAX_LEG_S,
    PRIOR_N,
    fit_typical,
    observed_legs,
    typical_seconds,
    typical_seconds_by_day,
)
from etacore.models.travel_times import TypicalTimes

DAY = date(2026, 3, 2)
PATTERN = ("O", "A", "B", "C")


def visit_rows(day: int, hour: int, leg_s: tuple[float, float], *, trip: str = "t", minute: int = 0) -> list[dict]:
    """One fix at the first stop O, 60 s before A, and the three arrivals that it sees."""
    at_a = datetime(2026, 3, 2, hour, minute, tzinfo=UTC) + timedelta(days=day)
    arrivals = np.cumsum([0.0, *leg_s])
    return [
        {
            "trip_id": trip,
            "vehicle_id": "v",
            "route_id": "r",
            "pattern_id": "p",
            "stop_id": PATTERN[i + 1],
            "stop_ordinal": i + 2,
            "stops_ahead": i + 1,
            "leg_left": 1.0,
            "along_route_distance_m": 100.0 + 400.0 * i,
            "vp_ts": at_a - timedelta(seconds=60),
            "actual_arrival": at_a + timedelta(seconds=float(arrivals[i]) + 5.0),
            "interpolated_arrival": at_a + timedelta(seconds=float(arrivals[i])),
            "service_date": DAY + timedelta(days=day),
            "hour": (at_a - timedelta(seconds=60)).hour,
        }
        for i in range(3)
    ]


def dataset(rows: list[dict], time_zone: str = "UTC") -> Dataset:
    frame = pl.DataFrame(rows)
    return Dataset("d", Path("d.parquet"), frame, time_zone, None, "along_route", {"p": PATTERN}, "0" * 64)


def test_a_leg_is_from_arrival_to_arrival_once_however_many_fixes_saw_it():
    rows = visit_rows(0, 8, (70, 90))
    legs = observed_legs(dataset([*rows, *[row | {"vp_ts": row["vp_ts"] - timedelta(seconds=30)} for row in rows]]))
    assert legs.select("stop_id", "hour", "leg_s").rows() == [("B", 8, 70.0), ("C", 8, 90.0), ("A", 7, 60.0)]


def test_the_first_leg_is_what_the_last_fix_in_its_first_half_had_left():
    def fix(before_s: int, left: float, **changes) -> dict:
        row = visit_rows(0, 8, (60, 90))[0]
        return row | {"vp_ts": row["interpolated_arrival"] - timedelta(seconds=before_s), "leg_left": left} | changes

    waiting, moving, nearly = fix(500, 1.0), fix(60, 0.75), fix(20, 0.25)
    assert observed_legs(dataset([waiting, moving, nearly]))["leg_s"].to_list() == [80.0]
    assert observed_legs(dataset([nearly])).is_empty()
    on_the_second = fix(60, 0.75, stop_ordinal=3, stop_id="B")
    assert observed_legs(dataset([on_the_second])).is_empty()
    # The arrival at the first stop, if it was seen, is where the layover begins and not the leg.
    origin = fix(700, 1.0, stop_ordinal=1, stop_id="O", interpolated_arrival=waiting["vp_ts"])
    assert observed_legs(dataset([origin, moving]))["leg_s"].to_list() == [80.0]
    table = fit_typical(dataset([waiting, moving, nearly]))
    assert table.leg_m("r", "A") == pytest.approx(100 / 0.75, abs=50)


def test_each_run_of_a_trip_on_a_day_has_legs_of_its_own():
    first = [row | {"run_number": 1} for row in visit_rows(0, 8, (60, 90))]
    second = [row | {"run_number": 2} for row in visit_rows(0, 8, (70, 80), minute=30)]
    legs = observed_legs(dataset([*first, second[0], second[1]])).sort("stop_id", "leg_s")
    assert legs.select("stop_id", "leg_s").rows() == [("A", 60.0), ("A", 60.0), ("B", 60.0), ("B", 70.0), ("C", 90.0)]


def test_without_interpolated_times_the_rule_s_arrival_counts():
    rows = visit_rows(0, 8, (60, 90))
    rows[1]["actual_arrival"] += timedelta(seconds=7)
    bare = replace(dataset(rows), frame=dataset(rows).frame.drop("interpolated_arrival"))
    rows[1]["interpolated_arrival"] = None
    assert observed_legs(bare)["leg_s"].to_list() == [67.0, 83.0, 65.0]
    assert observed_legs(dataset(rows))["leg_s"].to_list() == [72.0, 78.0, 60.0]


def test_a_leg_is_not_made_across_a_stop_that_was_not_seen_or_of_two_vehicles():
    rows = visit_rows(0, 8, (60, 90))
    assert observed_legs(dataset([rows[0], rows[2]]))["stop_id"].to_list() == ["A"]
    other = [rows[0], rows[1] | {"vehicle_id": "w"}]
    assert observed_legs(dataset(other))["stop_id"].to_list() == ["A"]


@pytest.mark.parametrize("leg_s", [0.0, -5.0, 3601.0])
def test_breaks_and_arrivals_out_of_order_are_no_legs(leg_s):
    assert observed_legs(dataset(visit_rows(0, 8, (leg_s, 90))))["leg_s"].to_list() == [90.0, 60.0]


def test_the_longest_way_that_is_no_break():
    assert observed_legs(dataset(visit_rows(0, 8, (MAX_LEG_S, 90))))["leg_s"].to_list() == [3600.0, 90.0, 60.0]


def test_half_of_the_first_leg_is_in_its_first_half_and_a_tenth_tells_its_length():
    row = visit_rows(0, 8, (60, 90))[0]
    half = row | {"leg_left": 0.5}
    assert observed_legs(dataset([half]))["leg_s"].to_list() == [120.0]
    tenth = row | {"leg_left": 0.1, "vp_ts": row["vp_ts"] + timedelta(seconds=40)}
    leg_m = fit_typical(dataset([half, tenth])).leg_m("r", "A")
    assert leg_m == pytest.approx((100 / 0.5 + 100 / 0.1) / 2)


def test_the_first_and_the_last_hour_of_the_day_are_learned_each_for_itself():
    rows = [*visit_rows(0, 0, (60, 90), minute=30), *visit_rows(1, 23, (100, 90), minute=30, trip="u")]
    legs = fit_typical(dataset(rows)).legs("r", PATTERN)
    assert legs[0, 2] == pytest.approx((60 + PRIOR_N * 80) / (1 + PRIOR_N), abs=1e-3)
    assert legs[23, 2] == pytest.approx((100 + PRIOR_N * 80) / (1 + PRIOR_N), abs=1e-3)
    assert legs[[1, 12, 22], 2].tolist() == [80.0] * 3
    late = dataset(rows)
    assert typical_seconds(late, None, fit_typical(late))[-1] == pytest.approx(
        float(legs[23, 1]) + float(legs[23, 2]) + float(legs[23, 3])
    )


def test_the_hour_is_local_and_that_of_the_start_of_the_leg():
    legs = observed_legs(dataset(visit_rows(0, 8, (60, 90), minute=59), "America/Toronto"))
    assert legs["hour"].to_list()[:2] == [3, 4]  # 08:59 and 09:00 UTC


def test_an_hour_is_pulled_to_the_mean_of_all_hours():
    rows = [*visit_rows(0, 8, (60, 90)), *visit_rows(1, 8, (80, 90)), *visit_rows(1, 12, (100, 90), trip="u")]
    table = fit_typical(dataset(rows))
    legs = table.legs("r", PATTERN)
    mean = (60 + 80 + 100) / 3
    assert legs[8, 2] == pytest.approx((140 + PRIOR_N * mean) / (2 + PRIOR_N), abs=1e-3)
    assert legs[12, 2] == pytest.approx((100 + PRIOR_N * mean) / (1 + PRIOR_N), abs=1e-3)
    assert legs[3, 2] == pytest.approx(mean, abs=1e-3)
    assert legs[:, 0].tolist() == [0.0] * 24
    assert table.leg_m("r", "C") == 400.0


def test_the_same_legs_in_another_order_give_the_same_bytes():
    rows = [row for day in range(5) for row in visit_rows(day, 8 + day, (60.1 + day / 3, 90.7 * (day + 1)))]
    straight, back = fit_typical(dataset(rows)), fit_typical(dataset(rows[::-1]))
    assert straight.to_json() == back.to_json()
    again = TypicalTimes.from_json(straight.to_json())
    assert np.array_equal(again.legs("r", PATTERN), straight.legs("r", PATTERN))


def test_the_sum_is_the_one_that_serving_makes():
    rows = visit_rows(0, 8, (60.3, 90.7))
    for row, share, ahead in zip(rows, (0.9, 0.3, 0.7), (1, 1, 2), strict=True):
        row |= {"leg_left": float(np.float32(share)), "stops_ahead": ahead}
    data = dataset(rows)
    table = fit_typical(data)
    legs = table.legs("r", PATTERN)
    # Row 0 is on its way to A, row 1 to B; row 2 sees C, with B the next stop.
    expected = [
        np.float64(np.float32(0.9)) * np.float64(legs[7, 1]),
        np.float64(np.float32(0.3)) * np.float64(legs[7, 2]),
        np.float64(np.float32(0.7)) * np.float64(legs[7, 2]) + np.float64(legs[7, 3]),
    ]
    assert not np.isnan(expected).any()
    assert typical_seconds(data, None, table).tolist() == expected
    assert typical_seconds(data, np.array([2, 0]), table).tolist() == [expected[2], expected[0]]
    assert typical_seconds(data, np.array([False, True, False]), table).tolist() == [expected[1]]


def test_what_the_table_does_not_know_is_nan():
    known, unknown = visit_rows(0, 8, (60, 90)), [row | {"route_id": "x"} for row in visit_rows(0, 8, (60, 90))]
    table = fit_typical(dataset(known))
    assert np.isnan(typical_seconds(dataset(unknown), None, table)).all()
    # The first stop of a pattern ends no leg: on the way to it nothing of the pattern has begun.
    start = known[0] | {"stop_ordinal": 1, "stop_id": "O"}
    assert typical_seconds(dataset([start]), None, table).tolist() == [0.0]
    unsure = replace(dataset(known), frame=dataset(known).frame.with_columns(leg_left=pl.lit(None, pl.Float64)))
    assert np.isnan(typical_seconds(unsure, None, table)).all()


def test_a_training_row_is_given_the_other_days_and_never_its_own():
    rows = [*visit_rows(0, 8, (60, 90)), *visit_rows(1, 8, (600, 90)), *visit_rows(2, 8, (61, 90))]
    data = dataset(rows)
    everything = np.arange(len(rows))
    found = typical_seconds_by_day(data, everything)
    for day in range(3):
        mine = everything[data.frame["service_date"].to_numpy() == np.datetime64(DAY + timedelta(days=day))]
        others = np.setdiff1d(everything, mine)
        assert np.array_equal(found[mine], typical_seconds(data, mine, fit_typical(data, others)))
    # Whatever happened on a day, its own rows are told nothing of it.
    changed = [*rows[:3], *visit_rows(1, 8, (1200, 300)), *rows[6:]]
    assert np.array_equal(typical_seconds_by_day(dataset(changed), everything)[3:6], found[3:6])
    assert not np.array_equal(typical_seconds_by_day(dataset(changed), everything)[:3], found[:3])


def test_rows_outside_the_mask_teach_nothing():
    rows = [*visit_rows(0, 8, (60, 90)), *visit_rows(1, 8, (600, 900))]
    first = np.arange(6) < 3
    assert fit_typical(dataset(rows), first).to_json() == fit_typical(dataset(rows[:3])).to_json()


def test_with_one_day_nothing_is_known_of_the_others():
    assert np.isnan(typical_seconds_by_day(dataset(visit_rows(0, 8, (60, 90))), np.arange(3))).all()


def test_a_dataset_that_does_not_know_its_patterns_is_refused():
    data = dataset(visit_rows(0, 8, (60, 90)))
    with pytest.raises(TrainingError, match="stop_ordinal"):
        fit_typical(replace(data, frame=data.frame.drop("stop_ordinal")))
    with pytest.raises(TrainingError, match="pattern 'p'"):
        typical_seconds(replace(data, patterns={}), None, fit_typical(data))
    with pytest.raises(TrainingError, match="two stops in a row"):
        fit_typical(dataset(visit_rows(0, 8, (60, 90))[1:2]))
