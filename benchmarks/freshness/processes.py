"""The measured processes: started on the same CPUs, waited for, accounted for, and gone at the end."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from benchmarks.fleet import MAX_STOPS, ROOT
from benchmarks.freshness.schedule import Producer
from etacore.store.server import RedisServer

PR_SET_PDEATHSIG: Final = 1
PR_SET_TIMERSLACK: Final = 29
IDLE: Final = 3
IOWAIT: Final = 4
"""Places in a line of ``/proc/stat``."""
START_S: Final = 60.0
STOP_S: Final = 15.0
AGAIN_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Source:
    """How the loop learns of changes.

    Attributes
    ----------
    name : str
        ``events`` or ``poll``.
    poll_interval_s : float
    resync_s : float
        Seconds between full resyncs of ``events``.
    """

    name: str
    poll_interval_s: float = 1.0
    resync_s: float = 300.0

    @property
    def label(self) -> str:
        """For tables."""
        return self.name if self.name == "events" else f"{self.name} every {self.poll_interval_s:g} s"

    def arguments(self) -> list[str]:
        """Of ``etacore run``."""
        arguments = ["--source", self.name, "--poll-interval", str(self.poll_interval_s)]
        return arguments + (["--resync", str(self.resync_s)] if self.name == "events" else [])


class Loop:
    """``etacore run`` in a process of its own, from the first prediction of every vehicle to its end.

    Parameters
    ----------
    server : RedisServer
    source : Source
    registry : Path
    arguments : sequence of str
        More arguments of ``etacore run``.
    """

    def __init__(self, server: RedisServer, source: Source, registry: Path, *, arguments: Sequence[str] = ()) -> None:
        self.source: Final = source
        self.log: Final = server.directory / f"etacore-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "etacore", "run", "--redis-url", server.url]
        command += ["--model-registry-dir", str(registry), "--max-stops", str(MAX_STOPS)]
        command += [*source.arguments(), *arguments]
        with self.log.open("wb") as log:
            self._process: Final = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wait_until_served(self, client: redis.Redis, producer: Producer) -> None:
        """Wait for a prediction of every vehicle.

        Raises
        ------
        RuntimeError
            If the loop ends, or takes a minute; the message carries the end of its log.
        """
        keys = producer.prediction_keys()
        wait_until(lambda: client.exists(*keys) == len(keys), self.check)

    def check(self) -> None:
        """Raise `RuntimeError` if the loop is no longer running."""
        if self._process.poll() is not None:
            raise RuntimeError(f"etacore run ended with {self._process.returncode}:\n{self._end_of_log()}")

    def stop(self) -> str:
        """End the loop as an operator would, and by force if that fails; its log."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _end_of_log(self) -> str:
        return self.log.read_text(errors="replace")[-2_000:]


@dataclass(frozen=True, slots=True)
class Stage:
    """A server with a fleet in it, and the loop that serves it, if there is one."""

    server: RedisServer
    loop: Loop | None

    @property
    def socket_path(self) -> Path:
        """Where to connect."""
        return self.server.socket_path

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, by process; ``others`` is what is no process of this benchmark."""
        used = {"generator": cpu_s(0), "redis": cpu_s(self.server.pid)}
        used |= {"etacore": cpu_s(self.loop.pid)} if self.loop else {}
        return used | {"others": busy_s(os.sched_getaffinity(0)) - sum(used.values())}


@contextmanager
def stage(
    producer: Producer,
    source: Source | None,
    registry: Path,
    *,
    arguments: Sequence[str] = (),
    prepare: Callable[[redis.Redis], None] = lambda client: None,
) -> Iterator[Stage]:
    """A server of its own, seeded, with every vehicle predicted; without a loop if `source` is None."""
    with RedisServer() as server, server.client() as client:
        producer.seed(client)
        prepare(client)
        if source is None:
            yield Stage(server, None)
            return
        with Loop(server, source, registry, arguments=arguments) as loop:
            loop.wait_until_served(client, producer)
            yield Stage(server, loop)


def wait_until(is_so: Callable[[], bool], check: Callable[[], None] = lambda: None) -> None:
    """Ask again and again, for a minute at most; `check` may raise an earlier end.

    Raises
    ------
    RuntimeError
        If it does not come true.
    """
    deadline = time.monotonic() + START_S
    while not is_so():
        check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing happened within {START_S:.0f} s")
        time.sleep(AGAIN_S)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process with all its threads, to the nanosecond.

    The clock id is Linux' ``make_process_cpuclock``; `pid` 0 is this process.
    """
    return time.clock_gettime((~pid << 3) | 2)


def busy_s(cpus: Iterable[int]) -> float:
    """Seconds for which some CPUs were not idle, from an arbitrary moment on.

    Whoever it was for, and also if they were withheld from this machine (steal). From the idle time, which Linux
    measures; the times of use in ``/proc/stat`` are samples, and miss what always runs between two of them.
    """
    wanted = {f"cpu{cpu}" for cpu in cpus}
    idle_ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in wanted:
            idle_ticks += int(fields[IDLE]) + int(fields[IOWAIT])
    return time.monotonic() * len(wanted) - idle_ticks / os.sysconf("SC_CLK_TCK")


def use_cpus(n: int = 2) -> list[int]:
    """Keep this process, and what it starts, on `n` CPUs; which they are."""
    cpus = sorted(os.sched_getaffinity(0))[-n:]
    os.sched_setaffinity(0, cpus)
    return cpus


def precise_timers() -> None:
    """Let this process sleep to the microsecond: by default Linux may add 50 to every wait."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that what it started ends with it."""

    def handle(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, handle)


_PRCTL: Final = ctypes.CDLL(None).prctl


def _die_with_parent() -> None:
    # For the one end that nobody can catch: SIGKILL of the benchmark.
    _PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
