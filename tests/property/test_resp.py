"""Whatever a server sends, and however it is cut: the twin's values, a protocol error, or more to come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etacore._kernels.resp import Acknowledgements, Values, pack_keys
from tests.parity.test_resp import errors_of, hold_groups, outcome, receive, values_of
from tests.parity.test_snapshots import bits, rows_of
from tests.reference import resp as twin

# One object for all examples: nothing of one reply may show in the next.
VALUES, ACKNOWLEDGEMENTS, GROUPED = Values(), Acknowledgements(), bytearray()

LIKE_RESP = (b"\r\n", b"\r", b"$-1\r\n", b"$3\r\n", b"_\r\n", b"-ERR x\r\n", b"*2\r\n", b"+OK\r\n", b"$", b"*", b"-")
words = st.lists(st.binary(max_size=8) | st.sampled_from(LIKE_RESP), max_size=6).map(b"".join)
large = st.integers(1, 200_000).map(lambda n: b"0123456789" * (n // 10) + b"\r\n")
snapshots = st.sampled_from((b"{", b"[]", b'{"vehicle_id": "a", "lat": 1.0}', b'{"vehicle_id": "\r\n"}'))
values = st.lists(st.none() | words | snapshots | large, max_size=12)
cuts = st.lists(st.integers(0, 400) | st.integers(0, 500_000), max_size=30)


@given(st.lists(words, max_size=40))
def test_packed_keys(keys):
    assert pack_keys(b"MGET", keys) == twin.pack_keys(b"MGET", keys)


@given(st.lists(st.tuples(words, words | large), min_size=1, max_size=30), st.integers(1, 12))
def test_groups(items, group):
    hold_groups(items, group, GROUPED)


@given(values, st.booleans(), cuts)
def test_values_come_back_however_they_are_cut(expected, resp3, pieces):
    data = twin.mget_reply(expected, resp3=resp3)
    assert values_of(data, len(expected), pieces, VALUES) == expected
    assert [VALUES[i] for i in range(VALUES.n)] == expected


@given(values, cuts)
def test_they_are_parsed_as_copies_are(expected, pieces):
    values_of(twin.mget_reply(expected), len(expected), pieces, VALUES)
    assert [bits(row) for row in rows_of(VALUES)] == [bits(row) for row in rows_of(expected)]


@given(values, st.data())
def test_a_damaged_reply_is_never_a_wrong_value(expected, data):
    whole = bytearray(twin.mget_reply(expected)[:2_000])
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.sampled_from(b"$*-_\r\n0123x")))):
        whole[at] = byte
    del whole[data.draw(st.integers(0, len(whole))) :]
    damaged, n = bytes(whole), data.draw(st.sampled_from([len(expected), 0, 1, 2]))
    assert outcome(values_of, damaged, n, data.draw(cuts), VALUES) == outcome(twin.read_values, damaged, n)


@given(words, st.integers(0, 5), cuts)
def test_noise(data, n, pieces):
    for noise in (data, b"*%d\r\n" % n + data, b"-" + data):
        assert outcome(values_of, noise, n, pieces, VALUES) == outcome(twin.read_values, noise, n)
    for noise in (data, b"+OK\r\n" + data, b"-" + data):
        assert outcome(errors_of, noise, n, pieces, ACKNOWLEDGEMENTS) == outcome(twin.read_acknowledgements, noise, n)


replies = st.lists(
    st.sampled_from((b"+OK\r\n", b":1\r\n", b"-OOM\r\n", b"-NOPERM no\r\n", b"-" + b"x" * 4000 + b"\r\n"))
)


@given(replies, st.integers(1, 40), st.integers(-1, 1), cuts)
def test_acknowledgements(items, times, more, pieces):
    data, n = b"".join(items) * times, max(len(items) * times + more, 0)
    assert outcome(errors_of, data, n, pieces, ACKNOWLEDGEMENTS) == outcome(twin.read_acknowledgements, data, n)


@given(values, words, cuts)
def test_an_object_serves_again_after_any_failure(expected, noise, pieces):
    VALUES.expect(3)
    outcome(receive, VALUES, noise, pieces)
    ACKNOWLEDGEMENTS.expect(3)
    outcome(receive, ACKNOWLEDGEMENTS, noise, pieces)
    assert values_of(twin.mget_reply(expected), len(expected), pieces, VALUES) == expected
    assert errors_of(b"+OK\r\n-E\r\n", 2, pieces, ACKNOWLEDGEMENTS) == [(1, b"E")]
