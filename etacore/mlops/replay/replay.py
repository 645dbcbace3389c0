"""Plays recorded positions through a real Redis and the prediction loop, and scores what it predicts.

Time is the recording's, not the wall's: at each tick the snapshots that had
become known by then are written, the loop polls once with the clock at that
tick, and what it stored is read back.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import redis
from rich.console import Console
from rich.text import Text

from etacore.accuracy import COLUMNS
from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, FeedError
from etacore.files import write_whole
from etacore.mlops.fitted_table import Column, FittedTable
from etacore.mlops.progress import Progress, console_progress, silent
from etacore.mlops.replay.payloads import posix, snapshot_json
from etacore.mlops.replay.scoring import Recording, Scores, score_recording, truth_of_arrivals, truth_of_frame
from etacore.mlops.transit.arrivals import observe_arrivals
from etacore.mlops.transit.given_arrivals import read_arrivals
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.left_out import files_warning, lost_fixes, survival_warning
from etacore.mlops.transit.positions import Positions, from_us, read_positions
from etacore.mlops.transit.seed import seed_redis
from etacore.mlops.transit.tracks import match_tracks
from etacore.schema import MAX_ETA_S
from etacore.status import FAILED, REJECTED
from etacore.store.server import RedisServer
from etacore.store.store import connect, redis_errors

if TYPE_CHECKING:
    from etacore.loop.runtime import PollResult

TICK_S: Final = 20.0
SILENT_AFTER_S: Final = 300.0
"""A vehicle that sent nothing for so long is gone from Redis, as with a producer's TTL."""

_US: Final = 1_000_000
_ROUTE_REFRESH_S: Final = 3600.0

ClockFunction = Callable[[], int]


class Loop(Protocol):
    """What is played to: `etacore.loop.runtime.Runtime`, or something simpler in its place."""

    def poll(self) -> PollResult:
        """Predict for every snapshot once, at the clock's time."""

    def close(self) -> None:
        """Close connections."""


def prediction_loop(config: RuntimeConfig, clock: ClockFunction) -> Loop:
    """The loop that serves production."""
    # Here, because it needs the compiled core and this module's readers do not.
    from etacore.loop.runtime import Runtime

    return Runtime(config, clock=clock)


@dataclass(slots=True)
class Played:
    """What was played, and what came back.

    Attributes
    ----------
    n_positions, n_polls : int
    n_overwritten : int
        Positions replaced by a newer one of the same vehicle within one tick.
    n_answered : int
        Positions for which the loop stored a document with predictions.
    status : Counter
        What the loop said of the vehicles, over all polls, by reason.
    model_keys : Counter
        Documents by the model that made them.
    wall_s : float
    """

    recording: Recording = field(default_factory=Recording)
    n_positions: int = 0
    n_overwritten: int = 0
    n_answered: int = 0
    n_polls: int = 0
    status: Counter[str] = field(default_factory=Counter)
    model_keys: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Outcome of a replay: what was played, and how wrong the predictions were."""

    played: Played
    scores: Scores
    start: datetime
    end: datetime
    routes: tuple[str, ...]
    time_zone: str
    n_arrivals: int
    sampling_s: float
    """Median time between two positions of a vehicle: how exact the labels can be."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        speed = self.scores.baseline_speed_mps
        return {
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "time_zone": self.time_zone,
            "routes": list(self.routes),
            "positions": self.played.n_positions,
            "positions_overwritten": self.played.n_overwritten,
            "positions_answered": self.played.n_answered,
            "polls": self.played.n_polls,
            "wall_seconds": round(self.played.wall_s, 2),
            "vehicles_by_status": dict(self.played.status),
            "documents_by_model": dict(self.played.model_keys),
            "stops_predicted": len(self.played.recording),
            "arrivals_observed": self.n_arrivals,
            "sampling_seconds": round(self.sampling_s, 1) if math.isfinite(self.sampling_s) else None,
            "labels": self.scores.labels,
            "not_scored": self.scores.unscored,
            "model": self.scores.model.to_dict(),
            "baseline": {
                "name": "distance along the route / mean speed",
                "mean_speed_mps": round(speed, 3) if math.isfinite(speed) else None,
                **self.scores.baseline.to_dict(),
            },
            "feed_notes": list(self.notes),
        }


def replay(
    positions: Positions,
    feed: Feed,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    routes: Collection[str] | None = None,
    speed: float | None = None,
    registry_dir: Path,
    model_key: str | None = None,
    redis_url: str | None = None,
    arrivals: Path | None = None,
    max_stops: int = 5,
    tick_s: float = TICK_S,
    progress: Progress = silent,
    make_loop: Callable[[RuntimeConfig, ClockFunction], Loop] = prediction_loop,
) -> ReplayResult:
    """Play positions through the loop and score its predictions.

    Parameters
    ----------
    positions : Positions
        The recording.
    feed : Feed
        The timetable that its trip ids refer to.
    start, end : datetime, optional
        Part to play; naive means local time of the feed.
    routes : collection of str, optional
        Route ids to play; all if None.
    speed : float, optional
        Seconds of event time per second of wall time at most; None or 0: as fast as possible.
    registry_dir : Path
        Where the models are.
    model_key : str, optional
        Model to serve; the registry's best if None.
    redis_url : str, optional
        An empty Redis database to use; a private server is started if None.
    arrivals : Path, optional
        Arrivals to score against instead of those observed in the positions.
    max_stops : int
        Stops to predict per vehicle.
    tick_s : float
        Event time between two polls.
    progress : Progress, optional
        Told how many positions are played.
    make_loop : callable
        Opens what predicts.

    Raises
    ------
    FeedError
        If the range is empty, or positions and feed do not belong together.
    ConfigError
        If the given database is not empty, or `speed` or `tick_s` make no sense.
    """
    if (speed is not None and speed < 0) or tick_s <= 0:
        raise ConfigError(f"speed is {speed} and tick_s is {tick_s}: both must be positive")
    zone = ZoneInfo(feed.time_zone)
    start, end = _local(start, zone), _local(end, zone)
    n_played = len(positions.select(start=start, end=end, routes=routes))
    # What is predicted near the end of the range arrives after it.
    until = None if end is None else end + timedelta(seconds=MAX_ETA_S)
    chosen = positions.select(start=start, end=until, routes=routes)
    tracks = match_tracks(chosen, feed)
    if not len(tracks):
        raise FeedError(
            "no run of a trip of this feed is in these positions",
            hint="the positions' trip_id must be those of trips.txt, and the vehicles near the stops of their trips",
        )
    if arrivals is None:
        truth = truth_of_arrivals(observe_arrivals(chosen, feed, tracks), feed)
    else:
        truth = truth_of_frame(read_arrivals(arrivals), chosen, feed, tracks)
    clock = _Clock()
    with _redis(redis_url) as (url, client):
        seed_redis(client, feed)
        config = RuntimeConfig(
            redis_url=url,
            model_key=model_key,
            model_registry_dir=registry_dir,
            max_stops_per_vehicle=max_stops,
            route_refresh_seconds=_ROUTE_REFRESH_S,
        )
        clock.now_us = int(chosen.time_us[0])
        with contextlib.closing(make_loop(config, clock)) as loop:
            played = _play(chosen, n_played, client, loop, clock, config, speed or math.inf, tick_s, progress)
    scores = score_recording(played.recording, chosen, feed, tracks, truth)
    return ReplayResult(
        played,
        scores,
        from_us(chosen.time_us[0]).astimezone(zone),
        from_us(chosen.time_us[n_played - 1]).astimezone(zone),
        tuple(sorted({chosen.route_id.values[code] for code in np.unique(chosen.route_id.codes[:n_played]).tolist()})),
        feed.time_zone,
        len(truth.key),
        chosen.sampling_s(),
        feed.notes,
    )


class _Clock:
    """Event time, as the loop asks for it."""

    now_us = 0

    def __call__(self) -> int:
        return self.now_us


def _local(moment: datetime | None, zone: ZoneInfo) -> datetime | None:
    return moment.replace(tzinfo=zone) if moment is not None and moment.tzinfo is None else moment


@contextlib.contextmanager
def _redis(url: str | None) -> Iterator[tuple[str, redis.Redis]]:
    with contextlib.ExitStack() as stack:
        if url is None:
            url = stack.enter_context(RedisServer()).url
        client = stack.enter_context(contextlib.closing(connect(RuntimeConfig(redis_url=url))))
        with redis_errors(client, "DBSIZE"):
            is_in_use = client.dbsize() > 0
        if is_in_use:
            raise ConfigError(
                "the Redis database for the replay is not empty",
                hint="a replay writes old positions under vehicle:*; give an empty database, or none at all",
            )
        yield url, client


def _play(
    positions: Positions,
    n: int,
    client: redis.Redis,
    loop: Loop,
    clock: _Clock,
    config: RuntimeConfig,
    speed: float,
    tick_s: float,
    progress: Progress,
) -> Played:
    played = Played()
    began = time.perf_counter()
    last_seen_us: dict[int, int] = {}
    vehicles = positions.vehicle_id.values
    keys = [f"vehicle:{name}" for name in vehicles]
    tick_us = round(tick_s * _US)
    low = 0
    first_us = int(positions.time_us[0])
    while low < n:
        # Ticks at which nothing was sent are passed over.
        due_us = first_us + -(-(int(positions.time_us[low]) - first_us) // tick_us) * tick_us
        high = min(int(np.searchsorted(positions.time_us, due_us, side="right")), n)
        clock.now_us = due_us
        _wait(began, (due_us - first_us) / _US / speed)
        newest = {int(positions.vehicle_id.codes[row]): row for row in range(low, high)}
        played.n_positions += high - low
        played.n_overwritten += high - low - len(newest)
        last_seen_us.update((code, int(positions.time_us[row])) for code, row in newest.items())
        silent = [code for code, seen_us in last_seen_us.items() if due_us - seen_us > SILENT_AFTER_S * _US]
        pipe = client.pipeline(transaction=False)
        for code, row in newest.items():
            pipe.set(keys[code], snapshot_json(positions, row))
        for code in silent:
            del last_seen_us[code]
            pipe.delete(keys[code])
        with redis_errors(client, "SET"):
            pipe.execute()
        result = loop.poll()
        played.n_polls += 1
        played.status.update({status.label: count for status, count in result.counts.items() if count})
        names = [config.keys.predictions + vehicles[code] for code in newest]
        with redis_errors(client, "MGET"):
            blobs = client.mget(names)
        for row, blob in zip(newest.values(), blobs, strict=True):
            _record(played, positions, row, blob)
        progress("playing positions", high, n)
        low = high
    played.wall_s = time.perf_counter() - began
    return played


def _wait(began: float, until_s: float) -> None:
    left_s = began + until_s - time.perf_counter()
    if left_s > 0:
        time.sleep(left_s)


def _record(played: Played, positions: Positions, row: int, blob: Any) -> None:
    if blob is None:
        return
    document = orjson.loads(blob)
    # The document of an earlier position stays when the loop rejects the newer one.
    if document.get("source_timestamp") != posix(int(positions.time_us[row])):
        return
    if document["predictions"]:
        played.n_answered += 1
        played.model_keys[str(document.get("model_key"))] += 1
        played.recording.add(row, document["predictions"])


def replay_to_console(
    positions_path: Path,
    gtfs_path: Path,
    *,
    json_path: Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> ReplayResult:
    """Replay files, show how far it is, print the scores, and write them as JSON if asked.

    Parameters
    ----------
    positions_path, gtfs_path : Path
        Recording and timetable.
    json_path : Path, optional
        Where to write the scores.
    console : rich.console.Console, optional
        Where to print.
    **options
        Those of `replay`.
    """
    if json_path is not None and not json_path.parent.is_dir():
        raise ConfigError(f"the scores cannot be written to {json_path}: there is no such folder")
    console = console or Console()
    feed = read_feed(gtfs_path)
    positions = read_positions(positions_path, feed=feed)
    with console_progress() as progress:
        result = replay(positions, feed, progress=progress, **options)
    print_result(result, console)
    for warning in replay_warnings(result.played, positions):
        console.print(Text(warning, style="bold red"))
    if json_path is not None:
        write_whole(json_path, f"{json.dumps(result.to_dict(), indent=2, allow_nan=False)}\n".encode())
    return result


def replay_warnings(played: Played, positions: Positions) -> tuple[str, ...]:
    """What has to be said loudly; see `survival_warning` and `files_warning`."""
    unread = lost_fixes(positions.left_out)
    refused = {
        f"{status.label}, over all polls": played.status[status.label]
        for status in REJECTED | FAILED
        if played.status[status.label]
    }
    # Those overwritten within a tick are taken to have fared as the others.
    n_kept = round(played.n_answered * played.n_positions / max(played.n_positions - played.n_overwritten, 1))
    n = played.n_positions + sum(unread.values())
    warnings = (
        files_warning(positions.n_files, positions.left_out, positions.examples),
        survival_warning(n_kept, n, unread | refused, positions.examples),
    )
    return tuple(warning for warning in warnings if warning)


def print_result(result: ReplayResult, console: Console) -> None:
    """Print what was played, how it was scored, and the figures by minutes ahead."""
    played, scores = result.played, result.scores
    lines = [
        f"played {played.n_positions:,} positions of route {', '.join(result.routes)}, "
        f"{result.start:%Y-%m-%d %H:%M} to {result.end:%Y-%m-%d %H:%M} ({result.time_zone}), "
        f"in {played.wall_s:.1f} s; {played.n_answered:,} of them got predictions"
    ]
    refused = {name: count for name, count in played.status.items() if name not in ("ok", "unchanged")}
    if refused:
        lines.append(f"  set aside, summed over {played.n_polls:,} polls: {_listed(refused)}")
    lines.append(f"  model: {', '.join(played.model_keys) or 'none'}")
    lines.append(
        f"  labels of {scores.model.n:,} scored stops: {_listed(scores.labels)} "
        f"(a vehicle was seen every {result.sampling_s:.0f} s)"
    )
    if scores.unscored:
        lines.append(f"  not scored: {_listed(scores.unscored)}")
    lines += [f"  feed: {note}" for note in result.notes]
    for line in lines:
        # As text, since routes and notes may hold what looks like markup.
        console.print(Text(line), soft_wrap=True)
    for title, report in (("the loop", scores.model), ("distance along the route / mean speed", scores.baseline)):
        columns = [Column(heading, "number", len(COLUMNS) - i) for i, heading in enumerate(COLUMNS)]
        console.print(FittedTable(columns, report.rows(), title=title))
    console.print(
        f"mean speed: {scores.baseline_speed_mps:.2f} m/s, that of these very positions. "
        "Band of all: the ETA Accuracy Benchmark."
    )


def _listed(counts: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"
