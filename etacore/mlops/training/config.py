"""What a training shall do, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Any, Final

from etacore.errors import SchemaError, TrainingError
from etacore.mlops.bundling.source_model import REGRESSION
from etacore.mlops.dataset.layout import LABELS
from etacore.schema import BASE_FEATURES, feature_codes

BEST_FEATURES: Final = (
    *BASE_FEATURES,
    "along_route_distance_m",
    "stops_ahead",
    "recent_speed_mps",
    "since_last_stop_s",
    "leg_left",
    "typical_travel_s",
)
PRESETS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"base": BASE_FEATURES, "best": BEST_FEATURES})
"""Lists of features that have a name."""

_POLYNOMIAL: Final = {"degree": 2, "ridge_alpha": 1.0}
FAMILIES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "historical_mean": MappingProxyType({}),
        "ewma": MappingProxyType({"alpha": 0.3, "min_observations": 3}),
        "polyreg_distance": MappingProxyType(_POLYNOMIAL),
        "polyreg_time": MappingProxyType(_POLYNOMIAL),
        "xgboost": MappingProxyType(
            {
                "max_depth": 5,
                "n_estimators": 200,
                "learning_rate": 0.05,
                "subsample": 0.8,
                "colsample_bytree": 0.8,
                "min_child_weight": 1.0,
                "gamma": 0.0,
                "reg_lambda": 1.0,
                "reg_alpha": 0.0,
                "max_bin": 256,
                "early_stopping_rounds": 20,
            }
        ),
    }
)
"""The families in the order in which they are trained, with their hyperparameters and defaults."""

_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "alpha": (0.0, 1.0),
    "min_observations": (1, 1_000_000),
    "degree": (1, 5),
    "ridge_alpha": (0.0, 1e12),
    "max_depth": (1, 16),
    "n_estimators": (1, 20_000),
    "learning_rate": (1e-6, 1.0),
    "subsample": (0.01, 1.0),
    "colsample_bytree": (0.01, 1.0),
    "min_child_weight": (0.0, 1e12),
    "gamma": (0.0, 1e12),
    "reg_lambda": (0.0, 1e12),
    "reg_alpha": (0.0, 1e12),
    "max_bin": (2, 65_536),
    "early_stopping_rounds": (0, 20_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Settings of a training. Plain data: it goes to other processes as it is.

    Parameters
    ----------
    model_types : sequence of str
        Families to train; default all five.
    features : str or sequence of str
        Of the XGBoost models: a preset (``base``, ``best``), or names in order (in a text, with commas between them).
        The other families have their own.
    objective : str
        XGBoost's, one that is a regression.
    label : str
        ``rule`` or ``interpolated``, see `Dataset.label_seconds`.
    hyperparameters : mapping
        Overrides by name. A name that several families know goes to all of them; ``early_stopping_rounds`` 0 means
        all of ``n_estimators`` rounds.
    by_route : bool
        One model for each route instead of one for all.
    route_ids : sequence of str or None
        Only these routes.
    min_trips_per_route : int
        With ``by_route``, routes with fewer trips on the training days are skipped.
    n_test_days, n_validation_days, test_days
        As for `split_days`.
    seed : int
        Of XGBoost's sampling.
    save_models : bool
        False trains and reports only.
    allow_leaks : bool
        Train although a column seems to know the future, see `find_leaks`.

    Raises
    ------
    TrainingError
        If a name is unknown or a value cannot be used; the message names it.
    """

    model_types: Sequence[str] = tuple(FAMILIES)
    features: str | Sequence[str] = "base"
    objective: str = "reg:squarederror"
    label: str = "rule"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    by_route: bool = False
    route_ids: Sequence[str] | None = None
    min_trips_per_route: int = 30
    n_test_days: int | None = None
    n_validation_days: int | None = None
    test_days: Sequence[date] | None = None
    seed: int = 42
    save_models: bool = True
    allow_leaks: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.model_types if name not in FAMILIES]
        if unknown or not self.model_types:
            raise TrainingError(
                f"model type {', '.join(map(repr, unknown)) or '(none)'} is unknown",
                hint=f"known: {', '.join(FAMILIES)}",
            )
        if self.objective not in REGRESSION:
            raise TrainingError(
                f"objective {self.objective!r} is unknown or no regression", hint=f"known: {', '.join(REGRESSION)}"
            )
        if self.label not in LABELS:
            raise TrainingError(f"label {self.label!r} is unknown", hint=f"known: {', '.join(LABELS)}")
        if self.seed < 0 or self.seed >= 2**31:
            raise TrainingError(f"seed is {self.seed}", hint="a whole number from 0 to 2147483647")
        if self.min_trips_per_route < 1:
            raise TrainingError(f"min_trips_per_route is {self.min_trips_per_route}", hint="at least 1")
        if isinstance(self.features, str):
            listed = tuple(name.strip() for name in self.features.split(",") if name.strip())
            features = PRESETS.get(self.features.strip(), listed)
        else:
            features = tuple(self.features)
        try:
            feature_codes(features)
        except SchemaError as err:
            raise TrainingError(err.message, hint=f"a preset ({', '.join(PRESETS)}); {err.hint}") from None
        if not features:
            raise TrainingError("no feature is given", hint=f"a preset ({', '.join(PRESETS)}) or a list of names")
        object.__setattr__(self, "features", tuple(features))
        object.__setattr__(self, "model_types", tuple(name for name in FAMILIES if name in self.model_types))
        object.__setattr__(self, "hyperparameters", _checked(self.model_types, self.hyperparameters))

    def parameters_of(self, model_type: str) -> dict[str, Any]:
        """Hyperparameters of a family: its defaults with the overrides, in the family's order."""
        defaults = FAMILIES[model_type]
        return {name: self.hyperparameters.get(name, value) for name, value in defaults.items()}


def parse_setting(text: str) -> tuple[str, int | float]:
    """A hyperparameter as it is given on a command line, ``max_depth=7``.

    Raises
    ------
    TrainingError
        If it is not a name, an equals sign and a number.
    """
    name, equals, value = text.partition("=")
    for convert in (int, float):
        try:
            return name.strip(), convert(value)
        except ValueError:
            continue
    raise TrainingError(
        f"{text!r} is not a hyperparameter{'' if equals else ' with a value'}", hint="for example max_depth=7"
    )


def _checked(model_types: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: default for family in model_types for name, default in FAMILIES[family].items()}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise TrainingError(
                f"hyperparameter {name!r} is unknown to {', '.join(model_types)}",
                hint=f"known: {', '.join(sorted(known)) or 'none'}",
            )
        low, high = _BOUNDS[name]
        whole = isinstance(known[name], int)
        usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not usable or not low <= value <= high or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise TrainingError(f"hyperparameter {name} is {value!r}", hint=f"{kind} from {low:g} to {high:g}")
        values[name] = int(value) if whole else float(value)
    return values
