"""The probes: what a pipeline must not know, and that they notice when it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from etacore.errors import TrainingError
from etacore.mlops.dataset.split import split_days
from etacore.mlops.training import TrainingConfig, train
from etacore.mlops.training.families import _group_means, fit_family
from etacore.mlops.training.leakage import MAX_ERROR_LEFT, MIN_ROWS, errors_left, find_leaks
from etacore.mlops.training.parts import Prepared
from tests import training_data

FAST = {"n_estimators": 25}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return training_data.save(training_data.frame(5), tmp_path_factory.mktemp("d") / "town.parquet")


@pytest.fixture(scope="module")
def split(dataset):
    return split_days(dataset)


def shuffled(dataset, seed=3):
    """The same rows with the times to arrival dealt out anew: there is nothing to learn."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    seconds = dataset.frame["time_to_arrival_seconds"].to_numpy()[order]
    arrival = pl.col("vp_ts") + pl.duration(microseconds=pl.Series("us", (seconds * 1e6).astype(np.int64)))
    frame = dataset.frame.with_columns(
        time_to_arrival_seconds=pl.Series(seconds), actual_arrival=arrival, interpolated_arrival=arrival
    )
    return replace(dataset, frame=frame)


def gain_in_standard_errors(predicted, truth):
    """How much better than the best constant, in standard errors.

    The labels are independent of everything, so no prediction can expect to beat their median, and the differences
    of the absolute errors are independent: their mean is normal with the standard error below.
    """
    gain = np.abs(truth - np.median(truth)) - np.abs(truth - predicted)
    return gain.mean() / (gain.std(ddof=1) / np.sqrt(len(gain)))


LIMIT = 4.0  # one false alarm in 30 000


@pytest.mark.parametrize("model_type", ["polyreg_distance", "polyreg_time", "xgboost", "historical_mean", "ewma"])
def test_shuffled_labels_give_no_skill(dataset, model_type):
    config = TrainingConfig(model_types=(model_type,), hyperparameters=FAST if model_type == "xgboost" else {})
    scope = Prepared(shuffled(dataset), config).scope()
    fitted = fit_family(model_type, scope, config, lambda *_: None)
    assert gain_in_standard_errors(fitted.predictions[1], scope.test.seconds) < LIMIT


def test_shuffled_labels_give_no_skill_through_typical_times(dataset):
    config = TrainingConfig(model_types=("xgboost",), features="best", hyperparameters=FAST)
    scope = Prepared(shuffled(dataset), config).scope()
    fitted = fit_family("xgboost", scope, config, lambda *_: None)
    assert gain_in_standard_errors(fitted.predictions[1], scope.test.seconds) < LIMIT


def test_the_shuffle_catches_a_table_that_was_made_with_the_test_rows(dataset):
    data = shuffled(dataset)
    scope = Prepared(data, TrainingConfig()).scope()
    part_of_trip = (pl.col("vp_ts").dt.minute() // 2).cast(pl.Int64)
    frame = data.frame.select(
        pl.col("trip_id").rank("dense").cast(pl.Int64), "stop_sequence", part_of_trip, "day_of_week"
    )
    levels, means = _group_means(frame.to_numpy(), data.label_seconds().to_numpy())
    table = {tuple(level): mean for level, mean in zip(levels.tolist(), means, strict=True)}
    predicted = np.array([table[row] for row in frame[scope.test.rows].iter_rows()])
    assert gain_in_standard_errors(predicted, scope.test.seconds) > 3 * LIMIT


def test_honest_columns_are_not_accused(dataset, split):
    assert find_leaks(dataset, split) == ()
    left = errors_left(dataset, split)
    assert {"recent_speed_mps", "since_last_stop_s", "hour", "along_route_distance_m", "is_peak_hour"} <= set(left)
    assert min(left.values()) > 2 * MAX_ERROR_LEFT
    assert not {"time_to_arrival_seconds", "actual_arrival", "interpolated_arrival"} & set(left)


def future_speed(frame):
    return pl.col("along_route_distance_m") / pl.col("time_to_arrival_seconds").clip(1)


FUTURE = {
    "the speed still to be driven": future_speed,
    "the label with noise": lambda frame: (
        pl.col("time_to_arrival_seconds") + pl.Series(np.random.default_rng(1).normal(0, 5, len(frame)))
    ),
    "its logarithm": lambda frame: pl.col("time_to_arrival_seconds").log1p(),
    "minutes left, as a whole number": lambda frame: (pl.col("time_to_arrival_seconds") / 30).round(),
}


@pytest.mark.parametrize("column", ["recent_speed_mps", "current_speed_kmh"])
@pytest.mark.parametrize("future", FUTURE.values(), ids=FUTURE.keys())
def test_a_column_from_the_future_is_caught_and_it_alone(dataset, split, column, future):
    frame = dataset.frame.with_columns(future(dataset.frame).alias(column))
    columns = [column, "hour", "leg_left"]
    leaks = find_leaks(replace(dataset, frame=frame), split, columns=columns)
    assert [leak.column for leak in leaks] == [column]
    assert column in leaks[0].line()


def test_a_time_is_looked_at_from_the_moment_of_the_fix(dataset, split):
    frame = dataset.frame.with_columns(left_at=pl.col("actual_arrival") + pl.duration(seconds=20))
    assert [leak.column for leak in find_leaks(replace(dataset, frame=frame), split, columns=["left_at"])] == [
        "left_at"
    ]


def test_training_refuses_such_a_dataset_unless_it_is_allowed(dataset):
    broken = replace(dataset, frame=dataset.frame.with_columns(current_speed_kmh=future_speed(dataset.frame)))
    config = {"model_types": ("polyreg_distance",)}
    with pytest.raises(TrainingError, match="current_speed_kmh") as caught:
        train(broken, None, TrainingConfig(**config))
    assert "future" in caught.value.message
    report = train(broken, None, TrainingConfig(**config, allow_leaks=True))
    assert [leak.column for leak in report.leaks] == ["current_speed_kmh"]
    assert any("current_speed_kmh" in line for line in report.summary())


def test_where_the_distance_alone_tells_all_or_there_are_too_few_rows_nothing_is_said(dataset, split):
    metres = pl.col("along_route_distance_m")
    toy = replace(dataset, frame=dataset.frame.with_columns(time_to_arrival_seconds=metres / 8.0))
    assert find_leaks(toy, split) == ()
    few = np.arange(len(dataset)) < 150
    broken = replace(dataset, frame=dataset.frame.with_columns(leg_left=pl.col("time_to_arrival_seconds")))
    assert find_leaks(broken, replace(split, train=split.train & few), columns=["leg_left"]) == ()


def test_without_validation_days_the_probe_measures_on_the_test(dataset):
    split = split_days(dataset, n_validation_days=0)
    broken = replace(dataset, frame=dataset.frame.with_columns(leg_left=future_speed(dataset.frame)))
    assert [leak.column for leak in find_leaks(broken, split, columns=["leg_left"])] == ["leg_left"]


def test_the_fewest_rows_that_are_probed(dataset, split):
    for n, is_probed in ((MIN_ROWS, True), (MIN_ROWS - 1, False)):
        for part in ("train", "validation"):
            mask = getattr(split, part)
            few = replace(split, **{part: mask & (np.cumsum(mask) <= n)})
            assert bool(errors_left(dataset, few, columns=["hour"])) == is_probed


@pytest.mark.parametrize("route_id", [None, "r1", "r2"])
def test_train_and_test_share_no_trip_and_no_service_day(dataset, route_id):
    scope = Prepared(dataset, TrainingConfig()).scope(route_id)
    parts = [dataset.frame[part.rows] for part in (scope.train, scope.validation, scope.test)]
    for i, part in enumerate(parts):
        for other in parts[i + 1 :]:
            assert not set(part["service_date"]) & set(other["service_date"])
            trips = [set(p.select("trip_id", "service_date", "vehicle_id").iter_rows()) for p in (part, other)]
            assert not trips[0] & trips[1]
            assert part["actual_arrival"].max() < other["vp_ts"].min()
            assert part["interpolated_arrival"].max() < other["vp_ts"].min()
