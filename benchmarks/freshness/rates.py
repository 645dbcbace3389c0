"""Freshness at one rate after the other, until the loop no longer keeps up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.freshness.latency import QUANTILES, Samples, announced, answered, pooled, quantile
from benchmarks.freshness.open_loop import OpenLoop
from benchmarks.freshness.processes import Stage
from benchmarks.freshness.schedule import Probes, Producer
from benchmarks.freshness.wire import Wire

RATES: Final = (100, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 40_000, 80_000, 160_000)
MAIN_RATE: Final = 2_000
WARM_S: Final = 0.3
RESYNC_S: Final = 2.0
"""How often the loop looks at all keys while it is measured what that disturbs."""
PATIENCE_S: Final = 3.0
QUIET_CPUS: Final = 0.25
MIN_QUIET: Final = 3
BARE: Final = "announcement"
CURVE: Final = (0.0, *(1 - 10.0**-e for e in np.linspace(0.05, 4, 80)))
"""Quantiles of the curve of latency by percentile, up to 99.99 %."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a measurement: latencies in milliseconds, and how many CPUs were busy with other things meanwhile."""

    p50_ms: float
    p99_ms: float
    others_cpus: float


@dataclass(frozen=True, slots=True)
class Rate:
    """What was measured at one rate; latencies in milliseconds.

    Attributes
    ----------
    source : str
        ``events``, ``poll every 1 s`` or ``announcement``.
    rate_per_s : float
    n_writes, n_watched : int
        Writes counted, and those of them that the reader watched.
    p50_ms, p99_ms, p999_ms, max_ms : float
        Infinite where writes remained unanswered.
    blocks : list of Stretch
        Each stretch that was measured, in their order.
    n_unanswered : int
    n_answers : int
        Predictions that answered the watched writes; fewer than those where one answered several.
    n_late : int
        Writes that the producer was more than a millisecond late with.
    producer_p99_ms : float
        How late it was; part of the latencies.
    cpu : dict of str to float
        CPUs in use, by process.
    saturated : bool
    curve_ms : list of float
        Latency at each of `CURVE`.
    """

    source: str
    rate_per_s: float
    n_writes: int
    n_watched: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    blocks: list[Stretch]
    n_unanswered: int
    n_answers: int
    n_late: int
    producer_p99_ms: float
    cpu: dict[str, float]
    saturated: bool
    curve_ms: list[float]


@dataclass(frozen=True, slots=True)
class Main:
    """The main rate, which is measured in many stretches.

    What is expected of it is meant for two CPUs that have nothing else to do. Stretches are chosen by what other
    processes used of the CPUs, never by their latencies.

    Attributes
    ----------
    all : Rate
        Every stretch.
    quiet : Rate or None
        Those during which others used at most `QUIET_CPUS` of the CPUs; None if there were fewer than `MIN_QUIET`.
    """

    all: Rate
    quiet: Rate | None

    @property
    def best_known(self) -> Rate:
        """The quiet stretches if there are enough, else all."""
        return self.quiet or self.all


@dataclass(frozen=True, slots=True)
class Block:
    """One stretch of measuring."""

    samples: Samples
    cpu: dict[str, float]


def measure(
    stage: Stage, producer: Producer, rate_per_s: float, seconds: float, patience_s: float = PATIENCE_S
) -> Block:
    """Write at a rate for some seconds; with a loop its predictions are dated, without one the announcements."""
    bare = stage.loop is None
    schedule, probes = producer.schedule(rate_per_s, seconds, WARM_S), Probes.choose(rate_per_s, len(producer))
    with Wire(stage.socket_path) as writing, Wire(stage.socket_path) as reading:
        run = OpenLoop(schedule, writing, reading, probes, watch="vehicles" if bare else "predictions")
        began, before = time.monotonic(), stage.cpu_s()
        recording = run.run(patience_s)
        took_s, after = time.monotonic() - began, stage.cpu_s()
    if stage.loop is not None:
        stage.loop.check()
    samples = (announced if bare else answered)(schedule, probes, recording)
    return Block(samples, {name: (after[name] - before[name]) / took_s for name in after})


def summarize(source: str, rate_per_s: float, blocks: Sequence[Block]) -> Rate:
    """All blocks as one.

    Whether work piles up is asked of each alone, and most of them say.
    """
    samples = pooled([block.samples for block in blocks])
    p50, p99, p999, largest = (samples.quantile_ms(q) for q in QUANTILES)
    return Rate(
        source=source,
        rate_per_s=rate_per_s,
        n_writes=len(samples.late_ms),
        n_watched=len(samples.latency_ms),
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=largest,
        blocks=[
            Stretch(block.samples.quantile_ms(0.5), block.samples.quantile_ms(0.99), block.cpu["others"])
            for block in blocks
        ],
        n_unanswered=samples.n_unanswered,
        n_answers=samples.n_answers,
        n_late=samples.n_late,
        producer_p99_ms=quantile(samples.late_ms, 0.99),
        cpu={name: float(np.mean([block.cpu[name] for block in blocks])) for name in blocks[0].cpu},
        saturated=2 * sum(block.samples.saturated for block in blocks) > len(blocks),
        curve_ms=[samples.quantile_ms(q) for q in CURVE],
    )


def beside_the_announcement(
    stage: Stage, quiet_stage: Stage, producer: Producer, seconds: float, n_blocks: int, label: str
) -> tuple[Main, Main]:
    """The main rate, in turns with the bare announcement on a server that no loop serves."""
    served, bare = [], []
    for _ in range(n_blocks):
        bare.append(measure(quiet_stage, producer, MAIN_RATE, seconds / n_blocks / 2))
        served.append(measure(stage, producer, MAIN_RATE, seconds / n_blocks))
    return choose_quiet(label, served), choose_quiet(BARE, bare)


def choose_quiet(source: str, blocks: Sequence[Block]) -> Main:
    """All blocks, and those whose CPUs were free for what is measured."""
    quiet = [block for block in blocks if block.cpu["others"] <= QUIET_CPUS]
    return Main(
        summarize(source, MAIN_RATE, blocks),
        summarize(f"{source}, quiet", MAIN_RATE, quiet) if len(quiet) >= min(MIN_QUIET, len(blocks)) else None,
    )


def sweep(
    stage: Stage, producer: Producer, rates: Sequence[float], seconds: float, label: str, tell: Callable[[Rate], None]
) -> list[Rate]:
    """Rate after rate, up to and including the first that is too much."""
    found = []
    for rate_per_s in rates:
        found.append(summarize(label, rate_per_s, [measure(stage, producer, rate_per_s, seconds)]))
        tell(found[-1])
        if found[-1].saturated:
            break
    return found
