"""The columns of a dataset, their types, and the check that rows have them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import polars as pl

from etacore.errors import DatasetError

TIMESTAMP: Final = pl.Datetime("us", "UTC")
CONTRACT_COLUMNS: Final[Mapping[str, pl.DataType]] = MappingProxyType(
    {
        "trip_id": pl.String(),
        "route_id": pl.String(),
        "vehicle_id": pl.String(),
        "stop_id": pl.String(),
        "stop_sequence": pl.Int64(),
        "vp_ts": TIMESTAMP,
        "vp_lat": pl.Float64(),
        "vp_lon": pl.Float64(),
        "vp_bearing": pl.Float64(),
        "stop_lat": pl.Float64(),
        "stop_lon": pl.Float64(),
        "distance_to_stop": pl.Float64(),
        "progress_on_segment": pl.Float64(),
        "progress_ratio": pl.Float64(),
        "actual_arrival": TIMESTAMP,
        "time_to_arrival_seconds": pl.Float64(),
        "hour": pl.Int64(),
        "day_of_week": pl.Int64(),
        "is_weekend": pl.Boolean(),
        "is_holiday": pl.Boolean(),
        "is_peak_hour": pl.Boolean(),
        "current_speed_kmh": pl.Float64(),
        "temperature_c": pl.Float64(),
        "precipitation_mm": pl.Float64(),
        "wind_speed_kmh": pl.Float64(),
    }
)
"""The 25 columns that every dataset has, in their order."""
MORE_COLUMNS: Final[Mapping[str, pl.DataType]] = MappingProxyType(
    {
        "along_route_distance_m": pl.Float64(),
        "stops_ahead": pl.Int64(),
        "stop_ordinal": pl.Int64(),
        "n_stops": pl.Int64(),
        "leg_left": pl.Float64(),
        "recent_speed_mps": pl.Float64(),
        "since_last_stop_s": pl.Float64(),
        "service_date": pl.Date(),
        "pattern_id": pl.String(),
        "label_rule": pl.String(),
        "label_uncertainty_s": pl.Float64(),
        "interpolated_arrival": TIMESTAMP,
        "scheduled_arrival": TIMESTAMP,
        "run_number": pl.Int64(),
    }
)
"""What our own datasets add, in this order; a foreign file has none, any or all of them."""
COLUMNS: Final[Mapping[str, pl.DataType]] = MappingProxyType({**CONTRACT_COLUMNS, **MORE_COLUMNS})
NULLABLE: Final = frozenset(
    {
        "vp_bearing",
        "progress_on_segment",
        "progress_ratio",
        "current_speed_kmh",
        "temperature_c",
        "precipitation_mm",
        "wind_speed_kmh",
        "leg_left",
        "recent_speed_mps",
        "since_last_stop_s",
        "label_uncertainty_s",
        "interpolated_arrival",
        "scheduled_arrival",
    }
)
"""Columns in which a value may be unknown: null, never NaN."""


def run_columns(frame: pl.DataFrame) -> list[str]:
    """Columns that name a run; of a dataset that does not tell runs apart, those that name its trips."""
    names = ["trip_id", "service_date"]
    return [*names, "vehicle_id", "run_number"] if "run_number" in frame.columns else names


def check_frame(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """Rows as a dataset has them: columns in order, exact types; columns that are not ours are left out.

    Narrower numbers, other units of time and other string types are taken and converted.

    Raises
    ------
    DatasetError
        As `read_dataset`.
    """
    absent = [name for name in CONTRACT_COLUMNS if name not in frame.columns]
    if absent:
        raise DatasetError(
            f"{where} has no column {', '.join(absent)}", hint=f"a dataset has: {', '.join(CONTRACT_COLUMNS)}"
        )
    if not len(frame):
        raise DatasetError(f"{where} has no rows")
    frame = frame.select(
        _as_type(frame[name], dtype, where) for name, dtype in COLUMNS.items() if name in frame.columns
    )
    nulls = frame.null_count().row(0, named=True)
    for name, n in nulls.items():
        if n and name not in NULLABLE:
            row = int(frame[name].is_null().arg_true()[0])
            raise DatasetError(f"{where}: {name} is missing in {n} rows, first in row {row}")
    for name in (name for name, dtype in frame.schema.items() if dtype == pl.Float64):
        bad = ~frame[name].is_finite().fill_null(True)
        if bad.any():
            row = int(bad.arg_true()[0])
            raise DatasetError(
                f"{where}: {name} is {frame[name][row]} in row {row}; {int(bad.sum())} rows are not finite",
                hint="an unknown value is null" if name in NULLABLE else None,
            )
    return frame


_WIDENS: Final[Mapping[pl.DataType, tuple[type[pl.DataType], ...]]] = {
    pl.Int64(): (pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32),
    pl.Float64(): (pl.Float32, pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32, pl.Int64, pl.Null),
    pl.String(): (pl.Categorical, pl.Enum),
    TIMESTAMP: (pl.Null,),
}


def _as_type(column: pl.Series, dtype: pl.DataType, where: str) -> pl.Series:
    if column.dtype == dtype:
        return column
    if dtype == TIMESTAMP and isinstance(column.dtype, pl.Datetime):
        aware = column if column.dtype.time_zone else column.dt.replace_time_zone("UTC")
        return aware.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if isinstance(column.dtype, _WIDENS.get(dtype, ())):
        return column.cast(dtype)
    raise DatasetError(f"{where}: column {column.name} is {column.dtype}, not {dtype}")
