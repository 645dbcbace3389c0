"""Does a column know the future? A probe that training runs before it trusts a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from etacore.mlops.dataset.split import Split
from etacore.schema import EARTH_RADIUS_M

if TYPE_CHECKING:
    from etacore.mlops.dataset.layout import Dataset

MAX_ERROR_LEFT: Final = 0.12
"""A column is suspect if, with the distance, it leaves less than this share of the error of a constant.

Honest columns leave far more: 0.56 and above on Toronto buses, 0.55 on Boston light rail. A speed still to be driven,
the label in another form, or the label with 5 s of noise leave less than 0.1 of it on the buses."""
MIN_ROWS: Final = 200
N_ROWS: Final = 10_000

_NOT_PROBED: Final = frozenset(
    {
        "actual_arrival",
        "time_to_arrival_seconds",
        "interpolated_arrival",
        "label_uncertainty_s",
        "service_date",
        "vp_ts",
        "vp_lat",
        "vp_lon",
        "stop_lat",
        "stop_lon",
    }
)
_BOOSTER: Final = {
    "max_depth": 6,
    "learning_rate": 0.4,
    "tree_method": "hist",
    "seed": 1,
    "nthread": 1,
}
_N_ROUNDS: Final = 16


@dataclass(frozen=True, slots=True)
class Leak:
    """A column that predicts too well.

    ``error_left`` is the mean absolute error of a small model of this column and the straight distance, as a share of
    the error of a constant.
    """

    column: str
    error_left: float

    def line(self) -> str:
        """What is wrong, in a sentence."""
        return f"column {self.column} and the distance tell the arrival to {self.error_left:.1%} of a constant's error"

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"column": self.column, "error_left": self.error_left}


def find_leaks(
    dataset: Dataset,
    split: Split,
    *,
    label: str = "rule",
    columns: Sequence[str] | None = None,
    max_error_left: float = MAX_ERROR_LEFT,
) -> tuple[Leak, ...]:
    """Columns that know the arrival better than anything known at the time can.

    For each column a small boosted forest learns from that column, the straight distance to the stop, and the distance
    along the route divided by the column. If it predicts the days after almost exactly, the column holds something of
    the future: a speed still to be driven, or a delay still to come, gives the arrival away together with the
    distance. A time is looked at as seconds since the fix. Where the distance alone is that good, as in a toy world of
    constant speed, nothing can be told and nothing is reported.

    Parameters
    ----------
    dataset : Dataset
        What to look at.
    split : Split
        Learned on the training rows, measured on the validation rows, or on the test rows if there are none.
    label : str
        As for `Dataset.label_seconds`.
    columns : sequence of str, optional
        Default: all that hold numbers or times, but for the label, the coordinates and the time of the fix.
    max_error_left : float
        Share of a constant's error below which a column is suspect.

    Returns
    -------
    tuple of Leak
        The worst first; none if there are fewer than 200 rows to learn from or to measure on.

    Notes
    -----
    It finds a column that gives the answer away, not one that helps a little; the split by days is there for those.
    """
    left = errors_left(dataset, split, label=label, columns=columns)
    if not left or left.pop("") < max_error_left:
        return ()
    leaks = [Leak(name, share) for name, share in left.items() if share < max_error_left]
    return tuple(sorted(leaks, key=lambda leak: leak.error_left))


def errors_left(
    dataset: Dataset, split: Split, *, label: str = "rule", columns: Sequence[str] | None = None
) -> dict[str, float]:
    """The figures behind `find_leaks`: for each column the share of a constant's error that is left.

    The parameters are those of `find_leaks`. The name "" stands for the straight distance alone; empty if there are
    too few rows or all labels are one.
    """
    learn = _sample(split.train)
    measure = _sample(split.validation if split.validation.any() else split.test)
    if min(len(learn), len(measure)) < MIN_ROWS:
        return {}
    seconds = dataset.label_seconds(label).to_numpy()
    y, truth = seconds[learn], seconds[measure]
    constant = float(np.abs(truth - np.median(y)).mean())
    if constant == 0.0:
        return {}
    straight_m = _straight_m(dataset)
    way_m = _way_m(dataset)

    def left(*values: NDArray[np.float64]) -> float:
        # Trees cannot divide: what looks like a speed is also shown as the time it would take.
        with np.errstate(divide="ignore", invalid="ignore"):
            times = [np.clip(np.nan_to_num(way_m / value, nan=0.0), -1e6, 1e6) for value in values]
        X = np.column_stack([straight_m, *values, *times])  # noqa: N806
        return _error(X[learn], y, X[measure], truth) / constant

    names = _candidates(dataset) if columns is None else columns
    return {"": left(), **{name: left(_values(dataset, name)) for name in names}}


def _candidates(dataset: Dataset) -> list[str]:
    return [
        name
        for name, dtype in dataset.frame.schema.items()
        if (dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean)
        and name not in _NOT_PROBED
        and dataset.frame[name].n_unique() > 1
    ]


def _values(dataset: Dataset, name: str) -> NDArray[np.float64]:
    column = dataset.frame[name]
    if column.dtype.is_temporal():
        column = (column - dataset.frame["vp_ts"]).dt.total_microseconds() / 1e6
    values: NDArray[np.float64] = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    return values


def _sample(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    rows = np.flatnonzero(mask)
    return rows if len(rows) <= N_ROWS else rows[np.linspace(0, len(rows) - 1, N_ROWS).astype(np.int64)]


def _straight_m(dataset: Dataset) -> NDArray[np.float64]:
    """Great-circle distance from coordinates alone: no column of the dataset's features has a part in it."""
    degrees = (dataset.frame[name].to_numpy() for name in ("vp_lat", "vp_lon", "stop_lat", "stop_lon"))
    lat, lon, stop_lat, stop_lon = (np.radians(values) for values in degrees)
    h = np.sin((stop_lat - lat) / 2) ** 2 + np.cos(lat) * np.cos(stop_lat) * np.sin((stop_lon - lon) / 2) ** 2
    metres: NDArray[np.float64] = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.clip(h, 0.0, 1.0)))
    return metres


def _way_m(dataset: Dataset) -> NDArray[np.float64]:
    name = "along_route_distance_m" if "along_route_distance_m" in dataset.frame.columns else "distance_to_stop"
    return _values(dataset, name)


def _error(
    X: NDArray[np.float64],  # noqa: N803
    y: NDArray[np.float64],
    X_after: NDArray[np.float64],  # noqa: N803
    truth: NDArray[np.float64],
) -> float:
    import xgboost

    # Of the logarithm: errors count by what they are to the time left, and squares are quick to learn from.
    with xgboost.config_context(verbosity=0):
        booster = xgboost.train(_BOOSTER, xgboost.DMatrix(X, np.log1p(y)), num_boost_round=_N_ROUNDS)
        predicted = np.expm1(booster.predict(xgboost.DMatrix(X_after)).astype(np.float64))
    return float(np.abs(predicted - truth).mean())
