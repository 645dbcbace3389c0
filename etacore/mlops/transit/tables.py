"""Reads Parquet and CSV tables that others wrote; what cannot be used is named by its row."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.errors import FeedError

_MAX_SECONDS: Final = 1e11
"""Larger numbers are milliseconds, as in snapshots."""
_MIN_US: Final = -62_135_596_800_000_000  # year 1
_MAX_US: Final = 253_402_300_799_000_000  # year 9999


def read_table(path: Path, wanted: Collection[str] | None = None) -> pl.DataFrame:
    """A Parquet or CSV file; what is no Parquet is CSV, its columns text.

    Parameters
    ----------
    path : Path
        What is read.
    wanted : collection of str, optional
        Columns to read, if they are there; all if None.

    Raises
    ------
    FeedError
        If it is absent or no such file.
    """
    if not path.is_file():
        raise FeedError(f"{path} does not exist or is no file", hint="give a Parquet or CSV file")
    kind = "CSV"
    try:
        with path.open("rb") as file:
            kind = "Parquet" if file.read(4) == b"PAR1" else "CSV"
        if kind == "Parquet":
            chosen = None if wanted is None else [name for name in pl.read_parquet_schema(path) if name in wanted]
            return pl.read_parquet(path, columns=chosen)
        frame = pl.read_csv(path, infer_schema=False, encoding="utf8")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FeedError(f"{path} is no readable {kind} file ({str(error).splitlines()[0]})") from None
    return frame.rename({column: column.strip() for column in frame.columns})


def times_us(path: Path, column: pl.Series) -> npt.NDArray[np.int64]:
    """A column of times, of whatever kind, as microseconds since the epoch; a FeedError names the first bad row."""
    if isinstance(column.dtype, pl.Datetime):
        value = column.dt.cast_time_unit("us").cast(pl.Int64)
    else:
        number = column.cast(pl.Float64, strict=False)
        scale = pl.when(pl.col(column.name).abs() > _MAX_SECONDS).then(1e3).otherwise(1e6)
        value = number.to_frame().select((pl.col(column.name) * scale).round().cast(pl.Int64, strict=False)).to_series()
        if column.dtype == pl.String:
            parsed = column.str.to_datetime(strict=False, time_unit="us", time_zone="UTC").cast(pl.Int64)
            value = pl.select(pl.coalesce(value, parsed)).to_series()
    bad = value.is_null() | ~value.is_between(_MIN_US, _MAX_US)
    if bad.any():
        row = int(bad.arg_true()[0])
        raise FeedError(f"{path} row {row}: {column.name} {column[row]!r} is neither POSIX seconds nor a time")
    return value.to_numpy()


def numbers(path: Path, column: pl.Series, dtype: Any) -> pl.Series:
    """A column as numbers of a type, empty = null; a FeedError names the first row that is none."""
    if column.dtype == pl.String:
        column = column.replace("", None)
    value = column.cast(dtype, strict=False)
    if (bad := value.is_null() & column.is_not_null()).any():
        row = int(bad.arg_true()[0])
        raise FeedError(f"{path} row {row}: {column.name} {column[row]!r} is no number")
    return value


def ids(column: pl.Series) -> pl.Series:
    """Ids as text, empty = null. Whole numbers that came as floats, as with gaps they do, get no fraction."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        if (whole == column).all():
            column = whole
    text = column.cast(pl.String)
    return text.set(text == "", None) if (text == "").any() else text
