"""A model as the engine sees it: what it needs, what it is called, and its predictions."""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray

from etacore.forest import Forest
from etacore.manifest import Manifest
from etacore.schema import feature_codes


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
        What a NaN feature is replaced by (0.0), or None if the forest shall see it as missing.
    along_route_distance : bool
        Whether ``distance_to_stop`` is measured along the route.
    clip_s : tuple of float
        Bounds of a prediction.
    manifest : Manifest
    forest : Forest
    """

    __slots__ = (
        "along_route_distance",
        "clip_s",
        "feature_codes",
        "features",
        "forest",
        "holidays",
        "key",
        "manifest",
        "model_type",
        "nan_fill",
        "route_id",
        "scope",
        "time_zone",
    )

    def __init__(self, manifest: Manifest, forest: Forest) -> None:
        self.manifest = manifest
        self.forest = forest
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

        Parameters
        ----------
        X : ndarray of float32, shape (n_rows, n_features), C-contiguous
            Only read. NaN is missing.
        out : ndarray of float32, shape (n_rows,)
            Overwritten.

        Raises
        ------
        ValueError
            If a shape or dtype does not fit.
        """
        self.forest.predict(X, out, *self.clip_s)
