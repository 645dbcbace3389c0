"""What the engine asks of a model, whoever answers: a loaded bundle, or what stands in for one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TypicalLegs(Protocol):
    """A table of typical travel times."""

    def legs(self, route_id: str, stop_ids: Sequence[str]) -> NDArray[np.float32]:
        """Seconds of the leg that ends at each stop, shape (24, n_stops): 0 for the first stop, NaN where unknown."""

    def leg_m(self, route_id: str, stop_id: str) -> float:
        """Metres of the leg that ends at a stop; NaN if unknown."""


class Servable(Protocol):
    """What predicts for a fleet; `etacore.models.model.Model` says what each attribute is."""

    @property
    def key(self) -> str:
        """What documents name."""

    @property
    def model_type(self) -> str:
        """The family."""

    @property
    def route_id(self) -> str | None:
        """The one route it serves; None: all."""

    @property
    def scope(self) -> str:
        """``route`` or ``global``."""

    @property
    def features(self) -> tuple[str, ...]:
        """Columns of its matrix, in order."""

    @property
    def feature_codes(self) -> NDArray[np.int32]:
        """The same as numbers of the schema."""

    @property
    def calendar_args(self) -> tuple[str, tuple[date, ...]]:
        """Time zone and holidays."""

    @property
    def nan_fill(self) -> float | None:
        """What a NaN feature is replaced by; None: nothing."""

    @property
    def along_route_distance(self) -> bool:
        """Whether ``distance_to_stop`` is measured along the route."""

    @property
    def routes(self) -> tuple[str, ...]:
        """Route ids that ``route_code`` counts."""

    @property
    def typical(self) -> TypicalLegs | None:
        """Where ``typical_travel_s`` comes from."""

    def predict(self, X: NDArray[np.float32], out: NDArray[np.float32]) -> None:  # noqa: N803
        """Seconds to arrival for every row of `X`; see `etacore.models.predictors.Predictor.predict`."""
