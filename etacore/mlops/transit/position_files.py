"""Which files hold recorded positions, and what they hold: told by content, all in one table."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.contents import Kind, described, kind_of, read_content
from etacore.mlops.transit.left_out import LeftOut, quoted
from etacore.mlops.transit.position_tables import NAMES, LacksColumnsError, fixes_of_table, table_of_snapshots
from etacore.mlops.transit.realtime import (
    Captures,
    OtherKindError,
    check_kind,
    is_capture,
    message_of_json,
    read_message,
    unused,
)
from etacore.mlops.transit.tables import ROW, read_rows

TABLES: Final = (".parquet", ".csv", ".csv.gz")
DOCUMENTS: Final = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")
_HEAD: Final = 4096
_MAX_HEADINGS: Final = 400


def find_files(path: Path) -> Iterator[Path]:
    """A file itself; of a folder, the files at any depth that hold positions, by their name or what they begin with.

    Raises
    ------
    FeedError
        If a folder has none.
    """
    if not path.is_dir():
        yield path
        return
    found = False
    for file in sorted(path.rglob("*")):
        is_hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if not is_hidden and file.is_file() and _holds_positions(file):
            found = True
            yield file
    if not found:
        raise FeedError(
            f"{path} has no positions in it", hint="files of positions end in .parquet, .csv, .json, .pb or .pbf"
        )


def read_files(files: Sequence[Path], left_out: LeftOut, *, routes_known: bool) -> pl.DataFrame:
    """Read files, oldest first; what cannot be used is counted, and the others are read.

    Parameters
    ----------
    files : sequence of Path
        Tables, captures and JSON.
    left_out : LeftOut
        Is added to, by reason; files under ``unreadable_file``, ``file_without_vehicles``, ``file_without_columns``.
    routes_known : bool
        Whether a timetable is there to give routes to trips.

    Returns
    -------
    DataFrame
        `etacore.mlops.transit.realtime.FIX_SCHEMA`; ``route_id`` may be null.

    Raises
    ------
    FeedError
        If no file can be used; says what is wrong with the first.
    """
    reading = _Reading(left_out, routes_known)
    first_error: FeedError | None = None
    n_unused = 0
    for number, file in enumerate(files):
        try:
            reading.add(file, number)
        except FeedError as error:
            n_unused += 1
            first_error = first_error or error
            reason = "file_without_columns" if isinstance(error, LacksColumnsError) else unused(error)
            left_out.add(reason, error.message.replace(str(file), file.name))
    if first_error is not None and n_unused == len(files):
        if len(files) == 1:
            raise first_error
        kind = "captures" if all(is_capture(file) for file in files) else "files"
        raise FeedError(
            f"none of {len(files)} {kind} can be used; the first: {first_error.message}", hint=first_error.hint
        )
    return reading.fixes()


class _Reading:
    def __init__(self, left_out: LeftOut, routes_known: bool) -> None:
        self._left_out = left_out
        self._routes_known = routes_known
        self._tables: list[pl.DataFrame] = []
        self._captures = Captures(left_out)

    def fixes(self) -> pl.DataFrame:
        return pl.concat([*self._tables, self._captures.table()])

    def add(self, file: Path, number: int) -> None:
        if not file.is_file():
            raise FeedError(f"{file} does not exist or is no file", hint="give a Parquet or CSV file, or captures")
        head = _head(file)
        kind = kind_of(head, NAMES)
        if kind is Kind.JSON:
            self._add_json(file, number)
        elif kind is Kind.MESSAGE or (kind in (Kind.TEXT, Kind.OTHER) and is_capture(file)):
            content = read_content(file)
            self._captures.add(read_message(file, content, self._left_out), file.name, number)
        elif kind is Kind.OTHER:
            raise FeedError(
                f"{file} holds no vehicle positions: it is {described(head)}",
                hint="a recording is a table (Parquet, CSV), a GTFS-Realtime message, or JSON of either",
            )
        else:
            self._add_table(file, number)

    def _add_table(self, file: Path, number: int) -> None:
        n_bad = self._left_out["bad_row"]
        frame = read_rows(file, self._left_out, NAMES)
        try:
            self._take(file, number, frame)
        except LacksColumnsError as error:
            has = ", ".join(name for name in read_rows(file, LeftOut()).columns if name != ROW)
            has = has if len(has) <= _MAX_HEADINGS else has[:_MAX_HEADINGS] + "..."
            raise LacksColumnsError(f"{error.message} (has: {has})", hint=error.hint) from None
        except OtherKindError:
            if self._left_out["bad_row"] == n_bad:
                raise
            raise OtherKindError(
                f"{file} has no row whose fields fit the heading", hint="the first row names all columns, in order"
            ) from None

    def _take(self, file: Path, number: int, frame: pl.DataFrame) -> None:
        fixes = fixes_of_table(frame, file, number, self._left_out, routes_known=self._routes_known)
        self._tables.append(fixes)

    def _add_json(self, file: Path, number: int) -> None:
        documents = _documents(file, self._left_out)
        messages = [message for document in documents if (message := message_of_json(document)) is not None]
        if messages:
            check_kind(file, [entity for _, entities in messages for entity in entities])
            for message in messages:
                self._captures.add(message, file.name, number)
            return
        frame = table_of_snapshots(documents, file.name, self._left_out)
        if not len(frame) or "timestamp" not in frame.columns:
            keys = next((list(document) for document in documents if isinstance(document, dict)), [])
            raise OtherKindError(
                f"{file} is no GTFS-Realtime message and holds no snapshots, but JSON"
                + (f" with the keys {', '.join(quoted(key) for key in keys[:8])}" if keys else ""),
                hint="JSON is read as protobuf writes a FeedMessage, and as snapshots, in a list or one a line",
            )
        self._take(file, number, frame)


def _holds_positions(file: Path) -> bool:
    if is_capture(file) or file.name.lower().endswith((*TABLES, *DOCUMENTS)):
        return True
    try:
        head = _head(file)
    except FeedError:
        return False
    kind = kind_of(head, NAMES)
    return kind in (Kind.PARQUET, Kind.MESSAGE) or (kind is Kind.JSON and b'"entity"' in head)


def _head(file: Path) -> bytes:
    """The first bytes, unpacked."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError as error:
        raise FeedError(f"{file} cannot be read ({error.strerror or error})") from None
    if not head.startswith(b"\x1f\x8b"):
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except zlib.error as error:
        raise FeedError(f"{file} cannot be read ({error})") from None


def _documents(file: Path, left_out: LeftOut) -> list[Any]:
    """The documents of a JSON file: one, those of a list, or one a line."""
    text = read_content(file).decode("utf-8-sig", "replace")
    try:
        document = json.loads(text)
    except ValueError as error:
        documents = list(_lines(text, file.name, left_out))
        if not documents:
            raise FeedError(f"{file} is no readable JSON ({error})") from None
        return documents
    return document if isinstance(document, list) else [document]


def _lines(text: str, name: str, left_out: LeftOut) -> Iterator[Any]:
    bad: list[str] = []
    n = 0
    for number, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except ValueError as error:
            bad.append(f"{name} line {number}: {error}")
            continue
        n += 1
        yield document
    if n and bad:
        left_out.add("bad_row", bad[0], len(bad))
