"""What Prefect costs the loop: throughput beside the bare loop, and how late polls are when its server is killed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import clock_gettime, perf_counter, pthread_getcpuclockid
from typing import Any

import pytest

pytest.importorskip("prefect", reason="the extra `flows` is not installed")

from prefect import flow
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from benchmarks.fleet import NOW_US, make_fleet, registry_path
from benchmarks.measuring import OURS, describe, report_value
from benchmarks.serving import Clock, config
from etacore.redis_server import RedisServer
from etacore.runtime import Observer, PollResult, Runtime, Silent, Window
from etacore.schema import Status
from flows.prefect_eta_flow import set_up_logging
from flows.reporter import Reporter
from flows.runtime_config import RunSettings
from flows.stopping import serve
from tests.flows.prefect_server import PrefectServer

N = 5_000
PAIRS = 9
BLOCK_S = 3.0
WINDOW_S = 1.0
"""Ten times as often as by default: what is measured is an upper bound."""
MAX_OVERHEAD_PERCENT = 2.0

N_LATE = 1_000
POLL_S = 0.05
BEFORE_S, AFTER_S = 10.0, 15.0
MAX_LATE_MS = 50.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server on the CPUs that the measured process is not pinned to."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    mine = os.sched_getaffinity(0)
    everything = set(range(os.cpu_count() or 1))
    os.sched_setaffinity(0, everything - mine or everything)
    try:
        server.start()
    finally:
        os.sched_setaffinity(0, mine)
    try:
        server.wait()
        set_up_logging()
        with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.home}):
            yield server
    finally:
        server.kill()


class Both(Silent):
    """Two observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on_poll(self, result: PollResult) -> None:
        for observer in self._observers:
            observer.on_poll(result)

    def on_window(self, window: Window) -> None:
        for observer in self._observers:
            observer.on_window(window)


class Street:
    """Vehicles in Redis, and a clock; `move` lets every vehicle report again."""

    def __init__(self, server: RedisServer, n: int) -> None:
        self.client = server.client()
        self.client.flushall()
        self.client.mset(make_fleet(1).routes)
        self.clock = Clock()
        self.n = n
        self.tick = 0
        self.move()

    def move(self) -> None:
        self.tick += 1
        self.clock.now_us = NOW_US + self.tick * 1_000_000
        fleet = make_fleet(self.n, tick=self.tick)
        self.client.mset(dict(zip(fleet.keys, fleet.payloads, strict=True)))


class Lateness(Silent):
    """Keeps how late polls were; after each, all vehicles report again."""

    def __init__(self, street: Street) -> None:
        self.late_ms: list[float] = []
        self._street = street

    def on_poll(self, result: PollResult) -> None:
        self.late_ms.append(result.late_s * 1e3)
        self._street.move()


def flow_settings(redis: RedisServer, poll_s: float, folder: Path) -> RunSettings:
    return RunSettings(
        config(
            redis_url=redis.url,
            model_registry_dir=registry_path(),
            poll_interval_seconds=poll_s,
            window_seconds=WINDOW_S,
            profiling_dir=folder,
        ),
        artifact_prefix="bench",
    )


def reporter_of_this_run(settings: RunSettings) -> Reporter:
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return Reporter(settings, flow_run_id=context.flow_run.id, flow_run_name=context.flow_run.name)


def cpu_s(reporter: Reporter) -> float:
    """CPU seconds of the reporter's thread."""
    assert reporter.thread is not None
    assert reporter.thread.ident is not None
    return clock_gettime(pthread_getcpuclockid(reporter.thread.ident))


def block(settings: RunSettings, server: RedisServer, observer: Silent) -> float:
    """Microseconds a vehicle, over a block of polls before each of which every vehicle has moved."""
    street = Street(server, N)
    runtime = Runtime(settings.config, clock=street.clock, observer=observer)
    if isinstance(observer, Reporter):
        observer.start(runtime)
    runtime.poll()
    busy_s, n_vehicles, until = 0.0, 0, perf_counter() + BLOCK_S
    while perf_counter() < until:
        street.move()
        result = runtime.poll()
        assert result.counts[Status.OK] == N
        busy_s += result.duration_s
        n_vehicles += N
    runtime.close()
    return busy_s / n_vehicles * 1e6


def bench_flow(benchmark: Any, server: PrefectServer, redis_server: RedisServer, tmp_path: Path) -> None:
    describe(benchmark, "flow beside the bare loop", OURS, unit="%")
    settings = flow_settings(redis_server, 0.0, tmp_path)
    bare: list[float] = []
    in_flow: list[float] = []
    report_s: list[float] = []

    @flow(name="bench-overhead")
    def run() -> None:
        for _ in range(PAIRS):
            bare.append(block(settings, redis_server, Silent()))
            reporter = reporter_of_this_run(settings)
            in_flow.append(block(settings, redis_server, reporter))
            report_s.append(cpu_s(reporter))
            assert reporter.close()
            assert reporter.n_dropped == reporter.n_failed == 0

    benchmark.pedantic(run, rounds=1)
    # Neighbours on the machine slow down both of a pair, more or less.
    overhead = (median(b / a for a, b in zip(bare, in_flow, strict=True)) - 1) * 100
    report_value(benchmark, overhead)
    benchmark.extra_info.update(bare_us=bare, in_flow_us=in_flow)
    figures = [f"{median(bare):.3f} us bare, {median(in_flow):.3f} us in the flow: {overhead:.2f} %"]
    figures.append(f"reporter {median(report_s) / BLOCK_S * WINDOW_S * 1e3:.1f} ms CPU a window")
    print(f"\n{', '.join(figures)}")
    assert overhead <= MAX_OVERHEAD_PERCENT


@pytest.mark.parametrize("fate", ["alive", "killed"])
def bench_lateness(benchmark: Any, server: PrefectServer, redis_server: RedisServer, tmp_path: Path, fate: str) -> None:
    describe(benchmark, f"latest of 500 polls, Prefect's server {fate}", OURS, unit="ms")
    server.start()
    server.wait()
    settings = flow_settings(redis_server, POLL_S, tmp_path)
    street = Street(redis_server, N_LATE)
    lateness = Lateness(street)
    stop = threading.Event()

    @flow(name="bench-lateness")
    def run() -> None:
        reporter = reporter_of_this_run(settings)
        runtime = Runtime(settings.config, clock=street.clock, observer=Both(reporter, lateness))
        reporter.start(runtime)
        if fate == "killed":
            threading.Timer(BEFORE_S, server.kill).start()
        threading.Timer(BEFORE_S + AFTER_S, stop.set).start()
        serve(runtime, stop)
        runtime.close()
        if fate == "killed":
            assert reporter.api_is_gone
            server.start()
            server.wait()
        reporter.close()

    benchmark.pedantic(run, rounds=1)
    late_ms = sorted(lateness.late_ms[1:])
    p99 = late_ms[int(len(late_ms) * 0.99)]
    report_value(benchmark, late_ms[-1])
    benchmark.extra_info.update(p50_ms=median(late_ms), p99_ms=p99)
    print(f"\n{len(late_ms)} polls: p50 {median(late_ms):.3f}, p99 {p99:.3f}, max {late_ms[-1]:.3f} ms late")
    assert late_ms[-1] <= MAX_LATE_MS
