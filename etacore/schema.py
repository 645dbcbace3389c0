"""The one place that knows feature names, their order and units.

The numbers are those of ``src_ext/etacore/_kernels/types.pxd``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from etacore._moved import forwarded
from etacore.errors import SchemaError

if not TYPE_CHECKING:  # else a checker would take any name for one of this module
    __getattr__ = forwarded(__name__, moved=dict.fromkeys(("FAILED", "REJECTED", "Status"), "etacore.status"))

NO_SEQUENCE: Final = -(2**31)
"""``stop_sequence`` of a snapshot that gives none."""

NO_START_DATE: Final = 0
"""``start_date`` (YYYYMMDD as a number) of a snapshot that gives none."""

NO_START_TIME: Final = -1
"""``start_time_s`` (seconds since noon minus 12 h of the start date) of a snapshot that gives none."""

TEXT_DTYPE: Final = np.dtype([("start", "<i8"), ("length", "<i4"), ("escape", "<i4")])
"""A piece of UTF-8 text in a batch's arena (`text_t` of the kernels)."""

EARTH_RADIUS_M: Final = 6_371_000.0
MIN_ETA_S: Final = 0.0
MAX_ETA_S: Final = 7200.0


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the feature matrix (float32)."""

    name: str
    code: int
    group: str
    unit: str
    description: str


FEATURES: Final = (
    Feature(
        "distance_to_stop", 0, "spatial", "m", "vehicle to stop: straight line, or along the route if the model says so"
    ),
    Feature(
        "progress_on_segment", 1, "spatial", "1", "how much of the leg behind the stop the vehicle has closed, 0..1"
    ),
    Feature(
        "progress_ratio",
        2,
        "spatial",
        "1",
        "(position of the stop - 1 + progress_on_segment) / stops of the trip, 0..1",
    ),
    Feature("hour", 3, "temporal", "h", "local hour of the model's time zone, 0..23"),
    Feature("day_of_week", 4, "temporal", "d", "local day, Monday = 0"),
    Feature("is_weekend", 5, "temporal", "1", "Saturday or Sunday"),
    Feature("is_peak_hour", 6, "temporal", "1", "weekday and hour 7-9 or 16-19"),
    Feature("temperature_c", 7, "weather", "degC", "air temperature"),
    Feature("precipitation_mm", 8, "weather", "mm", "precipitation of the hour"),
    Feature("wind_speed_kmh", 9, "weather", "km/h", "wind speed"),
    Feature("is_holiday", 10, "calendar", "1", "holiday in the model's region"),
    Feature("current_speed_kmh", 11, "operation", "km/h", "speed the vehicle reports"),
    Feature("along_route_distance_m", 12, "route", "m", "vehicle to stop along the route"),
    Feature("stops_ahead", 13, "route", "1", "1 for the next stop, 2 for the one after"),
    Feature(
        "recent_speed_mps",
        14,
        "motion",
        "m/s",
        "smoothed speed along the route over the vehicle's fixes on this trip, each step 0..40",
    ),
    Feature("since_last_stop_s", 15, "motion", "s", "time since its next stop became the next stop"),
    Feature("leg_left", 16, "route", "1", "share of the leg to the next stop that lies ahead, 0..1"),
    Feature("typical_travel_s", 17, "history", "s", "the model's typical time to the stop at this hour"),
    Feature("route_code", 18, "identity", "1", "position of the route among the model's routes"),
    Feature("stop_sequence", 19, "identity", "1", "sequence of the stop as the feed numbers it"),
)
BASE_FEATURES: Final = tuple(f.name for f in FEATURES[:7])
WEATHER_FEATURES: Final = tuple(f.name for f in FEATURES if f.group == "weather")

_BY_NAME: Final = {f.name: f for f in FEATURES}


def service_time_text(seconds: int) -> str:
    """Seconds of a service day as GTFS writes them: HH:MM:SS, past 24 h too."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def feature_codes(names: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Codes of named features, in the given order.

    Returns
    -------
    ndarray of int32, shape (n_features,)

    Raises
    ------
    SchemaError
        If a name is unknown to this version, or given twice.
    """
    unknown = [name for name in names if name not in _BY_NAME]
    if unknown:
        raise SchemaError(
            f"unknown feature {', '.join(map(repr, unknown))}",
            hint=f"this version computes: {', '.join(_BY_NAME)}",
        )
    if len(set(names)) != len(names):
        raise SchemaError(f"a feature is named twice in {list(names)}")
    return np.array([_BY_NAME[name].code for name in names], dtype=np.int32)


def feature_groups(names: Sequence[str]) -> str:
    """Feature groups as they stand in a model key: sorted, joined by ``-``."""
    feature_codes(names)
    return "-".join(sorted({_BY_NAME[name].group for name in names}))
