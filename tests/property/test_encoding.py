"""Rounding, escapes and times against Python and orjson, for whatever hypothesis thinks of."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from etacore._kernels import batch as kernel
from etacore._kernels import encode as _encode
from etacore._kernels.encode import order_arrivals
from etacore.pipeline.encoding import Envelope
from tests.reference import encoding as twin

ENVELOPE = Envelope("key", "xgboost", "global", "c", "f", "p", 1.0)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
doubles = st.floats(-1e12, 1e12, exclude_min=True, exclude_max=True)
# Decimals that end in a 5 one digit too far: the double beside it decides, not the decimal.
halves = st.builds(lambda n, k: (2 * n + 1) * 5 / 10**k, st.integers(0, 10**9), st.integers(1, 4)).filter(
    lambda x: x < 1e12
)
dyadic = st.builds(lambda n, k: n / 2**k, st.integers(0, 2**39), st.integers(0, 20))


@given(doubles | halves | dyadic, st.sampled_from([1, 2, 3]))
@example(0.35, 1)
@example(2.675, 2)
@example(0.25, 1)
@example(-0.04, 1)
def test_numbers_are_rounded_as_python_rounds(value, decimals):
    assert _encode.number_text(value, decimals) == orjson.dumps(round(value, decimals))


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_what_is_no_number_is_null(value):
    text = _encode.number_text(value, 1)
    assert (text == b"null") == (not abs(value) < 1e12)


@given(
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.text(st.sampled_from('"\\\b\f\n\r\t\x00\x1f\x7fa/é'), max_size=40)
)
def test_texts_are_escaped_as_orjson_does(text):
    assert _encode.string_text(text.encode()) == orjson.dumps(text)


@given(st.binary(max_size=40))
def test_keys_that_are_not_utf8_are_shown(key):
    assert _encode.string_text(key) == orjson.dumps(key.decode("utf-8", "replace"))


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_are_iso(moment):
    time_us = (moment - EPOCH) // timedelta(microseconds=1)
    assert _encode.time_text(time_us).decode() == moment.isoformat()


@given(
    st.lists(st.floats(0, 7200, width=32) | st.just(math.nan), min_size=1, max_size=4),
    st.text(max_size=5),
    st.binary(max_size=20),
    st.integers(1, 2**62),
)
def test_a_document_is_json_in_its_command(etas, name, prefix, ttl_s):
    name = name.encode("utf-8", "replace").decode()
    stops = [(f"S{i}", i, 10.0 * i, eta) for i, eta in enumerate(etas)]
    batch = twin.Batch(
        [
            {
                "vehicle_id": name,
                "route_id": name,
                "trip_id": name,
                "timestamp": name,
                "time_us": 0,
                "key": name.encode(),
                "stops": stops,
            }
        ]
    )
    documents = batch.encode(ENVELOPE, prefix=prefix, ttl_s=ttl_s)
    assert [documents[0]] == batch.expected(ENVELOPE)
    assert bytes(documents.commands) == batch.expected_commands(ENVELOPE, prefix, ttl_s)


@given(st.integers(0, 10**12 - 1))
@example(9_999)
@example(10_000)
def test_whole_numbers_keep_all_digits(value):
    assert _encode.number_text(float(value), 1) == b"%d.0" % value


etas = st.floats(0, 7200, width=32) | st.sampled_from([math.nan, -1.0, math.inf, 2e9])


@given(st.lists(st.lists(etas, max_size=7), max_size=6), st.randoms())
def test_arrivals_ascend_and_are_as_near_as_they_can_be(vehicles, rng):
    batch = kernel.Batch(max(len(vehicles), 1))
    part = batch.add_part(None)
    part.resize(len(vehicles), sum(map(len, vehicles)), 1)
    part.row_offset[:] = np.cumsum([0, *map(len, vehicles)])
    given = np.array([eta_s for vehicle in vehicles for eta_s in vehicle], np.float32)
    part.eta_s[:] = given
    order_arrivals(part)
    for vehicle, start in zip(vehicles, part.row_offset[:-1].tolist(), strict=True):
        before = given[start : start + len(vehicle)].astype(float)
        after = part.eta_s[start : start + len(vehicle)].astype(float)
        np.testing.assert_allclose(after, twin.ascending(before.tolist()), rtol=1e-6, atol=1e-30)
        usable = (before >= 0) & (before <= 1e9)
        np.testing.assert_array_equal(after[~usable], before[~usable])
        assert (np.diff(after[usable]) >= 0).all()
        # Arrivals themselves ascend; then neither the squared nor the absolute errors grow.
        truth = np.sort([rng.uniform(0, 7200) for _ in range(int(usable.sum()))])
        for power in (1, 2):
            was, now = (np.sum(np.abs(etas_s[usable] - truth) ** power) for etas_s in (before, after))
            assert now <= was * (1 + 1e-6) + 1e-3
