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
from time import monotonic, perf_counter
from typing import Final, Protocol

import orjson
from redis.backoff import ExponentialWithJitterBackoff

from etacore.config import RuntimeConfig
from etacore.encoding import pack_set_commands
from etacore.engine import Batch, Engine, Models, choose_models, summarize, system_clock_us
from etacore.errors import EtacoreError, RedisUnavailableError
from etacore.profiler import Profiler
from etacore.redis_io import RedisStore
from etacore.registry import Registry
from etacore.schema import Status

log: Final = logging.getLogger("etacore.runtime")

WRONG_TYPE_MEMORY_S: Final = 60.0
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
        self._announced = self._announcement()
        self._requested: Final[deque[str]] = deque(maxlen=1)
        self.engine: Final = Engine(self._initial_models(), config, clock)
        self._batch = Batch(config.chunk_size)
        self._commands: Final = bytearray()
        self._queue: dict[bytes, None] = {}
        self._not_snapshots: dict[bytes, float] = {}
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
        keys = self._choose_keys(self._store.scan_vehicle_keys())
        counts: Counter[Status] = Counter()
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
        n_written = 0
        with self._timed("redis_write"):
            for part in batch.parts:
                commands, n_commands = pack_set_commands(
                    batch.columns,
                    part.documents,
                    prefix=self.config.keys.predictions.encode(),
                    ttl_s=self.config.predictions_ttl_seconds,
                    out=self._commands,
                )
                with commands:
                    failed = self._store.write(commands, n_commands)
                batch.status[part.documents.rows()[failed]] = Status.WRITE_FAILED
                n_written += n_commands - len(failed)
            self._check_unchanged(batch)
            self.engine.commit(batch)
        return n_written

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
        keys = self._without_known_wrong_types(keys)
        limit = self.config.max_vehicle_batch
        if limit is None:
            return keys
        # A dict as a queue: served keys go to the end, so the front has waited longest.
        present = dict.fromkeys(keys)
        self._queue = {key: None for key in self._queue if key in present} | {
            key: None for key in keys if key not in self._queue
        }
        return [key for key, _ in zip(self._queue, range(limit), strict=False)]

    def _mark_served(self, keys: Sequence[bytes]) -> None:
        if self.config.max_vehicle_batch is None:
            return
        for key in keys:
            self._queue.pop(key, None)
            self._queue[key] = None

    def _name_wrong_types(self, batch: Batch, payloads: Sequence[bytes | None]) -> None:
        """MGET answers nil for a key that is gone and for one that is no string: ask which it was."""
        nil_rows = [row for row, payload in enumerate(payloads) if payload is None]
        if not nil_rows:
            return
        until = monotonic() + WRONG_TYPE_MEMORY_S
        nil_keys = [batch.keys[row] for row in nil_rows]
        for row, key, wrong in zip(nil_rows, nil_keys, self._store.not_strings(nil_keys), strict=True):
            if wrong:
                batch.status[row] = Status.WRONG_TYPE
                self._not_snapshots[key] = until

    def _without_known_wrong_types(self, keys: list[bytes]) -> list[bytes]:
        if not self._not_snapshots:
            return keys
        now = monotonic()
        self._not_snapshots = {key: until for key, until in self._not_snapshots.items() if until > now}
        return [key for key in keys if key not in self._not_snapshots]

    # -- models -----------------------------------------------------------------------------------------------------

    def swap_models(self, models: Models) -> None:
        """Serve other models from the next batch on; to be called on the loop's thread, between two polls."""
        self.engine.models = models

    def _initial_models(self) -> Models:
        if self.config.model_key is None and self._announced:
            try:
                return Models(self._registry.load(self._announced))
            except EtacoreError as error:
                log.warning("the announced model cannot be served, using the registry's best: %s", error.message)
        return choose_models(self._registry, self.config.model_key)

    def _look_for_promotion(self) -> None:
        """A newly announced model is taken over; one that does not load is refused, and the old one goes on."""
        if self.config.model_key is not None:
            return
        announced = self._announcement()
        if announced is None or announced == self._announced:
            return
        self._announced = announced
        self._take_over(announced)

    def request_swap(self, model_key: str) -> None:
        """Ask for another model, from any thread.

        Taken over before the next batch, or refused as a promotion is; of several requests the last one counts.
        """
        self._requested.append(model_key)

    def _serve_request(self) -> None:
        if self._requested:
            self._take_over(self._requested.popleft())

    def _take_over(self, model_key: str) -> None:
        try:
            self.swap_models(Models(self._registry.load(model_key)))
        except EtacoreError as error:
            log.error("refused model %s, the old one goes on: %s", model_key, error.message)
            self._observer.on_refusal(model_key, error.message)
        else:
            log.info("now serving %s", model_key)

    def _announcement(self) -> str | None:
        blob = self._store.active_model()
        if not blob:
            return None
        try:
            key = orjson.loads(blob)["model_key"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            log.warning("%s holds no announcement: ignored", self.config.keys.active_model)
            return None
        return key if isinstance(key, str) else None

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
