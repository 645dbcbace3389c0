"""Resident memory of the loop's process with 100 000 vehicles, at its peak."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from benchmarks.fleet import NOW_US, ROOT, make_fleet, registry_path
from benchmarks.measuring import OURS, describe, report_value
from etacore.redis_server import RedisServer

N = 100_000
PROGRAM = """
import re, sys
from pathlib import Path
from etacore.config import RuntimeConfig
from etacore.runtime import Runtime
from etacore.schema import Status

url, registry, now_us = sys.argv[1:]
runtime = Runtime(RuntimeConfig(redis_url=url, model_registry_dir=Path(registry)), clock=lambda: int(now_us))
print(runtime.poll().counts[Status.OK], runtime.poll().counts[Status.UNCHANGED])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def bench_memory(benchmark: Any, redis_server: RedisServer) -> None:
    describe(benchmark, "memory", OURS, size=N, unit="MB")
    fleet = make_fleet(N)
    with redis_server.client() as client:
        client.mset(fleet.routes)
        for start in range(0, N, 10_000):
            chunk = slice(start, start + 10_000)
            client.mset(dict(zip(fleet.keys[chunk], fleet.payloads[chunk], strict=True)))

    def run() -> list[int]:
        command = [sys.executable, "-c", PROGRAM, redis_server.url, str(registry_path()), str(NOW_US)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return [int(number) for number in done.stdout.split()]

    n_predicted, n_unchanged, peak_kb = benchmark.pedantic(run, rounds=1)
    assert (n_predicted, n_unchanged) == (N, N)
    report_value(benchmark, peak_kb / 1024)
