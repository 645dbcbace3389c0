"""Whatever a producer may send: the kernel neither raises nor differs from its twin."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etacore._kernels.batch import Batch
from etacore.pipeline.snapshots import parse_timestamp
from etacore.status import Status
from tests.parity.test_snapshots import BAD_TIMES, LIMITS, TIMES, hold_together, rows_of
from tests.reference import snapshots as twin
from tests.reference.columns import parse_into

NAMES = (
    "vehicle_id", "vehicleId", "id", "vehicle", "vehicle.id", "lat", "latitude", "lon", "longitude", "lng", "timestamp",
    "route_id", "route", "routeId", "route_short_name", "trip_id", "trip", "tripId", "stop_id", "speed", "bearing",
    "heading", "current_stop_sequence", "stop_sequence", "current_status", "direction_id", "directionId",
    "start_date", "startDate", "start_time", "startTime", "other",
)  # fmt: skip
BASE = {"vehicle_id": "V", "lat": 9.5, "lon": -84.5, "timestamp": "2026-01-20T12:00:00Z", "route": "171"}

any_text = st.text(st.characters(exclude_categories=())) | st.sampled_from([t for t in TIMES if isinstance(t, str)])
long_numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,220})(\.[0-9]{1,220})?([eE][+-]?[0-9]{1,5})?", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text
names = st.sampled_from(NAMES)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(any_text, v, max_size=4), max_leaves=10
)
snapshots = st.dictionaries(names, values | st.dictionaries(names, values, max_size=3))
zones = st.sampled_from(["", "Z", "+00:00", "-06", "+0530", "+23:59:59", "-00:01"])
nearly_iso = st.from_regex(
    r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}([Tt ][0-9:]{4,8}([.,][0-9]*)?([Zz]|[+-][0-9:]{2,8})?)?", fullmatch=True
)


@given(snapshots, st.booleans())
def test_any_value_in_any_field(members, ascii_only):
    text = json.dumps(members, ensure_ascii=ascii_only)
    hold_together([text.encode("utf-8", "surrogatepass")])


@given(names, values)
def test_one_odd_field_in_a_good_snapshot(name, value):
    hold_together([json.dumps(BASE | {name: value}).encode()])


@given(names, long_numbers, st.sampled_from(["{}", '"{}"', '" {} "', '"+{}"']))
def test_long_numbers(name, literal, spelling):
    members = {key: value for key, value in BASE.items() if key != name}
    text = json.dumps(members)[:-1] + f', "{name}": {spelling.format(literal)}}}'
    (row,) = hold_together([text.encode()])
    if name == "lat" and not literal.startswith("-"):
        value = float(literal)
        if math.isfinite(value):
            assert row.lat == value


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_coordinates_come_out_to_the_bit(lat, lon):
    (row,) = rows_of([json.dumps(BASE | {"lat": lat, "lon": lon}).encode()])
    assert row.status == Status.OK
    assert (row.lat.hex(), row.lon.hex()) == (lat.hex(), lon.hex())


@given(
    st.datetimes(), st.sampled_from(["", "Z", "+00:00", "-06", "+0530", "+23:59:59", "-00:01"]), st.sampled_from("Tt ")
)
def test_iso_timestamps(moment, zone, between):
    text = moment.isoformat(sep=between) + zone
    assert parse_timestamp(text) == twin.time_us(text)


@given(
    st.sampled_from(["start_date", "startDate"]),
    st.dates().map(str) | st.from_regex(r" ?[0-9]{4}-?[01][0-9]-?[0-3][0-9] ?", fullmatch=True),
    st.sampled_from(["start_time", "startTime"]),
    st.from_regex(r" ?[0-9]{1,4}:[0-6]?[0-9](:[0-6][0-9])? ?", fullmatch=True),
)
def test_nearly_starts_of_runs(date_name, date_text, time_name, time_text):
    (row,) = hold_together([json.dumps(BASE | {date_name: date_text, time_name: time_text}).encode()])
    assert row.status == Status.OK


@given(
    st.from_regex(
        r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}([Tt ][0-9:]{4,8}([.,][0-9]*)?([Zz]|[+-][0-9:]{2,8})?)?", fullmatch=True
    )
)
def test_nearly_iso_timestamps(text):
    assert parse_timestamp(text) == (twin.time_us(text) if len(text.encode()) <= 64 else None)


@given(st.integers(-(10**14), 10**15) | st.floats())
def test_posix_timestamps(posix):
    expected = twin.time_us(twin.Number(repr(posix))) if math.isfinite(posix) else None
    assert parse_timestamp(posix) == expected


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_arbitrary_bytes(payloads):
    hold_together(payloads)


@given(snapshots, st.data())
def test_cut_and_spoilt(members, data):
    payload = json.dumps(members, ensure_ascii=False).encode("utf-8", "surrogatepass")
    cut = payload[: data.draw(st.integers(0, len(payload)))]
    spoilt = cut + data.draw(st.binary(max_size=3)) + payload[len(cut) :]
    hold_together([cut, spoilt])


@given(
    st.integers(0, 300),
    st.integers(0, 300),
    st.sampled_from(["[", '{"a":']),
    st.sampled_from(["lat", "vehicle", "other"]),
)
def test_deep_nesting(opened, closed, bracket, name):
    inside = bracket * opened + "1" + ("]" if bracket == "[" else "}") * closed
    rows = hold_together([f'{{"{name}":{inside}}}'.encode(), inside.encode()])
    assert (rows[0].status == Status.INVALID_JSON) == (opened != closed or opened > 127)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
@given(name=names)
def test_literals_that_json_does_not_have(name, literal):
    text = json.dumps(BASE | {name: "@"}).replace('"@"', literal)
    assert rows_of([text.encode()])[0].status == Status.INVALID_JSON


@given(st.lists(st.none() | snapshots.map(json.dumps).map(str.encode) | st.binary(max_size=20), max_size=12))
def test_a_row_does_not_depend_on_its_batch(payloads):
    columns = Batch(12)
    parse_into(columns, payloads, **LIMITS)
    together = rows_of(payloads)
    alone = [rows_of([payload])[0] for payload in payloads]
    assert repr(together) == repr(alone)


@given(st.sampled_from(TIMES + BAD_TIMES), values)
def test_order_of_the_checks(timestamp, value):
    """A field behind the first failing check never changes the verdict."""
    (row,) = rows_of([json.dumps({"lat": 99, "lon": 5, "timestamp": timestamp, "route": value, "id": "x"}).encode()])
    if row.status != Status.INVALID_JSON:
        assert row.status == Status.POSITION_OUT_OF_RANGE
