"""A model in memory: what is known of it, and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etacore.errors import ModelLoadError, RegistryError
from etacore.models.bundle_folder import read_manifest
from etacore.models.forest import sha256_hex
from etacore.models.manifest import Manifest
from etacore.models.model import Model, load_model


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model that can be loaded, or added to a registry; nothing of it needs to be on disk.

    Parameters
    ----------
    manifest : Manifest
        Checked as if it were read from disk, and kept as a reader will see it.
    files : mapping of str to bytes
        The source model, the libraries and the table that the manifest names.

    Raises
    ------
    RegistryError
        If the manifest is wrong, or a file is missing, too many, or has another hash.
    SchemaError
        If a feature is unknown to this version.
    """

    manifest: Manifest
    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        # As a reader will see it: a whole number given for a float has become one.
        manifest = Manifest.from_json(self.manifest.to_json(), f"manifest of {self.manifest.model_key}")
        object.__setattr__(self, "manifest", manifest)
        named = manifest.files()
        if named.keys() != self.files.keys():
            raise RegistryError(f"bundle {self.key} names {sorted(named)} and holds {sorted(self.files)}")
        for name, sha256 in named.items():
            found = sha256_hex(self.files[name])
            if found != sha256:
                raise RegistryError(f"{name} of bundle {self.key} has SHA-256 {found}, the manifest says {sha256}")

    @property
    def key(self) -> str:
        """Key of the model."""
        return self.manifest.model_key

    @classmethod
    def read(cls, folder: Path) -> Bundle:
        """Read a bundle that was made elsewhere.

        Raises
        ------
        ModelLoadError
            If a file is missing.
        RegistryError, SchemaError
            As `Bundle`.
        """
        manifest = read_manifest(folder)
        try:
            files = {name: (folder / name).read_bytes() for name in manifest.files()}
        except OSError as err:
            raise ModelLoadError(
                f"{err.filename} cannot be read: {err.strerror}", hint="copy the whole bundle"
            ) from err
        return cls(manifest, files)

    def load(self) -> Model:
        """The model, ready to predict.

        Raises
        ------
        ModelLoadError, SchemaError
            As `load_model`.
        """
        return load_model(self.manifest, self.files)
