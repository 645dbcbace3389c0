"""Writes a timetable into Redis: the stops, shapes and trips that the prediction loop looks up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import redis

from etacore.config import KeyNames
from etacore.mlops.progress import Progress, silent
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.patterns import SEED_TTL_S, seed_pairs
from etacore.mlops.transit.run_starts import run_starts
from etacore.store.store import redis_errors

CHUNK: Final = 2_000
"""Keys per round trip."""


def seed_redis(
    client: redis.Redis,
    feed: Feed,
    *,
    keys: KeyNames | None = None,
    ttl_s: int | None = SEED_TTL_S,
    progress: Progress = silent,
) -> int:
    """Write every key of `etacore.mlops.transit.patterns.seed_pairs` for a feed.

    Keys that are already there are replaced; nothing else is touched.

    Parameters
    ----------
    client : redis.Redis
        For example from `etacore.store.store.connect`.
    feed : Feed
        The timetable.
    keys : KeyNames, optional
        Prefixes, if the deployment renamed them.
    ttl_s : int, optional
        Time to live in seconds, 24 h by default; None writes keys that stay.
    progress : Progress, optional
        Told how many keys are written.

    Returns
    -------
    int
        Keys written.

    Raises
    ------
    RedisUnavailableError
        If Redis cannot be reached. Some keys may have been written; writing them again does no harm.
    ConfigError
        If Redis refuses the credentials, or does not let the user run SET.
    """
    pairs = seed_pairs(feed.patterns, feed.trip_patterns(), feed.shapes, keys, run_starts(feed))
    return write_pairs(client, pairs, ttl_s, progress)


def write_pairs(
    client: redis.Redis,
    pairs: Iterable[tuple[str, bytes]],
    ttl_s: int | None = SEED_TTL_S,
    progress: Progress = silent,
) -> int:
    """Write keys with a time to live in seconds, many per round trip; returns how many. Errors as `seed_redis`."""
    n = 0
    for chunk in _chunks(pairs):
        pipe = client.pipeline(transaction=False)
        for key, value in chunk:
            pipe.set(key, value, ex=ttl_s)
        with redis_errors(client, "SET"):
            pipe.execute()
        n += len(chunk)
        progress("seeding Redis", n, 0)
    return n


def _chunks(pairs: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    rest = iter(pairs)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
