"""Forests as tables against XGBoost, float by float, on all paths of the kernel."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import json
import mmap
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from etacore.errors import ModelLoadError
from etacore.mlops.bundling import bitmask, codegen
from etacore.mlops.bundling import compile as compiling
from etacore.mlops.bundling.forest_tables import Tables
from etacore.mlops.bundling.parity import SPECIAL, parity_rows
from etacore.models.forest import CPU, PATH_VARIABLE, Forest
from tests import models

EMULATOR = Path("/usr/include/simde/x86/avx512.h")
X86 = CPU == "x86_64"
HAS_AVX512 = X86 and "avx512bw" in Path("/proc/cpuinfo").read_text()
EMULATED = X86 and not HAS_AVX512 and EMULATOR.exists()
N_FEATURES = 7
NO_ACCESS = 0
SIZES = [*range(1, 26), *(n + d for n in (32, 64, 128, 192, 256, 384, 512) for d in (-1, 0, 1)), 2047, 2048, 2049, 4100]


def path_parameters():
    yield "portable"
    absent = "" if X86 else "x86-64 only"
    yield pytest.param("avx2", marks=pytest.mark.skipif(bool(absent), reason=absent))
    if X86 and not HAS_AVX512 and not EMULATED:
        absent = f"AVX-512 is emulated with SIMDe, and there is no {EMULATOR}: apt-get install libsimde-dev"
    yield pytest.param("avx512", marks=pytest.mark.skipif(bool(absent), reason=absent))


every_path = pytest.mark.parametrize("path", [*path_parameters()])


def build(source, *, quick=False):
    """Library of a model, with AVX-512 emulated where the CPU lacks it; its file is kept until the session ends."""
    with tempfile.TemporaryDirectory(prefix="etacore-bitmask-") as name:
        folder = Path(name)
        codegen.main(str(source), "ubjson" if source.suffix == ".ubj" else "json", name)
        forest = bitmask.load(folder / "trees.npz")
        assert bitmask.refusal(forest) == ""
        bitmask.write_sources(forest, folder)
        units = [compiling.Unit(*unit) for unit in bitmask.units(CPU, emulated=EMULATED)]
        if quick:
            units = [dataclasses.replace(unit, flags=(*unit.flags, "-O0")) for unit in units]
        content = compiling._build(folder, compiling.find_compiler(), units)
        macros = (folder / "forest_tables.h").read_text()
    sha256 = hashlib.sha256(content).hexdigest()
    path = models.FOLDER / f"{sha256}.so"
    path.write_bytes(content)
    return path, sha256, forest.n_features, macros


def load(built, path):
    return Forest.load(*built[:3], kernel_path=path)


def predict(forest, X):
    out = np.full(len(X), np.nan, np.float32)
    forest.predict(X, out)
    return out


@functools.cache
def booster(source):
    read = xgboost.Booster(model_file=source)
    read.set_param({"nthread": 1})
    return read


def expected(source, X):
    return booster(source).inplace_predict(X, validate_features=False)


def trees_of(source):
    return json.loads(booster(source).save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]


def fleet(rows, n_constant=4):
    """Rows of vehicles: five have a column in common, all have others."""
    rows = rows.copy()
    rows[:, N_FEATURES - n_constant :] = rows[0, N_FEATURES - n_constant :]
    rows[:, 1] = rows[np.arange(len(rows)) // 5 * 5, 1]
    return rows


class Node:
    """A node of a tree that a test grows."""

    def __init__(self, feature=None, cut=None, left=None, right=None, missing_left=False, value=0.0):
        self.feature, self.cut, self.left, self.right = feature, cut, left, right
        self.missing_left, self.value = missing_left, value


def tree_document(root, number):
    nodes = [root]
    for node in nodes:
        nodes += [] if node.feature is None else [node.left, node.right]
    place = {id(node): i for i, node in enumerate(nodes)}
    split = [node.feature is not None for node in nodes]
    parents = [2147483647] * len(nodes)
    for node in nodes:
        for child in (node.left, node.right):
            if child is not None:
                parents[place[id(child)]] = place[id(node)]
    zeros = [0.0] * len(nodes)
    return {
        "base_weights": zeros,
        "categories": [], "categories_nodes": [], "categories_segments": [], "categories_sizes": [],
        "default_left": [int(node.missing_left) for node in nodes],
        "id": number,
        "left_children": [place[id(node.left)] if s else -1 for node, s in zip(nodes, split, strict=True)],
        "right_children": [place[id(node.right)] if s else -1 for node, s in zip(nodes, split, strict=True)],
        "loss_changes": zeros,
        "parents": parents,
        "split_conditions": [float(np.float32(n.cut if s else n.value)) for n, s in zip(nodes, split, strict=True)],
        "split_indices": [node.feature if s else 0 for node, s in zip(nodes, split, strict=True)],
        "split_type": [0] * len(nodes),
        "sum_hessian": zeros,
        "tree_param": {
            "num_deleted": "0", "num_feature": str(N_FEATURES), "num_nodes": str(len(nodes)), "size_leaf_vector": "1",
        },
    }  # fmt: skip


def grown(roots, base_score=0.25):
    """File of a model with these trees."""
    document = json.loads(models.save().read_bytes())
    document["learner"]["learner_model_param"]["base_score"] = f"[{base_score!r}]"
    model = document["learner"]["gradient_booster"]["model"]
    model["trees"] = [tree_document(root, i) for i, root in enumerate(roots)]
    model["tree_info"] = [0] * len(roots)
    model["iteration_indptr"] = list(range(len(roots) + 1))
    model["gbtree_model_param"]["num_trees"] = str(len(roots))
    text = json.dumps(document).encode()
    path = models.FOLDER / f"grown-{hashlib.sha256(text).hexdigest()[:16]}.json"
    path.write_bytes(text)
    return path


def random_tree(rng, depth, cuts, p_leaf=0.2):
    if depth == 0 or rng.random() < p_leaf:
        return Node(value=rng.normal() * 10.0 ** rng.integers(-3, 4))
    children = [random_tree(rng, depth - 1, cuts, p_leaf) for _ in range(2)]
    return Node(int(rng.integers(N_FEATURES)), rng.choice(cuts), *children, missing_left=bool(rng.random() < 0.5))


def chain(n_leaves, feature=0):
    """A tree as deep as it can be, to the left at every other split."""
    root = Node(value=1.0)
    for i in range(n_leaves - 1):
        leaf = Node(value=float(i) / 7)
        children = (root, leaf) if i % 2 else (leaf, root)
        root = Node((feature + i) % N_FEATURES, float(i * 37 % 19), *children, missing_left=i % 3 == 0)
    return root


USUAL = np.arange(0, 20, 0.5)
ODD = np.array([c for c in SPECIAL if not np.isnan(c)], np.float32)


@functools.cache
def forest(name):
    rng = np.random.default_rng(11)
    if name == "stumps":
        return models.save(name, rounds=20, max_depth=1)
    if name == "trained, depth 5":
        return models.save(name, rounds=70, max_depth=5, subsample=0.7)
    if name == "trained, depth 6, UBJ":
        return models.save(name, rounds=20, max_depth=6, subsample=0.7, suffix="ubj")
    if name == "a thousand trees":
        return models.save(name, rounds=1000, max_depth=2, nthread=1)
    if name == "leaf-wise, 64 leaves":
        options = {"grow_policy": "lossguide", "max_leaves": 64, "max_depth": 0}
        return models.save(name, rounds=20, min_child_weight=0.0, **options)
    if name == "hundreds of thresholds":
        return models.save(name, rounds=60, max_depth=6, tree_method="exact", min_child_weight=0.0, subsample=0.5)
    if name == "single leaves":
        return grown([Node(value=1.5), Node(value=-0.1), Node(value=3e-8)])
    if name == "one tree":
        return grown([random_tree(rng, 5, USUAL, 0.0)])
    if name == "one feature, one threshold":
        return grown([Node(6, -0.0, Node(value=1.0), Node(value=2.0), missing_left=True)])
    if name == "odd thresholds, both directions":
        return grown([random_tree(rng, d, ODD) for d in (5, 4, 3, 2, 1, 0, 5, 5, 5, 5)] + [Node(value=-0.0)])
    if name == "odd thresholds, depth 6":
        return grown([random_tree(rng, 6, np.r_[ODD, USUAL], 0.05) for _ in range(33)])
    if name == "shallow":
        return grown([random_tree(rng, 3, USUAL, 0.1) for _ in range(300)])
    if name == "few leaves in many trees":
        return grown([chain(9, i) for i in range(70)])
    assert name == "chains of 64 leaves"
    return grown([chain(64, i) for i in range(35)])


FORESTS = {  # mask bits and levels of the wide kernel below the third, 0 for none
    "stumps": (8, 1),
    "trained, depth 5": (32, 2),
    "trained, depth 6, UBJ": (64, 3),
    "a thousand trees": (8, 1),
    "leaf-wise, 64 leaves": (64, 0),
    "hundreds of thresholds": (64, 3),
    "single leaves": (8, 1),
    "one tree": (32, 2),
    "one feature, one threshold": (8, 1),
    "odd thresholds, both directions": (16, 2),
    "odd thresholds, depth 6": (64, 3),
    "shallow": (8, 1),
    "few leaves in many trees": (16, 0),
    "chains of 64 leaves": (64, 0),
}


@functools.cache
def library(name):
    return build(forest(name))


@functools.cache
def rows_and_floats(name):
    hard = parity_rows(trees_of(forest(name)), N_FEATURES, seed=5)
    hard = np.random.default_rng(2).permutation(hard)[:6000]
    rows = np.concatenate([hard, fleet(hard[:3000]), fleet(hard[-3000:], 6)])
    return rows, expected(forest(name), rows)


@pytest.mark.parametrize("name", FORESTS)
@every_path
def test_hard_rows_give_the_very_same_floats(name, path):
    rows, floats = rows_and_floats(name)
    before = rows.copy()
    found = predict(load(library(name), path), rows)
    np.testing.assert_array_equal(found.view(np.uint32), floats.view(np.uint32))
    np.testing.assert_array_equal(rows.view(np.uint32), before.view(np.uint32))


@pytest.mark.parametrize("name", FORESTS)
def test_the_forests_are_the_kinds_they_should_be(name):
    macros = dict(line.split(" ", 2)[1:] for line in library(name)[3].splitlines())
    bits, levels = FORESTS[name]
    assert (macros["MASK_BITS"], macros["WIDE_LEVELS"]) == (str(bits), str(levels))
    if name == "hundreds of thresholds":
        assert int(macros["N_BYTE_COLUMNS"]) > 2 * N_FEATURES


@pytest.mark.parametrize("depth", [0, 3, 6])
def test_masks_leave_one_leaf_of_each_tree(tmp_path, depth):
    rng = np.random.default_rng(depth)
    n_trees = 90
    source = grown([random_tree(rng, depth, np.r_[ODD, USUAL], 0.05) for _ in range(n_trees)], 0.0)
    codegen.main(str(source), "json", str(tmp_path))
    tables = Tables(bitmask.load(tmp_path / "trees.npz"))
    masks = tables.arrays["forest_masks"]
    for _ in range(50):
        left = masks[:, 0] if not tables.cuts else ~np.zeros_like(masks[:, 0])
        for feature, first in tables.first_mask.items():
            left &= masks[:, first + rng.integers(len(tables.cuts[feature]) + 2)]
        left = left.reshape(-1)[:n_trees]
        assert left.all()
        assert not (left & (left - 1)).any()


@every_path
def test_every_row_ends_in_the_leaf_that_xgboost_says(path):
    """The same trees with leaves that are powers of 128 times the number of their node, three trees at a time."""
    rng = np.random.default_rng(4)
    roots = [random_tree(rng, 6, np.r_[ODD, USUAL], 0.05) for _ in range(6)]
    source = grown(roots, 0.0)
    rows = parity_rows(trees_of(source), N_FEATURES, seed=6)
    leaves = booster(source).predict(
        xgboost.DMatrix(np.where(np.isinf(rows), np.float32(3.4e38) * np.sign(rows), rows)), pred_leaf=True,
        validate_features=False,
    ).astype(int)  # fmt: skip
    finite = ~np.isinf(rows).any(axis=1)  # a DMatrix takes no infinity
    found = []
    for start in (0, 3):
        document = json.loads(source.read_bytes())
        for t, tree in enumerate(document["learner"]["gradient_booster"]["model"]["trees"]):
            weight = 128 ** (t - start) if start <= t < start + 3 else 0
            for i, child in enumerate(tree["left_children"]):
                if child == -1:
                    tree["split_conditions"][i] = float(weight * i)
        numbered = models.FOLDER / f"numbered{start}.json"
        numbered.write_text(json.dumps(document))
        sums = predict(load(_numbered(numbered), path), rows).astype(int)
        found += [sums // 128**k % 128 for k in range(3)]
    assert leaves.max() > 63
    np.testing.assert_array_equal(np.stack(found, axis=1)[finite], leaves[finite])


_numbered = functools.cache(build)


@every_path
def test_batches_of_any_size(path):
    rows, floats = rows_and_floats("odd thresholds, both directions")
    found = load(library("odd thresholds, both directions"), path)
    assert predict(found, rows[:0]).shape == (0,)
    for of_fleet in (False, True):
        X = fleet(rows[:5000]) if of_fleet else rows[:5000]
        want = expected(forest("odd thresholds, both directions"), X) if of_fleet else floats
        for n in SIZES:
            out = np.full(n + 2, 7.0, np.float32)
            found.predict(X[:n], out[1:-1])
            np.testing.assert_array_equal(out[1:-1], want[:n], err_msg=str(n))
            assert out[0] == out[-1] == 7.0


@every_path
@pytest.mark.parametrize("offset", range(4))
def test_any_alignment_of_rows_and_results(path, offset):
    rows, floats = rows_and_floats("trained, depth 5")
    n = 333
    memory = np.empty(n * N_FEATURES + 16, np.float32)
    X = memory[offset : offset + n * N_FEATURES].reshape(n, N_FEATURES)
    X[:] = rows[:n]
    out = np.empty(n + 16, np.float32)[offset : offset + n]
    load(library("trained, depth 5"), path).predict(X, out)
    np.testing.assert_array_equal(out, floats[:n])


@every_path
def test_every_nan_is_missing(path):
    bits = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF] * 60, np.uint32)
    rows = np.repeat(bits.view(np.float32)[:, None], N_FEATURES, axis=1)
    missing = expected(forest("odd thresholds, both directions"), np.full((1, N_FEATURES), np.nan, np.float32))[0]
    found = load(library("odd thresholds, both directions"), path)
    assert set(predict(found, np.ascontiguousarray(rows[:3])).tolist()) == {missing}
    assert set(predict(found, np.ascontiguousarray(rows)).tolist()) == {missing}


WALKED = [
    "shallow",
    "trained, depth 5",
    "trained, depth 6, UBJ",
    "hundreds of thresholds",
    "odd thresholds, both directions",
]
AROUND_BLOCKS = [19, 20, *(n + d for n in (128, 256, 384, 512, 2048) for d in (-1, 0, 1))]


def check_batches(name, path, rows, what):
    """Batches that end around the borders of blocks of 128 rows, from the first row on and from within a block."""
    found, want = load(library(name), path), expected(forest(name), rows)
    for n in AROUND_BLOCKS:
        for first in (0, 100):
            floats = predict(found, rows[first : first + n])
            np.testing.assert_array_equal(floats, want[first : first + n], err_msg=f"{what}: {n} rows from {first}")


@functools.cache
def varied_rows(name):
    """Rows in which every column varies within each block."""
    return rows_and_floats(name)[0][:2200]


@every_path
@pytest.mark.parametrize("name", WALKED)
def test_columns_without_any_value_while_others_vary(name, path):
    for missing in (*((f,) for f in range(N_FEATURES)), (0, 6), (1, 3, 4), tuple(range(1, N_FEATURES))):
        rows = varied_rows(name).copy()
        rows[:, missing] = np.nan
        check_batches(name, path, rows, f"missing {missing}")


@every_path
@pytest.mark.parametrize("name", WALKED)
def test_nothing_is_read_before_or_behind_the_rows(name, path):
    """The rows end where a page does that nobody may read, or begin where one ends."""
    found, want = load(library(name), path), expected(forest(name), varied_rows(name))
    with Fenced(varied_rows(name).nbytes) as fenced:
        child = os.fork()
        if child == 0:  # to touch such a page ends the process
            status = 1
            try:
                for n in (1, 7, *AROUND_BLOCKS):
                    for place in (fenced.front, fenced.back):
                        rows = place(varied_rows(name)[:n])
                        np.testing.assert_array_equal(predict(found, rows), want[:n], err_msg=f"{n} rows")
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Fenced:
    """Memory between two pages that must not be touched."""

    def __init__(self, n_bytes):
        self.n_bytes = -(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, self.n_bytes + 2 * mmap.PAGESIZE)

    def __enter__(self):
        self.protect(NO_ACCESS)
        return self

    def __exit__(self, *_):
        self.protect(mmap.PROT_READ | mmap.PROT_WRITE)

    def protect(self, rights):
        libc = ctypes.CDLL(None, use_errno=True)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for page in (begin, begin + mmap.PAGESIZE + self.n_bytes):
            assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), rights) == 0

    def front(self, rows):
        return self.copied(rows, mmap.PAGESIZE)

    def back(self, rows):
        return self.copied(rows, mmap.PAGESIZE + self.n_bytes - rows.nbytes)

    def copied(self, rows, at):
        place = np.frombuffer(self.memory, np.float32, rows.size, at).reshape(rows.shape)
        place[:] = rows
        return place


NO_VALUE = 20


def values_of(name):
    """Values of each feature, the one numbered NO_VALUE being NaN, shape (values, features)."""
    return np.concatenate([varied_rows(name)[:NO_VALUE], np.full((1, N_FEATURES), np.nan, np.float32)])


BLOCKS = {  # which of these values each block of 128 rows has, in columns that do not vary within it
    "all blocks differ": range(18),
    "the second differs": [0, 1, *[0] * 16],
    "the last of many differs": [0] * 16 + [1, 2],
    "the first differs": [1, *[0] * 17],
    "every other one": [0, 1] * 9,
    "without a value in the first": [NO_VALUE, *[0] * 17],
    "without a value in the second": [0, NO_VALUE, *[0] * 16],
    "with a value in the second only": [NO_VALUE, 1, *[NO_VALUE] * 16],
}


@every_path
@pytest.mark.parametrize("name", WALKED)
def test_columns_alike_in_a_block_and_different_between_blocks(name, path):
    values = values_of(name)
    for what, blocks in BLOCKS.items():
        for alike in ((2,), (0, 3, 5), tuple(range(1, N_FEATURES)), tuple(range(N_FEATURES))):
            rows = varied_rows(name).copy()
            rows[:, alike] = values[np.repeat(blocks, 128)[: len(rows)]][:, alike]
            check_batches(name, path, rows, f"{what}, columns {alike}")


@every_path
@pytest.mark.parametrize("name", WALKED)
def test_one_row_unlike_all_others(name, path):
    found, values = load(library(name), path), values_of(name)
    for row in (0, 1, 63, 64, 126, 127, 128, 129, 254, 255, 256, 257, 511, 512):
        for one, others in ((1, 2), (NO_VALUE, 3), (4, NO_VALUE)):
            rows = varied_rows(name)[:700].copy()
            rows[:, 1:] = values[others, 1:]
            rows[row, 1:] = values[one, 1:]
            want = expected(forest(name), rows)
            for n in (row + 1, row + 2, max(256, row + 1), 513, 700):
                np.testing.assert_array_equal(predict(found, rows[:n]), want[:n], err_msg=f"row {row} of {n}")


@every_path
def test_threads_get_what_one_gets(path):
    rows, floats = rows_and_floats("trained, depth 5")
    found = load(library("trained, depth 5"), path)
    with ThreadPoolExecutor(8) as pool:
        starts = range(0, 800, 50)
        for start, result in zip(starts, pool.map(lambda s: predict(found, rows[s:]), starts), strict=True):
            np.testing.assert_array_equal(result, floats[start:])


@every_path
@pytest.mark.parametrize("objective", ["reg:gamma", "reg:logistic"])
def test_link_functions(path, objective):
    source = models.save(objective.partition(":")[2], objective=objective)
    X, _ = models.data(700, seed=5)
    np.testing.assert_allclose(predict(load(_numbered(source), path), X), expected(source, X), rtol=2e-6)


cells = st.one_of(st.floats(width=32), st.floats(0, 20, width=32), st.sampled_from([np.nan, *ODD.tolist()]))


@every_path
@given(rows=st.integers(1, 40).flatmap(lambda n: arrays(np.float32, (n, N_FEATURES), elements=cells)))
@settings(max_examples=50, deadline=None)
def test_any_floats(path, rows):
    found = load(library("odd thresholds, depth 6"), path)
    np.testing.assert_array_equal(predict(found, rows), expected(forest("odd thresholds, depth 6"), rows))


some_cuts = st.sampled_from([0.0, -0.0, 1.0, 2.5, 1e-45, -1e-45, np.inf, -np.inf, 3.4028234663852886e38])
some_trees = st.recursive(
    st.builds(lambda v: Node(value=v), st.floats(-100, 100, width=32)),
    lambda inner: st.builds(Node, st.integers(0, N_FEATURES - 1), some_cuts, inner, inner, st.booleans()),
    max_leaves=40,
)


@given(st.lists(some_trees, min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=6, deadline=None)
def test_any_small_forest(roots, seed):
    source = grown(roots)
    rng = np.random.default_rng(seed)
    rows = rng.choice(np.array([*SPECIAL, 2.5, 2.0, 3.0], np.float32), (200, N_FEATURES))
    built, want = build(source, quick=True), expected(source, rows)
    for path in ["portable", *(["avx2"] if X86 else []), *(["avx512"] if HAS_AVX512 or EMULATED else [])]:
        np.testing.assert_array_equal(predict(load(built, path), rows), want)
        np.testing.assert_array_equal(predict(load(built, path), rows[:7]), want[:7])


def test_a_path_that_is_not_there(monkeypatch):
    built = models.compiled(models.save())
    file = models.FOLDER / built.library_file.file
    file.write_bytes(built.library)
    known = (file, built.library_file.sha256, N_FEATURES)
    assert Forest.load(*known).path != "auto"
    monkeypatch.setenv(PATH_VARIABLE, "portable")
    assert Forest.load(*known).path == "portable"
    monkeypatch.setenv(PATH_VARIABLE, "fastest")
    with pytest.raises(ModelLoadError, match="no path 'fastest'") as caught:
        Forest.load(*known)
    assert PATH_VARIABLE in caught.value.hint
    if HAS_AVX512:
        pytest.skip("this CPU has AVX-512: there is no path that it lacks")
    with pytest.raises(ModelLoadError, match="cannot take the path 'avx512' on this CPU, only") as caught:
        Forest.load(*known, kernel_path="avx512")
    assert "auto" in caught.value.hint


def test_a_library_of_branches_has_no_paths(monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, "portable")
    built = compiling.compile_model(models.save(), backend="tl2cgen")
    file = models.FOLDER / built.library_file.file
    file.write_bytes(built.library)
    assert Forest.load(file, built.library_file.sha256, N_FEATURES).path == "branches"
