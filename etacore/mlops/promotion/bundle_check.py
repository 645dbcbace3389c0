"""One bundle looked at from all sides: is it whole, is it what was saved, can this machine serve it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from etacore.errors import EtacoreError, ModelLoadError, RegistryError, SchemaError
from etacore.finding import Finding
from etacore.models.bundle_folder import read_checked
from etacore.models.manifest import MANIFEST_FILE, Manifest
from etacore.models.model import Model, load_model
from etacore.models.registry import Registry
from etacore.schema import WEATHER_FEATURES

SAMPLE_ROWS: Final = 256
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Examined:
    """What became of a bundle; ``model`` is None if it cannot be served here."""

    manifest: Manifest | None
    model: Model | None
    findings: tuple[Finding, ...] = field(default=())


def examine_bundle(registry: Registry, key: str) -> Examined:
    """Read every file of a bundle, hold it against its hash, load it, and let it predict.

    Parameters
    ----------
    registry : Registry
        Where it is.
    key : str
        A key of its index.

    Returns
    -------
    Examined
        With what is wrong, the first thing of its kind only: ``missing``, ``corrupt``, ``hash_mismatch``,
        ``unloadable``, ``unknown_schema``, ``needs_weather`` or ``unchecked``.
    """
    folder = registry.folder(key)
    if not (folder / MANIFEST_FILE).is_file():
        what = f"{MANIFEST_FILE} is missing" if folder.is_dir() else "its folder is missing"
        return _failed("missing", key, f"indexed, and {what}", "restore the folder from a backup, or archive the entry")
    try:
        manifest = registry.manifest(key)
    except SchemaError as err:
        return _failed("unknown_schema", key, err.message, "update etacore, or archive the model")
    except ModelLoadError as err:
        return _failed("hash_mismatch", key, err.message, err.hint or "")
    except RegistryError as err:
        return _failed("corrupt", key, err.message, err.hint or "restore the bundle, or archive it")
    for name, sha256 in manifest.files().items():
        if not (folder / name).is_file():
            return _failed("missing", key, f"{name} is missing", "copy the whole bundle again", manifest)
        try:
            read_checked(folder / name, sha256)
        except ModelLoadError as err:
            return _failed("hash_mismatch", key, err.message, err.hint or "", manifest)
    weather = [name for name in manifest.features if name in WEATHER_FEATURES]
    if weather:
        text = f"needs {', '.join(weather)}, and serving has no weather source"
        return Examined(manifest, None, (Finding("needs_weather", key, "note", text, "it is never chosen"),))
    try:
        model = load_model(manifest, folder)
        predict_sample(model)
    except EtacoreError as err:
        return _failed("unloadable", key, err.message, err.hint or "", manifest)
    if manifest.predictor == "forest" and manifest.parity is None:
        text = "compiled, and there is no record that it was held against the library that trained it"
        unchecked = Finding("unchecked", key, "warning", text, "compile the source again: etacore compile MODEL")
        return Examined(manifest, model, (unchecked,))
    return Examined(manifest, model)


def predict_sample(model: Model, n_rows: int = SAMPLE_ROWS) -> NDArray[np.float32]:
    """Predict made-up rows: zeros first, then small and large numbers; always the same ones.

    Returns
    -------
    ndarray of float32, shape (n_rows,)
        Seconds.

    Raises
    ------
    ModelLoadError
        If a prediction is not finite.
    """
    rng = np.random.default_rng(_SEED)
    rows = (rng.random((n_rows, len(model.features))) * 10.0 ** rng.integers(0, 5, (n_rows, 1))).astype(np.float32)
    rows[:1] = 0.0
    seconds = np.empty(n_rows, np.float32)
    model.predict(rows, seconds)
    if not np.isfinite(seconds).all():
        shown = dict(zip(model.features, rows[int(np.isfinite(seconds).argmin())].tolist(), strict=True))
        raise ModelLoadError(f"model {model.key} predicts no finite number for {shown}", hint="train it again")
    return seconds


def _failed(kind: str, key: str, text: str, advice: str, manifest: Manifest | None = None) -> Examined:
    return Examined(manifest, None, (Finding(kind, key, "error", text, advice),))
