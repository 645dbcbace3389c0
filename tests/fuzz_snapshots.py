"""Mutates snapshots, parses them in batches and checks what must hold of the columns whatever was parsed.

``python tests/fuzz_snapshots.py --iterations 200000 --seed 1``; made for kernels built with sanitizers
(``tests/sanitize.sh``), useful without. The same seed makes the same payloads.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from etacore._kernels.batch import Batch
from etacore.status import Status
from tests.reference import snapshots as twin
from tests.reference.columns import parse_into

BATCH = 500
TWIN_EVERY = 20
LIMITS = {"now_us": 1_768_910_460_000_000, "max_future_us": 120_000_000, "max_age_us": 3_600_000_000}
TEXTS = ("vehicle_id", "route_id", "trip_id", "stop_id", "timestamp")
SEEDS = (
    b'{"vehicle_id": "TEST-LIVE-001", "lat": 9.929112345678901, "lon": -84.08971234567891, "speed": 10.5, '
    b'"bearing": 120.0, "timestamp": "2026-01-20T12:00:00+00:00", "route": "171", "trip_id": "171-TRIP-001", '
    b'"stop_id": "S4", "current_stop_sequence": 4, "current_status": "IN_TRANSIT_TO", "direction_id": 1}',
    b'{"vehicle":{"id":17,"label":"b"},"latitude":"9.93","longitude":" -84.1 ","timestamp":1768910400.25,"routeId":171,'
    b'"tripId":"a\\u00e9\\ud83d\\ude8c\\n","heading":"3.5e1","stop_sequence":"4","directionId":"0","x":[1,{"y":[]},null]}',
    '{"id":"añ中🚌","lat":9.5,"lng":-84.5,"timestamp":"20260120T120000.123456Z","route_short_name":"r","trip":5,'
    '"l\\u0061t":8.25,"vehicle.id":"z","vehicle":null,"speed":1e-7,"current_status":2}'.encode(),
    b'{ "vehicleId" : "v" , "lat" : -0.0 , "lon" : 1e2 , "timestamp" : "1768910400" , "route_id" : 1.50 }',
)
TOKENS = (
    b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"NaN", b"-Infinity", b'"lat":', b'"vehicle":{"id":', b"\\ud800",
    b'"timestamp":"2026-01-20T12:00', b"\\udc00", b"\\u0000", b"\\u", b"\xed\xa0\x80", b"\xff", b"\xf0\x9f",
    b"\xef\xbb\xbf",
    b"\x00", b"\\u0061" * 50, b" " * 64, b"\t\r\n", b"[" * 127, b'{"a":' * 130, b"+24:00", b"\xc3\xa9", b"\x7f",
    b"-", b".", b"e9",
)  # fmt: skip
VALUES = (
    b"null", b"true", b'""', b"{}", b"[]", b"0", b"-0", b"1e999", b"0." + b"0" * 400 + b"1", b"9" * 200,
    b"1" + b"0" * 308,
    b"0.1" + b"1" * 30, b"1e-400", b"1E+00000000000000000001", b"18446744073709551616", b"9007199254740993",
    b"3.0000000000000004e-5", b'"' + b"x" * 300 + b'"', b"[" * 100 + b"]" * 100, b"[" * 200 + b"]" * 200, b'"9.5"',
    b'" -8e1 "',
    b"1768910400", b'"1768910400"', b"1768910400123.5", b'"2026-01-20"', b'"20260120"',
    b'"2026-01-20T12:00:00.1234567-00:00"',
    b'"2026-01-20 06:00:59,9-06"', b'"\\u0031\\u002e5"', b'"\\u0061\\ud83d\\ude8c"', '"añ中🚌"'.encode(),
    b'{"id":[{"id":1}]}',
    b'{"id":"nested","id":5}', b'"stopped_at"', b"1.0", b"2147483648", b"-2147483648", b'"' + b"\\u00e9" * 64 + b'"',
    b"90.0",
)  # fmt: skip


def mutate(payload: bytes, corpus: list[bytes], rng: random.Random) -> bytes:
    """One to four random changes: half of them a value for a value, the others blind."""
    text = bytearray(payload)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        if not text:
            break
        at = rng.randrange(len(text))
        kind = rng.randrange(16)
        if kind == 0:
            text[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            text[at] = rng.randrange(256)
        elif kind == 2:
            del text[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            del text[at:]
        elif kind == 4:
            text[at:at] = rng.choice(TOKENS)
        elif kind == 5:
            end = at + rng.randrange(1, 20)
            text[at:end] = rng.choice(TOKENS)
        elif kind == 6:
            other = rng.choice(corpus)
            text[at:] = other[rng.randrange(len(other)) :] if other else b""
        elif kind >= 8:
            start = text.find(b":", at) + 1
            ends = [end for end in (text.find(b",", start), text.find(b"}", start)) if end >= 0]
            if start and ends:
                text[start : min(ends)] = rng.choice(VALUES)
        else:
            parts = bytes(text).split(b",")
            i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
            parts[i], parts[j] = parts[j], parts[i]
            text = bytearray(b",".join(parts))
    return bytes(text[:20_000])


def _region_call(name: str) -> Callable[[int, int], None] | None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        function.restype = None
    return function


POISON = _region_call("__asan_poison_memory_region")
UNPOISON = _region_call("__asan_unpoison_memory_region")


@contextmanager
def guarded(payloads: list[bytes | None]) -> Iterator[None]:
    """Under AddressSanitizer, forbid the NUL that CPython keeps behind a bytes object: a slice of a reply has none."""
    if POISON is None or UNPOISON is None:
        yield
        return
    # The shortest bytes objects are shared by the whole interpreter.
    ends = [id(p) + bytes.__basicsize__ - 1 + len(p) for p in payloads if p is not None and len(p) > 1]
    for end in ends:
        POISON(end, 1)
    try:
        yield
    finally:
        for end in ends:
            UNPOISON(end, 1)


def check(columns: Batch, payloads: list[bytes | None]) -> None:
    """What must hold of every row."""
    n = columns.n
    assert n == len(payloads)
    status = columns.status[:n]
    assert (status <= Status.MISSING_ROUTE).all(), status
    assert not np.isin(status, (Status.UNCHANGED, Status.WRONG_TYPE)).any(), status
    ok = status == Status.OK
    assert (np.abs(columns.lat[:n][ok]) <= 90).all()
    assert (np.abs(columns.lon[:n][ok]) <= 180).all()
    latest_us = LIMITS["now_us"] + LIMITS["max_future_us"]
    earliest_us = LIMITS["now_us"] - LIMITS["max_age_us"]
    assert ((columns.time_us[:n][ok] >= earliest_us) & (columns.time_us[:n][ok] <= latest_us)).all()
    assert np.isfinite(columns.speed_mps[:n]).all()
    assert (columns.speed_mps[:n] >= 0).all()
    assert not np.isinf(columns.bearing_deg[:n]).any()
    assert not np.isinf(columns.lat[:n]).any()
    assert not np.isinf(columns.lon[:n]).any()
    assert np.isin(columns.current_status[:n], (-1, 0, 1, 2)).all()
    assert (columns.direction_id[:n] >= -1).all()
    for name in TEXTS:
        text: npt.NDArray[Any] = getattr(columns, name)[:n]
        most = 64 if name == "timestamp" else 256
        assert ((text["length"] >= 0) & (text["length"] <= most)).all()
        assert ((text["start"] >= 0) & (text["start"] + text["length"] <= len(columns.text))).all()
        assert np.isin(text["escape"], (0, 1)).all()
        if name in ("vehicle_id", "route_id", "timestamp"):
            assert (text["length"][ok] > 0).all()
    for i in np.flatnonzero(ok):
        payload = payloads[i]
        assert payload is not None
        json.loads(payload)


def compare(columns: Batch, row: int, payload: bytes | None) -> None:
    """One row against the twin."""
    expected = twin.parse(payload, **LIMITS)
    for name, value in vars(expected).items():
        got = columns.text_at(name, row) if name in TEXTS else getattr(columns, name)[row]
        same = got == value or (got != got and value != value)
        assert same, f"{name}: {got!r} instead of {value!r} from {payload!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    columns = Batch(BATCH)
    corpus = list(SEEDS)
    counts: Counter[int] = Counter()
    started = time.monotonic()
    done = compared = 0
    while done < arguments.iterations:
        size = min(rng.choice((1, 7, BATCH, BATCH, BATCH)), arguments.iterations - done)
        payloads: list[bytes | None] = [
            mutate(rng.choice(rng.choice((SEEDS, corpus))), corpus, rng) for _ in range(size)
        ]
        if rng.random() < 0.1:
            payloads[rng.randrange(size)] = None
        # An arena of exactly the size that is needed, so that a sanitizer sees one byte too many.
        columns.text = np.empty(max(sum(len(payload or b"") for payload in payloads), 1), np.uint8)
        with guarded(payloads):
            parse_into(columns, payloads, **LIMITS)
        check(columns, payloads)
        for i in range(rng.randrange(TWIN_EVERY), size, TWIN_EVERY):
            compare(columns, i, payloads[i])
            compared += 1
        # Mutants that are still good are parents of the next ones.
        for i in np.flatnonzero(columns.status[:size] == Status.OK)[:4].tolist():
            payload = payloads[i]
            if payload and len(payload) < 2000:
                corpus.append(payload)
        if len(corpus) > 200:
            del corpus[len(SEEDS) : 100]
        done += size
        counts.update(columns.status[:size].tolist())
    print("statuses:", ", ".join(f"{Status(code).label} {count}" for code, count in sorted(counts.items())))
    print(
        f"{'address sanitizer' if POISON else 'no sanitizer'}, seed {arguments.seed}, {compared} held against the twin"
    )
    print(f"{done} snapshots fuzzed in {time.monotonic() - started:.1f} s, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
