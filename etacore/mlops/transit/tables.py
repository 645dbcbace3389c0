"""Reads Parquet and CSV tables that others wrote; what cannot be used is named by its row."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.contents import read_content
from etacore.mlops.transit.csv_text import read_rows as read_csv_rows
from etacore.mlops.transit.left_out import LeftOut, quoted
from etacore.pipeline.snapshots import parse_timestamp

ROW: Final = "\0row"
"""Column of `read_rows`: the number of a row in its file, the first is 0."""

_MAX_SECONDS: Final = 1e11
"""Larger numbers are milliseconds, as in snapshots."""
_MIN_US: Final = -62_135_596_800_000_000  # year 1
_MAX_US: Final = 253_402_300_799_999_999  # year 9999

# YYYYMMDD, YYYYMMDDHHMM and YYYYMMDDHHMMSS in digits alone, which would be taken for POSIX times; and ISO's short form
# with a blank in it, which is not ISO.
_COMPACT: Final = (
    r"^\s*(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?)?(?:\.0*)?\s*$"
    r"|^\s*\d{8} "
)
_PANDAS_FLOAT: Final = r"^-?\d+\.0+$"
_WHOLE: Final = r"^-?\d+(?:\.0+)?$"


def read_table(path: Path, wanted: Collection[str] | None = None) -> pl.DataFrame:
    """A Parquet or CSV file; what is no Parquet is CSV, its columns text. Rows without any value are passed over.

    Parameters
    ----------
    path : Path
        What is read.
    wanted : collection of str, optional
        Columns to read, if they are there; all if None.

    Raises
    ------
    FeedError
        If it is absent or no such file, or has a row of more fields than columns.
    """
    left_out = LeftOut()
    frame = read_rows(path, left_out, wanted).drop(ROW)
    if left_out["bad_row"]:
        raise FeedError(f"{path}: {left_out.examples['bad_row']}")
    return frame


def read_rows(path: Path, left_out: LeftOut, wanted: Collection[str] | None = None) -> pl.DataFrame:
    """As `read_table`, with the column `ROW`; a row of more fields than columns is left out as ``bad_row``.

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
            frame = _read_parquet(path, wanted).with_row_index(ROW)
        else:
            frame = _read_csv(path, left_out, wanted)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FeedError(f"{path} is no readable {kind} file ({str(error).splitlines()[0]})") from None
    columns = [name for name in frame.columns if name != ROW and (wanted is None or name in wanted)]
    if not columns:
        return frame.select(ROW)
    return frame.filter(~pl.all_horizontal(pl.exclude(ROW).is_null())).select(ROW, *columns)


def _read_parquet(path: Path, wanted: Collection[str] | None) -> pl.DataFrame:
    schema = pl.read_parquet_schema(path)
    if wanted is None:
        return pl.read_parquet(path)
    columns: dict[str, str] = {}
    for name in sorted(schema, key=lambda name: name not in wanted):
        own = _own_names(wanted).get(name.lower())
        if own is not None and own not in columns.values():
            columns[name] = own
    # Lists and structures are no values of ours. Texts without their mark are bytes.
    kept = [name for name in columns if not schema[name].is_nested()]
    as_text = pl.selectors.binary().cast(pl.String, strict=False)
    frame = pl.read_parquet(path, columns=kept).with_columns(as_text).rename({name: columns[name] for name in kept})
    return frame.with_columns(pl.lit(None, pl.String).alias(columns[name]) for name in columns if name not in kept)


def _own_names(wanted: Collection[str]) -> dict[str, str]:
    """By the name in lower case: headings are known whatever their case."""
    return {name.lower(): name for name in wanted}


def times_us(path: Path, column: pl.Series) -> npt.NDArray[np.int64]:
    """A column of times as microseconds since the epoch; a FeedError names the first bad row."""
    value = as_times_us(column)
    if value.null_count():
        row = int(value.is_null().arg_true()[0])
        text = f"{column.name} {quoted(column[row])}"
        raise FeedError(f"{path} row {row}: {text} is neither POSIX seconds or milliseconds nor ISO 8601")
    return value.to_numpy()


def as_times_us(column: pl.Series) -> pl.Series:
    """A column of times, of whatever kind, as microseconds since the epoch; null for what is none.

    Numbers are POSIX seconds, above 1e11 milliseconds; texts are that or ISO 8601 (naive means UTC). Dates in digits
    alone, local forms and all others are never guessed.
    """
    if isinstance(column.dtype, pl.Datetime | pl.Date):
        value = column.cast(pl.Datetime("us")).cast(pl.Int64)
    else:
        name = column.name
        text = column.cast(pl.String) if column.dtype == pl.String or column.dtype.is_integer() else None
        number = column.cast(pl.Float64, strict=False)
        if text is None and column.dtype.is_float():
            text = pl.Series(name, number.cast(pl.Int64, strict=False)).cast(pl.String)
        scale = pl.when(pl.col(name).abs() > _MAX_SECONDS).then(1e3).otherwise(1e6)
        value = number.to_frame().select((pl.col(name) * scale).round().cast(pl.Int64, strict=False)).to_series()
        if text is not None:
            value = value.set(text.str.contains(_COMPACT).fill_null(False), None)
            if column.dtype == pl.String:
                value = value.zip_with(value.is_not_null(), _iso_times_us(text.set(value.is_not_null(), None)))
    return value.set(~value.is_between(_MIN_US, _MAX_US).fill_null(False), None)


def _iso_times_us(text: pl.Series) -> pl.Series:
    """Texts as snapshots have them; null for what would be guessed."""
    given = text.drop_nulls().unique()
    given = given.filter(~given.str.contains(_COMPACT))
    known = {time: time_us for time in given.to_list() if (time_us := parse_timestamp(time)) is not None}
    return text.replace_strict(list(known), list(known.values()), default=None, return_dtype=pl.Int64)


def numbers(path: Path, column: pl.Series, dtype: Any) -> pl.Series:
    """A column as numbers of a type, empty = null; a FeedError names the first row that is none."""
    value = as_numbers(column, dtype)
    if (bad := value.is_null() & given(column)).any():
        row = int(bad.arg_true()[0])
        raise FeedError(f"{path} row {row}: {column.name} {quoted(column[row])} is no number")
    return value


def as_numbers(column: pl.Series, dtype: Any) -> pl.Series:
    """A column as numbers of a type, null for what is none; whole numbers may come as floats (``5.0``)."""
    value = column.cast(pl.Float64, strict=False)
    if dtype.is_integer():
        value = value.set((value != value.round()).fill_null(False), None)
    return value.cast(dtype, strict=False)


def given(column: pl.Series) -> pl.Series:
    """Where there is a value: neither null nor NaN nor an empty text."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
    return column.is_not_null() & (column != "") if column.dtype == pl.String else column.is_not_null()


def ids(column: pl.Series) -> pl.Series:
    """Ids as text, empty = null.

    Whole numbers that came as floats, as with gaps they do, get no fraction: in columns of floats, and in texts where
    the whole column is such numbers.
    """
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        if (whole == column).all():
            column = whole
    text = column.cast(pl.String)
    text = text.set(text == "", None) if (text == "").any() else text
    if text.str.contains(_PANDAS_FLOAT).any() and text.str.contains(_WHOLE).all():
        text = text.str.replace(r"\.0+$", "")
    return text


def _read_csv(path: Path, left_out: LeftOut, wanted: Collection[str] | None) -> pl.DataFrame:
    own = {} if wanted is None else _own_names(wanted)
    rows = read_csv_rows(read_content(path), None if wanted is None else list(own))
    if n := len(rows.damaged):
        row = rows.damaged["row"][0] - rows.first_row
        left_out.add("bad_row", f"{path.name} row {row}: its fields do not fit the {len(rows.headings)} columns", n)
    frame = rows.frame.with_columns((pl.col("row") - rows.first_row).cast(pl.UInt32).alias(ROW)).drop("row")
    return frame.rename({name: own.get(name, name) for name in frame.columns})
