"""Starting workers: the same environment for all, and errors that name the workload."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.fleet import model_path
from benchmarks.gate.errors import GateError

WORKER: Final = Path(__file__).with_name("worker.py")
KEPT: Final = ("PATH", "HOME", "CC", "LD_LIBRARY_PATH", "TMPDIR")
FIXED: Final = {
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
# `rep movsb` would be counted once for each byte, on CPUs and for copies for which libc prefers it; and whether growing
# a large block copies it would depend on what lies behind it.
COUNTED_TUNABLES: Final = (
    "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824"
    ":glibc.malloc.mmap_threshold=65536"
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Where a compiled model is: a registry, and its key there."""

    registry: Path
    key: str


def environment(*, counted: bool = False) -> dict[str, str]:
    """A worker's: nothing of the caller's that a count could depend on."""
    env = {name: os.environ[name] for name in KEPT if name in os.environ} | FIXED
    return env | {"GLIBC_TUNABLES": COUNTED_TUNABLES} if counted else env


def command(task: str, tree: Path, bundle: Bundle | None = None, **options: object) -> list[str]:
    """Command line of a worker; options that are None or empty are left out."""
    if bundle is not None:
        options = {"registry": bundle.registry, "key": bundle.key, **options}
    given = [f"--{name}={value}" for name, value in options.items() if value not in (None, "")]
    return [sys.executable, "-P", str(WORKER), task, f"--tree={tree}", *given]


def run(arguments: Sequence[str], env: Mapping[str, str]) -> str:
    """Standard output of a program.

    Raises
    ------
    GateError
        If it fails; quotes the last lines of what it said.
    FileNotFoundError
        If there is no such program.
    """
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if not line.startswith("==")]
        raise GateError(f"{Path(arguments[0]).name} failed ({done.returncode}): {' / '.join(said[-4:])[-800:]}")
    return done.stdout


def prepare(tree: Path, cache: Path | None = None) -> Bundle:
    """The benchmark's model, compiled by the ``etacore`` of a tree.

    It is made once for a version of the forest kernel and kept below build/, or in `cache`.
    """
    if cache is not None:
        trained = model_path()
        cache.mkdir(parents=True, exist_ok=True)
        shutil.copy2(trained, cache)
    found = json.loads(run(command("prepare", tree, cache=cache), environment()).splitlines()[-1])
    return Bundle(Path(found["registry"]), found["key"])
