"""The loop: read all snapshots, predict, write, wait; day and night.

It knows no Prefect. Whoever runs it gives a stop event and may give an
observer; both `etacore run` and the Prefect flow are thin shells around it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import uniform
from time import monotonic, perf_counter
from typing import Final, Protocol

import numpy as np
import orjson
from redis.backoff import ExponentialWithJitterBackoff

from etacore.config import RuntimeConfig
from etacore.engine import Batch, Engine, Models, choose_models, summarize, system_clock_us
from etacore.errors import EtacoreError, RedisUnavailableError, RegistryError
from etacore.model import Model
from etacore.profiler import Profiler
from etacore.redis_io import RedisStore
from etacore.registry import Registry
from etacore.schema import Status

log: Final = logging.getLogger("etacore.runtime")

RETRY_PROMOTION_S: Final = 5.0
SET_ASIDE_S: Final = 10.0
"""A key that holds no string, or far too much, is counted but not fetched again for about this long."""
EVICTION_INTERVAL_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class PollResult:
    """What one poll did; ``counts`` is by `Status`."""

    n_keys: int
    counts: Counter[Status]
    duration_s: float
    late_s: float = 0.0
    """How long after its time the poll began."""

    @property
    def n_due(self) -> int:
        """Vehicles that should have got a prediction.

        Not the unchanged, not those without a usable snapshot, and not those at the end of their trip.
        """
        missed = sum(self.counts[s] for s in Status if s >= Status.UNKNOWN_ROUTE and s != Status.TRIP_FINISHED)
        return self.counts[Status.OK] + missed


@dataclass(frozen=True, slots=True)
class Window:
    """Totals of a stretch of polls, for whoever reports them."""

    duration_s: float
    n_polls: int
    n_outages: int
    counts: Counter[Status]
    max_late_s: float = 0.0

    def line(self) -> str:
        """One line for a log."""
        totals = summarize(self.counts)
        reasons = ", ".join(
            f"{status.label} {n}" for status, n in sorted(self.counts.items()) if status > Status.UNCHANGED and n
        )
        text = (
            f"{self.n_polls} polls in {self.duration_s:.1f} s: {totals['predicted']} predicted, "
            f"{totals['unchanged']} unchanged, {totals['rejected']} rejected, {totals['failed']} failed"
        )
        return f"{text} ({reasons})" if reasons else text


@dataclass(slots=True)
class RunSummary:
    """Totals of a whole run."""

    n_polls: int = 0
    n_outages: int = 0
    counts: Counter[Status] = field(default_factory=Counter)
    max_late_s: float = 0.0


class Observer(Protocol):
    """Whoever wants to know; called on the loop's thread, so it must be quick and must not raise."""

    def on_poll(self, result: PollResult) -> None:
        """After each poll."""

    def on_window(self, window: Window) -> None:
        """Every ``window_seconds``, and at the end."""

    def on_outage(self, message: str) -> None:
        """Each time that Redis could not be reached."""

    def on_refusal(self, model_key: str, message: str) -> None:
        """A model was not taken over; the one before goes on."""


class Silent:
    """An observer that does nothing; inherit from it to look at some things only."""

    def on_poll(self, result: PollResult) -> None:
        """Ignore."""

    def on_window(self, window: Window) -> None:
        """Ignore."""

    def on_outage(self, message: str) -> None:
        """Ignore."""

    def on_refusal(self, model_key: str, message: str) -> None:
        """Ignore."""


class Runtime:
    """The prediction loop.

    Parameters
    ----------
    config : RuntimeConfig
    clock : callable, optional
        Now in microseconds since the epoch; a replay gives event time.
    observer : Observer, optional

    Raises
    ------
    ConfigError, RedisUnavailableError
        If Redis cannot be used.
    ModelNotFoundError, ModelLoadError, SchemaError
        If no model can be served.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        *,
        clock: Callable[[], int] = system_clock_us,
        observer: Observer | None = None,
    ) -> None:
        self.config: Final = config
        self.profiler: Final = Profiler()
        self.summary: Final = RunSummary()
        self._observer: Final = observer or Silent()
        self._store: Final = RedisStore(config)
        self._registry: Final = Registry(config.model_registry_dir)
        self._store.ping()
        self._announced: bytes | None = None
        self._refused: bytes | None = None
        self._retry_at = 0.0
        self._requested: Final[deque[str]] = deque(maxlen=1)
        self.engine: Final = Engine(self._initial_models(), config, clock)
        self._batch = Batch(config.chunk_size)
        self._served_at: dict[bytes, float] = {}
        self._set_aside: dict[bytes, tuple[Status, float]] = {}
        self._evicted_at = monotonic()
        self._window: RunSummary = RunSummary()
        self._window_began = monotonic()
        self._late_s = 0.0
        self._took_ms: Final = {"redis_fetch": 0.0, "eta_inference": 0.0, "redis_write": 0.0}

    def close(self) -> None:
        """Close the connections."""
        self._store.close()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> RunSummary:
        """Poll until told to stop, or as often as the configuration says.

        The batch in hand is always finished. While Redis is away the loop
        waits, with growing pauses up to the poll interval, and goes on where
        it was.
        """
        longest_s = min(max(self.config.poll_interval_seconds, 0.1), 5.0)
        backoff = ExponentialWithJitterBackoff(cap=longest_s, base=0.1)
        failures = 0
        next_tick = monotonic()
        try:
            while not stop.is_set():
                self._late_s = max(monotonic() - next_tick, 0.0)
                try:
                    self.poll(stop)
                    if failures:
                        log.warning("Redis at %s is back", self._store.where)
                    failures = 0
                except RedisUnavailableError as error:
                    failures += 1
                    self._count_outage(error, first=failures == 1)
                if self.config.iterations and self.summary.n_polls >= self.config.iterations:
                    break
                if failures:
                    stop.wait(max(backoff.compute(failures), 0.05))
                    next_tick = monotonic()
                else:
                    next_tick = self._wait_for_tick(next_tick, stop)
        finally:
            self._report_window()
            self.write_profile()
        return self.summary

    def poll(self, stop: threading.Event | None = None) -> PollResult:
        """Serve the fleet once, chunk by chunk; told to stop, it finishes the chunk in hand."""
        began = perf_counter()
        self._look_for_promotion()
        keys, counts = self._without_set_aside(self._store.scan_vehicle_keys())
        keys = self._choose_keys(keys)
        for start in range(0, len(keys), self.config.chunk_size):
            if stop is not None and stop.is_set():
                break
            self._serve_request()
            chunk = keys[start : start + self.config.chunk_size]
            counts += self._serve(chunk)
            self._mark_served(chunk)
        result = PollResult(len(keys), counts, perf_counter() - began, self._late_s)
        self._account(result)
        return result

    def _serve(self, keys: Sequence[bytes]) -> Counter[Status]:
        began = perf_counter()
        payloads = self.fetch_vehicle_snapshots(keys)
        batch = self.predict_for_snapshots(keys, payloads, began)
        n_written = self.write_predictions_to_redis(batch)
        self.profiler.record("redis_fetch", self._took_ms["redis_fetch"] / len(keys), len(keys))
        if n_written:
            self.profiler.record("eta_inference", self._took_ms["eta_inference"] / n_written, n_written)
            self.profiler.record("redis_write", self._took_ms["redis_write"] / n_written, n_written)
            self.profiler.record("pipeline_latency", sum(self._took_ms.values()), n_written)
        return Counter(batch.counts())

    # -- the three steps --------------------------------------------------------------------------------------------

    def fetch_vehicle_snapshots(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Raw payloads of the keys; None where there is no string."""
        with self._timed("redis_fetch"):
            return self._store.fetch(keys)

    def predict_for_snapshots(
        self, keys: Sequence[bytes], payloads: Sequence[bytes | None], started: float | None = None
    ) -> Batch:
        """Payloads to finished documents; see `etacore.engine.Engine.process`."""
        with self._timed("eta_inference"):
            self._batch = self.engine.process(keys, payloads, self._store.fetch, self._batch, started=started)
            self._name_wrong_types(self._batch, payloads)
            return self._batch

    def write_predictions_to_redis(self, batch: Batch) -> int:
        """Store the documents with their time to live, then let the state move on; returns how many were stored."""
        with self._timed("redis_write"):
            rows = np.concatenate([part.documents.rows() for part in batch.parts] or [np.empty(0, np.int64)])
            packed = [part.documents.commands for part in batch.parts]
            try:
                failed = self._store.write(packed, len(rows))
            finally:
                for commands in packed:
                    commands.release()
            batch.status[rows[failed]] = Status.WRITE_FAILED
            self.engine.commit(batch)
            self._check_unchanged(batch)
        return len(rows) - len(failed)

    @contextmanager
    def _timed(self, metric: str) -> Iterator[None]:
        """A step times itself, so that whatever wraps it (a task run) stays out of the figures."""
        began = perf_counter()
        yield
        self._took_ms[metric] = (perf_counter() - began) * 1e3

    def _check_unchanged(self, batch: Batch) -> None:
        """An unchanged snapshot needs nothing only as long as its prediction is there; else it is due again."""
        rows = (batch.status == Status.UNCHANGED).nonzero()[0]
        prefix = self.config.keys.predictions.encode()
        gone = self._store.missing(batch.columns.texts("vehicle_id", rows, prefix))
        if gone:
            self.engine.state.forget_prediction(batch.vehicle_ix[rows[gone]])

    # -- which keys, in which order ---------------------------------------------------------------------------------

    def _choose_keys(self, keys: list[bytes]) -> list[bytes]:
        limit = self.config.max_vehicle_batch
        if limit is None or limit >= len(keys):
            return keys
        now = monotonic()
        # A key never served has waited since it was first seen; one that went away keeps its place for a while.
        for key in keys:
            self._served_at.setdefault(key, now)
        forgotten = now - self.config.state_retention_seconds
        if len(self._served_at) > 2 * len(keys):
            self._served_at = {key: at for key, at in self._served_at.items() if at > forgotten}
        return sorted(keys, key=self._served_at.__getitem__)[:limit]

    def _mark_served(self, keys: Sequence[bytes]) -> None:
        if self.config.max_vehicle_batch is not None:
            self._served_at.update(dict.fromkeys(keys, monotonic()))

    def _name_wrong_types(self, batch: Batch, payloads: Sequence[bytes | None]) -> None:
        """MGET answers nil for a key that is gone and for one that is no string: ask which it was."""
        rows = [row for row, payload in enumerate(payloads) if payload is None]
        if rows:
            wrong = self._store.not_strings([batch.keys[row] for row in rows])
            batch.status[[row for row, is_wrong in zip(rows, wrong, strict=True) if is_wrong]] = Status.WRONG_TYPE
        for status in (Status.WRONG_TYPE, Status.TOO_LARGE):
            for row in (batch.status == status).nonzero()[0].tolist():
                # Spread over time, so that they do not all come back in one poll.
                self._set_aside[batch.keys[row]] = status, monotonic() + SET_ASIDE_S * uniform(0.5, 1.5)

    def _without_set_aside(self, keys: list[bytes]) -> tuple[list[bytes], Counter[Status]]:
        """The keys worth fetching, and how many are not, by reason."""
        if not self._set_aside:
            return keys, Counter()
        now = monotonic()
        present = set(keys)
        self._set_aside = {
            key: (status, until) for key, (status, until) in self._set_aside.items() if until > now and key in present
        }
        counts = Counter(status for status, _ in self._set_aside.values())
        return [key for key in keys if key not in self._set_aside], counts

    # -- models -----------------------------------------------------------------------------------------------------

    def swap_models(self, models: Models) -> None:
        """Serve other models from the next batch on; to be called on the loop's thread, between two polls."""
        self.engine.models = models

    def _initial_models(self) -> Models:
        models = choose_models(self._registry, self.config.model_key)
        if self.config.model_key is None:
            announcement = self._store.active_model()
            if announcement and (model := self._load_announced(announcement)):
                return models.with_promoted(model)
        return models

    def _look_for_promotion(self) -> None:
        """A newly announced model is taken over; one that does not load is refused, and the old one goes on."""
        if self.config.model_key is not None:
            return
        announcement = self._store.active_model()
        if not announcement or announcement == self._announced:
            return
        if announcement == self._refused and monotonic() < self._retry_at:
            return
        if model := self._load_announced(announcement):
            self._take_over(model)

    def _load_announced(self, announcement: bytes) -> Model | None:
        """The announced model; None if it cannot be served, which is said once and tried again later."""
        key = announced_key(announcement)
        try:
            if key is None:
                raise RegistryError(f"{self.config.keys.active_model} holds no announcement")
            model = self._registry.load(key)
        except EtacoreError as error:
            if announcement != self._refused:
                self._refuse(key or "?", error)
            self._refused, self._retry_at = announcement, monotonic() + RETRY_PROMOTION_S
            return None
        self._announced, self._refused = announcement, None
        return model

    def request_swap(self, model_key: str) -> None:
        """Ask for another model, from any thread.

        Taken over before the next batch, or refused as a promotion is; of several requests the last one counts.
        """
        self._requested.append(model_key)

    def _serve_request(self) -> None:
        if not self._requested:
            return
        key = self._requested.popleft()
        try:
            self._take_over(self._registry.load(key))
        except EtacoreError as error:
            self._refuse(key, error)

    def _take_over(self, model: Model) -> None:
        self.swap_models(self.engine.models.with_promoted(model))
        log.info("now serving %s", model.key)

    def _refuse(self, model_key: str, error: EtacoreError) -> None:
        log.error("refused model %s, the old one goes on: %s", model_key, error.message)
        self._observer.on_refusal(model_key, error.message)

    # -- accounts and pace ------------------------------------------------------------------------------------------

    def _account(self, result: PollResult) -> None:
        for totals in (self.summary, self._window):
            totals.n_polls += 1
            totals.counts += result.counts
            totals.max_late_s = max(totals.max_late_s, result.late_s)
        self._observer.on_poll(result)
        if monotonic() - self._window_began >= self.config.window_seconds:
            self._report_window()
            self.write_profile()
        if monotonic() - self._evicted_at >= EVICTION_INTERVAL_S:
            self._evicted_at = monotonic()
            self.engine.evict(self.engine.clock())

    def _count_outage(self, error: RedisUnavailableError, *, first: bool) -> None:
        if first:
            log.warning("%s; waiting for it to return", error.message)
            self.summary.n_outages += 1
            self._window.n_outages += 1
        self._observer.on_outage(error.message)
        if monotonic() - self._window_began >= self.config.window_seconds:
            self._report_window()

    def _report_window(self) -> None:
        now = monotonic()
        totals, self._window = self._window, RunSummary()
        window = Window(now - self._window_began, totals.n_polls, totals.n_outages, totals.counts, totals.max_late_s)
        self._observer.on_window(window)
        self._window_began = now

    def write_profile(self) -> None:
        """Write the profiling files, if they are wanted; a full disk is no reason to stop."""
        if self.config.profiling_dir is None:
            return
        try:
            self.profiler.write_csvs(self.config.profiling_dir)
        except OSError as error:
            log.warning("profiling files not written: %s", error)

    def _wait_for_tick(self, tick: float, stop: threading.Event) -> float:
        """Wait for the next multiple of the interval: no drift, and no burst after a slow poll."""
        interval = self.config.poll_interval_seconds
        now = monotonic()
        if interval <= 0:
            return now
        next_tick = tick + interval * max(1, int((now - tick) // interval) + 1)
        stop.wait(next_tick - now)
        return next_tick


def announced_key(announcement: bytes) -> str | None:
    """Model key of an ``eta:active_model`` value; None if it is no announcement."""
    try:
        key = orjson.loads(announcement)["model_key"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return key if isinstance(key, str) else None
