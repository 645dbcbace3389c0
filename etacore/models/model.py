"""A model as the engine sees it: what it needs, what it is called, and its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from etacore.errors import ModelLoadError, SchemaError
from etacore.models.bundle_folder import read_checked
from etacore.models.forest import CPU, PLATFORM, Forest
from etacore.models.manifest import Manifest, SourceFile
from etacore.models.predictors import MeanTable, Polynomial, Predictor, load_predictor
from etacore.models.travel_times import TypicalTimes
from etacore.schema import WEATHER_FEATURES, feature_codes

BACKENDS: Final = ("bitmask", "tl2cgen")


class Model:
    """A loaded model: what it needs, what it is called, and its predictions.

    Attributes
    ----------
    key, model_type : str
    route_id : str or None
        None for a global model.
    scope : str
        ``route`` or ``global``.
    features : tuple of str
        Columns of its matrix, in order.
    feature_codes : ndarray of int32, shape (n_features,)
    time_zone : str
    holidays : tuple of date
    nan_fill : float or None
        What a NaN feature is replaced by (0.0), or None if the model shall see it as missing.
    along_route_distance : bool
        Whether ``distance_to_stop`` is measured along the route.
    clip_s : tuple of float
        Bounds of a prediction.
    routes : tuple of str
        Route ids; ``route_code`` is the position in it.
    typical : TypicalTimes or None
        Where ``typical_travel_s`` comes from.
    manifest : Manifest
    predictor : Predictor
        A `Forest`, or one of `etacore.models.predictors`.
    """

    __slots__ = (
        "along_route_distance",
        "clip_s",
        "feature_codes",
        "features",
        "holidays",
        "key",
        "manifest",
        "model_type",
        "nan_fill",
        "predictor",
        "route_id",
        "routes",
        "scope",
        "time_zone",
        "typical",
    )

    def __init__(self, manifest: Manifest, predictor: Predictor, typical: TypicalTimes | None = None) -> None:
        self.manifest = manifest
        self.predictor = predictor
        self.typical = typical
        self.routes = manifest.routes
        self.key = manifest.model_key
        self.model_type = manifest.model_type
        self.route_id = manifest.route_id
        self.scope = "global" if manifest.route_id is None else "route"
        self.features = manifest.features
        self.feature_codes = feature_codes(manifest.features)
        self.time_zone = manifest.time_zone
        self.holidays = manifest.holidays
        self.nan_fill = manifest.nan_at_serving
        self.along_route_distance = manifest.distance == "along_route"
        self.clip_s = manifest.clip_seconds

    @property
    def calendar_args(self) -> tuple[str, tuple[date, ...]]:
        """Time zone and holidays, as ``Calendar`` takes them."""
        return self.time_zone, self.holidays

    def predict(self, X: NDArray[np.float32], out: NDArray[np.float32]) -> None:  # noqa: N803
        """Seconds to arrival for every row of `X`, clipped to ``clip_s``. Safe to call from several threads.

        A row that cannot be predicted gets NaN, never an infinity; the encoder shows such a stop with an error.
        Arguments are those of `etacore.models.predictors.Predictor.predict`.
        """
        self.predictor.predict(X, out, *self.clip_s)


def load_model(manifest: Manifest, files: Path | Mapping[str, bytes]) -> Model:
    """Make a bundle ready to predict. Every file is held against its hash before anything is done with it.

    Parameters
    ----------
    manifest : Manifest
        Of the bundle.
    files : Path or mapping of str to bytes
        The folder of its files, or the files themselves.

    Raises
    ------
    ModelLoadError
        If a file is missing, damaged, or made for another machine; names it.
    SchemaError
        If serving cannot compute its features.
    """
    weather = [name for name in manifest.features if name in WEATHER_FEATURES]
    if weather:
        raise SchemaError(
            f"model {manifest.model_key} needs {', '.join(weather)}, and serving has no weather source",
            hint="choose a model without weather features",
        )
    predictor = _forest(manifest, files) if manifest.predictor == "forest" else _small(manifest, files)
    typical = None
    if manifest.typical is not None:
        typical = TypicalTimes.from_json(*_content(manifest, files, manifest.typical))
    return Model(manifest, predictor, typical)


def _forest(manifest: Manifest, files: Path | Mapping[str, bytes]) -> Forest:
    usable = [library for library in manifest.libraries if library.backend in BACKENDS]
    fitting = [library for library in usable if (library.platform, library.cpu) == (PLATFORM, CPU)]
    if not fitting:
        made_for = ", ".join(f"{library.platform}-{library.cpu}" for library in usable) or "no machine"
        n_rounds = manifest.provenance.get("n_rounds")
        rounds = f" --rounds {n_rounds}" if n_rounds else ""
        raise ModelLoadError(
            f"model {manifest.model_key} is compiled for {made_for}, this machine is {PLATFORM}-{CPU}",
            hint=f"on such a machine: etacore compile {_name(manifest, files, manifest.source.file)}{rounds}",
        )
    file, sha256, n_features = fitting[0].file, fitting[0].sha256, len(manifest.features)
    if isinstance(files, Path):
        return Forest.load(files / file, sha256, n_features)
    return Forest.from_bytes(files[file], sha256, n_features, _name(manifest, files, file))


def _small(manifest: Manifest, files: Path | Mapping[str, bytes]) -> Polynomial | MeanTable:
    content, name = _content(manifest, files, manifest.source)
    predictor = load_predictor(content, len(manifest.features), name)
    if predictor.kind != manifest.predictor:
        raise ModelLoadError(
            f"{name}: field kind is {predictor.kind!r}, the manifest says {manifest.predictor!r}",
            hint="restore the bundle",
        )
    return predictor


def _content(manifest: Manifest, files: Path | Mapping[str, bytes], source: SourceFile) -> tuple[bytes, str]:
    """Content of a file, and what to call it in errors."""
    if isinstance(files, Path):
        return read_checked(files / source.file, source.sha256), str(files / source.file)
    return files[source.file], _name(manifest, files, source.file)


def _name(manifest: Manifest, files: Path | Mapping[str, bytes], file: str) -> str:
    return str(files / file) if isinstance(files, Path) else f"{file} of {manifest.model_key}"
