"""Reads CSV, of GTFS and of recordings, into text columns, as agencies really write it.

Polars reads the file. Only what it does not read as CSV, or what has line
breaks inside quotes, goes through Python, line by line.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import polars as pl

from etacore.errors import FeedError

_TEXT_SPACE: Final = " \t\r\n\u00a0"
_MAX_LINES_OF_A_RECORD: Final = 50
_EMPTY_ROWS = re.compile(rb'(?:[ \t\r,"]*\n)*[ \t]*')
_SPACE_BEFORE_A_QUOTE = re.compile(rb'(?:^|[,\n])[ \t]+"')
_FIELD_END = r"[ \t\r]*(?=,|\Z)"
_UNQUOTED = r'|((?![ \t]*")[^,\n]*)(?=,|\Z)'
_FIELD = re.compile(rf'[ \t]*"((?:[^"]|"")*)"{_FIELD_END}{_UNQUOTED}')
_FIELD_WITH_BARE_QUOTES = re.compile(rf'[ \t]*"(.*?)"{_FIELD_END}{_UNQUOTED}')


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a file: the asked columns as stripped text (empty = null) and ``row``, the heading being row 1.

    Attributes
    ----------
    headings : list of str
        All of the file, in lower case.
    first_row : int
        Number of the row below the heading, blank or not.
    frame : polars.DataFrame
        Of the asked columns those that the file has. Rows in which all of them are empty are passed over.
    damaged : polars.DataFrame
        Rows with more fields than the heading, or with quotes that nothing closes; shorter rows end in empty fields.
    remarks : list of str
        What was odd about the whole file.
    """

    headings: list[str]
    first_row: int
    frame: pl.DataFrame
    damaged: pl.DataFrame
    remarks: list[str]


def read_rows(data: bytes, wanted: Collection[str] | None) -> Rows:
    """Read a file.

    Parameters
    ----------
    data : bytes
        UTF-8 with or without mark, UTF-16 or Windows-1252, with any line ends.
    wanted : collection of str, optional
        Columns, in lower case; all that have a name if None. Of two with one name it is the first.

    Raises
    ------
    FeedError
        If no way was found to read it as CSV; without the name of the file.
    """
    data, remarks = _utf8_lines(data)
    before = _EMPTY_ROWS.match(data)
    heading_at = before.end() if before else 0
    first_row = data.count(b"\n", 0, heading_at) + 2
    first_line, _, body = data[heading_at:].partition(b"\n")
    del data
    headings = _headings(first_line)
    named = headings if wanted is None else wanted
    columns = {name: headings.index(name) for name in named if name and name in headings}
    frame = _parse_if_whole(body, len(headings), columns, first_row)
    if frame is None:
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            text = body.decode("utf-8", errors=_WINDOWS_1252)
            row = first_row + body.count(b"\n", 0, error.start)
            remarks.append(f"not UTF-8, its other bytes are read as Windows-1252 (row {row})")
            frame = _parse_if_whole(text.encode("utf-8"), len(headings), columns, first_row)
    if frame is None:
        try:
            frame = _parse(_rewritten(text, len(headings)), len(headings), columns, first_row)
        except pl.exceptions.PolarsError as error:
            raise FeedError(f"is not CSV ({str(error).splitlines()[0]})") from None
    text_columns = pl.col(pl.String).str.strip_chars(_TEXT_SPACE)
    frame = frame.with_columns(pl.when(text_columns == "").then(None).otherwise(text_columns).name.keep())
    surplus = frame["surplus"].is_not_null()
    frame = frame.drop("surplus")
    damaged = frame.filter(surplus) if surplus.any() else frame.clear()
    frame = frame.filter(~surplus) if len(damaged) else frame
    empty = frame.select(pl.all_horizontal(pl.exclude("row").is_null())).to_series() if columns else None
    frame = frame.filter(~empty) if empty is not None and empty.any() else frame
    return Rows(headings, first_row, frame, damaged, remarks)


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    wrong = error.object[error.start : error.end]
    try:
        return wrong.decode("cp1252"), error.end
    except UnicodeDecodeError:
        return wrong.decode("latin-1"), error.end


_WINDOWS_1252: Final = "etacore-windows-1252"
codecs.register_error(_WINDOWS_1252, _as_windows_1252)


def _utf8_lines(data: bytes) -> tuple[bytes, list[str]]:
    """The file without byte order mark, its lines ended by line feeds (before which carriage returns may stay)."""
    remarks = []
    wide = None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        wide = "utf-16"
    elif b"\0" in data[:2]:
        wide = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    if wide:
        data = data.decode(wide, errors="replace").encode("utf-8")
        remarks.append("UTF-16, where GTFS wants UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
        data = re.sub(rb"\r+\n|\r", b"\n", data)
    return data, remarks


def _headings(line: bytes) -> list[str]:
    text = line.decode("utf-8", errors=_WINDOWS_1252)
    fields = next(csv.reader([text], skipinitialspace=True), [])
    return [field.strip(_TEXT_SPACE + '"\ufeff').lower() for field in fields]


def _parse(body: bytes, width: int, columns: dict[str, int], first_row: int) -> pl.DataFrame:
    """The columns with ``row`` and ``surplus``, the field after the last one that the heading names."""
    heading = ",".join([*(f"field{ix}" for ix in range(width)), "surplus"]).encode()
    frame = pl.read_csv(
        heading + b"\n" + body,
        columns=[*(f"field{ix}" for ix in sorted(columns.values())), "surplus"],
        infer_schema=False,
        encoding="utf8",
        truncate_ragged_lines=True,
        row_index_name="row",
        row_index_offset=first_row,
    )
    return frame.select("row", "surplus", *(pl.col(f"field{ix}").alias(name) for name, ix in columns.items()))


def _parse_if_whole(body: bytes, width: int, columns: dict[str, int], first_row: int) -> pl.DataFrame | None:
    """None if this is not CSV to the letter, or a record runs over several lines: quotes may be missing, then."""
    if (b' "' in body or b'\t"' in body) and _SPACE_BEFORE_A_QUOTE.search(body):
        return None
    try:
        frame = _parse(body, width, columns, first_row)
    except pl.exceptions.PolarsError:
        return None
    n_lines = body.count(b"\n") + (not body.endswith(b"\n") and bool(body))
    return None if b'"' in body and len(frame) != n_lines else frame


def _rewritten(body: str, width: int) -> bytes:
    """The same records, quoted as CSV wants it; what cannot be read gets one field more than the heading has."""
    lines = body.split("\n")
    out = []
    ix = 0
    while ix < len(lines):
        line = lines[ix]
        ix += 1
        if '"' not in line:
            out.append(line)
            continue
        fields = _split(line, _FIELD)
        if fields is None and (end := _end_of_record(lines, ix, width)):
            fields = _split("\n".join(lines[ix - 1 : end]), _FIELD)
            ix = end
        if fields is None:
            fields = _split(line, _FIELD_WITH_BARE_QUOTES)
        if fields is None and (closed := _split(line.rstrip("\r") + '"', _FIELD)) and len(closed) == width:
            fields = closed
        if fields is None:
            fields = [*(line.replace('"', "").split(",") + [""] * width)[:width], "quotes that nothing closes"]
        out.append(",".join('"' + field.replace('"', '""') + '"' for field in fields))
    return "\n".join(out).encode("utf-8")


def _end_of_record(lines: list[str], begin: int, width: int) -> int:
    """Where the record ends that a quote keeps open at the end of the line before `begin`; 0 if it is none."""
    for end in range(begin + 1, min(begin + _MAX_LINES_OF_A_RECORD, len(lines)) + 1):
        if lines[end - 1].count('"') % 2:
            record = lines[begin - 1 : end]
            fields = _split("\n".join(record), _FIELD)
            # Lines that would each be a row are rows, two of which lack a quote.
            are_rows = all(line.count(",") == width - 1 for line in record)
            return 0 if fields is None or len(fields) > width or are_rows else end
    return 0


def _split(record: str, pattern: re.Pattern[str]) -> list[str] | None:
    """The fields of a record; None if a quote is not closed before a comma or the end."""
    fields = []
    at = 0
    while (match := pattern.match(record, at)) is not None:
        quoted, bare = match.groups()
        fields.append(bare if quoted is None else quoted.replace('""', '"'))
        at = match.end() + 1
        if at > len(record):
            return fields
    return None
