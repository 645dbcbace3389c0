"""The snapshot kernel against its twin: the same columns for the same payloads, to the bit."""

from __future__ import annotations

import json
import math
import random
import struct
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

import etacore._kernels.snapshots
from etacore._kernels.batch import Batch
from etacore.schema import NO_SEQUENCE
from etacore.status import Status
from tests.reference import snapshots as twin
from tests.reference.columns import parse_into

NOW_US = 1_768_910_460_000_000  # 2026-01-20T12:01:00Z
LIMITS = {"now_us": NOW_US, "max_future_us": 120_000_000, "max_age_us": 3_600_000_000}
TEXTS = ("vehicle_id", "route_id", "trip_id", "stop_id", "timestamp")
NUMBERS = ("lat", "lon", "speed_mps", "bearing_deg")
INTEGERS = (
    "timestamp_is_number",
    "direction_id",
    "time_us",
    "stop_sequence",
    "current_status",
    "start_date",
    "start_time_s",
)


def rows_of(payloads, **changes):
    """What the kernel says, in the twin's words."""
    columns = Batch(max(len(payloads), 1))
    parse_into(columns, payloads, **(LIMITS | changes))
    assert columns.n == len(payloads)
    rows = []
    for i in range(columns.n):
        row = twin.Row(Status(int(columns.status[i])))
        for name in TEXTS:
            text = columns.text_at(name, i)
            setattr(row, name, text)
            escapes = int(any(c < " " or c in '"\\' for c in text))
            assert int(getattr(columns, name)[i]["escape"]) == escapes, (name, text)
        for name in NUMBERS:
            setattr(row, name, float(getattr(columns, name)[i]))
        for name in INTEGERS:
            setattr(row, name, int(getattr(columns, name)[i]))
        rows.append(row)
    return rows


def bits(row):
    """A row to compare: floats by their bits, every NaN alike."""
    return {
        name: (b"nan" if math.isnan(value) else struct.pack("<d", value)) if isinstance(value, float) else value
        for name, value in vars(row).items()
    }


def hold_together(payloads, **changes):
    rows = rows_of(payloads, **changes)
    for payload, row in zip(payloads, rows, strict=True):
        assert bits(row) == bits(twin.parse(payload, **(LIMITS | changes))), payload
    return rows


def test_the_kernel_is_compiled():
    assert Path(etacore._kernels.snapshots.__file__).suffix in {".so", ".pyd"}


# -- random snapshots in many spellings -------------------------------------------------------------------------------

IDS: tuple[Any, ...] = (
    "TEST-LIVE-001",
    "17",
    'q"\\',
    "añ\u4e2d\U0001f68c",
    "a\x00b",
    "tab\t",
    171,
    1.5,
    -0,
    12345678901234567890123,
    "",
    None,
)
IDS += (True, [], {}, ["x"], "x" * 256, "x" * 257, "é" * 128, "é" * 129, "\x7f", " ", 1e300)
POSITIONS: tuple[Any, ...] = (
    9.9291,
    -84.0897,
    0,
    -0.0,
    90,
    -90,
    90.00000001,
    180,
    -180,
    181,
    1e308,
    "9.93",
    " -84.1 ",
    "+9.5",
    "\t1e1\n",
)
POSITIONS += (
    "nan",
    "inf",
    "9,5",
    "+-9",
    "0x10",
    "1_0",
    "09.5",
    ".5",
    "5.",
    "1e999",
    "",
    "  ",
    None,
    True,
    [9.5],
    {"x": 1},
)
POSITIONS += ("\v7\f", "\u00a07", "٣", 10**400, 5e-324, "-0.0", 1e-400)
SPEEDS = (10.5, 0, -1, -0.0, "12.5", "fast", None, "", 1e39, 3.4028234e38, 1e-50, False, [1], 3.4028235677973366e38)
SEQUENCES = (
    4,
    0,
    -3,
    4.0,
    "4",
    "4.0",
    4.5,
    "x",
    None,
    "",
    2**31 - 1,
    2**31,
    -(2**31),
    -(2**31) - 1,
    1e9,
    True,
    "1e2",
    1e400,
)
STATUSES: tuple[Any, ...] = (
    "IN_TRANSIT_TO",
    "in_transit_to",
    "Stopped_At",
    "INCOMING_AT",
    "INCOMING",
    "",
    None,
    0,
    1,
    2,
    3,
    -1,
    1.0,
    1.5,
    "1",
)
STATUSES += ("ıN_TRANSIT_TO", "IN-TRANSIT-TO", True, [], "STOPPED@AT", "STOPPED\x7fAT", "[NCOMING_AT")
DIRECTIONS = (0, 1, "0", "1", 2, 127, 128, -1, 0.5, "x", None, "", True)
TIMES = (
    "2026-01-20T12:00:00+00:00",
    "2026-01-20T12:00:00Z",
    "2026-01-20t12:00:00z",
    "2026-01-20 12:00:00",
    "2026-01-20T12:00",
    "2026-01-20T06:00:00.123456789-06:00",
    "2026-01-20T06:00:00,5-06",
    "20260120T120000Z",
    "20260120t060000.25-0600",
    "2026-01-20T17:30:15+05:30:15",
    "2026-01-20",
    " 2026-01-20T12:00:00Z ",
    "1768910400",
    "1768910400.5",
    "1768910400123",
    "+1768910400",
    "1.7689104e9",
    1768910400,
    1768910400.123456,
    1768910400123,
    1768910400123.75,
    1768910465.0000005,
)
BAD_TIMES: tuple[Any, ...] = (
    None, "", " ", "now", True, [], {}, "2026-02-29", "2025-02-29T00:00", "1900-02-29", "2000-02-29", "0000-01-01",
    "20260120", "20260120 120000", "2026-13-01", "2026-00-10", "2026-04-31", "2026-01-20T24:00", "2026-01-20T23:60", "2026-01-20T12:00:60", "9" * 65,
    "2026-01-20T12:00:00.", "2026-01-20T12", "2026-01-20T1200", "2026-01-20T12:00:00+24:00", "2026-01-20T12:00:00+5:30",
    "2026-01-20T12:00:00+05:60", "2026-01-20T12:00:00+0530:15", "2026-01-20T12:00:00+05:", "2026-01-20Z", "2026-1-2",
    "2026-01-20T12:00:00 Z", "2026-01-20T12:00:00Zx", "20260120T1200", "2026-0120", "202601-20", "20261332", "1e400",
    "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59.999999-00:01", "0001-01-01", "9999-12-31T23:59:59.999999", 1e400,
    -62135596800, -62135596801, 253402300799999, 253402300800000, -1e12, 99999999999, 100000000001, 0, -1, "12345.67",
    "1234567", "123456789", "-1234567", "2026-01-20T12:00:00" + "0" * 40, "2026-01-20T12:00:00." + "0" * 44,
    "2026-01-20T12:00:00." + "1" * 45, "2026-01-20\x00", "２026-01-20", 0.0000005, 0.0000015, 2.5e-06, "-0",
    "\x00" * 11 + "12:00:00",
)  # fmt: skip

START_DATES = (
    "20260120", 20260120, "2026-01-20", " 20260120 ", "20260229", "20240229", "20260000", "20261301", "2026-0120",
    "202601-20", "0000-01-01", "00010101", "20260120T12", "", None, 20260120.0, -20260120, True, "２0260120",
)  # fmt: skip
START_TIMES: tuple[object, ...] = (
    "08:00:00", "8:00:00", "25:10:59", "107:00:00", "1000:00:00", "08:00", "8:0:0", "08:60:00", "08:00:60", "08:00:",
    " 08:00:00 ", "08-00-00", "", None, 80000, 28800, {}, "08:00:00.5",
)  # fmt: skip


def random_members(rng):
    members = {}
    for names, values in (
        (("vehicle_id", "vehicleId", "id", "vehicle", "vehicle.id"), IDS),
        (("lat", "latitude"), POSITIONS),
        (("lon", "longitude", "lng"), POSITIONS),
        (("timestamp",), TIMES + BAD_TIMES),
        (("route_id", "route", "routeId", "route_short_name"), IDS),
        (("trip_id", "trip", "tripId"), IDS),
        (("stop_id",), IDS),
        (("speed",), SPEEDS),
        (("bearing", "heading"), SPEEDS),
        (("current_stop_sequence", "stop_sequence"), SEQUENCES),
        (("current_status",), STATUSES),
        (("direction_id", "directionId"), DIRECTIONS),
        (("start_date", "startDate"), START_DATES),
        (("start_time", "startTime"), START_TIMES),
    ):
        for name in rng.sample(names, rng.randint(1, len(names))):
            # Mostly good values, so that rows get past the first check.
            good = rng.random() < 0.8
            value = values[0] if good else rng.choice(values)
            if name == "vehicle" and rng.random() < 0.7:
                value = {"id": value, "label": "x", "trip": 5}
            members[name] = value
    if rng.random() < 0.2:
        members["extra"] = {"a": [1, {"b": None}, "\u20ac"], "lat": 5}
    items = list(members.items())
    rng.shuffle(items)
    return items


def spelled(items, rng):
    """A JSON text of these members: white space, escapes and repeated names as the dice fall."""
    ascii_only = rng.random() < 0.5
    space = rng.choice(("", " ", "\n\t ", "\r\n"))

    def text(value):
        plain = json.dumps(value, ensure_ascii=ascii_only)
        if isinstance(value, str) and rng.random() < 0.15:
            units = value.encode("utf-16-be").hex()
            plain = '"' + "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)) + '"'
        return plain.replace("Infinity", "1e999")

    parts = [f"{space}{text(name)}{space}:{space}{text(value)}{space}" for name, value in items]
    if rng.random() < 0.2:
        name = rng.choice(items)[0]
        parts.insert(rng.randint(0, len(parts)), f'"{name}":{rng.choice(("null", "5", "{}", chr(34) * 2))}')
    return (space + "{" + ",".join(parts) + "}" + space).encode()


@pytest.mark.parametrize("seed", range(6))
def test_random_snapshots(seed):
    rng = random.Random(seed)
    rows = hold_together([spelled(random_members(rng), rng) for _ in range(1000)])
    assert sum(row.status == Status.OK for row in rows) > 100


DAMAGE = b'"\\{}[]:,u0e\x00\x1f\x80\xed\xa0\xf4 \xc3'


@pytest.mark.parametrize("seed", range(3))
def test_random_damage(seed):
    rng = random.Random(seed)
    payloads = []
    for _ in range(1000):
        payload = bytearray(spelled(random_members(rng), rng))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(payload))
            noise = rng.choices(DAMAGE, k=rng.randint(0, 2))
            payload[at : at + rng.randint(0, 2)] = bytes(noise)
        payloads.append(bytes(payload))
    rows = hold_together(payloads)
    assert sum(row.status == Status.INVALID_JSON for row in rows) > 100


def test_every_reason_is_met():
    base = {"vehicle_id": "V", "lat": 9.5, "lon": -84.5, "timestamp": "2026-01-20T12:00:00Z", "route": "171"}
    payloads = [None, b" " * 65537, b"{", b"[]", *(json.dumps(base | change).encode() for change in (
        {}, {"vehicle_id": ""}, {"lat": None}, {"lat": "x"}, {"lat": 91}, {"timestamp": None}, {"timestamp": "x"},
        {"timestamp": "2026-01-20T12:03:00.000001Z"}, {"timestamp": "2026-01-20T11:00:59.999999Z"}, {"route": []},
    ))]  # fmt: skip
    rows = hold_together(payloads)
    expected = [2, 4, 5, 6, 0, *range(7, 16)]
    assert [int(row.status) for row in rows] == expected


@pytest.mark.parametrize("value", TIMES + BAD_TIMES, ids=repr)
def test_every_timestamp(value):
    text = json.dumps({"vehicle_id": "V", "lat": 1, "lon": 1, "route": 1, "timestamp": value}).replace(
        "Infinity", "1e999"
    )
    (row,) = hold_together([text.encode()], max_age_us=0)
    if value in TIMES:
        assert row.status == Status.OK


@pytest.mark.parametrize("seed", range(4))
def test_doubles_are_correctly_rounded(seed):
    """Every digit count and exponent, reprs of random bits, and decimals around the middle of two doubles."""
    rng = random.Random(seed)
    wide = Context(prec=2000)
    literals = []
    for _ in range(4000):
        digits = str(rng.getrandbits(rng.randint(1, 80)))
        literals.append(f"{'-' * rng.randint(0, 1)}{digits}e{rng.randint(-40, 40)}")
        at = rng.randint(1, len(digits))
        literals.append(f"{digits[:at]}.{digits[at:] or '0'}")
        value = struct.unpack("<d", rng.randbytes(8))[0]
        if math.isfinite(value):
            literals.append(repr(value))
        literals.append(repr(rng.uniform(-180, 180)))
        double = Decimal(rng.uniform(1, 100) * 10.0 ** rng.randint(-25, 25))
        exact = wide.multiply(wide.add(double, Decimal(math.nextafter(float(double), math.inf))), Decimal("0.5"))
        middle = format(exact, "f")
        literals += [middle, middle[:-1] or "0", middle[:17], middle[:19]]
        literals.append(middle + "0" * 900 + "1" if "." in middle else middle + "." + "0" * 900 + "1")
    literals = [text for text in literals if twin.NUMBER.fullmatch(text)]
    payloads = [f'{{"lat":{text}}}'.encode() for text in literals]
    columns = Batch(len(payloads))
    parse_into(columns, payloads, **LIMITS)
    wrong = [
        (text, float(column))
        for text, column in zip(literals, columns.lat[: columns.n], strict=True)
        if struct.pack("<d", column) != struct.pack("<d", float(text)) and math.isfinite(float(text))
    ]
    assert not wrong


# -- what is JSON -----------------------------------------------------------------------------------------------------

DEEP = 127
VALID = (
    b"0", b"-0", b"-0.0", b"1E5", b"1e+5", b"1e-5", b"0e1", b"0E+1", b"0.5e00", b"123456789012345678901234567890",
    b"1e999", b"-1e999", b"1e-999", b"0.1", b"20e1", b"1.0", b"-1", b'""', b'"a"', b'"\\u0000"', b'"\\u0022"',
    b'"\\"\\\\\\/\\b\\f\\n\\r\\t"', b'"\\uD834\\uDd1e"', b'"\\uFFFF"', b'"\\u00e9"', b'"\xc3\xa9"', b'"\xe2\x82\xac"',
    b'"\xf0\x9f\x9a\x8c"', b'"\x7f"', b'"\xf4\x8f\xbf\xbf"', b'"\xed\x9f\xbf"', b'"\xee\x80\x80"', b'"\xe0\xa0\x80"',
    b'"\xf0\x90\x80\x80"', b'"\xef\xbb\xbf"', b'"\xe2\x80\xa8"', b"null", b"true", b"false", b"[]", b"[ ]", b"{ }",
    b'[null, 1, "1", {}]', b'{"a":1,"a":2}', b'{"":0}', b'{"a\\u0000b":[]}', b'{"a":{"a":{"a":[[[]]]}}}', b"[1\n]",
    b'"/*not a comment*/"', b'{"#":"b"}', b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    b'"' + b"x" * 1000 + b'"', b'"1234567\\u00411234567"', b'"12345678\xc3\xa912345678"', b"[-1.5e-10, 2]",
)  # fmt: skip
INVALID = (
    b"", b"+1", b"01", b"-01", b"1.", b".5", b"1.e1", b"1e", b"1e+", b"1eE2", b"-", b"--1", b"- 1", b"0x1", b"1_000",
    b"1 2",
    b"NaN", b"-NaN", b"Infinity", b"-Infinity", b"nan", b"0e", b"0e+", b"1.2.3", b"1e5.5", b"\xd9\xa1", b"\xef\xbc\x91",
    b'"', b'"a', b'"\\"', b'"\\', b'"\\u', b'"\\u00', b'"\\u00g0"', b'"\\u 041"', b'"\\u+041"', b'"\\U0041"',
    b'"\\x41"',
    b'"\\a"', b"'a'", b'"\\uD800"', b'"\\uDC00"', b'"\\uD800\\uD800"', b'"\\uD800x"', b'"\\uD800\\n"',
    b'"\\uDC00\\uD800"',
    b'"\\uD800\\u0041"', b'"\\uD83D\\uDE0"', b'"\x00"', b'"\x1f"', b'"a\nb"', b'"a\tb"', b'"\x80"', b'"\xff"',
    b'"\xc0\x80"',
    b'"\xc1\xbf"', b'"\xc3"', b'"\xe2\x82"', b'"\xe0\x80\x80"', b'"\xed\xa0\x80"', b'"\xed\xbf\xbf"',
    b'"\xf0\x80\x80\x80"',
    b'"\xf4\x90\x80\x80"', b'"\xf5\x80\x80\x80"', b'"\xc3("', b'"\xe2(\xa1"', b'"\xf0\x9f\x9a"', b'"\xe2\x82\xac',
    b"nul",
    b"nulll", b"True", b"tru", b"fals", b"undefined", b"[", b"]", b"[1", b"[1,", b"[1,]", b"[,1]", b"[1 2]",
    b"[1,,2]", b"[[]",
    b"{", b"}", b"{,}", b'{"a"}', b'{"a":}', b'{"a":1', b'{"a":1,}', b'{"a" 1}', b'{a:1}', b"{1:1}", b'{"a":1 "b":2}',
    b'{"a":1,,"b":2}', b'{"a"::1}', b'{"a":1}}', b'{"a":1}#', b"[1]//x", b"/**/1", b"1\x00", b"\x0c1", b"\xa01",
    b"1\xc2\xa0",
    b"[\x0b]", b"[1\x0c]", b'{"a":1]', b"[1}", b'["a":1]', b'{"\\uD800":1}', b'{"\x80":1}', b"[\xe9]", b"[" * 100_000,
    b"[" * 129 + b"]" * 129, b"*", b"\\", b'[\\"a"]', b"[1,\n1\n,1", b'{"a":\xc3\xa9}', b"e1", b"\x00", b"nullnull",
    b"[-]",
)  # fmt: skip


@pytest.mark.parametrize("text", VALID, ids=lambda t: repr(t[:24]))
def test_minefield_valid(text):
    """Alone, inside an array and as a member: accepted by all three."""
    json.loads(text)
    if b"e999" not in text:  # orjson refuses what overflows; RFC 8259 leaves that open
        orjson.loads(text)
    payloads = [
        text,
        b" \t\r\n" + text + b"\n",
        b"[" + text + b"]",
        b'{"a":' + text + b"}",
        b'{"lat":' + text + b',"x":1}',
    ]
    assert all(row.status != Status.INVALID_JSON for row in rows_of(payloads))
    hold_together(payloads)


@pytest.mark.parametrize("text", INVALID, ids=lambda t: repr(t[:24]))
def test_minefield_invalid(text):
    """Refused by the kernel, its twin and orjson; the stdlib lets a few pass that the twin then refuses."""
    payloads = [text, b'{"a":' + text + b"}", b'{"lat":' + text + b',"x":1}', b'{"vehicle":{"id":' + text + b"}}"]
    assert all(row.status == Status.INVALID_JSON for row in rows_of(payloads, max_payload_bytes=1_000_000))
    hold_together(payloads, max_payload_bytes=1_000_000)
    too_deep_for_us = text == b"[" * 129 + b"]" * 129
    if not too_deep_for_us:
        with pytest.raises(ValueError):
            orjson.loads(text)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(encoding):
    assert rows_of(['{"lat":1}'.encode(encoding)])[0].status == Status.INVALID_JSON


def test_every_cut_of_a_snapshot_is_refused():
    nested = '{"id":"V\\u00e9\\ud83d\\ude8c","x":[1.5e-3,null,true]}'
    payload = f'{{"vehicle":{nested},"lat":-9.5E+1,"lon":"8\u20ac","t":false}}'.encode()
    rows = hold_together([payload[:n] for n in range(len(payload) + 1)])
    assert all(row.status == Status.INVALID_JSON for row in rows[:-1])
    assert rows[-1].status == Status.INVALID_POSITION
    assert rows[-1].stop_sequence == NO_SEQUENCE


def test_members_in_another_order_than_in_the_row_before():
    # Names are told by the row before: other orders, spellings and spaces, members left out, and rows that break off.
    rng = random.Random(11)
    members = [
        ('"vehicle_id"', '"V"'), ('"lat"', "42.25"), ('"lon"', "-71.125"), ('"timestamp"', '"2026-01-20T12:00:00Z"'),
        ('"route"', '"R"'), ('"tr\\u0069p_id"', '"T"'), ('"speed"', "7.5"), ('"x"', "[1]"), ('""', "{}"),
        *((f'"extra{i}"', str(i)) for i in range(30)),
    ]  # fmt: skip
    payloads = []
    chosen = members
    for i in range(600):
        if i % 3 == 0:
            chosen = rng.sample(members, rng.randrange(len(members)))
        space = rng.choice(["", "", "", " ", " \n\t"])
        texts = [f"{space}{name}{rng.choice(['', '', space])}:{space}{value}" for name, value in chosen]
        payload = ("{" + ",".join(texts) + "}").encode()
        payloads.append(payload[: rng.randrange(len(payload))] if i % 7 == 0 else payload)
    hold_together(payloads)


def test_times_on_and_off_the_day_before():
    rng = random.Random(12)
    times = [f"2026-01-{day}{t}{clock}" for day in ("19", "20", "2O") for t in "Tt " for clock in (
        "12:00:00", "11:59:59Z", "12:00:30+00:00", "12:00:60", "12:60:00", "24:00:00", "1::00:00", "12:0/:00",
        "12.00.00", "12:00:00+00:00 ", "12:00:00+0:000", "12:00:00+01:00", "12:00:00.5", "12:00:00z", "12:00",
        "12:00:00-00:00",
    )]  # fmt: skip
    times += [" 2026-01-20T12:00:00", "20260120T120000Z", "2026-02-30T12:00:00", "2026-02-29T12:00:00"]
    rng.shuffle(times)
    hold_together([b'{"id":"V","lat":1,"lon":2,"route":"R","timestamp":"%b"}' % text.encode() for text in times * 3])
