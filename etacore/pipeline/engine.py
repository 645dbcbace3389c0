"""Raw snapshots in, finished prediction documents out, a batch at a time; knows no Redis.

A batch goes through its stages as columns. Every stage reads the status
column, works on the rows that are still `Status.OK` and may set others aside
with the reason::

    parse -> screen -> resolve -> select -> vectorize -> predict -> encode

What a stage needs from outside (stored predictions of vehicles seen for the
first time, stops of routes not known yet) is asked of one function, ``fetch``:
many keys at a time, at most three times a batch, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from time import perf_counter, time_ns
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from etacore._kernels.resp import Values
from etacore.config import RuntimeConfig
from etacore.errors import ModelNotFoundError
from etacore.model_ids import resolve_key
from etacore.models.model import Model
from etacore.models.registry import Registry
from etacore.pipeline.batch import Batch, Part
from etacore.pipeline.encoding import Envelope, encode_documents, iso_time
from etacore.pipeline.features import Calendar, SelectOptions, count_rows, select_stops, vectorize
from etacore.pipeline.fleet import NO_TIME, VehicleState, text_keys
from etacore.pipeline.route_knowledge import ROUTE_FEATURES, RouteKnowledge
from etacore.pipeline.routes import RouteTable
from etacore.pipeline.snapshots import parse_snapshots, parse_timestamp
from etacore.schema import FAILED, REJECTED, Status

__all__ = ["Batch", "Engine", "Fetch", "Models", "Part", "choose_models", "summarize", "system_clock_us"]

Fetch = Callable[[Sequence[bytes]], list[bytes | None]]
"""Keys to values, None where there is none (Redis' MGET)."""

_US: Final = 1_000_000


def system_clock_us() -> int:
    """Now, in microseconds since the epoch, UTC."""
    return time_ns() // 1_000


@dataclass(frozen=True, slots=True)
class Models:
    """The models that serve a fleet: one for all routes, and better ones for some.

    Attributes
    ----------
    default : Model or None
        For routes that have none of their own.
    by_route : dict
        Route id (UTF-8) to the model of that route.
    """

    default: Model | None
    by_route: dict[bytes, Model] = field(default_factory=dict)

    def with_promoted(self, model: Model) -> Models:
        """These models with one more in its place: a route's model serves its route, a global one all others."""
        if model.route_id is None:
            return Models(model, self.by_route)
        return Models(self.default, self.by_route | {model.route_id.encode(): model})

    def all(self) -> list[Model]:
        """Each model once, the default first."""
        return ([self.default] if self.default else []) + list(self.by_route.values())


def choose_models(registry: Registry, model_key: str | None, model_type: str = "xgboost") -> Models:
    """Models for a fleet: the named one (by key or short id) alone, else the best global one and each route's own best.

    A model of one route never serves another route.

    Raises
    ------
    ModelNotFoundError
        If the key is unknown or means more than one model, or the registry holds no model of the type.
    ModelLoadError, SchemaError
        If a chosen model cannot be served.
    """
    if model_key is not None:
        return Models(None).with_promoted(registry.load(resolve_key(registry, model_key, advice="set model_key")))
    routes = sorted(
        {entry.route_id for entry in registry.entries() if entry.route_id and entry.model_type == model_type}
    )
    own = {route: registry.choose(model_type, route, prefer_route_model=True) for route in routes}
    default = registry.choose(model_type, None)
    by_route = {route.encode(): registry.load(key) for route, key in own.items() if key is not None and key != default}
    if default is None and not by_route:
        raise ModelNotFoundError(
            f"No trained models found for model_type {model_type} in {registry.path}",
            hint="set model_registry_dir (environment MODEL_REGISTRY_DIR), or add a model with `etacore compile`",
        )
    return Models(registry.load(default) if default is not None else None, by_route)


class Engine:
    """Turns batches of payload bytes into prediction documents.

    Parameters
    ----------
    models : Models
        May be replaced between two batches through the attribute of that name.
    config : RuntimeConfig
        Limits, number of stops, key names, time to live.
    clock : callable, optional
        Now in microseconds; a replay gives its own.

    Attributes
    ----------
    every_s : float
        How often an unchanged vehicle is looked at, seconds; its prediction is renewed in time before it expires.

    Notes
    -----
    Not safe for concurrent use: it owns the state of the fleet. A vehicle's
    state moves in `commit`, once its document has been stored.
    """

    def __init__(self, models: Models, config: RuntimeConfig, clock: Callable[[], int] = system_clock_us) -> None:
        self.config: Final = config
        self.models = models
        self.clock: Final = clock
        self.every_s = config.poll_interval_seconds
        self.state: Final = VehicleState()
        self.routes: Final = RouteTable(config.keys, refresh_s=config.route_refresh_seconds)
        self._select_options: Final = SelectOptions(max_off_route_m=config.max_off_route_metres)
        self._calendars: dict[tuple[str, tuple[date, ...]], Calendar] = {}
        self._knowledge: dict[Model, RouteKnowledge] = {}
        self._knowledge_of = models
        self._predictions_prefix: Final = config.keys.predictions.encode()

    def process(
        self,
        keys: Sequence[bytes],
        payloads: Sequence[bytes | None] | Values,
        fetch: Fetch,
        batch: Batch | None = None,
        *,
        started: float | None = None,
    ) -> Batch:
        """Take a batch through all stages.

        Parameters
        ----------
        keys, payloads : sequence
            The keys of the snapshots and their raw values, in the same order.
        fetch : callable
            Looks up further keys.
        batch : Batch, optional
            To be used again.
        started : float, optional
            `time.perf_counter` at which the batch began to be read, for the latency in the documents.

        Returns
        -------
        Batch
            With its documents; nothing is committed yet.
        """
        started = perf_counter() if started is None else started
        batch = batch if batch is not None and batch.capacity >= len(payloads) else Batch(max(len(payloads), 1))
        self.parse(batch, keys, payloads)
        self.screen(batch, fetch)
        self.resolve(batch, fetch)
        self.select(batch)
        self.predict(batch)
        self.encode(batch, started)
        return batch

    def parse(self, batch: Batch, keys: Sequence[bytes], payloads: Sequence[bytes | None] | Values) -> None:
        """Payloads to columns; what cannot be read is set aside with its reason."""
        batch.start(self.clock(), keys)
        parse_snapshots(
            payloads,
            batch.columns,
            now_us=batch.now_us,
            max_future_us=int(self.config.max_future_seconds * _US),
            max_age_us=int(self.config.max_age_seconds * _US),
            max_payload_bytes=self.config.max_payload_bytes,
        )

    def screen(self, batch: Batch, fetch: Fetch) -> None:
        """Set aside what brings nothing new: duplicates, older times, unchanged snapshots.

        A vehicle seen for the first time may have been served before a
        restart: its stored prediction says up to which event time.
        """
        if self.state.lookup(batch.columns, batch.vehicle_ix, batch.is_new):
            self._restore(batch, fetch)
        self.state.screen(batch.columns, batch.vehicle_ix, batch.now_us)

    def _restore(self, batch: Batch, fetch: Fetch) -> None:
        rows = np.flatnonzero(batch.is_new[: batch.n])
        stored = fetch(batch.columns.texts("vehicle_id", rows, self.config.keys.predictions.encode()))
        self.state.restore(
            batch.vehicle_ix[rows],
            np.fromiter((_source_time_us(blob) for blob in stored), np.int64, len(rows)),
            np.full(len(rows), self._valid_until_us(batch), np.int64),
            max_time_us=batch.now_us + int(self.config.max_future_seconds * _US),
        )

    def resolve(self, batch: Batch, fetch: Fetch) -> None:
        """Find each vehicle's pattern, looking up what is not known yet or due for another look."""
        routes, columns, now_us = self.routes, batch.columns, batch.now_us
        needed = routes.due(now_us)
        if not needed and routes.resolve_known(columns, batch.pattern_ix, batch.trip_key):
            return
        needed += routes.missing(columns)
        while needed:
            needed = routes.update(needed, fetch(needed), now_us)
        routes.resolve(columns, batch.pattern_ix, batch.trip_key)

    def select(self, batch: Batch) -> None:
        """Choose the next stops of each vehicle from its report or its position, and its progress before."""
        # The first array of each kernel says how many rows there are; the others may be longer.
        n = batch.n
        self.state.gather(
            batch.vehicle_ix[:n],
            batch.trip_key,
            batch.pattern_ix,
            batch.prev_progress_m,
            batch.prev_time_us,
            batch.prev_strikes,
            batch.motion,
        )
        select_stops(
            batch.columns,
            self.routes,
            batch.pattern_ix[:n],
            batch.trip_key,
            batch.prev_progress_m,
            batch.prev_time_us,
            batch.prev_strikes,
            options=self._select_options,
            first_stop=batch.first_stop,
            progress_m=batch.progress_m,
            strikes=batch.strikes,
            motion=batch.motion,
        )

    def predict(self, batch: Batch) -> None:
        """Feature rows and their ETAs, one part for each model."""
        batch.computed_us = self.clock()
        for model, status in self._assign(batch):
            batch.parts.append(self._predict_part(batch, model, status))

    def _assign(self, batch: Batch) -> list[tuple[Model, NDArray[np.uint8]]]:
        """Models with the status column of their own rows; rows that no model serves are set aside."""
        status, models = batch.status, self.models
        if not models.by_route:
            if models.default is None:
                status[status == Status.OK] = Status.NO_MODEL
                return []
            return [(models.default, status)]
        rest = status == Status.OK
        if not rest.any():
            return []
        route_key = np.empty(batch.n, np.uint64)
        text_keys(batch.columns, "route_id", route_key)
        rows = np.flatnonzero(rest)
        keys, first = np.unique(route_key[rows], return_index=True)
        assigned = []
        for key, route_id in zip(keys, batch.columns.texts("route_id", rows[first]), strict=True):
            if model := models.by_route.get(route_id):
                mine = rest & (route_key == key)
                rest &= ~mine
                assigned.append((model, np.where(mine, status, np.uint8(Status.NO_MODEL))))
        if models.default is None:
            status[rest] = Status.NO_MODEL
        elif rest.any():
            assigned.append((models.default, np.where(rest, status, np.uint8(Status.NO_MODEL))))
        return assigned

    def _predict_part(self, batch: Batch, model: Model, status: NDArray[np.uint8]) -> Part:
        n, first_stop = batch.n, batch.first_stop
        pattern_ix = batch.pattern_ix[:n]
        buffers = batch.buffers(len(batch.parts))
        row_offset = buffers.row_offset(n)
        n_rows = count_rows(status, pattern_ix, first_stop, self.routes, self.config.max_stops_per_vehicle, row_offset)
        part = buffers.part(model, n, n_rows)
        knowledge = self._known_by(model)
        vectorize(
            batch.columns,
            self.routes,
            pattern_ix,
            first_stop,
            batch.progress_m,
            row_offset,
            self._calendar(model),
            model.feature_codes,
            motion=batch.motion,
            route_code=knowledge.route_code(batch.columns) if knowledge else None,
            legs=knowledge.legs(batch.columns, pattern_ix, status) if knowledge else None,
            along_route_distance=model.along_route_distance,
            nan_fill=model.nan_fill,
            X=part.features,
            distance_m=part.distance_m,
            stop_ix=part.stop_ix,
        )
        model.predict(part.features, part.eta_s)
        return part

    def _known_by(self, model: Model) -> RouteKnowledge | None:
        """What a model knows of routes; None if it asks for nothing of the kind."""
        if ROUTE_FEATURES.isdisjoint(model.features):
            return None
        if self._knowledge_of is not self.models:
            kept = self.models.all()
            self._knowledge = {model: known for model, known in self._knowledge.items() if model in kept}
            self._knowledge_of = self.models
        if model not in self._knowledge:
            self._knowledge[model] = RouteKnowledge(model.features, model.routes, model.typical, self.routes.patterns)
        return self._knowledge[model]

    def _calendar(self, model: Model) -> Calendar:
        calendar = self._calendars.get(model.calendar_args)
        if calendar is None:
            calendar = self._calendars[model.calendar_args] = Calendar(*model.calendar_args)
        return calendar

    def encode(self, batch: Batch, started: float) -> None:
        """Documents of all parts."""
        persisted_us = self.clock()
        for part in batch.parts:
            envelope = Envelope(
                model_key=part.model.key,
                model_type=part.model.model_type,
                model_scope=part.model.scope,
                source=self.config.source,
                computed_at=iso_time(batch.computed_us),
                fetched_at=iso_time(batch.now_us),
                persisted_at=iso_time(persisted_us),
                latency_ms=(perf_counter() - started) * 1e3,
            )
            encode_documents(
                batch.columns,
                batch.keys,
                self.routes,
                batch.pattern_ix,
                part.row_offset,
                part.stop_ix,
                part.distance_m,
                part.eta_s,
                envelope,
                part.documents,
                prefix=self._predictions_prefix,
                ttl_s=self.config.predictions_ttl_seconds,
            )

    def commit(self, batch: Batch) -> None:
        """Let the vehicles' state move on: their documents are stored."""
        n = batch.n
        self.state.commit(
            batch.status,
            batch.vehicle_ix[:n],
            batch.columns.time_us,
            self._valid_until_us(batch),
            batch.trip_key,
            batch.pattern_ix,
            batch.progress_m,
            batch.strikes,
            batch.first_stop,
            batch.motion,
            batch.now_us,
        )

    def _valid_until_us(self, batch: Batch) -> int:
        """Until when an unchanged snapshot needs no new prediction: a little before Redis drops the old one."""
        ttl_s = self.config.predictions_ttl_seconds
        return batch.now_us + int((ttl_s - min(2.0 * self.every_s, 0.5 * ttl_s)) * _US)

    def evict(self, now_us: int) -> int:
        """Forget vehicles that were silent too long; returns how many."""
        return self.state.evict(now_us - int(self.config.state_retention_seconds * _US))


def summarize(counts: dict[Status, int]) -> dict[str, int]:
    """Counts of a batch or a window as predicted / unchanged / rejected / failed."""
    return {
        "predicted": counts.get(Status.OK, 0),
        "unchanged": counts.get(Status.UNCHANGED, 0),
        "rejected": sum(counts.get(status, 0) for status in REJECTED),
        "failed": sum(counts.get(status, 0) for status in FAILED),
    }


def _source_time_us(blob: bytes | None) -> int:
    """Event time of a stored prediction document, microseconds; `NO_TIME` if there is none to be read."""
    if not blob:
        return NO_TIME
    try:
        document = orjson.loads(blob)
    except orjson.JSONDecodeError:
        return NO_TIME
    time_us = parse_timestamp(document.get("source_timestamp")) if isinstance(document, dict) else None
    return NO_TIME if time_us is None else time_us
