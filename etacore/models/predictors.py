"""Predictors that are no forests, read from a bundle's ``model.json``: a polynomial, and a table of means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from etacore.errors import ModelLoadError
from etacore.models.json_reader import Reader, shown

__all__ = ["PREDICTORS", "MeanTable", "Polynomial", "Predictor", "Term", "load_predictor"]

PREDICTORS: Final = ("forest", "polynomial", "mean_table")
"""What ``predictor`` of a manifest may be."""

MAX_BYTES: Final = 256 * 2**20
MAX_TERMS: Final = 10_000
MAX_POWER: Final = 16
_MAX_CELLS: Final = 2**62  # products of key counts have to fit 64 bits


class Predictor(Protocol):
    """What a model predicts with. Safe to call from several threads at once."""

    def predict(
        self,
        X: NDArray[np.float32],  # noqa: N803
        out: NDArray[np.float32],
        low: float = -math.inf,
        high: float = math.inf,
    ) -> None:
        """Predict every row.

        Parameters
        ----------
        X : ndarray of float32, shape (n_rows, n_features), C-contiguous
            Only read.
        out : ndarray of float32, shape (n_rows,)
            Overwritten with predictions in the unit of the training target (seconds).
        low, high : float
            Bounds that results are clipped to.

        Raises
        ------
        ValueError
            If a shape or dtype does not fit.
        """


class _Small:
    """A predictor that is a few numpy operations: arrays are checked, and results clipped, in one place."""

    __slots__ = ("n_features",)
    n_features: int

    def predict(
        self,
        X: NDArray[np.float32],  # noqa: N803
        out: NDArray[np.float32],
        low: float = -math.inf,
        high: float = math.inf,
    ) -> None:
        """Predict every row; see `Predictor.predict`."""
        _check_arrays(X, out, self.n_features)
        with np.errstate(over="ignore"):
            np.clip(self._seconds(X), low, high, out=out, casting="same_kind")
        out[np.isinf(out)] = np.nan  # beyond float32, and not clipped

    def _seconds(self, X: NDArray[np.float32]) -> NDArray[np.floating]:  # noqa: N803
        raise NotImplementedError


class Term(NamedTuple):
    """One summand of a `Polynomial`: column and exponent (1 or more), standardisation, weight in seconds."""

    feature: int
    power: int
    mean: float
    scale: float
    coefficient: float


class Polynomial(_Small):
    """``intercept + sum(coefficient * ((x ** power - mean) / scale))``, summed in float64 in the order of the terms.

    A row with a NaN in a column that a term uses gets NaN, and so does one whose sum overflows: the stop is then
    shown as one that cannot be predicted.

    Parameters
    ----------
    intercept : float
        Seconds.
    terms : sequence of Term
    n_features : int
        Columns of the matrix it predicts.
    """

    __slots__ = ("intercept", "terms")
    kind: Final = "polynomial"

    def __init__(self, intercept: float, terms: Sequence[Term], n_features: int) -> None:
        self.intercept = intercept
        self.terms = tuple(terms)
        self.n_features = n_features

    def _seconds(self, X: NDArray[np.float32]) -> NDArray[np.float64]:  # noqa: N803
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.full(len(X), self.intercept)
            for feature, power, mean, scale, coefficient in self.terms:
                column = X[:, feature].astype(np.float64)
                # By multiplication: the same bits for a row whatever the batch it comes in.
                value = column.copy() if power > 1 else column
                for _ in range(power - 1):
                    value *= column
                total += coefficient * ((value - mean) / scale)
            total[~np.isfinite(total)] = np.nan
        return total


class MeanTable(_Small):
    """A mean by key; rows whose key is unknown, or holds a NaN or a fraction, get the default.

    Parameters
    ----------
    keys : ndarray of int64, shape (n_keys, n_features)
        Each column is a column of the matrix; no key twice.
    values : ndarray of float64, shape (n_keys,)
        Seconds.
    default : float
        Seconds.

    Raises
    ------
    ValueError
        If a key comes twice, or the columns hold too many different numbers.
    """

    __slots__ = ("_codes", "_levels", "_values", "default")
    kind: Final = "mean_table"

    def __init__(self, keys: NDArray[np.int64], values: NDArray[np.float64], default: float) -> None:
        self.n_features = keys.shape[1]
        self.default = np.float32(default)
        columns = [np.unique(keys[:, j], return_inverse=True) for j in range(self.n_features)]
        if math.prod(len(levels) for levels, _ in columns) > _MAX_CELLS:
            raise ValueError("the columns hold too many different numbers")
        codes = np.zeros(len(keys), np.int64)
        for levels, code in columns:
            codes = codes * len(levels) + code
        order = np.argsort(codes, kind="stable")
        self._levels = tuple(levels.astype(np.float32) for levels, _ in columns)
        self._codes = codes[order]
        self._values = values[order].astype(np.float32)
        twice = np.flatnonzero(self._codes[1:] == self._codes[:-1])
        if len(twice):
            raise ValueError(f"key {keys[order[twice[0]]].tolist()} comes twice")

    def _seconds(self, X: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: N803
        if not len(self._codes):
            return np.full(len(X), self.default)
        known = np.ones(len(X), bool)
        codes = np.zeros(len(X), np.int64)
        for j, levels in enumerate(self._levels):
            level = np.searchsorted(levels, X[:, j])
            level[level == len(levels)] = 0
            known &= levels[level] == X[:, j]
            codes = codes * len(levels) + level
        row = np.searchsorted(self._codes, codes)
        row[row == len(self._codes)] = 0
        known &= self._codes[row] == codes
        return np.where(known, self._values[row], self.default)


def load_predictor(content: bytes, n_features: int, name: str) -> Polynomial | MeanTable:
    """Read a predictor from JSON; nothing in it is trusted.

    ``{"kind": "polynomial", "intercept": b, "terms": [{"feature", "power", "mean", "scale", "coefficient"}]}`` or
    ``{"kind": "mean_table", "keys": [[whole numbers, one a feature]], "values": [...], "default": v}``.

    Parameters
    ----------
    content : bytes
        The file.
    n_features : int
        Columns that it will be given.
    name : str
        What to call the file in errors.

    Raises
    ------
    ModelLoadError
        If the content is not such a predictor for this number of features; names the file and the field.
    """
    read = _Reader(_Reader.decode(content, name, MAX_BYTES), name)
    kind = read.raw.get("kind")
    if kind not in ("polynomial", "mean_table"):
        read.fail("kind", f"is {shown(kind)}, not 'polynomial' or 'mean_table'")
    return _polynomial(read, n_features) if kind == "polynomial" else _mean_table(read, n_features)


def _polynomial(read: _Reader, n_features: int) -> Polynomial:
    read.only(("kind", "intercept", "terms"))
    terms = read.raw["terms"]
    if not isinstance(terms, list) or len(terms) > MAX_TERMS:
        read.fail("terms", f"is not a list of at most {MAX_TERMS} objects")
    return Polynomial(read.finite("intercept"), [term.term(n_features) for term in read.objects("terms")], n_features)


def _mean_table(read: _Reader, n_features: int) -> MeanTable:
    read.only(("kind", "keys", "values", "default"))
    keys, values = read.sequence("keys"), read.sequence("values")
    if len(keys) != len(values):
        read.fail("values", f"holds {len(values)} numbers for {len(keys)} keys")
    for i, key in enumerate(keys):
        if not isinstance(key, list) or len(key) != n_features or not all(type(number) is int for number in key):
            read.fail(f"keys[{i}]", f"is {shown(key)}, not {n_features} whole numbers, one for each feature")
    try:
        table = np.array(keys, np.int64).reshape(len(keys), n_features)
    except OverflowError:
        read.fail("keys", "holds a number beyond 64 bits")
    # A feature is a float32: a number that is none would never be found, or be taken for its neighbour.
    strange = np.argwhere((np.abs(table) > 2**31) | (table.astype(np.float32) != table))
    if len(strange):
        row, column = strange[0]
        read.fail(f"keys[{row}]", f"holds {table[row, column]}, which is not a number that a float32 holds")
    for i, value in enumerate(values):
        if not _is_finite(value):
            read.fail(f"values[{i}]", f"is {shown(value)}, not a finite number")
    default = read.finite("default")
    try:
        return MeanTable(table, np.array(values, np.float64), default)
    except ValueError as err:
        read.fail("keys", f"cannot be used: {err}")


class _Reader(Reader):
    error = ModelLoadError
    hint = "save the model again, or restore the bundle"

    def term(self, n_features: int) -> Term:
        self.only(Term._fields)
        feature = self.whole("feature", 0, n_features - 1)
        power = self.whole("power", 1, MAX_POWER)
        mean, scale, coefficient = (self.finite(key) for key in Term._fields[2:])
        if scale <= 0:
            self.fail("scale", f"is {scale!r}, not above 0")
        return Term(feature, power, mean, scale, coefficient)

    def finite(self, key: str) -> float:
        value = self.raw[key]
        return float(value) if _is_finite(value) else self.fail(key, f"is {shown(value)}, not a finite number")


def _is_finite(value: object) -> bool:
    # float32 is what a prediction is: a larger number could only become an infinity.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 3e38


def _check_arrays(X: object, out: object, n_features: int) -> None:  # noqa: N803
    if not isinstance(X, np.ndarray) or X.ndim != 2 or X.dtype != np.float32 or not X.flags.c_contiguous:
        raise ValueError("X has to be a float32 array of shape (n_rows, n_features), C-contiguous")
    if not isinstance(out, np.ndarray) or out.ndim != 1 or out.dtype != np.float32 or not out.flags.writeable:
        raise ValueError("out has to be a writable float32 array of shape (n_rows,)")
    if X.shape[1] != n_features:
        raise ValueError(f"X has {X.shape[1]} columns, the model takes {n_features}")
    if len(out) != len(X):
        raise ValueError(f"out has {len(out)} rows, X has {len(X)}")
