"""XGBoost model to native library, held against XGBoost before it is accepted, and into the registry."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from etacore.errors import CompileError
from etacore.mlops.bundling import bitmask, codegen
from etacore.mlops.bundling.parity import check_parity, parity_rows
from etacore.mlops.bundling.saving import make_bundle, with_holidays
from etacore.mlops.bundling.source_model import format_of, read_model
from etacore.mlops.tools import check_tools
from etacore.mlops.transit.holiday_calendar import HOLIDAY_YEARS, holiday_dates
from etacore.models.bundle import Bundle
from etacore.models.facts import ModelFacts
from etacore.models.forest import CPU, PLATFORM, Forest, library_name, sha256_hex
from etacore.models.manifest import LibraryFile, Parity
from etacore.models.registry import Registry

__all__ = [
    "HOLIDAY_YEARS",
    "CompiledModel",
    "compile_bundle",
    "compile_model",
    "compile_to_registry",
    "find_compiler",
    "holiday_dates",
]

BRANCHES: Final = "tl2cgen"
"""Backend of forests that ``bitmask`` does not fit."""

NODES_PER_UNIT: Final = 1200
# The plain CPU of the platform, so that a library runs on every machine of its kind, and nothing that differs from
# run to run or from folder to folder: the same sources give the same bytes. No contraction: a fused multiply-add
# would round differently from XGBoost. -O1 because, measured on 200 trees, it gives the fastest and smallest code.
FLAGS: Final = ("-std=c99", "-O1", "-g0", "-fPIC", "-ffp-contract=off", "-fno-ident", "-fno-asynchronous-unwind-tables")
CPU_FLAGS: Final = {"x86_64": ("-march=x86-64", "-mtune=generic")}
LINK_FLAGS: Final = ("-shared", "-s", "-nostdlib", "-Wl,--build-id=none", "-Wl,--hash-style=gnu")
# A forest without a link function needs neither libm nor libc; libgcc knows the CPU.
LIBRARIES: Final = ("-Wl,--as-needed", "-lm", "-lc", "-lgcc")

_LEAF: Final = re.compile(r"(result\[0\] \+= )([-+0-9.eE]+);")
_BASE: Final = re.compile(r"\n *// Apply base_scores\n( *result\[0\] \+= [^;]*;\n)")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """A checked library with what is known about its model; nothing of it is on disk yet."""

    source: bytes
    source_file: str
    library: bytes
    library_file: LibraryFile
    features: tuple[str, ...]
    objective: str
    n_trees: int
    n_rounds: int
    parity: Parity
    versions: Mapping[str, str] = field(default_factory=dict)
    backend_reason: str = ""


def compile_model(
    source: Path | bytes,
    *,
    features: Sequence[str] | None = None,
    compiler: Sequence[str] | None = None,
    progress: Progress | None = None,
    backend: str | None = None,
    rounds: int | str | None = None,
) -> CompiledModel:
    """Compile an XGBoost model to a shared library and hold it against XGBoost.

    The rounds are compiled that predict where the model comes from. A forest that fits becomes tables for the
    package's own kernel (``forest_kernel.c``), any other branches, by tl2cgen. The sources of tl2cgen are changed in
    two places that make the sum the same, float by float, as XGBoost's: leaves are float32 numbers and not doubles,
    and the base score comes first.

    Parameters
    ----------
    source : Path or bytes
        A model saved by XGBoost 2.x or 3.x, JSON or UBJ (told apart by content): the file, or what it holds.
    features : sequence of str, optional
        Feature names in the model's order; needed if the model does not name them.
    compiler : sequence of str, optional
        C compiler command; default ``$CC``, else ``cc``, ``gcc`` or ``clang``.
    progress : callable, optional
        Called with a line of text at each step.
    backend : str, optional
        ``bitmask`` or ``tl2cgen``; default: the first if the forest fits.
    rounds : int or str, optional
        Rounds to compile: a number, ``all`` or ``best``. Default: those up to the best for a scikit-learn model that
        was stopped early, as XGBRegressor predicts; all for any other, as ``Booster.predict`` does.

    Raises
    ------
    CompileError
        If the file is no such model, the model is of a kind that cannot be served (named in the message), a tool is
        absent or fails, or the library disagrees with XGBoost.
    SchemaError
        If a feature is unknown to this version.
    """
    tell = progress or (lambda _: None)
    check_tools()
    if backend not in (None, bitmask.BACKEND, BRANCHES):
        raise CompileError(f"unknown backend {backend!r}", hint=f"{bitmask.BACKEND} or {BRANCHES}")
    command = tuple(compiler) if compiler else find_compiler()
    content, name = _read(source)
    model_format = format_of(content, name)
    with tempfile.TemporaryDirectory(prefix="etacore-compile-") as folder:
        work = Path(folder)
        model_path = work / f"model.{model_format}"
        model_path.write_bytes(content)
        model = read_model(model_path, features, name, rounds)
        names, trees = model.features, model.trees
        if model.why:
            of = f" of {model.booster.num_boosted_rounds()}" if model.is_cut else ""
            tell(f"note: compiling {model.n_rounds}{of} rounds: {model.why}")
        if model.is_cut:
            model_path.write_bytes(model.content(model_format))
        facts = _generate(model_path, model_format, work)
        if facts["link"] != model.link or facts["n_targets"] != 1 or facts["n_classes"] != [1] or facts["averages"]:
            raise CompileError(f"treelite reads {name} as {facts}, not as one target with link {model.link!r}")
        forest = bitmask.load(work / "trees.npz")
        reason = bitmask.refusal(forest)
        if backend == bitmask.BACKEND and reason:
            raise CompileError(f"{name} does not fit the backend {backend}: {reason}")
        backend, reason = _choose(backend, reason)
        n_nodes = sum(len(tree["left_children"]) for tree in trees)
        if backend == BRANCHES:
            n_units = max(1, min(len(trees), n_nodes // NODES_PER_UNIT))
            tell(f"writing C for {len(trees)} trees, {n_nodes} nodes ({reason})")
            facts |= _generate(model_path, model_format, work, n_units)
            stems = sorted((p.stem for p in work.glob("tu*.c")), key=lambda name: int(name[2:]))
            units = [Unit(stem, f"{stem}.c") for stem in ("main", *stems)]
        else:
            tell(f"writing tables for {len(trees)} trees, {n_nodes} nodes")
            bitmask.write_sources(forest, work)
            units = [Unit(*unit) for unit in bitmask.units(CPU)]
        tell(f"compiling {len(units)} units with {shlex.join(command)}")
        library = _build(work, command, units)
        sha256 = sha256_hex(library)
        file = library_name(sha256)
        rows = parity_rows(trees, len(names))
        tell(f"checking {len(rows)} rows against XGBoost")
        expected, magnitudes = model.predict(rows), model.magnitudes(rows)
        for kernel_path in ("portable", "auto"):  # each path is checked that this machine would take
            compiled = np.empty(len(rows), np.float32)
            Forest.from_bytes(library, sha256, len(names), file, kernel_path=kernel_path).predict(rows, compiled)
            parity = check_parity(names, rows, compiled, expected, magnitudes, len(trees), model.link)
    tell(f"{parity.rows} rows agree, largest difference {parity.max_abs_error:.3g}, allowed {parity.bound:.3g}")
    versions = {name: _version(name) for name in ("etacore", "xgboost", "numpy")}
    versions |= {name: str(facts[name]) for name in ("treelite", "tl2cgen") if name in facts}
    versions |= {"python": platform.python_version(), "source_xgboost": model.version}
    return CompiledModel(
        source=content,
        source_file=model_path.name,
        library=library,
        library_file=LibraryFile(file, sha256, PLATFORM, CPU, backend, _compiler_name(command)),
        features=names,
        objective=model.objective,
        n_trees=len(trees),
        n_rounds=model.n_rounds,
        parity=parity,
        versions=versions,
        backend_reason=reason,
    )


def compile_bundle(
    source: Path | bytes,
    facts: ModelFacts,
    *,
    typical: bytes | None = None,
    model_key: str | None = None,
    saved_at: datetime | None = None,
    compiler: Sequence[str] | None = None,
    progress: Progress | None = None,
    rounds: int | str | None = None,
) -> Bundle:
    """Compile a model and make a bundle of it.

    Parameters
    ----------
    source, compiler, progress, rounds
        As for `compile_model`.
    facts : ModelFacts
        What is known of it; versions, objective and number of trees are added to the provenance.
    typical, model_key
        As for `etacore.mlops.bundling.saving.make_bundle`.
    saved_at : datetime, optional
        Aware; default now.

    Raises
    ------
    CompileError, SchemaError
        As `compile_model`; also for an unknown holiday region.
    TrainingError
        If the typical times cannot be read.
    RegistryError
        If the key is unusable, or a field is wrong.
    """
    saved_at = saved_at or datetime.now(UTC)
    facts = with_holidays(facts, saved_at)
    built = compile_model(source, features=facts.features, compiler=compiler, progress=progress, rounds=rounds)
    found = {
        "versions": dict(built.versions),
        "objective": built.objective,
        "n_trees": built.n_trees,
        "n_rounds": built.n_rounds,
        "backend": built.library_file.backend,
        "backend_reason": built.backend_reason,
    }
    return make_bundle(
        replace(facts, features=built.features, provenance={**facts.provenance, **found}),
        (built.source_file, built.source),
        saved_at=saved_at,
        model_key=model_key,
        libraries={built.library_file: built.library},
        parity=built.parity,
        typical=typical,
    )


def compile_to_registry(
    source: Path,
    registry: Registry,
    *,
    typical: bytes | None = None,
    model_key: str | None = None,
    saved_at: datetime | None = None,
    compiler: Sequence[str] | None = None,
    progress: Progress | None = None,
    rounds: int | str | None = None,
    **facts: Any,
) -> str:
    """Compile a model and add it to a registry: `compile_bundle` and `Registry.add` in one call.

    Parameters
    ----------
    source, typical, model_key, saved_at, compiler, progress, rounds
        As for `compile_bundle`.
    registry : Registry
        Where the bundle goes.
    **facts
        What is known of the model, by the names of `etacore.models.facts.ModelFacts`: ``time_zone``, ``dataset``,
        ``metrics`` and so on.

    Returns
    -------
    str
        The model key.

    Raises
    ------
    CompileError, SchemaError, TrainingError
        As `compile_bundle`.
    RegistryError
        If the key is taken or unusable, or a field is wrong.
    """
    return registry.add(
        compile_bundle(
            source,
            ModelFacts(**facts),
            typical=typical,
            model_key=model_key,
            saved_at=saved_at,
            compiler=compiler,
            progress=progress,
            rounds=rounds,
        )
    )


def find_compiler() -> tuple[str, ...]:
    """The C compiler's command: ``$CC``, else the first of ``cc``, ``gcc``, ``clang`` on the path.

    Raises
    ------
    CompileError
        If there is none.
    """
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        words = tuple(shlex.split(command))
        if words and shutil.which(words[0]):
            return words
    raise CompileError(
        "no C compiler found (CC, cc, gcc, clang)",
        hint="apt-get install gcc libc6-dev; or compile elsewhere and copy the bundle: this machine can serve it",
    )


def _read(source: Path | bytes) -> tuple[bytes, str]:
    """Content of a model, and what to call it in errors."""
    if isinstance(source, bytes):
        return source, "the model"
    try:
        return source.read_bytes(), str(source)
    except OSError as err:
        raise CompileError(f"model {source} cannot be read: {err.strerror}") from err


def _version(name: str) -> str:
    for distribution in (name, f"{name}-cpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


@dataclass(frozen=True, slots=True)
class Unit:
    """A source that is compiled by itself, with flags of its own."""

    name: str
    source: str
    flags: tuple[str, ...] = ()


def _choose(wanted: str | None, refusal: str) -> tuple[str, str]:
    """Backend and why."""
    if wanted is not None:
        return wanted, "as asked for"
    return (BRANCHES, refusal) if refusal else (bitmask.BACKEND, "the forest fits")


def _generate(model_path: Path, model_format: str, folder: Path, n_units: int | None = None) -> dict[str, Any]:
    name = {"json": "json", "ubj": "ubjson"}[model_format]
    arguments = [codegen.__file__, str(model_path), name, str(folder), *([] if n_units is None else [str(n_units)])]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(f"treelite or tl2cgen refuses the model: {_tail(done.stderr)}")
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_bytes())
    for path in folder.glob("*.c"):
        text = _LEAF.sub(r"\1(float)(\2);", path.read_text())
        if path.name == "main.c" and (base := _BASE.search(text)):
            text = text.replace(base[0], "\n", 1).replace("  predict_unit0(", f"{base[1]}  predict_unit0(", 1)
        path.write_text(text)
    return facts


def _build(folder: Path, command: Sequence[str], units: Sequence[Unit]) -> bytes:
    # Names only, from inside the folder: no path gets into the library. The order of the objects is fixed.
    flags = (*FLAGS, *CPU_FLAGS.get(CPU, ()))

    def run(*arguments: str) -> None:
        try:
            done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        except OSError as err:
            raise CompileError(f"the compiler {shlex.join(command)} cannot be started: {err.strerror}") from err
        if done.returncode != 0:
            raise CompileError(
                f"{shlex.join(command)} failed: {_tail(done.stderr)}", hint="apt-get install gcc libc6-dev"
            )

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(lambda unit: run(*flags, *unit.flags, "-c", unit.source, "-o", f"{unit.name}.o"), units))
    run(*LINK_FLAGS, *(f"{unit.name}.o" for unit in units), *LIBRARIES, "-o", "forest.so")
    return (folder / "forest.so").read_bytes()


def _compiler_name(command: Sequence[str]) -> str:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or [Path(command[0]).name])[0]


def _tail(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-6:] if line.strip())[-1000:]
