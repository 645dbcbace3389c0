"""Models on disk: one folder a model, one index, written atomically and movable as a whole.

::

    <registry>/registry.json                 {model_key: {saved_at, model_type, route_id, dataset, metrics, ...}}
    <registry>/<model_key>/manifest.json     everything about the model
                           model.json|.ubj   the source, byte for byte
                           typical.json      travel times, if the model needs them
                           <hash>-<platform>-<cpu>.so
    <registry>/archive/                      models out of service: a registry of its own, in the same form

    models/trained                           what this machine trains and serves
    models/shipped                           the model that comes with the program, only read (`open_registry`)

Readers take no lock: the index is only ever replaced as a whole, and a bundle never changes once it is listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from etacore.config import DEFAULT_REGISTRY_DIR, SHIPPED_REGISTRY_DIR
from etacore.errors import EtacoreError, ModelLoadError, ModelNotFoundError, RegistryError
from etacore.files import delete_folder, link_folder, sweep, write_folder, write_whole
from etacore.models.bundle import Bundle
from etacore.models.bundle_folder import read_manifest
from etacore.models.manifest import MANIFEST_FILE, Manifest, check_model_key, make_model_key
from etacore.models.model import Model, load_model
from etacore.models.registry_index import EMPTY, INDEX_FILE, Entry, Index, index_entry, read_index

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = [
    "ARCHIVE",
    "INDEX_FILE",
    "Entry",
    "Manifest",
    "Model",
    "Registry",
    "check_model_key",
    "make_model_key",
    "open_registry",
]

ARCHIVE: Final = "archive"
_DEFAULT_PARTS: Final = Path(DEFAULT_REGISTRY_DIR).parts


def open_registry(path: Path | str, *, lock_timeout_s: float = 60.0) -> Registry:
    """Open the registry at a path; ``models/trained`` is backed by ``models/shipped`` beside it.

    So a fresh checkout serves the shipped model, and nothing that is made there changes what the program came with.
    Any other folder stands alone: a path that is misspelt is an error, not another model.
    """
    path = Path(path)
    is_default = path.parts[-len(_DEFAULT_PARTS) :] == _DEFAULT_PARTS
    shipped = path.parent / Path(SHIPPED_REGISTRY_DIR).name if is_default else None
    return Registry(path, lock_timeout_s=lock_timeout_s, shipped=shipped)


class Registry:
    """The models below a folder. Cheap to ask again and again: the index is read anew only when it has changed.

    An entry that cannot be used, since it is damaged or a newer version wrote it, hides no other model: it is left
    out of `keys`, `entries` and `choose`, listed by `refused`, and raises when it is named.

    Parameters
    ----------
    path : Path
        The folder. It need not exist; `add` makes it.
    lock_timeout_s : float
        How long a writer waits for another one.
    shipped : Path, optional
        A second registry that is only read: it answers for the keys that this one lacks, and is chosen from only if
        this one has no model that fits. Writers, `refused`, `legacy` and `archived` know nothing of it.
    """

    def __init__(self, path: Path | str, *, lock_timeout_s: float = 60.0, shipped: Path | str | None = None) -> None:
        self.path = Path(path)
        self.lock_timeout_s = lock_timeout_s
        self._shipped = Registry(shipped) if shipped is not None else None
        self._index: Index | None = None
        self._models: dict[str, Model] = {}
        self._lock: BaseFileLock | None = None

    def keys(self) -> list[str]:
        """Keys of all models, the shipped ones too, sorted; none if there is no registry yet."""
        return sorted([*self._read().entries, *self.shipped_keys()])

    def entries(self) -> list[Entry]:
        """All models of the index, and the shipped ones, by key."""
        entries = dict(self._read().entries)
        for key in self.shipped_keys():
            entries[key] = self._lender(key)._read().entries[key]
        return [entry for _, entry in sorted(entries.items())]

    def shipped_keys(self) -> list[str]:
        """Keys of the models that only the shipped registry has, sorted."""
        if self._shipped is None:
            return []
        return sorted(self._shipped._read().entries.keys() - self._read().raw.keys())

    def folder(self, key: str) -> Path:
        """Where the bundle of a model lies."""
        return self._lender(key).path / key

    def _lender(self, key: str) -> Registry:
        """The registry that answers for a key: this one, or the shipped one if only that has it."""
        if self._shipped is None or key in self._read().raw or key not in self._shipped._read().entries:
            return self
        return self._shipped

    def legacy(self) -> list[str]:
        """Keys of models that an older system left here as pickles. They are listed and never opened."""
        index = self._read()
        pickles = {path.stem for path in self.path.glob("*.pkl")} if self.path.is_dir() else set()
        return sorted((index.raw.keys() | pickles) - index.entries.keys() - index.refused.keys())

    def raw_entries(self) -> dict[str, Any]:
        """The index as it is written, entries of an older system included; not to be changed."""
        return self._read().raw

    def refused(self) -> dict[str, str]:
        """Keys of entries that cannot be used, and why: damaged, or written by a newer version."""
        return {key: error.message for key, error in sorted(self._read().refused.items())}

    def choose(
        self, model_type: str | None = "xgboost", route_id: str | None = None, prefer_route_model: bool = True
    ) -> str | None:
        """Key of the best model: of this type and route, else of this type and global, else a shipped one, else None.

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
        return None if self._shipped is None else self._shipped.choose(model_type, route_id, prefer_route_model)

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
        lender = self._lender(key)
        if lender is not self:
            return lender.load(key)
        if key not in index.entries:
            if key in index.refused:
                raise index.refused[key]
            if key in index.raw or (_is_key(key) and (self.path / f"{key}.pkl").exists()):
                raise ModelLoadError(
                    f"model {key} is a pickle of an older system; pickles run code and are never opened",
                    hint="save its booster as XGBoost JSON there, then: etacore compile MODEL",
                )
            raise ModelNotFoundError(f"Model {key} not found in registry")
        model = self._models[key] = load_model(self.manifest(key), self.path / key)
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
        lender = self._lender(key)
        if lender is not self:
            return lender.manifest(key)
        if key in index.refused:
            raise index.refused[key]
        if key not in index.entries:
            raise ModelNotFoundError(f"Model {key} not found in registry")
        manifest = read_manifest(self.path / check_model_key(key), index.raw[key].get("manifest_sha256"))
        if manifest.model_key != key:
            raise ModelLoadError(
                f"{self.path / key / MANIFEST_FILE} is that of {manifest.model_key}", hint="restore the bundle"
            )
        return manifest

    def manifest_sha256(self, key: str) -> str:
        """What the manifest of a model hashed to when it was saved: names the model's content for good.

        Raises
        ------
        ModelNotFoundError
            If the key is not in the index.
        """
        index = self._lender(key)._read()
        entry = index.raw.get(key)
        if key not in index.entries or not isinstance(entry, dict):
            raise ModelNotFoundError(f"Model {key} not found in registry")
        return str(entry.get("manifest_sha256", ""))

    def add(self, bundle: Bundle) -> str:
        """Add a model: all of its bundle or nothing, whatever happens in between.

        Returns
        -------
        str
            The model key.

        Raises
        ------
        RegistryError
            If the key exists, another writer holds the lock for too long, or the folder cannot be written.
        """
        key, content = bundle.key, bundle.manifest.to_json()
        with self.locked():
            index = self._read().raw
            if key in index:
                raise RegistryError(
                    f"model {key} is already in the registry", hint="remove it first, or use another key"
                )
            sweep(self.path)
            try:
                write_folder(self.path / key, {**bundle.files, MANIFEST_FILE: content})
                self._write_index({**index, key: index_entry(bundle.manifest, content)})
            except BaseException:
                self._index = None
                if key not in self._read().raw:
                    delete_folder(self.path / key)
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
        ModelLoadError, RegistryError, SchemaError
            As `Bundle.read` and `add`.
        """
        return self.add(Bundle.read(folder))

    def remove(self, key: str) -> None:
        """Take a model out of the index, then delete its bundle. Processes that have it loaded keep it.

        Raises
        ------
        ModelNotFoundError
            If the key is not in the index.
        RegistryError
            If another writer holds the lock for too long, or the folder cannot be written.
        """
        with self.locked():
            index = self._read()
            if key not in index.entries and key not in index.refused:
                raise ModelNotFoundError(f"Model {key} not found in registry")
            self._write_index({k: v for k, v in index.raw.items() if k != key})
            if _is_key(key):
                delete_folder(self.path / key)

    def archive(self, keys: Sequence[str]) -> None:
        """Take models out of service: their bundles and index entries move to ``archive``, all of them or none.

        It asks nobody whether they are in use; `etacore.mlops.promotion.retention` does. Processes that have a model
        loaded keep it. An entry whose bundle is missing or damaged moves with what there is.

        Raises
        ------
        ModelNotFoundError
            If a key is not in the index.
        RegistryError
            If a key cannot be a file name, another writer holds the lock for too long, or the folder cannot be
            written.
        """
        with self.locked():
            self._move(self, self.archive_registry, keys)

    def restore(self, keys: Sequence[str]) -> None:
        """Take models back into service from ``archive``, all of them or none.

        Raises
        ------
        ModelNotFoundError
            If a key is not in the archive.
        RegistryError
            If a key is in the registry again, and as `archive`.
        """
        with self.locked():
            taken = sorted(set(keys) & self._read().raw.keys())
            if taken:
                raise RegistryError(f"model {taken[0]} is already in the registry", hint="archive or remove that one")
            self._move(self.archive_registry, self, keys)

    def archived(self) -> list[str]:
        """Keys of the models in the archive, sorted."""
        # One that is in both was being moved when the power went: it counts where it still serves.
        return sorted(self.archive_registry._read().raw.keys() - self._read().raw.keys())

    @property
    def archive_registry(self) -> Registry:
        """The archive, as the registry that it is; to be looked at, and changed through this one only."""
        return Registry(self.path / ARCHIVE, lock_timeout_s=self.lock_timeout_s)

    @staticmethod
    def _move(source: Registry, target: Registry, keys: Sequence[str]) -> None:
        # Copied first (by links), listed there, then taken off the list here, then deleted here. Whatever the moment
        # of a crash, the model is whole and listed in at least one of the two; the same call again finishes the move.
        found, there = source._read(), target._read().raw
        keys = list(dict.fromkeys(check_model_key(key) for key in keys))
        for key in keys:
            if key not in found.entries and key not in found.refused:
                raise ModelNotFoundError(f"Model {key} not found in {source.path}")
        target.path.mkdir(exist_ok=True)
        sweep(target.path)
        try:
            for key in keys:
                link_folder(source.path / key, target.path / key)
            target._write_index({**there, **{key: found.raw[key] for key in keys}})
            source._write_index({key: entry for key, entry in found.raw.items() if key not in keys})
        except BaseException:
            source._index = None
            if set(keys) <= source._read().raw.keys():
                with suppress(OSError):
                    if target._read().raw != there:
                        target._write_index(there)
                    for key in keys:
                        if key not in there:
                            delete_folder(target.path / key)
            raise
        for key in keys:
            delete_folder(source.path / key)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold off other writers; may be nested. Inside it, an `OSError` becomes a `RegistryError`.

        Raises
        ------
        RegistryError
            If another writer holds the lock for too long, or the folder cannot be written.
        """
        # Imported here: only writers need it, and readers start faster without it.
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = FileLock(self.path / ".lock")
            with self._lock.acquire(timeout=self.lock_timeout_s):
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
        content = orjson.dumps(index, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        write_whole(self.path / INDEX_FILE, content)
        self._index = None

    def _read(self) -> Index:
        index = read_index(self.path / INDEX_FILE, self._index)
        if index is not self._index or index is EMPTY:
            self._index, self._models = index, {}
        return index


def _is_key(key: str) -> bool:
    try:
        check_model_key(key)
    except RegistryError:
        return False
    return True
