"""Seeders for tests, and a feed after the town's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from etacore.mlops.transit.gtfs import read_feed
from etacore.mlops.transit.seed import feed_pairs
from etacore.mlops.transit.seeding import Seeder
from etacore.mlops.transit.seeding.feed_place import FileSource
from etacore.mlops.transit.seeding.feed_source import FeedSource
from etacore.mlops.transit.seeding.ledger import SeedLock

# Trip `loop` is gone, `more` is new, and `back` has lost a stop: another pattern under the same trip id.
NEXT: dict[str, str | None] = {
    "trips.txt": "route_id,service_id,trip_id,direction_id,shape_id\nr1,S,out,0,line\nr1,S,back,1,\nr3,S,more,0,line\n",
    "stop_times.txt": "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n"
    "out,08:00:00,08:00:00,A,10\nout,08:03:00,08:03:00,B,20\nout,08:06:00,08:06:00,C,40\nout,08:09:00,08:09:00,D,50\n"
    "back,25:10:00,25:10:00,D,1\nback,25:16:00,25:16:00,B,3\nback,25:19:00,25:19:00,A,4\n"
    "more,09:00:00,09:00:00,A,1\nmore,09:03:00,09:03:00,D,2\n",
}


def pairs_of(path: Path) -> dict[str, bytes]:
    """Keys and values of a feed."""
    return dict(feed_pairs(read_feed(path)))


def seeders(client: redis.Redis, lock: SeedLock) -> Callable[..., Seeder]:
    """Makes seeders from a file or a source, a name, and options of `Seeder`."""

    def make(source: FeedSource | Path, name: str = "default", **options: Any) -> Seeder:
        if isinstance(source, Path):
            source = FileSource(source, settle_s=0)
        return Seeder(client, source, name, lock, **options)

    return make
