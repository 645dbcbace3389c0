"""A slowdown is caught, an unchanged tree passes, and a sample of a fleet can be measured. Counts, for real."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.fleet import ROOT
from benchmarks.gate import budgets, callgrind, prove
from benchmarks.gate.compare import compare_trees
from benchmarks.gate.running import prepare
from benchmarks.gate.sample import Moment, Sample, read_sample, seeded_sample, write_sample
from etacore.errors import ConfigError
from etacore.models.forest import CPU

pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is missing: apt-get install valgrind"),
    pytest.mark.skipif(CPU != "x86_64", reason="slows down the AVX2 path"),
]
FOREST = "forest"


@pytest.fixture(scope="module")
def bundle():
    return prepare(ROOT)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A small fleet, which is quick to make under valgrind."""
    path = tmp_path_factory.mktemp("gate") / "sample.json"
    write_sample(seeded_sample(300), path)
    return path


@pytest.fixture(scope="module")
def allowed(bundle, sample):
    """Budgets of the tree as it is."""
    counted = callgrind.count(bundle, tree=ROOT, sample=sample, only=FOREST)
    assert counted.forest_path == "avx2"
    return budgets.record(counted.counts, budgets.toolchain(counted.forest_path))


def test_an_unchanged_tree_passes(tmp_path, bundle, sample, allowed):
    """In another folder, and with other things on the heap."""
    tree = prove.copy_tree(tmp_path)

    def judged(disturb):
        return prove.judge_tree(tree, allowed, bundle, sample=sample, only=FOREST, disturb=disturb)

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(judged, (1, 2, 3)))
    for rows in runs:
        assert len(rows) == 6
        assert {row.verdict for row in rows} == {"ok"}


def test_ten_per_cent_in_one_kernel_are_caught_and_nothing_else(tmp_path, sample, allowed):
    per_row = allowed.recorded[prove.FOREST_WORKLOAD, prove.FOREST_KERNEL][1]
    tree = prove.slow_forest(tmp_path / "tree", 0.10 * per_row)
    rows = prove.judge_tree(tree, allowed, prepare(tree, tmp_path / "cache"), sample=sample, only=FOREST)
    ratio = {(row.workload, row.kernel): row.ratio for row in rows if row.verdict == "over"}
    assert set(ratio) == {(prove.FOREST_WORKLOAD, prove.FOREST_KERNEL), (prove.FOREST_WORKLOAD, callgrind.WHOLE)}
    assert ratio[prove.FOREST_WORKLOAD, prove.FOREST_KERNEL] == pytest.approx(1.10, abs=0.01)
    assert {row.verdict for row in rows} == {"over", "ok"}


def test_a_tree_beside_itself(bundle, sample):
    """Every stage can be run, before and after."""
    found = compare_trees(ROOT, ROOT, bundle=bundle, sample=sample, only="e", n_pairs=0)
    assert {row.verdict for row in found.rows} == {"ok"}
    assert {"parse", "encode", "vectorize", "resolve, new routes"} <= {row.workload for row in found.rows}
    assert not found.over


@pytest.mark.parametrize("text", ["{}", "[]", '{"moments": [], "values": {}}', '{"moments": [1], "values": {}}', "no"])
def test_a_file_that_is_no_sample_is_told(tmp_path, text):
    path = tmp_path / "sample.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"is no sample of a fleet"):
        read_sample(path)


def test_a_sample_keeps_every_byte(tmp_path):
    write_sample(seeded_sample(20), tmp_path / "seeded.json")
    assert read_sample(tmp_path / "seeded.json") == seeded_sample(20)
    sample = Sample([Moment(1, [b"vehicle:\xff"], [b'{"a":"\xc3\xb6\x00"}'])], {b"route_stops:\xe4": b"[]"})
    write_sample(sample, tmp_path / "sample.json")
    assert read_sample(tmp_path / "sample.json") == sample
