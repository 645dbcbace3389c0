"""The source tree of a commit, with its kernels compiled, for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.fleet import CACHE, ROOT
from benchmarks.gate.budgets import compiler
from benchmarks.gate.errors import GateError
from etacore.models.forest import sha256_hex

BUILD: Final = ("setup.py", "-q", "build_ext", "--inplace")
KERNEL_SOURCES: Final = ("src_ext", "setup.py")


def default_base() -> str:
    """Where this branch left ``origin/main``; without such a branch the last commit, for what is not committed yet."""
    done = subprocess.run(
        ["git", "merge-base", "origin/main", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "HEAD"


def resolve(commit: str) -> str:
    """Full name of a commit.

    Raises
    ------
    GateError
        If git is missing, this is no clone, or there is no such commit.
    """
    return _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}", about=commit)


def describe(commit: str) -> str:
    """A commit in a few words."""
    return _git("log", "-1", "--format=%h %s", commit, about=commit)


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A tree of the commit, beside this one; it is gone afterwards, however the block ends.

    The compiled kernels are kept below build/ and used again for the same sources and tools.

    Raises
    ------
    GateError
        If the tree cannot be made or does not build.
    """
    _git("worktree", "prune", about=commit)
    folder = Path(tempfile.mkdtemp(prefix="etacore-gate-"))
    tree = folder / "base"
    try:
        _git("worktree", "add", "--quiet", "--detach", str(tree), commit, about=commit)
        kernels = _kernels(tree, commit)
        _copy_kernels(kernels, tree / "etacore")
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["git", "worktree", "prune"], cwd=ROOT, capture_output=True, check=False)


def stale_kernels(tree: Path = ROOT) -> list[str]:
    """Kernels that are older than their sources, or not there."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    found = []
    for source in sorted((tree / "src_ext").rglob("*.pyx")):
        kernel = (tree / source.relative_to(tree / "src_ext")).with_suffix(suffix)
        if not kernel.exists() or kernel.stat().st_mtime < source.stat().st_mtime:
            found.append(source.stem)
    return found


def build(tree: Path, about: str) -> None:
    """Compile the kernels of a tree in place.

    Raises
    ------
    GateError
        If that fails; quotes the last lines of what the compiler said.
    """
    done = subprocess.run(
        [sys.executable, *BUILD],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-6:]
        raise GateError(
            f"{about} does not build:\n  " + "\n  ".join(said), hint="choose another commit to compare with"
        )


def _kernels(tree: Path, commit: str) -> Path:
    sources = [_git("rev-parse", f"{commit}:{name}", about=commit) for name in KERNEL_SOURCES]
    tools = [compiler(), version("cython"), version("numpy"), str(sysconfig.get_config_var("EXT_SUFFIX"))]
    kept = CACHE / "gate" / sha256_hex("\n".join([*sources, *tools]).encode())[:16]
    if not kept.exists():
        build(tree, f"commit {describe(commit)}")
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=_made(kept.parent)))
        _copy_kernels(tree / "etacore", partial)
        partial.rename(kept)
    return kept


def _copy_kernels(source: Path, target: Path) -> None:
    """Into the folders where they lay: those of a commit need not be those of this tree."""
    for kernel in source.rglob("*.so"):
        copy = target / kernel.relative_to(source)
        _made(copy.parent)
        shutil.copy2(kernel, copy)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _git(*arguments: str, about: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise GateError("git is missing, so there is no commit to compare with", hint="apt-get install git") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no such commit here"]
        raise GateError(
            f"commit {about!r} cannot be used: {reason[0]}",
            hint="in CI, fetch the history: `fetch-depth: 0` (GitHub), `GIT_DEPTH: 0` (GitLab)",
        )
    return done.stdout.strip()
