"""The stubs of the compiled modules say what these offer: names, signatures, and the columns of a batch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from etacore._kernels.batch import Batch
from etacore._kernels.select import SelectOptions

ROOT = Path(__file__).resolve().parents[2]
STUBS = sorted((ROOT / "etacore/_kernels").glob("*.pyi"))
# Attributes that a class finds when it is asked for them; the tests below hold them to the stub. Extension types take
# their arguments in `__cinit__`, of which Python sees no signature.
NOT_SEEN = r"""
etacore\._kernels\.batch\.Batch\.[a-z]\w*
etacore\._kernels\.select\.SelectOptions\.[a-z]\w*
etacore\._kernels\.\w+\.\w+\.__init__
"""


def test_stubs_and_compiled_modules_agree(tmp_path):
    allowed = tmp_path / "allowed"
    allowed.write_text(NOT_SEEN)
    command = [sys.executable, "-m", "mypy.stubtest", "etacore._kernels", "--ignore-missing-stub"]
    command += ["--allowlist", str(allowed), "--ignore-disjoint-bases", "--concise"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.stem)
def test_a_stub_stands_beside_a_compiled_module(stub):
    module = import_module(f"etacore._kernels.{stub.stem}")
    assert module.__file__ is not None
    assert module.__file__.endswith(".so")
    nodes = ast.parse(stub.read_text()).body
    declared = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert declared
    assert declared <= set(dir(module))


def properties(stub: str, name: str) -> dict[str, str]:
    """Properties of a class, with what the stub says they are."""
    tree = ast.parse((ROOT / f"etacore/_kernels/{stub}.pyi").read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return {
        node.name: ast.unparse(node.returns)
        for node in found.body
        if isinstance(node, ast.FunctionDef) and node.decorator_list and node.returns is not None
    }


def test_every_column_of_a_batch_stands_in_the_stub_with_its_type():
    batch = Batch(1)
    declared = properties("batch", "Batch")
    source = (ROOT / "src_ext/etacore/_kernels/batch.pyx").read_text()
    columns = re.findall(r'c\.(\w+) = <\w+\*>place\(a, "(\w+)"', source)
    assert {field for field, _ in columns} == {name for _, name in columns} > {"status", "lat"}
    for _, name in columns:
        column = getattr(batch, name)
        kind = "Any" if column.dtype.fields else f"np.{column.dtype.name}"
        assert declared.pop(name) == f"NDArray[{kind}]"
    assert set(declared) == {"capacity", "keys", "parts"}


def test_every_column_of_a_batch_is_described():
    described = set(re.findall(r"\w+", Batch.__doc__ or ""))
    assert set(properties("batch", "Batch")) <= described


def test_every_option_of_a_selection_is_there():
    options = SelectOptions()
    kinds = {"float": float, "int": int}
    declared = properties("select", "SelectOptions")
    assert declared
    assert all(type(getattr(options, name)) is kinds[kind] for name, kind in declared.items())
    with pytest.raises(AttributeError, match="no option 'speed'"):
        _ = options.speed
    assert np.isfinite([getattr(options, name) for name in declared]).all()
