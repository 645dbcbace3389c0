"""A producer in a process of its own: all vehicles report again at every tick, whatever becomes of Redis meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep, time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.fleet import NOW_US, ROOT, make_fleet
from etacore.store.server import RedisServer

AGAIN_S = 0.01


class TickClock:
    """Event time: a second passes at each tick."""

    def __init__(self, began: float, interval_s: float) -> None:
        self.began = began
        self.interval_s = interval_s

    @property
    def tick(self) -> int:
        """Ticks since the beginning."""
        return int((time() - self.began) / self.interval_s)

    def __call__(self) -> int:
        return NOW_US + int((time() - self.began) / self.interval_s * 1e6)


@contextmanager
def moving_fleet(server: RedisServer, n: int, interval_s: float) -> Iterator[TickClock]:
    """`n` vehicles that another process moves, on CPUs that this one is not pinned to if there are any."""
    clock = TickClock(time(), interval_s)
    arguments = [str(server.socket_path), str(n), str(interval_s), str(clock.began)]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.moving", *arguments], cwd=ROOT)
    everything = set(range(os.cpu_count() or 1))
    os.sched_setaffinity(process.pid, everything - os.sched_getaffinity(0) or everything)
    try:
        deadline = monotonic() + 30
        with server.client() as client:
            while not client.exists(f"vehicle:BUS-{n - 1:06d}"):
                assert process.poll() is None
                assert monotonic() < deadline, "the producer wrote nothing"
                sleep(AGAIN_S)
        yield clock
        assert process.poll() is None, "the producer ended before its time"
    finally:
        process.kill()
        process.wait()


def move(socket_path: str, n: int, clock: TickClock) -> None:
    """Write the routes if they are not there, and all vehicles, at each tick until the parent is gone."""
    client = redis.Redis(unix_socket_path=socket_path, socket_timeout=1.0, retry=Retry(NoBackoff(), 0))
    routes = make_fleet(1).routes
    parent = os.getppid()
    while os.getppid() == parent:
        tick = clock.tick
        fleet = make_fleet(n, tick=tick)
        try:
            if not client.exists(next(iter(routes))):
                client.mset(routes)
            client.mset(dict(zip(fleet.keys, fleet.payloads, strict=True)))
        except (redis.RedisError, OSError):
            sleep(AGAIN_S)
            continue
        sleep(max(clock.began + (tick + 1) * clock.interval_s - time(), 0.0))


if __name__ == "__main__":
    move(sys.argv[1], int(sys.argv[2]), TickClock(float(sys.argv[4]), float(sys.argv[3])))
