"""Resident memory at its peak: of the loop's process with 100 000 vehicles, and of the state of a million."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from benchmarks.fleet import NOW_US, ROOT, make_fleet, registry_path
from benchmarks.measuring import OURS, describe, report_value
from etacore.store.server import RedisServer

N = 100_000
PROGRAM = """
import re, sys
from pathlib import Path
from etacore.config import RuntimeConfig
from etacore.loop.runtime import Runtime
from etacore.status import Status

url, registry, now_us = sys.argv[1:]
runtime = Runtime(RuntimeConfig(redis_url=url, model_registry_dir=Path(registry)), clock=lambda: int(now_us))
print(runtime.poll().counts[Status.OK], runtime.poll().counts[Status.UNCHANGED])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""

N_STATE = 1_000_000
STATE_PROGRAM = """
import re, sys
from pathlib import Path
from benchmarks.fleet import NOW_US, compiled_model, make_fleet
from benchmarks.serving import Clock, config
from etacore.pipeline.engine import Batch, Engine
from etacore.models.choice import Models

def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

n, fleet = int(sys.argv[1]), make_fleet(2_000)
engine, batch = Engine(Models(compiled_model()), config(), Clock()), Batch(len(fleet))
before_kb = None
for start in range(0, n, len(fleet)):
    payloads = [
        payload.replace(b"BUS-%06d" % i, b"BUS-%06d" % (start + i)) for i, payload in enumerate(fleet.payloads)
    ]
    engine.process(fleet.keys, payloads, fleet.fetch, batch)
    engine.commit(batch)
    before_kb = before_kb or peak_kb()
print(engine.fleet.n, engine.fleet.nbytes, peak_kb() - before_kb)
"""


def bench_memory(benchmark: Any, redis_server: RedisServer) -> None:
    describe(benchmark, "memory of the loop's process", OURS, size=N, unit="MB")
    fleet = make_fleet(N)
    with redis_server.client() as client:
        client.mset(fleet.routes)
        for start in range(0, N, 10_000):
            chunk = slice(start, start + 10_000)
            client.mset(dict(zip(fleet.keys[chunk], fleet.payloads[chunk], strict=True)))

    n_predicted, n_unchanged, peak_kb = benchmark.pedantic(
        numbers_of, (PROGRAM, redis_server.url, str(registry_path()), str(NOW_US)), rounds=1
    )
    assert (n_predicted, n_unchanged) == (N, N)
    report_value(benchmark, peak_kb / 1024)


def bench_state(benchmark: Any) -> None:
    """What an engine's process grows by, at its peak, while a million vehicles report for the first time."""
    describe(benchmark, "memory of the vehicles' state", OURS, size=N_STATE, unit="MB")
    n, held, grown_kb = benchmark.pedantic(numbers_of, (STATE_PROGRAM, str(N_STATE)), rounds=1)
    assert n == N_STATE
    benchmark.extra_info.update(held_mb=held / 2**20)
    report_value(benchmark, grown_kb / 1024)


def numbers_of(program: str, *arguments: str) -> list[int]:
    """What a Python program prints."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]
