"""Training, validation and test days of a dataset: whole service days in order, with a purge at each border.

A trip is never on both sides of a border, since a service day is not. Days
that overlap on the clock are cut apart by the purge: what a row of an earlier
part knows of the future ends before the next part begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from etacore.errors import TrainingError

if TYPE_CHECKING:
    from etacore.mlops.dataset.layout import Dataset

TEST_SHARE: Final = 0.2
"""Share of the service days, from the last one back, that are test days unless said otherwise."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Which row of a dataset is in which part. A row is in one part at most.

    Attributes
    ----------
    train, validation, test : ndarray of bool, shape (n_rows,)
        Masks over the rows of ``dataset.frame``.
    train_days, validation_days, test_days : tuple of date
        Service days, in order; each day of one part is before each day of the next.
    unused_days : tuple of date
        Days from the first test day on that are no test days: a model must not learn from them.
    n_purged : int
        Rows of an earlier part whose label reaches into the next one; they are in no part.
    """

    train: Mask
    validation: Mask
    test: Mask
    train_days: tuple[date, ...]
    validation_days: tuple[date, ...]
    test_days: tuple[date, ...]
    unused_days: tuple[date, ...] = ()
    n_purged: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Days as ISO texts and the number of purged rows, as a manifest's provenance holds them."""
        return {
            "train_days": [day.isoformat() for day in self.train_days],
            "validation_days": [day.isoformat() for day in self.validation_days],
            "test_days": [day.isoformat() for day in self.test_days],
            "n_purged": self.n_purged,
        }


def split_days(
    dataset: Dataset,
    *,
    n_test_days: int | None = None,
    n_validation_days: int | None = None,
    test_days: Sequence[date] | None = None,
) -> Split:
    """Cut a dataset by service day: first training, then validation, then test.

    Parameters
    ----------
    dataset : Dataset
        Needs ``service_date``, ``vp_ts`` and the arrivals.
    n_test_days : int, optional
        Last days of the dataset. Default: a fifth of them, rounded up.
    n_validation_days : int, optional
        Days just before the test. Default: as many as test days, at least one, as long as a day is left to train on.
        0 gives no validation.
    test_days : sequence of date, optional
        Test on these instead. Days after the first of them that are not named stay unused.

    Returns
    -------
    Split

    Raises
    ------
    TrainingError
        If there are too few service days, or a named day is not in the dataset.

    Notes
    -----
    The label of a row ends when the vehicle arrives, by whichever of the dataset's arrivals is later. A row is purged
    if that is not before the first fix of a later part.
    """
    days: list[date] = sorted(dataset.frame["service_date"].unique().to_list())
    if test_days is not None and n_test_days is not None:
        raise TrainingError("both test days and a number of test days are given", hint="give one of the two")
    chosen = _test_days(dataset.name, days, n_test_days, test_days)
    before = [day for day in days if day < chosen[0]]
    if n_validation_days is not None and n_validation_days < 0:
        raise TrainingError(f"the number of validation days is {n_validation_days}", hint="0 or more")
    # By default no more validation days than leave as many days for training.
    n_validation = max(1, min(len(chosen), len(before) // 2)) if n_validation_days is None else n_validation_days
    if len(before) <= n_validation:
        raise TrainingError(
            f"dataset {dataset.name} has {_count(len(days), 'service day')} ({_span(days)}): too few for "
            f"{len(chosen)} to test, {n_validation} to validate and one to train on",
            hint="build a dataset over more days; three at least, two without validation days",
        )
    validation = before[len(before) - n_validation :]
    train = before[: len(before) - n_validation]
    masks = [_rows_of(dataset, part) for part in (train, validation, chosen)]
    n_purged = _purge(dataset, masks)
    for name, mask in zip(("training", "validation", "test"), masks, strict=True):
        if not mask.any() and not (name == "validation" and n_validation == 0):
            raise TrainingError(
                f"no {name} row of dataset {dataset.name} is left after the purge of {n_purged} rows",
                hint="its service days overlap almost wholly: check the time zone and the service dates",
            )
    unused = tuple(day for day in days if day > chosen[0] and day not in chosen)
    return Split(masks[0], masks[1], masks[2], tuple(train), tuple(validation), tuple(chosen), unused, n_purged)


def label_end(dataset: Dataset) -> pl.Series:
    """When the label of each row ends: the later of its recorded and its interpolated arrival. Type of ``vp_ts``."""
    names = [name for name in ("actual_arrival", "interpolated_arrival") if name in dataset.frame.columns]
    return dataset.frame.select(pl.max_horizontal(names)).to_series()


def _test_days(
    name: str, days: Sequence[date], n_test_days: int | None, test_days: Sequence[date] | None
) -> list[date]:
    if test_days is not None:
        chosen = sorted(set(test_days))
        absent = [day.isoformat() for day in chosen if day not in days]
        if absent or not chosen:
            raise TrainingError(
                f"test day {', '.join(absent) or '(none)'} is not in dataset {name}", hint=f"it has {_span(days)}"
            )
        return chosen
    count = math.ceil(len(days) * TEST_SHARE) if n_test_days is None else n_test_days
    if count < 1:
        raise TrainingError(f"the number of test days is {count}", hint="at least 1")
    if count >= len(days):
        raise TrainingError(
            f"dataset {name} has {_count(len(days), 'service day')} ({_span(days)}): too few to keep {count} for the "
            "test and train on the rest",
            hint="build a dataset over at least three service days",
        )
    return list(days[-count:])


def _rows_of(dataset: Dataset, days: Sequence[date]) -> Mask:
    mask: Mask = dataset.frame["service_date"].is_in(list(days)).to_numpy().astype(np.bool_)
    return mask


def _purge(dataset: Dataset, masks: list[Mask]) -> int:
    """Take out of each mask the rows whose label is not over when a later part begins; how many they were."""
    start_us = dataset.frame["vp_ts"].dt.epoch("us").to_numpy()
    end_us = label_end(dataset).dt.epoch("us").to_numpy()
    n_purged = 0
    for i, mask in enumerate(masks):
        begins = [start_us[later].min() for later in masks[i + 1 :] if later.any()]
        if begins:
            late = mask & (end_us >= min(begins))
            mask &= ~late
            n_purged += int(late.sum())
    return n_purged


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _span(days: Sequence[date]) -> str:
    if not days:
        return "none"
    return days[0].isoformat() if len(days) == 1 else f"{days[0].isoformat()} to {days[-1].isoformat()}"
