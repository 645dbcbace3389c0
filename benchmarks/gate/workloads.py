"""What the gate measures: fixed work for every stage of the engine and for the kernels beside it.

Stages are called as methods of `Engine` on one `Batch`, so that the same workload fits trees whose kernels take other
arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.fleet import MAX_STOPS
from benchmarks.gate.replies import Replies
from benchmarks.gate.sample import Sample
from benchmarks.gate.workload import Workload
from etacore.config import RuntimeConfig
from etacore.models.choice import Models
from etacore.models.forest import CPU, Forest
from etacore.models.model import Model
from etacore.models.predictors import Predictor
from etacore.pipeline.engine import Batch, Engine

FEW_ROWS: Final = 5
N_CALLS: Final = 100
"""Calls of what is measured one vehicle at a time."""
PORTABLE_ROWS: Final = 2_000


class Remembered:
    """A predictor that knows its results after the first call: the engine's own work without the forest's."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor: Final = predictor
        self.known: NDArray[np.float32] = np.empty(0, np.float32)

    def predict(
        self, X: NDArray[np.float32], out: NDArray[np.float32], low: float = -np.inf, high: float = np.inf
    ) -> None:
        """As `etacore.models.predictors.Predictor`."""
        if len(out) != len(self.known):
            self.predictor.predict(X, out, low, high)
            self.known = out.copy()
        else:
            np.copyto(out, self.known)


class Line:
    """An engine that has committed all moments of a sample but the last, and is about to process that one."""

    def __init__(self, model: Model, sample: Sample, *, n: int | None = None) -> None:
        self.sample, self.model = sample, model
        self.now_us = 0
        *earlier, last = sample.moments
        self.keys, self.payloads = last.keys[:n], last.payloads[:n]
        self.batch = Batch(max(len(moment.keys) for moment in sample.moments))
        self.engine = self.cold_engine()
        for moment in earlier:
            self.now_us = moment.time_us
            self.engine.commit(
                self.engine.process(moment.keys[:n], moment.payloads[:n], sample.fetch, self.batch, started=0.0)
            )
        self.now_us = last.time_us
        self.cold = self.engine

    def cold_engine(self) -> Engine:
        """An engine that knows no vehicle and no route."""
        config = RuntimeConfig.from_mapping({"max_stops_per_vehicle": MAX_STOPS})
        return Engine(Models(self.model), config, lambda: self.now_us)

    def process(self) -> None:
        """All stages; nothing is committed."""
        self.engine.process(self.keys, self.payloads, self.sample.fetch, self.batch, started=0.0)

    def stages(self) -> list[Workload]:
        """The stages in their order; each finds the batch as the one before left it."""
        engine, batch, fetch = self.engine, self.batch, self.sample.fetch
        n = len(self.keys)
        return [
            Workload("parse", n, "vehicle", lambda: engine.parse(batch, self.keys, self.payloads)),
            Workload("screen", n, "vehicle", lambda: engine.screen(batch, fetch)),
            Workload("resolve", n, "vehicle", lambda: engine.resolve(batch, fetch)),
            Workload("select", n, "vehicle", lambda: engine.select(batch)),
            Workload("vectorize", n, "vehicle", lambda: engine.predict(batch), prepare=batch.parts.clear),
            Workload("encode", n, "vehicle", lambda: engine.encode(batch, 0.0)),
            Workload("commit", n, "vehicle", lambda: engine.commit(batch), last=True),
        ]

    def first_sights(self) -> list[Workload]:
        """Vehicles and routes seen for the first time, each time by a new engine."""

        def new_engine() -> None:
            self.cold = self.cold_engine()
            self.cold.parse(self.batch, self.keys, self.payloads)

        def screen() -> None:
            self.cold.screen(self.batch, self.sample.fetch)

        def resolve() -> None:
            self.cold.resolve(self.batch, self.sample.fetch)

        return [
            Workload("screen, new vehicles", len(self.keys), "vehicle", screen, new_engine),
            Workload("resolve, new routes", len(self.sample.routes), "route", resolve),
        ]

    def rows(self) -> NDArray[np.float32]:
        """Feature rows of the whole batch."""
        self.process()
        return np.concatenate([part.features for part in self.batch.parts])


def make_workloads(model: Model, folder: Path, sample: Sample) -> list[Workload]:
    """All workloads of a model, whose bundle is in `folder`, on a sample.

    Raises
    ------
    ValueError
        If no vehicle of the sample can be predicted.
    """
    line = Line(Model(model.manifest, Remembered(model.predictor), model.typical), sample)
    X = line.rows()
    if len(X) == 0:
        raise ValueError("no vehicle of the sample can be predicted: look at its times and its routes")
    one = Line(model, sample, n=1)
    kind = "forest" if isinstance(model.predictor, Forest) else model.manifest.predictor
    return [
        *_predicting(kind, model.predictor, model.clip_s, X),
        *_portable(model, folder, X),
        _estimator(model, sample),
        Workload("engine, 1 vehicle", N_CALLS, "call", _repeated(one.process)),
        *line.first_sights(),
        *Replies(sample.moments[-1]).workloads(line.cold_engine, Batch(len(line.keys))),
        *line.stages(),
    ]


def _repeated(function: Callable[[], object], n: int = N_CALLS) -> Callable[[], None]:
    def run() -> None:
        for _ in range(n):
            function()

    return run


def _predicting(name: str, predictor: Predictor, clip_s: tuple[float, float], X: NDArray[np.float32]) -> list[Workload]:
    out = np.empty(len(X), np.float32)
    few = [X[start : start + FEW_ROWS] for start in range(0, min(FEW_ROWS * N_CALLS, len(X)), FEW_ROWS)]

    def predict_few() -> None:
        for rows in few:
            predictor.predict(rows, out[: len(rows)], *clip_s)

    return [
        Workload(f"{name}, few rows", sum(map(len, few)), "row", predict_few),
        Workload(f"{name}, a batch", len(X), "row", lambda: predictor.predict(X, out, *clip_s)),
    ]


def _portable(model: Model, folder: Path, X: NDArray[np.float32]) -> list[Workload]:
    if not isinstance(model.predictor, Forest) or model.predictor.path in ("portable", "branches"):
        return []
    library = next(library for library in model.manifest.libraries if library.cpu == CPU)
    forest = Forest.load(folder / library.file, library.sha256, len(model.features), kernel_path="portable")
    X = np.ascontiguousarray(X[:PORTABLE_ROWS])
    out = np.empty(len(X), np.float32)
    return [Workload("forest, portable path", len(X), "row", lambda: forest.predict(X, out, *model.clip_s))]


def _estimator(model: Model, sample: Sample) -> Workload:
    """`estimate_stop_times` from dict to dict; it finds the model below ``MODEL_REGISTRY_DIR``."""
    from etacore.estimator import estimate_stop_times

    vehicle, stops = _vehicle_with_stops(sample)

    def estimate() -> None:
        estimate_stop_times(vehicle, stops, model_key=model.key, max_stops=MAX_STOPS)

    return Workload("estimator", N_CALLS, "call", _repeated(estimate))


def _vehicle_with_stops(sample: Sample) -> tuple[dict[str, Any], Sequence[dict[str, Any]]]:
    for payload in sample.moments[-1].payloads:
        vehicle = orjson.loads(payload)
        if isinstance(vehicle, dict):
            route_id = next((vehicle[name] for name in ("route_id", "route", "routeId") if name in vehicle), "")
            if blob := sample.routes.get(f"route_stops:{route_id}".encode()):
                stops = orjson.loads(blob)
                return vehicle, [stop | {"total_stop_sequence": len(stops)} for stop in stops[-MAX_STOPS - 1 :]]
    raise ValueError("no vehicle of the sample is on one of its routes")
