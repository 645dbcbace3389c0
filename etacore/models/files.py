"""Files and folders of a registry: each is there whole or not at all, whatever happens in between."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from etacore.errors import ModelLoadError, RegistryError
from etacore.models.forest import sha256_hex
from etacore.models.manifest import MANIFEST_FILE, Manifest

TEMPORARY: Final = ".tmp-"
"""How the names of folders begin that are being written or deleted."""


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file as a whole: a reader sees the old content or the new one. Writers must hold a lock."""
    temporary = path.with_name(f".{path.name}.new")
    write_synced(temporary, data)
    os.replace(temporary, path)  # noqa: PTH105
    sync_folder(path.parent)


def write_folder(final: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder with these files; one that is there already is replaced."""
    folder = _temporary(final.parent)
    try:
        folder.mkdir()
        for name, data in files.items():
            write_synced(folder / name, data)
        sync_folder(folder)
        _put(folder, final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def link_folder(source: Path, final: Path) -> None:
    """Make a second folder with the files of `source`, by links where the file system has them.

    One that is there already is replaced; where `source` is missing nothing happens.
    """
    if not source.is_dir():
        return
    folder = _temporary(final.parent)
    try:
        shutil.copytree(source, folder, copy_function=_link)
        sync_folder(folder)
        _put(folder, final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def delete_folder(path: Path) -> None:
    """Delete a folder, if it is there; nobody sees half of it."""
    grave = _temporary(path.parent)
    with suppress(FileNotFoundError):
        os.rename(path, grave)  # noqa: PTH104
    shutil.rmtree(grave, ignore_errors=True)


def leftovers(folder: Path) -> list[Path]:
    """What a writer left here that died in the middle. Those of a writer at work look the same: hold the lock."""
    return sorted(folder.glob(f"{TEMPORARY}*"))


def sweep(folder: Path) -> None:
    """Delete `leftovers`; only with the lock held."""
    for leftover in leftovers(folder):
        shutil.rmtree(leftover, ignore_errors=True)


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


def check_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Refuse files that are not those that a manifest names.

    Raises
    ------
    RegistryError
        If one is missing, too many, or has another hash.
    """
    named = manifest.files()
    if named.keys() != files.keys():
        raise RegistryError(f"bundle {manifest.model_key} names {sorted(named)} and holds {sorted(files)}")
    for name, sha256 in named.items():
        found = sha256_hex(files[name])
        if found != sha256:
            raise RegistryError(
                f"{name} of bundle {manifest.model_key} has SHA-256 {found}, the manifest says {sha256}"
            )


def _temporary(parent: Path) -> Path:
    return parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"


def _put(folder: Path, final: Path) -> None:
    if final.exists():  # a writer died after this rename and before the index knew of it
        shutil.rmtree(final)
    os.rename(folder, final)  # noqa: PTH104


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
