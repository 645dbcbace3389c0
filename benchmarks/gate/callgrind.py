"""Instruction counts of the workloads, by valgrind's callgrind.

A count says how many instructions were executed between two marks, by whatever was called there. Unlike a time it
does not depend on what else the machine does. It does depend on the compiler and the libraries; see `budgets`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gate.errors import GateError
from benchmarks.gate.former_names import KERNELS
from benchmarks.gate.running import Bundle, command, environment, run
from etacore.errors import CompileError
from etacore.mlops.bundling.compile import find_compiler

MARKS: Final = Path(__file__).with_name("marks.c")
VALGRIND: Final = ("valgrind", "--tool=callgrind", "--instr-atstart=no", "--dump-line=no")
# Names in full: what is short is then also simple to read.
FORMAT: Final = ("--compress-strings=no", "--compress-pos=no")
WHOLE: Final = "whole"
"""In place of a kernel: all that a workload executes, the interpreter and NumPy too."""

MIN_INSTRUCTIONS: Final = 20_000
"""In fewer, the some hundred that depend on the layout of the heap would be a regression."""

_TRIGGER: Final = "desc: Trigger: Client Request: "
_ENTRY: Final = re.compile(r"__pyx_pw_7etacore_(?:8_kernels_)?(\d+)(\w+)")
_CLASS: Final = re.compile(r"(\d+)([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Count:
    """Instructions of a workload.

    Attributes
    ----------
    workload : str
    size : int
        Units of work in it.
    unit : str
        What a unit is: ``vehicle``, ``row``, ``call`` or ``route``.
    n_instructions : dict
        By kernel, an entry point such as ``fleet.Fleet.screen`` with all that it calls; and for `WHOLE`.
    """

    workload: str
    size: int
    unit: str
    n_instructions: dict[str, int]

    def per_unit(self, kernel: str) -> float | None:
        """Instructions for one unit of work; None if the kernel was not called."""
        n = self.n_instructions.get(kernel)
        return None if n is None else n / self.size

    def kernels(self, share: float) -> list[str]:
        """Entry points with at least this share of the whole, and not too small to judge, the largest first."""
        n = self.n_instructions
        found = [name for name in n if name != WHOLE and n[name] >= max(share * n[WHOLE], MIN_INSTRUCTIONS)]
        return sorted(found, key=lambda name: -n[name])


@dataclass(frozen=True, slots=True)
class Counted:
    """A run of the workloads.

    Attributes
    ----------
    counts : list of Count
    forest_path : str
        How the forest was computed; ``""`` for a model that is none.
    failed : dict
        Workloads that cannot be run with this tree, and why.
    """

    counts: list[Count]
    forest_path: str
    failed: dict[str, str]


def count(bundle: Bundle, *, tree: Path, sample: Path | None = None, only: str = "", disturb: int = 0) -> Counted:
    """Count the instructions of the workloads.

    Parameters
    ----------
    bundle : Bundle
        The model to predict with.
    tree : Path
        Source tree whose ``etacore`` is counted.
    sample : Path, optional
        Sample of a fleet instead of the seeded one.
    only : str
        Count only workloads with this in their name.
    disturb : int
        Another number, another layout of the heap: to see how little counts depend on it.

    Raises
    ------
    GateError
        If a tool is missing or the worker fails.
    """
    if shutil.which("valgrind") is None:
        raise GateError("valgrind is missing, instructions cannot be counted", hint="apt-get install valgrind")
    with tempfile.TemporaryDirectory(prefix="etacore-gate-") as temporary:
        folder = Path(temporary)
        marks = _build_marks(folder)
        worker = command("count", tree, bundle, sample=sample, only=only, marks=marks, disturb=disturb or None)
        out = folder / "callgrind.out"
        worker = [*VALGRIND, *FORMAT, f"--callgrind-out-file={out}", *worker]
        facts = json.loads(run(worker, environment(counted=True)).splitlines()[-1])
        dumps = dict(read_dump(path.read_text()) for path in folder.glob(f"{out.name}.*"))
    around = dumps[""][WHOLE]
    counts = []
    for name, size, unit in facts["workloads"]:
        n = dumps[name]
        n[WHOLE] -= around
        counts.append(Count(name, size, unit, n))
    return Counted(counts, facts["forest_path"], facts["failed"])


def read_dump(text: str) -> tuple[str, dict[str, int]]:
    """Name of a dump, and its instructions by kernel.

    Parameters
    ----------
    text : str
        What callgrind wrote, without compression: https://valgrind.org/docs/manual/cl-format.html.
    """
    name, n = "", {WHOLE: 0}
    callee: str | None = None
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(_TRIGGER):
            name = line.removeprefix(_TRIGGER)
        elif line.startswith("totals: "):
            n[WHOLE] = int(line.split()[1])
        elif line.startswith("cfn="):
            callee = kernel_name(line.removeprefix("cfn="))
        elif line.startswith("calls="):
            inclusive = int(next(lines).split()[1])
            if callee is not None:
                n[callee] = n.get(callee, 0) + inclusive
    return name, n


def kernel_name(symbol: str) -> str | None:
    """``fleet.Fleet.screen`` for ``__pyx_pw_7etacore_8_kernels_5fleet_5Fleet_11screen``.

    Cython writes each name after its length, and functions after a number of their own. Kernels of a tree without
    folders have the names of today. None for other symbols.
    """
    found = _ENTRY.match(symbol)
    if found is None:
        return None
    length, rest = int(found[1]), found[2]
    module, rest = rest[:length].lstrip("_"), rest[length + 1 :]
    names = [KERNELS.get(module, module)]
    if (owner := _CLASS.match(rest)) and owner[2][int(owner[1]) : int(owner[1]) + 1] == "_":
        length = int(owner[1])
        names.append(owner[2][:length])
        rest = owner[2][length + 1 :]
    return ".".join([*names, rest.lstrip("0123456789")])


def by_name(counts: Iterable[Count]) -> dict[str, Count]:
    """Counts by workload."""
    return {count.workload: count for count in counts}


def _build_marks(folder: Path) -> Path:
    library = folder / "marks.so"
    try:
        compiler: Sequence[str] = find_compiler()
    except CompileError as error:
        raise GateError(error.message, hint="apt-get install gcc libc6-dev") from None
    arguments = [*compiler, "-shared", "-fPIC", "-O1", str(MARKS), "-o", str(library)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next(iter(done.stderr.strip().splitlines()), "no message")
        raise GateError(f"{MARKS.name} does not compile: {first}", hint="apt-get install valgrind, for its headers")
    return library
