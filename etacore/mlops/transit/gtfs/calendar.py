"""On which days the services of a GTFS feed run: calendar.txt and calendar_dates.txt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.mlops.transit.gtfs.files import FeedFiles, Notes, shown

EPOCH: Final = date(1970, 1, 1)
_WEEKDAY_OF_EPOCH: Final = EPOCH.weekday()
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_ON: Final = ("1", "1.0")
_OFF: Final = ("0", "0.0")
_DAYS: Final = 1 << 32
"""More than there are days: a service and a day make one number."""


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """When services run, as rules: days since 1970-01-01 are asked for, never listed.

    Attributes
    ----------
    number : dict of service id to int
        Index of each service that any file names.
    first_day, last_day : ndarray of int32, shape (n_spans, n_services)
        Spans of time, both ends included; where a service has fewer, the last day is before the first.
    weekdays : ndarray of uint8, shape (n_spans, n_services)
        Bit 0 is Monday.
    added, removed : ndarray of int64
        Single days, as service index x 2^32 + day, ascending; they have the last word.
    """

    number: dict[str, int]
    first_day: npt.NDArray[np.int32]
    last_day: npt.NDArray[np.int32]
    weekdays: npt.NDArray[np.uint8]
    added: npt.NDArray[np.int64]
    removed: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.number)

    def numbers(self, service_ids: Sequence[str]) -> npt.NDArray[np.int32]:
        """Index of each service id, -1 for one that no file names."""
        return np.array([self.number.get(service_id, -1) for service_id in service_ids], dtype=np.int32)

    def run_on(self, service: npt.NDArray[Any], day: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether services, by index, run on days; False for index -1."""
        service, day = np.broadcast_arrays(np.asarray(service, np.int64), np.asarray(day, np.int64))
        if not self.number:
            return np.zeros(service.shape, dtype=bool)
        bit = (self.weekdays[:, service] >> ((day + _WEEKDAY_OF_EPOCH) % 7).astype(np.uint8)) & 1
        within = (self.first_day[:, service] <= day) & (day <= self.last_day[:, service])
        runs = (within & (bit == 1)).any(axis=0)
        key = service * _DAYS + day
        runs = (runs & ~np.isin(key, self.removed)) | np.isin(key, self.added)
        return np.asarray(runs & (service >= 0))

    def runs_on(self, service_id: str, day: int | date) -> bool:
        """Whether a service runs on a day."""
        number = (day - EPOCH).days if isinstance(day, date) else day
        return bool(self.run_on(np.array([self.number.get(service_id, -1)]), np.array([number]))[0])

    def on(self, day: date) -> set[str]:
        """Service ids that run on a day."""
        runs = self.run_on(np.arange(len(self)), np.array([(day - EPOCH).days]))
        return {service_id for service_id, running in zip(self.number, runs.tolist(), strict=True) if running}


def read_services(files: FeedFiles, notes: Notes) -> Services:
    """Read both files, each of which may be absent."""
    number: dict[str, int] = {}
    spans = _read_spans(files, notes, number)
    added, removed = _read_single_days(files, notes, number)
    n_spans = max((len(of_service) for of_service in spans.values()), default=0)
    first_day = np.zeros((n_spans, len(number)), np.int32)
    last_day = np.full((n_spans, len(number)), np.iinfo(np.int32).min, np.int32)
    weekdays = np.zeros((n_spans, len(number)), np.uint8)
    for service, of_service in spans.items():
        for ix, span in enumerate(sorted(of_service)):
            first_day[ix, service], last_day[ix, service], weekdays[ix, service] = span
    if not number:
        notes.add("neither calendar.txt nor calendar_dates.txt says when services run")
    return Services(number, first_day, last_day, weekdays, added, removed)


def _read_spans(files: FeedFiles, notes: Notes, number: dict[str, int]) -> dict[int, set[tuple[int, int, int]]]:
    name = "calendar.txt"
    spans: dict[int, set[tuple[int, int, int]]] = {}
    frame = files.read_optional(name, ("service_id", *_WEEKDAYS, "start_date", "end_date"))
    if frame is None:
        return spans
    service_id, first, last = pl.col("service_id"), pl.col("first_day"), pl.col("last_day")
    frame = frame.with_columns(
        days_since_epoch(frame["start_date"]).alias("first_day"), days_since_epoch(frame["end_date"]).alias("last_day")
    )
    frame = notes.drop(name, frame, service_id.is_null(), "service_id is missing", "service_id")
    for column in _WEEKDAYS:
        bad = ~pl.col(column).is_in([*_ON, *_OFF])
        frame = notes.drop(name, frame, bad, f"{column} is neither 0 nor 1", column)
    frame = notes.drop(name, frame, first.is_null(), "start_date is no date YYYYMMDD", "start_date")
    frame = notes.drop(name, frame, last.is_null(), "end_date is no date YYYYMMDD", "end_date")
    frame = notes.drop(name, frame, last < first, "end_date is before start_date", "service_id")
    for row in frame.iter_rows(named=True):
        mask = sum(1 << bit for bit, column in enumerate(_WEEKDAYS) if row[column] in _ON)
        service = number.setdefault(row["service_id"], len(number))
        spans.setdefault(service, set()).add((row["first_day"], row["last_day"], mask))
    return spans


def _read_single_days(
    files: FeedFiles, notes: Notes, number: dict[str, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    name = "calendar_dates.txt"
    frame = files.read_optional(name, ("service_id", "date", "exception_type"))
    if frame is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    kind = pl.col("exception_type")
    frame = frame.with_columns(days_since_epoch(frame["date"]).alias("day"), kind.str.strip_suffix(".0"))
    frame = notes.drop(name, frame, pl.col("service_id").is_null(), "service_id is missing", "service_id")
    frame = notes.drop(name, frame, pl.col("day").is_null(), "date is no date YYYYMMDD", "date")
    bad = ~kind.is_in(["1", "2"]).fill_null(False)
    frame = notes.drop(name, frame, bad, "exception_type is neither 1 nor 2", "exception_type")
    frame = frame.unique(["service_id", "day", "exception_type"], keep="last", maintain_order=True)
    twice = ~frame.select(pl.struct("service_id", "day").is_first_distinct()).to_series()
    if twice.any():
        row = frame.row(int(twice.arg_true()[0]), named=True)
        notes.add(
            f"{name}: {int(twice.sum())} days are added to a service and taken out of it, too: the later row counts "
            f"(service_id {shown(row['service_id'])}, row {row['row']})"
        )
        frame = frame.unique(["service_id", "day"], keep="last", maintain_order=True)
    service = np.array([number.setdefault(each, len(number)) for each in frame["service_id"]], dtype=np.int64)
    key = service * _DAYS + frame["day"].to_numpy()
    adds = (frame["exception_type"] == "1").to_numpy()
    return np.sort(key[adds]), np.sort(key[~adds])


def days_since_epoch(text: pl.Series) -> pl.Series:
    """Dates YYYYMMDD (or YYYY-MM-DD) as days since 1970-01-01, null where there is none."""
    digits = text.str.replace(r"^(\d{4})-(\d\d)-(\d\d)$", "$1$2$3").str.extract(r"^(\d{8})(?:\.0)?$")
    return digits.str.to_date("%Y%m%d", strict=False).cast(pl.Int32)
