"""Polynomials and tables: what they predict, and what is refused by name."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etacore.errors import ModelLoadError
from etacore.models.predictors import MeanTable, load_predictor

POLYNOMIAL: dict[str, Any] = {
    "kind": "polynomial",
    "intercept": 40.0,
    "terms": [
        {"feature": 0, "power": 1, "mean": 900.0, "scale": 500.0, "coefficient": 100.0},
        {"feature": 0, "power": 2, "mean": 9e5, "scale": 2e6, "coefficient": -3.5},
        {"feature": 1, "power": 3, "mean": 0.0, "scale": 1.0, "coefficient": 0.25},
    ],
}
TABLE = {"kind": "mean_table", "keys": [[2, 10, 7], [0, -5, 7], [2, 10, 8]], "values": [30, 20.5, 99], "default": 5.5}


def load(document, n_features):
    return load_predictor(json.dumps(document).encode(), n_features, "model.json")


def predict(predictor, rows, low=-math.inf, high=math.inf):
    X = np.ascontiguousarray(rows, np.float32)
    out = np.full(len(X), -1.0, np.float32)
    predictor.predict(X, out, low, high)
    return out


def by_hand(x):
    total = POLYNOMIAL["intercept"]
    for term in POLYNOMIAL["terms"]:
        value = float(np.float32(x[term["feature"]])) ** term["power"]
        total += term["coefficient"] * ((value - term["mean"]) / term["scale"])
    return total


def test_a_polynomial_is_the_sum_of_its_terms():
    rows = np.random.default_rng(1).uniform(0, 4000, (200, 2)) * (1, 0.001)
    want = [by_hand(row) for row in rows]
    got = predict(load(POLYNOMIAL, 2), rows)
    np.testing.assert_allclose(got, want, rtol=2e-7)
    np.testing.assert_array_equal(predict(load(POLYNOMIAL, 2), rows, 0.0, 300.0), np.clip(got, 0.0, 300.0))
    assert got.max() > 300.0


def test_a_row_is_the_same_in_every_batch():
    rows = np.random.default_rng(2).uniform(0, 4000, (97, 2)).astype(np.float32)
    predictor = load(POLYNOMIAL, 2)
    whole = predict(predictor, rows)
    np.testing.assert_array_equal(whole, np.concatenate([predict(predictor, rows[i : i + 1]) for i in range(97)]))


def test_what_a_polynomial_cannot_predict_is_nan_and_never_infinite():
    document = {**POLYNOMIAL, "terms": [POLYNOMIAL["terms"][0] | {"power": 16, "coefficient": 1e38}]}
    rows = [[np.nan, 1.0], [1.0, np.nan], [np.inf, 1.0], [3e38, 1.0], [10.0, 1.0]]
    assert np.isnan(predict(load(POLYNOMIAL, 2), rows)).tolist() == [True, True, True, True, False]
    assert np.isnan(predict(load(document, 2), rows, 0.0, 7200.0)).tolist() == [True, False, True, True, False]
    assert np.isnan(predict(load(document, 2), rows)).tolist() == [True, False, True, True, True]


def test_an_empty_polynomial_is_its_intercept():
    assert predict(load({"kind": "polynomial", "intercept": 7, "terms": []}, 1), [[np.nan], [1]]).tolist() == [7, 7]


def test_a_table_finds_its_keys_and_gives_the_default_otherwise():
    predictor = load(TABLE, 3)
    rows = [[2, 10, 7], [0, -5, 7], [2, 10, 8], [0, 10, 7], [2, 10, 7.5], [np.nan, 10, 7], [2, 10, np.inf], [9, 99, 9]]
    assert predict(predictor, rows).tolist() == [30, 20.5, 99, 5.5, 5.5, 5.5, 5.5, 5.5]
    assert predict(predictor, rows[:3], 25.0, 50.0).tolist() == [30, 25, 50]


def test_a_table_without_keys_is_its_default():
    predictor = load({"kind": "mean_table", "keys": [], "values": [], "default": 12}, 3)
    assert predict(predictor, [[1, 2, 3], [np.nan] * 3]).tolist() == [12, 12]
    assert predict(predictor, np.empty((0, 3))).tolist() == []


@given(st.dictionaries(st.tuples(st.integers(-3, 4), st.integers(0, 2**24)), st.floats(0, 7200, width=32)), st.data())
def test_a_table_is_a_dictionary(means, data):
    keys = np.array(list(means), np.int64).reshape(-1, 2)
    predictor = MeanTable(keys, np.array(list(means.values()), np.float64), 1.0)
    some = st.tuples(st.integers(-4, 5), st.integers(0, 2**24))
    asked = data.draw(st.lists(st.one_of(some, st.sampled_from(sorted(means)) if means else some), max_size=20))
    rows = np.array(asked, np.float32).reshape(-1, 2)
    assert predict(predictor, rows).tolist() == [means.get(key, 1.0) for key in asked]


def test_several_threads_at_once():
    for predictor, width in ((load(POLYNOMIAL, 2), 2), (load(TABLE, 3), 3)):
        rows = np.random.default_rng(3).integers(0, 11, (5000, width))
        want = predict(predictor, rows)
        with ThreadPoolExecutor(4) as pool:
            for got in pool.map(lambda _, p=predictor, r=rows: predict(p, r), range(12)):
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("document", "n_features"), [(POLYNOMIAL, 2), (TABLE, 3)])
def test_shapes_and_types_are_checked(document, n_features):
    predictor = load(document, n_features)
    X, out = np.zeros((3, n_features), np.float32), np.zeros(3, np.float32)
    X.flags.writeable = False
    predictor.predict(X, out)
    frozen = np.zeros(3, np.float32)
    frozen.flags.writeable = False
    wrong = [
        (np.zeros((3, n_features + 1), np.float32), out),
        (np.zeros(3, np.float32), out),
        (X, np.zeros(2, np.float32)),
        (X, np.zeros((3, 1), np.float32)),
        (X, np.zeros(3)),
        (X, frozen),
        (np.zeros((3, n_features)), out),
        (np.asfortranarray(np.zeros((3, n_features), np.float32)), out),
        ([[0.0] * n_features], out),
    ]
    for bad_x, bad_out in wrong:
        with pytest.raises(ValueError):
            predictor.predict(bad_x, bad_out)


TERM = POLYNOMIAL["terms"][0]


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "is not a JSON object"),
        ({"kind": "forest"}, "field kind is 'forest'"),
        ({}, "field kind is None"),
        ({**POLYNOMIAL, "intercept": None}, "field intercept is None"),
        ({**POLYNOMIAL, "intercept": True}, "field intercept is True"),
        ({**POLYNOMIAL, "intercept": 1e39}, "field intercept"),
        ({**POLYNOMIAL, "extra": 1}, "field 'extra' is not known"),
        ({**POLYNOMIAL, "terms": {}}, "field terms is not a list"),
        ({**POLYNOMIAL, "terms": [1]}, r"field terms\[0\] is 1"),
        ({**POLYNOMIAL, "terms": [TERM, TERM | {"feature": 2}]}, r"terms\[1\].feature is 2, not a whole .* 0 to 1"),
        ({**POLYNOMIAL, "terms": [TERM | {"feature": -1}]}, r"terms\[0\].feature is -1"),
        ({**POLYNOMIAL, "terms": [TERM | {"feature": 0.0}]}, r"terms\[0\].feature is 0.0"),
        ({**POLYNOMIAL, "terms": [TERM | {"power": 0}]}, r"terms\[0\].power is 0"),
        ({**POLYNOMIAL, "terms": [TERM | {"power": 17}]}, r"terms\[0\].power is 17"),
        ({**POLYNOMIAL, "terms": [TERM | {"scale": 0}]}, r"terms\[0\].scale is 0"),
        ({**POLYNOMIAL, "terms": [TERM | {"mean": "9"}]}, r"terms\[0\].mean is '9'"),
        ({**POLYNOMIAL, "terms": [{k: v for k, v in TERM.items() if k != "scale"}]}, r"terms\[0\].scale is missing"),
        ({**POLYNOMIAL, "terms": [TERM] * 10_001}, "field terms is not a list of at most"),
        ({**TABLE, "keys": [[1, 2]], "values": [1]}, r"keys\[0\] is \[1, 2\], not 3 whole numbers"),
        ({**TABLE, "keys": [[1, 2, 3.0]], "values": [1]}, r"keys\[0\]"),
        ({**TABLE, "keys": [[1, 2, True]], "values": [1]}, r"keys\[0\]"),
        ({**TABLE, "keys": [[1, 2, None]], "values": [1]}, r"keys\[0\]"),
        ({**TABLE, "keys": [[1, 2, 2**24 + 1]], "values": [1]}, r"keys\[0\] holds 16777217"),
        ({**TABLE, "keys": [[1, 2, 2**40]], "values": [1]}, r"keys\[0\] holds"),
        ({**TABLE, "keys": [[1, 2, 2**63]], "values": [1]}, "field keys"),
        ({**TABLE, "keys": [[1, 2, 3], [1, 2, 3]], "values": [1, 2]}, r"key \[1, 2, 3\] comes twice"),
        ({**TABLE, "values": [1]}, "holds 1 numbers for 3 keys"),
        ({**TABLE, "values": [1, None, 2]}, r"field values\[1\] is None"),
        ({**TABLE, "values": "abc"}, "field values is 'abc'"),
        ({**TABLE, "default": 10**400}, "field default|JSON"),
    ],
)
def test_a_bad_field_is_named_with_its_file(document, named):
    n_features = 3 if isinstance(document, dict) and document.get("kind") == "mean_table" else 2
    with pytest.raises(ModelLoadError, match=named) as caught:
        load_predictor(json.dumps(document).encode(), n_features, "bundle/model.json")
    assert "bundle/model.json" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"NaN", b"[" * 2000, b'{"kind":"polynomial","intercept":NaN}'])
def test_what_is_no_json(content):
    with pytest.raises(ModelLoadError, match=r"model\.json"):
        load_predictor(content, 2, "model.json")


def test_a_file_that_is_too_large_is_not_parsed(monkeypatch):
    monkeypatch.setattr("etacore.models.predictors.MAX_BYTES", 10)
    with pytest.raises(ModelLoadError, match="at most 10"):
        load_predictor(json.dumps(TABLE).encode(), 3, "model.json")


def test_keys_that_would_not_fit_64_bits():
    rows = np.random.default_rng(0).integers(-(2**20), 2**20, (9000, 6))
    document = {"kind": "mean_table", "keys": rows.tolist(), "values": [1] * 9000, "default": 0}
    with pytest.raises(ModelLoadError, match="too many different numbers"):
        load(document, 6)
