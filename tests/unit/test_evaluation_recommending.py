"""Who is recommended, and the one reason for which each of the others is not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Literal

import numpy as np
import pytest

from etacore.mlops.evaluation.recommending import recommend
from etacore.mlops.evaluation.results import Entrant, EvaluationConfig, HeldOut, Identity, Recommendation, Result
from etacore.mlops.evaluation.scoring import score_all
from etacore.mlops.metrics import find_metric

N_TRIPS, PER_TRIP = 60, 10
RNG = np.random.default_rng(1)
TRIP = np.repeat(np.arange(N_TRIPS), PER_TRIP)
ACTUAL = RNG.uniform(200, 1500, TRIP.size)
NOISE = RNG.choice([-1.0, 1.0], TRIP.size)
HELD_OUT = HeldOut(
    rows=np.ones(TRIP.size, dtype=bool),
    history=np.zeros(TRIP.size, dtype=bool),
    days=(date(2026, 3, 2),),
    days_from="as asked",
    n_dropped=0,
    actual_s=ACTUAL,
    trip=TRIP,
    route=np.where(TRIP < 20, "1", "2"),
    hour=TRIP % 24,
)


def entrant(
    name: str,
    mae_s: float,
    kind: Literal["model", "baseline"] = "model",
    spread_s: float = 1.0,
    rows: Any = slice(None),
    **fields: Any,
) -> Entrant:
    """An exact mean absolute error that differs by about `spread_s` between trips."""
    by_trip = np.random.default_rng(len(name)).normal(0, spread_s, N_TRIPS)
    size = np.abs(mae_s + (by_trip - by_trip.mean())[TRIP])
    predicted = np.full(TRIP.size, np.nan, dtype=np.float32)
    predicted[rows] = (ACTUAL + NOISE * size)[rows]
    return Entrant(Identity(name=name, kind=kind, model_type="t", title=name.upper(), **fields), predicted)


BASELINE = entrant("speed", 60, "baseline")


def judge(*entrants: Entrant, **options: Any) -> tuple[Recommendation, Mapping[str, Result]]:
    config = EvaluationConfig(n_resamples=300, **options)
    metric = find_metric(config.metric)
    results = score_all([*entrants, BASELINE], HELD_OUT, metric, config)
    return recommend(results, metric, config), {result.name: result for result in results}


def test_the_best_that_beats_the_active_model_by_the_threshold() -> None:
    found, _ = judge(
        entrant("active", 50),
        entrant("best", 40),
        entrant("second", 44),
        entrant("slightly", 49),
        entrant("worse", 55),
        entrant("unsure", 48.5, spread_s=14),
        entrant("cheat", 10, eligible=False, reason="it saw the day"),
        active_model="active",
    )
    assert found.key == "best"
    assert found.text.startswith("Promote BEST (best): mae_seconds 40.0 s, 20.0 % [")
    assert found.text.endswith("] better than the active model.")
    reasons = dict(found.reasons)
    assert reasons.pop("active") == "it is the active model"
    assert reasons.pop("second") == "BEST is better: 40.0 s against 44.0 s"
    assert reasons.pop("slightly") == "it improves on the active model by +2.0 %, less than the 5 % asked for"
    assert reasons.pop("worse").startswith("it is no better than the active model: +5.0 s [+4.")
    assert reasons.pop("unsure").endswith("may be chance: the interval holds 0")
    assert reasons.pop("cheat") == "it saw the day"
    assert not reasons


def test_a_threshold_may_be_nothing_or_too_much() -> None:
    models = entrant("active", 50), entrant("slightly", 49)
    assert judge(*models, active_model="active", improvement_threshold=0.0)[0].key == "slightly"
    found, _ = judge(*models, active_model="active")
    assert found.key is None
    assert found.text == (
        "Keep ACTIVE (active). No eligible candidate beats the active model by 5 % with an interval that excludes no "
        "difference."
    )


def test_without_an_active_model_the_baselines_are_the_bar() -> None:
    found, results = judge(entrant("best", 40), entrant("second", 41), entrant("worse", 61))
    assert found.key == "best"
    assert "better than the best baseline, speed" in found.text
    assert found.reasons["worse"] == "the baseline SPEED is better: 60.0 s against 61.0 s"
    assert results["best"].vs_active is None
    comparison = results["best"].vs_baseline
    assert comparison is not None
    assert comparison.reference == "speed"
    assert results["speed"].vs_baseline is None
    found, _ = judge(entrant("worse", 61))
    assert (found.key, found.text[:21]) == (None, "Promote none of them.")


def test_a_model_that_does_not_predict_every_row_is_never_recommended() -> None:
    found, results = judge(
        entrant("active", 50),
        entrant("route", 10, rows=TRIP < 20, route_id="1"),
        entrant("gaps", 10, rows=TRIP < 59),
        active_model="active",
    )
    assert found.key is None
    assert found.reasons["route"] == "it serves route 1 only, where it beats the active model (+80.1 %)"
    assert found.reasons["gaps"] == "it predicts only 98.3 % of the rows"
    assert results["route"].coverage == pytest.approx(1 / 3)
    assert list(results) == ["active", "speed", "gaps", "route"]


def test_an_active_model_that_saw_the_days_is_still_the_one_to_beat() -> None:
    found, _ = judge(
        entrant("active", 50, eligible=False, reason="it was trained on held-out days"),
        entrant("best", 40),
        active_model="active",
    )
    assert found.key == "best"
    assert found.text.endswith("not honest on these days: it was trained on held-out days.")


def test_another_metric_may_be_better_when_higher() -> None:
    found, results = judge(
        entrant("active", 60.0, spread_s=5),
        entrant("best", 50.0, spread_s=5),
        active_model="active",
        metric="test_within_60s",
    )
    assert found.key == "best"
    assert next(iter(results)) == "best"
    assert found.text.startswith("Promote BEST (best): within_60s ")
    assert " %, " in found.text


def test_an_active_route_model_is_compared_where_it_predicts() -> None:
    found, results = judge(
        entrant("active", 50, rows=TRIP < 20, route_id="1"), entrant("best", 40), active_model="active"
    )
    comparison = results["best"].vs_active
    assert comparison is not None
    assert comparison.n == 200
    assert found.key == "best"


def twin(of: Entrant, name: str, **fields: Any) -> Entrant:
    """Another model that predicts the very same."""
    return Entrant(Identity(name=name, kind="model", model_type="t", title=name.upper(), **fields), of.predicted_s)


def test_as_good_as_the_baseline_is_not_better() -> None:
    found, results = judge(twin(BASELINE, "copy"))
    assert found.key is None
    assert found.reasons == {"copy": "the baseline SPEED is as good: 60.0 s against 60.0 s"}
    comparison = results["copy"].vs_baseline
    assert comparison is not None
    assert (comparison.difference, comparison.improvement, comparison.beats()) == (0.0, 0.0, False)


def test_as_good_as_any_one_of_several_baselines_is_not_better() -> None:
    tied = entrant("schedule", 40, "baseline")
    found, results = judge(twin(tied, "copy"), tied)
    assert (found.key, found.reasons["copy"]) == (None, "the baseline SCHEDULE is as good: 40.0 s against 40.0 s")
    comparison = results["speed"].vs_baseline
    assert comparison is not None
    assert comparison.reference == "schedule"  # the best of those that predict every row


def test_a_baseline_with_gaps_is_no_bar() -> None:
    found, _ = judge(entrant("model", 50), entrant("schedule", 5, "baseline", rows=TRIP < 59))
    assert found.key == "model"


def test_as_good_as_the_active_model_is_not_better_even_without_a_threshold() -> None:
    active = entrant("active", 40)
    found, _ = judge(active, twin(active, "copy"), active_model="active", improvement_threshold=0.0)
    assert found.key is None
    assert found.reasons["copy"] == "it is no better than the active model: +0.0 s [+0.0, +0.0]"
    assert found.text.startswith("Keep ACTIVE (active).")


def test_of_two_equal_candidates_the_first_by_name_is_recommended() -> None:
    best = entrant("best", 40)
    for order in (("a", "b"), ("b", "a")):
        found, results = judge(*(twin(best, name) for name in order), entrant("active", 60), active_model="active")
        assert found.key == "a"
        assert list(results)[:2] == ["a", "b"]
        assert set(found.reasons) == {"active", "b"}
        assert found.text.startswith("Promote A (a)")


def test_exactly_the_threshold_is_enough() -> None:
    reference = Entrant(Identity(name="active", kind="model", model_type="t"), (ACTUAL + 64.0).astype(np.float32))
    better = Entrant(Identity(name="new", kind="model", model_type="t"), (ACTUAL + 48.0).astype(np.float32))
    _, results = judge(reference, better, active_model="active")
    comparison = results["new"].vs_active
    assert comparison is not None
    exact = comparison.improvement
    assert exact == pytest.approx(0.25, abs=1e-6)
    assert judge(reference, better, active_model="active", improvement_threshold=exact)[0].key == "new"
    found, _ = judge(reference, better, active_model="active", improvement_threshold=exact + 1e-9)
    assert found.key is None
    assert found.reasons["new"] == "it improves on the active model by +25.0 %, less than the 25 % asked for"
