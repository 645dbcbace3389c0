"""Snapshots to columns, one rule at a time."""

from __future__ import annotations

import json
import math
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from etacore._kernels.batch import Batch
from etacore.pipeline.snapshots import TextPool, fill_snapshots, parse_timestamp
from etacore.schema import NO_SEQUENCE
from etacore.status import Status
from tests.reference.columns import parse_into

NOW = datetime(2026, 1, 20, 12, 0, 30, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
BASE = {"vehicle_id": "V1", "lat": 9.9291, "lon": -84.0897, "timestamp": "2026-01-20T12:00:00+00:00", "route": "171"}


def parse(*payloads, **options):
    columns = Batch(max(len(payloads), 1))
    options = {"now_us": NOW_US, "max_future_us": 60_000_000, "max_age_us": 600_000_000} | options
    parse_into(columns, payloads, **options)
    return columns


def parse_one(changes=(), without=(), **options):
    members = {name: value for name, value in BASE.items() if name not in without} | dict(changes)
    return parse(json.dumps(members).encode(), **options)


def test_a_full_snapshot():
    columns = parse(
        b'{"vehicle_id":"TEST-LIVE-001","lat":9.9291,"lon":-84.0897,"speed":10.5,"bearing":120.0,'
        b'"timestamp":"2026-01-20T12:00:00+00:00","route":"171","trip_id":"171-TRIP-001",'
        b'"stop_id":"S4","current_stop_sequence":4,"current_status":"IN_TRANSIT_TO","direction_id":1}'
    )
    assert columns.n == 1
    assert columns.status[0] == Status.OK
    texts = {name: columns.text_at(name, 0) for name in ("vehicle_id", "route_id", "trip_id", "stop_id", "timestamp")}
    assert texts == {
        "vehicle_id": "TEST-LIVE-001",
        "route_id": "171",
        "trip_id": "171-TRIP-001",
        "stop_id": "S4",
        "timestamp": "2026-01-20T12:00:00+00:00",
    }
    assert (columns.lat[0], columns.lon[0]) == (9.9291, -84.0897)
    assert (columns.speed_mps[0], columns.bearing_deg[0]) == (10.5, 120.0)
    assert columns.time_us[0] == NOW_US - 30_000_000
    assert (columns.stop_sequence[0], columns.current_status[0], columns.direction_id[0]) == (4, 2, 1)
    assert columns.timestamp_is_number[0] == 0


def test_what_is_not_given_has_its_default():
    columns = parse_one()
    assert columns.status[0] == Status.OK
    assert columns.text_at("trip_id", 0) == columns.text_at("stop_id", 0) == ""
    assert columns.speed_mps[0] == 0.0
    assert math.isnan(columns.bearing_deg[0])
    assert columns.stop_sequence[0] == NO_SEQUENCE
    assert (columns.current_status[0], columns.direction_id[0]) == (-1, -1)


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (None, Status.EXPIRED),
        (b" " * 65537, Status.TOO_LARGE),
        (b"", Status.INVALID_JSON),
        (b"{", Status.INVALID_JSON),
        (b"[1]", Status.NOT_AN_OBJECT),
        (b'"text"', Status.NOT_AN_OBJECT),
        (b"{}", Status.MISSING_VEHICLE_ID),
    ],
)
def test_reasons_of_payloads(payload, status):
    assert parse(payload).status[0] == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"vehicle_id": None}, Status.MISSING_VEHICLE_ID),
        ({"vehicle_id": True}, Status.MISSING_VEHICLE_ID),
        ({"vehicle_id": "x" * 257}, Status.MISSING_VEHICLE_ID),
        ({"lat": None}, Status.MISSING_POSITION),
        ({"lat": "north", "lon": ""}, Status.MISSING_POSITION),
        ({"lat": "north"}, Status.INVALID_POSITION),
        ({"lon": [1.0]}, Status.INVALID_POSITION),
        ({"lat": 95, "lon": True}, Status.INVALID_POSITION),
        ({"lat": 90.000001}, Status.POSITION_OUT_OF_RANGE),
        ({"lon": -180.000001}, Status.POSITION_OUT_OF_RANGE),
        ({"timestamp": ""}, Status.MISSING_TIMESTAMP),
        ({"timestamp": "soon"}, Status.INVALID_TIMESTAMP),
        ({"timestamp": False}, Status.INVALID_TIMESTAMP),
        ({"timestamp": "2026-01-20T12:01:30.000001Z"}, Status.FUTURE_TIMESTAMP),
        ({"timestamp": "2026-01-20T12:01:30Z"}, Status.OK),
        ({"timestamp": "2026-01-20T11:50:29.999999Z"}, Status.TOO_OLD),
        ({"timestamp": "2026-01-20T11:50:30Z"}, Status.OK),
        ({"route": ""}, Status.MISSING_ROUTE),
        ({"route": "x" * 257}, Status.MISSING_ROUTE),
        ({"route": None, "lat": 95}, Status.POSITION_OUT_OF_RANGE),
        ({"trip_id": "x" * 257, "stop_id": "x" * 257}, Status.OK),
    ],
)
def test_reasons_of_fields(changes, status):
    assert parse_one(changes).status[0] == status


def test_no_age_limit():
    assert parse_one({"timestamp": 0}, max_age_us=0).status[0] == Status.OK
    assert parse_one({"timestamp": 0}, max_age_us=2**63 - 1).status[0] == Status.OK


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("vehicle_id", ("vehicle_id", "vehicleId", "id", "vehicle", "vehicle.id")),
        ("route_id", ("route_id", "route", "routeId", "route_short_name")),
        ("trip_id", ("trip_id", "trip", "tripId")),
        ("stop_id", ("stop_id",)),
    ],
)
@pytest.mark.parametrize("nothing", [None, "", True, [], {}, "x" * 257])
def test_aliases_of_ids(column, names, nothing):
    """Each name counts when those before it say nothing, whatever the order in the text."""
    others = [name for name in names if name in BASE]
    for i, name in enumerate(names):
        said = dict.fromkeys(names[:i], nothing)
        said |= {other: {"id": f"id of {other}"} if other == "vehicle" else f"id of {other}" for other in names[i:]}
        for members in (said, dict(reversed(said.items()))):
            columns = parse(json.dumps({k: v for k, v in BASE.items() if k not in others} | members).encode())
            assert columns.text_at(column, 0) == f"id of {name}"


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("lat", ("lat", "latitude")),
        ("lon", ("lon", "longitude", "lng")),
        ("bearing_deg", ("bearing", "heading")),
        ("stop_sequence", ("current_stop_sequence", "stop_sequence")),
        ("direction_id", ("direction_id", "directionId")),
    ],
)
def test_aliases_of_numbers(column, names):
    for i in range(len(names)):
        for nothing in (None, ""):
            said = dict.fromkeys(names[:i], nothing) | {name: 7 + k for k, name in enumerate(names) if k >= i}
            assert getattr(parse_one(said, without=names), column)[0] == 7 + i


def test_a_bad_first_alias_is_not_passed_over():
    assert parse_one({"lat": "x", "latitude": 9.5}).status[0] == Status.INVALID_POSITION


def test_numbers_as_ids_keep_their_literal():
    columns = parse(json.dumps(BASE).replace('"V1"', "1.50").replace('"171"', "12345678901234567890123").encode())
    assert columns.text_at("vehicle_id", 0) == "1.50"
    assert columns.text_at("route_id", 0) == "12345678901234567890123"


def test_a_repeated_name_the_last_counts():
    payload = json.dumps(BASE)[:-1] + ', "lat": 1.5, "vehicle_id": "V2", "l\\u0061t": 2.5}'
    columns = parse(payload.encode())
    assert columns.lat[0] == 2.5
    assert columns.text_at("vehicle_id", 0) == "V2"


def test_nested_vehicle_the_last_one_and_its_last_id():
    payload = b'{"vehicle":{"id":"a"},"vehicle":{"id":"b","x":{"id":"c"},"id":5}}'
    assert parse(payload).text_at("vehicle_id", 0) == "5"
    assert parse(b'{"vehicle":{"id":"a"},"vehicle":{"x":1}}').text_at("vehicle_id", 0) == ""
    assert parse(b'{"vehicle":"a"}').text_at("vehicle_id", 0) == ""


def test_escapes_in_texts():
    columns = parse_one({"vehicle_id": 'añ中🚌"\\\n\x00', "route": "/añ中"})
    assert columns.text_at("vehicle_id", 0) == 'añ中🚌"\\\n\x00'
    assert columns.vehicle_id[0]["escape"] == 1
    assert columns.text_at("route_id", 0) == "/añ中"
    assert columns.route_id[0]["escape"] == 0


def test_names_longer_than_any_of_ours_are_passed_over():
    name = "\\u006c" * 22
    assert parse(f'{{"{name}": 5, "x{"y" * 5000}": 1, "l\\u0061\\u0074": 5}}'.encode()).lat[0] == 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [("12.5", 12.5), (" 1e1 ", 10.0), (-1, 0.0), ("fast", 0.0), (True, 0.0), ([5], 0.0), (1e39, 0.0), (-0.0, 0.0)],
)
def test_speed(value, expected):
    columns = parse_one({"speed": value})
    assert columns.status[0] == Status.OK
    assert columns.speed_mps[0] == expected
    assert not np.signbit(columns.speed_mps[0])


@pytest.mark.parametrize(("value", "expected"), [(-10, -10), ("370", 370), ("x", None), (1e39, None), (False, None)])
def test_bearing(value, expected):
    bearing_deg = parse_one({"bearing": value}).bearing_deg[0]
    assert math.isnan(bearing_deg) if expected is None else bearing_deg == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (-3, -3), (4.0, 4), ("12", 12), ("4e1", 40), (4.5, None), (2**31, None), ("x", None), (True, None)],
)
def test_stop_sequence(value, expected):
    assert parse_one({"stop_sequence": value}).stop_sequence[0] == (NO_SEQUENCE if expected is None else expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("INCOMING_AT", 0), ("stopped_at", 1), ("In_Transit_To", 2), (0, 0), (2, 2), (3, -1), ("2", -1), ("GONE", -1)],
)
def test_current_status(value, expected):
    assert parse_one({"current_status": value}).current_status[0] == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), ("1", 1), (127, 127), (128, -1), (-1, -1), ("out", -1), (0.5, -1)]
)
def test_direction_id(value, expected):
    assert parse_one({"direction_id": value}).direction_id[0] == expected


NOON = datetime(2026, 1, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-20T12:00:00+00:00", NOON),
        ("2026-01-20T12:00:00Z", NOON),
        ("2026-01-20T12:00:00", NOON),
        ("2026-01-20 12:00", NOON),
        ("2026-01-20t06:00:00-06", NOON),
        ("2026-01-20T17:30+0530", NOON),
        ("2026-01-20T17:30:15+05:30:15", NOON),
        ("2026-01-20T12:00:00.5z", NOON + timedelta(seconds=0.5)),
        ("2026-01-20T12:00:00,1234569Z", NOON + timedelta(microseconds=123456)),
        ("20260120T120000Z", NOON),
        ("20260120T060000.25-0600", NOON + timedelta(seconds=0.25)),
        ("2026-01-20", NOON - timedelta(hours=12)),
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
        ("0001-01-01", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999", datetime.max.replace(tzinfo=UTC)),
        ("1969-12-31T23:59:59.999999Z", datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        (1768910400, NOON),
        (1768910400.25, NOON + timedelta(seconds=0.25)),
        (1768910400250, NOON + timedelta(seconds=0.25)),
        ("1768910400", NOON),
        (" +1768910400250 ", NOON + timedelta(seconds=0.25)),
        (-1.5, datetime(1969, 12, 31, 23, 59, 58, 500000, tzinfo=UTC)),
    ],
)
def test_timestamps(value, expected):
    time_us = (expected - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    columns = parse_one({"timestamp": value}, now_us=2**62, max_age_us=0)
    assert columns.status[0] == Status.OK
    assert columns.time_us[0] == time_us
    assert columns.timestamp_is_number[0] == (not isinstance(value, str))
    assert columns.text_at("timestamp", 0) == (value if isinstance(value, str) else json.dumps(value))
    assert parse_timestamp(value) == time_us


@pytest.mark.parametrize(
    "value",
    [
        "2026-02-29", "1900-02-29", "2026-04-31", "0000-01-01", "2026-13-01", "2026-01-20T24:00", "2026-01-20T12:60",
        "2026-01-20T12:00:60", "2026-01-20T12", "2026-01-20T12:00:00.", "2026-01-20T12:00+24:00", "2026-01-20Z",
        "20261320", "20260120", "20260120 120000", "20/01/2026",
        "20260120T1200", "0001-01-01T00:00+00:01", "9999-12-31T23:59-00:01", "2026-01-20T12:00:00 UTC", "now",
        "1e999", " ",
        253402300800000, -62135596801, "2026-01-20T12:00:00." + "1" * 45, 1e300,
    ],
)  # fmt: skip
def test_bad_timestamps(value):
    columns = parse_one({"timestamp": value}, now_us=2**62, max_age_us=0)
    assert columns.status[0] == Status.INVALID_TIMESTAMP
    assert columns.time_us[0] == 0
    assert parse_timestamp(value) is None


def test_parse_timestamp_of_other_things():
    assert parse_timestamp(None) is None
    assert parse_timestamp(True) is None
    assert parse_timestamp(10**400) is None
    assert parse_timestamp(math.nan) is None
    assert parse_timestamp("\ud800") is None


def test_the_limit_of_a_payload_is_the_callers():
    payload = json.dumps(BASE).encode()
    assert parse(payload, max_payload_bytes=len(payload)).status[0] == Status.OK
    assert parse(payload, max_payload_bytes=len(payload) - 1).status[0] == Status.TOO_LARGE


def test_one_bad_row_does_not_touch_its_neighbours():
    good = json.dumps(BASE).encode()
    columns = parse(good, b"{", None, good, good[:-1], good)
    assert columns.status[:6].tolist() == [0, Status.INVALID_JSON, Status.EXPIRED, 0, Status.INVALID_JSON, 0]
    assert [columns.text_at("vehicle_id", i) for i in range(6)] == ["V1", "", "", "V1", "", "V1"]
    assert columns.lat[:6].tolist()[::3] == [9.9291, 9.9291]


def test_columns_are_used_again():
    columns = Batch(4)
    limits = {"now_us": NOW_US, "max_future_us": 0, "max_age_us": 0}
    full = {"speed": 5, "bearing": 9, "trip_id": "T", "stop_id": "S", "stop_sequence": 3, "direction_id": 1}
    parse_into(columns, [json.dumps(BASE | full | {"timestamp": 5, "current_status": 1}).encode()] * 4, **limits)
    arena = columns.text
    parse_into(columns, [b"{}"], **limits)
    assert columns.n == 1
    assert columns.text is arena
    assert not any(columns.text_at(name, 0) for name in ("vehicle_id", "route_id", "trip_id", "stop_id", "timestamp"))
    assert math.isnan(columns.lat[0])
    assert (columns.timestamp_is_number[0], columns.time_us[0], columns.speed_mps[0]) == (0, 0, 0)
    assert (columns.stop_sequence[0], columns.current_status[0], columns.direction_id[0]) == (NO_SEQUENCE, -1, -1)
    with pytest.raises(IndexError):
        columns.text_at("route_id", 1)
    parse_into(columns, [], **limits)
    assert columns.n == 0


def test_the_arena_grows():
    columns = Batch(2)
    payload = json.dumps(BASE | {"vehicle_id": "v" * 256, "trip_id": "t" * 256, "x": "y" * 5000}).encode()
    parse_into(columns, [payload] * 2, now_us=NOW_US, max_future_us=0, max_age_us=0)
    assert len(columns.text) >= 2 * len(payload)
    assert columns.text_at("trip_id", 1) == "t" * 256


def test_texts_outside_the_column_or_the_arena_are_refused():
    batch = parse(json.dumps(BASE).encode())
    rows = np.zeros(1, np.int64)
    assert batch.texts("vehicle_id", rows, b"p:") == [b"p:" + batch.text_at("vehicle_id", 0).encode()]
    for row in (-1, batch.n, 2**62):
        with pytest.raises(IndexError, match=f"row {row} of a batch of 1"):
            batch.texts("vehicle_id", np.array([row]), b"p:")
    for text in ((2**40, 3, 0), (-1, 3, 0), (2**63 - 1, 3, 0), (0, -1, 0), (0, 2**31 - 1, 0)):
        batch.vehicle_id[0] = text
        with pytest.raises(ValueError, match="row 0 lies outside the arena"):
            batch.texts("vehicle_id", rows, b"p:")
    for column in ("lat", "nothing", "__class__"):
        with pytest.raises(AttributeError, match=column):
            batch.texts(column, rows)
    with pytest.raises(TypeError):
        batch.texts("vehicle_id", None)


def test_arguments():
    columns = Batch(1)
    limits = {"now_us": NOW_US, "max_future_us": 0, "max_age_us": 0}
    with pytest.raises(ValueError, match="2 payloads"):
        parse_into(columns, [b"{}", b"{}"], **limits)
    with pytest.raises(TypeError, match="payload 0 is str"):
        parse_into(columns, ["{}"], **limits)
    assert columns.n == 0
    with pytest.raises(ValueError, match="capacity"):
        Batch(0)


def test_numbers_that_need_python_come_out_right_in_many_threads():
    """The rare long literal takes the GIL for a moment; other threads hold and release it meanwhile."""
    digits = "9.9291" + "0" * 300 + "1"
    payloads = [json.dumps(BASE).replace("9.9291", digits).encode()] * 200
    wrong = []

    def work():
        for _ in range(20):
            columns = parse(*payloads)
            if not (columns.lat[:200] == 9.9291).all() or columns.status[:200].any():
                wrong.append(columns)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- columns from arrays ----------------------------------------------------------------------------------------------

IDS = ["V1", "é/ü", 'with "quotes"', "back\\slash", "tab\t", "x" * 256, "x" * 257, "", "日本"]
NUMBERS = [0.0, -0.0, 10.5, -3.0, 1e-50, 3.4028234663852886e38, 1e39, float("nan"), float("inf"), 359.9]
PLACES = [9.9291, -84.0897, 90.0, 90.1, 180.0, -180.5, float("nan"), float("inf"), 0.0]
TIMES_US = [
    NOW_US,
    NOW_US + 60_000_000,
    NOW_US + 60_000_001,
    NOW_US - 600_000_000,
    NOW_US - 600_000_001,
    NOW_US - 123_457,
    -(2**63),
    2**62,
]
NAMES = ("INCOMING_AT", "STOPPED_AT", "IN_TRANSIT_TO")


def as_json(fix):
    """The fix as a producer writes it: what is missing is left out, what JSON cannot say is too large a number."""
    members = dict(fix)
    for name in ("lat", "lon", "speed", "bearing"):
        value = members[name]
        members[name] = None if value != value else value
    time_us = members.pop("time_us")
    if time_us != -(2**63):
        moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=time_us) if time_us < 2**61 else "soon"
        members["timestamp"] = moment if isinstance(moment, str) else moment.isoformat()
    if members["current_stop_sequence"] == NO_SEQUENCE:
        del members["current_stop_sequence"]
    start_s = members.pop("start_time_s")
    if start_s >= 0:
        members["start_time"] = f"{start_s // 3600}:{start_s // 60 % 60:02}:{start_s % 60:02}"
    status = members.pop("current_status")
    members["current_status"] = NAMES[status] if 0 <= status <= 2 else None
    return (
        json.dumps(members, ensure_ascii=len(members["vehicle_id"] or "") % 2 == 0)
        .replace("Infinity", "1e999")
        .encode()
    )


NUMBERS_OF_A_FIX = (
    "start_date", "start_time_s", "status", "lat", "lon", "speed_mps", "bearing_deg", "stop_sequence", "current_status",
    "direction_id",
)  # fmt: skip


def random_fixes(n):
    rng = np.random.default_rng(5)

    def pick(values, likely=0.7):
        return values[0] if rng.random() < likely else values[rng.integers(len(values))]

    return [
        {
            "vehicle_id": pick(IDS),
            "route_id": pick(IDS),
            "trip_id": pick(IDS, 0.3),
            "stop_id": pick(IDS, 0.3),
            "lat": pick(PLACES),
            "lon": pick(PLACES),
            "speed": pick(NUMBERS, 0.0),
            "bearing": pick(NUMBERS, 0.0),
            "time_us": pick(TIMES_US),
            "current_stop_sequence": int(pick([3, 0, -5, 2**31 - 1, NO_SEQUENCE])),
            "current_status": int(pick([2, 0, 1, -1, 3], 0.0)),
            "direction_id": int(pick([0, 1, 127, -1, 128], 0.0)),
            "start_date": int(pick([20260120, 0], 0.5)),
            "start_time_s": int(pick([28_805, 0, 90_000, -1], 0.3)),
        }
        for _ in range(n)
    ]


def fill(fixes, columns, **changes):
    pool = TextPool(vehicle_id=IDS, route_id=[text.encode() for text in IDS], trip_id=IDS, stop_id=IDS)

    def codes(name):
        return np.array([IDS.index(fix[name]) if fix[name] else -1 for fix in fixes], np.int32)

    def numbers(name, dtype):
        return np.array([fix[name] for fix in fixes], dtype)

    arguments = {name: codes(name) for name in ("vehicle_id", "route_id", "trip_id", "stop_id")} | {
        "lat": numbers("lat", np.float64),
        "lon": numbers("lon", np.float64),
        "time_us": numbers("time_us", np.int64),
        "speed_mps": numbers("speed", np.float64),
        "bearing_deg": numbers("bearing", np.float64),
        "stop_sequence": numbers("current_stop_sequence", np.int32),
        "current_status": numbers("current_status", np.int8),
        "direction_id": numbers("direction_id", np.int16),
        "start_date": numbers("start_date", np.int32),
        "start_time_s": numbers("start_time_s", np.int32),
        "max_future_us": 60_000_000,
        "max_age_us": 600_000_000,
    }
    columns.start(NOW_US)
    fill_snapshots(columns, pool, **(arguments | changes))
    return pool


def test_arrays_give_the_columns_that_json_gives():
    fixes = random_fixes(600)
    expected = parse(*(as_json(fix) for fix in fixes))
    columns = Batch(700)
    fill(fixes, columns)
    assert columns.n == 600
    assert {Status(int(code)) for code in expected.status[:600]} >= {
        Status.OK,
        Status.MISSING_VEHICLE_ID,
        Status.MISSING_POSITION,
        Status.INVALID_POSITION,
        Status.POSITION_OUT_OF_RANGE,
        Status.MISSING_TIMESTAMP,
        Status.INVALID_TIMESTAMP,
        Status.FUTURE_TIMESTAMP,
        Status.TOO_OLD,
        Status.MISSING_ROUTE,
    }
    for name in (*NUMBERS_OF_A_FIX, "time_us"):
        np.testing.assert_array_equal(getattr(columns, name)[:600], getattr(expected, name)[:600], err_msg=name)
    assert not np.signbit(columns.speed_mps[:600]).any()
    for name in ("vehicle_id", "route_id", "trip_id", "stop_id"):
        assert [columns.text_at(name, row) for row in range(600)] == [expected.text_at(name, row) for row in range(600)]
        # The parser marks only what came escaped; a text that has to be escaped always did.
        np.testing.assert_array_equal(getattr(columns, name)["escape"][:600], getattr(expected, name)["escape"][:600])


def test_what_is_not_given_to_the_columns_has_its_default():
    columns = Batch(2)
    fill(random_fixes(2), columns)
    fill_snapshots(
        columns,
        TextPool(vehicle_id=["V1"], route_id=["171"]),
        vehicle_id=np.zeros(1, np.int32),
        route_id=np.zeros(1, np.int32),
        lat=np.array([9.9]),
        lon=np.array([-84.0]),
        time_us=np.array([NOW_US]),
        max_future_us=0,
        max_age_us=0,
    )
    expected = parse_one({"timestamp": NOW_US / 1e6, "lat": 9.9, "lon": -84.0})
    for name in NUMBERS_OF_A_FIX:
        np.testing.assert_array_equal(getattr(columns, name)[:1], getattr(expected, name)[:1], err_msg=name)
    assert columns.text_at("trip_id", 0) == columns.text_at("stop_id", 0) == columns.text_at("timestamp", 0) == ""


def test_parsing_into_columns_that_were_filled_leaves_the_pool_alone():
    columns = Batch(2)
    pool = fill(random_fixes(2), columns)
    before = pool.text.tobytes()
    parse_into(columns, [json.dumps(BASE).encode()], now_us=NOW_US, max_future_us=60_000_000, max_age_us=600_000_000)
    assert columns.text_at("vehicle_id", 0) == "V1"
    assert pool.text.tobytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"lat": np.zeros(3)},
        {"vehicle_id": np.array([0, 99], np.int32)},
        {"route_id": np.array([-2, 0], np.int32)},
        {"current_status": np.zeros(1, np.int8)},
    ],
)
def test_arrays_that_do_not_fit_change_nothing(changes):
    columns = Batch(2)
    with pytest.raises(ValueError):
        fill(random_fixes(2), columns, **changes)
    assert columns.n == 0
    with pytest.raises(ValueError, match="do not fit"):
        fill(random_fixes(3), columns)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"start_date": "20260120", "start_time": "08:00:00"}, (20260120, 28_800)),
        ({"startDate": "2026-01-20", "startTime": "25:10:05"}, (20260120, 90_605)),
        ({"start_date": 20260120, "start_time": "7:30"}, (20260120, 27_000)),
        ({"start_date": "", "startDate": "20260120"}, (20260120, -1)),
        ({"start_date": "20260230", "start_time": "08:61:00"}, (0, -1)),
        ({"start_date": "20/01/2026", "start_time": 28_800}, (0, -1)),
        ({}, (0, -1)),
    ],
)
def test_the_start_of_a_run(members, expected):
    columns = parse_one(members)
    assert columns.status[0] == Status.OK
    assert (columns.start_date[0], columns.start_time_s[0]) == expected
