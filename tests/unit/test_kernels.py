"""A kernel that is missing or of another build is told as such."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USE = "from etacore.estimator import estimate_stop_times"


@pytest.fixture
def tree(tmp_path):
    """The package without what is offline, kernels included."""
    ignored = shutil.ignore_patterns("__pycache__", "mlops", "demo")
    shutil.copytree(ROOT / "etacore", tmp_path / "etacore", ignore=ignored)
    return tmp_path


def said(tree: Path) -> str:
    """What Python says in the end; an editable installation must not lend what the tree lacks."""
    clear = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if not f.__module__.startswith('__editable__')]; "
    run = [sys.executable, "-c", clear + USE]
    done = subprocess.run(run, cwd=tree, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr


def test_a_whole_tree_works(tree):
    assert said(tree) == ""


def test_a_kernel_that_is_missing(tree):
    for kernel in (tree / "etacore/_kernels").glob("fleet.*.so"):
        kernel.unlink()
    text = said(tree)
    assert "KernelError: the compiled kernel etacore._kernels.fleet cannot be loaded" in text
    assert "make build" in text


def test_a_kernel_of_another_build(tree):
    (kernel,) = (tree / "etacore/_kernels").glob("features.*.so")
    kernel.write_bytes(b"\x7fELF of another machine")
    text = said(tree)
    assert "KernelError: the compiled kernel etacore._kernels.features cannot be loaded" in text
    assert "make build" in text


def test_a_checkout_in_which_nothing_was_built(tree):
    for kernel in (tree / "etacore/_kernels").glob("*.so"):
        kernel.unlink()
    assert "hint: build the kernels anew: `make build` in a checkout" in said(tree)
