"""Names that code written for the flat package uses: they work, and say where they are now."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.unit.test_imports import loaded_by

ROOT = Path(__file__).resolve().parents[2]

OLD: dict[str, dict[str, tuple[str, ...]]] = {
    "etacore.engine": {
        "etacore.pipeline.engine": ("Batch", "Engine", "Fetch", "Part", "summarize", "system_clock_us"),
        "etacore.models.choice": ("Models", "choose_models"),
    },
    "etacore.profiler": {"etacore.loop.latency": ("METRICS", "MetricSnapshot", "Profiler")},
    "etacore.registry": {
        "etacore.models.registry": (
            "ARCHIVE",
            "INDEX_FILE",
            "Entry",
            "Manifest",
            "Model",
            "Registry",
            "check_model_key",
            "make_model_key",
        )
    },
    "etacore.runtime": {
        "etacore.loop.runtime": (
            "Observer",
            "PollResult",
            "RunSummary",
            "Runtime",
            "Silent",
            "Window",
        ),
        "etacore.store.announcement": ("announced_key",),
    },
    "etacore.schema": {"etacore.status": ("FAILED", "REJECTED", "Status")},
}
NAMES = [(old, name, new) for old, modules in OLD.items() for new, names in modules.items() for name in names]


@pytest.mark.parametrize(("old", "name", "new"), NAMES, ids=[f"{old}.{name}" for old, name, _ in NAMES])
def test_an_old_name_is_the_thing_and_says_where_it_is_now(old, name, new):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(new), name)
    (warning,) = warned
    assert warning.category is DeprecationWarning
    assert str(warning.message) == f"{old}.{name} is {new}.{name} now; the old name goes with the next version"
    assert warning.filename == __file__


def run(program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_an_import_warns_once_at_the_line_that_imports(tmp_path):
    script = tmp_path / "theirs.py"
    script.write_text(
        """import sys
sys.path.insert(0, sys.argv[1])
from etacore.engine import Engine
print(Engine)
"""
    )
    done = subprocess.run([sys.executable, script, ROOT], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "<class 'etacore.pipeline.engine.Engine'>\n"
    assert done.stderr.splitlines() == [
        f"{script}:3: DeprecationWarning: etacore.engine.Engine is etacore.pipeline.engine.Engine now; "
        "the old name goes with the next version",
        "  from etacore.engine import Engine",
    ]


def test_where_warnings_are_errors_the_error_says_the_same():
    done = run("from etacore.runtime import Runtime", "-W", "error")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "DeprecationWarning: etacore.runtime.Runtime is etacore.loop.runtime.Runtime now; "
        "the old name goes with the next version"
    )


@pytest.mark.parametrize("old", OLD)
def test_a_name_that_never_was_is_none(old):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = importlib.import_module(old)
        assert not hasattr(module, "__path__")
        with pytest.raises(AttributeError, match="nonsense"):
            _ = module.nonsense


@pytest.mark.parametrize("old", sorted(OLD.keys() - {"etacore.schema"}))
def test_an_old_module_loads_nothing_until_it_is_asked_for_a_name(old):
    assert {name for name in loaded_by(old) if name.startswith("etacore")} == {"etacore", "etacore._moved", old}


def test_nothing_of_ours_uses_an_old_name():
    old_names = {f"{old}.{name}" for old, name, _ in NAMES}
    ours = [path for folder in ("etacore", "flows", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    used = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in ours
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{node.module}.{alias.name}" in old_names
    ]
    assert not used


# -- the front door ---------------------------------------------------------------------------------------------------


def test_the_package_offers_the_drop_in_call():
    import etacore
    from etacore.estimator import estimate_stop_times

    assert etacore.estimate_stop_times is estimate_stop_times
    assert "estimate_stop_times" in dir(etacore)
    assert set(etacore.__all__) == {"__version__", "estimate_stop_times"}
    with pytest.raises(AttributeError, match="module 'etacore' has no attribute 'nonsense'"):
        _ = etacore.nonsense


def test_the_package_loads_nothing_else_until_the_call_is_asked_for():
    assert {name for name in loaded_by("etacore") if name.startswith("etacore")} == {"etacore"}
    assert not {"numpy", "redis", "orjson"} & loaded_by("etacore")
    done = run("import sys; from etacore import estimate_stop_times; print('etacore.estimator' in sys.modules)")
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_star_import_brings_the_call():
    assert run("from etacore import *; print(estimate_stop_times.__module__)").stdout == "etacore.estimator\n"
