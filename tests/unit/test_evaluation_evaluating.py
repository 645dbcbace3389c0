"""Everybody on the same held-out days; who saw them does not win; baselines know nothing of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from etacore.errors import EvaluationError, TrainingError
from etacore.mlops.evaluation.baselines import BASELINES, DISTANCE, SCHEDULE, SEGMENTS, baselines
from etacore.mlops.evaluation.candidates import short_titles
from etacore.mlops.evaluation.evaluating import evaluate
from etacore.mlops.evaluation.holding_out import hold_out
from etacore.mlops.evaluation.results import Entrant, EvaluationConfig, Identity
from etacore.mlops.evaluation.scoring import error_fan, score_entrant
from etacore.mlops.metrics import regression_metrics
from etacore.models.registry import Registry
from tests.evaluation_data import by_hand, dataset, day, linear, part, rows

QUICK = EvaluationConfig(n_resamples=200)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def test_every_candidate_is_scored_on_the_same_rows_with_the_contracts_metrics(registry: Registry) -> None:
    data = dataset()
    good, bad = linear(registry, data, 0.23), linear(registry, data, 0.4)
    found = evaluate(data, registry, QUICK)
    assert found.test_days == (day(4), day(5))
    for key, slope in ((good, 0.23), (bad, 0.4)):
        held = by_hand(data, slope)
        result = found.result(key)
        assert result.n == found.n_rows == held.height
        expected = regression_metrics(held["predicted"], held["time_to_arrival_seconds"])
        assert result.metrics == pytest.approx(expected, rel=1e-5)
        assert sum(piece.n for piece in result.by_route.values()) == result.n
        assert sum(piece.n for piece in result.by_hour.values()) == result.n
        r2 = held.filter(pl.col("route_id") == "r2")
        error = r2["predicted"] - r2["time_to_arrival_seconds"]
        assert result.by_route["r2"].mae_s == pytest.approx(error.abs().mean(), rel=1e-5)
        assert result.by_route["r2"].bias_s == pytest.approx(error.mean(), rel=1e-4)
    assert found.n_trips == 24
    names = [result.name for result in found.leaderboard]
    assert names.index(good) < names.index(bad)
    values = [result.metrics["mae_seconds"] for result in found.leaderboard]
    assert values == sorted(values)
    assert {result.name for result in found.baselines} == set(BASELINES)


def test_the_interpolated_label_is_another_truth(registry: Registry) -> None:
    data = dataset()
    key = linear(registry, data, 0.23)
    rule, passed = (evaluate(data, registry, replace(QUICK, label=label)) for label in ("rule", "interpolated"))
    assert rule.result(key).metrics["bias_seconds"] < passed.result(key).metrics["bias_seconds"]
    with pytest.raises(ValueError, match="median"):
        evaluate(data, registry, replace(QUICK, label="median"))


def test_who_saw_a_held_out_day_is_shown_and_does_not_win(registry: Registry, tmp_path: Path) -> None:
    data = dataset()
    other = part(data, (day(0), day(4)), tmp_path / "other.parquet")
    saw = linear(registry, data, 0.23, trained_on=(0, 4))
    validated = linear(
        registry, data, 0.231, provenance={"train_days": [str(day(0))], "validation_days": [str(day(5))]}
    )
    later = linear(registry, data, 0.232, provenance={"train_days": [str(date(2027, 1, 1))]})
    silent = linear(registry, data, 0.233, provenance={})
    elsewhere = linear(registry, other, 0.234, provenance={"train_days": [str(day(4))], "dataset_sha256": other.sha256})
    honest = linear(registry, data, 0.33)
    keys = (saw, validated, later, silent, elsewhere, honest)
    found = evaluate(data, registry, replace(QUICK, model_keys=keys, test_days=(day(4), day(5))))
    why = {key: found.result(key).identity.reason for key in keys}
    assert why[saw] == f"it was trained on held-out days: {day(4)}"
    assert str(day(5)) in str(why[validated])
    assert "after the first held-out one" in str(why[later])
    assert "does not say" in str(why[silent])
    assert why[elsewhere] == f"it was trained on held-out days (in other): {day(4)}"
    assert why[honest] is None
    assert found.result(honest).identity.eligible
    assert not any(found.result(key).identity.eligible for key in keys[:-1])
    assert found.result(elsewhere).identity.trained_on == "other"
    assert found.result(saw).metrics["mae_seconds"] < found.result(honest).metrics["mae_seconds"]
    assert found.recommendation.key not in keys[:-1]
    assert {key: found.recommendation.reasons[key] for key in keys[:-1]} == {key: why[key] for key in keys[:-1]}


def test_route_models_are_compared_on_their_rows_and_stay_off_the_leaderboard(registry: Registry) -> None:
    data = dataset()
    active = linear(registry, data, 0.3)
    of_route = linear(registry, data, 0.22, route_id="r1")
    nowhere = linear(registry, data, 0.22, route_id="r9")
    found = evaluate(data, registry, replace(QUICK, active_model=active))
    result = found.result(of_route)
    assert result not in found.leaderboard
    assert result in found.partial
    on_route = by_hand(data, 0.22).filter(pl.col("route_id") == "r1")
    assert result.n == on_route.height < found.n_rows
    assert set(result.by_route) == {"r1"}
    comparison = result.vs_active
    assert comparison is not None
    assert (comparison.reference, comparison.n) == (active, on_route.height)
    same_rows = by_hand(data, 0.3).filter(pl.col("route_id") == "r1")
    error = (same_rows["predicted"] - same_rows["time_to_arrival_seconds"]).abs().mean()
    assert comparison.reference_value == pytest.approx(error, rel=1e-5)
    assert found.recommendation.key != of_route
    assert found.recommendation.reasons[of_route].startswith("it serves route r1 only, where it ")
    assert found.skipped[nowhere] == "route r9 has no row on the held-out days"
    with pytest.raises(EvaluationError, match=r"cannot be evaluated: route r9 has no row"):
        evaluate(data, registry, replace(QUICK, model_keys=(nowhere,)))


def test_baselines_are_those_of_the_days_before() -> None:
    data = dataset()
    held_out = hold_out(data, QUICK)
    entrants, absent = baselines(data, held_out)
    assert not absent
    found = {entrant.identity.name: entrant.predicted_s for entrant in entrants}
    before = data.frame.filter(pl.col("service_date") < held_out.days[0])
    before = before.filter(pl.col("stop_ordinal") - pl.col("stops_ahead") >= 2)  # none waits at its first stop
    speed = before["along_route_distance_m"].to_numpy().sum() / before["time_to_arrival_seconds"].to_numpy().sum()
    test = data.frame.filter(pl.col("service_date").is_in(held_out.days))
    assert found[DISTANCE] == pytest.approx((test["along_route_distance_m"] / speed).to_numpy(), rel=1e-6)
    scheduled = (test["scheduled_arrival"] - test["vp_ts"]).dt.total_microseconds() / 1e6
    assert found[SCHEDULE] == pytest.approx(scheduled.clip(0, 7200).fill_null(np.nan).to_numpy(), nan_ok=True)
    assert 0.6 < np.isfinite(found[SCHEDULE]).mean() < 0.8
    assert np.isfinite(found[SEGMENTS]).all()
    error = {name: np.nanmean(np.abs(predicted - held_out.actual_s)) for name, predicted in found.items()}
    assert error[SEGMENTS] < error[DISTANCE]
    notes = {entrant.identity.name: str(entrant.identity.note) for entrant in entrants}
    assert f"{100 * np.isfinite(found[SCHEDULE]).mean():.1f} % of the rows" in notes[SCHEDULE]
    assert "known for" in notes[SEGMENTS]
    # what happens on the held-out days tells them nothing
    late = pl.when(pl.col("service_date") >= held_out.days[0]).then(3600).otherwise(0)
    moved = replace(
        data,
        frame=data.frame.with_columns(
            pl.col("actual_arrival", "interpolated_arrival") + pl.duration(seconds=late),
            time_to_arrival_seconds=pl.col("time_to_arrival_seconds") + late,
        ),
    )
    again = {entrant.identity.name: entrant.predicted_s for entrant in baselines(moved, hold_out(moved, QUICK))[0]}
    for name in (DISTANCE, SEGMENTS):
        assert (again[name] == found[name]).all()


def test_without_days_before_there_is_the_schedule_alone(registry: Registry) -> None:
    data = dataset()
    key = linear(registry, data, 0.23)
    found = evaluate(data, registry, replace(QUICK, n_test_days=6))
    assert found.n_rows == data.frame.height
    assert found.days_from == "all days of the dataset"
    assert [result.name for result in found.baselines] == [SCHEDULE]
    assert "no days before" in found.skipped[DISTANCE]
    assert not found.result(key).identity.eligible


def test_a_foreign_file_has_fewer_baselines(registry: Registry, tmp_path: Path) -> None:
    from etacore.mlops.dataset.layout import CONTRACT_COLUMNS, read_dataset

    path = tmp_path / "foreign.parquet"
    rows().select(list(CONTRACT_COLUMNS)).write_parquet(path)
    data = read_dataset(path, time_zone="UTC")
    key = linear(registry, data, 0.23)
    found = evaluate(data, registry, QUICK)
    assert [result.name for result in found.baselines] == [DISTANCE]
    assert {SCHEDULE, SEGMENTS} == set(found.skipped)
    assert found.result(key).is_complete


def test_candidates_are_those_of_this_dataset_and_the_active_model(registry: Registry, tmp_path: Path) -> None:
    data = dataset()
    other = part(data, (day(0), day(1), day(2)), tmp_path / "other.parquet")
    mine, foreign, active = linear(registry, data, 0.23), linear(registry, other, 0.24), linear(registry, other, 0.25)
    weather = linear(registry, data, 5.0, features=("temperature_c",))
    elsewhere = linear(registry, data, 5.0, features=("hour",), time_zone="America/Toronto")
    found = evaluate(data, registry, replace(QUICK, active_model=active))
    assert {result.name for result in found.models} == {mine, active}
    assert foreign not in found.skipped
    assert "weather" in found.skipped[weather]
    assert "America/Toronto" in found.skipped[elsewhere]
    assert found.result(active).identity.trained_on == "other"
    for key in (weather, elsewhere):
        with pytest.raises(EvaluationError, match=f"model {key} cannot be evaluated"):
            evaluate(data, registry, replace(QUICK, model_keys=(mine, key)))
    with pytest.raises(EvaluationError, match=r"cannot be evaluated: model .* in America/Toronto"):
        evaluate(data, registry, replace(QUICK, active_model=elsewhere))


def test_the_days_are_those_that_training_left_out(registry: Registry) -> None:
    data = dataset()
    provenance = {
        "dataset_sha256": data.sha256,
        "train_days": [str(day(0))],
        "validation_days": [str(day(1))],
        "test_days": [str(day(2)), str(day(3)), str(day(4))],
    }
    older, newer = linear(registry, data, 0.3), linear(registry, data, 0.23, provenance=provenance)
    found = evaluate(data, registry, QUICK)
    assert found.test_days == (day(2), day(3), day(4))
    assert found.days_from == f"those that {newer} left out in training"
    assert not found.result(older).identity.eligible
    assert evaluate(data, registry, replace(QUICK, n_test_days=1)).test_days == (day(5),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "test_speed"}, "there is no metric 'test_speed'"),
        ({"model_keys": ("absent",)}, "there is no model absent in"),
        ({"active_model": "absent"}, "there is no model absent in"),
        ({"test_days": (date(2020, 1, 1),)}, "no rows of the held-out days asked for: 2020-01-01"),
        ({"test_days": ()}, "held-out days asked for: none"),
        ({"n_test_days": 0}, "n_test_days is 0"),
        ({"n_test_days": 1, "test_days": (date(2026, 3, 2),)}, "both"),
        ({"minimize": False}, "mae_seconds is better when lower"),
        ({"metric": "r2", "minimize": True}, "r2 is better when higher"),
        ({"improvement_threshold": -0.1}, "improvement_threshold is -0.1"),
        ({"improvement_threshold": float("nan")}, "improvement_threshold is nan"),
        ({"n_resamples": 0}, "no interval"),
    ],
)
def test_what_cannot_be_compared_is_named(registry: Registry, changes: dict[str, Any], message: str) -> None:
    data = dataset()
    linear(registry, data, 0.23)
    with pytest.raises(EvaluationError, match=message):
        evaluate(data, registry, replace(QUICK, **changes))
    assert not (registry.path / "evaluations").exists()


def test_too_little_to_compare_is_named(registry: Registry, tmp_path: Path) -> None:
    data = dataset()
    with pytest.raises(EvaluationError, match=r"no model of .* was trained on dataset week"):
        evaluate(data, registry, QUICK)
    linear(registry, data, 0.23)
    far = replace(data, frame=data.frame.with_columns(time_to_arrival_seconds=pl.lit(9000.0)))
    with pytest.raises(EvaluationError, match="no row to score on 2026-03-06, 2026-03-07"):
        evaluate(far, registry, QUICK)
    short = part(data, (day(0), day(1)), tmp_path / "short.parquet")
    linear(registry, short, 0.23)
    with pytest.raises(TrainingError, match="too few"):
        evaluate(short, registry, QUICK)


def test_rows_without_a_usable_label_are_counted(registry: Registry) -> None:
    data = dataset()
    key = linear(registry, data, 0.23)
    strange = pl.when(pl.int_range(pl.len()) >= pl.len() - 7).then(-1.0).otherwise(pl.col("time_to_arrival_seconds"))
    found = evaluate(replace(data, frame=data.frame.with_columns(time_to_arrival_seconds=strange)), registry, QUICK)
    assert found.n_dropped == 7
    assert found.result(key).n == found.n_rows == by_hand(data, 0.23).height - 7


def test_labels_from_now_to_two_hours_are_usable_both_included() -> None:
    data = dataset()
    seconds = data.frame["time_to_arrival_seconds"].to_list()
    borders = [0.0, 7200.0, -0.001, 7200.001, float("nan")]
    seconds[-5:] = borders
    frame = data.frame.with_columns(time_to_arrival_seconds=pl.Series(seconds))
    held_out = hold_out(replace(data, frame=frame), QUICK)
    assert held_out.actual_s[-2:].tolist() == [0.0, 7200.0]
    assert held_out.n_dropped == 3
    assert held_out.rows[-5:].tolist() == [True, True, False, False, False]


def test_a_fan_s_bins_begin_at_their_lower_edge_and_end_before_the_upper_one() -> None:
    predicted = np.array([0.0, 59.9, 60.0, 1499.9, 1500.0, 1799.9, 1800.0])
    fans = error_fan(predicted, predicted + np.arange(7.0))
    assert [(fan.from_min, fan.to_min, fan.n) for fan in fans] == [(0, 1, 2), (1, 2, 1), (20, 25, 1), (25, 30, 2)]
    assert [fan.quantiles_s[2] for fan in fans] == [0.5, 2.0, 3.0, 4.5]


def test_two_minutes_are_within_two_minutes() -> None:
    data = dataset()
    held_out = hold_out(data, QUICK)
    for off_s, within in ((120.0, 1.0), (-120.0, 1.0), (120.1, 0.0)):
        whole = replace(held_out, actual_s=np.round(held_out.actual_s))
        predicted = (whole.actual_s + off_s).astype(np.float32)
        result = score_entrant(Entrant(Identity(name="m", kind="model", model_type="t"), predicted), whole)
        assert {piece.within_120s for piece in result.by_hour.values()} == {within}
        assert result.metrics["within_120s"] == within


def test_the_same_evaluation_gives_the_same_numbers(registry: Registry) -> None:
    data = dataset()
    active = linear(registry, data, 0.3)
    linear(registry, data, 0.23)
    one, two = (evaluate(data, registry, replace(QUICK, active_model=active)).to_dict() for _ in range(2))
    assert {**one, "created_at": None} == {**two, "created_at": None}


def test_titles_are_short_and_each_its_own(registry: Registry) -> None:
    data = dataset()
    keys = [
        linear(registry, data, 0.2),
        linear(registry, data, 0.2),
        linear(registry, data, 0.2, features=("distance_to_stop", "hour")),
        linear(registry, data, 0.2, route_id="r1"),
        linear(registry, data, 0.2, model_type="polyreg_time"),
    ]
    titles = short_titles([registry.manifest(key) for key in keys])
    assert [titles[key] for key in keys] == [
        "polyreg_distance #1",
        "polyreg_distance #2",
        "polyreg_distance spatial-temporal",
        "polyreg_distance route r1",
        "polyreg_time",
    ]
