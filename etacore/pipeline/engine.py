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
from dataclasses import dataclass
from math import nan
from time import perf_counter, time_ns
from typing import Final

import numpy as np
import orjson

from etacore._kernels.batch import Batch, Part
from etacore._kernels.features import Vectorizer
from etacore._kernels.fleet import NO_TIME, Fleet
from etacore._kernels.resp import Values
from etacore._kernels.select import SelectOptions, select_stops
from etacore.config import RuntimeConfig
from etacore.models.choice import Models
from etacore.models.servable import Servable
from etacore.pipeline.calendar import Calendar
from etacore.pipeline.encoding import Envelope, encode_documents, iso_time, order_arrivals
from etacore.pipeline.route_knowledge import ROUTE_FEATURES, RouteKnowledge
from etacore.pipeline.routes import Fetch, RouteTable
from etacore.pipeline.snapshots import parse_snapshots, parse_timestamp
from etacore.status import FAILED, REJECTED, Status

__all__ = ["Batch", "Engine", "Fetch", "Part", "summarize", "system_clock_us"]

_US: Final = 1_000_000


def system_clock_us() -> int:
    """Now, in microseconds since the epoch, UTC."""
    return time_ns() // 1_000


@dataclass(frozen=True, slots=True)
class _Asking:
    # What one model asks of the engine.
    vectorizer: Vectorizer
    knowledge: RouteKnowledge | None


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
        self.fleet: Final = Fleet()
        self.routes: Final = RouteTable(
            config.keys, refresh_s=config.route_refresh_seconds, guessed_patterns=config.guessed_patterns
        )
        self._select_options: Final = SelectOptions(max_off_route_m=config.max_off_route_metres)
        self._asking: dict[Servable, _Asking] = {}
        self._asking_of = models
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
        self.advance(batch, fetch)
        self.encode(batch, started)
        return batch

    def advance(self, batch: Batch, fetch: Fetch) -> None:
        """Take a batch whose snapshots are in its columns as far as its predictions; nothing is committed yet.

        Serving, datasets and demo all go this way, so what a model learned is what it is asked.

        Parameters
        ----------
        batch : Batch
            After `parse`, or `Batch.start` and `fill_snapshots`.
        fetch : callable
            Looks up further keys.
        """
        self.screen(batch, fetch)
        self.resolve(batch, fetch)
        self.select(batch)
        self.predict(batch)

    def parse(self, batch: Batch, keys: Sequence[bytes], payloads: Sequence[bytes | None] | Values) -> None:
        """Payloads to columns; what cannot be read is set aside with its reason."""
        batch.start(self.clock(), keys)
        parse_snapshots(
            batch,
            payloads,
            max_future_us=int(self.config.max_future_seconds * _US),
            max_age_us=int(self.config.max_age_seconds * _US),
            max_payload_bytes=self.config.max_payload_bytes,
        )

    def screen(self, batch: Batch, fetch: Fetch) -> None:
        """Set aside what brings nothing new: duplicates, older times, unchanged snapshots.

        A vehicle seen for the first time may have been served before a
        restart: its stored prediction says up to which event time.
        """
        if self.fleet.lookup(batch):
            self._restore(batch, fetch)
        self.fleet.screen(batch)

    def _restore(self, batch: Batch, fetch: Fetch) -> None:
        rows = np.flatnonzero(batch.is_new)
        stored = fetch(batch.texts("vehicle_id", rows, self._predictions_prefix))
        self.fleet.restore(
            batch.vehicle_ix[rows],
            np.fromiter((_source_time_us(blob) for blob in stored), np.int64, len(rows)),
            np.full(len(rows), self._valid_until_us(batch), np.int64),
            max_time_us=batch.now_us + int(self.config.max_future_seconds * _US),
        )

    def resolve(self, batch: Batch, fetch: Fetch) -> None:
        """Find each vehicle's pattern, looking up what is not known yet or due for another look."""
        self.routes.resolve(batch, fetch)

    def select(self, batch: Batch) -> None:
        """Choose the next stops of each vehicle from its report or its position, and its progress before."""
        self.fleet.gather(batch)
        select_stops(batch, self.routes.patterns, self._select_options)

    def predict(self, batch: Batch) -> None:
        """Feature rows and their ETAs, one part for each model."""
        batch.computed_us = self.clock()
        for model in self._assign(batch):
            self._predict_part(batch, model)

    def _assign(self, batch: Batch) -> list[Servable]:
        """The models that predict rows of the batch; ``part_ix`` says which. Rows that none serves are set aside."""
        status, models = batch.status, self.models
        if not models.by_route:
            if models.default is None:
                status[status == Status.OK] = Status.NO_MODEL
                return []
            batch.part_ix.fill(0)
            return [models.default]
        batch.part_ix.fill(-1)
        rows = np.flatnonzero(status == Status.OK)
        keys, first, which = np.unique(batch.text_keys("route_id")[rows], return_index=True, return_inverse=True)
        assigned: list[Servable] = []
        chosen = np.full(len(keys), -1, np.int32)
        for ix, route_id in enumerate(batch.texts("route_id", rows[first])):
            if model := models.by_route.get(route_id):
                chosen[ix] = len(assigned)
                assigned.append(model)
        if models.default is not None and (chosen < 0).any():
            chosen[chosen < 0] = len(assigned)
            assigned.append(models.default)
        batch.part_ix[rows] = chosen[which]
        status[rows[chosen[which] < 0]] = Status.NO_MODEL
        return assigned

    def _predict_part(self, batch: Batch, model: Servable) -> None:
        asking, patterns = self._asking_for(model), self.routes.patterns
        part = batch.add_part(model)
        asking.vectorizer.count_rows(batch, part, patterns, self.config.max_stops_per_vehicle)
        if asking.knowledge is None:
            asking.vectorizer.vectorize(batch, part, patterns)
        else:
            legs = asking.knowledge.legs(batch, part)
            asking.vectorizer.vectorize(
                batch,
                part,
                patterns,
                route_code=asking.knowledge.route_code(batch),
                leg_s=legs.seconds if legs else None,
                leg_start=legs.start if legs else None,
            )
        model.predict(part.features, part.eta_s)
        order_arrivals(part)

    def _asking_for(self, model: Servable) -> _Asking:
        """What a model asks for; made once for a model."""
        if self._asking_of is not self.models:
            kept = self.models.all()
            self._asking = {model: asking for model, asking in self._asking.items() if model in kept}
            self._asking_of = self.models
        if model not in self._asking:
            calendar = Calendar(*model.calendar_args)
            self._asking[model] = _Asking(
                Vectorizer(
                    calendar.transitions_s,
                    calendar.offset_s,
                    calendar.holiday_days,
                    model.feature_codes,
                    nan if model.nan_fill is None else model.nan_fill,
                    model.along_route_distance,
                ),
                None
                if ROUTE_FEATURES.isdisjoint(model.features)
                else RouteKnowledge(model.features, model.routes, model.typical, self.routes.patterns),
            )
        return self._asking[model]

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
                batch,
                part,
                self.routes.patterns,
                envelope=envelope.parts(),
                prefix=self._predictions_prefix,
                ttl_s=self.config.predictions_ttl_seconds,
            )

    def commit(self, batch: Batch) -> None:
        """Let the vehicles' state move on: their documents are stored."""
        self.fleet.commit(batch, self._valid_until_us(batch))

    def _valid_until_us(self, batch: Batch) -> int:
        """Until when an unchanged snapshot needs no new prediction: a little before Redis drops the old one."""
        ttl_s = self.config.predictions_ttl_seconds
        return batch.now_us + int((ttl_s - min(2.0 * self.every_s, 0.5 * ttl_s)) * _US)

    def evict(self, now_us: int) -> int:
        """Forget vehicles that were silent too long; returns how many."""
        return self.fleet.evict(now_us - int(self.config.state_retention_seconds * _US))


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
