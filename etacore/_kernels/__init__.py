"""The compiled kernels; their sources lie in ``src_ext/etacore/_kernels``.

All are loaded at once: one that is missing, or that was built for another Python, NumPy or version of its neighbours,
is an error that says so, and never a slower way that nobody notices.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from etacore.errors import KernelError

for _stub in sorted(Path(__file__).parent.glob("*.pyi")):
    try:
        import_module(f"{__name__}.{_stub.stem}")
    except (ImportError, ValueError, AttributeError) as _error:
        raise KernelError(
            f"the compiled kernel {__name__}.{_stub.stem} cannot be loaded: {_error}",
            hint="build the kernels anew: `make build` in a checkout, else `pip install --force-reinstall etacore`",
        ) from None
