"""Records the vehicle snapshots that pass through Redis, as Parquet files that `read_positions` reads."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np
import polars as pl
from redis.backoff import ExponentialWithJitterBackoff

from etacore._kernels.batch import Batch
from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, RedisUnavailableError
from etacore.files import whole_file
from etacore.mlops.progress import Progress, silent
from etacore.mlops.transit.realtime import STATUS_NAMES
from etacore.pipeline.engine import system_clock_us
from etacore.pipeline.snapshots import parse_snapshots
from etacore.schema import NO_SEQUENCE, NO_START_DATE, NO_START_TIME, service_time_text
from etacore.status import Status
from etacore.store.store import RedisStore

log: Final = logging.getLogger("etacore.capture")

SCHEMA: Final = pl.Schema(
    {
        "vehicle_id": pl.String(),
        "timestamp": pl.Float64(),
        "lat": pl.Float64(),
        "lon": pl.Float64(),
        "speed_mps": pl.Float32(),
        "bearing": pl.Float32(),
        "route_id": pl.String(),
        "trip_id": pl.String(),
        "start_date": pl.String(),
        "start_time": pl.String(),
        "direction_id": pl.Int8(),
        "current_stop_sequence": pl.Int32(),
        "stop_id": pl.String(),
        "current_status": pl.String(),
    }
)
"""Columns of the files: those of recorded positions; ``timestamp`` is POSIX seconds."""

MAX_ROWS: Final = 1_000_000
"""More are not held in memory: the file is then written before its time."""

_US: Final = 1_000_000


@dataclass(slots=True)
class CaptureSummary:
    """What a capture, or a part of it, did.

    Attributes
    ----------
    n_polls, n_outages, n_positions : int
        ``n_positions`` are those kept.
    counts : Counter of Status
        Snapshots read, by what became of them: ``OK`` is kept, ``UNCHANGED`` was kept before.
    files : list of Path
        Written, oldest first.
    """

    n_polls: int = 0
    n_outages: int = 0
    n_positions: int = 0
    counts: Counter[Status] = field(default_factory=Counter)
    files: list[Path] = field(default_factory=list)

    def line(self) -> str:
        """One line for a log."""
        reasons = [f"{n:,} {status.label}" for status, n in sorted(self.counts.items()) if status != Status.OK and n]
        if self.n_outages:
            reasons.append(f"{self.n_outages} outages of Redis")
        name = self.files[-1].name if self.files else "nothing to write"
        return f"{name}: {self.n_positions:,} positions of {self.n_polls:,} polls" + (
            f"; not kept: {', '.join(reasons)}" if reasons else ""
        )


class Recorder:
    """Payloads in, rows of positions out; what was seen already is left out.

    A payload is judged as the loop does: by the same parser, with the same limits on age and future. A speed that a
    snapshot does not give is 0, as it is for the loop.

    Parameters
    ----------
    config : RuntimeConfig
        Its ``max_age_seconds``, ``max_future_seconds``, ``max_payload_bytes``, ``chunk_size`` and
        ``state_retention_seconds``.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self._config: Final = config
        self._batch: Final = Batch(config.chunk_size)
        self._seen_us: dict[bytes, int] = {}
        self._blocks: list[pl.DataFrame] = []
        self.n_rows = 0

    def add(self, payloads: list[bytes | None], now_us: int) -> Counter[Status]:
        """Keep what is new; at most ``chunk_size`` payloads. Returns what became of them."""
        batch = self._batch
        batch.start(now_us)
        parse_snapshots(
            batch,
            payloads,
            max_future_us=round(self._config.max_future_seconds * _US),
            max_age_us=round(self._config.max_age_seconds * _US),
            max_payload_bytes=self._config.max_payload_bytes,
        )
        good = (batch.status == Status.OK).nonzero()[0]
        counts = Counter(batch.counts())
        kept = []
        vehicles, times_us = batch.texts("vehicle_id", good), batch.time_us[good].tolist()
        for row, vehicle, time_us in zip(good.tolist(), vehicles, times_us, strict=True):
            if self._seen_us.get(vehicle) == time_us:
                continue
            self._seen_us[vehicle] = time_us
            kept.append(row)
        if len(kept) < len(good):
            counts += Counter({Status.UNCHANGED: len(good) - len(kept)})
            counts[Status.OK] = len(kept)
        if kept:
            self._blocks.append(self._table(np.array(kept, dtype=np.int64)))
            self.n_rows += len(kept)
        return counts

    def take(self) -> pl.DataFrame:
        """The rows since the last time, ordered by time: `SCHEMA`."""
        table = pl.concat(self._blocks) if self._blocks else pl.DataFrame(schema=SCHEMA)
        return table.sort("timestamp", "vehicle_id")

    def forget(self, now_us: int) -> None:
        """Let go of the rows, which are written now, and of vehicles that were silent for long."""
        self._blocks.clear()
        self.n_rows = 0
        silent_us = now_us - round(self._config.state_retention_seconds * _US)
        self._seen_us = {vehicle: time_us for vehicle, time_us in self._seen_us.items() if time_us > silent_us}

    def _table(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> pl.DataFrame:
        columns = self._batch

        def texts(name: str) -> pl.Series:
            decoded = [text.decode("utf-8", "replace") or None for text in columns.texts(name, rows)]
            return pl.Series(name, decoded, dtype=pl.String)

        sequence = pl.Series(columns.stop_sequence[rows])
        direction = pl.Series(columns.direction_id[rows])
        dates = columns.start_date[rows].tolist()
        times_s = columns.start_time_s[rows].tolist()
        status = [STATUS_NAMES.get(number) for number in columns.current_status[rows].tolist()]
        return pl.DataFrame(
            {
                "vehicle_id": texts("vehicle_id"),
                "timestamp": columns.time_us[rows] / _US,
                "lat": columns.lat[rows],
                "lon": columns.lon[rows],
                "speed_mps": columns.speed_mps[rows],
                "bearing": pl.Series(columns.bearing_deg[rows]).fill_nan(None),
                "route_id": texts("route_id"),
                "trip_id": texts("trip_id"),
                "start_date": pl.Series(
                    [None if date == NO_START_DATE else str(date) for date in dates], dtype=pl.String
                ),
                "start_time": pl.Series(
                    [None if time_s == NO_START_TIME else service_time_text(time_s) for time_s in times_s],
                    dtype=pl.String,
                ),
                "direction_id": direction.set(direction < 0, None),
                "current_stop_sequence": sequence.set(sequence == NO_SEQUENCE, None),
                "stop_id": texts("stop_id"),
                "current_status": pl.Series(status, dtype=pl.String),
            },
            schema=SCHEMA,
        )


class Capture:
    """Polls Redis and writes a file every so often.

    A file is complete or absent. What was read since the last one is in memory: a crash loses at most one rotation,
    a stop loses nothing.

    Parameters
    ----------
    config : RuntimeConfig
        Which Redis, which keys, how often to poll, and the limits of `Recorder`.
    output_dir : Path
        Folder for the files ``positions_<UTC time of its first poll>.parquet``; made if absent.
    rotate_s : float
        Seconds until a file is full.
    duration_s : float, optional
        Seconds until the end; None = until told to stop.
    clock : callable
        Now in microseconds since the epoch.
    on_part : callable, optional
        Called with the summary of each part when it ends, whether it gave a file or not.
    progress : Progress, optional
        Told how many positions are recorded.

    Raises
    ------
    ConfigError
        If the folder cannot be written, or Redis refuses us.
    RedisUnavailableError
        If Redis cannot be reached at the start.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        output_dir: Path,
        *,
        rotate_s: float = 3600.0,
        duration_s: float | None = None,
        clock: Callable[[], int] = system_clock_us,
        on_part: Callable[[CaptureSummary], None] | None = None,
        progress: Progress = silent,
    ) -> None:
        self.config: Final = config
        self.output_dir: Final = output_dir
        self.summary: Final = CaptureSummary()
        self._rotate_s: Final = rotate_s
        self._duration_s: Final = duration_s
        self._clock: Final = clock
        self._on_part: Final = on_part
        self._progress: Final = progress
        self._recorder: Final = Recorder(config)
        self._part = CaptureSummary()
        self._not_strings: set[bytes] = set()
        _prove_writable(output_dir)
        self._store: Final = RedisStore(config)
        self._store.ping()
        self._began_us = clock()

    def close(self) -> None:
        """Close the connections."""
        self._store.close()

    def run(self, stop: threading.Event) -> CaptureSummary:
        """Record until told to stop or the time is over; while Redis is away, wait as the loop does.

        Raises
        ------
        ConfigError
            If Redis refuses us, or the last file cannot be written.
        """
        interval_s = self.config.poll_interval_seconds
        backoff = ExponentialWithJitterBackoff(cap=min(max(interval_s, 0.1), 5.0), base=0.1)
        began = part_began = monotonic()
        failures = 0
        try:
            while not stop.is_set():
                polled = monotonic()
                try:
                    self.poll(stop)
                    if failures:
                        log.warning("Redis at %s is back", self._store.where)
                    failures = 0
                except RedisUnavailableError as error:
                    failures += 1
                    if failures == 1:
                        log.warning("%s; waiting for it to return", error.message)
                        self._part.n_outages += 1
                now = monotonic()
                if self._duration_s is not None and now - began >= self._duration_s:
                    break
                if now - part_began >= self._rotate_s or self._recorder.n_rows >= MAX_ROWS:
                    part_began = now
                    self._rotate_or_wait()
                until = now + backoff.compute(failures) if failures else polled + interval_s
                if self._duration_s is not None:
                    until = min(until, began + self._duration_s)
                stop.wait(max(until - monotonic(), 0.0))
        finally:
            self.rotate()
        return self.summary

    def poll(self, stop: threading.Event | None = None) -> None:
        """Read every snapshot once, in batches; told to stop, it finishes the batch in hand."""
        present = self._store.scan_vehicle_keys()
        keys = [key for key in present if key not in self._not_strings]
        counts: Counter[Status] = Counter()
        if len(keys) < len(present):
            counts[Status.WRONG_TYPE] = len(present) - len(keys)
        try:
            for start in range(0, len(keys), self.config.chunk_size):
                if stop is not None and stop.is_set():
                    break
                chunk = keys[start : start + self.config.chunk_size]
                payloads = self._store.fetch(chunk)
                counts += self._recorder.add(payloads, self._clock())
                counts += self._set_aside([key for key, text in zip(chunk, payloads, strict=True) if text is None])
        finally:
            # What a broken poll kept is kept.
            self._part.counts += counts
        self._part.n_polls += 1
        self._progress("recording positions", self.summary.n_positions + self._recorder.n_rows, 0)

    def rotate(self) -> Path | None:
        """Write what there is as a file and begin the next; None if there is nothing.

        Raises
        ------
        ConfigError
            If it cannot be written; the rows stay.
        """
        path = None
        if self._recorder.n_rows:
            path = _free_name(self.output_dir, self._began_us)
            try:
                with whole_file(path) as draft:
                    self._recorder.take().write_parquet(draft)
            except OSError as error:
                raise ConfigError(f"{path} cannot be written ({error.strerror or error})") from None
            self._part.files.append(path)
        part, self._part = self._part, CaptureSummary()
        part.n_positions = self._recorder.n_rows
        self._began_us = self._clock()
        self._recorder.forget(self._began_us)
        self._not_strings.clear()
        self.summary.n_polls += part.n_polls
        self.summary.n_outages += part.n_outages
        self.summary.n_positions += part.n_positions
        self.summary.counts += part.counts
        self.summary.files += part.files
        if self._on_part is not None and part.n_polls + part.n_outages:
            self._on_part(part)
        return path

    def _rotate_or_wait(self) -> None:
        """A full disk may have room again at the next rotation; memory is not endless, though."""
        try:
            self.rotate()
        except ConfigError as error:
            if self._recorder.n_rows >= MAX_ROWS:
                raise
            log.error("%s; trying again at the next rotation", error.message)

    def _set_aside(self, keys: list[bytes]) -> Counter[Status]:
        """MGET answers nil for a key that is gone and for one that is no string; those are not asked for again."""
        wrong = [key for key, is_wrong in zip(keys, self._store.not_strings(keys), strict=True) if is_wrong]
        self._not_strings.update(wrong)
        return Counter({Status.WRONG_TYPE: len(wrong), Status.EXPIRED: -len(wrong)}) if wrong else Counter()


def _prove_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / ".writable") as draft:
            draft.touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror or error})", hint="name another folder"
        ) from None


def _free_name(folder: Path, began_us: int) -> Path:
    stem = f"positions_{datetime.fromtimestamp(began_us / _US, UTC):%Y%m%dT%H%M%SZ}"
    names = (folder / f"{stem}{f'_{n}' if n else ''}.parquet" for n in count())
    return next(path for path in names if not path.exists())
