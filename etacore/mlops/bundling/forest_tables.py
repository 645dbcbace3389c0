"""The tables that ``forest_kernel.c`` works on, made from trees as treelite has read them. Only NumPy is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LINKS: Final = {"identity": "", "exponential": "expf(x)", "sigmoid": "(1.0f / (1.0f + expf(-(x))))"}
"""C of the link functions that the kernel's library knows."""

_GROUP_BYTES: Final = (1024, 512, 256, 128)  # masks of a bin that are read together: the more, the fewer turns
_MOST_LANES: Final = 1.3  # for each tree, that fill the last group
_PAGE: Final = 254  # thresholds of a byte column
_TOP: Final = 7  # nodes of the first three levels
_WIDE_DEPTH: Final = 6
_CHUNK: Final = 32  # trees whose tables, about 10 kB, stay in the first cache
_BLOCK_BYTES: Final = 16_384  # bins of a block of rows
_MAX_BLOCK: Final = 2048
_NEVER: Final = -128
_NODE_CUTS: Final = (8, 16)
_MOST_LEVELS: Final = 4


@dataclass(frozen=True, slots=True)
class Trees:
    """Trees as flat arrays; the nodes of all trees one after the other, children counted within their tree.

    Attributes
    ----------
    first : ndarray of int64, shape (n_trees + 1,)
        First node of each tree, its root.
    left, right : ndarray of int32
        Children; -1 at a leaf.
    feature : ndarray of int32
        Column of the split.
    value : ndarray of float32
        Threshold of a split (``x < value`` goes left), or the value of a leaf.
    missing_left : ndarray of bool
        Where NaN goes.
    unusual : str
        Empty, or what about the trees is more than that.
    """

    first: NDArray[np.int64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    value: NDArray[np.float32]
    missing_left: NDArray[np.bool_]
    unusual: str = ""

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Which nodes are leaves."""
        leaf: NDArray[np.bool_] = self.left < 0
        return leaf


@dataclass(frozen=True, slots=True)
class Forest:
    """What the sources of a library are made from.

    Attributes
    ----------
    trees : Trees
    n_features : int
    base_score : float
        Added first, before the link function.
    link : str
        ``identity``, ``exponential`` or ``sigmoid``.
    """

    trees: Trees
    n_features: int
    base_score: float
    link: str


def load(path: Path) -> Forest:
    """Read what ``codegen.py`` has written of a model."""
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    link, unusual = str(columns.pop("link")), str(columns.pop("unusual"))
    n_features, base = int(columns.pop("n_features")), float(columns.pop("base_score"))
    return Forest(Trees(**columns, unusual=unusual), n_features, base, link)


def distinct_cuts(forest: Forest) -> dict[int, NDArray[np.float32]]:
    """Distinct thresholds of each used feature, sorted. Both zeros are one."""
    trees = forest.trees
    splits = ~trees.is_leaf
    feature, value = trees.feature[splits], trees.value[splits]
    return {int(f): np.unique(value[feature == f] + np.float32(0.0)) for f in np.unique(feature)}


def mask_dtype(n_leaves: int) -> np.dtype[Any]:
    """Unsigned integers with a bit for every leaf."""
    return np.dtype(next(f"u{size}" for size in (1, 2, 4, 8) if n_leaves <= 8 * size))


def _cut_nodes(cuts: NDArray[np.float32], width: int) -> list[NDArray[np.float32]]:
    """Levels of the search tree of a feature: nodes of `width` cuts, NaN where there is none. The root comes first."""
    n_children = width + 1
    n_levels = 1
    while n_children**n_levels <= len(cuts):
        n_levels += 1
    padded = np.append(cuts, np.float32(np.nan))
    levels = []
    for k in range(n_levels - 1, -1, -1):
        nodes = np.arange(len(cuts) // n_children ** (k + 1) + 1)
        index = (n_children * nodes[:, None] + np.arange(1, n_children)) * n_children**k - 1
        levels.append(padded[np.minimum(index, len(cuts))])
    return levels


def _number(place: int, depth: int) -> int:
    """Number of a node within its depth in the wide kernel: the first decision is the lowest bit."""
    return sum((place >> k & 1) << (depth - 1 - k) for k in range(depth))


class Tables:
    """Arrays and macros of a forest."""

    def __init__(self, forest: Forest) -> None:
        self.forest = forest
        self.cuts = distinct_cuts(forest)
        self.index = self._thresholds()
        self.arrays: dict[str, NDArray[Any]] = {}
        self.macros: dict[str, Any] = {
            "N_TREES": len(forest.trees),
            "N_FEATURES": forest.n_features,
            "N_USED": max(len(self.cuts), 1),
            "BASE_SCORE": f"{np.float32(forest.base_score).item().hex()}f",
        }
        if link := LINKS[forest.link]:
            self.macros["LINK_FUNCTION(x)"] = link
        self._add_masks()
        self.depth = max(d for t in range(len(forest.trees)) for d, *_ in self._nodes(t))
        self.columns = self._byte_columns()
        self.macros["WIDE_LEVELS"] = 0
        if self.depth <= _WIDE_DEPTH and len(self.columns) <= _BLOCK_BYTES // 128:
            self._add_walks()
        self._add_features()

    def _thresholds(self) -> NDArray[np.int64]:
        """For each split, which of its feature's thresholds it has."""
        trees = self.forest.trees
        index = np.zeros(len(trees.left), np.int64)
        for f, cuts in self.cuts.items():
            of = (trees.feature == f) & ~trees.is_leaf
            index[of] = np.searchsorted(cuts, trees.value[of])
        return index

    def _nodes(self, tree: int) -> Iterator[tuple[int, int, int]]:
        """Depth, place within the depth, and number of each node of a tree, parents first, left before right."""
        trees, first = self.forest.trees, int(self.forest.trees.first[tree])
        pending = [(0, 0, first)]
        while pending:
            depth, place, node = pending.pop()
            yield depth, place, node
            if trees.left[node] >= 0:
                pending.append((depth + 1, 2 * place + 1, first + int(trees.right[node])))
                pending.append((depth + 1, 2 * place, first + int(trees.left[node])))

    def _add_masks(self) -> None:
        """Narrow kernel: masks by group of trees, bin and tree, and leaves from left to right."""
        trees = self.forest.trees
        n_leaves = int(np.add.reduceat(trees.is_leaf.astype(np.int64), trees.first[:-1]).max())
        dtype = mask_dtype(n_leaves)
        bits = 8 * dtype.itemsize
        sizes_of_group = [size // dtype.itemsize for size in _GROUP_BYTES]
        fitting = (size for size in sizes_of_group if -(-len(trees) // size) * size <= _MOST_LANES * len(trees))
        group = next(fitting, sizes_of_group[-1])
        n_groups = -(-len(trees) // group)
        sizes = [len(c) + 2 for c in self.cuts.values()] or [2]
        self.first_mask = dict(zip(self.cuts, np.cumsum([0, *sizes[:-1]]).tolist(), strict=False))
        masks = np.full((n_groups, sum(sizes), group), 1, dtype)
        leaves = np.full((n_groups, group, bits), -0.0, np.float32)
        for t in range(len(trees)):
            g, lane = divmod(t, group)
            order = [node for _, _, node in self._nodes(t)]
            values = [trees.value[node] for node in order if trees.left[node] < 0]
            leaves[g, lane, : len(values)] = values
            masks[g, :, lane] = 2 ** len(values) - 1
            first, n_seen = int(trees.first[t]), 0
            begin: dict[int, int] = {}  # first leaf below each node
            end: dict[int, int] = {}  # and the one behind its last
            for node in order:
                begin[node] = n_seen
                n_seen += int(trees.left[node] < 0)
            for node in reversed(order):
                end[node] = begin[node] + 1 if trees.left[node] < 0 else end[first + int(trees.right[node])]
            for node in order:
                if trees.left[node] < 0:
                    continue
                left, right = first + int(trees.left[node]), first + int(trees.right[node])
                goes_right = dtype.type(2**bits - 1 ^ ((1 << end[left]) - (1 << begin[left])))
                goes_left = dtype.type(2**bits - 1 ^ ((1 << end[right]) - (1 << begin[right])))
                f = int(trees.feature[node])
                start, n_cuts = self.first_mask[f], len(self.cuts[f])
                turn = start + int(self.index[node]) + 1
                masks[g, start:turn, lane] &= goes_left
                masks[g, turn : start + n_cuts + 1, lane] &= goes_right
                masks[g, start + n_cuts + 1, lane] &= goes_left if trees.missing_left[node] else goes_right
        self.arrays |= {"forest_masks": masks, "forest_leaves": leaves}
        self.macros |= {
            "mask_t": f"uint{bits}_t",
            "MASK_BITS": bits,
            "FIRST_BIT(mask)": "__builtin_ctzll(mask)" if bits == 64 else "__builtin_ctz(mask)",
            "GROUP": group,
            "N_GROUPS": n_groups,
            "N_MASK_ROWS": sum(sizes),
        }

    def _byte_columns(self) -> dict[tuple[int, int, bool], int]:
        """Wide kernel: number of each column, by feature, page of thresholds, and where it sends NaN."""
        trees = self.forest.trees
        splits = np.flatnonzero(~trees.is_leaf)
        keys = {self._column_key(int(node)) for node in splits}
        return {key: i for i, key in enumerate(sorted(keys))}

    def _column_key(self, node: int) -> tuple[int, int, bool]:
        trees = self.forest.trees
        return int(trees.feature[node]), int(self.index[node]) // _PAGE, bool(trees.missing_left[node])

    def _add_walks(self) -> None:
        trees = self.forest.trees
        n_levels = max(1, self.depth - 3)
        halves = 2 if n_levels == 3 else 1
        top_cuts = np.full((len(trees), _TOP), _NEVER, np.int8)
        top_columns = np.zeros((len(trees), 8), np.uint16)
        n_visits = np.zeros((len(trees), n_levels), np.uint8)
        values = np.zeros((len(trees), 32 * halves), np.float32)
        never = [np.full(16 * (halves if k == n_levels - 1 else 1), _NEVER, np.int8) for k in range(n_levels)]
        visits: list[NDArray[np.int8]] = []
        columns: list[int] = []
        chunks: list[tuple[int, int]] = []
        for t in range(len(trees)):
            if t % _CHUNK == 0:
                chunks.append((len(columns), len(visits)))
            levels: list[dict[int, NDArray[np.int8]]] = [{} for _ in never]
            for depth, place, node in self._nodes(t):
                if trees.left[node] < 0:
                    values[t, _number(place, depth) :: 2**depth] = trees.value[node]
                    continue
                column = self.columns[self._column_key(node)]
                cut = 126 - int(self.index[node]) % _PAGE
                if depth < 3:
                    top_cuts[t, 2**depth - 1 + place] = cut
                    top_columns[t, 2**depth - 1 + place] = 128 * column
                else:
                    table = levels[depth - 3].setdefault(column, never[depth - 3].copy())
                    table[_number(place, depth)] = cut
            for k, level_visits in enumerate(levels):
                level_visits = level_visits or {0: never[k]}
                n_visits[t, k] = len(level_visits)
                for column, table in sorted(level_visits.items()):
                    columns.append(128 * column)
                    visits += list(table.reshape(-1, 16))
        chunks.append((len(columns), len(visits)))
        last, fifth, first_four = np.ogrid[:2, :halves, :16]
        leaf = last << (2 + n_levels) | fifth << 4 | first_four
        block = max(128, min(_MAX_BLOCK, _BLOCK_BYTES // max(len(self.columns), 1) // 128 * 128))
        self.arrays |= {
            "forest_top_cuts": np.repeat(top_cuts.view(np.uint8), 4, axis=1).reshape(len(trees), -1).view(np.uint32),
            "forest_top_columns": top_columns,
            "forest_n_visits": n_visits,
            "forest_visits": np.array(visits, np.int8).reshape(-1, 16),
            "forest_columns": np.array(columns, np.uint16),
            "forest_values": values,
            "forest_planes": np.moveaxis(values[:, leaf, None].view(np.uint8), -1, 1),
            "forest_chunks": np.array(chunks, np.uint32),
            "forest_byte_columns": np.array(
                [(_PAGE * page, 0 if left else len(self.cuts[f])) for f, page, left in self.columns] or [(0, 0)],
                np.int32,
            ),
        }
        self.macros |= {
            "WIDE_LEVELS": n_levels,
            "CHUNK": _CHUNK,
            "BLOCK": block,
            "N_BYTE_COLUMNS": max(len(self.columns), 1),
            "MAX_VISITS": max(1, *np.diff([tables for _, tables in chunks]).tolist()),
        }

    def _add_features(self) -> None:
        """Features that the forest uses; the first one of X stands in if it uses none."""
        rows: list[list[int]] = []
        nodes: dict[int, list[NDArray[np.float32]]] = {width: [] for width in _NODE_CUTS}
        for f, cuts in (self.cuts or {0: np.zeros(0, np.float32)}).items():
            row = [f, len(cuts)]
            for width, before in nodes.items():
                levels = _cut_nodes(cuts, width)
                begin = np.cumsum([sum(map(len, before)), *map(len, levels[:-1])]).tolist()
                row += [len(levels), *begin, *[0] * (_MOST_LEVELS - len(levels))]
                before += levels
            own = [i for (g, _, _), i in self.columns.items() if g == f]
            rows.append([*row, self.first_mask.get(f, 0), min(own, default=0), max(len(own), 1)])
        self.arrays["forest_features"] = np.array(rows, np.int32)
        self.arrays |= {f"forest_cuts_{width}": np.concatenate(levels) for width, levels in nodes.items()}
