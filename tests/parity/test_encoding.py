"""The encoder against dicts, orjson.dumps and datetime, byte for byte."""

import random

import numpy as np
import orjson
import pytest

from etacore._kernels import encode as _encode
from etacore.pipeline.encoding import Envelope
from tests.reference import encoding as twin

ENVELOPE = Envelope(
    model_key='xgboost_a"b_spatial-temporal_route_1_20251202_063133_é',
    model_type="xgboost",
    model_scope="route",
    computed_at="2026-01-20T12:00:01.123456+00:00",
    fetched_at="2026-01-20T12:00:01+00:00",
    persisted_at="2026-01-20T12:00:01.200000+00:00",
    latency_ms=12.3455,
)
TEXTS = [
    "171",
    "BUS-1",
    'quo"te',
    "back\\slash",
    "\x00\x1f\x7f",
    "Zürich ≠ 漢字",
    "😀" * 9,
    "tab\tnew\nline",
    "x" * 200,
]


def encode(batch, prefix=b"predictions:", ttl_s=300):
    return batch.encode(ENVELOPE, prefix=prefix, ttl_s=ttl_s)


RUNS = [
    (20260120, 28_805, False),
    (20260120, -1, True),
    (0, 0, False),
    (10101, 90_000, True),
    (99991231, 3_600_000 - 1, False),
]


def random_rows(rng, n):
    moments = [0, 1_768_910_400_000_000, 1_768_910_400_123_456, 951_782_399_999_999, -1, 253_402_300_790_000_000]
    rows = []
    for i in range(n):
        vehicle = f"{rng.choice(TEXTS)}{i}"
        rows.append(
            {
                "status": rng.choice([0, 0, 0, 1, 14]),
                "vehicle_id": vehicle,
                "route_id": rng.choice(TEXTS),
                "trip_id": rng.choice([None, *TEXTS]),
                "timestamp": rng.choice([*TEXTS, b"1768910400", b"1768910400.5", b"1.7689104e9"]),
                "time_us": rng.choice(moments),
                "run": rng.choice([(0, -1, False)] * 3 + RUNS),
                "key": f"vehicle:{vehicle}".encode() + rng.choice([b"", b"", b"\xff\xc3", b"\xe2\x82"]),
                "stops": [
                    (
                        rng.choice(TEXTS),
                        rng.randrange(-5, 1000),
                        rng.choice([rng.uniform(0, 3e4), rng.randrange(40000) / 20, 0.0, float("nan"), 1e12]),
                        rng.choice([rng.uniform(0, 7200), rng.randrange(7200 * 8) / 8, 0, 59.99, 7200, np.nan, np.inf]),
                    )
                    for _ in range(rng.randrange(6))
                ],
            }
        )
    return rows


def test_the_kernel_is_compiled():
    assert _encode.__file__.endswith(".so")


@pytest.mark.parametrize("seed", range(5))
def test_documents_are_those_of_the_twin(seed):
    batch = twin.Batch(random_rows(random.Random(seed), 300))
    documents = encode(batch)
    expected = batch.expected(ENVELOPE)
    assert [documents[i] for i in range(300)] == expected
    assert len(documents) == sum(map(bool, expected)) > 100


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("prefix", "ttl_s"), [(b"predictions:", 300), (b"", 1), (b"a-longer-prefix/of:keys:", 86_400)])
def test_commands_are_those_of_the_twin(seed, prefix, ttl_s):
    rows = random_rows(random.Random(seed), 100)
    batch = twin.Batch(rows)
    expected = batch.expected(ENVELOPE)
    documents = encode(batch, prefix, ttl_s)
    assert bytes(documents.commands) == batch.expected_commands(ENVELOPE, prefix, ttl_s)
    assert documents.rows().tolist() == [i for i, document in enumerate(expected) if document]
    assert len(documents) == len(documents.rows()) > 10


def test_documents_of_all_lengths_have_their_length_before_them():
    # 2 to 5 digits and back, so that documents move in both directions.
    rows = random_rows(random.Random(2), 400)
    for i, row in enumerate(rows):
        row["run"] = RUNS[i % len(RUNS)] if i % 3 else (0, -1, False)
        row["vehicle_id"] = f"{'v' * (i * 37 % 211)}{i}"
        row["route_id"] = "r" * (i * 53 % 12_000)
        row["stops"] = [(f"S{k}", k, 10.0 * k, 5.0 * k) for k in range(i % 90)]
    batch = twin.Batch(rows)
    documents = encode(batch)
    lengths = {len(str(len(documents[i]))) for i in documents.rows().tolist()}
    assert lengths == {3, 4, 5}
    assert bytes(documents.commands) == batch.expected_commands(ENVELOPE, b"predictions:", 300)


ROOM = {  # what of a row is control characters (six bytes for one), the longest that the parser lets through
    "vehicle_id": {"vehicle_id": "\x01" * 256},
    "route_id": {"route_id": "\x1f" * 256},
    "trip_id": {"trip_id": "\x02" * 256},
    "timestamp": {"timestamp": "\x03" * 64},
    "key": {"key": b"\x04" * 20_000},
    "key that is not UTF-8": {"key": b"\x04\xff" * 10_000},
    "all": {
        "vehicle_id": "\x01" * 256, "route_id": "\x1f" * 256, "trip_id": "\x02" * 256, "timestamp": "\x03" * 64,
        "key": b"vehicle:" + b"\x01" * 256,
    },
    "all, and large": {
        "vehicle_id": "\x01" * 9_000, "route_id": "\x1f" * 9_000, "trip_id": "\x02" * 9_000,
        "timestamp": "\x03" * 9_000, "key": b"\x01" * 9_000,
    },
    "quotes": {"vehicle_id": '"' * 256, "route_id": "\\" * 256, "trip_id": "\n" * 256, "key": b'"' * 20_000},
}  # fmt: skip


def control_row(**changes):
    stop = ("\x01" * 256, -(2**31), 999_999_999_999.9, 7_199.96)
    return {
        "vehicle_id": "v", "route_id": "r", "trip_id": "t", "timestamp": "s", "time_us": 1_768_910_400_123_456,
        "key": b"k", "stops": [stop] * 3, "run": (20260120, 2**31 - 1, True),
    } | changes  # fmt: skip


@pytest.mark.parametrize("name", ROOM)
def test_there_is_room_for_texts_that_become_six_times_as_long(name):
    batch = twin.Batch([control_row(**ROOM[name])])
    for ttl_s, prefix in ((300, b"predictions:"), (10**9, b"")):
        documents = encode(batch, prefix, ttl_s)  # the first document into an empty buffer
        assert [documents[0]] == batch.expected(ENVELOPE)
        assert bytes(documents.commands) == batch.expected_commands(ENVELOPE, prefix, ttl_s)
        assert documents.size <= len(documents.buffer)


def test_there_is_room_for_every_row_behind_those_before_it():
    rows = [control_row(), *(control_row(**changes) for changes in ROOM.values())]
    for first in range(len(rows)):
        batch = twin.Batch(rows[first:] + rows[:first])
        documents = encode(batch)
        assert bytes(documents.commands) == batch.expected_commands(ENVELOPE, b"predictions:", 300)
        assert documents.size <= len(documents.buffer)


@pytest.mark.parametrize("name", ["vehicle_id", "route_id", "trip_id", "timestamp", "key"])
def test_room_is_made_in_time_at_any_length(name):
    """Lengths around which the buffer, at first 4 096 bytes and then as many as needed, is just filled."""
    for n in [*range(0, 64), *range(400, 700, 7), *range(1_000, 1_400, 23)]:
        text = "\x01" * n
        batch = twin.Batch(
            [control_row(**{name: text.encode() if name == "key" else text}, stops=[("S", 1, 1.0, 1.0)])]
        )
        documents = encode(batch)
        assert bytes(documents.commands) == batch.expected_commands(ENVELOPE, b"predictions:", 300)
        assert documents.size <= len(documents.buffer)


@pytest.mark.parametrize("value", [0.35, 0.25, 0.75, 2.675, 1.005, 0.05, 0.15, 1e11 + 0.05, 0.0, -0.0, -0.04, 7199.95])
@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_numbers_on_and_near_a_half(value, decimals):
    for near in (np.nextafter(value, -np.inf), value, np.nextafter(value, np.inf)):
        assert _encode.number_text(near, decimals) == orjson.dumps(round(float(near), decimals))
