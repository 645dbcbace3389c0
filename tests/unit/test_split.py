"""Whole service days in order; nothing of a later part is known in an earlier one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from etacore.errors import TrainingError
from etacore.mlops.dataset.layout import Dataset
from etacore.mlops.dataset.split import split_days

DAY = date(2026, 3, 2)


def dataset(n_days: int, *, rows_per_day: int = 4, label_s: float = 600.0, start_h: int = 8) -> Dataset:
    rows = []
    for day in range(n_days):
        start = datetime(2026, 3, 2, start_h, tzinfo=UTC) + timedelta(days=day)
        for i in range(rows_per_day):
            now = start + timedelta(minutes=10 * i)
            rows.append(
                {
                    "trip_id": f"t{i // 2}",
                    "vehicle_id": "v",
                    "service_date": DAY + timedelta(days=day),
                    "vp_ts": now,
                    "actual_arrival": now + timedelta(seconds=label_s),
                }
            )
    return Dataset("d", Path("d.parquet"), pl.DataFrame(rows), "UTC", None, "straight", {}, "0" * 64)


def days(*offsets: int) -> tuple[date, ...]:
    return tuple(DAY + timedelta(days=i) for i in offsets)


@pytest.mark.parametrize(
    ("n_days", "train", "validation", "test"),
    [
        (3, days(0), days(1), days(2)),
        (5, days(0, 1, 2), days(3), days(4)),
        (8, days(0, 1, 2, 3), days(4, 5), days(6, 7)),
        (10, days(*range(6)), days(6, 7), days(8, 9)),
    ],
)
def test_by_default_the_last_fifth_is_the_test_and_as_many_days_before_it_validate(n_days, train, validation, test):
    split = split_days(dataset(n_days))
    assert (split.train_days, split.validation_days, split.test_days) == (train, validation, test)
    assert split.unused_days == ()
    assert split.n_purged == 0


def test_every_row_is_in_exactly_the_part_of_its_day():
    data = dataset(6)
    split = split_days(data)
    service = data.frame["service_date"]
    parts = (split.train, split.train_days), (split.validation, split.validation_days), (split.test, split.test_days)
    for mask, part in parts:
        assert mask.dtype == np.bool_
        assert set(service.filter(pl.Series(mask))) == set(part)
    assert (split.train.astype(int) + split.validation + split.test == 1).all()


def test_the_number_of_days_can_be_chosen_and_validation_left_out():
    split = split_days(dataset(6), n_test_days=3, n_validation_days=0)
    assert (split.train_days, split.validation_days, split.test_days) == (days(0, 1, 2), (), days(3, 4, 5))
    assert not split.validation.any()


def test_named_test_days_leave_what_comes_after_them_unused():
    split = split_days(dataset(8), test_days=days(4, 5), n_validation_days=1)
    assert (split.train_days, split.validation_days, split.test_days) == (days(0, 1, 2), days(3), days(4, 5))
    assert split.unused_days == days(6, 7)
    assert not (split.train | split.validation | split.test)[-8:].any()


def test_rows_whose_label_reaches_into_the_next_part_are_in_no_part():
    data = dataset(4, start_h=23, label_s=23.5 * 3600)
    split = split_days(data, n_test_days=1, n_validation_days=1)
    begins = data.frame["vp_ts"].filter(pl.Series(split.validation)).min()
    assert split.n_purged == 2  # of the last day of each part the last row, at 23:30
    assert (data.frame["actual_arrival"].filter(pl.Series(split.train)) < begins).all()


def test_a_label_that_ends_at_the_very_first_fix_of_the_next_part_is_purged():
    exact = split_days(_touching(0))
    earlier = split_days(_touching(1))
    assert exact.n_purged == 1
    assert earlier.n_purged == 0


def test_without_validation_days_training_is_purged_against_the_test():
    data = dataset(3, start_h=23, label_s=23.5 * 3600)
    split = split_days(data, n_test_days=1, n_validation_days=0)
    begins = data.frame["vp_ts"].filter(pl.Series(split.test)).min()
    assert split.n_purged == 1  # the row of 23:30 on the last day of training
    assert np.flatnonzero(split.train).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert (data.frame["actual_arrival"].filter(pl.Series(split.train)) < begins).all()
    assert split.test.tolist() == [False] * 8 + [True] * 4


def test_without_validation_days_a_label_that_ends_at_the_first_fix_of_the_test_is_purged():
    exact, earlier = (split_days(_touching(s, 2), n_validation_days=0) for s in (0, 1))
    assert (exact.n_purged, exact.train.tolist()) == (1, [True, False, False, False])
    assert (earlier.n_purged, earlier.train.tolist()) == (0, [True, True, False, False])


def test_training_is_purged_against_the_test_too_where_validation_begins_later():
    # The day of validation has trips past midnight alone: on the clock the day of the test begins before them.
    data = dataset(3)
    times, ends = data.frame["vp_ts"].to_list(), data.frame["actual_arrival"].to_list()
    test_begins, minute = datetime(2026, 3, 4, 8, tzinfo=UTC), timedelta(minutes=1)
    ends[2], ends[3] = test_begins - minute, test_begins + minute
    times[4:8] = [test_begins + 30 * minute] * 4
    ends[4:8] = [test_begins - minute, *[test_begins + 40 * minute] * 3]
    frame = data.frame.with_columns(pl.Series("vp_ts", times), pl.Series("actual_arrival", ends))
    split = split_days(replace(data, frame=frame))
    assert np.flatnonzero(split.train).tolist() == [0, 1, 2]
    assert np.flatnonzero(split.validation).tolist() == [4]
    assert split.n_purged == 4


def test_rows_of_the_test_are_never_purged_and_unused_days_purge_nothing():
    data = dataset(5, start_h=23, label_s=23.5 * 3600)
    split = split_days(data, test_days=days(2), n_validation_days=0)
    assert split.test.sum() == 4  # though their labels reach into the days after, which nobody uses
    assert (split.n_purged, int(split.train.sum())) == (1, 7)
    assert split.unused_days == days(3, 4)


@pytest.mark.parametrize(
    ("n_days", "n_test_days", "n_validation"), [(7, 3, 2), (8, 3, 2), (8, 4, 2), (9, 4, 2), (9, 6, 1)]
)
def test_by_default_validation_takes_no_more_days_than_it_leaves_for_training(n_days, n_test_days, n_validation):
    assert len(split_days(dataset(n_days), n_test_days=n_test_days).validation_days) == n_validation


def test_named_test_days_may_have_gaps_and_begin_with_the_first_of_them():
    split = split_days(dataset(7), test_days=[*days(6), *days(3)], n_validation_days=2)
    assert (split.train_days, split.validation_days, split.test_days) == (days(0), days(1, 2), days(3, 6))
    assert split.unused_days == days(4, 5)
    assert not (split.train | split.validation | split.test)[16:24].any()


def _touching(seconds_before: int, n_days: int = 3) -> Dataset:
    """Two rows a day; the label of the second row of the first day ends about when the second day begins."""
    data = dataset(n_days, rows_per_day=2)
    second_day = datetime(2026, 3, 3, 8, tzinfo=UTC)
    ends = data.frame["actual_arrival"].to_list()
    ends[1] = second_day - timedelta(seconds=seconds_before)
    return replace(data, frame=data.frame.with_columns(pl.Series("actual_arrival", ends)))


def test_the_later_of_the_two_arrivals_counts_for_the_purge():
    data = dataset(3, rows_per_day=2)
    late = pl.Series("interpolated_arrival", [None, datetime(2026, 3, 3, 8, tzinfo=UTC), *[None] * 4])
    assert split_days(data).n_purged == 0
    assert split_days(replace(data, frame=data.frame.with_columns(late))).n_purged == 1


def test_a_trip_of_one_service_day_is_on_one_side_even_past_midnight():
    data = dataset(4, start_h=23)
    split = split_days(data)
    frame = data.frame.with_columns(
        part=pl.Series(np.select([split.train, split.validation, split.test], ["a", "b", "c"], "none"))
    ).filter(pl.col("part") != "none")
    assert frame.group_by("trip_id", "service_date", "vehicle_id").agg(pl.col("part").n_unique())["part"].max() == 1


@pytest.mark.parametrize(
    ("n_days", "arguments", "words"),
    [
        (1, {}, "1 service day"),
        (2, {}, "2 service days"),
        (2, {"n_validation_days": 1}, "too few"),
        (5, {"n_test_days": 5}, "5 service days .*too few to keep 5 for the test"),
        (5, {"n_test_days": 0}, "0"),
        (5, {"n_validation_days": -1}, "-1"),
        (5, {"n_test_days": 2, "n_validation_days": 3}, "too few"),
        (5, {"test_days": [date(2030, 1, 1)]}, "2030-01-01"),
        (5, {"test_days": []}, "none"),
        (5, {"test_days": [DAY]}, "too few"),
        (5, {"test_days": [DAY], "n_test_days": 1}, "both"),
    ],
)
def test_what_cannot_be_split_is_refused(n_days, arguments, words):
    with pytest.raises(TrainingError, match=words):
        split_days(dataset(n_days), **arguments)


def test_two_days_do_without_validation():
    split = split_days(dataset(2), n_validation_days=0)
    assert (split.train_days, split.test_days) == (days(0), days(1))


def test_a_part_that_the_purge_empties_is_refused():
    with pytest.raises(TrainingError, match="after the purge"):
        split_days(dataset(3, label_s=3 * 86_400.0))


def test_the_days_are_kept_as_texts():
    assert split_days(dataset(3)).to_dict() == {
        "train_days": ["2026-03-02"],
        "validation_days": ["2026-03-03"],
        "test_days": ["2026-03-04"],
        "n_purged": 0,
    }
