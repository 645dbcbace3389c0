"""Libraries are mapped only if they are what they should be."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from etacore.errors import ModelLoadError
from etacore.models import forest as forest_module
from etacore.models.forest import CPU, PLATFORM, Forest, library_name, sha256_hex
from tests import models

GOOD = """
#include <stdint.h>
union Entry { int missing; float fvalue; };
void predict(union Entry* row, int margin, float* result) { result[0] += VALUE; }
int32_t get_num_feature(void) { return FEATURES; }
int32_t get_num_target(void) { return TARGETS; }
void get_num_class(int32_t* out) { out[0] = CLASSES; }
const char* get_threshold_type(void) { return TYPE; }
const char* get_leaf_output_type(void) { return "float32"; }
"""


@pytest.fixture
def build(tmp_path):
    def make(name="forest", source=GOOD, value=1, features=2, targets=1, classes=1, type_="float32", flags=()):
        macros = {"VALUE": value, "FEATURES": features, "TARGETS": targets, "CLASSES": classes, "TYPE": f'"{type_}"'}
        (tmp_path / f"{name}.c").write_text(source)
        path = tmp_path / f"{name}.so"
        defines = [f"-D{k}={v}" for k, v in macros.items()]
        subprocess.run(["cc", "-shared", "-fPIC", *defines, *flags, tmp_path / f"{name}.c", "-o", path], check=True)
        return path, sha256_hex(path.read_bytes())

    return make


def value_of(forest):
    out = np.empty(1, np.float32)
    forest.predict(np.zeros((1, forest.n_features), np.float32), out)
    return out[0]


def test_a_good_library_predicts_and_outlives_its_file(build):
    path, sha256 = build(value=41)
    forest = Forest.load(path, sha256, 2)
    path.unlink()
    assert value_of(forest) == 41
    assert forest.sha256 == sha256


def test_many_libraries_stay_apart(build):
    """Their memory files get the same number one after the other, which must not make them the same library."""
    forests = [Forest.load(*build(f"f{value}", value=value), 2) for value in range(1, 6)]
    assert [value_of(forest) for forest in forests] == [1, 2, 3, 4, 5]


def test_the_bytes_that_were_hashed_are_the_ones_that_run(build, monkeypatch):
    path, sha256 = build(value=1)
    evil, _ = build("evil", value=666)
    real = forest_module.sha256_hex

    def hash_then_swap(data):
        result = real(data)
        evil.replace(path)
        return result

    monkeypatch.setattr(forest_module, "sha256_hex", hash_then_swap)
    monkeypatch.setattr(forest_module, "_libraries", {})
    assert value_of(Forest.load(path, sha256, 2)) == 1


@pytest.mark.parametrize("lost", ["memfd_create", "proc"])
def test_without_memory_files_a_private_copy_is_mapped(build, monkeypatch, lost):
    path, sha256 = build(value=7)
    monkeypatch.setattr(forest_module, "_libraries", {})
    if lost == "proc":
        monkeypatch.setattr(forest_module.Path, "exists", lambda self: False)
    else:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    assert value_of(Forest.load(path, sha256, 2)) == 7


def test_no_file_numbers_are_leaked(build):
    built = [build(f"leak{value}", value=value) for value in range(20, 24)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path, sha256 in built:
        Forest.load(path, sha256, 2)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_wrong_hash_is_never_mapped(build, monkeypatch):
    path, sha256 = build()
    path.write_bytes(path.read_bytes() + b"\0")
    monkeypatch.setattr(forest_module, "_map", lambda *_: pytest.fail("mapped"))
    with pytest.raises(ModelLoadError, match="its manifest says") as caught:
        Forest.load(path, sha256, 2)
    assert caught.value.hint


def test_missing_file(tmp_path):
    with pytest.raises(ModelLoadError, match="is missing"):
        Forest.load(tmp_path / "no.so", "0" * 64, 2)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("step", ["read", "write", "copy"])
def test_what_the_system_refuses_is_a_model_that_cannot_be_loaded(build, monkeypatch, number, step):
    path, sha256 = build(value=9)

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(forest_module, "_libraries", {})
    if step == "read":
        monkeypatch.setattr(Path, "read_bytes", fail)
    elif step == "write":
        monkeypatch.setattr(os, "write", fail)
    else:
        monkeypatch.setattr(os, "memfd_create", fail, raising=False)
        monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ModelLoadError, match=f"{path} cannot be .*: {os.strerror(number)}"):
        Forest.load(path, sha256, 2)
    assert forest_module._libraries == {}


def test_another_machine(build):
    path, sha256 = build()
    with pytest.raises(ModelLoadError, match=f"made for linux-riscv64, this machine is {PLATFORM}-{CPU}") as caught:
        Forest.load(path, sha256, 2, platform="linux", cpu="riscv64")
    assert "etacore compile" in caught.value.hint


def test_not_a_library(tmp_path):
    path = tmp_path / "text.so"
    path.write_bytes(b"hello")
    with pytest.raises(ModelLoadError, match="the system refuses the library"):
        Forest.load(path, sha256_hex(b"hello"), 2)


def test_an_unresolved_symbol_is_found_when_loading(build):
    source = GOOD + "extern int from_another_libc(void); int use(void) { return from_another_libc(); }"
    with pytest.raises(ModelLoadError, match="from_another_libc"):
        Forest.load(*build("open", source), 2)


@pytest.mark.parametrize("symbol", ["predict", "get_num_feature", "get_num_class", "get_leaf_output_type"])
def test_missing_symbols(build, symbol):
    path, sha256 = build(symbol, GOOD.replace(f" {symbol}(", f" {symbol}_x(").replace(f"* {symbol}(", f"* {symbol}_x("))
    with pytest.raises(ModelLoadError, match=f"no function '{symbol}'"):
        Forest.load(path, sha256, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 3}, "takes 3 features, the model names 2"),
        ({"targets": 2}, "2 targets"),
        ({"classes": 3}, "3 classes"),
        ({"type_": "float64"}, "not float32"),
    ],
)
def test_another_kind_of_forest(build, changes, message):
    with pytest.raises(ModelLoadError, match=message):
        Forest.load(*build("kind", **changes), 2)


def test_the_same_content_under_another_feature_count(build):
    path, sha256 = build(value=3)
    Forest.load(path, sha256, 2)
    with pytest.raises(ModelLoadError, match="the model names 5"):
        Forest.load(path, sha256, 5)


def test_shapes_and_types_are_checked(build):
    forest = Forest.load(*build(), 2)
    X, out = np.zeros((3, 2), np.float32), np.zeros(3, np.float32)
    X.flags.writeable = False
    forest.predict(X, out)
    forest.predict(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    wrong = [
        (np.zeros((3, 3), np.float32), out),
        (X, np.zeros(2, np.float32)),
        (np.zeros((3, 2)), out),
        (np.asfortranarray(np.zeros((3, 2), np.float32)), out),
    ]
    for bad_x, bad_out in wrong:
        with pytest.raises(ValueError):
            forest.predict(bad_x, bad_out)


def test_library_name_is_by_content():
    assert library_name("ab" * 32) == f"{'ab' * 8}-{PLATFORM}-{CPU}.so"
    assert models.compiled(models.save()).library_file.file.startswith(
        models.compiled(models.save()).library_file.sha256[:16]
    )
