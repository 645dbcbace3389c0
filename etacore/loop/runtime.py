"""The loop: which vehicles are due, their snapshots, predictions, write, wait; day and night.

It knows no Prefect. Whoever runs it gives a stop event and may give an
observer; both `etacore run` and the Prefect flow are thin shells around it.

A turn serves its vehicles in chunks. While one chunk is computed, the
documents of the chunk before travel to Redis and the snapshots of the next one
from it::

    Redis    | read 1 | read 2 | store 1, read 3 | store 2, read 4 | ...
    etacore           | chunk 1 | chunk 2        | chunk 3         | ...
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from time import monotonic, perf_counter
from typing import Final

import numpy as np
from numpy.typing import NDArray
from redis.backoff import ExponentialWithJitterBackoff

from etacore._kernels.resp import Values
from etacore.config import RuntimeConfig
from etacore.errors import EtacoreError, RedisUnavailableError, TrackingUnavailableError
from etacore.loop.aside import SetAside
from etacore.loop.counters import Accounts, Observer, PollResult, RunSummary, Silent, Window
from etacore.loop.latency import Profiler
from etacore.loop.model_switch import Promotions, announced_key
from etacore.loop.schedule import Polling, Source, open_source
from etacore.pipeline.batch import Batch
from etacore.pipeline.engine import Engine, system_clock_us
from etacore.schema import Status
from etacore.store.store import RedisStore

__all__ = ["Observer", "PollResult", "RunSummary", "Runtime", "Silent", "Window", "announced_key"]

log: Final = logging.getLogger("etacore.runtime")

EVICTION_INTERVAL_S: Final = 60.0
MAX_DOUBLINGS: Final = 10
"""Of the pause while Redis is away: redis-py raises 2 to their number, and beyond 1023 a float cannot hold that."""

# A member of an enumeration takes longer to look up than a batch of one takes to count.
EXPIRED: Final = Status.EXPIRED
UNCHANGED: Final = Status.UNCHANGED
WRONG_TYPE: Final = Status.WRONG_TYPE
TOO_LARGE: Final = Status.TOO_LARGE


@dataclass(frozen=True, slots=True)
class _Travelling:
    # A batch whose documents are on their way.
    batch: Batch
    rows: NDArray[np.int64]
    commands: memoryview
    began: float
    predicted_ms: float


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
        self._observer: Final = observer or Silent()
        self._accounts: Final = Accounts(config.window_seconds, self._observer)
        self._store: Final = RedisStore(config)
        self._store.ping()
        self._promotions: Final = Promotions(config, self._store, self._observer.on_refusal)
        self.engine: Final = Engine(self._promotions.initial(), config, clock)
        self._polling: Final = Polling(config, self._store)
        self._source: Source = self._polling
        # One is computed while the other travels.
        self._batches: Final = [Batch(config.chunk_size), Batch(config.chunk_size)]
        self._travelling: _Travelling | None = None
        self._aside: Final = SetAside()
        self._evicted_at = monotonic()
        self._began = 0.0
        self.shown_s = 0.0
        """Seconds that somebody has taken so far to show steps; no part of any latency."""
        self._took_ms: Final = {"redis_fetch": 0.0, "eta_inference": 0.0}

    @property
    def summary(self) -> RunSummary:
        """Totals since the start."""
        return self._accounts.summary

    def close(self) -> None:
        """Close the connections."""
        self._source.close()
        self._store.close()

    def request_swap(self, model_key: str) -> None:
        """Ask for another model, from any thread.

        Taken over before the next batch, or refused as a promotion is; of several requests the last one counts.
        """
        self._promotions.request(model_key)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> RunSummary:
        """Serve until told to stop, or as many turns as the configuration says.

        The batch in hand is always finished. While Redis is away the loop
        waits, with growing pauses up to the poll interval, and goes on where
        it was.
        """
        longest_s = min(max(self.config.poll_interval_seconds, 0.1), 5.0)
        backoff = ExponentialWithJitterBackoff(cap=longest_s, base=0.1)
        failures, open_at, had_events = 0, 0.0, False
        try:
            while not stop.is_set():
                try:
                    if monotonic() >= open_at:
                        source = open_source(self.config, self._store)
                        if had_events and isinstance(source, Polling):
                            # They may come back, with the rights of the user or after another failover; until then the
                            # polling in hand, which knows who has waited longest, goes on.
                            open_at = monotonic() + self.config.resync_seconds
                        else:
                            self._listen_to(source)
                            open_at = inf
                    self._run_turn(stop)
                    if failures:
                        log.warning("Redis at %s is back", self._store.where)
                    failures = 0
                except TrackingUnavailableError as error:
                    log.warning("%s; %s", error.message, error.hint)
                    self._listen_to(Polling(self.config, self._store))
                    had_events, open_at = True, monotonic() + self.config.resync_seconds
                except RedisUnavailableError as error:
                    if stop.is_set():
                        break  # where all of a machine is told to stop, Redis may be gone first
                    failures += 1
                    self._count_outage(error, first=failures == 1)
                if self.config.iterations and self.summary.n_polls >= self.config.iterations:
                    break
                self._keep_house()
                if failures:
                    stop.wait(max(backoff.compute(min(failures, MAX_DOUBLINGS)), 0.05))
                    self._source.restart()
        finally:
            self._add_rest()
            self._accounts.report()
            self.write_profile()
        return self.summary

    def _listen_to(self, source: Source) -> None:
        if source is not self._source:
            self._add_rest()
            self._source.close()
            self._source = source

    def _add_rest(self) -> None:
        if rest := self._source.sum_up(None, is_last=True):
            self._accounts.add(rest)

    def _run_turn(self, stop: threading.Event) -> None:
        late_s = self._source.wait(stop)
        turn = None
        if late_s is None:
            self._look_around(self._source)
        elif not stop.is_set():
            turn = self._turn(self._source, late_s, stop)
        if result := self._source.sum_up(turn):
            self._accounts.add(result)

    def poll(self, stop: threading.Event | None = None) -> PollResult:
        """Serve the whole fleet once; told to stop, no chunk but the first is begun."""
        result = self._turn(self._polling, 0.0, stop)
        self._accounts.add(result)
        return result

    def _turn(self, source: Source, late_s: float, stop: threading.Event | None) -> PollResult:
        began = perf_counter()
        self.engine.every_s = source.every_s
        self._look_around(source)
        keys, aside, counts = self._aside.sort(source.take())
        if aside:
            source.put_off(aside)
        try:
            self._serve(keys, counts, source, stop)
        except BaseException:
            self._accounts.add_unfinished(counts)
            raise
        return PollResult(len(keys), counts, perf_counter() - began, late_s)

    def _look_around(self, source: Source) -> None:
        """At promoted models and changed routes."""
        if source.take_model() or self._promotions.is_due:
            self._promotions.look(self.engine)
        routes = source.take_routes()
        if routes and self.engine.routes.look_again(routes, self._store.fetch, self.engine.clock()):
            source.recheck()

    def _serve(
        self, keys: Sequence[bytes], counts: Counter[Status], source: Source, stop: threading.Event | None
    ) -> None:
        """Chunk after chunk, counted once its documents are stored.

        Whatever has begun serves its first chunk: a stop that arrives meanwhile must not leave a poll without vehicles.
        """
        size = self.config.chunk_size
        chunks = [keys[start : start + size] for start in range(0, len(keys), size)]
        try:
            for ix, chunk in enumerate(chunks):
                if ix and stop is not None and stop.is_set():
                    break
                self._promotions.serve_request(self.engine)
                began = self._own_time_s()
                payloads = self.fetch_vehicle_snapshots(chunk, chunks[ix + 1] if ix + 1 < len(chunks) else None)
                batch = self.predict_for_snapshots(chunk, payloads, began)
                before = self._travelling
                self._settle(counts)
                if before is not None and _share_vehicles(before.batch, batch, self.engine.state.n):
                    # What this chunk took for the state of a vehicle has moved on with the chunk before.
                    batch = self.predict_for_snapshots(chunk, payloads, began)
                self.write_predictions_to_redis(batch)
                if chunk is not chunks[-1]:
                    source.look_up()
        except BaseException:
            with suppress(EtacoreError):  # the first one says what happened
                self._settle(counts)
            raise
        self._settle(counts)

    def _own_time_s(self) -> float:
        """A clock that stands still while somebody shows a step."""
        return perf_counter() - self.shown_s

    # -- the three steps --------------------------------------------------------------------------------------------

    def fetch_vehicle_snapshots(self, keys: Sequence[bytes], ahead: Sequence[bytes] | None = None) -> Values:
        """Raw payloads of the keys, where they were received; those of `ahead` are asked for, for the next call."""
        began = perf_counter()
        values = self._store.snapshots(keys)
        if ahead:
            self._store.ask(ahead)
        self._took_ms["redis_fetch"] = (perf_counter() - began) * 1e3
        self.profiler.record("redis_fetch", self._took_ms["redis_fetch"] / len(keys), len(keys))
        return values

    def predict_for_snapshots(
        self, keys: Sequence[bytes], payloads: Sequence[bytes | None] | Values, started: float | None = None
    ) -> Batch:
        """Payloads to finished documents; see `etacore.pipeline.engine.Engine.process`."""
        began = perf_counter()
        self._began = self._own_time_s() if started is None else started
        # Not the one that travels.
        ix = 1 if self._travelling is not None and self._travelling.batch is self._batches[0] else 0
        read_at = self._began + self.shown_s
        batch = self.engine.process(keys, payloads, self._store.fetch, self._batches[ix], started=read_at)
        self._batches[ix] = batch
        found = batch.counts()
        if EXPIRED in found or TOO_LARGE in found:
            self._sort_out(batch)
        self._took_ms["eta_inference"] = (perf_counter() - began) * 1e3
        return batch

    def write_predictions_to_redis(self, batch: Batch) -> int:
        """Send the documents with their time to live on their way; returns how many they are.

        They count as stored, and the vehicles' state moves on, before the next batch is sent.
        """
        parts = [part.documents for part in batch.parts if len(part.documents)]
        if len(parts) == 1:
            rows, commands = parts[0].rows(), parts[0].commands
        else:
            rows = np.concatenate([part.rows() for part in parts] or [np.empty(0, np.int64)])
            commands = memoryview(b"".join(part.commands for part in parts))
        if len(rows):
            try:
                self._store.begin_write(commands, len(rows))
            except BaseException:
                commands.release()
                raise
        self._travelling = _Travelling(batch, rows, commands, self._began, self._took_ms["eta_inference"])
        return len(rows)

    def _settle(self, counts: Counter[Status]) -> None:
        """Wait until the documents that travel are stored, then let the state move on."""
        travelling, self._travelling = self._travelling, None
        if travelling is None:
            return
        batch, rows = travelling.batch, travelling.rows
        if len(rows):
            try:
                failed, took_s = self._store.finish_write()
            finally:
                travelling.commands.release()
            batch.status[rows[failed]] = Status.WRITE_FAILED
            self._source.put_off([batch.keys[row] for row in rows[failed]])
            if n := len(rows) - len(failed):
                self.profiler.record("eta_inference", travelling.predicted_ms / n, n)
                self.profiler.record("redis_write", took_s * 1e3 / n, n)
                self.profiler.record("pipeline_latency", (self._own_time_s() - travelling.began) * 1e3, n)
        self.engine.commit(batch)
        found = batch.counts()
        for status, n in found.items():
            counts[status] += n
        if UNCHANGED in found:
            self._check_unchanged(batch)

    def _check_unchanged(self, batch: Batch) -> None:
        """An unchanged snapshot needs nothing only as long as its prediction is there; else it is due again."""
        rows = (batch.status == UNCHANGED).nonzero()[0]
        prefix = self.config.keys.predictions.encode()
        gone = self._store.missing(batch.columns.texts("vehicle_id", rows, prefix))
        if gone:
            self.engine.state.forget_prediction(batch.vehicle_ix[rows[gone]])
            self._source.put_off([batch.keys[row] for row in rows[gone]])

    def _sort_out(self, batch: Batch) -> None:
        """MGET answers nil for a key that is gone and for one that is no string: ask which it was."""
        rows = (batch.status == EXPIRED).nonzero()[0]
        if len(rows):
            gone = [batch.keys[row] for row in rows]
            wrong = self._store.not_strings(gone)
            batch.status[rows[wrong]] = WRONG_TYPE
            self._source.is_gone([key for key, is_wrong in zip(gone, wrong, strict=True) if not is_wrong])
        for status in (WRONG_TYPE, TOO_LARGE):
            for row in (batch.status == status).nonzero()[0].tolist():
                self._aside.add(batch.keys[row], status)

    # -- what is due from time to time ------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        if self._accounts.is_window_over:
            self._accounts.report()
            self.write_profile()
        if monotonic() - self._evicted_at >= EVICTION_INTERVAL_S:
            self._evicted_at = monotonic()
            self.engine.evict(self.engine.clock())

    def _count_outage(self, error: RedisUnavailableError, *, first: bool) -> None:
        if first:
            log.warning("%s; waiting for it to return", error.message)
        self._accounts.add_outage(error.message, first=first)

    def write_profile(self) -> None:
        """Write the profiling files, if they are wanted; a full disk is no reason to stop."""
        if self.config.profiling_dir is None:
            return
        try:
            self.profiler.write_csvs(self.config.profiling_dir)
        except OSError as error:
            log.warning("profiling files not written: %s", error)


def _share_vehicles(one: Batch, other: Batch, n_vehicles: int) -> bool:
    """Whether a vehicle is in both batches, under two keys."""
    seen = np.zeros(n_vehicles + 1, np.bool_)  # the last place is for rows without a vehicle
    seen[one.vehicle_ix[: one.n]] = True
    seen[-1] = False
    return bool(seen[other.vehicle_ix[: other.n]].any())
