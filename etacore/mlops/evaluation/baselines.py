"""What a model must beat: predictors that need no training worth the name.

Where one is fitted, it is on the days before the held-out ones only.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.errors import TrainingError
from etacore.mlops.dataset.layout import Dataset
from etacore.mlops.evaluation.results import Entrant, HeldOut, Identity
from etacore.mlops.training.travel_times import fit_typical, typical_seconds
from etacore.schema import MAX_ETA_S, MIN_ETA_S

SCHEDULE: Final = "schedule"
DISTANCE: Final = "distance_mean_speed"
SEGMENTS: Final = "historical_segment_means"
BASELINES: Final = (SCHEDULE, DISTANCE, SEGMENTS)
TITLES: Final = {
    SCHEDULE: "schedule",
    DISTANCE: "distance / mean speed",
    SEGMENTS: "historical segment means",
}
_UNDER_WAY: Final = 2
"""Stops of its trip that a vehicle has behind it when it no longer waits at the first one."""


def baselines(dataset: Dataset, held_out: HeldOut, label: str = "rule") -> tuple[list[Entrant], dict[str, str]]:
    """Every baseline that this dataset allows.

    Returns
    -------
    entrants : list of Entrant
        Clipped to 0..7200 s as a served prediction is.
    absent : dict of str to str
        Names of the others, with the reason.
    """
    entrants: list[Entrant] = []
    absent: dict[str, str] = {}
    scheduled = _schedule(dataset, held_out)
    if scheduled is None:
        absent[SCHEDULE] = "the dataset has no scheduled arrival on these days"
    else:
        note = f"timetable; known for {100 * np.isfinite(scheduled).mean():.1f} % of the rows"
        entrants.append(_entrant(SCHEDULE, scheduled, note))
    speed_mps = mean_speed_mps(dataset, held_out, label)
    if speed_mps is None:
        absent[DISTANCE] = absent[SEGMENTS] = "there are no days before the held-out ones to fit it on"
        return entrants, absent
    column = distance_column(dataset)
    by_distance = dataset.frame[column].to_numpy()[held_out.rows] / speed_mps
    entrants.append(
        _entrant(DISTANCE, by_distance, f"{column} / {speed_mps:.2f} m/s, the mean under way of the days before")
    )
    try:
        table = fit_typical(dataset, held_out.history)
    except TrainingError as err:
        absent[SEGMENTS] = err.message
        return entrants, absent
    segments = typical_seconds(dataset, held_out.rows, table)
    known = np.isfinite(segments)
    if not known.any():
        absent[SEGMENTS] = "no leg of the held-out rows is known from the days before"
        return entrants, absent
    segments = np.where(known, segments, by_distance)
    share = f"{100 * known.mean():.1f} %"
    note = f"mean seconds of each leg by hour, summed; known for {share} of the rows, else {TITLES[DISTANCE]}"
    entrants.append(_entrant(SEGMENTS, segments, note))
    return entrants, absent


def distance_column(dataset: Dataset) -> str:
    """``along_route_distance_m`` where every row has one, else ``distance_to_stop``."""
    name = "along_route_distance_m"
    if name in dataset.frame.columns and dataset.frame[name].is_not_null().all():
        return name
    return "distance_to_stop"


def mean_speed_mps(dataset: Dataset, held_out: HeldOut, label: str = "rule") -> float | None:
    """Sum of the distances over sum of the seconds of the rows before the held-out days; None if nothing moved.

    Rows whose vehicle has not passed the second stop are left out where the dataset tells: vehicles wait at the
    first one, and a speed with that wait in it is too slow for the rest of the way.
    """
    rows = held_out.history
    if {"stop_ordinal", "stops_ahead"} <= set(dataset.frame.columns):
        passed = (dataset.frame["stop_ordinal"] - dataset.frame["stops_ahead"]).to_numpy() >= _UNDER_WAY
        rows = rows & passed if (rows & passed).any() else rows
    metres = float(dataset.frame[distance_column(dataset)].to_numpy()[rows].sum())
    seconds = float(dataset.label_seconds(label).to_numpy()[rows].sum())
    return metres / seconds if metres > 0 and seconds > 0 else None


def _schedule(dataset: Dataset, held_out: HeldOut) -> npt.NDArray[np.float64] | None:
    name = "scheduled_arrival"
    if name not in dataset.frame.columns:
        return None
    rows = dataset.frame.filter(pl.Series(held_out.rows))
    seconds = rows.select((pl.col(name) - pl.col("vp_ts")).dt.total_microseconds() / 1e6).to_series()
    values = seconds.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return values if np.isfinite(values).any() else None


def _entrant(name: str, predicted_s: npt.NDArray[np.float64], note: str) -> Entrant:
    identity = Identity(name=name, kind="baseline", model_type="baseline", title=TITLES[name], note=note)
    return Entrant(identity, np.clip(predicted_s, MIN_ETA_S, MAX_ETA_S).astype(np.float32))
