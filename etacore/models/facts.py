"""What is known of a model, whatever it is made of: trained on what, with which features, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from etacore.schema import MAX_ETA_S, MIN_ETA_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a model before it has a name and files.

    Attributes
    ----------
    model_type : str
        The family, for example ``xgboost`` or ``historical_mean``.
    dataset : str
        Name of the training data; models are only ever compared within one.
    route_id : str or None
        The one route it was trained for; None for a global model.
    features : tuple of str
        Columns it predicts from, in order; empty for an XGBoost model that names them itself.
    time_zone : str
        IANA name of the zone that hour and day are told in.
    metrics : mapping
        ``val_*`` and ``test_*``; ``test_mae_seconds`` decides between models.
    hyperparameters, provenance : mapping
        Plain values for JSON. The compiler adds versions, objective and number of trees to the provenance.
    holiday_region : str or None
        A code such as ``CR`` or ``CA-ON``; None: no holidays.
    holidays : tuple of date
        Its days; filled in from the region when the bundle is made.
    nan_at_serving : float or None
        0.0 if a NaN feature was 0.0 in training. None leaves it NaN: XGBoost calls that missing, a table then gives
        its default, a polynomial no prediction.
    distance : str
        ``straight`` or ``along_route``: what ``distance_to_stop`` was in training.
    clip_seconds : tuple of float
        Bounds of a prediction.
    n_samples, n_trips, train_samples, test_samples : int or None
        How much it was trained and tested on.
    routes : tuple of str
        Route ids in the order of ``route_code``.
    """

    model_type: str = "xgboost"
    dataset: str = "unknown"
    route_id: str | None = None
    features: tuple[str, ...] = ()
    time_zone: str = "UTC"
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    holiday_region: str | None = None
    holidays: tuple[date, ...] = ()
    nan_at_serving: float | None = None
    distance: str = "straight"
    clip_seconds: tuple[float, float] = (MIN_ETA_S, MAX_ETA_S)
    n_samples: int | None = None
    n_trips: int | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    routes: tuple[str, ...] = ()
