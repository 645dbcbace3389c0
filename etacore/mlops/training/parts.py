"""The rows that a model is trained and measured on, in one canonical order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from etacore.errors import TrainingError
from etacore.mlops.dataset.columns import run_columns
from etacore.mlops.dataset.split import Split, split_days
from etacore.mlops.training.config import TrainingConfig

if TYPE_CHECKING:
    from etacore.mlops.dataset.layout import Dataset

_ORDER: Final = ("service_date", "vp_ts", "trip_id", "vehicle_id", "route_id", "stop_sequence", "stop_id")
_LAST: Final = ("distance_to_stop", "progress_ratio", "time_to_arrival_seconds")


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows of one side of a split.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Row numbers of ``dataset.frame``, sorted by service day, time, trip, vehicle and stop.
    seconds : ndarray of float64, shape (n,)
        Labels.
    time_us : ndarray of int64, shape (n,)
        Times of the fixes, microseconds since 1970 UTC.
    """

    rows: NDArray[np.int64]
    seconds: NDArray[np.float64]
    time_us: NDArray[np.int64]

    def where(self, mask: NDArray[np.bool_]) -> Part:
        """The rows of a mask over the dataset."""
        kept = mask[self.rows]
        return Part(self.rows[kept], self.seconds[kept], self.time_us[kept])


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """What one model sees: all routes, or one.

    Attributes
    ----------
    dataset : Dataset
    route_id : str or None
        None for all.
    train, validation, test : Part
    routes : tuple of str
        Route ids of the training rows, sorted.
    n_trips, n_train_trips : int
        Runs, of all parts and of the training rows.
    n_train_days : int
        Service days with a training row.
    """

    dataset: Dataset
    route_id: str | None
    train: Part
    validation: Part
    test: Part
    routes: tuple[str, ...]
    n_trips: int
    n_train_trips: int
    n_train_days: int


class Prepared:
    """A dataset, split and sorted.

    The order is that of the rows' content, so that it does not depend on how the file was written.

    Parameters
    ----------
    dataset : Dataset
        What to train on.
    config : TrainingConfig
        Split and label.

    Raises
    ------
    TrainingError, DatasetError
        If it cannot be split, or has no such label.
    """

    def __init__(self, dataset: Dataset, config: TrainingConfig) -> None:
        self.dataset = dataset
        self.split: Split = split_days(
            dataset,
            n_test_days=config.n_test_days,
            n_validation_days=config.n_validation_days,
            test_days=config.test_days,
        )
        seconds = dataset.label_seconds(config.label).to_numpy().astype(np.float64)
        bad = ~np.isfinite(seconds)
        if bad.any():
            raise TrainingError(
                f"label {config.label} is unknown in {int(bad.sum())} rows of dataset {dataset.name}",
                hint="build the dataset anew",
            )
        frame = dataset.frame
        order = frame.select(pl.arg_sort_by([*_ORDER, *_LAST])).to_series().to_numpy().astype(np.int64)
        time_us = frame["vp_ts"].dt.epoch("us").to_numpy()

        def part(mask: NDArray[np.bool_]) -> Part:
            rows = order[mask[order]]
            return Part(rows, seconds[rows], time_us[rows])

        self._parts = tuple(part(mask) for mask in (self.split.train, self.split.validation, self.split.test))

    def routes(self) -> list[str]:
        """Ids of all routes of the dataset, sorted; of the days in use."""
        used = np.concatenate([part.rows for part in self._parts])
        return sorted(self.dataset.frame["route_id"][used].unique().to_list())

    def scope(self, route_id: str | None = None) -> Scope:
        """The rows of one route, or of all."""
        parts = self._parts
        if route_id is not None:
            mask = (self.dataset.frame["route_id"] == route_id).to_numpy()
            parts = tuple(part.where(mask) for part in parts)
        train, validation, test = parts
        trained = self.dataset.frame[train.rows]
        used = self.dataset.frame[np.concatenate([part.rows for part in parts])]
        return Scope(
            dataset=self.dataset,
            route_id=route_id,
            train=train,
            validation=validation,
            test=test,
            routes=tuple(sorted(trained["route_id"].unique().to_list())),
            n_trips=used.select(run_columns(used)).n_unique(),
            n_train_trips=trained.select(run_columns(trained)).n_unique(),
            n_train_days=trained["service_date"].n_unique(),
        )
