"""Compiled forests from a file to predictions: nothing is mapped whose content hash does not match."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import math
import os
import platform
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from etacore._kernels.forest import MAX_FEATURES, Library
from etacore.errors import ModelLoadError

__all__ = ["CPU", "MAX_FEATURES", "PATHS", "PATH_VARIABLE", "PLATFORM", "Forest", "library_name", "sha256_hex"]

PLATFORM: Final = sys.platform
CPU: Final = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())

PATHS: Final = ("auto", "avx512", "avx2", "portable")
"""Ways to compute a forest; ``auto`` is the fastest that the CPU has."""
PATH_VARIABLE: Final = "ETACORE_FOREST_PATH"
"""Environment variable that names the path of all forests loaded with ``path=None``, for a comparison or a doubt."""

_RECOMPILE: Final = "compile the model again on a machine like this one: etacore compile MODEL"

_libraries: dict[tuple[str, str], Library] = {}  # one mapping per content and path
_mapped = itertools.count(1)
_libraries_lock = threading.Lock()


def sha256_hex(data: bytes) -> str:
    """SHA-256 of `data`, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def library_name(sha256: str) -> str:
    """File name of a library of this machine's platform and CPU: a new one lands beside the old one."""
    return f"{sha256[:16]}-{PLATFORM}-{CPU}.so"


class Forest:
    """A regression forest as native code. Safe to call from several threads at once.

    Attributes
    ----------
    n_features : int
        Columns of the matrix it predicts.
    sha256 : str
        Content hash of the library.
    path : str
        How it is computed: ``avx512``, ``avx2`` or ``portable``; ``branches`` for a library without a choice.
    library : Library
        The mapped library, for kernels that predict without going through Python.
    """

    __slots__ = ("library", "n_features", "path", "sha256")

    def __init__(self, library: Library, sha256: str) -> None:
        self.library: Final = library
        self.n_features = library.n_features
        self.sha256 = sha256
        self.path: str = library.kernel_path

    @classmethod
    def load(
        cls,
        path: Path,
        sha256: str,
        n_features: int,
        *,
        platform: str = PLATFORM,
        cpu: str = CPU,
        kernel_path: str | None = None,
    ) -> Forest:
        """Read a library once, check its hash, and map those very bytes.

        The bytes that were hashed are what gets mapped, from a sealed memory file (elsewhere than on Linux, or
        without ``/proc``, from a private temporary copy). Hashing a file and then opening it again by name would
        leave a moment in which somebody else could put another file there, and a library runs code.

        Parameters
        ----------
        path : Path
            The shared library.
        sha256 : str
            What its content must hash to.
        n_features : int
            Columns the caller will pass.
        platform, cpu : str
            What the library was made for, compared with this machine before anything is read.
        kernel_path : str, optional
            One of `PATHS`; default ``$ETACORE_FOREST_PATH``, else ``auto``. All paths give the same floats.

        Raises
        ------
        ModelLoadError
            If the file is missing or unreadable, made for another machine, has another content, cannot be mapped
            (another libc, for example), is not such a forest, or the path is unknown or not for this CPU.
        """
        kernel_path = _known_path(kernel_path)
        if (platform, cpu) != (PLATFORM, CPU):
            raise ModelLoadError(
                f"{path} was made for {platform}-{cpu}, this machine is {PLATFORM}-{CPU}", hint=_RECOMPILE
            )
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise ModelLoadError(f"library {path} is missing", hint="copy the whole bundle, or compile again") from None
        except OSError as err:
            raise ModelLoadError(f"library {path} cannot be read: {err.strerror or err}") from err
        return cls.from_bytes(content, sha256, n_features, str(path), kernel_path=kernel_path)

    @classmethod
    def from_bytes(
        cls, content: bytes, sha256: str, n_features: int, name: str, *, kernel_path: str | None = None
    ) -> Forest:
        """Map the content of a library that was made for this machine, once its hash is known to be right.

        Parameters
        ----------
        content : bytes
            The shared library.
        sha256, n_features, kernel_path
            As for `load`.
        name : str
            What to call it in errors.

        Raises
        ------
        ModelLoadError
            As `load`.
        """
        kernel_path = _known_path(kernel_path)
        found = sha256_hex(content)
        if found != sha256:
            raise ModelLoadError(
                f"library {name} has SHA-256 {found}, its manifest says {sha256}; it was not loaded",
                hint="the file is damaged or was replaced: copy the bundle again, or compile again",
            )
        with _libraries_lock:
            known = _libraries.get((sha256, kernel_path))
            if known is None:
                try:
                    known = _libraries[sha256, kernel_path] = _map(content, n_features, kernel_path)
                except ModelLoadError as err:
                    raise ModelLoadError(f"{name}: {err.message}", hint=err.hint) from None
                except OSError as err:
                    raise ModelLoadError(
                        f"library {name} cannot be mapped: {err.strerror or err}",
                        hint="look for free memory, free space in the temporary folder, and free file numbers",
                    ) from err
        if known.n_features != n_features:
            raise ModelLoadError(f"{name} takes {known.n_features} features, the model names {n_features}")
        return cls(known, sha256)

    def predict(
        self,
        X: NDArray[np.float32],  # noqa: N803
        out: NDArray[np.float32],
        low: float = -math.inf,
        high: float = math.inf,
    ) -> None:
        """Predict every row as `etacore.models.predictors.Predictor` says; NaN in `X` is what XGBoost calls missing."""
        self.library.predict(X, out, low, high)


def _known_path(kernel_path: str | None) -> str:
    kernel_path = kernel_path or os.environ.get(PATH_VARIABLE) or "auto"
    if kernel_path not in PATHS:
        raise ModelLoadError(
            f"a forest has no path {kernel_path!r}", hint=f"set {PATH_VARIABLE} to one of {', '.join(PATHS)}"
        )
    return kernel_path


def _map(content: bytes, n_features: int, kernel_path: str) -> Library:
    if hasattr(os, "memfd_create"):
        try:
            fd = os.memfd_create("etacore-forest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return _map_copy(content, n_features, kernel_path)
        try:
            _write_all(fd, content)
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            # The dynamic linker compares names before files: under a file number that is in use a second time it
            # would silently hand out the first library. So each mapping spells its path in its own way, with the
            # digits of a counter written as "." or nothing between slashes.
            spelling = "/".join("." if digit == "1" else "" for digit in f"{next(_mapped):b}")
            path = f"/proc/self/fd/{spelling}/{fd}"
            if Path(path).exists():
                return Library(path.encode(), n_features, kernel_path)
        finally:
            os.close(fd)
    return _map_copy(content, n_features, kernel_path)


def _map_copy(content: bytes, n_features: int, kernel_path: str) -> Library:
    # A folder only we can enter, and a name never used before; the file may go as soon as it is mapped.
    with tempfile.TemporaryDirectory(prefix="etacore-") as folder:
        path = Path(folder) / "forest.so"
        path.write_bytes(content)
        return Library(os.fsencode(path), n_features, kernel_path)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
