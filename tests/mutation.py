"""Mutation testing: does a test notice when a line is a little wrong?

    python tests/mutation.py                                       all modules, or go on with a run that was ended
    python tests/mutation.py --only split.py --per-module 30       a closer look at one
    python tests/mutation.py --tests v1.2 --results before.jsonl   with the tests as they were then
    python tests/mutation.py --killed-before before.jsonl          only what those tests let through

Small slips are put into the sources one at a time, in a copy of the tree: ``<`` becomes ``<=``, ``+`` becomes ``-``,
``and`` becomes ``or``, a number is off by one, a condition is negated, an index is forgotten (``rows[failed]`` becomes
``failed``), ``min`` becomes ``max``, a statement is left out. The tests that the table below names for the module then
have to fail. Texts, annotations, what is raised and the constants of a module are left alone. The same seed draws the
same mutants as long as a module is the same, and more of them begin with the fewer. A kernel is built anew for each of
its mutants, without much optimisation. Ctrl-C ends a run with the table so far; nothing of it has to be done again.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

MODULES: Final[Mapping[str, Sequence[str]]] = {
    "etacore/pipeline/engine.py": (
        "unit/test_engine.py",
        "unit/test_mixed_batches.py",
        "parity/test_estimator_engine.py",
    ),
    "etacore/loop/schedule.py": ("unit/test_schedule.py", "integration/test_plain_path.py"),
    "etacore/loop/runtime.py": ("integration/test_runtime.py", "integration/test_mixed_chunks.py"),
    "etacore/pipeline/routes.py": (
        "unit/test_routes.py",
        "unit/test_directions.py",
        "unit/test_engine.py",
        "unit/test_mixed_batches.py",
    ),
    "etacore/store/store.py": ("unit/test_store.py", "integration/test_mixed_chunks.py", "integration/test_runtime.py"),
    "etacore/store/changes.py": ("unit/test_changes.py", "integration/test_changes.py"),
    "etacore/estimator.py": ("unit/test_estimator.py", "golden/test_golden.py", "parity/test_estimator_engine.py"),
    "src_ext/etacore/_kernels/batch.pyx": (
        "unit/test_batch.py",
        "unit/test_encoding.py",
        "unit/test_snapshots.py",
        "unit/test_mixed_batches.py",
    ),
    "src_ext/etacore/_kernels/select.pyx": (
        "unit/test_features.py",
        "unit/test_mixed_batches.py",
        "parity/test_features.py",
    ),
    "src_ext/etacore/_kernels/features.pyx": (
        "unit/test_features.py",
        "unit/test_calendar.py",
        "unit/test_mixed_batches.py",
        "parity/test_features.py",
        "parity/test_window.py",
    ),
    "src_ext/etacore/_kernels/fleet.pyx": ("unit/test_fleet.py", "unit/test_mixed_batches.py", "parity/test_fleet.py"),
    "src_ext/etacore/_kernels/encode.pyx": (
        "unit/test_encoding.py",
        "parity/test_encoding.py",
        "unit/test_mixed_batches.py",
    ),
    "src_ext/etacore/_kernels/resolve.pyx": (
        "unit/test_routes.py",
        "unit/test_directions.py",
        "parity/test_resolve.py",
        "unit/test_engine.py",
        "unit/test_mixed_batches.py",
    ),
    "etacore/mlops/bundling/forest_kernel.c": ("parity/test_bitmask_forest.py",),
    "etacore/mlops/dataset/split.py": ("unit/test_split.py",),
    "etacore/mlops/transit/tracks.py": ("unit/test_tracks.py", "unit/test_arrivals.py", "unit/test_dataset_build.py"),
    "etacore/mlops/transit/arrivals.py": ("unit/test_arrivals.py", "unit/test_dataset_build.py"),
    "etacore/mlops/dataset/labels.py": ("unit/test_dataset_build.py",),
    "etacore/mlops/promotion/promote.py": ("unit/test_promotion.py",),
    "etacore/mlops/replay/scoring.py": ("unit/test_replay_scoring.py", "integration/test_replay.py"),
    "etacore/mlops/metrics.py": ("unit/test_metrics.py",),
}
"""Each module with the files below tests that ought to notice its mutants, the quickest first."""

_SET_ANEW: Final = "set anew before it is read"
EQUIVALENT: Final[Mapping[tuple[str, str, str], str]] = {
    ("changes.py", "self._check_at = 0.0", "self._check_at = 1.0"): _SET_ANEW,
    ("changes.py", "self._is_silent = self._is_asked = False", "pass"): _SET_ANEW,
    (
        "select.pyx",
        "if best == INFINITY and i - first < N_KEPT and kept[i - first] > reach_m2:",
        "if best == INFINITY and i + first < N_KEPT and kept[i - first] > reach_m2:",
    ): "saves a second look at pieces too far away, which would find the same",
    (
        "resolve.pyx",
        "if source.known and not source.in_use:",
        "if source.known or not source.in_use:",
    ): "what is not known is never due, and a pass is no later",
    (
        "split.py",
        "unused = tuple(day for day in days if day > chosen[0] and day not in chosen)",
        "unused = tuple(day for day in days if day >= chosen[0] and day not in chosen)",
    ): "the first chosen day is a chosen one",
}
"""Mutants that change nothing anybody could notice, by file name, line and mutated line, with the reason: they count
for neither side."""

PER_MODULE: Final = 6
SEED: Final = 1
MIN_TIMEOUT_S: Final = 60.0
"""Time for the tests of a mutant, beside five times what they take without one."""
TEST_TIMEOUT_S: Final = 60
ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "results" / "mutation.jsonl"
_NOT_COPIED: Final = (".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", ".benchmarks", "results", "dist")

SWAPPED: Final = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "is": "is not",
    "is not": "is",
    "in": "not in",
    "not in": "in",
    "+": "-",
    "-": "+",
    "&": "|",
    "|": "&",
    "+=": "-=",
    "-=": "+=",
    "&=": "|=",
    "|=": "&=",
    "and": "or",
    "or": "and",
    "&&": "||",
    "||": "&&",
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "fmin": "fmax",
    "fmax": "fmin",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One slip: the bytes ``start:end`` of a file become ``new``."""

    path: str
    line: int
    start: int
    end: int
    old: str
    new: str

    def apply(self, source: bytes) -> bytes:
        """The file with the slip in it."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def shown(self) -> str:
        """File and line, and the change."""
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.path}:{self.line}  {old:.60}  ->  {new:.60}"


# -- where a slip may be ----------------------------------------------------------------------


class _PythonMutants(ast.NodeVisitor):
    """Collects the mutants of a Python module, by the positions of its syntax tree."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path = path
        self.source = source
        self.line_starts = [0, *(match.end() for match in re.finditer(rb"\n", source))]
        self.found: list[Mutant] = []

    def at(self, line: int, column: int) -> int:
        return self.line_starts[line - 1] + column

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self.at(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt) -> int:
        return self.at(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def add(self, line: int, start: int, end: int, new: str) -> None:
        self.found.append(Mutant(self.path, line, start, end, self.source[start:end].decode(), new))

    def replace(self, node: ast.expr | ast.stmt, new: str) -> None:
        self.add(node.lineno, self.start(node), self.end(node), new)

    def text(self, node: ast.expr | ast.stmt) -> str:
        return self.source[self.start(node) : self.end(node)].decode()

    def swap_between(self, left: ast.expr, right: ast.expr) -> None:
        """Swap the operator between two operands."""
        begin, end = self.end(left), self.start(right)
        match = re.search(rb"\b(?:is not|not in|is|in|and|or)\b|[<>=!]=|[<>+\-&|]", self.source[begin:end])
        if match is not None and (new := SWAPPED.get(match.group().decode())) is not None:
            line = left.end_lineno or left.lineno
            self.add(line, begin + match.start(), begin + match.end(), new)

    def visit_Module(self, node: ast.Module) -> None:
        for part in node.body:
            if not isinstance(part, ast.Assign | ast.AnnAssign):
                self.visit(part)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right in pairwise([node.left, *node.comparators]):
            self.swap_between(left, right)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in pairwise(node.values):
            self.swap_between(left, right)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not any(_is_text(side) for side in (node.left, node.right)):
            self.swap_between(node.left, node.right)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, int | float) and not isinstance(node.value, bool):
            self.replace(node, repr(node.value + 1))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        is_index = isinstance(node.slice, ast.Name | ast.Attribute | ast.Call | ast.BinOp | ast.Subscript)
        name = self.text(node.value).rpartition(".")[2]
        is_type = name[0].isupper() or name in ("dict", "frozenset", "list", "set", "tuple", "type")
        if is_index and isinstance(node.ctx, ast.Load) and not is_type:
            self.replace(node, self.text(node.slice))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name | ast.Attribute):
            name = function.id if isinstance(function, ast.Name) else function.attr
            if name in ("min", "max", "minimum", "maximum", "fmin", "fmax"):
                end = self.end(function)
                self.add(function.end_lineno or function.lineno, end - len(name), end, SWAPPED[name])
        self.generic_visit(node)

    def negate(self, test: ast.expr) -> None:
        self.replace(test, f"not ({self.text(test)})")

    def visit_If(self, node: ast.If) -> None:
        if not isinstance(node.test, ast.Compare) and ast.unparse(node.test) != "TYPE_CHECKING":
            self.negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Compare | ast.Constant):
            self.negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        if not isinstance(node.test, ast.Compare):
            self.negate(node.test)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self.replace(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace(node, "pass")
        begin = self.end(node.target)
        match = re.search(rb"[+\-&|]=", self.source[begin : self.start(node.value)])
        if match is not None:
            self.add(node.lineno, begin + match.start(), begin + match.end(), SWAPPED[match.group().decode()])
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.replace(node, "pass")
            self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.replace(node, "pass")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in (*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body):
            self.visit(part)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says is not looked at."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Nor what a text says."""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _python_mutants(path: str, source: bytes) -> list[Mutant]:
    visitor = _PythonMutants(path, source)
    visitor.visit(ast.parse(source))
    return visitor.found


_CYTHON_SILENT: Final = re.compile(r'"""(?s:.)*?"""|b?"(?:\\.|[^"\\\n])*"|b?\'(?:\\.|[^\'\\\n])*\'|#[^\n]*')
_C_SILENT: Final = re.compile(r'/\*(?s:.)*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'')
_NO_CODE: Final = re.compile(r"\s*(?:#|@|(?:cdef|cpdef|def|class|struct|from|import|cimport|raise|typedef|ctypedef)\b)")
_CYTHON_HEAD: Final = re.compile(r"^[ \t]*(?:cdef|cpdef|def)\b[^=\n]*\([^:]*?\)[^:\n]*:[ \t]*$", re.MULTILINE)
_OPERATORS: Final = re.compile(r"(?<= )(?:<=|>=|==|!=|<|>|\+=|-=|&=|\|=|\+|-|&&|\|\||and|or|&|\|)(?= )")
_NUMBERS: Final = re.compile(r"(?<![\w.])\d+(?![\w.])")
_INDEX: Final = re.compile(r"(?<![\w.>])[\w.]+\[([a-z_]\w*)\](?!\s*[-+*/|&]?=[^=])")
_EXTREMES: Final = re.compile(r"\b(?:min|max|fmin|fmax)(?=\()")
_CYTHON_STATEMENT: Final = re.compile(r"^([ \t]+)([\w.]+(?:\[[^\]\n]*\])?(?:\.\w+)* [-+|&]?= [^\n]*[^\s(\[,\\]|\w+\([^\n]*\)|continue)[ \t]*$", re.M)  # fmt: skip  # noqa: E501
_C_STATEMENT: Final = re.compile(r"^([ \t]+)([\w.>\[\]-]+ [-+|&]?= [^\n;]*|\w+\([^\n;]*\)|continue)(?=;)", re.MULTILINE)
_CYTHON_TEST: Final = re.compile(r"^[ \t]*(?:if|elif|while) ([^\n]*):[ \t]*$", re.MULTILINE)
_C_TEST: Final = re.compile(r"^[ \t]*(?:else )?(?:if|while) (\([^\n]*\))(?= \{?$)", re.MULTILINE)


def _text_mutants(path: str, source: bytes) -> list[Mutant]:
    """Mutants of a Cython or C source, by its text: declarations, comments and texts blanked out."""
    is_cython = path.endswith(".pyx")
    text = source.decode("ascii")  # so that characters are bytes

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", "~", match.group())

    code = (_CYTHON_SILENT if is_cython else _C_SILENT).sub(blank, text)
    if is_cython:
        code = _CYTHON_HEAD.sub(blank, code)
    lines = code.split("\n")
    for number, line in enumerate(lines):
        declares = line.lstrip().startswith("cdef ") and " = " in line
        if (_NO_CODE.match(line) and not declares) or not line[:1].isspace():
            lines[number] = "~" * len(line)
        elif declares:  # the declaration is blanked out, its value is code
            begin = line.index(" = ") + 1
            lines[number] = "~" * begin + line[begin:]
    code = "\n".join(lines)
    found: list[Mutant] = []

    def add(start: int, end: int, new: str) -> None:
        if "~" not in code[start:end]:
            found.append(Mutant(path, text.count("\n", 0, start) + 1, start, end, text[start:end], new))

    for pattern in (_OPERATORS, _EXTREMES):
        for match in pattern.finditer(code):
            add(match.start(), match.end(), SWAPPED[match.group()])
    for match in _NUMBERS.finditer(code):
        add(match.start(), match.end(), str(int(match.group()) + 1))
    for match in _INDEX.finditer(code):
        add(match.start(), match.end(), match.group(1))
    for match in (_CYTHON_STATEMENT if is_cython else _C_STATEMENT).finditer(code):
        add(match.start(2), match.end(2), "pass" if is_cython else "")
    for match in (_CYTHON_TEST if is_cython else _C_TEST).finditer(code):
        test = text[match.start(1) : match.end(1)]
        add(match.start(1), match.end(1), f"not ({test})" if is_cython else f"(!{test})")
    return found


def draw(path: str, source: bytes, seed: int) -> list[Mutant]:
    """All mutants of a module, in the order in which they are tried."""
    mutants = (_python_mutants if path.endswith(".py") else _text_mutants)(path, source)
    mutants = sorted(set(mutants), key=lambda mutant: (mutant.start, mutant.end, mutant.new))
    random.Random(f"{seed} {Path(path).name}").shuffle(mutants)
    return mutants


# -- trying them ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant: ``killed``, ``survived``, or ``invalid`` where it does not even build."""

    mutant: Mutant
    outcome: str
    by: str
    seconds: float


class Workshop:
    """A copy of the tree in which slips are made and undone."""

    def __init__(self, folder: Path, tests_of: str | None) -> None:
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*_NOT_COPIED), symlinks=True)
        if tests_of is not None:
            shutil.rmtree(folder / "tests")
            archive = subprocess.run(["git", "archive", tests_of, "tests"], cwd=ROOT, check=True, capture_output=True)
            subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
        compiler = folder / "quick-cc"
        compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CC", "gcc")} "$@" -O1\n')
        compiler.chmod(0o755)
        self.environment = {
            **os.environ,
            "CC": str(compiler),
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ETACORE_HYPOTHESIS_PROFILE": "ci",
        }

    def run(self, command: Sequence[str], timeout_s: float | None = None) -> tuple[int | None, str]:
        """Exit code (None: timed out) and output of a Python command in the copy."""
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout_s)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            # What the tests started belongs to this group too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def build(self) -> bool:
        """Build what changed; whether that worked."""
        code, _ = self.run(["setup.py", "-q", "build_ext", "--build-lib", "."])
        return code == 0

    def test(self, tests: Sequence[str], timeout_s: float | None = None) -> tuple[str, str]:
        """Outcome of a mutant, and the test that noticed it."""
        there = [f"tests/{name}" for name in tests if (self.folder / "tests" / name).exists()]
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_TIMEOUT_S}"]
        code, output = self.run(["-m", "pytest", *options, *there], timeout_s)
        if code == 0:
            return "survived", ""
        if code in (4, 5):
            raise SystemExit(f"pytest did not run {', '.join(there)}:\n{output[-2000:]}")
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return "killed", "timeout" if code is None else failed.group(1) if failed else f"exit code {code}"

    def try_module(
        self, path: str, mutants: Sequence[Mutant], n_valid: int, done: Mapping[Mutant, Result]
    ) -> Iterator[Result]:
        """Results of the mutants of a module, until enough of them could be built."""
        tests, is_compiled = MODULES[path], path.endswith(".pyx")
        file = self.folder / path
        source = file.read_bytes()
        timeout_s = None
        try:
            for mutant in mutants:
                if n_valid == 0:
                    return
                if (known := done.get(mutant)) is None:
                    if timeout_s is None:
                        began = time.monotonic()
                        outcome, by = self.test(tests)
                        if outcome != "survived":
                            raise SystemExit(f"{by} fails without any mutant: {path} cannot be judged")
                        timeout_s = MIN_TIMEOUT_S + 5 * (time.monotonic() - began)
                    began = time.monotonic()
                    file.write_bytes(mutant.apply(source))
                    if is_compiled and not self.build():
                        outcome, by = "invalid", ""
                    else:
                        outcome, by = self.test(tests, timeout_s)
                    known = Result(mutant, outcome, by, round(time.monotonic() - began, 1))
                n_valid -= known.outcome != "invalid"
                yield known
        finally:
            if file.read_bytes() != source:
                file.write_bytes(source)
                if is_compiled:
                    self.build()


def read_results(path: Path | None) -> dict[Mutant, Result]:
    """Results that a run wrote down."""
    if path is None or not path.exists():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        raw: dict[str, Any] = json.loads(line)
        mutant = Mutant(**raw.pop("mutant"))
        found[mutant] = Result(mutant, **raw)
    return found


# -- what came of it --------------------------------------------------------------------------


def why_equivalent(mutant: Mutant) -> str | None:
    """Why a mutant counts for neither side; None if it counts."""
    source = (ROOT / mutant.path).read_bytes()
    line, mutated = (text.decode().splitlines()[mutant.line - 1].strip() for text in (source, mutant.apply(source)))
    return EQUIVALENT.get((Path(mutant.path).name, line, mutated))


def report(results: Sequence[Result]) -> str:
    """A table by module, and the survivors."""
    lines = [f"{'module':34}{'mutants':>8}{'killed':>8}{'survived':>10}{'equivalent':>12}{'rate':>8}"]
    totals = [0, 0, 0, 0]
    counted = [result for result in results if result.outcome != "invalid"]
    alive = [result for result in counted if result.outcome == "survived"]
    reasons = {result.mutant: reason for result in alive if (reason := why_equivalent(result.mutant)) is not None}
    for path in MODULES:
        mine = [result for result in counted if result.mutant.path == path]
        if not mine:
            continue
        killed = sum(result.outcome == "killed" for result in mine)
        equal = sum(result.mutant in reasons for result in mine)
        numbers = (len(mine), killed, len(mine) - killed - equal, equal)
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
        lines.append(_row(Path(path).name, *numbers))
    lines.append(_row("all", *totals))
    for title, some in (
        ("survived", [result.mutant.shown() for result in alive if result.mutant not in reasons]),
        ("equivalent", [f"{mutant.shown()}: {reason}" for mutant, reason in reasons.items()]),
    ):
        if some:
            lines += ["", f"{title}:", *(f"  {line}" for line in some)]
    return "\n".join(lines)


def _row(name: str, n: int, killed: int, survived: int, equal: int) -> str:
    rate = f"{100 * killed / (n - equal):.0f} %" if n > equal else "-"
    return f"{name:34}{n:8}{killed:8}{survived:10}{equal:12}{rate:>8}"


def main() -> None:
    """Try the mutants and print the table."""
    parser = argparse.ArgumentParser(description="Do the tests notice small slips in the sources?")
    parser.add_argument("--only", action="append", metavar="FILE", help="this module of the table; may be repeated")
    parser.add_argument("--per-module", type=int, default=PER_MODULE, metavar="N", help=f"default {PER_MODULE}")
    parser.add_argument("--seed", type=int, default=SEED, help=f"default {SEED}")
    parser.add_argument("--tests", metavar="COMMIT", help="take the folder tests of this commit")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a run that was ended goes on from this file")
    parser.add_argument("--killed-before", type=Path, metavar="FILE", help="results whose killed are not run again")
    options = parser.parse_args()
    wanted = [path for path in MODULES if not options.only or Path(path).name in options.only]
    if not wanted:
        parser.error(f"--only takes {', '.join(Path(path).name for path in MODULES)}")
    done = {m: r for m, r in read_results(options.killed_before).items() if r.outcome != "survived"}
    done |= read_results(options.results)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="etacore-mutation-") as name:
        try:
            workshop = Workshop(Path(name) / "tree", options.tests)
            if not workshop.build():
                raise SystemExit("the kernels could not be built")
            total = options.per_module * len(wanted)
            for path in wanted:
                mutants = draw(path, (ROOT / path).read_bytes(), options.seed)
                for result in workshop.try_module(path, mutants, options.per_module, done):
                    results.append(result)
                    n_valid = sum(one.outcome != "invalid" for one in results)
                    print(
                        f"[{n_valid:3}/{total}] {result.outcome:9}{result.seconds:7.1f} s  {result.mutant.shown()}"
                        + (f"  ({result.by})" if result.by else ""),
                        flush=True,
                    )
                    if result.mutant not in done or done[result.mutant] is not result:
                        with options.results.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(asdict(result)) + "\n")
        except KeyboardInterrupt:
            print("\nended early; the same command goes on from here")
    print(f"\n{report(results)}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\n{(used.ru_utime + used.ru_stime) / 60:.1f} minutes of one core")


if __name__ == "__main__":
    main()
