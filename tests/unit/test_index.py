import os
import subprocess
import sys

import numpy as np
import pytest

from etacore._kernels.index import StringIndex, hash_bytes


def test_absent_key_gives_minus_one():
    index = StringIndex()
    assert index.get(b"A") == -1
    assert index.get(b"") == -1
    assert len(index) == 0


def test_keys_are_compared_exactly():
    index = StringIndex()
    keys = [
        b"",
        b"\0",
        b"\0\0",
        b"BUS-1",
        b"BUS-1\0",
        b"bus-1",
        b"BUS-10",
        b"x" * 70_000,
        b"x" * 70_001,
        bytes(range(256)),
    ]
    for value, key in enumerate(keys):
        index.set(key, value)
    assert [index.get(key) for key in keys] == list(range(len(keys)))
    assert index.get(b"BUS-") == -1
    assert index.items() == list(zip(keys, range(len(keys)), strict=True))


@pytest.mark.parametrize("code", [0, 31, 2**32, 2**64 - 1])
def test_keys_with_one_hash_are_told_apart(code):
    index = StringIndex()
    keys = [b"AB", b"A", b"AC", b"", b"ABC", b"\0", *(f"V{i}".encode() for i in range(100))]
    for value, key in enumerate(keys):
        index.set(key, value, code)
        index.set(key, value, code)
    assert len(index) == len(keys)
    assert [index.get(key, code) for key in keys] == list(range(len(keys)))
    assert index.get(b"AD", code) == -1
    index.retain((np.arange(len(keys)) % 2).astype(np.uint8))
    assert [index.get(key, code) for key in keys] == [i if i % 2 else -1 for i in range(len(keys))]


def test_overwriting_keeps_place_and_room():
    index = StringIndex()
    for value in (5, 2**31 - 1, -(2**31), 0):
        index.set(b"A", value)
        index.set(b"B", 1)
        assert index.get(b"A") == value
    assert index.items() == [(b"A", 0), (b"B", 1)]


def test_growth_keeps_every_key():
    index = StringIndex()
    keys = [f"vehicle-{i}".encode() for i in range(50_000)]
    for value, key in enumerate(keys):
        index.set(key, value)
    assert len(index) == len(keys)
    assert all(index.get(key) == value for value, key in enumerate(keys))
    assert all(index.get(key + b"!") == -1 for key in keys[:1000])
    assert index.nbytes < 50_000 * 100


def test_capacity_is_made_at_once():
    index = StringIndex(10_000)
    room = index.nbytes
    for i in range(10_000):
        index.set(i.to_bytes(2), i)
    assert index.nbytes <= room + 10_000 * 3


@pytest.mark.parametrize("capacity", [-1, 2**40])
def test_refuses_a_senseless_capacity(capacity):
    with pytest.raises(ValueError, match="capacity"):
        StringIndex(capacity)


def test_refuses_what_is_not_bytes():
    with pytest.raises(TypeError):
        StringIndex().get("A")


def test_retain_closes_the_gaps_and_gives_memory_back():
    index = StringIndex()
    keys = [f"{i}".encode() for i in range(20_000)]
    for value, key in enumerate(keys):
        index.set(key, value)
    full = index.nbytes
    keep = np.zeros(20_000, np.uint8)
    keep[::100] = 1
    index.retain(keep)
    assert index.items() == [(key, value) for value, key in enumerate(keys) if value % 100 == 0]
    assert [index.get(key) for key in keys[:101]] == [0] + [-1] * 99 + [100]
    assert index.nbytes < full / 20
    for value, key in enumerate(keys):
        index.set(key, -value)
    assert all(index.get(key) == -value for value, key in enumerate(keys))
    with pytest.raises(ValueError, match="flags"):
        index.retain(keep[:-1])


def test_clear_forgets_and_gives_memory_back():
    index = StringIndex()
    empty = index.nbytes
    for i in range(10_000):
        index.set(f"{i}".encode(), i)
    index.clear()
    assert (len(index), index.nbytes, index.items(), index.get(b"1")) == (0, empty, [], -1)
    index.set(b"1", 7)
    assert index.get(b"1") == 7


def test_each_process_has_its_own_hash():
    command = [sys.executable, "-c", "from etacore._kernels.index import hash_bytes; print(hash_bytes(b'BUS-1'))"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    found = {
        subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout for _ in range(2)
    }
    found.add(f"{hash_bytes(b'BUS-1')}\n")
    assert len(found) == 3
