"""What was understood of a snapshot, field by field, and what was passed over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson

from etacore.config import RuntimeConfig
from etacore.loop.reasons import age_text, cut, quoted
from etacore.pipeline.encoding import iso_time
from etacore.pipeline.engine import Batch
from etacore.schema import NO_SEQUENCE, NO_START_DATE, NO_START_TIME, service_time_text
from etacore.status import Status

RAW_WIDTH: Final = 300
STOP_STATUSES: Final = ("INCOMING_AT", "STOPPED_AT", "IN_TRANSIT_TO")

_US: Final = 1_000_000
_HALF_HOUR_S: Final = 1_800
_ID: Final = "text or a number, at most 256 bytes"
_DEGREES: Final = "a finite number of degrees"

FIELDS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "vehicle_id": (("vehicle_id", "vehicleId", "id", "vehicle", "vehicle.id"), _ID),
    "lat": (("lat", "latitude"), _DEGREES),
    "lon": (("lon", "longitude", "lng"), _DEGREES),
    "timestamp": (("timestamp",), "a time: POSIX (seconds or milliseconds) or ISO 8601"),
    "route_id": (("route_id", "route", "routeId", "route_short_name"), _ID),
    "trip_id": (("trip_id", "trip", "tripId"), _ID),
    "direction_id": (("direction_id", "directionId"), "a whole number from 0 on"),
    "start_date": (("start_date", "startDate"), "a date: YYYYMMDD or YYYY-MM-DD"),
    "start_time": (("start_time", "startTime"), "a time of the service day: HH:MM:SS"),
    "speed": (("speed",), "a speed: a number of m/s, not negative"),
    "bearing": (("bearing", "heading"), _DEGREES),
    "stop_sequence": (("current_stop_sequence", "stop_sequence"), "a whole number"),
    "stop_id": (("stop_id",), _ID),
    "current_status": (("current_status",), f"one of {', '.join(STOP_STATUSES)}"),
}
"""What is read, under which names (the first one that is not empty counts), and what it has to be."""


@dataclass(frozen=True, slots=True)
class Understood:
    """One field of a snapshot.

    Attributes
    ----------
    name : str
        As the contract calls it first.
    value : str, float, int or None
        As the loop took it; None if it was not given, or cannot be used.
    said_by : str or None
        The member that gave it.
    note : str
        What else is to be said of it.
    """

    name: str
    value: str | float | int | None
    said_by: str | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotRead:
    """A snapshot as it stood, and as it was understood."""

    raw: str
    n_bytes: int
    fields: list[Understood]
    passed_over: list[str]
    unused: list[str]


def read_snapshot(batch: Batch, row: int, payload: bytes, zone: str) -> SnapshotRead:
    """What the columns of a row hold, beside what the payload says."""
    members = _members(payload)
    fields, passed_over = [], []
    for name, (aliases, rule) in FIELDS.items():
        value = _value(batch, row, name)
        given = [(alias, said) for alias in aliases if (said := _said(members, alias)) not in (None, "")]
        said_by = _said_by(name, value, given)
        for alias, said in given:
            if alias == said_by:
                break
            passed_over.append(f"{alias} {quoted(said)} is not {rule}")
        later = given[[alias for alias, _ in given].index(said_by) + 1 :] if said_by else []
        passed_over += [
            f"{alias} {quoted(said)}, for {said_by} counts" for alias, said in later if str(said) != str(value)
        ]
        note = {"speed": "m/s", "bearing": "degrees"}.get(name, "")
        if name == "timestamp" and value is not None:
            note = _time_note(batch, row, zone)
        fields.append(Understood(name, value, said_by, note))
    known = {alias for aliases, _ in FIELDS.values() for alias in aliases}
    unused = [cut(name, 40) for name in members if name not in known]
    stood = as_it_stood(payload)
    return SnapshotRead(stood.raw, stood.n_bytes, fields, passed_over, unused)


def as_it_stood(payload: bytes) -> SnapshotRead:
    """A snapshot of which nothing was understood."""
    return SnapshotRead(cut(payload[: 2 * RAW_WIDTH].decode(errors="replace"), RAW_WIDTH), len(payload), [], [], [])


def why_unread(status: Status, batch: Batch, row: int, payload: bytes, config: RuntimeConfig) -> list[str]:
    """What exactly is wrong with a snapshot that was set aside by itself."""
    if status == Status.INVALID_JSON:
        return [_json_error(payload)]
    if status == Status.NOT_AN_OBJECT:
        return [f"it is {_kind_of(payload)}"]
    if status == Status.TOO_LARGE:
        return [f"it has {len(payload)} bytes, and the limit is {config.max_payload_bytes}"]
    if status == Status.POSITION_OUT_OF_RANGE:
        lat, lon = float(batch.lat[row]), float(batch.lon[row])
        said = [f"lat is {lat:g}, lon is {lon:g}"]
        if abs(lon) <= 90.0 and abs(lat) <= 180.0:
            said.append("lat and lon may be exchanged: the other way round they are on the globe")
        return said
    if status in (Status.FUTURE_TIMESTAMP, Status.TOO_OLD):
        age_s = _age_s(batch, row)
        limit_s = config.max_future_seconds if age_s < 0 else config.max_age_seconds
        word = "ahead of this machine's clock" if age_s < 0 else "old"
        said = [f"it is {age_text(age_s)} {word}, and the limit is {age_text(limit_s)}"]
        if _is_naive(batch, row) and _is_offset(age_s):
            said.append(
                f"that is {_offset_text(age_s)} almost exactly, and the timestamp has no offset: a local time, perhaps"
            )
        return said
    return []


def time_text(time_us: int, zone: str) -> str:
    """A time of day in a zone, with its date."""
    try:
        local = datetime.fromtimestamp(time_us / _US, UTC).astimezone(ZoneInfo(zone))
    except (ValueError, OverflowError):
        return iso_time(time_us)
    return f"{local:%Y-%m-%d %H:%M:%S} {zone}"


def _members(payload: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _said(members: dict[str, Any], alias: str) -> Any:
    value = members.get(alias)
    if alias == "vehicle":
        return value.get("id") if isinstance(value, dict) else None
    return value


def _said_by(name: str, value: object, given: list[tuple[str, Any]]) -> str | None:
    # Ids go on to the next name where one cannot be used; everything else is what its first name says, or nothing.
    if value is None or not given:
        return None
    if name in ("vehicle_id", "route_id", "trip_id", "stop_id"):
        return next((alias for alias, said in given if _is_id(said)), None)
    if name == "speed" and value == 0.0 and not _is_zero(given[0][1]):
        return None
    return given[0][0]


def _is_id(said: object) -> bool:
    if isinstance(said, str):
        return 0 < len(said.encode(errors="replace")) <= 256
    return isinstance(said, (int, float)) and not isinstance(said, bool)


def _is_zero(said: object) -> bool:
    try:
        return not isinstance(said, bool) and float(said) == 0.0  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _value(batch: Batch, row: int, name: str) -> str | float | int | None:
    if name in ("vehicle_id", "route_id", "trip_id", "stop_id"):
        return batch.text_at(name, row) or None
    if name == "timestamp":
        time_us = int(batch.time_us[row])
        return iso_time(time_us) if time_us or _reads_as_1970(batch, row) else None
    if name == "start_time":
        start_s = int(batch.start_time_s[row])
        return None if start_s == NO_START_TIME else service_time_text(start_s)
    if name == "current_status":
        code = int(batch.current_status[row])
        return STOP_STATUSES[code] if 0 <= code < len(STOP_STATUSES) else None
    if name in ("direction_id", "start_date", "stop_sequence"):
        number = int(getattr(batch, name)[row])
        return None if number == {"direction_id": -1, "start_date": NO_START_DATE}.get(name, NO_SEQUENCE) else number
    value = float(getattr(batch, {"speed": "speed_mps", "bearing": "bearing_deg"}.get(name, name))[row])
    return None if math.isnan(value) else float(f"{value:.7g}") if name in ("speed", "bearing") else value


def _reads_as_1970(batch: Batch, row: int) -> bool:
    return batch.status[row] in (Status.OK, Status.TOO_OLD)


def _age_s(batch: Batch, row: int) -> float:
    return float(batch.now_us - batch.time_us[row]) / _US


def _time_note(batch: Batch, row: int, zone: str) -> str:
    age_s = _age_s(batch, row)
    said = f"{time_text(int(batch.time_us[row]), zone)}; {age_text(age_s)} {'ahead' if age_s < 0 else 'old'}"
    if batch.timestamp_is_number[row]:
        return f"{said}; a POSIX number"
    return f"{said}; no offset, so UTC" if _is_naive(batch, row) else said


def _is_naive(batch: Batch, row: int) -> bool:
    text = batch.text_at("timestamp", row).strip()
    if batch.timestamp_is_number[row] or "T" not in text.upper().replace(" ", "T"):
        return False
    clock = text.upper().replace(" ", "T").rpartition("T")[2]
    return not any(mark in clock for mark in "Z+-")


def _is_offset(age_s: float) -> bool:
    whole_s = _HALF_HOUR_S * round(age_s / _HALF_HOUR_S)
    return 0 < abs(whole_s) <= 14 * 3_600 and abs(age_s - whole_s) <= 60.0


def _offset_text(age_s: float) -> str:
    return age_text(_HALF_HOUR_S * round(abs(age_s) / _HALF_HOUR_S))


def _json_error(payload: bytes) -> str:
    if not payload.strip():
        return "it is empty"
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start} is no UTF-8"
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        return cut(str(error), 120)
    return "it is nested deeper than 128, or spells a number or a text as JSON does not"


def _kind_of(payload: bytes) -> str:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return "something else"
    kinds = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
