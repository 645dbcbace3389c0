"""Promotion against a real Redis and a running loop, and the command that makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest
import redis

from etacore.config import RuntimeConfig
from etacore.errors import RedisUnavailableError
from etacore.loop.runtime import PollResult, Runtime, Silent
from etacore.mlops.promotion.evidence import BASELINE
from etacore.mlops.promotion.history import read_history
from etacore.mlops.promotion.promote import PromotionConfig, promote, rollback
from etacore.models.registry import Registry
from etacore.models.short_ids import short_ids
from etacore.status import Status
from etacore.store.server import RedisServer
from etacore.store.store import RedisStore
from tests import models
from tests.fleet import ROUTE, iso, payload, stops_blob

BECAUSE = PromotionConfig(force_reason="a test")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Three models that tell themselves apart by what they predict."""
    registry = Registry(tmp_path / "registry")
    for number, key in enumerate(("first", "second", "third"), 1):
        models.add_table(registry, key, seconds=100.0 * number, metrics={"test_mae_seconds": 10.0 * number})
    return registry


@pytest.fixture
def config(redis_server: RedisServer, redis_client: redis.Redis, registry: Registry) -> RuntimeConfig:
    redis_client.set(f"route_stops:{ROUTE}", stops_blob())
    return RuntimeConfig(
        redis_url=redis_server.url, model_registry_dir=registry.path, poll_interval_seconds=0.005, max_age_seconds=0
    )


@pytest.fixture
def store(config: RuntimeConfig) -> Iterator[RedisStore]:
    with RedisStore(config) as store:
        yield store


class Polls(Silent):
    """Keeps what every poll did."""

    def __init__(self) -> None:
        self.results: list[PollResult] = []
        self.refusals: list[str] = []

    def on_poll(self, result: PollResult) -> None:
        self.results.append(result)

    def on_refusal(self, model_key: str, message: str) -> None:
        self.refusals.append(model_key)


class Loop:
    """A loop on a thread of its own, and a producer that moves a bus on at every step."""

    def __init__(self, config: RuntimeConfig, client: redis.Redis) -> None:
        self.polls = Polls()
        self.runtime = Runtime(config, observer=self.polls)
        self.client = client
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.runtime.run, args=(self.stop,))
        self.n_sent = 0

    def __enter__(self) -> Loop:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(10)
        self.runtime.close()

    def drive(self, wait_until: Callable[..., None]) -> dict[str, Any]:
        """Send a new snapshot and wait for its prediction."""
        self.n_sent += 1
        time = iso(-1000 + self.n_sent)
        self.client.set("vehicle:BUS-1", payload(timestamp=time))
        found: dict[str, Any] = {}

        def predicted() -> bool:
            found.update(json.loads(self.client.get("predictions:BUS-1") or b"{}"))
            return found.get("source_timestamp") == time

        wait_until(predicted)
        return found

    def served(self, wait_until: Callable[..., None], key: str) -> dict[str, Any]:
        """Drive on until the loop serves this model; every snapshot on the way is predicted."""
        for _ in range(200):
            document = self.drive(wait_until)
            if document["model_key"] == key:
                return document
        pytest.fail(f"the loop does not serve {key}")


@pytest.mark.parametrize("source", ["poll", "events"])
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_running_loop_takes_over_a_promoted_model_and_gives_it_back(
    source: str,
    config: RuntimeConfig,
    redis_client: redis.Redis,
    registry: Registry,
    store: RedisStore,
    wait_until: Any,
) -> None:
    promote(registry, "first", store, BECAUSE)
    with Loop(replace(config, snapshot_source=source), redis_client) as loop:
        assert loop.drive(wait_until)["model_key"] == "first"
        promote(registry, "second", store, BECAUSE)
        document = loop.served(wait_until, "second")
        assert [stop["eta_seconds"] for stop in document["predictions"]] == [200.0] * 5
        promote(registry, "third", store, BECAUSE)
        loop.served(wait_until, "third")
        assert rollback(registry, store).record.model_key == "second"
        loop.served(wait_until, "second")
        assert rollback(registry, store).record.model_key == "first"
        document = loop.served(wait_until, "first")
        assert [stop["eta_seconds"] for stop in document["predictions"]] == [100.0] * 5
    counts = sum((result.counts for result in loop.polls.results), start=type(loop.runtime.summary.counts)())
    # From its first snapshot on not one poll went without the bus, not one snapshot without a prediction, and none was
    # made twice.
    if source == "poll":
        assert all(result.counts.total() == 1 for result in dropwhile(lambda one: not one.counts, loop.polls.results))
    assert counts[Status.OK] == loop.n_sent
    assert set(counts) <= {Status.OK, Status.UNCHANGED}
    assert loop.runtime.summary.n_polls == len(loop.polls.results)
    assert loop.runtime.summary.n_outages == 0
    assert loop.polls.refusals == []
    assert [record.source for record in read_history(registry)] == ["cli", "cli", "cli", "rollback", "rollback"]


def test_an_archived_model_goes_on_being_served_until_the_next_promotion(
    config: RuntimeConfig, redis_client: redis.Redis, registry: Registry, store: RedisStore, wait_until: Any
) -> None:
    promote(registry, "second", store, BECAUSE)
    with Loop(config, redis_client) as loop:
        loop.served(wait_until, "second")
        registry.archive(["second"])
        for _ in range(5):
            assert loop.drive(wait_until)["model_key"] == "second"
        promote(registry, "third", store, BECAUSE)
        loop.served(wait_until, "third")
    assert loop.polls.refusals == []


def test_the_announcement_has_no_end_and_a_new_loop_serves_it(
    config: RuntimeConfig, redis_client: redis.Redis, registry: Registry, store: RedisStore
) -> None:
    promote(registry, "third", store, BECAUSE)
    assert redis_client.ttl("eta:active_model") == -1
    assert json.loads(redis_client.get("eta:active_model") or b"") == {
        "model_key": "third",
        "promoted_at": read_history(registry)[-1].promoted_at,
        "source": "cli",
    }
    runtime = Runtime(config)
    assert runtime.engine.models.all()[0].key == "third"
    runtime.close()
    store.announce_model(None)
    assert not redis_client.exists("eta:active_model")


def test_without_redis_nothing_is_changed(registry: Registry) -> None:
    nowhere = RuntimeConfig(redis_url="redis://127.0.0.1:1/0", model_registry_dir=registry.path)
    blocks: list[str | None] = []

    def note(key: str | None) -> None:
        blocks.append(key)

    with RedisStore(nowhere) as store:
        for call in (
            lambda: promote(registry, "first", store, BECAUSE, update_block=note),
            lambda: rollback(registry, store, update_block=note),
        ):
            with pytest.raises(RedisUnavailableError):
                call()
    assert blocks == []
    assert read_history(registry) == []


def etacore(registry: Registry, server: RedisServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "etacore", *arguments],
        env=os.environ | {"MODEL_REGISTRY_DIR": str(registry.path), "REDIS_URL": server.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def write_evaluation(registry: Registry, active: str, candidate: str, difference_s: float) -> None:
    versus = {"difference_s": difference_s, "low_s": difference_s - 2, "high_s": difference_s + 2}
    versus |= {"value": 100.0 + difference_s, "reference_value": 100.0}
    record = {"eligible": True, "reason": None, "n": 9, "vs_active": None}
    document = {
        "format": 1,
        "created_at": "2026-01-01T00:00:00+00:00",
        "dataset": "d",
        "metric": "test_mae_seconds",
        "minimize": True,
        "active_model": active,
        "models": {
            active: record | {"manifest_sha256": registry.manifest_sha256(active), "metrics": {"mae_seconds": 100.0}},
            candidate: record
            | {
                "manifest_sha256": registry.manifest_sha256(candidate),
                "metrics": {"mae_seconds": 100.0 + difference_s},
                "vs_active": versus,
            },
        },
        "baselines": {BASELINE: {"n": 9, "metrics": {"mae_seconds": 150.0}}},
    }
    (registry.path / "evaluations").mkdir(exist_ok=True)
    (registry.path / "evaluations" / "20260101_000000_d.json").write_text(json.dumps(document))


def test_the_command(redis_server: RedisServer, redis_client: redis.Redis, registry: Registry) -> None:
    done = etacore(registry, redis_server, "promote", "first", "--force", "the first one")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing was promoted" in done.stdout
    assert "the first one" in done.stdout
    write_evaluation(registry, "first", "second", -3.0)
    done = etacore(registry, redis_server, "promote", "second")
    assert done.returncode == 2
    assert "second does not beat the active model by 5.0%: mae_seconds 97 against 100 of first" in done.stderr
    assert "Traceback" not in done.stderr
    done = etacore(registry, redis_server, "promote", "second", "--improvement-threshold", "0.02", "--no-warm")
    assert done.returncode == 0, done.stderr
    for piece in ("first", "second", "-3 s [-5, -1], 3.0% better", "20260101_000000_d.json"):
        assert piece in done.stdout
    assert "warmed" not in done.stdout
    assert json.loads(redis_client.get("eta:active_model") or b"")["model_key"] == "second"
    listed = json.loads(etacore(registry, redis_server, "registry", "list", "--json").stdout)
    assert {row["key"]: row["state"] for row in listed} == {
        "first": "servable",
        "second": "active",
        "third": "servable",
    }
    done = etacore(registry, redis_server, "registry", "archive", "second", "third")
    assert done.returncode == 0, done.stderr
    assert (registry.keys(), registry.archived()) == (["first", "second"], ["third"])
    done = etacore(registry, redis_server, "promote", "--rollback")
    assert done.returncode == 0, done.stderr
    assert json.loads(redis_client.get("eta:active_model") or b"")["model_key"] == "first"
    done = etacore(registry, redis_server, "promote", "--rollback")
    assert done.returncode == 2
    assert "no earlier model to go back to" in done.stderr


def test_best_is_what_the_newest_evaluation_recommends(
    redis_server: RedisServer, redis_client: redis.Redis, registry: Registry
) -> None:
    done = etacore(registry, redis_server, "promote", "best")
    assert done.returncode == 2
    assert "holds no evaluation" in done.stderr
    promote_first = etacore(registry, redis_server, "promote", short_ids(["first"])["first"], "--force", "begin")
    assert promote_first.returncode == 0, promote_first.stderr
    write_evaluation(registry, "first", "second", -30.0)
    path = registry.path / "evaluations" / "20260101_000000_d.json"
    document = json.loads(path.read_text())
    for recommended, said in ((None, "recommends no model: none is better"), ("gone", "recommends gone, which is no")):
        path.write_text(json.dumps(document | {"recommended": recommended, "recommendation": "none is better"}))
        done = etacore(registry, redis_server, "promote", "best")
        assert done.returncode == 2
        assert said in done.stderr
    path.write_text(json.dumps(document | {"recommended": "third"}))
    registry.archive(["third"])
    assert "recommends third, which is archived" in etacore(registry, redis_server, "promote", "best").stderr
    path.write_text(json.dumps(document | {"recommended": "second"}))
    older = path.with_name("20250101_000000_d.json")
    older.write_text(json.dumps(document | {"recommended": "first"}))
    done = etacore(registry, redis_server, "promote", "best")
    assert done.returncode == 0, done.stderr
    assert json.loads(redis_client.get("eta:active_model") or b"")["model_key"] == "second"


@pytest.mark.parametrize(
    "arguments", [[], ["first", "--rollback"], ["first", "--improvement-threshold", "2"], ["first", "--force", " "]]
)
def test_wrong_arguments(redis_server: RedisServer, registry: Registry, arguments: list[str]) -> None:
    done = etacore(registry, redis_server, "promote", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr
