"""Models on disk: one folder a model, one index, written atomically and movable as a whole.

::

    <registry>/registry.json                 {model_key: {saved_at, model_type, route_id, dataset, metrics, ...}}
    <registry>/<model_key>/manifest.json     everything about the model
                           model.json|.ubj   the source, byte for byte
                           <hash>-<platform>-<cpu>.so

Readers take no lock: the index is only ever replaced as a whole, and a bundle never changes once it is listed.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from etacore.errors import EtacoreError, ModelLoadError, ModelNotFoundError, RegistryError, SchemaError
from etacore.forest import CPU, PLATFORM, Forest, sha256_hex
from etacore.manifest import (
    MANIFEST_FILE,
    Manifest,
    check_model_key,
    finite_or_none,
    make_model_key,
    parse_time,
)
from etacore.model import Model
from etacore.schema import WEATHER_FEATURES

__all__ = ["INDEX_FILE", "Entry", "Manifest", "Model", "Registry", "check_model_key", "make_model_key"]

INDEX_FILE: Final = "registry.json"
BACKENDS: Final = ("tl2cgen",)
_TEMPORARY: Final = ".tmp-"
_INDEX_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the index: enough to choose a model without opening its bundle."""

    key: str
    model_type: str
    route_id: str | None
    dataset: str
    saved_at: datetime
    metrics: Mapping[str, Any]
    features: tuple[str, ...]

    @property
    def test_mae_s(self) -> float:
        """``metrics.test_mae_seconds``; infinite if there is no finite one."""
        value = finite_or_none(self.metrics.get("test_mae_seconds"))
        return math.inf if value is None else value

    @property
    def servable(self) -> bool:
        """Whether serving can compute all of its features: there is no weather source."""
        return not set(self.features) & set(WEATHER_FEATURES)


@dataclass(frozen=True, slots=True)
class _Index:
    signature: object
    raw: dict[str, Any]
    entries: dict[str, Entry]
    # Entries that are ours and cannot be used, and why: damaged, or written by a newer version.
    refused: dict[str, RegistryError]


_EMPTY: Final = _Index(None, {}, {}, {})


class Registry:
    """The models below a folder. Cheap to ask again and again: the index is read anew only when it has changed.

    An entry that cannot be used, since it is damaged or a newer version wrote it, hides no other model: it is left
    out of `keys`, `entries` and `choose`, listed by `refused`, and raises when it is named.

    Parameters
    ----------
    path : Path
        The folder. It need not exist; `save` makes it.
    lock_timeout_s : float
        How long a writer waits for another one.
    """

    def __init__(self, path: Path | str, *, lock_timeout_s: float = 60.0) -> None:
        self.path = Path(path)
        self.lock_timeout_s = lock_timeout_s
        self._index: _Index | None = None
        self._models: dict[str, Model] = {}

    def keys(self) -> list[str]:
        """Keys of all models, sorted; none if there is no registry yet."""
        return sorted(self._read().entries)

    def entries(self) -> list[Entry]:
        """All models of the index, by key."""
        return [entry for _, entry in sorted(self._read().entries.items())]

    def legacy(self) -> list[str]:
        """Keys of models that an older system left here as pickles. They are listed and never opened."""
        index = self._read()
        pickles = {path.stem for path in self.path.glob("*.pkl")} if self.path.is_dir() else set()
        return sorted((index.raw.keys() | pickles) - index.entries.keys() - index.refused.keys())

    def refused(self) -> dict[str, str]:
        """Keys of entries that cannot be used, and why: damaged, or written by a newer version."""
        return {key: error.message for key, error in sorted(self._read().refused.items())}

    def choose(
        self, model_type: str | None = "xgboost", route_id: str | None = None, prefer_route_model: bool = True
    ) -> str | None:
        """Key of the best model: of this type and route, else of this type and global, else None.

        Best is the lowest ``test_mae_seconds`` among the models of one dataset, that of the most recently saved
        candidate: scores on different data say nothing about each other. A model without a finite score loses to
        every model with one; equal scores go to the newer model. Models that need weather are left out, since
        serving has no source for it.

        Parameters
        ----------
        model_type : str or None
            None takes every type.
        route_id : str or None
            The route to predict for.
        prefer_route_model : bool
            False considers global models only.
        """
        entries = [
            entry
            for entry in self._read().entries.values()
            if entry.servable and (model_type is None or entry.model_type == model_type)
        ]
        scopes = [route_id, None] if route_id is not None and prefer_route_model else [None]
        for scope in scopes:
            candidates = [entry for entry in entries if entry.route_id == scope]
            if candidates:
                dataset = max(candidates, key=lambda entry: (entry.saved_at, entry.key)).dataset
                best = min(
                    (entry for entry in candidates if entry.dataset == dataset),
                    key=lambda entry: (entry.test_mae_s, -entry.saved_at.timestamp(), entry.key),
                )
                return best.key
        return None

    def load(self, key: str) -> Model:
        """A model, ready to predict; the same object again until the index changes.

        Raises
        ------
        ModelNotFoundError
            ``Model <key> not found in registry``.
        ModelLoadError
            If it is a pickle, or its bundle is incomplete, damaged, or made for another machine.
        SchemaError
            If serving cannot compute its features.
        RegistryError
            If the index, this entry of it, or the manifest is not what it should be.
        """
        index = self._read()
        model = self._models.get(key)
        if model is not None:
            return model
        if key not in index.entries:
            if key in index.refused:
                raise index.refused[key]
            if key in index.raw or (_is_key(key) and (self.path / f"{key}.pkl").exists()):
                raise ModelLoadError(
                    f"model {key} is a pickle of an older system; pickles run code and are never opened",
                    hint="save its booster as XGBoost JSON there, then: etacore compile MODEL",
                )
            raise ModelNotFoundError(f"Model {key} not found in registry")
        manifest = self.manifest(key)
        weather = [name for name in manifest.features if name in WEATHER_FEATURES]
        if weather:
            raise SchemaError(
                f"model {key} needs {', '.join(weather)}, and serving has no weather source",
                hint="choose a model without weather features",
            )
        usable = [library for library in manifest.libraries if library.backend in BACKENDS]
        fitting = [library for library in usable if (library.platform, library.cpu) == (PLATFORM, CPU)]
        if not fitting:
            made_for = ", ".join(f"{library.platform}-{library.cpu}" for library in usable) or "no machine"
            raise ModelLoadError(
                f"model {key} is compiled for {made_for}, this machine is {PLATFORM}-{CPU}",
                hint=f"on such a machine: etacore compile {self.path / key / manifest.source.file}",
            )
        library = fitting[0]
        forest = Forest.load(self.path / key / library.file, library.sha256, len(manifest.features))
        model = self._models[key] = Model(manifest, forest)
        return model

    def manifest(self, key: str) -> Manifest:
        """What the bundle says of the model, without loading it.

        Raises
        ------
        ModelNotFoundError
            If the key is not in the index.
        ModelLoadError, RegistryError, SchemaError
            If the bundle has no readable manifest, or that of another model, or the entry cannot be used.
        """
        index = self._read()
        if key in index.refused:
            raise index.refused[key]
        if key not in index.entries:
            raise ModelNotFoundError(f"Model {key} not found in registry")
        manifest = _read_manifest(self.path / check_model_key(key), index.raw[key].get("manifest_sha256"))
        if manifest.model_key != key:
            raise ModelLoadError(
                f"{self.path / key / MANIFEST_FILE} is that of {manifest.model_key}", hint="restore the bundle"
            )
        return manifest

    def save(self, manifest: Manifest, files: Mapping[str, bytes]) -> str:
        """Add a bundle: all of it or nothing, whatever happens in between.

        Parameters
        ----------
        manifest : Manifest
            Checked as if it were read from disk.
        files : mapping of str to bytes
            The source model and the libraries that the manifest names.

        Returns
        -------
        str
            The model key.

        Raises
        ------
        RegistryError
            If the key exists or is no file name, the manifest is wrong, a file is missing or has another hash,
            another writer holds the lock for too long, or the folder cannot be written.
        """
        content = manifest.to_json()
        manifest = Manifest.from_json(content, f"manifest of {manifest.model_key}")
        _check_files(manifest, files)
        key = manifest.model_key
        with self._locked():
            index = self._read().raw
            if key in index:
                raise RegistryError(
                    f"model {key} is already in the registry", hint="remove it first, or use another key"
                )
            for leftover in self.path.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            folder = self._temporary()
            final = self.path / key
            try:
                folder.mkdir()
                for name, data in {**files, MANIFEST_FILE: content}.items():
                    _write_synced(folder / name, data)
                _sync_folder(folder)
                if final.exists():  # a writer died after this rename and before the index knew of it
                    shutil.rmtree(final)
                os.rename(folder, final)  # noqa: PTH104
                self._write_index({**index, key: _index_entry(manifest)})
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                self._index = None
                if key not in self._read().raw:
                    shutil.rmtree(final, ignore_errors=True)
                raise
        return key

    def import_bundle(self, folder: Path) -> str:
        """Add a bundle that was made elsewhere: every file is checked against its hash, then copied.

        Returns
        -------
        str
            The model key.

        Raises
        ------
        ModelLoadError
            If a file is missing.
        RegistryError
            As `save`.
        """
        manifest = _read_manifest(folder)
        names = [manifest.source.file, *(library.file for library in manifest.libraries)]
        try:
            files = {name: (folder / name).read_bytes() for name in names}
        except OSError as err:
            raise ModelLoadError(
                f"{err.filename} cannot be read: {err.strerror}", hint="copy the whole bundle"
            ) from err
        return self.save(manifest, files)

    def remove(self, key: str) -> None:
        """Take a model out of the index, then delete its bundle. Processes that have it loaded keep it.

        Raises
        ------
        ModelNotFoundError
            If the key is not in the index.
        RegistryError
            If another writer holds the lock for too long, or the folder cannot be written.
        """
        with self._locked():
            index = self._read()
            if key not in index.entries and key not in index.refused:
                raise ModelNotFoundError(f"Model {key} not found in registry")
            self._write_index({k: v for k, v in index.raw.items() if k != key})
            if not _is_key(key):
                return
            grave = self._temporary()
            with suppress(FileNotFoundError):
                os.rename(self.path / key, grave)  # noqa: PTH104
            shutil.rmtree(grave, ignore_errors=True)

    def _temporary(self) -> Path:
        return self.path / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Imported here: only writers need it, and readers start faster without it.
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / ".lock", timeout=self.lock_timeout_s):
                self._index = None  # another writer may have been quicker than the clock of the file system
                yield
        except Timeout:
            raise RegistryError(
                f"another writer has held {self.path / '.lock'} for {self.lock_timeout_s:g} s",
                hint="wait for it, or find the process that hangs",
            ) from None
        except OSError as err:
            if isinstance(err, EtacoreError):
                raise
            raise RegistryError(
                f"{err.filename or self.path} cannot be written: {err.strerror or err}",
                hint="the registry is as it was; look for free space and for who may write there",
            ) from err

    def _write_index(self, index: Mapping[str, Any]) -> None:
        temporary = self.path / f".{INDEX_FILE}.new"
        _write_synced(temporary, orjson.dumps(index, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        os.replace(temporary, self.path / INDEX_FILE)  # noqa: PTH105
        _sync_folder(self.path)
        self._index = None

    def _read(self) -> _Index:
        path = self.path / INDEX_FILE
        try:
            stat = os.stat(path)  # noqa: PTH116
            signature = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if self._index is not None and self._index.signature == signature:
                return self._index
            raw = json.loads(path.read_bytes())  # not orjson: older systems wrote NaN into their metrics
        except (FileNotFoundError, NotADirectoryError):
            self._models = {}
            return _EMPTY
        except OSError as err:
            raise RegistryError(f"{path} cannot be read: {err.strerror or err}") from err
        except (ValueError, RecursionError) as err:
            raise RegistryError(f"{path} is not JSON: {err}", hint="restore it from a backup") from None
        if not isinstance(raw, dict):
            raise RegistryError(f"{path} is not a JSON object of models")
        self._models = {}
        self._index = index = _Index(signature, raw, {}, {})
        for key, value in raw.items():
            if isinstance(value, dict) and "format" in value:
                try:
                    index.entries[key] = _entry(key, value, path)
                except RegistryError as err:
                    index.refused[key] = err
        return index


def _is_key(key: str) -> bool:
    try:
        check_model_key(key)
    except RegistryError:
        return False
    return True


def _index_entry(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": _INDEX_FORMAT,
        "saved_at": manifest.saved_at,
        "model_type": manifest.model_type,
        "route_id": manifest.route_id,
        "dataset": manifest.dataset,
        "metrics": dict(manifest.metrics),
        "features": list(manifest.features),
        "manifest_sha256": sha256_hex(manifest.to_json()),
    }


def _entry(key: str, raw: dict[str, Any], path: Path) -> Entry:
    if raw["format"] != _INDEX_FORMAT:
        raise RegistryError(
            f"{path}: entry {key!r} has format {raw['format']!r}, this version knows {_INDEX_FORMAT}",
            hint="a newer etacore wrote it: update this one",
        )
    try:
        route_id, metrics, features = raw["route_id"], raw["metrics"], raw["features"]
        if not isinstance(metrics, dict) or not isinstance(features, list):
            raise TypeError("unexpected content")
        texts = (raw["model_type"], raw["dataset"], "" if route_id is None else route_id, *features)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is not a text")
        saved_at = parse_time(raw["saved_at"])
        return Entry(key, raw["model_type"], route_id, raw["dataset"], saved_at, metrics, tuple(features))
    except (KeyError, TypeError, ValueError) as err:
        raise RegistryError(f"{path}: entry {key!r} is damaged: {err!r}", hint="restore it from a backup") from None


def _read_manifest(folder: Path, sha256: str | None = None) -> Manifest:
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


def _check_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    named = {manifest.source.file: manifest.source.sha256}
    named.update((library.file, library.sha256) for library in manifest.libraries)
    if named.keys() != files.keys():
        raise RegistryError(f"bundle {manifest.model_key} names {sorted(named)} and holds {sorted(files)}")
    for name, sha256 in named.items():
        found = sha256_hex(files[name])
        if found != sha256:
            raise RegistryError(
                f"{name} of bundle {manifest.model_key} has SHA-256 {found}, the manifest says {sha256}"
            )


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
