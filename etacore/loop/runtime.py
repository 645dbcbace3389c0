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

from etacore._kernels.batch import Batch
from etacore._kernels.resp import Values
from etacore.config import RuntimeConfig
from etacore.errors import EtacoreError, RedisUnavailableError, TrackingUnavailableError
from etacore.loop.counters import Counters, RunSummary
from etacore.loop.latency import Profiler
from etacore.loop.model_switch import ModelSwitch
from etacore.loop.observer import Observer, PollResult, Silent, Window
from etacore.loop.schedule import Polling, Schedule, SetAside, open_schedule
from etacore.pipeline.engine import Engine, system_clock_us
from etacore.status import Remark, Status
from etacore.store.store import RedisStore

__all__ = ["Observer", "PollResult", "RunSummary", "Runtime", "Silent", "Window"]

log: Final = logging.getLogger("etacore.runtime")

EVICTION_INTERVAL_S: Final = 60.0
MAX_DOUBLINGS: Final = 10
"""Of the pause while Redis is away: redis-py raises 2 to their number, and beyond 1023 a float cannot hold that."""

NO_ROWS: Final[NDArray[np.int64]] = np.empty(0, np.int64)
NOTHING: Final = memoryview(b"")

# A member of an enumeration takes longer to look up than a batch of one takes to count.
EXPIRED: Final = Status.EXPIRED
UNCHANGED: Final = Status.UNCHANGED
WRONG_TYPE: Final = Status.WRONG_TYPE
TOO_LARGE: Final = Status.TOO_LARGE


class Chunk:
    """Vehicles that are served together, on their way from one step of the loop to the next.

    Attributes
    ----------
    batch : Batch
    counts : dict of Status to int
        What became of the vehicles up to now.
    remarks : dict of Remark to int
        What was odd about those that were served.
    began : float
        `time.perf_counter` at which their snapshots began to be read.
    predicted_ms : float
        How long it took to make their documents.
    rows : ndarray of int64
        Rows of the batch whose documents were sent.
    commands : memoryview
        These documents, as they were sent; released once they are stored.
    """

    # No dataclass: Prefect looks into the fields of those that a step returns.
    __slots__ = ("batch", "began", "commands", "counts", "predicted_ms", "remarks", "rows")

    def __init__(self, batch: Batch, began: float, predicted_ms: float) -> None:
        self.batch = batch
        self.counts = batch.counts()
        self.remarks = batch.remarks()
        self.began = began
        self.predicted_ms = predicted_ms
        self.rows = NO_ROWS
        self.commands = NOTHING


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    schedule: Schedule
    counts: Counter[Status]
    remarks: Counter[Remark]
    stop: threading.Event | None


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
        self._counters: Final = Counters(config.window_seconds, self._observer)
        self._store: Final = RedisStore(config)
        self._store.ping()
        self._model_switch: Final = ModelSwitch(config, self._store, self._observer.on_refusal)
        self.engine: Final = Engine(self._model_switch.initial(), config, clock)
        self._polling: Final = Polling(config, self._store)
        self._schedule: Schedule = self._polling
        # One is computed while the other travels.
        self._batches: Final = (Batch(config.chunk_size), Batch(config.chunk_size))
        self._aside: Final = SetAside()
        self._evicted_at = monotonic()
        self.shown_s = 0.0
        """Seconds that somebody has taken so far to show steps; no part of any latency."""

    @property
    def summary(self) -> RunSummary:
        """Totals since the start."""
        return self._counters.summary

    def close(self) -> None:
        """Close the connections."""
        self._schedule.close()
        self._store.close()

    def request_swap(self, model_key: str) -> None:
        """Ask for another model, from any thread.

        Taken over before the next batch, or refused as a promotion is; of several requests the last one counts.
        """
        self._model_switch.request(model_key)

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
                        schedule = open_schedule(self.config, self._store)
                        if had_events and isinstance(schedule, Polling):
                            # They may come back, with the rights of the user or after another failover; until then the
                            # polling in hand, which knows who has waited longest, goes on.
                            open_at = monotonic() + self.config.resync_seconds
                        else:
                            self._follow(schedule)
                            open_at = inf
                    self._run_turn(stop)
                    if failures:
                        log.warning("Redis at %s is back", self._store.where)
                    failures = 0
                except TrackingUnavailableError as error:
                    log.warning("%s; %s", error.message, error.hint)
                    self._follow(Polling(self.config, self._store))
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
                    self._schedule.restart()
        finally:
            self._add_rest()
            self._counters.report()
            self.write_profile()
        return self.summary

    def _follow(self, schedule: Schedule) -> None:
        if schedule is not self._schedule:
            self._add_rest()
            self._schedule.close()
            self._schedule = schedule

    def _add_rest(self) -> None:
        if rest := self._schedule.sum_up(None, is_last=True):
            self._counters.add(rest)

    def _run_turn(self, stop: threading.Event) -> None:
        late_s = self._schedule.wait(stop)
        result = None
        if late_s is None:
            self._look_around(self._schedule)
        elif not stop.is_set():
            result = self._serve_all(self._schedule, late_s, stop)
        if poll := self._schedule.sum_up(result):
            self._counters.add(poll)

    def poll(self, stop: threading.Event | None = None) -> PollResult:
        """Serve the whole fleet once; told to stop, no chunk but the first is begun."""
        result = self._serve_all(self._polling, 0.0, stop)
        self._counters.add(result)
        return result

    def _serve_all(self, schedule: Schedule, late_s: float, stop: threading.Event | None) -> PollResult:
        """Serve every vehicle that is due now."""
        began = perf_counter()
        self.engine.every_s = schedule.every_s
        self._look_around(schedule)
        keys, aside, counts = self._aside.sort(schedule.take())
        remarks: Counter[Remark] = Counter()
        if aside:
            schedule.put_off(aside)
        try:
            self._serve(keys, _Turn(schedule, counts, remarks, stop))
        except BaseException:
            self._counters.add_unfinished(counts, remarks)
            raise
        return PollResult(len(keys), counts, perf_counter() - began, late_s, remarks)

    def _look_around(self, schedule: Schedule) -> None:
        """Look at promoted models and changed routes."""
        if schedule.take_model() or self._model_switch.is_due:
            self._model_switch.look(self.engine)
        routes = schedule.take_routes()
        if routes and self.engine.routes.look_again(routes, self._store.fetch, self.engine.clock()):
            schedule.recheck()

    def _serve(self, keys: Sequence[bytes], turn: _Turn) -> None:
        """Serve chunk after chunk, each counted once its documents are stored.

        Whatever has begun serves its first chunk: a stop that arrives meanwhile must not leave a poll without vehicles.
        """
        size = self.config.chunk_size
        pieces = [keys[start : start + size] for start in range(0, len(keys), size)]
        travelling: Chunk | None = None
        try:
            for ix, piece in enumerate(pieces):
                if ix and turn.stop is not None and turn.stop.is_set():
                    break
                self._model_switch.serve_request(self.engine)
                began = self._own_time_s()
                batch = self._batches[ix % 2]  # the other one travels
                payloads = self.fetch_vehicle_snapshots(piece, pieces[ix + 1] if ix + 1 < len(pieces) else None)
                chunk = self.predict_for_snapshots(piece, payloads, batch, began)
                before, travelling = travelling, None
                if before is not None:
                    self._settle(before, turn)
                    if _share_vehicles(before.batch, batch, self.engine.fleet.n):
                        # What this chunk took for the state of a vehicle has moved on with the chunk before.
                        chunk = self.predict_for_snapshots(piece, payloads, batch, began)
                self._sort_out(chunk, turn.schedule)
                self.write_predictions_to_redis(chunk)
                travelling = chunk
                if piece is not pieces[-1]:
                    turn.schedule.listen()
        except BaseException:
            if travelling is not None:
                with suppress(EtacoreError):  # the first one says what happened
                    self._settle(travelling, turn)
            raise
        if travelling is not None:
            self._settle(travelling, turn)

    def _own_time_s(self) -> float:
        """A clock that stands still while somebody shows a step."""
        return perf_counter() - self.shown_s

    # -- the three steps --------------------------------------------------------------------------------------------

    def fetch_vehicle_snapshots(self, keys: Sequence[bytes], ahead: Sequence[bytes] | None = None) -> Values:
        """Fetch the payloads of some keys; those of `ahead` are asked for, for the next call.

        The payloads stay where they were received.
        """
        began = perf_counter()
        values = self._store.snapshots(keys)
        if ahead:
            self._store.ask(ahead)
        self.profiler.record("redis_fetch", (perf_counter() - began) * 1e3 / len(keys), len(keys))
        return values

    def predict_for_snapshots(
        self, keys: Sequence[bytes], payloads: Sequence[bytes | None] | Values, batch: Batch, started: float
    ) -> Chunk:
        """Make finished documents of payloads, in `batch`; see `etacore.pipeline.engine.Engine.process`."""
        began = perf_counter()
        batch = self.engine.process(keys, payloads, self._store.fetch, batch, started=started + self.shown_s)
        return Chunk(batch, started, (perf_counter() - began) * 1e3)

    def write_predictions_to_redis(self, chunk: Chunk) -> int:
        """Send the documents with their time to live on their way; returns how many they are.

        They count as stored, and the vehicles' state moves on, before the next chunk is sent.
        """
        parts = [part.documents for part in chunk.batch.parts if len(part.documents)]
        if len(parts) == 1:
            chunk.rows, chunk.commands = parts[0].rows(), parts[0].commands
        elif parts:
            chunk.rows = np.concatenate([part.rows() for part in parts])
            chunk.commands = memoryview(b"".join(part.commands for part in parts))
        if len(chunk.rows):
            try:
                self._store.begin_write(chunk.commands, len(chunk.rows))
            except BaseException:
                chunk.commands.release()
                raise
        return len(chunk.rows)

    def _settle(self, chunk: Chunk, turn: _Turn) -> None:
        """Wait until the documents of a chunk that travels are stored, then let the state move on."""
        batch, rows = chunk.batch, chunk.rows
        if len(rows):
            try:
                failed, took_s = self._store.finish_write()
            finally:
                chunk.commands.release()
            if failed:
                batch.status[rows[failed]] = Status.WRITE_FAILED
                chunk.counts = batch.counts()
                turn.schedule.put_off([batch.keys[row] for row in rows[failed]])
            if n := len(rows) - len(failed):
                self.profiler.record("eta_inference", chunk.predicted_ms / n, n)
                self.profiler.record("redis_write", took_s * 1e3 / n, n)
                self.profiler.record("pipeline_latency", (self._own_time_s() - chunk.began) * 1e3, n)
        self.engine.commit(batch)
        for status, n in chunk.counts.items():
            turn.counts[status] += n
        for remark, n in chunk.remarks.items():
            turn.remarks[remark] += n
        if UNCHANGED in chunk.counts:
            self._check_unchanged(batch, turn.schedule)

    def _check_unchanged(self, batch: Batch, schedule: Schedule) -> None:
        """An unchanged snapshot needs nothing only as long as its prediction is there; else it is due again."""
        rows = (batch.status == UNCHANGED).nonzero()[0]
        prefix = self.config.keys.predictions.encode()
        gone = self._store.missing(batch.texts("vehicle_id", rows, prefix))
        if gone:
            self.engine.fleet.forget_prediction(batch.vehicle_ix[rows[gone]])
            schedule.put_off([batch.keys[row] for row in rows[gone]])

    def _sort_out(self, chunk: Chunk, schedule: Schedule) -> None:
        """Set keys without a usable string aside, and tell those that are gone."""
        batch = chunk.batch
        if EXPIRED in chunk.counts:
            # MGET answers nil for a key that is gone and for one that is no string: ask which it was.
            rows = (batch.status == EXPIRED).nonzero()[0]
            absent = [batch.keys[row] for row in rows]
            wrong = self._store.not_strings(absent)
            if any(wrong):
                batch.status[rows[wrong]] = WRONG_TYPE
                chunk.counts = batch.counts()
            schedule.is_gone([key for key, is_wrong in zip(absent, wrong, strict=True) if not is_wrong])
        for status in (WRONG_TYPE, TOO_LARGE):
            if status in chunk.counts:
                for row in (batch.status == status).nonzero()[0].tolist():
                    self._aside.add(batch.keys[row], status)

    # -- what is due from time to time ------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        if self._counters.is_window_over:
            self._counters.report()
            self.write_profile()
        if monotonic() - self._evicted_at >= EVICTION_INTERVAL_S:
            self._evicted_at = monotonic()
            self.engine.evict(self.engine.clock())

    def _count_outage(self, error: RedisUnavailableError, *, first: bool) -> None:
        if first:
            log.warning("%s; waiting for it to return", error.message)
        self._counters.add_outage(error.message, first=first)

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
    seen[one.vehicle_ix] = True
    seen[-1] = False
    return bool(seen[other.vehicle_ix].any())
