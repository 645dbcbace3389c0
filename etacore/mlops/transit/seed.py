"""Writes a timetable into Redis: the stops, shapes and trips that the prediction loop looks up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import redis

from etacore.config import KeyNames
from etacore.mlops.progress import Progress, silent
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.patterns import SEED_TTL_S, seed_pairs
from etacore.mlops.transit.run_starts import run_starts
from etacore.store.store import redis_errors

CHUNK: Final = 2_000
"""Keys per round trip, at most."""
CHUNK_BYTES: Final = 4 * 2**20
"""Bytes of values per round trip, about."""


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
    return write_pairs(client, feed_pairs(feed, keys), ttl_s, progress)


def feed_pairs(feed: Feed, keys: KeyNames | None = None) -> Iterator[tuple[str, bytes]]:
    """Give every key of a feed with its value: patterns first, then what names them.

    In this order a vehicle has stops at every moment of the writing.
    """
    return seed_pairs(feed.patterns, feed.trip_patterns(), feed.shapes, keys, run_starts(feed))


def write_pairs(
    client: redis.Redis,
    pairs: Iterable[tuple[str, bytes]],
    ttl_s: int | None = SEED_TTL_S,
    progress: Progress = silent,
) -> int:
    """Write keys with a time to live in seconds, many per round trip; returns how many. Errors as `seed_redis`."""
    n = 0
    for chunk in chunks_of(pairs):
        pipe = client.pipeline(transaction=False)
        for key, value in chunk:
            pipe.set(key, value, ex=ttl_s)
        with redis_errors(client, "SET"):
            pipe.execute()
        n += len(chunk)
        progress("seeding Redis", n, 0)
    return n


def chunks_of(pairs: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Group keys with their values for one round trip each."""
    chunk: list[tuple[str, bytes]] = []
    n_bytes = 0
    for pair in pairs:
        chunk.append(pair)
        n_bytes += len(pair[1])
        if len(chunk) >= CHUNK or n_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, n_bytes = [], 0
    if chunk:
        yield chunk
