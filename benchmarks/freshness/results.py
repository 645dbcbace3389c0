"""What was found, as figures against what was expected, tables, JSON and Markdown."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.freshness.idle import N_UNRELATED, Idle
from benchmarks.freshness.processes import Source
from benchmarks.freshness.rates import MAIN_RATE, MIN_QUIET, QUIET_CPUS, RESYNC_S, Main, Rate
from benchmarks.freshness.swap import Swap
from etacore.store.server import find_redis_server

CEILINGS: Final = Path(__file__).with_name("ceilings.toml")
PACKAGES: Final = ("numpy", "redis", "hiredis", "orjson")
METHOD: Final = (
    "Open loop. Latency runs from when a write was due, whether or not the producer was on time, to the arrival of the "
    "announcement (client tracking) of the first prediction that knows it or a later one of the same vehicle. "
    "Percentiles are exact, of all watched writes. Processes: redis-server, etacore run, and a generator that is "
    "producer and reader. Writes: how many were counted; watched: a sample of them, by vehicle; answers: predictions "
    "that answered those, none: writes without one; late: writes that the producer was over 1 ms late with, and p99 of "
    "its lateness, which is part of the latency. The rest is CPUs in use; others are no processes of this benchmark."
)


@dataclass(slots=True)
class Findings:
    """Everything that one run measured; parts that were left out are None or empty."""

    machine: dict[str, Any]
    main: Main | None = None
    bare: Main | None = None
    contrast: Rate | None = None
    resync: Rate | None = None
    rates: list[Rate] = field(default_factory=list)
    idle: Idle | None = None
    swap: Swap | None = None
    swap_polling: Swap | None = None

    def all_rates(self) -> list[Rate]:
        """Rows of the table of rates, by rate."""
        bare, quiet = ([], []) if self.bare is None else ([self.bare.all], [self.bare.quiet])
        main = [] if self.main is None else [self.main.all]
        quiet += [] if self.main is None else [self.main.quiet]
        served = sorted([*self.rates, *main], key=lambda rate: rate.rate_per_s)
        return [rate for rate in (*bare, *served, *quiet, self.resync, self.contrast) if rate is not None]


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure should be at most, and what it must not exceed."""

    name: str
    key: str
    unit: str
    expected: float
    ceiling: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a figure."""

    limit: Limit
    measured: float

    @property
    def met(self) -> bool:
        """As good as expected."""
        return self.measured <= self.limit.expected

    @property
    def within(self) -> bool:
        """Not worse than the ceiling."""
        return self.measured <= self.limit.ceiling

    @property
    def text(self) -> str:
        """Met, or by how much it was missed."""
        if self.met:
            return "met"
        if not self.limit.expected or math.isinf(self.measured):
            return f"missed by {self.measured - self.limit.expected:g}"
        return f"missed by {self.measured / self.limit.expected - 1:.0%}"


def read_limits(path: Path = CEILINGS) -> list[Limit]:
    """Limits of a TOML file."""
    return [Limit(**entry) for entry in tomllib.loads(path.read_text())["figure"]]


def figures(findings: Findings) -> dict[str, float]:
    """What the limits are about, by key; only what was measured."""
    values: dict[str, float] = {}
    if findings.main is not None:
        kept_up = [rate for rate in findings.rates if not rate.saturated]
        values |= {
            "freshness_p50_ms": findings.main.best_known.p50_ms,
            "freshness_p99_ms": findings.main.best_known.p99_ms,
            "unanswered": sum(rate.n_unanswered for rate in (findings.main.all, *kept_up)),
        }
    if findings.idle is not None:
        values["idle_ratio"] = findings.idle.ratio
    if findings.swap is not None:
        values |= {"swap_ratio": findings.swap.ratio, "swap_unanswered": findings.swap.n_unanswered}
    if findings.swap_polling is not None:
        values["polls_lost"] = findings.swap_polling.n_polls_lost
    return values


def judge(values: dict[str, float], limits: Iterable[Limit]) -> list[Verdict]:
    """Hold what was measured against its limits; NaN exceeds every one."""
    return [
        Verdict(limit, math.inf if math.isnan(values[limit.key]) else values[limit.key])
        for limit in limits
        if limit.key in values
    ]


RATE_HEAD: Final = (
    "source",
    "a second",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "max ms",
    "writes",
    "watched",
    "answers",
    "none",
    "late",
    "p99 ms",
    "etacore",
    "Redis",
    "generator",
    "others",
)
VERDICT_HEAD: Final = ("figure", "expected", "measured", "")


def rate_rows(rates: Iterable[Rate]) -> list[tuple[str, ...]]:
    """Rows under `RATE_HEAD`."""
    return [
        (
            rate.source + (" (saturated)" if rate.saturated else ""),
            thousands(rate.rate_per_s),
            *(_ms(value) for value in (rate.p50_ms, rate.p99_ms, rate.p999_ms, rate.max_ms)),
            thousands(rate.n_writes),
            thousands(rate.n_watched),
            thousands(rate.n_answers),
            thousands(rate.n_unanswered),
            thousands(rate.n_late),
            _ms(rate.producer_p99_ms),
            *(
                f"{rate.cpu[name]:.0%}" if name in rate.cpu else ""
                for name in ("etacore", "redis", "generator", "others")
            ),
        )
        for rate in rates
    ]


def verdict_rows(verdicts: Iterable[Verdict]) -> list[tuple[str, ...]]:
    """Rows under `VERDICT_HEAD`."""
    return [
        (
            v.limit.name,
            f"at most {v.limit.expected:g} {v.limit.unit}".strip(),
            f"{v.measured:.4g}",
            v.text + ("" if v.within else f", above the ceiling of {v.limit.ceiling:g}"),
        )
        for v in verdicts
    ]


def remarks(findings: Findings) -> list[str]:
    """What the tables have no room for, a line each."""
    lines = [METHOD]
    for main in (findings.main, findings.bare):
        if main is not None:
            stretches = ", ".join(f"{_ms(s.p50_ms)} / {_ms(s.p99_ms)} ({s.others_cpus:.0%})" for s in main.all.blocks)
            chosen = "" if main.quiet is None else f" {len(main.quiet.blocks)} of {len(main.all.blocks)} were."
            lines.append(
                f"{main.all.source} at {thousands(MAIN_RATE)} a second, p50 / p99 in ms of each stretch, and what "
                f"others used of the CPUs: {stretches}. Quiet is at most {QUIET_CPUS:.0%} of one CPU."
                + (chosen or f" Fewer than {MIN_QUIET} were: all of them count.")
            )
    if findings.resync is not None:
        lines.append(
            f"Resyncs, the loop's looks at all keys: longest wait {_ms(findings.resync.max_ms)} ms, beside "
            f"{thousands(N_UNRELATED)} unrelated keys; here every {RESYNC_S:g} s, by default every "
            f"{Source('events').resync_s:g} s"
        )
    if (idle := findings.idle) is not None:
        with_keys, without = (
            " + ".join(f"{name} {share:.2%}" for name, share in used.items())
            for used in (idle.with_keys, idle.without_keys)
        )
        lines.append(
            f"Idle cost, CPU at {idle.rate_per_s:g} changes a second: {with_keys} with {thousands(idle.n_unrelated)} "
            f"unrelated keys, {without} without; a resync {idle.resync_with_s * 1e3:.0f} ms and "
            f"{idle.resync_without_s * 1e3:.0f} ms every {idle.resync_interval_s:g} s, included in the ratio "
            f"({idle.ratio_without_resync:.3f} without them)"
        )
    for swap in (findings.swap, findings.swap_polling):
        if swap is not None:
            around = ", ".join(map(_ms, swap.around_p99_ms))
            taken = ", ".join(map(_ms, swap.taken_over_ms))
            polls = f"; {swap.n_polls} polls, {swap.n_polls_lost} lost" if swap.n_polls else ""
            lines.append(
                f"{swap.n_swaps} swaps, {swap.source}: p99 usually {_ms(swap.usual_p99_ms)} ms, in the seconds around "
                f"swaps {around} ms ({swap.ratio:.2f} times, worst {swap.worst_ratio:.2f}); first prediction of the "
                f"new model after {taken} ms; {swap.n_unanswered} of {thousands(swap.n_watched)} unanswered{polls}"
            )
    return lines


def markdown(findings: Findings, verdicts: Sequence[Verdict]) -> str:
    """Everything as Markdown."""
    lines = [f"`{findings.machine['command']}` on {machine_line(findings.machine)}.", ""]
    for head, rows in ((RATE_HEAD, rate_rows(findings.all_rates())), (VERDICT_HEAD, verdict_rows(verdicts))):
        if rows:
            lines += [_line(head), _line(["---"] * len(head)), *map(_line, rows), ""]
    return "\n".join([*lines, *(f"- {remark}" for remark in remarks(findings))]) + "\n"


def as_json(findings: Findings, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Everything, with infinity as null: JSON has none."""
    judged = [
        asdict(v.limit) | {"measured": v.measured, "met": v.met, "within": v.within, "text": v.text} for v in verdicts
    ]
    finite: dict[str, Any] = _finite({"method": METHOD, **asdict(findings), "figures": judged})
    return finite


def show(findings: Findings, verdicts: Sequence[Verdict]) -> None:
    """Print both tables and the remarks."""
    import sys

    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    if rates := rate_rows(findings.all_rates()):
        table = Table(*RATE_HEAD, title="Freshness", caption=machine_line(findings.machine))
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rates:
            table.add_row(*row)
        console.print(table)
    for remark in remarks(findings):
        console.print(remark, soft_wrap=False)
    table = Table(*VERDICT_HEAD, title="Against what is expected")
    for verdict, row in zip(verdicts, verdict_rows(verdicts), strict=True):
        colour = "green" if verdict.met else "yellow" if verdict.within else "bold red"
        table.add_row(*row[:-1], f"[{colour}]{row[-1]}[/]")
    console.print(table)


def describe_machine(command: str, cpus: Sequence[int]) -> dict[str, Any]:
    """Processor, versions and the command, for whoever wants to repeat it."""
    server = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    versions = {name: version(name) for name in PACKAGES}
    return {
        "command": command,
        "cpu": cpu_model(),
        "n_cpus": os.cpu_count(),
        "used_cpus": list(cpus),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis_server": next((word[2:] for word in server.split() if word.startswith("v=")), server.strip()),
        "versions": versions,
    }


def cpu_model() -> str:
    """As Linux names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    packages = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['cpu']}, {len(machine['used_cpus'])} of {machine['n_cpus']} CPUs, Linux {machine['kernel']}, "
        f"redis-server {machine['redis_server']}, Python {machine['python']}, {packages}"
    )


def thousands(value: float) -> str:
    """A whole number with spaces."""
    return f"{value:,.0f}".replace(",", " ")


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else "none" if math.isinf(value) else f"{value:.0f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
