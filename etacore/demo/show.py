"""The demo from beginning to end: a city, a Redis of its own, the real loop, the view, and the score."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Final
from zoneinfo import ZoneInfo

import redis
from rich.console import Console

from etacore.config import KeyNames, RuntimeConfig
from etacore.demo.city import TIME_ZONE, City, build_city
from etacore.demo.feed import redis_pairs, write_gtfs
from etacore.demo.follow import Follower
from etacore.demo.producer import HASHES, Producer
from etacore.demo.view import DemoFrame, DemoSummary, DemoView
from etacore.loop.runtime import Runtime
from etacore.mlops.transit.patterns import SEED_TTL_S
from etacore.status import REJECTED, Status
from etacore.store.announcement import encode_announcement
from etacore.store.server import RedisServer

CITY_START: Final = datetime(2026, 3, 3, 17, 0, tzinfo=ZoneInfo(TIME_ZONE))
TIME_FACTOR: Final = 20.0
SNAPSHOT_TTL_S: Final = 300
SEND_INTERVAL_S: Final = 0.1
FRAME_INTERVAL_S: Final = 0.25
RATE_WINDOW_S: Final = 5.0
MAX_FOLLOWED: Final = 64
"""Buses that a very tall terminal has room for."""


class CityClock:
    """The city's time: begins at `start_us` when first asked for and runs `factor` times as fast as ours."""

    def __init__(self, start_us: int, factor: float) -> None:
        self.factor = factor
        self._start_us = start_us
        self._began_s: float | None = None

    def __call__(self) -> int:
        """City time, microseconds since the epoch."""
        return self._start_us + round(self.elapsed_s * self.factor * 1e6)

    @property
    def elapsed_s(self) -> float:
        """Our seconds since the city began."""
        if self._began_s is None:
            self._began_s = monotonic()
        return monotonic() - self._began_s


class _Task(threading.Thread):
    """A thread whose failure ends the demo and is raised by `finish`."""

    def __init__(self, work: Callable[[threading.Event], object], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._work, self._stop_all = work, stop
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work until it ends or fails."""
        try:
            self._work(self._stop_all)
        except BaseException as error:
            self._error = error
            self._stop_all.set()

    def finish(self) -> None:
        """Wait for the end; raises here what was raised there."""
        self.join()
        if self._error:
            raise self._error


def announce(client: redis.Redis, model_key: str) -> None:
    """Name a model as the active one, as a promotion does."""
    client.set(KeyNames().active_model, encode_announcement(model_key, datetime.now(UTC).isoformat(), "demo"))


class _Sender:
    """Writes what the buses send."""

    def __init__(self, client: redis.Redis, producer: Producer, clock: CityClock) -> None:
        self.n_sent = 0
        self._client, self._producer, self._clock = client, producer, clock

    def run(self, stop: threading.Event) -> None:
        """Send what falls due, ten times a second, until told to stop."""
        while not stop.is_set():
            arrived = self._producer.snapshots(self._clock())
            pipe = self._client.pipeline(transaction=False)
            for key, payload in arrived:
                pipe.set(key, payload, ex=SNAPSHOT_TTL_S)
            pipe.execute()
            self.n_sent += len(arrived)
            stop.wait(SEND_INTERVAL_S)


def run_demo(
    *,
    seconds: float = 30.0,
    seed: int = 7,
    plain: bool | None = None,
    model_registry_dir: Path | None = None,
    time_factor: float = TIME_FACTOR,
    console: Console | None = None,
    active_model: str | None = None,
    meanwhile: Callable[[str], object] | None = None,
) -> DemoSummary:
    """Let the city run, predict it, and say how right the predictions were.

    Parameters
    ----------
    seconds : float
        How long it runs, in our time.
    seed : int
        Another seed is another city with other traffic.
    plain : bool, optional
        Lines instead of the live view; by default what the console can do.
    model_registry_dir : Path, optional
        Where the model is; by default as `RuntimeConfig` says.
    time_factor : float
        City seconds per second.
    console : Console, optional
        Where to show it.
    active_model : str, optional
        Model that Redis announces at the start; by default none, and the registry's best serves.
    meanwhile : callable, optional
        Called once with the URL of the Redis while the city runs, in a thread of its own.

    Returns
    -------
    DemoSummary
        Printed as well.

    Raises
    ------
    RedisUnavailableError
        If there is no redis-server on this machine.
    ModelNotFoundError, ModelLoadError
        If there is no model to predict with.
    """
    view = DemoView(console, plain=plain)
    city = build_city(seed)
    producer = Producer(city, CITY_START, hours=(seconds * time_factor + 900) / 3600, seed=seed)
    clock = CityClock(producer.start_us, time_factor)
    follower = Follower(city, producer.runs, n_followed=MAX_FOLLOWED)
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="etacore-demo-")))
        server = stack.enter_context(RedisServer())
        client = server.client()
        stack.callback(client.close)
        feed = write_gtfs(city, folder / "gtfs", CITY_START.date())
        _seed(client, city, producer)
        if active_model is not None:
            announce(client, active_model)
        view.say(
            f"etacore demo: {len(city.routes)} routes, {len(city.stops)} stops, GTFS feed in {feed}, "
            f"{server.binary.name} on {server.socket_path}, city time {time_factor:g}x real time"
        )
        runtime = _make_runtime(server.url, model_registry_dir, clock)
        stack.callback(runtime.close)
        sender = _Sender(client, producer, clock)
        tasks = [_Task(sender.run, stop), _Task(runtime.run, stop)]
        if meanwhile is not None:
            tasks.append(_Task(lambda _: meanwhile(server.url), stop))
        stack.enter_context(_stopped_by_signals(stop))
        with view:
            for task in tasks:
                task.start()
            watcher = _Watcher(follower, client, sender, runtime, clock, seconds)
            while not stop.wait(FRAME_INTERVAL_S) and clock.elapsed_s < seconds:
                view.show(watcher.frame())
            stop.set()
            for task in tasks:
                task.finish()
            frame = watcher.frame()
        summary = DemoSummary(
            frame, runtime.summary.n_polls, _model_key(runtime), follower.accuracy(), follower.n_unscored
        )
        view.summarize(summary)
    return summary


def _make_runtime(redis_url: str, model_registry_dir: Path | None, clock: CityClock) -> Runtime:
    settings = {
        "redis_url": redis_url,
        "poll_interval_seconds": 0.25,
        "max_age_seconds": 600.0,
        "max_future_seconds": 60.0,
        "model_registry_dir": model_registry_dir,
    }
    return Runtime(RuntimeConfig.from_mapping(settings), clock=clock)


def _model_key(runtime: Runtime) -> str:
    default = runtime.engine.models.default
    return default.key if default else "one for each route"


def _seed(client: redis.Redis, city: City, producer: Producer) -> None:
    pipe = client.pipeline(transaction=False)
    for key, value in redis_pairs(city, producer.timetable):
        pipe.set(key, value, ex=SEED_TTL_S)
    for key, fields in HASHES.items():
        pipe.hset(key, mapping=fields)
    pipe.execute()


class _Watcher:
    """Puts together what the view shows."""

    def __init__(
        self,
        follower: Follower,
        client: redis.Redis,
        sender: _Sender,
        runtime: Runtime,
        clock: CityClock,
        seconds: float,
    ) -> None:
        self._follower, self._client, self._sender, self._runtime = follower, client, sender, runtime
        self._clock, self._seconds = clock, seconds
        self._history: deque[tuple[float, int]] = deque([(clock.elapsed_s, 0)], round(RATE_WINDOW_S / FRAME_INTERVAL_S))

    def frame(self) -> DemoFrame:
        """What there is to show at this moment."""
        self._follower.look(self._client.mget(self._follower.keys))
        now_s = self._clock() / 1e6
        elapsed_s, counts = self._clock.elapsed_s, self._runtime.summary.counts
        n_documents = counts[Status.OK]
        self._history.append((elapsed_s, n_documents))
        then_s, n_then = self._history[0]
        return DemoFrame(
            city_time=datetime.fromtimestamp(now_s, CITY_START.tzinfo),
            time_factor=self._clock.factor,
            elapsed_s=elapsed_s,
            total_s=self._seconds,
            n_vehicles=self._follower.n_predicted,
            n_snapshots=self._sender.n_sent,
            n_documents=n_documents,
            documents_per_s=(n_documents - n_then) / max(elapsed_s - then_s, 1e-3),
            stages=self._runtime.profiler.snapshot(),
            rejected={status.label: n for status in sorted(REJECTED) if (n := counts[status])},
            followed=self._follower.followed(now_s),
            accuracy=self._follower.accuracy(now_s),
        )


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM end the demo early, with its summary. Only the main thread may ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
