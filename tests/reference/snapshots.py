"""Snapshots the slow and obvious way: json.loads, float, re and datetime."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import numpy as np

from etacore.schema import NO_SEQUENCE
from etacore.status import Status

MAX_DEPTH = 128
MAX_ID_BYTES = 256
MAX_TIMESTAMP_BYTES = 64
FLOAT32_MAX = float(np.finfo(np.float32).max)
WHITE_SPACE = " \t\n\r\f\v"
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
ZONE = r"(?P<zone>[Zz]|[+-]\d\d(:?\d\d|:\d\d:\d\d)?)?"
ISO = (
    re.compile(
        r"(?P<Y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)"
        rf"([Tt ](?P<H>\d\d):(?P<M>\d\d)(:(?P<S>\d\d)([.,](?P<f>\d+))?)?{ZONE})?",
        re.ASCII,
    ),
    re.compile(
        rf"(?P<Y>\d{{4}})(?P<m>\d\d)(?P<d>\d\d)[Tt](?P<H>\d\d)(?P<M>\d\d)(?P<S>\d\d)([.,](?P<f>\d+))?{ZONE}",
        re.ASCII,
    ),
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CURRENT_STATUS = {"INCOMING_AT": 0, "STOPPED_AT": 1, "IN_TRANSIT_TO": 2}


class Number(str):
    """A JSON number as it stands."""


class Pairs(list):
    """A JSON object with every member, repeated ones too."""


@dataclass
class Row:
    status: Status = Status.OK
    vehicle_id: str = ""
    route_id: str = ""
    trip_id: str = ""
    stop_id: str = ""
    timestamp: str = ""
    timestamp_is_number: int = 0
    direction_id: int = -1
    lat: float = math.nan
    lon: float = math.nan
    speed_mps: float = 0.0
    bearing_deg: float = math.nan
    time_us: int = 0
    stop_sequence: int = NO_SEQUENCE
    current_status: int = -1
    start_date: int = 0
    start_time_s: int = -1


def _refuse(word):
    raise ValueError(word)


def load(payload: bytes):
    """The value of a JSON text with numbers as `Number` and objects as `Pairs`; ValueError if it is not valid."""
    try:
        value = json.loads(
            payload.decode("utf-8"),
            parse_int=Number,
            parse_float=Number,
            parse_constant=_refuse,
            object_pairs_hook=Pairs,
        )
    except RecursionError as error:
        raise ValueError("too deep") from error
    _check(value, 0)
    return value


def _check(value, depth):
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
    elif isinstance(value, list):
        if depth >= MAX_DEPTH:
            raise ValueError("too deep")
        for item in value:
            if isinstance(value, Pairs):
                _check(item[0], 0)
                _check(item[1], depth + 1)
            else:
                _check(item, depth + 1)


def _is_number(value):
    return isinstance(value, Number)


def _text(value, most=MAX_ID_BYTES):
    """Strings and number literals count as texts; everything else, empty and long ones do not."""
    return value if isinstance(value, str) and 0 < len(value.encode()) <= most else ""


def _first_id(members, *names):
    for name in names:
        text = _text(members.get(name))
        if text:
            return str(text)
    return ""


def _first_given(members, *names):
    for name in names:
        value = members.get(name)
        if value is not None and value != "":
            return value
    return None


def _double(value):
    """The finite float that a number or a numeric string spells, or None."""
    if not isinstance(value, str):
        return None
    text = value if _is_number(value) else value.strip(WHITE_SPACE)
    if not _is_number(value) and re.match(r"\+[0-9]", text):
        text = text[1:]
    if not NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _float32(value):
    """Single precision, or None if there is none or it does not fit."""
    return None if value is None or abs(value) > FLOAT32_MAX else float(np.float32(value))


def _integer(value, least, most, default):
    number = _double(value)
    return int(number) if number is not None and number == int(number) and least <= number <= most else default


def _in_years(time_us):
    first = (datetime(1, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    last = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    return time_us if first <= time_us <= last else None


def _posix(value):
    if value is None or not abs(value) < 1e15:
        return None
    return _in_years(round(value * 1e3) if abs(value) > 1e11 else round(value * 1e6))


def _zone(text):
    if text is None or text in "Zz":
        return timedelta(0)
    parts = [int(part) for part in re.findall(r"\d\d", text)]
    if parts[0] > 23 or any(part > 59 for part in parts[1:]):
        raise ValueError(text)
    offset = sum(
        (timedelta(seconds=part * unit) for part, unit in zip(parts, (3600, 60, 1), strict=False)), timedelta(0)
    )
    return -offset if text[0] == "-" else offset


def _iso(text):
    for pattern in ISO:
        match = pattern.fullmatch(text)
        if match:
            break
    else:
        return None
    field = match.groupdict()
    try:
        local = datetime(
            *(int(field[name] or 0) for name in "YmdHMS"),
            int(((field["f"] or "") + "000000")[:6]),
            tzinfo=timezone(timedelta(0)),
        )
        # Not .astimezone(): the result may lie outside the years that datetime knows.
        return _in_years((local - EPOCH - _zone(field["zone"])) // timedelta(microseconds=1))
    except ValueError:
        return None


def time_us(value):
    """Microseconds since 1970 of a timestamp's text or `Number`, or None."""
    if _is_number(value):
        return _posix(_double(value))
    text = value.strip(WHITE_SPACE)
    if re.fullmatch(r"[0-9]{8}", text):
        return None
    number = _double(text)
    return _posix(number) if number is not None else _iso(text)


def service_date(value):
    """YYYYMMDD or YYYY-MM-DD as the number YYYYMMDD; 0 otherwise."""
    match = re.fullmatch(r"(\d{4})(-?)(\d\d)\2(\d\d)", value.strip(WHITE_SPACE), re.ASCII)
    if not match:
        return 0
    year, month, day = (int(match[group]) for group in (1, 3, 4))
    try:
        datetime(year, month, day)
    except ValueError:
        return 0
    return year * 10_000 + month * 100 + day


def service_time_s(value):
    """H:MM[:SS] in seconds; -1 otherwise."""
    match = re.fullmatch(r"(\d{1,3}):([0-5]\d)(:([0-5]\d))?", value.strip(WHITE_SPACE), re.ASCII)
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[4] or 0) if match else -1


def parse(payload: bytes | None, *, now_us: int, max_future_us: int, max_age_us: int, max_payload_bytes=65536) -> Row:
    """One snapshot."""
    if payload is None:
        return Row(Status.EXPIRED)
    if len(payload) > max_payload_bytes:
        return Row(Status.TOO_LARGE)
    try:
        value = load(payload)
    except ValueError:
        return Row(Status.INVALID_JSON)
    if not isinstance(value, Pairs):
        return Row(Status.NOT_AN_OBJECT)
    members = dict(value)

    row = Row()
    row.vehicle_id = _first_id(members, "vehicle_id", "vehicleId", "id")
    if not row.vehicle_id and isinstance(members.get("vehicle"), Pairs):
        row.vehicle_id = _first_id(dict(members["vehicle"]), "id")
    if not row.vehicle_id:
        row.vehicle_id = _first_id(members, "vehicle.id")
    row.route_id = _first_id(members, "route_id", "route", "routeId", "route_short_name")
    row.trip_id = _first_id(members, "trip_id", "trip", "tripId")
    row.stop_id = _first_id(members, "stop_id")

    timestamp = _first_given(members, "timestamp")
    row.timestamp = str(_text(timestamp, MAX_TIMESTAMP_BYTES))
    row.timestamp_is_number = int(_is_number(timestamp) and bool(row.timestamp))
    time = time_us(timestamp) if row.timestamp else None
    row.time_us = time or 0

    given_lat = _first_given(members, "lat", "latitude")
    given_lon = _first_given(members, "lon", "longitude", "lng")
    lat, lon = _double(given_lat), _double(given_lon)
    row.lat = math.nan if lat is None else lat
    row.lon = math.nan if lon is None else lon
    speed_mps = _float32(_double(_first_given(members, "speed")))
    row.speed_mps = speed_mps if speed_mps is not None and speed_mps > 0 else 0.0
    bearing_deg = _float32(_double(_first_given(members, "bearing", "heading")))
    row.bearing_deg = math.nan if bearing_deg is None else bearing_deg
    row.stop_sequence = _integer(
        _first_given(members, "current_stop_sequence", "stop_sequence"), -(2**31), 2**31 - 1, NO_SEQUENCE
    )
    row.direction_id = _integer(_first_given(members, "direction_id", "directionId"), 0, 127, -1)
    start_date = _first_given(members, "start_date", "startDate")
    start_time = _first_given(members, "start_time", "startTime")
    row.start_date = service_date(start_date) if isinstance(start_date, str) else 0
    row.start_time_s = service_time_s(start_time) if isinstance(start_time, str) else -1
    current = _first_given(members, "current_status")
    if _is_number(current):
        row.current_status = _integer(current, 0, 2, -1)
    elif isinstance(current, str) and current.isascii():
        row.current_status = CURRENT_STATUS.get(current.upper(), -1)

    row.status = _verdict(row, given_lat, given_lon, timestamp, time, now_us, max_future_us, max_age_us)
    return row


def _verdict(row, given_lat, given_lon, timestamp, time, now_us, max_future_us, max_age_us):
    checks = (
        (not row.vehicle_id, Status.MISSING_VEHICLE_ID),
        (given_lat is None or given_lon is None, Status.MISSING_POSITION),
        (math.isnan(row.lat) or math.isnan(row.lon), Status.INVALID_POSITION),
        (abs(row.lat) > 90 or abs(row.lon) > 180, Status.POSITION_OUT_OF_RANGE),
        (timestamp is None, Status.MISSING_TIMESTAMP),
        (time is None, Status.INVALID_TIMESTAMP),
        (time is not None and time > now_us + max_future_us, Status.FUTURE_TIMESTAMP),
        (time is not None and max_age_us > 0 and time < now_us - max_age_us, Status.TOO_OLD),
        (not row.route_id, Status.MISSING_ROUTE),
    )
    return next((status for failed, status in checks if failed), Status.OK)
