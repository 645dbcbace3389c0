"""Feeds to seed, and seeders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from etacore.mlops.transit.seeding import Seeder
from etacore.mlops.transit.seeding.ledger import SeedLock
from tests.seeding import NEXT, seeders
from tests.transit import write_feed


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    """The town's feed."""
    return write_feed(tmp_path / "feed.zip")


@pytest.fixture
def next_feed(tmp_path: Path) -> Path:
    """The feed after it."""
    return write_feed(tmp_path / "next.zip", NEXT)


@pytest.fixture
def make(redis_client: redis.Redis) -> Iterator[Callable[..., Seeder]]:
    """Makes seeders that hold the lock of "default"."""
    with SeedLock(redis_client, "default") as lock:
        yield seeders(redis_client, lock)
