"""Times of two trees, measured in alternation, and how sure one can be that they differ."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate.running import Bundle, command, environment, run

N_PAIRS: Final = 7
MIN_PAIRS: Final = 5
ROUNDS: Final = 25
AT_MOST: Final = 1.10
"""A time may be this multiple of the base's; more is a regression only if the whole interval is beyond."""
N_RESAMPLED: Final = 4_000
CONFIDENCE: Final = 0.99

Seconds = dict[str, float]


@dataclass(frozen=True, slots=True)
class Timed:
    """A workload's times in two trees.

    Attributes
    ----------
    before_s, now_s : float
        For one unit of work: medians over the processes of a tree, of each process's median.
    ratio, low, high : float
        ``now_s / before_s`` and its bootstrap interval.
    verdict : str
        ``over`` fails the gate.
    """

    workload: str
    before_s: float
    now_s: float
    ratio: float
    low: float
    high: float
    verdict: Literal["ok", "over", "less"]


def measure(tree: Path, bundle: Bundle, *, sample: Path | None = None, only: str = "", rounds: int = ROUNDS) -> Seconds:
    """Seconds of each workload for one unit of its work, in a process of its own."""
    worker = command("time", tree, bundle, sample=sample, only=only, rounds=rounds)
    seconds: Seconds = json.loads(run(worker, environment()).splitlines()[-1])["seconds"]
    return seconds


def alternate(
    base: Callable[[], Seconds],
    head: Callable[[], Seconds],
    n_pairs: int = N_PAIRS,
    progress: Callable[[int], object] = lambda _: None,
) -> tuple[list[Seconds], list[Seconds]]:
    """Measure base, head, head, base, base, head, ...: what drifts meets both alike."""
    before: list[Seconds] = []
    now: list[Seconds] = []
    with _on_one_cpu():
        for pair in range(n_pairs):
            order = ((base, before), (head, now))
            for side, results in order if pair % 2 == 0 else order[::-1]:
                results.append(side())
            progress(pair + 1)
    return before, now


def compare(before: Sequence[Seconds], now: Sequence[Seconds], at_most: float = AT_MOST) -> list[Timed]:
    """Ratios of the medians of workloads that both trees have.

    The interval is that of the percentile bootstrap (Efron, 1979) over pairs, so that what slowed down both sides of a
    pair widens it less.
    """
    found = []
    for workload in now[0]:
        if workload in before[0]:
            a = np.array([seconds[workload] for seconds in before])
            b = np.array([seconds[workload] for seconds in now])
            ratio, low, high = ratio_with_interval(a, b)
            verdict: Literal["ok", "over", "less"] = "ok"
            if low > at_most:
                verdict = "over"
            elif high < 1 / at_most:
                verdict = "less"
            found.append(Timed(workload, float(np.median(a)), float(np.median(b)), ratio, low, high, verdict))
    return found


def ratio_with_interval(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float, float]:
    """Ratio ``median(b) / median(a)`` with its interval; `a` and `b` are pairs, shape (n,)."""
    rng = np.random.default_rng(1)
    picked = rng.integers(0, len(a), (N_RESAMPLED, len(a)))
    ratios = np.median(b[picked], axis=1) / np.median(a[picked], axis=1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(np.median(b) / np.median(a)), float(low), float(high)


@contextmanager
def _on_one_cpu() -> Iterator[None]:
    # Inherited by the workers.
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(everywhere)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)
