"""Budgets of instructions: read, judge, write anew."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from benchmarks.gate.callgrind import WHOLE, Count, by_name
from benchmarks.gate.errors import GateError
from etacore.errors import CompileError
from etacore.mlops.bundling.compile import find_compiler

BUDGETS: Final = Path(__file__).resolve().parent.parent / "budgets.toml"
HEADROOM: Final = 0.05
"""A kernel may take this much more than was recorded. Another layout of the heap changes a count by up to 3 %."""
MIN_SHARE: Final = 0.02
"""Kernels that take less of a workload have no budget of their own."""

BEGIN: Final = "# ---- Instructions, written by `python -m benchmarks.gate record`; ends at the next such line."
END: Final = "# ---- End of the instructions."
_EXPLAINED: Final = (
    "# For each kernel what it executes for one unit of work, with all that it calls; `whole` is the interpreter too.\n"
    "# They hold for what they were recorded with, and elsewhere are not compared; docs/performance-gate.md."
)

Verdict = Literal["ok", "over", "less", "gone", "new", "not compared"]


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel in a workload: what it took before (or may take), and what it takes.

    Attributes
    ----------
    before, now : float or None
        Instructions for one unit; None where the kernel was not called, or has no budget.
    verdict : str
        ``over`` and, against budgets, ``gone`` fail the gate.
    """

    workload: str
    kernel: str
    unit: str
    before: float | None
    now: float | None
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        """`now` in units of `before`."""
        return None if not self.before or self.now is None else self.now / self.before


@dataclass(frozen=True, slots=True)
class Budgets:
    """What was recorded, and with what.

    Attributes
    ----------
    toolchain : dict
        As `toolchain` gives it.
    headroom : float
        Share by which a count may be above what was recorded.
    recorded : dict
        By workload and kernel: the unit, and instructions for one of it.
    """

    toolchain: Mapping[str, str]
    headroom: float
    recorded: Mapping[tuple[str, str], tuple[str, float]]


def toolchain(forest_path: str) -> dict[str, str]:
    """What counts depend on besides the code.

    Parameters
    ----------
    forest_path : str
        The path that the forest took under valgrind, which shows it no AVX-512.
    """
    return {
        "machine": platform.machine(),
        "compiler": compiler(),
        "cython": version("cython"),
        "libc": " ".join(platform.libc_ver()),
        "forest": forest_path,
        "numpy": version("numpy"),
        "python": " ".join(sys.version.split()),
    }


def differs(budgets: Budgets, here: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Parts of the toolchain that are others than recorded: name to (recorded, here)."""
    return {
        name: (budgets.toolchain.get(name, "nothing"), value)
        for name, value in here.items()
        if budgets.toolchain.get(name) != value
    }


def read_budgets(path: Path = BUDGETS) -> Budgets:
    """Read the instruction counts of a budget file.

    Raises
    ------
    GateError
        If the file is missing or has none.
    """
    try:
        content = tomllib.loads(path.read_text())
        about = content["recorded"]
        recorded = {(e["workload"], e["kernel"]): (str(e["per"]), float(e["count"])) for e in content["instructions"]}
        headroom = float(about.pop("headroom"))
    except FileNotFoundError:
        raise GateError(f"{path} is missing", hint="python -m benchmarks.gate record --budgets FILE") from None
    except (tomllib.TOMLDecodeError, LookupError, TypeError, ValueError) as error:
        raise GateError(
            f"{path} holds no instruction counts: {type(error).__name__}: {error}",
            hint="python -m benchmarks.gate record",
        ) from None
    if not 0 < headroom < 1:
        raise GateError(f"{path}: headroom is {headroom}, but must be between 0 and 1")
    return Budgets(about, headroom, recorded)


def record(counts: Sequence[Count], tools: Mapping[str, str], headroom: float = HEADROOM) -> Budgets:
    """Budgets that these counts just meet, with room."""
    recorded = {}
    for count in counts:
        for kernel in (*count.kernels(MIN_SHARE), WHOLE):
            per_unit = count.per_unit(kernel)
            assert per_unit is not None
            recorded[count.workload, kernel] = (count.unit, round(per_unit, 2))
    return Budgets(dict(tools), headroom, recorded)


def write_budgets(budgets: Budgets, path: Path = BUDGETS) -> None:
    """Put them into a budget file, which may hold other budgets, in place of what was recorded before."""
    text = path.read_text() if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and not end:
        raise GateError(f"{path} has lost the line {END!r}", hint="put it back below the last [[instructions]]")
    before = before.rstrip("\n") + "\n\n" if before.strip() else ""
    path.write_text(f"{before}{BEGIN}\n{_toml(budgets)}{END}\n{after.lstrip()}")


def judge(counts: Iterable[Count], budgets: Budgets, here: Mapping[str, str]) -> list[Row]:
    """Hold counts against budgets.

    Nothing is compared if the kernels were compiled or are run by something else than recorded. Another Python or
    NumPy leaves out what they are part of: `WHOLE`, and what is done call by call.
    """
    different = set(differs(budgets, here))
    python_only = different <= {"python", "numpy"}
    known = by_name(counts)
    rows = []
    for (workload, kernel), (unit, allowed) in budgets.recorded.items():
        count = known.get(workload)
        now = count.per_unit(kernel) if count else None
        verdict: Verdict = verdict_of(allowed, now, 1 + budgets.headroom)
        if different and not (python_only and kernel != WHOLE and unit != "call"):
            verdict = "not compared"
        rows.append(Row(workload, kernel, unit, allowed, now, verdict))
    for count in known.values():
        rows += [
            Row(count.workload, kernel, count.unit, None, count.per_unit(kernel), "new")
            for kernel in (*count.kernels(MIN_SHARE), WHOLE)
            if (count.workload, kernel) not in budgets.recorded
        ]
    return rows


def verdict_of(before: float | None, now: float | None, at_most: float) -> Verdict:
    """What to say of a count.

    Parameters
    ----------
    before, now : float or None
    at_most : float
        Allowed ratio.
    """
    if before is None:
        return "new"
    if now is None:
        return "gone"
    if now > before * at_most:
        return "over"
    return "less" if now * at_most < before else "ok"


def _toml(budgets: Budgets) -> str:
    about = "\n".join(f'{name} = "{value}"' for name, value in budgets.toolchain.items())
    entries = "\n".join(
        f'\n[[instructions]]\nworkload = "{workload}"\nkernel = "{kernel}"\nper = "{unit}"\ncount = {count}'
        for (workload, kernel), (unit, count) in budgets.recorded.items()
    )
    return f"{_EXPLAINED}\n\n[recorded]\nheadroom = {budgets.headroom}\n{about}\n{entries}\n\n"


def compiler() -> str:
    try:
        command = find_compiler()
        says = [
            subprocess.run([*command, flag], capture_output=True, text=True, check=True).stdout
            for flag in ("--version", "-dumpversion")
        ]
    except CompileError as error:
        raise GateError(error.message, hint="apt-get install gcc libc6-dev") from None
    except (OSError, subprocess.CalledProcessError):
        raise GateError(f"the compiler {shlex.join(command)} does not say its version") from None
    return f"{'clang' if 'clang' in says[0].lower() else 'gcc'} {says[1].strip().split('.')[0]}"
