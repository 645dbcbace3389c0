"""What is said of a snapshot's fields is what the kernel made of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from etacore._kernels.batch import Batch
from etacore.config import RuntimeConfig
from etacore.loop.explain_snapshot import FIELDS, SnapshotRead, Understood, read_snapshot, why_unread
from etacore.pipeline.snapshots import parse_snapshots
from etacore.status import Status

NOW_US = 1_769_000_000_000_000
NOW_S = NOW_US // 1_000_000
SAMPLE: dict[str, tuple[Any, Any]] = {
    "vehicle_id": ("B-7", "B-7"),
    "lat": (9.5, 9.5),
    "lon": ("-84.25", -84.25),
    "timestamp": (NOW_S, "2026-01-21T12:53:20+00:00"),
    "route_id": (171, "171"),
    "trip_id": ("T", "T"),
    "direction_id": (1, 1),
    "start_date": ("20260121", 20260121),
    "start_time": ("25:10:00", "25:10:00"),
    "speed": (8.5, 8.5),
    "bearing": (90, 90.0),
    "stop_sequence": (4, 4),
    "stop_id": ("S4", "S4"),
    "current_status": ("STOPPED_AT", "STOPPED_AT"),
}
"""What a snapshot says, and what is understood."""


def parsed(payload: bytes) -> Batch:
    batch = Batch(1)
    batch.start(NOW_US)
    parse_snapshots(batch, [payload], max_future_us=60_000_000, max_age_us=900_000_000)
    return batch


def read(members: dict[str, Any] | bytes) -> SnapshotRead:
    payload = members if isinstance(members, bytes) else json.dumps(members).encode()
    return read_snapshot(parsed(payload), 0, payload, "UTC")


def field(found: SnapshotRead, name: str) -> Understood:
    (wanted,) = (each for each in found.fields if each.name == name)
    return wanted


def why(payload: bytes, **settings: Any) -> tuple[Status, str]:
    batch = parsed(payload)
    status = Status(int(batch.status[0]))
    return status, "; ".join(why_unread(status, batch, 0, payload, RuntimeConfig(**settings)))


def test_the_sample_has_every_field() -> None:
    assert set(SAMPLE) == set(FIELDS)


@pytest.mark.parametrize(("name", "alias"), [(name, alias) for name, (all_, _) in FIELDS.items() for alias in all_])
def test_every_name_that_is_listed_is_read_and_named(name: str, alias: str) -> None:
    said, understood = SAMPLE[name]
    found = read({alias: {"id": said} if alias == "vehicle" else said})
    assert (field(found, name).value, field(found, name).said_by) == (understood, alias)
    assert found.passed_over == []
    assert found.unused == []


@pytest.mark.parametrize("name", FIELDS)
def test_the_first_name_counts_and_the_later_are_said_to_be_passed_over(name: str) -> None:
    first, *later = (alias for alias in FIELDS[name][0] if alias != "vehicle")
    found = read({alias: "0" if alias != first else SAMPLE[name][0] for alias in (*later, first)})
    assert (field(found, name).value, field(found, name).said_by) == (SAMPLE[name][1], first)
    assert found.passed_over == [f"{alias} '0', for {first} counts" for alias in later]


@pytest.mark.parametrize(
    ("name", "said", "value", "words"),
    [
        ("speed", "fast", 0.0, "speed 'fast' is not a speed"),
        ("speed", -3, 0.0, "speed '-3' is not a speed"),
        ("bearing", "north", None, "bearing 'north' is not a finite number of degrees"),
        ("direction_id", "out", None, "direction_id 'out' is not a whole number from 0 on"),
        ("start_date", "03/04/2025", None, "start_date '03/04/2025' is not a date"),
        ("start_time", "soon", None, "start_time 'soon' is not a time of the service day"),
        ("current_status", "PARKED", None, "current_status 'PARKED' is not one of"),
        ("trip_id", ["T"], None, "trip_id '['T']' is not text or a number"),
        ("timestamp", "03/04/2025 10:00", None, "timestamp '03/04/2025 10:00' is not a time"),
        ("lat", True, None, "lat 'True' is not a finite number of degrees"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_rule(name: str, said: Any, value: Any, words: str) -> None:
    found = read({"vehicle_id": "B", name: said})
    assert (field(found, name).value, field(found, name).said_by) == (value, None)
    assert len(found.passed_over) == 1
    assert found.passed_over[0].startswith(words)


def test_a_speed_of_zero_is_no_fault_and_an_unusable_id_gives_way_to_the_next_name() -> None:
    assert read({"speed": "0.0"}).passed_over == []
    found = read({"route_id": {"id": 1}, "route": "171"})
    assert field(found, "route_id").said_by == "route"
    assert found.passed_over == ["route_id '{'id': 1}' is not text or a number, at most 256 bytes"]


def test_members_that_nobody_reads_are_listed_and_the_raw_text_is_cut() -> None:
    found = read({"vehicle_id": "B", "note\x1b": "x" * 1_000})
    assert found.unused == ["note\\x1b"]
    assert len(found.raw) == 300
    assert found.n_bytes > 1_000


@pytest.mark.parametrize(
    ("timestamp", "words"),
    [
        (NOW_S - 75, "2026-01-21 12:52:05 UTC; 1 min 15 s old; a POSIX number"),
        ("2026-01-21T06:53:30-06:00", "2026-01-21 12:53:30 UTC; 10 s ahead"),
        ("2026-01-21 12:53:20", "2026-01-21 12:53:20 UTC; 0 s old; no offset, so UTC"),
    ],
)
def test_a_time_says_its_age_and_how_it_was_read(timestamp: Any, words: str) -> None:
    assert field(read({"timestamp": timestamp}), "timestamp").note == words


GOOD = {"vehicle_id": "B", "lat": 9.9, "lon": -84.1, "timestamp": NOW_S, "route": "1"}


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"lat": -151.2, "lon": 33.8}, Status.POSITION_OUT_OF_RANGE, "lat and lon may be exchanged"),
        ({"lat": 500_000, "lon": 33.8}, Status.POSITION_OUT_OF_RANGE, "lat is 500000, lon is 33.8"),
        ({"timestamp": NOW_S - 3_600}, Status.TOO_OLD, "it is 1 h 0 min old, and the limit is 15 min 0 s"),
        ({"timestamp": NOW_S + 90}, Status.FUTURE_TIMESTAMP, "it is 1 min 30 s ahead of this machine's clock"),
        ({"timestamp": "2026-01-21T18:53:25"}, Status.FUTURE_TIMESTAMP, "that is 6 h 0 min almost exactly"),
    ],
)
def test_what_exactly_is_wrong(changes: dict[str, Any], status: Status, words: str) -> None:
    found, said = why(json.dumps(GOOD | changes).encode())
    assert found == status
    assert words in said


def test_only_a_time_without_an_offset_may_be_a_local_one() -> None:
    assert "local time" not in why(json.dumps(GOOD | {"timestamp": "2026-01-21T18:53:25Z"}).encode())[1]
    assert "local time" not in why(json.dumps(GOOD | {"timestamp": "2026-01-21T18:33:25"}).encode())[1]


@pytest.mark.parametrize(
    ("payload", "status", "words"),
    [
        (b"", Status.INVALID_JSON, "it is empty"),
        (b'{"a": nope', Status.INVALID_JSON, "line 1 column 7"),
        (b'{"a": "\xff"}', Status.INVALID_JSON, "byte 7 is no UTF-8"),
        (b"[" * 200 + b"]" * 200, Status.INVALID_JSON, "nested deeper than 128"),
        (b"[1]", Status.NOT_AN_OBJECT, "it is a list"),
        (b"null", Status.NOT_AN_OBJECT, "it is null"),
        (b"true", Status.NOT_AN_OBJECT, "it is true or false"),
    ],
)
def test_what_is_no_object_says_what_it_is(payload: bytes, status: Status, words: str) -> None:
    found, said = why(payload)
    assert found == status
    assert words in said
