"""schema.py says the same as the kernels' own vocabulary, and knows every feature once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from etacore.errors import SchemaError
from etacore.schema import (
    BASE_FEATURES,
    FEATURES,
    NO_SEQUENCE,
    TEXT_DTYPE,
    WEATHER_FEATURES,
    feature_codes,
    feature_groups,
)
from etacore.status import FAILED, REJECTED, Status

TYPES = (Path(__file__).resolve().parents[2] / "src_ext/etacore/_kernels/types.pxd").read_text()
C_TYPES = {"int64_t": "<i8", "int32_t": "<i4", "uint64_t": "<u8", "uint32_t": "<u4", "uint8_t": "u1", "int8_t": "i1"}


def block(head: str) -> str:
    """Body of a ``cdef`` block: the indented lines after its head."""
    found = re.search(rf"^cdef {head}:\n((?:    .*\n|\n)+)", TYPES + "\n", re.MULTILINE)
    assert found, f"no block '{head}' in types.pxd"
    return found.group(1)


def constants(head: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^ +(\w+) = (-?\d+)", block(head), re.MULTILINE)}


def test_status_codes_are_those_of_the_kernels():
    codes = constants("enum status_t")
    assert codes.pop("N_STATUS") == len(Status)
    assert codes == {status.name: status.value for status in Status}
    assert sorted(codes.values()) == list(range(len(codes)))


def test_feature_codes_are_those_of_the_kernels():
    codes = constants("enum feature_t")
    assert codes.pop("N_FEATURES") == len(FEATURES)
    assert codes == {f"F_{feature.name.upper()}": feature.code for feature in FEATURES}
    assert [feature.code for feature in FEATURES] == list(range(len(FEATURES)))


def test_text_has_the_layout_of_the_kernels():
    fields = re.findall(r"^ +(\w+_t) (\w+)$", block("packed struct text_t"), re.MULTILINE)
    assert np.dtype([(name, C_TYPES[c_type]) for c_type, name in fields]) == TEXT_DTYPE
    assert TEXT_DTYPE.itemsize == 16


def test_no_sequence_is_that_of_the_kernels():
    assert constants("enum")["NO_SEQUENCE"] == NO_SEQUENCE == np.iinfo(np.int32).min


def test_every_status_is_served_unchanged_rejected_or_failed():
    assert set(Status) - REJECTED - FAILED == {Status.OK, Status.UNCHANGED}
    assert not REJECTED & FAILED
    assert len({status.label for status in Status}) == len(Status)


def test_models_in_the_field_keep_their_feature_order():
    assert BASE_FEATURES == (
        "distance_to_stop",
        "progress_on_segment",
        "progress_ratio",
        "hour",
        "day_of_week",
        "is_weekend",
        "is_peak_hour",
    )
    assert WEATHER_FEATURES == ("temperature_c", "precipitation_mm", "wind_speed_kmh")


def test_feature_codes_follow_the_order_of_the_model():
    codes = feature_codes(["hour", "distance_to_stop", "stops_ahead"])
    assert codes.dtype == np.int32
    assert codes.tolist() == [3, 0, 13]


@pytest.mark.parametrize("names", [["distance"], ["hour", "HOUR"], ["hour", ""]])
def test_an_unknown_feature_is_named(names):
    with pytest.raises(SchemaError, match=f"unknown feature.*{names[-1]}"):
        feature_codes(names)


def test_a_feature_given_twice_is_refused():
    with pytest.raises(SchemaError, match="twice"):
        feature_codes(["hour", "hour"])


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (BASE_FEATURES, "spatial-temporal"),
        ((*BASE_FEATURES, *WEATHER_FEATURES), "spatial-temporal-weather"),
        (["hour"], "temporal"),
        (["wind_speed_kmh", "distance_to_stop"], "spatial-weather"),
    ],
)
def test_feature_groups_of_a_model_key(names, groups):
    assert feature_groups(names) == groups
