"""The rights that docs/events.md names for the loop's user are enough."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from etacore.config import RuntimeConfig
from etacore.loop.explain import explain_key
from etacore.loop.runtime import Runtime
from etacore.status import Status
from etacore.store.changes import CLIENT_NAME
from etacore.store.server import RedisServer
from tests.fleet import ROUTE, payload, stops_blob

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "events.md"


@pytest.fixture
def limited(redis_server: RedisServer, redis_client: redis.Redis, registry_dir: Path) -> Iterator[RuntimeConfig]:
    """A user with what the page lists for every server."""
    (rights,) = re.findall(r"An ACL user for the loop: `([^`]+)`", PAGE.read_text())
    redis_client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">s3cr3t", *rights.split())
    yield RuntimeConfig(
        redis_url=redis_server.url,
        redis_username="limited",
        redis_password="s3cr3t",
        model_registry_dir=registry_dir,
        poll_interval_seconds=0.02,
    )
    redis_client.execute_command("ACL", "DELUSER", "limited")


@pytest.mark.parametrize("source", ["events", "poll"])
def test_the_rights_of_the_page_are_enough(source, limited, redis_client, wait_until):
    run = payload("BUS-2", trip_id=None, direction_id=0, start_time="07:00:00")
    redis_client.mset({f"route_stops:{ROUTE}": stops_blob(), "vehicle:BUS-1": payload("BUS-1"), "vehicle:BUS-2": run})
    redis_client.hset("vehicle:BUS-1:position", "lat", "1")
    runtime, stop = Runtime(replace(limited, snapshot_source=source)), threading.Event()
    thread = threading.Thread(target=runtime.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: redis_client.exists("predictions:BUS-1", "predictions:BUS-2") == 2)
        if source == "poll":  # then stored predictions are looked for at each interval
            wait_until(lambda: runtime.summary.counts[Status.UNCHANGED])
        has_feed = CLIENT_NAME in {entry["name"] for entry in redis_client.client_list()}
    finally:
        stop.set()
        thread.join(30)
        runtime.close()
    assert has_feed is (source == "events")
    assert runtime.summary.counts[Status.WRONG_TYPE] >= 1


def test_they_are_enough_to_explain_a_vehicle(limited, redis_client):
    redis_client.mset({f"route_stops:{ROUTE}": stops_blob(), "vehicle:BUS-1": payload("BUS-1")})
    redis_client.set("vehicle:BUS-2", payload("BUS-2", route="nowhere"))
    redis_client.hset("vehicle:BUS-3", "lat", "1")
    Runtime(limited).poll()
    found = {name: explain_key(limited, name) for name in ("BUS-1", "BUS-2", "BUS-3", "BUS-4")}
    assert {name: explanation.status for name, explanation in found.items()} == {
        "BUS-1": "unchanged",
        "BUS-2": "unknown_route",
        "BUS-3": "wrong_type",
        "BUS-4": "expired",
    }
    assert found["BUS-1"].stored is not None
    assert found["BUS-1"].stored.found
