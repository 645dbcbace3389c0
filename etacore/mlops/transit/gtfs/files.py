"""Finds the text files of a GTFS feed in a folder or a zip file."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.contents import described
from etacore.mlops.transit.csv_text import Rows, read_rows

_REQUIRED: Final = ("agency.txt", "stops.txt", "trips.txt", "stop_times.txt")
_READ: Final = (*_REQUIRED, "routes.txt", "calendar.txt", "calendar_dates.txt", "shapes.txt", "frequencies.txt")
_HEAD: Final = 4096
_MAX_SHOWN: Final = 40
_MAX_LISTED: Final = 8
_MAX_HEADINGS: Final = 400

DAMAGED: Final = "their fields do not fit the heading"
"""Of rows that have too many fields, or quotes that nothing closes."""


def shown(value: Any) -> str:
    """Text from outside, quoted and cut."""
    text = str(value)
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")


class Notes:
    """What was odd in a feed and how it was taken: a line for each reason."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Say something that no count belongs to."""
        self.lines.append(line)

    def left_out(self, name: str, n: int, what: str, reason: str, example: str) -> None:
        """Say how many things of a file are left out, and why."""
        self.lines.append(f"{name}: {n} {what} left out: {reason} ({example})")

    def drop(self, name: str, frame: pl.DataFrame, bad: pl.Expr, reason: str, show: str) -> pl.DataFrame:
        """The rows of a file for which `bad` is not true; `show` is the column that the example shows."""
        marked = frame.select(bad.fill_null(False)).to_series()
        if not (n := int(marked.sum())):
            return frame
        first = frame.row(int(marked.arg_true()[0]), named=True)
        value = "" if first[show] is None else f"{show} {shown(first[show])}, "
        self.left_out(name, n, "rows", reason, f"{value}row {first['row']}")
        return frame.filter(~marked)


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return "a zip file that was cut off or damaged" if head.startswith(b"PK") else described(head)


class FeedFiles:
    """Opens the text files of a feed, wherever they lie.

    Parameters
    ----------
    path : Path
        A zip file or a folder; the files lie in it or in one folder inside it.
    notes : Notes
        Gets what was odd.
    """

    def __init__(self, path: Path, notes: Notes) -> None:
        self.path = path
        self.notes = notes
        self._archive: zipfile.ZipFile | None = None
        if path.is_dir():
            inner = [entry for folder in path.iterdir() if folder.is_dir() for entry in folder.iterdir()]
            names = [entry.relative_to(path).as_posix() for entry in (*path.iterdir(), *inner) if entry.is_file()]
        elif path.is_file():
            try:
                self._archive = zipfile.ZipFile(path)
            except zipfile.BadZipFile:
                raise FeedError(f"{path} is neither a folder nor a zip file, but {_what_it_is(path)}") from None
            names = [entry.filename for entry in self._archive.infolist() if not entry.is_dir()]
        else:
            raise FeedError(f"{path} does not exist", hint="give a GTFS zip file or a folder with its text files")
        self._names = self._choose_folder(names)

    def _choose_folder(self, names: list[str]) -> dict[str, str]:
        """Of the one folder that holds the feed: names in lower case, and as they are written."""
        folders: dict[str, dict[str, str]] = {}
        for name in names:
            folder, _, last = name.replace("\\", "/").strip("/").rpartition("/")
            if (lower := last.strip().lower()) in _READ and "__MACOSX" not in folder.split("/"):
                files = folders.setdefault(folder, {})
                if lower not in files or last == lower:
                    files[lower] = name
        if not folders:
            raise self._no_feed(names)
        whole = [folder for folder, files in folders.items() if all(name in files for name in _REQUIRED)]
        if len(folders) == 1:
            return next(iter(folders.values()))
        chosen = "" if "" in whole else whole[0] if len(whole) == 1 else None
        if chosen is None:
            parts = [f"{folder or 'the top'} ({', '.join(files)})" for folder, files in sorted(folders.items())]
            what = "several whole feeds" if whole else "parts of a feed in several folders, none with all it needs"
            raise FeedError(
                f"{self.path} holds {what}: {'; '.join(parts[:_MAX_LISTED])}",
                hint="unpack it and give the folder that is meant",
            )
        others = ", ".join(shown(folder or "the top") for folder in sorted(folders) if folder != chosen)
        where = f"the folder {shown(chosen)}" if chosen else "the top"
        self.notes.add(f"{self.path.name}: the feed is that of {where}; files of a feed in {others} are not read")
        return folders[chosen]

    def _no_feed(self, names: list[str]) -> FeedError:
        archives = sorted(name for name in names if name.lower().endswith(".zip"))
        if archives:
            listed = ", ".join(shown(name) for name in archives[:_MAX_LISTED])
            return FeedError(
                f"{self.path} holds no text files of a feed, but other zip files: {listed}",
                hint="unpack it and give the zip file inside",
            )
        listed = ", ".join(shown(name) for name in sorted(names)[:_MAX_LISTED]) or "nothing"
        return FeedError(
            f"{self.path} holds none of the text files of a feed (stops.txt is missing, and so are the others); "
            f"it holds {listed}",
            hint="give a GTFS zip file or a folder with its text files",
        )

    def _bytes(self, name: str) -> bytes | None:
        if name not in self._names:
            return None
        if self._archive is None:
            return (self.path / self._names[name]).read_bytes()
        try:
            return self._archive.read(self._names[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise FeedError(f"{self.path}: {name} cannot be unpacked ({error})") from None

    def rows(self, name: str, columns: Sequence[str], optional: Sequence[str] = ()) -> Rows:
        """As `read`, with the rows that do not fit the heading."""
        data = self._bytes(name)
        if data is None or not data.strip():
            raise FeedError(f"{self.path}: {name} is {'missing' if data is None else 'empty'}")
        try:
            rows = read_rows(data, (*columns, *optional))
        except FeedError as error:
            raise FeedError(f"{self.path}: {name} {error.message}") from None
        for remark in rows.remarks:
            self.notes.add(f"{name}: {remark}")
        absent = [column for column in columns if column not in rows.headings]
        if absent:
            has = ", ".join(rows.headings)
            has = has if len(has) <= _MAX_HEADINGS else has[:_MAX_HEADINGS] + "..."
            raise FeedError(f"{self.path}: {name} has no column {', '.join(absent)} (has: {has})")
        empty = [pl.lit(None, dtype=pl.String).alias(column) for column in optional if column not in rows.headings]
        return dataclasses.replace(rows, frame=rows.frame.with_columns(empty))

    def read(self, name: str, columns: Sequence[str], optional: Sequence[str] = ()) -> pl.DataFrame:
        """Columns of a required file as stripped text, empty = null, and ``row``; what is optional may be absent."""
        rows = self.rows(name, columns, optional)
        if n := len(rows.damaged):
            self.notes.left_out(name, n, "rows", DAMAGED, f"row {rows.damaged['row'][0]}")
        return rows.frame

    def read_optional(self, name: str, columns: Sequence[str], optional: Sequence[str] = ()) -> pl.DataFrame | None:
        """As `read`; None if the file is absent or empty, or cannot be used, which is noted."""
        try:
            return self.read(name, columns, optional)
        except FeedError as error:
            reason = error.message.removeprefix(f"{self.path}: ")
            if reason not in (f"{name} is missing", f"{name} is empty"):
                self.notes.add(f"{reason}: the file is left out")
            return None
