"""Reads captures of GTFS-Realtime VehiclePositions: each file is one feed message, as a poller kept it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.transit import gtfs_realtime_pb2

from etacore.errors import FeedError
from etacore.mlops.transit.contents import described, read_content
from etacore.mlops.transit.left_out import LeftOut, quoted
from etacore.mlops.transit.start_texts import parse_start_date, parse_start_time
from etacore.mlops.transit.vehicle_names import CANDIDATES, name_vehicles
from etacore.schema import service_time_text

SUFFIXES: Final = (".pb", ".pbf", ".bin", ".pb.gz", ".pbf.gz", ".bin.gz")
FIX_SCHEMA: Final[dict[str, Any]] = {
    "vehicle_id": pl.String,
    "time_us": pl.Int64,
    "lat": pl.Float64,
    "lon": pl.Float64,
    "speed_mps": pl.Float32,
    "bearing": pl.Float32,
    "stop_sequence": pl.Int32,
    "direction_id": pl.Int8,
    "start_date": pl.Int32,
    "start_time_s": pl.Int32,
    "route_id": pl.String,
    "trip_id": pl.String,
    "stop_id": pl.String,
    "current_status": pl.String,
    "file": pl.Int32,
    "row": pl.Int32,
}
"""Columns of fixes while they are read; null is missing. ``file`` and ``row`` say where a fix stood."""

STATUS_NAMES: Final = {number: name for name, number in gtfs_realtime_pb2.VehiclePosition.VehicleStopStatus.items()}
"""Of ``current_status``, as GTFS-Realtime numbers it."""

MAX_SECONDS: Final = 1e11
"""Larger times are milliseconds, as in snapshots."""

_RAW_SCHEMA: Final = FIX_SCHEMA | dict.fromkeys(CANDIDATES, pl.String)
_FIXES_PER_BLOCK: Final = 200_000
_MAX_SEQUENCE: Final = 2**31 - 1
_MAX_DIRECTION: Final = 127
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999
_NOT_RUN: Final = frozenset(
    number
    for name, number in gtfs_realtime_pb2.TripDescriptor.ScheduleRelationship.items()
    if name in ("CANCELED", "DELETED")
)

Row = tuple[str | int | float | None, ...]
"""A row of `_RAW_SCHEMA`."""


class OtherKindError(FeedError):
    """A message of the other kinds, or a document that is none."""


def is_capture(path: Path) -> bool:
    """Whether a file's name is that of a capture."""
    return path.name.lower().endswith(SUFFIXES)


def read_captures(paths: Sequence[Path], left_out: LeftOut) -> pl.DataFrame:
    """Read captures, oldest first, into one table: `Captures` over files.

    Raises
    ------
    FeedError
        If no file could be used: names the first and what is wrong with it.
    """
    captures = Captures(left_out)
    errors = []
    for number, path in enumerate(paths):
        try:
            captures.add(read_message(path, read_content(path), left_out), path.name, number)
        except FeedError as error:
            errors.append(error)
            left_out.add(unused(error), error.message.replace(str(path), path.name))
    if errors and len(errors) == len(paths):
        raise errors[0]
    return captures.table()


def unused(error: FeedError) -> str:
    """The counter of a file that cannot be used."""
    return "file_without_vehicles" if isinstance(error, OtherKindError) else "unreadable_file"


class Captures:
    """Collects the fixes of messages, oldest first.

    A fix without a time has that of its message; times above 1e11 are
    milliseconds. A fix that successive captures repeat (same vehicle, same
    time) is there once. Vehicles are named by `name_vehicles`, over all
    messages together. A trip that is cancelled or deleted is not run by the
    vehicle: the fix is kept without it.

    Parameters
    ----------
    left_out : LeftOut
        Is added to: ``bad_entity``, ``deleted_entity``, ``repeated_fix``, ``no_position``, ``no_time``, ``bad_time``,
        ``no_vehicle_id``, ``shared_vehicle_id``, ``canceled_trip``, ``bad_start``.
    """

    def __init__(self, left_out: LeftOut) -> None:
        self._left_out: Final = left_out
        self._blocks: list[pl.DataFrame] = []
        self._rows: list[Row] = []
        self._newest: dict[tuple[str | None, ...], int] = {}
        self._indexes = [0, 0]
        self._file_names: dict[int, str] = {}
        self._n_messages = 0

    def add(self, message: tuple[int, Iterable[Any]], name: str, file: int) -> None:
        """Take the fixes of a message: the time of its header, and its entities, a text for one that cannot be read."""
        header_s, entities = message
        self._file_names[file] = name
        ids = []
        for number, entity in enumerate(entities):
            if isinstance(entity, str):
                self._left_out.add("bad_entity", f"{name} entity {number}: {entity}")
                ids.append("")
                continue
            ids.append(_text(entity.id) or "")
            self._take(entity, f"{name} entity {number}", header_s, file, number)
        if ids:
            self._indexes[_count_up(ids)] += 1
        self._n_messages += 1
        if len(self._rows) >= _FIXES_PER_BLOCK:
            self._flush()

    def table(self) -> pl.DataFrame:
        """What was taken: `FIX_SCHEMA`; ``route_id`` and ``trip_id`` may be null."""
        self._flush()
        is_index = self._indexes[1] >= self._indexes[0]
        fixes = name_vehicles(pl.concat(self._blocks), self._left_out, self._file_names, is_index=is_index)
        fixes = fixes.select(list(FIX_SCHEMA))
        # Captures need not come in the order of their time, and another name may be the same vehicle.
        once = fixes.unique(["vehicle_id", "time_us"], keep="first", maintain_order=True)
        if repeated := len(fixes) - len(once):
            self._left_out["repeated_fix"] += repeated
        return once

    def _flush(self) -> None:
        self._blocks.append(pl.DataFrame(self._rows, schema=_RAW_SCHEMA, orient="row"))
        self._rows = []

    def _take(self, entity: Any, where: str, header_s: int, file: int, number: int) -> None:
        left_out = self._left_out
        if entity.is_deleted:
            left_out.add("deleted_entity", where)
            return
        if not entity.HasField("vehicle"):
            return
        fix = entity.vehicle
        time_us = _time_us(fix.timestamp or header_s)
        if time_us is None:
            reason = "bad_time" if fix.timestamp or header_s else "no_time"
            left_out.add(reason, f"{where}: timestamp {fix.timestamp}, that of the message {header_s}")
            return
        trip = fix.trip
        trip_id, route_id = _text(trip.trip_id), _text(trip.route_id)
        start_date = self._start(parse_start_date, trip.start_date, where, "start_date")
        start_time_s = self._start(parse_start_time, trip.start_time, where, "start_time")
        direction = trip.direction_id if trip.HasField("direction_id") and trip.direction_id <= _MAX_DIRECTION else None
        vehicle_id, label, entity_id = _text(fix.vehicle.id), _text(fix.vehicle.label), _text(entity.id)
        run = _run_name(trip_id, route_id, direction, start_date, start_time_s)
        seen = vehicle_id, label, run, entity_id
        if self._newest.get(seen) == time_us:
            left_out.add("repeated_fix", where)
            return
        self._newest[seen] = time_us
        place = fix.position
        if not (place.HasField("latitude") and place.HasField("longitude")):
            left_out.add("no_position", f"{where}: latitude or longitude is missing")
            return
        if trip.schedule_relationship in _NOT_RUN:
            left_out.add("canceled_trip", f"{where}: trip {quoted(trip_id)}")
            trip_id = start_date = start_time_s = direction = None
        self._rows.append(
            (
                None,
                time_us,
                place.latitude,
                place.longitude,
                place.speed if place.HasField("speed") else None,
                place.bearing if place.HasField("bearing") else None,
                min(fix.current_stop_sequence, _MAX_SEQUENCE) if fix.HasField("current_stop_sequence") else None,
                direction,
                start_date,
                start_time_s,
                route_id,
                trip_id,
                _text(fix.stop_id),
                STATUS_NAMES.get(fix.current_status) if fix.HasField("current_status") else None,
                file,
                number,
                vehicle_id,
                run,
                label,
                entity_id,
                str(self._n_messages),
            )
        )

    def _start(self, parse: Any, given: Any, where: str, name: str) -> int | None:
        text = _text(given)
        if text is None:
            return None
        value: int | None = parse(text)
        if value is None:
            self._left_out.add("bad_start", f"{where}: {name} {quoted(text)}")
        return value


def read_message(path: Path, content: bytes, left_out: LeftOut) -> tuple[int, Sequence[Any]]:
    """The header's time of a ``FeedMessage`` and its entities, a text for one that cannot be read.

    Of a message that was cut off, or has a broken entity, it is what is whole.

    Raises
    ------
    FeedError
        If it is no such message, or nothing of it is whole.
    """
    message = gtfs_realtime_pb2.FeedMessage()
    try:
        message.ParseFromString(content)
        header, entities = message.header, list(message.entity)
        is_message = message.HasField("header") or bool(entities)
    except DecodeError:
        header, entities, is_cut = _pieces(content)
        is_message = header is not None and not all(isinstance(entity, str) for entity in entities)
        if is_message and is_cut:
            left_out.add("cut_off_file", f"{path.name}: {len(entities)} whole entities")
    if not is_message:
        what = described(content)
        raise FeedError(
            f"{path} is no GTFS-Realtime message, but {what}",
            hint="a capture is the body of one answer of the VehiclePositions address, as it came",
        )
    check_kind(path, entities)
    return header.timestamp, entities


def message_of_json(document: Any) -> tuple[int, list[Any]] | None:
    """As `read_message`, of protobuf's JSON form, by itself or inside an object; None if it is none."""
    for holder in (document, *document.values()) if isinstance(document, dict) else ():
        if not isinstance(holder, dict):
            continue
        entities = holder.get("entity", [])
        if isinstance(entities, list) and (entities or "header" in holder):
            return _header_s(holder.get("header")), [_entity_of_json(entity) for entity in entities]
    return None


def check_kind(path: Path, entities: Sequence[Any]) -> None:
    """Refuse a message of other kinds.

    Raises
    ------
    OtherKindError
        If it has entities and none of them is a vehicle.
    """
    whole = [entity for entity in entities if not isinstance(entity, str)]
    if any(entity.HasField("vehicle") or entity.is_deleted for entity in whole):
        return
    kinds = ("trip_update", "alert", "shape", "stop", "trip_modifications")
    known = {field.name for field in gtfs_realtime_pb2.FeedEntity.DESCRIPTOR.fields}
    counts = {
        kind.replace("_", " ") + "s": sum(entity.HasField(kind) for entity in whole) for kind in kinds if kind in known
    }
    found = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n)
    if found:
        raise OtherKindError(
            f"{path} holds {found} and no vehicle positions", hint="capture the address of the VehiclePositions feed"
        )
    # A message without entities is a quiet night, not an error.


def _header_s(header: Any) -> int:
    try:
        return max(int(float(header["timestamp"])), 0)
    except (TypeError, KeyError, ValueError, OverflowError):
        return 0


def _entity_of_json(given: Any) -> Any:
    entity = gtfs_realtime_pb2.FeedEntity()
    try:
        json_format.ParseDict(given, entity, ignore_unknown_fields=True)
    except (json_format.ParseError, TypeError, AttributeError, ValueError) as error:
        return quoted(str(error))
    return entity


def _pieces(content: bytes) -> tuple[Any, list[Any], bool]:
    """Header and entities of a message, each by itself, as far as they go; and whether the end is missing."""
    header: Any = None
    entities: list[Any] = []
    at = 0
    while at < len(content):
        tag = content[at]
        length, start = _varint(content, at + 1)
        if tag not in (0x0A, 0x12) or length is None:
            return header, entities, True
        if start + length > len(content):
            return header, entities, True
        piece = content[start : start + length]
        kind = gtfs_realtime_pb2.FeedHeader if tag == 0x0A else gtfs_realtime_pb2.FeedEntity
        parsed: Any = kind()
        try:
            parsed.ParseFromString(piece)
        except DecodeError:
            parsed = "cannot be decoded"
        if tag == 0x12:
            entities.append(parsed)
        elif not isinstance(parsed, str) and parsed.HasField("gtfs_realtime_version"):
            header = parsed
        at = start + length
    return header, entities, False


def _varint(content: bytes, at: int) -> tuple[int | None, int]:
    value = shift = 0
    while at < len(content) and shift < 35:
        value |= (content[at] & 127) << shift
        at += 1
        if content[at - 1] < 128:
            return value, at
        shift += 7
    return None, at


def _count_up(ids: Sequence[str]) -> bool:
    """Whether the ids of a message are but the places of its entities: 0, 1, 2 or 1, 2, 3 and so on."""
    return ids[0] in ("0", "1") and all(text == str(number) for number, text in enumerate(ids, int(ids[0])))


def _run_name(
    trip_id: str | None, route_id: str | None, direction: int | None, start_date: int | None, start_time_s: int | None
) -> str | None:
    """A name for whoever runs this trip."""
    parts: list[str]
    if trip_id is not None:
        parts = [trip_id]
    elif route_id is not None and start_time_s is not None:
        parts = [route_id, "" if direction is None else str(direction)]
    else:
        return None
    if start_date is not None:
        parts.append(str(start_date))
    if start_time_s is not None:
        parts.append(service_time_text(start_time_s))
    return "trip:" + ":".join(parts)


def _time_us(time_s: int) -> int | None:
    """Microseconds of POSIX seconds or, above 1e11, milliseconds; None for 0 and for what is neither."""
    if time_s > MAX_SECONDS:
        return time_s * 1_000 if time_s <= _LAST_SECOND * 1_000 else None
    return time_s * 1_000_000 if time_s > 0 else None


def _text(given: str | bytes) -> str | None:
    """Text of a field, None if empty; bytes are what is no UTF-8, and taken for Latin-1."""
    return (given.decode("latin-1") if isinstance(given, bytes) else given) or None
