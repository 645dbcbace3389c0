"""From the columns of a dataset to the matrix that a model takes, and to its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from etacore.errors import TrainingError
from etacore.mlops.training.travel_times import Rows, take, typical_seconds
from etacore.models.travel_times import TypicalTimes
from etacore.schema import WEATHER_FEATURES

if TYPE_CHECKING:
    from etacore.mlops.dataset.layout import Dataset
    from etacore.models.model import Model

TYPICAL: Final = "typical_travel_s"
ROUTE_CODE: Final = "route_code"
DISTANCE: Final = "distance_to_stop"
ALONG: Final = "along_route_distance_m"
UNKNOWN_IS_ZERO: Final = frozenset({"current_speed_kmh"})
"""Serving takes 0.0 for these where the vehicle says nothing; a dataset has null there."""
LOCAL_TIME: Final = frozenset({"hour", "day_of_week", "is_weekend", "is_peak_hour", "is_holiday", TYPICAL})

Matrix = NDArray[np.float32]


def feature_matrix(
    dataset: Dataset,
    rows: Rows,
    features: Sequence[str],
    *,
    nan_fill: float | None = None,
    routes: Sequence[str] = (),
    typical: TypicalTimes | NDArray[np.float64] | None = None,
    distance: str | None = None,
) -> Matrix:
    """Feature rows as a model is given them.

    Parameters
    ----------
    dataset : Dataset
        Where from.
    rows : ndarray of bool, shape (n_rows,), or of int64, shape (n,), or None
        A mask, row numbers in the order wanted, or None for all rows.
    features : sequence of str
        Columns, in order.
    nan_fill : float or None
        What stands for an unknown value; None leaves NaN. An unknown ``current_speed_kmh`` is 0.0 in any case, as it
        is in serving.
    routes : sequence of str
        The model's routes, for ``route_code``.
    typical : TypicalTimes or ndarray of float64, shape (n,), or None
        The model's table, or the values themselves, for ``typical_travel_s``.
    distance : str or None
        ``straight`` or ``along_route``: what ``distance_to_stop`` shall be. None: as the dataset has it.

    Returns
    -------
    ndarray of float32, shape (n, len(features)), C-contiguous

    Raises
    ------
    TrainingError
        If a column is missing, a weather column is empty, or a value is infinite; the message names the feature.
    """
    names = {name: _column_name(dataset, name, distance) for name in features if name not in (TYPICAL, ROUTE_CODE)}
    absent = [name for name, column in names.items() if column not in dataset.frame.columns]
    if absent:
        raise TrainingError(
            f"dataset {dataset.name} has no column for feature {', '.join(absent)}",
            hint="build it with etacore dataset build, or choose other features",
        )
    frame = take(dataset, rows, sorted({*names.values(), "route_id"}))
    matrix: Matrix = np.empty((frame.height, len(features)), np.float32)
    for j, name in enumerate(features):
        if name == ROUTE_CODE:
            column = _route_codes(frame["route_id"], routes)
        elif name == TYPICAL:
            column = _typical(dataset, rows, typical)
        else:
            unknown = 0.0 if name in UNKNOWN_IS_ZERO else np.nan
            column = frame[names[name]].cast(pl.Float64).fill_null(unknown).to_numpy()
        _check_values(dataset, name, column)
        matrix[:, j] = column
    if nan_fill is not None:
        np.nan_to_num(matrix, copy=False, nan=nan_fill, posinf=np.inf, neginf=-np.inf)
    return matrix


def model_predictions(dataset: Dataset, rows: Rows, model: Model) -> Matrix:
    """What a model of the registry predicts for rows of a dataset, clipped as it is served.

    Parameters
    ----------
    dataset : Dataset
        Where from.
    rows : ndarray or None
        As for `feature_matrix`.
    model : Model
        Loaded from a registry.

    Returns
    -------
    ndarray of float32, shape (n,)
        Seconds.

    Raises
    ------
    TrainingError
        If the dataset does not hold what the model needs, in the model's time zone and holiday region.
    """
    if LOCAL_TIME.intersection(model.features) and model.time_zone != dataset.time_zone:
        raise TrainingError(
            f"model {model.key} counts its hours in {model.time_zone}, dataset {dataset.name} in {dataset.time_zone}",
            hint="build the dataset with the model's time zone",
        )
    if "is_holiday" in model.features and model.manifest.holiday_region != dataset.holiday_region:
        raise TrainingError(
            f"model {model.key} has the holidays of {model.manifest.holiday_region}, dataset {dataset.name} those of "
            f"{dataset.holiday_region}",
            hint="build the dataset with the model's holiday region",
        )
    matrix = feature_matrix(
        dataset,
        rows,
        model.features,
        nan_fill=model.nan_fill,
        routes=model.routes,
        typical=model.typical,
        distance="along_route" if model.along_route_distance else "straight",
    )
    seconds: Matrix = np.empty(len(matrix), np.float32)
    model.predict(matrix, seconds)
    return seconds


def _column_name(dataset: Dataset, feature: str, distance: str | None) -> str:
    if feature != DISTANCE or distance is None or distance == dataset.distance:
        return feature
    if distance == "along_route":
        return ALONG
    raise TrainingError(
        f"dataset {dataset.name} measures distance_to_stop along the route, the model takes straight lines",
        hint="build the dataset without shapes for distances, or choose another model",
    )


def _route_codes(route_ids: pl.Series, routes: Sequence[str]) -> NDArray[np.float64]:
    if not routes:
        raise TrainingError("route_code needs the list of the model's routes")
    codes = route_ids.replace_strict(
        list(routes), [float(i) for i in range(len(routes))], default=None, return_dtype=pl.Float64
    )
    values: NDArray[np.float64] = codes.fill_null(np.nan).to_numpy()
    return values


def _typical(dataset: Dataset, rows: Rows, typical: TypicalTimes | NDArray[np.float64] | None) -> NDArray[np.float64]:
    if typical is None:
        raise TrainingError(f"{TYPICAL} needs a table of typical times")
    return typical if isinstance(typical, np.ndarray) else typical_seconds(dataset, rows, typical)


def _check_values(dataset: Dataset, name: str, column: NDArray[np.float64]) -> None:
    if name in WEATHER_FEATURES and len(column) and np.isnan(column).all():
        raise TrainingError(
            f"feature {name} is unknown in every row of dataset {dataset.name}: it was built without weather",
            hint="build it with a weather provider, or leave the weather features out",
        )
    n_infinite = int(np.isinf(column).sum())
    if n_infinite:
        raise TrainingError(
            f"feature {name} is infinite in {n_infinite} of {len(column)} rows of dataset {dataset.name}",
            hint="build the dataset anew; unknown values are null",
        )
