"""Measure, print, judge: see `benchmarks.freshness`.

The exit code is 1 when a figure exceeds its ceiling in ``ceilings.toml``. Figures that only miss what is expected of
them on a quiet machine are shown as missed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.fleet import ROOT, registry_path
from benchmarks.freshness.idle import add_unrelated_keys, measure_idle
from benchmarks.freshness.processes import Source, end_on_sigterm, precise_timers, stage, use_cpus
from benchmarks.freshness.rates import (
    MAIN_RATE,
    RATES,
    RESYNC_S,
    Rate,
    beside_the_announcement,
    measure,
    summarize,
    sweep,
)
from benchmarks.freshness.results import (
    Findings,
    as_json,
    describe_machine,
    figures,
    judge,
    markdown,
    read_limits,
    show,
    thousands,
)
from benchmarks.freshness.schedule import Producer
from benchmarks.freshness.swap import POLL_S, measure_swaps

PARTS: Final = ("rates", "idle", "swap")
N_CPUS: Final = 2


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure; seconds, but for the counts."""

    rates: Sequence[float]
    rate_s: float
    main_s: float
    main_blocks: int
    resync_s: float
    contrast_s: float
    idle_rounds: int
    idle_windows: int
    swaps: int
    swaps_polling: int


FULL: Final = Effort(RATES, 2.5, 12.0, 12, 5.0, 4.0, 2, 6, 4, 2)
QUICK: Final = Effort((10_000,), 1.0, 2.0, 2, 0.0, 0.0, 1, 3, 1, 0)


def measure_all(effort: Effort, parts: Sequence[str], findings: Findings) -> None:
    """Fill in the findings, part by part."""
    producer = Producer()
    if "rates" in parts:
        _measure_rates(effort, producer, findings)
    if "idle" in parts:
        _say("idle cost")
        findings.idle = measure_idle(producer, registry_path(), rounds=effort.idle_rounds, windows=effort.idle_windows)
    if "swap" in parts:
        _say("model swaps")
        findings.swap = measure_swaps(producer, Source("events"), effort.swaps)
        if effort.swaps_polling:
            _say("model swaps, polling")
            findings.swap_polling = measure_swaps(producer, Source("poll", POLL_S), effort.swaps_polling)


def _measure_rates(effort: Effort, producer: Producer, findings: Findings) -> None:
    events = Source("events")
    with stage(producer, None, registry_path()) as quiet, stage(producer, events, registry_path()) as served:
        findings.main, findings.bare = beside_the_announcement(
            served, quiet, producer, effort.main_s, effort.main_blocks, events.label
        )
        for found in (findings.bare, findings.main):
            _tell(found.all)
            if found.quiet is not None:
                _tell(found.quiet)
        others = [rate for rate in effort.rates if rate != MAIN_RATE]
        findings.rates = sweep(served, producer, others, effort.rate_s, events.label, _tell)
    if effort.resync_s:
        often = Source("events", resync_s=RESYNC_S)
        with stage(producer, often, registry_path(), prepare=add_unrelated_keys) as served:
            block = measure(served, producer, MAIN_RATE, effort.resync_s)
        findings.resync = replace(summarize("events, resyncs", MAIN_RATE, [block]), saturated=False)
        _tell(findings.resync)
    if effort.contrast_s:
        poll = Source("poll")
        with stage(producer, poll, registry_path()) as served:
            block = measure(served, producer, MAIN_RATE, effort.contrast_s)
        # Its latencies go up to the interval whatever the rate is: that is no backlog.
        findings.contrast = replace(summarize(poll.label, MAIN_RATE, [block]), saturated=False)
        _tell(findings.contrast)


def _tell(rate: Rate) -> None:
    _say(f"{rate.source}, {thousands(rate.rate_per_s)} a second: p50 {rate.p50_ms:.2f}, p99 {rate.p99_ms:.2f} ms")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freshness", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute instead of 2.5 minutes")
    parser.add_argument("--only", choices=PARTS, action="append", help="leave out the others; repeatable")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder for freshness.json, .md, .png")
    parser.add_argument("--png", type=Path, help="write the picture here too")
    given = parser.parse_args(arguments)
    end_on_sigterm()
    cpus = use_cpus(N_CPUS)
    precise_timers()
    command = shlex.join(["python", "-m", "benchmarks.freshness", *(sys.argv[1:] if arguments is None else arguments)])
    findings = Findings(describe_machine(command, cpus))
    measure_all(QUICK if given.quick else FULL, given.only or PARTS, findings)
    verdicts = judge(figures(findings), read_limits())
    given.results.mkdir(parents=True, exist_ok=True)
    found = as_json(findings, verdicts)
    (given.results / "freshness.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    (given.results / "freshness.md").write_text(markdown(findings, verdicts))
    if findings.all_rates():
        from benchmarks.freshness.plot import draw

        picture = draw(findings)
        for path in (given.results / "freshness.png", given.png):
            if path is not None:
                path.write_bytes(picture)
    show(findings, verdicts)
    over = [verdict for verdict in verdicts if not verdict.within]
    for verdict in over:
        _say(f"above its ceiling: {verdict.limit.name}: {verdict.measured:g}, ceiling {verdict.limit.ceiling:g}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
