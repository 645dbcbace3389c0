"""Compiled forest against XGBoost: hard rows made from the forest's own thresholds, and a bound with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etacore.errors import CompileError
from etacore.models.manifest import Parity

MIN_ROWS: Final = 10_000
MAX_NODES: Final = 50_000
EPS: Final = float(np.finfo(np.float32).eps)
SPECIAL: Final = (
    *(np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0),
    *(1e-45, -1e-45, 1.1754942e-38, 1.1754944e-38),  # the denormals' ends, and the smallest normal number
    *(3.4028235e38, -3.4028235e38, 1e30, -1e30, 16777216.0, 16777217.0),
)

Matrix = NDArray[np.float32]
Trees = Sequence[Mapping[str, Any]]


def parity_rows(trees: Trees, n_features: int, seed: int = 1) -> Matrix:
    """Rows on which a compiled forest is most likely to go wrong.

    For every split (up to 50 000, else a sample): a row that reaches the split's node, with the split's feature
    exactly on the threshold, on both float neighbours, and missing. Then rows whose cells are drawn independently
    from all thresholds and their neighbours, NaN, both infinities, both zeros, denormals, huge and random numbers.

    Parameters
    ----------
    trees : sequence of mapping
        Trees as in XGBoost's JSON.
    n_features : int
        Columns.
    seed : int
        The same seed gives the same rows.

    Returns
    -------
    ndarray of float32, shape (n_rows, n_features), n_rows >= 10 000
    """
    rng = np.random.default_rng(seed)
    pools = [_pool(column, rng) for column in _split_values(trees, n_features)]
    near = list(_limited(_near_splits(trees, pools, rng), trees, rng))
    n_mixed = max(MIN_ROWS, *(len(pool) for pool in pools))
    mixed = np.empty((n_mixed, n_features), np.float32)
    for j, pool in enumerate(pools):
        column = np.resize(rng.permutation(pool), n_mixed)  # every value at least once
        mixed[:, j] = rng.permutation(column)
    return np.concatenate([np.array(near, np.float32).reshape(-1, n_features), mixed])


def check_parity(
    names: Sequence[str],
    rows: Matrix,
    compiled: Matrix,
    expected: Matrix,
    magnitudes: NDArray[np.float64],
    n_trees: int,
    link: str,
) -> Parity:
    """Compare predictions of the compiled forest with XGBoost's.

    Two float32 sums of the same n + 1 numbers, in any order, differ by at most (n + 1) * eps * S, with S the sum of
    their magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2); one more for a weight
    on the leaves. The exponential turns that into a relative error, the sigmoid has a slope of at most 1/4.

    Parameters
    ----------
    names : sequence of str
        Features, for the message.
    rows : ndarray of float32, shape (n_rows, n_features)
        What was predicted.
    compiled, expected : ndarray of float32, shape (n_rows,)
        Predictions of the compiled forest, and of XGBoost.
    magnitudes : ndarray of float64, shape (n_rows,)
        S of each row.
    n_trees : int
        n.
    link : str
        ``identity``, ``exponential`` or ``sigmoid``.

    Raises
    ------
    CompileError
        If a row differs by more; the message shows the worst one.
    """
    bound = (n_trees + 2) * EPS * magnitudes
    got, want = compiled.astype(np.float64), expected.astype(np.float64)
    if link == "identity":
        allowed = bound
    elif link == "exponential":
        allowed = np.abs(want) * (np.expm1(bound) + 8 * EPS) + 1e-44
    else:
        allowed = bound / 4 + 8 * EPS
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(got - want))
        error[np.isnan(error)] = np.inf
        excess = np.where(same, 0.0, np.divide(error, allowed, where=allowed > 0, out=np.full(len(rows), np.inf)))
    excess[np.isnan(excess)] = np.inf
    worst = int(np.argmax(excess))
    if excess[worst] > 1.0:
        cells = ", ".join(f"{name}={value!r}" for name, value in zip(names, rows[worst].tolist(), strict=True))
        raise CompileError(
            f"the compiled forest disagrees with XGBoost on {int((excess > 1.0).sum())} of {len(rows)} rows; worst: "
            f"{cells}: compiled {got[worst]:.9g}, XGBoost {want[worst]:.9g}, allowed difference {allowed[worst]:.3g}",
            hint="the model was not accepted; the compiler or treelite gets this kind of model wrong",
        )
    finite = np.isfinite(allowed)
    return Parity(len(rows), float(error.max()), float(allowed[finite].max(initial=0.0)))


def _is_leaf(tree: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which nodes of a tree are leaves."""
    leaf: NDArray[np.bool_] = np.asarray(tree["left_children"], np.int64) == -1
    return leaf


def _split_values(trees: Trees, n_features: int) -> list[set[float]]:
    values: list[set[float]] = [set() for _ in range(n_features)]
    for tree in trees:
        categorical = set(tree.get("categories_nodes", ()))
        for node in np.flatnonzero(~_is_leaf(tree)):
            if int(node) not in categorical:
                values[tree["split_indices"][node]].add(tree["split_conditions"][node])
        for node, start, size in zip(
            tree.get("categories_nodes", ()),
            tree.get("categories_segments", ()),
            tree.get("categories_sizes", ()),
            strict=True,
        ):
            codes = tree["categories"][start : start + size]
            values[tree["split_indices"][node]].update(range(max(codes, default=0) + 3))
    return values


def _pool(values: set[float], rng: np.random.Generator) -> Matrix:
    exact = np.array(sorted(values), np.float32)
    usual = exact[np.abs(exact) < 1e30]
    low, high = (float(usual[0]), float(usual[-1])) if len(usual) else (0.0, 1.0)
    span = max(high - low, 1.0)
    within = rng.uniform(low - span / 4, high + span / 4, max(64, len(exact)))
    with np.errstate(over="ignore"):
        parts = [exact, np.nextafter(exact, np.float32(-np.inf)), np.nextafter(exact, np.float32(np.inf))]
        return np.concatenate([*parts, np.array(SPECIAL, np.float64), within]).astype(np.float32)


def _limited(rows: Iterator[Matrix], trees: Trees, rng: np.random.Generator) -> Iterator[Matrix]:
    n_splits = sum(int((~_is_leaf(tree)).sum()) for tree in trees)
    keep = min(1.0, MAX_NODES / max(n_splits, 1))
    return rows if keep == 1.0 else (row for row in rows if rng.random() < keep)


def _near_splits(trees: Trees, pools: Sequence[Matrix], rng: np.random.Generator) -> Iterator[Matrix]:
    usual = [pool[np.isfinite(pool) & (np.abs(pool) < 1e29)] for pool in pools]
    for tree in trees:
        left, right = tree["left_children"], tree["right_children"]
        feature, threshold = tree["split_indices"], np.asarray(tree["split_conditions"], np.float32)
        with np.errstate(over="ignore"):
            just_below = np.nextafter(threshold, np.float32(-np.inf))
            just_above = np.nextafter(threshold, np.float32(np.inf))
        categorical = set(tree.get("categories_nodes", ()))
        pending: list[tuple[int, dict[int, tuple[float, float]]]] = [(0, {})]
        while pending:
            node, box = pending.pop()
            if left[node] == -1:
                continue
            j, cut = feature[node], float(threshold[node])
            low, high = box.get(j, (-np.inf, np.inf))
            below = above = box
            if node not in categorical:
                row = np.array([pool[rng.integers(len(pool))] for pool in usual], np.float32)
                for i, (start, end) in box.items():
                    row[i] = _between(start, end, rng)
                for value in (threshold[node], just_below[node], just_above[node], np.float32(np.nan)):
                    row[j] = value
                    yield row.copy()
                below, above = {**box, j: (low, min(high, cut))}, {**box, j: (max(low, cut), high)}
            pending += [(left[node], below), (right[node], above)]


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    """A float32 with low <= number < high, if there is one; low and high are float32 too, or infinite."""
    if not np.isfinite(low):
        drawn = high - float(rng.exponential(max(abs(high), 1.0)))
    elif not np.isfinite(high):
        drawn = low + float(rng.exponential(max(abs(low), 1.0)))
    else:
        drawn = low if rng.random() < 0.25 else low + (high - low) * float(rng.random())
    with np.errstate(over="ignore"):
        number = np.float32(drawn)
        if not number < high:
            number = np.nextafter(np.float32(high), np.float32(-np.inf))
    return max(float(number), low)
