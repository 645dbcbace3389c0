"""Models out of service and back, whatever goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from etacore import files
from etacore.errors import ModelNotFoundError, RegistryError
from etacore.models.registry import Registry
from tests import models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry")


def tree(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_archive_and_restore(registry):
    for key in "abc":
        models.add_table(registry, key)
    before = tree(registry.path)
    registry.archive(["a", "c", "a"])
    assert (registry.keys(), registry.archived()) == (["b"], ["a", "c"])
    assert not (registry.path / "a").exists()
    with pytest.raises(ModelNotFoundError):
        registry.load("a")
    assert registry.archive_registry.load("a").key == "a"
    other = Registry(registry.path)
    other.restore(["a", "c"])
    assert (registry.keys(), registry.archived()) == (["a", "b", "c"], [])
    assert {k: v for k, v in tree(registry.path).items() if k.split("/")[0] in "abc"} == {
        k: v for k, v in before.items() if k.split("/")[0] in "abc"
    }
    assert registry.load("a").key == "a"
    assert json.loads((registry.path / "registry.json").read_bytes()) == json.loads(before["registry.json"])


def test_archive_refuses(registry):
    models.add_table(registry, "a")
    before = tree(registry.path)
    with pytest.raises(ModelNotFoundError, match="Model b not found"):
        registry.archive(["a", "b"])
    with pytest.raises(RegistryError, match="already in the registry"):
        registry.restore(["a"])
    with pytest.raises(ModelNotFoundError):
        registry.restore(["b"])
    assert tree(registry.path) == before


def test_a_broken_entry_can_be_archived(registry):
    models.add_table(registry, "a")
    (registry.path / "a" / "model.json").unlink()
    (registry.path / "a" / "manifest.json").unlink()
    (registry.path / "a").rmdir()
    registry.archive(["a"])
    assert (registry.keys(), registry.archived()) == ([], ["a"])


def test_archiving_a_second_model_of_the_name_keeps_the_newer(registry):
    models.add_table(registry, "a", seconds=1.0)
    registry.archive(["a"])
    models.add_table(registry, "a", seconds=2.0)
    assert registry.archived() == []
    registry.archive(["a"])
    out = np.empty(1, np.float32)
    registry.archive_registry.load("a").predict(np.zeros((1, 7), np.float32), out)
    assert out[0] == 2.0


@pytest.mark.parametrize("back", [False, True], ids=["archive", "restore"])
@pytest.mark.parametrize("nth", range(9))
@pytest.mark.parametrize("step", ["copytree", "rename", "sync_file", "replace", "sync_folder"])
def test_a_failure_while_moving_loses_nothing(registry, monkeypatch, step, nth, back):
    """Whichever call fails: every model is whole and listed in exactly one of the two, and the move can be made."""
    for key in "abc":
        models.add_table(registry, key)
    registry.archive(["c"])
    moved = ["a", "b"]
    if back:
        registry.archive(moved)
    owner = {"copytree": shutil, "rename": os, "replace": os}.get(step, files)
    real, calls = getattr(owner, step), iter(range(99))

    def fail(*arguments, **options):
        if next(calls) == nth:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    with monkeypatch.context() as patch, suppress(RegistryError):
        patch.setattr(owner, step, fail)
        (registry.restore if back else registry.archive)(moved)
    again = Registry(registry.path)
    serving, shelved = again.keys(), again.archived()
    assert sorted(serving + shelved) == ["a", "b", "c"]
    assert {*moved} <= {*serving} or {*moved} <= {*shelved}
    for where, keys in ((again, serving), (again.archive_registry, shelved)):
        assert [where.load(key).key for key in keys] == keys
    if {*moved} <= {*(shelved if back else serving)}:
        (again.restore if back else again.archive)(moved)
        assert {*moved} <= {*(again.keys() if back else again.archived())}


KILLED_WHILE_MOVING = """
import os, sys
from etacore.models.registry import Registry
nth, path = int(sys.argv[1]), sys.argv[2]
real, calls = os.replace, iter(range(99))
os.replace = lambda *a: os._exit(9) if next(calls) == nth else real(*a)
Registry(path).archive(["a"])
"""


@pytest.mark.parametrize("nth", [0, 1])
def test_a_process_that_dies_while_moving(registry, nth):
    for key in "ab":
        models.add_table(registry, key)
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_MOVING, str(nth), registry.path], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert (registry.keys(), registry.archived()) == (["a", "b"], [])
    assert registry.load("a").key == "a"
    registry.archive(["a"])
    assert (registry.keys(), registry.archived()) == (["b"], ["a"])
    assert not list((registry.path / "archive").glob(".tmp-*"))
