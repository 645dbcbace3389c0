"""A bundle on disk: its manifest, and what that names, each held against its hash."""

from __future__ import annotations

from pathlib import Path

from etacore.errors import ModelLoadError
from etacore.models.forest import sha256_hex
from etacore.models.manifest import MANIFEST_FILE, Manifest


def read_manifest(folder: Path, sha256: str | None = None) -> Manifest:
    """Read the manifest of a bundle.

    Parameters
    ----------
    folder : Path
        The bundle.
    sha256 : str or None
        What the file must hash to; None: anything.

    Raises
    ------
    ModelLoadError
        If it cannot be read or has another hash.
    RegistryError, SchemaError
        As `Manifest.from_json`.
    """
    path = folder / MANIFEST_FILE
    try:
        content = path.read_bytes()
    except OSError as err:
        raise ModelLoadError(f"{path} cannot be read: {err.strerror}", hint="copy the whole bundle again") from None
    if sha256 is not None and sha256_hex(content) != sha256:
        raise ModelLoadError(
            f"{path} is not the manifest that was saved: its hash differs from the index", hint="restore the bundle"
        )
    return Manifest.from_json(content, str(path))


def read_checked(path: Path, sha256: str) -> bytes:
    """Content of a file of a bundle, once its hash is known to be right.

    Raises
    ------
    ModelLoadError
        If it cannot be read or has another hash.
    """
    try:
        content = path.read_bytes()
    except OSError as err:
        raise ModelLoadError(f"{path} cannot be read: {err.strerror or err}", hint="copy the whole bundle") from err
    found = sha256_hex(content)
    if found != sha256:
        raise ModelLoadError(
            f"{path} has SHA-256 {found}, its manifest says {sha256}; it was not used",
            hint="the file is damaged or was replaced: restore the bundle",
        )
    return content
