"""The engine and its peer, both warm, on the same fleet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import xgboost
from numpy.typing import NDArray

from benchmarks.fleet import MAX_STOPS, NOW_US, Fleet
from benchmarks.peers.tuned_python import CHUNK, ModelFacts, TunedPython
from etacore.config import RuntimeConfig
from etacore.engine import Batch, Engine, Models
from etacore.model import Model

PREDICTED_S: Final = 60.0


class Clock:
    """A present that moves only when told."""

    def __init__(self, now_us: int = NOW_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


class InstantModel(Model):
    """A model without inference: everybody arrives in a minute."""

    __slots__ = ()

    def predict(self, X: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """The same number for every row."""
        out.fill(PREDICTED_S)


def without_inference(model: Model) -> Model:
    """`model` in every respect, but for what predicts."""
    return InstantModel(model.manifest, model.predictor, model.typical)


def config(**changes: object) -> RuntimeConfig:
    """Settings of all benchmarks."""
    return RuntimeConfig.from_mapping({"max_stops_per_vehicle": MAX_STOPS, **changes})


def facts(model: Model) -> ModelFacts:
    """What the peers need to know of a model."""
    return ModelFacts(model.key, model.model_type, model.scope, model.time_zone)


class WarmEngine:
    """An engine that has served the fleet once, in chunks as the loop does.

    `process` does not commit: it can be measured again and again, and each time all vehicles are due.
    """

    def __init__(self, model: Model, before: Fleet, clock: Callable[[], int] | None = None) -> None:
        self.engine: Final = Engine(Models(model), config(), clock or Clock())
        self.batch = Batch(self.engine.config.chunk_size)
        for start in range(0, len(before), self.batch.capacity):
            self.engine.commit(self._process(before, start))

    def _process(self, fleet: Fleet, start: int) -> Batch:
        chunk = slice(start, start + self.batch.capacity)
        return self.engine.process(fleet.keys[chunk], fleet.payloads[chunk], fleet.fetch, self.batch)

    def process(self, fleet: Fleet) -> int:
        """Payload bytes to document bytes; returns how many vehicles got a document."""
        n = 0
        for start in range(0, len(fleet), self.batch.capacity):
            n += sum(len(part.documents) for part in self._process(fleet, start).parts)
        return n

    def documents(self, fleet: Fleet) -> list[bytes]:
        """Documents of all vehicles, in the fleet's order."""
        found = []
        for start in range(0, len(fleet), self.batch.capacity):
            batch = self._process(fleet, start)
            (part,) = batch.parts
            found += [part.documents[row] for row in range(batch.n)]
        return found


class WarmPeer:
    """The tuned Python pipeline on the same fleet."""

    def __init__(
        self, booster: xgboost.Booster, model: ModelFacts, fleet: Fleet, clock: Callable[[], int] | None = None
    ) -> None:
        self.pipeline: Final = TunedPython(booster, model, fleet.routes, max_stops=MAX_STOPS, clock_us=clock or Clock())

    def documents(self, fleet: Fleet) -> list[bytes]:
        """Documents of all vehicles, in the fleet's order."""
        found = []
        for start in range(0, len(fleet), CHUNK):
            chunk = slice(start, start + CHUNK)
            found += self.pipeline.process(fleet.keys[chunk], fleet.payloads[chunk])[1]
        return found
