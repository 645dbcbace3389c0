"""Typical travel times: there and back, what is unknown, and what is refused by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from etacore.errors import ModelLoadError
from etacore.models.travel_times import TypicalTimes

HOURS = [60.0 + hour for hour in range(24)]


def table():
    return TypicalTimes({"b": {"s2": (math.nan, [1.5] * 24)}, "a": {"s3": (500.0, HOURS), "s2": (410.5, [30.0] * 24)}})


def test_legs_of_a_pattern():
    legs = table().legs("a", ["s1", "s2", "s3", "s9"])
    assert (legs.dtype, legs.shape) == (np.float32, (24, 4))
    assert legs[:, 0].tolist() == [0.0] * 24
    assert legs[:, 1].tolist() == [30.0] * 24
    assert legs[:, 2].tolist() == HOURS
    assert np.isnan(legs[:, 3]).all()


def test_the_first_stop_has_no_leg_and_a_repeated_one_has():
    legs = table().legs("a", ["s2", "s3", "s2"])
    assert legs[5].tolist() == [0.0, 65.0, 30.0]


def test_what_is_unknown():
    times = table()
    assert np.isnan(times.legs("c", ["s2", "s3"])[:, 1]).all()
    assert times.legs("a", []).shape == (24, 0)
    assert times.leg_m("a", "s2") == 410.5
    for route, stop in (("a", "s9"), ("c", "s2"), ("b", "s2")):
        assert math.isnan(times.leg_m(route, stop))
    assert (times.routes, len(times)) == (("a", "b"), 3)


def test_there_and_back():
    content = table().to_json()
    again = TypicalTimes.from_json(content)
    assert again.to_json() == content
    np.testing.assert_array_equal(again.legs("a", ["x", "s3"]), table().legs("a", ["x", "s3"]))
    assert list(json.loads(content)["routes"]) == ["a", "b"]
    assert json.loads(content)["routes"]["b"]["s2"]["m"] is None
    assert TypicalTimes.from_json(TypicalTimes({}).to_json()).routes == ()


LEG = {"m": 1, "s": [1] * 24}


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "field routes"),
        ({}, "field routes"),
        ({"routes": []}, "field routes"),
        ({"routes": {}, "more": 1}, "field routes"),
        ({"routes": {"a": []}}, "field routes.a"),
        ({"routes": {"a": {"s": 1}}}, "field routes.a.s"),
        ({"routes": {"a": {"s": {"m": 1}}}}, "field routes.a.s"),
        ({"routes": {"a": {"s": LEG | {"m": -1}}}}, "field routes.a.s.m"),
        ({"routes": {"a": {"s": LEG | {"m": "1"}}}}, "field routes.a.s.m"),
        ({"routes": {"a": {"s": LEG | {"s": [1] * 23}}}}, "field routes.a.s.s"),
        ({"routes": {"a": {"s": LEG | {"s": [1] * 23 + [None]}}}}, "field routes.a.s.s"),
        ({"routes": {"a": {"s": LEG | {"s": [1] * 23 + [1e12]}}}}, "field routes.a.s.s"),
        ({"routes": {"a": {"s": LEG | {"s": [1] * 23 + [True]}}}}, "field routes.a.s.s"),
    ],
)
def test_a_bad_field_is_named_with_its_file(document, named):
    with pytest.raises(ModelLoadError, match=named) as caught:
        TypicalTimes.from_json(json.dumps(document).encode(), "bundle/typical.json")
    assert "bundle/typical.json" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_what_is_no_json(content):
    with pytest.raises(ModelLoadError, match="typical times is not JSON"):
        TypicalTimes.from_json(content)


def test_a_leg_has_24_numbers():
    with pytest.raises(ValueError, match="24"):
        TypicalTimes({"a": {"s": (1.0, [1.0] * 23)}})
