"""What keys that are no vehicles cost a loop that hears of changes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.freshness.processes import Loop, Source, Stage, cpu_s, stage
from benchmarks.freshness.schedule import Producer
from benchmarks.freshness.wire import Wire

N_UNRELATED: Final = 1_000_000
KEYS_PER_CALL: Final = 20_000
RATE_PER_S: Final = 100
WINDOW_S: Final = 1.0
SETTLE_S: Final = 1.0
MAX_BUSY: Final = 0.75
OFTEN_S: Final = 2.0
"""Resync interval while the cost of a resync is measured; longer than a resync takes."""


@dataclass(frozen=True, slots=True)
class Idle:
    """CPU seconds a second of etacore and Redis together, with and without unrelated keys beside the fleet.

    Attributes
    ----------
    with_keys, without_keys : dict of str to float
        By process, at `RATE_PER_S` changes, medians over windows.
    resync_with_s, resync_without_s : float
        CPU seconds of one full resync.
    resync_interval_s : float
        How often there is one by default; its share is part of `ratio`.
    ratio : float
        Median over windows of all that one side used over all that the other did in the same second.
        NaN if both together used more than `MAX_BUSY` of the CPUs: then neither could use more, and nothing is told.
    ratio_without_resync : float
        The same without the resyncs' share.
    """

    n_unrelated: int
    rate_per_s: float
    n_windows: int
    with_keys: dict[str, float]
    without_keys: dict[str, float]
    resync_with_s: float
    resync_without_s: float
    resync_interval_s: float
    ratio: float
    ratio_without_resync: float


def add_unrelated_keys(client: redis.Redis, n: int = N_UNRELATED) -> None:
    """Keys that no pattern of the loop matches."""
    for start in range(0, n, KEYS_PER_CALL):
        client.mset({b"unrelated:%d" % i: b"value:%d" % i for i in range(start, min(start + KEYS_PER_CALL, n))})


def measure_idle(
    producer: Producer, registry: Path, *, rounds: int, windows: int, source: Source | None = None
) -> Idle:
    """Two servers and two loops side by side with the same load, so that noise meets both.

    Each round has processes of its own, started in the other order.
    """
    source = source or Source("events")
    loaded: list[NDArray[np.float64]] = []
    resyncs: list[NDArray[np.float64]] = []
    for turn in range(rounds):
        with ExitStack() as stack:
            pair: dict[bool, Stage] = {}
            for has_keys in (turn % 2 == 0, turn % 2 != 0):
                prepare = add_unrelated_keys if has_keys else _nothing
                pair[has_keys] = stack.enter_context(stage(producer, source, registry, prepare=prepare))
            stages = [pair[True], pair[False]]
            time.sleep(SETTLE_S)
            loaded.append(_under_load(stages, producer, windows))
            if turn == rounds - 1:
                resyncs.append(_resyncs(stages, registry, windows))
    return _summarize(np.concatenate(loaded), np.concatenate(resyncs), source.resync_s)


def _nothing(client: redis.Redis) -> None:
    """The database as it is."""


def _under_load(stages: Sequence[Stage], producer: Producer, windows: int) -> NDArray[np.float64]:
    """CPU seconds a second, shape (windows, with and without, etacore and redis)."""
    schedule = producer.schedule(RATE_PER_S, windows * WINDOW_S)
    per_window = round(RATE_PER_S * WINDOW_S)
    with Wire(stages[0].socket_path) as first, Wire(stages[1].socket_path) as second:
        began, readings = time.monotonic(), []
        start = 0
        for i, end in enumerate(schedule.ends.tolist()):
            # Half a turn apart: neither waits for the other.
            for wire, due_s in ((first, i), (second, i + 0.5)):
                time.sleep(max(began + due_s / RATE_PER_S - time.monotonic(), 0.0))
                wire.send(schedule.commands[start:end])
            if i % per_window == 0:
                readings.append(_read(stages))
            start = end
        time.sleep(max(began + len(schedule) / RATE_PER_S - time.monotonic(), 0.0))
        readings.append(_read(stages))
    return _rates(readings)


def _resyncs(stages: Sequence[Stage], registry: Path, windows: int) -> NDArray[np.float64]:
    """CPU seconds of one resync, shape (1, with and without, etacore and redis): what often resyncing loops use,
    and idle ones do not."""
    idle = _watch(stages, max(windows // 2, 2))
    for one in stages:
        assert one.loop is not None
        one.loop.stop()
    with ExitStack() as stack:
        often = []
        for one in stages:
            loop = stack.enter_context(Loop(one.server, Source("events", resync_s=OFTEN_S), registry))
            often.append(Stage(one.server, loop))
        time.sleep(SETTLE_S + OFTEN_S)
        busy = _watch(often, round(2 * OFTEN_S / WINDOW_S))
    return np.asarray((busy.mean(axis=0) - idle.mean(axis=0)) * OFTEN_S)[None]


def _watch(stages: Sequence[Stage], windows: int) -> NDArray[np.float64]:
    readings = [_read(stages)]
    for _ in range(windows):
        time.sleep(WINDOW_S)
        readings.append(_read(stages))
    return _rates(readings)


def _read(stages: Sequence[Stage]) -> list[float]:
    """The time, and the CPU seconds of each process."""
    used = [time.monotonic()]
    for one in stages:
        assert one.loop is not None
        one.loop.check()
        used += [cpu_s(one.loop.pid), cpu_s(one.server.pid)]
    return used


def _rates(readings: list[list[float]]) -> NDArray[np.float64]:
    steps = np.diff(np.array(readings), axis=0)
    return np.asarray((steps[:, 1:] / steps[:, :1]).reshape(-1, 2, 2))


def _summarize(loaded: NDArray[np.float64], resyncs: NDArray[np.float64], interval_s: float) -> Idle:
    """From what `_under_load` and `_resyncs` give."""
    used = loaded.sum(axis=2)
    resync_s = np.maximum(resyncs.mean(axis=0).sum(axis=1), 0.0)
    share = used + resync_s / interval_s
    by_process = np.median(loaded, axis=0)
    is_told = np.median(used.sum(axis=1)) <= MAX_BUSY * len(os.sched_getaffinity(0))
    names = ("etacore", "redis")
    return Idle(
        n_unrelated=N_UNRELATED,
        rate_per_s=RATE_PER_S,
        n_windows=len(loaded),
        with_keys=dict(zip(names, by_process[0].tolist(), strict=True)),
        without_keys=dict(zip(names, by_process[1].tolist(), strict=True)),
        resync_with_s=float(resync_s[0]),
        resync_without_s=float(resync_s[1]),
        resync_interval_s=interval_s,
        ratio=float(np.median(share[:, 0] / share[:, 1])) if is_told else float("nan"),
        ratio_without_resync=float(np.median(used[:, 0] / used[:, 1])),
    )
