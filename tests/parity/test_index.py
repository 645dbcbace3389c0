import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etacore._kernels import index as _index
from tests.reference.index import siphash13

WORDS = st.integers(0, 2**64 - 1)


def test_compiled_module_is_loaded():
    assert _index.__file__.endswith((".so", ".pyd"))


@given(st.binary(max_size=100), st.tuples(WORDS, WORDS))
def test_hash_agrees_with_the_twin(text, seed):
    assert _index.hash_bytes(text, seed) == siphash13(text, seed)


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this Python hashes bytes in another way")
def test_twin_agrees_with_python_itself():
    # With PYTHONHASHSEED=0 Python's own SipHash-1-3 of bytes has the key (0, 0).
    code = "print(*[hash(bytes(range(7, 7 + n))) for n in range(1, 64)])"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
    theirs = [int(number) % 2**64 for number in printed.stdout.split()]
    assert theirs == [siphash13(bytes(range(7, 7 + n)), (0, 0)) for n in range(1, 64)]
