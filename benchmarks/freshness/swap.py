"""What a promotion disturbs while positions come in."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.fleet import CACHE, TIME_ZONE, model_path, registry_path, xgboost_model
from benchmarks.freshness.latency import Samples, answered, quantile
from benchmarks.freshness.open_loop import Action, OpenLoop, Recording
from benchmarks.freshness.processes import Source, stage
from benchmarks.freshness.rates import MAIN_RATE, PATIENCE_S
from benchmarks.freshness.schedule import Probes, Producer
from benchmarks.freshness.wire import Wire
from etacore.config import KeyNames
from etacore.models.registry import Registry
from etacore.store.announcement import encode_announcement

KEYS: Final = tuple(f"xgboost_benchmark_spatial-temporal_global_20260120_12000{i}" for i in range(2))
N_TREES_B: Final = 190
FIRST_S: Final = 2.5
APART_S: Final = 3.0
POLL_S: Final = 0.2
WINDOW_S: Final = 1.0
_LINE: Final = re.compile(r"(\d+) polls in ([\d.]+) s")
_MODEL: Final = re.compile(rb'"model_key":"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Swap:
    """Promotions under load.

    Attributes
    ----------
    source : str
    n_swaps : int
    usual_p99_ms : float
        Median, over the seconds without a swap, of their p99.
    around_p99_ms : list of float
        p99 of the second around each swap.
    ratio : float
        Median of those over the usual one.
    worst_ratio : float
    n_watched, n_unanswered : int
    taken_over_ms : list of float
        From the announcement to the first prediction of the announced model; infinite if it never came.
    n_polls, n_polls_lost : int
        Polls of `POLL_S` that were made, and that were not made when they were due; 0 for ``events``.
    """

    source: str
    n_swaps: int
    usual_p99_ms: float
    around_p99_ms: list[float]
    ratio: float
    worst_ratio: float
    n_watched: int
    n_unanswered: int
    taken_over_ms: list[float]
    n_polls: int
    n_polls_lost: int


def two_models() -> Path:
    """Registry of two models, the benchmark's and one of fewer trees; made once, then kept under build/."""
    path = CACHE / f"two-models-{registry_path().name}"
    if not path.exists():
        from etacore.mlops.bundling.compile import compile_to_registry

        partial = path.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        fewer = CACHE / "model-fewer-trees.json"
        xgboost_model()[:N_TREES_B].save_model(fewer)
        for key, source in zip(KEYS, (model_path(), fewer), strict=True):
            compile_to_registry(source, Registry(partial), time_zone=TIME_ZONE, dataset="benchmark", model_key=key)
        partial.rename(path)
    return path


def announcement(model_key: str) -> bytes:
    """What a promotion stores in ``eta:active_model``."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return encode_announcement(model_key, now, "benchmark")


def measure_swaps(producer: Producer, source: Source, n_swaps: int) -> Swap:
    """The main rate, while one model takes the place of the other every few seconds."""
    active = KeyNames().active_model

    def announce_first(client: redis.Redis) -> None:
        client.set(active, announcement(KEYS[0]))

    at_s = [FIRST_S + APART_S * i for i in range(n_swaps)]
    keys = [KEYS[(i + 1) % 2] for i in range(n_swaps)]
    actions = [Action(at, ("SET", active, announcement(key))) for at, key in zip(at_s, keys, strict=True)]
    probes = Probes.choose(MAIN_RATE, len(producer))
    window = ("--window", str(WINDOW_S))
    with stage(producer, source, two_models(), arguments=window, prepare=announce_first) as served:
        assert served.loop is not None
        schedule = producer.schedule(MAIN_RATE, at_s[-1] + APART_S / 2, warm_s=1.0)
        with Wire(served.socket_path) as writing, Wire(served.socket_path) as reading:
            recording = OpenLoop(schedule, writing, reading, probes, actions=actions).run(PATIENCE_S)
        samples = answered(schedule, probes, recording)
        served.loop.check()
        log = served.loop.stop()
    is_poll = source.name == "poll"
    n_polls, n_lost = count_polls(log, source.poll_interval_s) if is_poll else (0, 0)
    return _summarize(source.label, samples, at_s, taken_over(recording, keys), n_polls, n_lost)


def taken_over(recording: Recording, keys: Sequence[str]) -> list[float]:
    """Milliseconds from each announcement to the first prediction of its model."""
    named = [
        (at, match[1].decode())
        for (at, _), document in zip(recording.heard, recording.documents, strict=False)
        if document is not None and (match := _MODEL.search(document))
    ]
    return [
        min(((at - acted) / 1e6 for at, model in named if at > acted and model == key), default=float("inf"))
        for acted, key in zip(recording.acted_ns, keys, strict=True)
    ]


def count_polls(log: str, interval_s: float) -> tuple[int, int]:
    """Polls made and polls lost, from the lines of ``etacore run``; its first two windows are not counted."""
    windows = [(int(n), float(took_s)) for n, took_s in _LINE.findall(log)][2:]
    lost = sum(max(round(took_s / interval_s) - n, 0) for n, took_s in windows)
    return sum(n for n, _ in windows), lost


def _summarize(
    source: str, samples: Samples, at_s: Sequence[float], taken_over_ms: list[float], n_polls: int, n_lost: int
) -> Swap:
    usual_ms = _usual_p99s(samples, at_s)
    around_ms = [quantile(samples.between(at - 0.5, at + 0.5), 0.99) for at in at_s]
    usual = float(np.median(usual_ms))
    return Swap(
        source=source,
        n_swaps=len(at_s),
        usual_p99_ms=usual,
        around_p99_ms=around_ms,
        ratio=float(np.median(around_ms)) / usual,
        worst_ratio=max(around_ms) / usual,
        n_watched=len(samples.latency_ms),
        n_unanswered=samples.n_unanswered,
        taken_over_ms=taken_over_ms,
        n_polls=n_polls,
        n_polls_lost=n_lost,
    )


def _usual_p99s(samples: Samples, at_s: Sequence[float]) -> NDArray[np.float64]:
    """p99 of every second that lies half a second or more from a swap's own second."""
    begins = np.arange(samples.due_s.min(), samples.due_s.max() - 1.0 + 1e-9, 0.5)
    far = [b for b in begins.tolist() if all(b + 1.0 <= at - 0.5 or b >= at + 1.0 for at in at_s)]
    return np.array([quantile(samples.between(b, b + 1.0), 0.99) for b in far])
