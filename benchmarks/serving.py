"""The engine and its peer, both warm, on the same fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final

import numpy as np
import xgboost
from numpy.typing import NDArray

from benchmarks.fleet import MAX_STOPS, NOW_US, Fleet
from benchmarks.peers.tuned_python import CHUNK, ModelFacts, TunedPython
from etacore.config import RuntimeConfig
from etacore.models.choice import Models
from etacore.models.model import Model
from etacore.pipeline.engine import Batch, Engine

PREDICTED_S: Final = 60.0
ENGINE_STAGES: Final = {
    "parse": "parse",
    "screen": "screen",
    "resolve": "find routes",
    "select": "choose stops, fill rows",
    "predict": "choose stops, fill rows",
    "encode": "encode",
    "commit": "commit",
}
PEER_STAGES: Final = {
    "parse": "parse",
    "columns": "parse",
    "vectorize": "choose stops, fill rows",
    "predict": "forest",
    "encode": "encode",
}


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


class Stopwatch:
    """Sums what stages take, in seconds; a stage within another one counts only once."""

    def __init__(self) -> None:
        self.seconds: Final[dict[str, float]] = {}
        self._within_s = 0.0

    def around(self, owner: object, methods: Mapping[str, str]) -> None:
        """Time methods of one object from now on: name of the method to name of the stage."""
        for method, stage in methods.items():
            setattr(owner, method, self._timed(getattr(owner, method), stage))

    def _timed(self, call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            outside_s, self._within_s = self._within_s, 0.0
            began = perf_counter()
            result = call(*arguments)
            took_s = perf_counter() - began
            self.seconds[stage] = self.seconds.get(stage, 0.0) + took_s - self._within_s
            self._within_s = outside_s + took_s
            return result

        return timed


class TimedModel(Model):
    """A model whose predictions are timed as a stage."""

    def __init__(self, model: Model, watch: Stopwatch) -> None:
        super().__init__(model.manifest, model.predictor, model.typical)
        watch.around(self, {"predict": "forest"})


class WarmEngine:
    """An engine that has served the fleet once, in chunks as the loop does.

    `process` does not commit: it can be measured again and again, and each time all vehicles are due.
    To make one is the cold case: an engine that knows nothing serves the fleet.
    """

    def __init__(
        self,
        model: Model,
        before: Fleet,
        clock: Callable[[], int] | None = None,
        watch: Stopwatch | None = None,
    ) -> None:
        self.engine: Final = Engine(Models(model), config(), clock or Clock())
        if watch is not None:
            watch.around(self.engine, ENGINE_STAGES)
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
        self,
        booster: xgboost.Booster,
        model: ModelFacts,
        fleet: Fleet,
        clock: Callable[[], int] | None = None,
        watch: Stopwatch | None = None,
    ) -> None:
        self.pipeline: Final = TunedPython(booster, model, fleet.routes, max_stops=MAX_STOPS, clock_us=clock or Clock())
        if watch is not None:
            watch.around(self.pipeline, PEER_STAGES)

    def documents(self, fleet: Fleet) -> list[bytes]:
        """Documents of all vehicles, in the fleet's order."""
        found = []
        for start in range(0, len(fleet), CHUNK):
            chunk = slice(start, start + CHUNK)
            found += self.pipeline.process(fleet.keys[chunk], fleet.payloads[chunk])[1]
        return found
