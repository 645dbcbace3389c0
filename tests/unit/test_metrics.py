import math

import numpy as np
import pytest
from scipy import stats

from etacore import accuracy
from etacore.errors import EvaluationError
from etacore.mlops.metrics import METRICS, find_metric, metric_value, prefixed, regression_metrics

NAMES = (
    "mae_seconds", "mae_minutes", "rmse_seconds", "rmse_minutes", "mape", "median_ae", "bias_seconds", "r2",
    "within_60s", "within_120s", "within_300s", "late_penalty_mae", "error_q50", "error_q90", "error_q95",
)  # fmt: skip


def test_by_hand() -> None:
    actual = [99.0, 199.0, 299.0, 399.0]
    predicted = [109.0, 179.0, 299.0, 699.0]  # errors +10, -20, 0, +300
    found = regression_metrics(predicted, actual)
    assert tuple(found) == tuple(METRICS) == NAMES
    assert found == pytest.approx(
        {
            "mae_seconds": 82.5,
            "mae_minutes": 1.375,
            "rmse_seconds": math.sqrt(90_500 / 4),
            "rmse_minutes": math.sqrt(90_500 / 4) / 60,
            "mape": 100 * (10 / 100 + 20 / 200 + 0 + 300 / 400) / 4,
            "median_ae": 15.0,
            "bias_seconds": 72.5,
            "r2": 1 - 90_500 / 50_000,  # deviations -150, -50, 50, 150
            "within_60s": 0.75,
            "within_120s": 0.75,
            "within_300s": 1.0,
            "late_penalty_mae": (10 + 2 * 20 + 0 + 300) / 4,
            "error_q50": 15.0,
            "error_q90": 20 + 0.7 * 280,  # sorted 0 10 20 300, position 2.7
            "error_q95": 20 + 0.85 * 280,
        }
    )
    assert all(type(value) is float for value in found.values())


def test_against_scipy_by_other_formulas() -> None:
    rng = np.random.default_rng(3)
    actual = rng.uniform(0, 2000, 5001)
    predicted = np.clip(1.05 * actual + rng.normal(10, 90, actual.size), 0, None)
    found = regression_metrics(predicted.tolist(), actual)
    errors = stats.describe(predicted - actual)
    assert found["bias_seconds"] == pytest.approx(errors.mean)
    assert found["rmse_seconds"] ** 2 == pytest.approx(errors.variance * (1 - 1 / 5001) + errors.mean**2)
    assert found["r2"] == pytest.approx(1 - found["rmse_seconds"] ** 2 / stats.describe(actual, ddof=0).variance)
    absolute = np.sort(np.abs(predicted - actual))
    for name, q in (("median_ae", 0.5), ("error_q50", 0.5), ("error_q90", 0.9), ("error_q95", 0.95)):
        assert found[name] == pytest.approx(stats.mstats.mquantiles(absolute, q, alphap=1, betap=1)[0])
    for limit in (60, 120, 300):
        below = stats.percentileofscore(absolute, limit, kind="weak")
        assert found[f"within_{limit}s"] == pytest.approx(below / 100)
    assert found["mape"] == pytest.approx(100 * np.average(np.abs(predicted / (actual + 1) - actual / (actual + 1))))
    early, late = np.maximum(predicted - actual, 0), np.maximum(actual - predicted, 0)
    assert found["mae_seconds"] == pytest.approx(early.mean() + late.mean())
    assert found["late_penalty_mae"] == pytest.approx(early.mean() + 2 * late.mean())
    assert found["mae_seconds"] == pytest.approx(accuracy.mae_s(predicted, actual))


@pytest.mark.parametrize(
    ("mae", "bias", "late"),
    [
        (22.558625962231662, -2.391851930827885, 35.03386490876144),
        (26.962020013282373, -6.077252948486501, 43.48165649416681),
    ],
)
def test_the_late_penalty_is_that_of_models_in_the_field(mae: float, bias: float, late: float) -> None:
    # what such a model recorded: mean of late and of early errors follow from MAE and bias
    early_part, late_part = (mae + bias) / 2, (mae - bias) / 2
    found = regression_metrics([100 + 4 * early_part, 100, 100, 100 - 4 * late_part], [100.0] * 4)
    assert found["mae_seconds"] == pytest.approx(mae)
    assert found["bias_seconds"] == pytest.approx(bias)
    assert found["late_penalty_mae"] == pytest.approx(late, rel=1e-12)


def test_limits_belong_to_within() -> None:
    assert regression_metrics([60.0, 160.001], [0.0, 100.0])["within_60s"] == 0.5


def test_without_samples_all_is_unknown_and_r2_needs_spread() -> None:
    assert all(math.isnan(value) for value in regression_metrics([], []).values())
    assert math.isnan(regression_metrics([1.0, 3.0], [2.0, 2.0])["r2"])
    assert regression_metrics([1.0, 2.0], [1.0, 2.0])["r2"] == 1.0


def test_float32_predictions_are_summed_in_float64() -> None:
    actual = np.full(300_000, 100.0)
    predicted = np.full(300_000, 100.1, dtype=np.float32)
    assert regression_metrics(predicted, actual)["mae_seconds"] == pytest.approx(
        float(np.float32(100.1)) - 100, rel=1e-9
    )


def test_prefixes_and_single_values() -> None:
    assert prefixed({"r2": 0.5}, "val") == {"val_r2": 0.5}
    for name in ("test_mae_seconds", "mae_seconds", "val_mae_seconds", "train_mae_seconds"):
        assert find_metric(name) is METRICS["mae_seconds"]
    assert metric_value("test_bias_seconds", [3.0], [1.0]) == 2.0


@pytest.mark.parametrize("name", ["mae", "test_test_mae_seconds", "tests_mae_seconds", "", "test_"])
def test_an_unknown_metric_is_named_with_those_there_are(name: str) -> None:
    with pytest.raises(EvaluationError, match="there is no metric") as caught:
        find_metric(name)
    assert repr(name) in caught.value.message
    assert "within_120s" in (caught.value.hint or "")


def test_a_loss_is_small_where_a_metric_is_good() -> None:
    assert METRICS["mae_seconds"].loss(3.0) == 3.0
    assert METRICS["within_60s"].loss(0.9) < METRICS["within_60s"].loss(0.8)
    assert METRICS["bias_seconds"].loss(-9.0) > METRICS["bias_seconds"].loss(3.0)


@pytest.mark.parametrize(
    ("predicted", "actual", "message"),
    [([1.0], [1.0, 2.0], "one length"), ([1.0, math.nan], [1.0, 2.0], "row 1"), ([1.0], [math.inf], "row 0")],
)
def test_what_cannot_be_measured_is_refused(predicted: list[float], actual: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regression_metrics(predicted, actual)
