"""Any floats at all, NaN and infinities among them, into a compiled forest and into XGBoost."""

from __future__ import annotations

import functools

import numpy as np
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from etacore.models.forest import Forest
from tests import models


@functools.cache
def pair():
    path = models.save()
    built = models.compiled(path)
    library = models.FOLDER / built.library_file.file
    library.write_bytes(built.library)
    return Forest.load(library, built.library_file.sha256, 7), xgboost.Booster(model_file=path)


cells = st.one_of(st.floats(width=32), st.floats(0, 20, width=32), st.sampled_from([np.nan, np.inf, -np.inf, -0.0]))


@given(st.integers(1, 9).flatmap(lambda n: arrays(np.float32, (n, 7), elements=cells)))
def test_any_floats(X):
    forest, booster = pair()
    out = np.empty(len(X), np.float32)
    forest.predict(X, out)
    np.testing.assert_array_equal(out, booster.inplace_predict(X, validate_features=False))
