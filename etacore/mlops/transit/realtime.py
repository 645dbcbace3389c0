"""Reads captures of GTFS-Realtime VehiclePositions: each file is one feed message, as a poller kept it."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.transit import gtfs_realtime_pb2

from etacore.errors import FeedError

SUFFIXES: Final = (".pb", ".bin", ".pb.gz", ".bin.gz")
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
}
"""Columns of fixes while they are read; null is missing."""

STATUS_NAMES: Final = {number: name for name, number in gtfs_realtime_pb2.VehiclePosition.VehicleStopStatus.items()}
"""Of ``current_status``, as GTFS-Realtime numbers it."""

_FIXES_PER_BLOCK: Final = 200_000
_MAX_SEQUENCE: Final = 2**31 - 1

Fix = tuple[str | int | float | None, ...]
"""A row of `FIX_SCHEMA`."""


def is_capture(path: Path) -> bool:
    """Whether a file's name is that of a capture."""
    return path.name.lower().endswith(SUFFIXES)


def read_captures(paths: Sequence[Path], left_out: Counter[str]) -> pl.DataFrame:
    """Read captures, oldest first, into one table.

    A vehicle is named by the id of its descriptor, else by its label, else by
    the entity. A fix without a time has that of its message. A fix that
    successive captures repeat (same vehicle, same time) is there once.

    Parameters
    ----------
    paths : sequence of Path
        Files with a ``FeedMessage`` each, packed with gzip or not.
    left_out : Counter
        Is added to, by reason: ``repeated_fix``, ``deleted_entity``, ``no_position``, ``no_time``,
        ``no_vehicle_id``, and for whole files
        ``unreadable_file`` and ``file_without_vehicles``.

    Returns
    -------
    DataFrame
        `FIX_SCHEMA`; ``route_id`` may be null.

    Raises
    ------
    FeedError
        If no file could be used: names the first and what is wrong with it.
    """
    blocks: list[pl.DataFrame] = []
    fixes: list[Fix] = []
    newest: dict[str, int] = {}
    first_error: FeedError | None = None
    n_used = 0
    for path in paths:
        try:
            message = read_message(path)
            _check_kind(path, message)
        except FeedError as error:
            first_error = first_error or error
            left_out["file_without_vehicles" if isinstance(error, _OtherKindError) else "unreadable_file"] += 1
            continue
        n_used += 1
        _add_fixes(message, fixes, newest, left_out)
        if len(fixes) >= _FIXES_PER_BLOCK:
            blocks.append(_table(fixes))
            fixes = []
    if first_error is not None and not n_used:
        if len(paths) > 1:
            raise FeedError(f"none of {len(paths)} captures can be used; the first: {first_error.message}")
        raise first_error
    table = pl.concat([*blocks, _table(fixes)])
    # Captures need not come in the order of their time: what `newest` let through is looked at again.
    once = table.unique(["vehicle_id", "time_us"], keep="first", maintain_order=True)
    if repeated := len(table) - len(once):
        left_out["repeated_fix"] += repeated
    return once


def read_message(path: Path) -> Any:
    """The ``FeedMessage`` in a file.

    Raises
    ------
    FeedError
        If the file cannot be read, or is no or half a message.
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise FeedError(f"{path} cannot be read ({error})") from None
    message = gtfs_realtime_pb2.FeedMessage()
    try:
        message.ParseFromString(content)
        is_whole = message.IsInitialized()
    except DecodeError:
        is_whole = False
    if not is_whole:
        raise FeedError(
            f"{path} is no GTFS-Realtime message, or was cut off ({len(content)} bytes)",
            hint="a capture is the body of one answer of the VehiclePositions address, as it came",
        )
    return message


class _OtherKindError(FeedError):
    """A message of the other kinds."""


def _check_kind(path: Path, message: Any) -> None:
    if any(entity.HasField("vehicle") or entity.is_deleted for entity in message.entity):
        return
    kinds = ("trip_update", "alert", "shape", "stop", "trip_modifications")
    known = {field.name for field in gtfs_realtime_pb2.FeedEntity.DESCRIPTOR.fields}
    counts = {
        kind.replace("_", " ") + "s": sum(entity.HasField(kind) for entity in message.entity)
        for kind in kinds
        if kind in known
    }
    found = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n)
    if found:
        raise _OtherKindError(
            f"{path} holds {found} and no vehicle positions", hint="capture the address of the VehiclePositions feed"
        )
    # A message without entities is a quiet night, not an error.


def _add_fixes(message: Any, fixes: list[Fix], newest: dict[str, int], left_out: Counter[str]) -> None:
    header_s = message.header.timestamp
    for entity in message.entity:
        if entity.is_deleted:
            left_out["deleted_entity"] += 1
            continue
        if not entity.HasField("vehicle"):
            continue
        fix = entity.vehicle
        time_s = fix.timestamp or header_s
        if not time_s or time_s >= 2**42:
            left_out["no_time"] += 1
            continue
        name = fix.vehicle.id or fix.vehicle.label or entity.id
        if not name:
            left_out["no_vehicle_id"] += 1
            continue
        if newest.get(name) == time_s:
            left_out["repeated_fix"] += 1
            continue
        newest[name] = time_s
        if not fix.HasField("position"):
            left_out["no_position"] += 1
            continue
        place, trip = fix.position, fix.trip
        fixes.append(
            (
                name,
                time_s * 1_000_000,
                place.latitude,
                place.longitude,
                place.speed if place.HasField("speed") else None,
                place.bearing if place.HasField("bearing") else None,
                min(fix.current_stop_sequence, _MAX_SEQUENCE) if fix.HasField("current_stop_sequence") else None,
                None,
                None,
                None,
                trip.route_id or None,
                trip.trip_id or None,
                fix.stop_id or None,
                STATUS_NAMES.get(fix.current_status) if fix.HasField("current_status") else None,
            )
        )


def _table(fixes: Sequence[Fix]) -> pl.DataFrame:
    return pl.DataFrame(fixes, schema=FIX_SCHEMA, orient="row")
