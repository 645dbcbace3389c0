"""Files and folders that are there whole or not at all, whatever happens in between."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_FOLDER: Final = ".tmp-"
_DRAFT: Final = ".partial"
_DRAFT_BEFORE: Final = ".json.new"  # what drafts of an index were called once


@contextmanager
def whole_file(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Give a name for a draft in the same folder; at the end it takes the file's place, on an error it goes.

    A reader sees the old content or the new one. Of two writers at the same time the last one counts.

    Parameters
    ----------
    path : Path
        In a folder that exists.
    synced : bool
        False does not wait for the disk: a power cut may then take the content, or leave it empty.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{_DRAFT}")
    try:
        yield draft
        if synced:
            sync_file(draft)
        os.replace(draft, path)  # noqa: PTH105
        if synced:
            sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file as a whole; see `whole_file`."""
    with whole_file(path) as draft:
        draft.write_bytes(data)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_folder(final: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder with these files; one that is there already is replaced."""
    folder = _temporary(final.parent)
    try:
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
            sync_file(folder / name)
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
    return sorted(
        path for pattern in (f"{_FOLDER}*", f".*{_DRAFT}", f".*{_DRAFT_BEFORE}") for path in folder.glob(pattern)
    )


def sweep(folder: Path) -> None:
    """Delete `leftovers`; only with the lock held."""
    for leftover in leftovers(folder):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.unlink()


def _temporary(parent: Path) -> Path:
    return parent / f"{_FOLDER}{os.getpid()}-{secrets.token_hex(4)}"


def _put(folder: Path, final: Path) -> None:
    if final.exists():  # a writer died after this rename and before anybody knew of it
        shutil.rmtree(final)
    os.rename(folder, final)  # noqa: PTH104


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
