"""The kernel of Redis' wire format against its twin and against hiredis."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import hiredis
import pytest

import etacore._kernels.resp
from etacore._kernels.resp import Acknowledgements, ProtocolError, Values, group_sets, pack_keys
from tests.parity.test_snapshots import bits, rows_of
from tests.reference import resp as twin


def receive(reply, data, pieces=()):
    """Give `data` to a reply, cut at `pieces`."""
    cuts = sorted({0, len(data), *(cut for cut in pieces if cut < len(data))})
    for start, end in pairwise(cuts):
        while start < end:
            room = reply.room()
            n_bytes = min(end - start, len(room))
            room[:n_bytes] = data[start : start + n_bytes]
            del room
            reply.received(n_bytes)
            start += n_bytes
    return reply


def values_of(data, n, pieces=(), values=None):
    """What the kernel makes of it, in the twin's words."""
    values = Values() if values is None else values
    values.expect(n)
    receive(values, data, pieces)
    if not values.is_complete:
        return None
    return list(values) if values.error is None else values.error


def errors_of(data, n, pieces=(), replies=None):
    """What the kernel makes of it, in the twin's words."""
    replies = Acknowledgements() if replies is None else replies
    replies.expect(n)
    receive(replies, data, pieces)
    return replies.errors if replies.is_complete else None


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except ProtocolError:
        return ProtocolError


def test_the_kernel_is_compiled():
    assert Path(etacore._kernels.resp.__file__).suffix in {".so", ".pyd"}


@pytest.mark.parametrize("n", [0, 1, 8, 9, 10, 98, 99, 100, 1000])
def test_commands_are_packed_as_the_twin_and_hiredis_pack_them(n):
    keys = [b"k" * (i % 120) for i in range(n)]
    packed = pack_keys(b"MGET", keys)
    assert packed == twin.pack_keys(b"MGET", keys) == hiredis.pack_command((b"MGET", *keys))
    assert pack_keys(b"MGET", iter(keys)) == packed


@pytest.mark.parametrize("key", ["text", None, 1, bytearray(b"a"), memoryview(b"a")])
def test_a_key_that_is_no_bytes_is_refused(key):
    with pytest.raises(TypeError):
        pack_keys(b"MGET", [b"a", key])


def hold_groups(items, group, out):
    """The kernel groups as the twin does, and says where each group's own commands are."""
    sets = twin.set_commands(items)
    size, begins = group_sets(sets, len(items), group, out)
    assert out[:size] == twin.msetex_commands(items, group)
    groups = [items[start : start + group] for start in range(0, len(items), group)]
    parts = [sets[start:end] for start, end in pairwise(begins)]
    assert parts == [twin.set_commands(some) for some in groups]


@pytest.mark.parametrize("n", [1, 2, 99, 100, 101, 1_000])
@pytest.mark.parametrize("group", [1, 2, 100, 5_000])
def test_documents_are_grouped_as_the_twin_groups_them(n, group):
    hold_groups([(b"predictions:%d" % i, b"{}" * (i % 60)) for i in range(n)], group, bytearray())


def test_what_is_no_set_command_is_not_grouped():
    sets, out = twin.set_commands([(b"a", b"b"), (b"c", b"d")]), bytearray()
    for end in range(len(sets)):
        with pytest.raises(ValueError, match=r"SET|commands"):
            group_sets(sets[:end], 2, 100, out)
    for n, group in ((1, 100), (3, 100), (0, 100), (-1, 100), (2, 0)):
        with pytest.raises(ValueError, match=r"SET|commands"):
            group_sets(sets, n, group, out)
    for wrong in (sets.replace(b"SET", b"GET"), sets.replace(b"$1", b"$9" * 8), sets.replace(b"$1", b"$")):
        with pytest.raises(ValueError, match=r"SET|commands"):
            group_sets(wrong, 2, 100, out)


VALUES = [None, b"", b"a", b"\r\n", b"$-1\r\n", b"-ERR\r\n*1\r\n", b"x" * 9, b"x" * 10, b"x" * 100_000, None]


@pytest.mark.parametrize("resp3", [False, True])
def test_values_are_read_as_the_twin_and_hiredis_read_them(resp3):
    data = twin.mget_reply(VALUES, resp3=resp3)
    reader = hiredis.Reader()
    reader.feed(data)
    assert values_of(data, len(VALUES)) == twin.read_values(data, len(VALUES)) == reader.gets() == VALUES


def test_a_small_reply_is_read_wherever_it_is_cut():
    values = [b"", None, b"ab\r\nc", b"x" * 12]
    data = twin.mget_reply(values)
    reused = Values()
    for cut in range(len(data)):
        assert values_of(data[:cut], 4) is None
        assert values_of(data, 4, [cut], reused) == values


WRONG = [
    b"+OK\r\n",
    b":2\r\n",
    b"*1\r\n$1\r\na\r\n",
    b"*3\r\n",
    b"*-1\r\n",
    b"*\r\n",
    b"*2x\r\n",
    b"*2\r\r\n",
    b"*2\r\n:1\r\n:2\r\n",
    b"*2\r\n$1\r\nab\r\n",
    b"*2\r\n$1\r\na\n\r",
    b"*2\r\n$-2\r\n",
    b"*2\r\n$+1\r\n",
    b"*2\r\n$ 1\r\n",
    b"*2\r\n$999999999999\r\n",
    b"*2\r\n$99999999999\r\n",
    b"*2\r\n$536870913\r\n",
    b"*2\r\n_x\r\n",
    b"*2\r\n-ERR\r\r\n",
    b"*2\r\n$-1\r\n$-1\r\n\r",
    b"-ERR\r\n-ERR\r\n",
    b">3\r\n",
    b"x" * twin.MAX_LINE,
    b"-" + b"x" * twin.MAX_LINE + b"\r\n",
    b"*2\r\n" + b"$" * twin.MAX_LINE,
]


@pytest.mark.parametrize("data", WRONG)
def test_what_is_no_reply_to_mget_is_refused_wherever_it_is_cut(data):
    assert outcome(twin.read_values, data, 2) is ProtocolError
    for cut in range(min(len(data), 40)):
        assert outcome(values_of, data, 2, [cut]) is ProtocolError


def test_an_error_instead_of_values():
    values = Values()
    assert values_of(b"-LOADING Redis is loading\r\n", 3, [4], values) == b"LOADING Redis is loading"
    with pytest.raises(ValueError, match="no values"):
        values[0]
    assert values_of(twin.mget_reply([b"a"]), 1, (), values) == [b"a"]


def test_an_error_for_one_key_is_no_value_and_the_others_are_read():
    data = b"*3\r\n$1\r\na\r\n-upstream failure\r\n$1\r\nb\r\n"
    for cut in range(len(data)):
        assert values_of(data[:cut], 3) is None
        assert values_of(data, 3, [cut]) == twin.read_values(data, 3) == [b"a", None, b"b"]


def test_the_values_of_a_whole_reply_stay_where_they_are():
    values = Values()
    assert values_of(twin.mget_reply([b"a", b"x" * 100_000]), 2, (), values) == [b"a", b"x" * 100_000]
    with pytest.raises(ProtocolError, match="more than one"):
        values.room()
    assert list(values) == [b"a", b"x" * 100_000]


def test_values_are_not_there_too_early():
    values = Values()
    values.expect(2)
    receive(values, b"*2\r\n$1\r\na\r\n$1")
    with pytest.raises(ValueError, match="no values"):
        values[0]
    with pytest.raises(ValueError, match="no values"):
        rows_of(values)
    receive(values, b"\r\nb\r\n")
    assert list(values) == [b"a", b"b"]
    for ix in (-1, 2):
        with pytest.raises(IndexError):
            values[ix]


@pytest.mark.parametrize("kind", [Values, Acknowledgements])
def test_impossible_numbers_are_refused(kind):
    reply = kind()
    with pytest.raises(ValueError, match="-1"):
        reply.expect(-1)
    reply.expect(1)
    for n_bytes in (-1, len(reply.room()) + 1):
        with pytest.raises(ValueError, match="do not fit"):
            reply.received(n_bytes)


def test_a_buffer_that_somebody_looks_at_does_not_move():
    values = Values()
    values.expect(1)
    held = values.room()
    held[:14] = b"*1\r\n$1000000\r\n"
    values.received(14)
    with pytest.raises(BufferError):
        values.room()
    held.release()
    receive(values, b"x" * 1_000_000 + b"\r\n")
    assert values[0] == b"x" * 1_000_000


def test_a_huge_reply_is_not_kept_in_memory():
    values = Values()
    values_of(twin.mget_reply([b"x" * (70 << 20)]), 1, (), values)
    values.expect(1)
    assert len(values.room()) < 1 << 20


def test_acknowledgements_are_read_as_the_twin_reads_them():
    data = b"+OK\r\n" * 20_000 + b"-OOM no room\r\n" + b"+OK\r\n" * 3 + b"-\r\n"
    expected = [(20_000, b"OOM no room"), (20_004, b"")]
    reused = Acknowledgements()
    assert twin.read_acknowledgements(data, 20_005) == expected
    assert errors_of(b":1\r\n+OK\r\n:1\r\n", 3) == []
    for cut in (1, 4, 5, 99_999, 100_003, 100_013, len(data) - 1):
        assert errors_of(data, 20_005, [cut], reused) == expected
        assert errors_of(data[:cut], 20_005, [], reused) is None


@pytest.mark.parametrize(
    "data",
    [
        b"+OK\r\n" * 4,
        b":0\r\n",
        b":11\r\n",
        b"+ok\r\n",
        b"+OKAY\r\n",
        b"+OK\r\r\n",
        b"+OK\n\r\n",
        b"$-1\r\n",
        b"*1\r\n",
        b"+" + b"O" * 4096,
    ],
)
def test_what_is_no_acknowledgement_is_refused_wherever_it_is_cut(data):
    assert outcome(twin.read_acknowledgements, data, 3) is ProtocolError
    for cut in range(min(len(data), 40)):
        assert outcome(errors_of, data, 3, [cut]) is ProtocolError


def test_snapshots_are_parsed_where_they_lie():
    fields = {"lat": 9.5, "lon": -84.5, "timestamp": "2026-01-20T12:00:00Z", "route": "171"}
    payloads = [json.dumps(fields | {"id": f"V{i}", "note": "x" * (i % 300)}).encode() for i in range(2_000)]
    payloads[7], payloads[8], payloads[9], payloads[10] = None, b"", b"{", b"x" * 70_000
    values = Values()
    values.expect(len(payloads))
    receive(values, twin.mget_reply(payloads), range(0, 10**6, 1_000))
    there, copied = rows_of(values), rows_of(payloads)
    assert [bits(row) for row in there] == [bits(row) for row in copied]
