"""The loop with chunks in which good, rejected, unchanged and failed vehicles stand in any order."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hiredis
import orjson
import pytest

from etacore._kernels.batch import Batch
from etacore.config import RuntimeConfig
from etacore.loop.runtime import Runtime, _share_vehicles
from etacore.loop.schedule import Polling
from etacore.status import Status
from etacore.store.server import RedisServer
from tests.fleet import payload
from tests.mixed_fleet import EXPECTED, KINDS, ROUTE_STOPS, START_S, fix, mixture
from tests.reference.encoding import set_command

IN_REDIS = EXPECTED | {"a hash": Status.WRONG_TYPE, "older": Status.OK, "no numbers": Status.OK}
"""What becomes of a kind at first, if not OK: no model of this registry gives no numbers, and nothing is older yet."""
ASIDE = {Status.WRONG_TYPE, Status.TOO_LARGE}


class Ordered(Polling):
    """All keys in an order of the test's own; remembers what it was told."""

    def __init__(self, config: RuntimeConfig, keys: Sequence[bytes]) -> None:
        super().__init__(config, None)  # type: ignore[arg-type]
        self.keys = list(keys)
        self.gone: list[bytes] = []
        self.later: list[bytes] = []

    def take(self) -> list[bytes]:
        self.gone, self.later = [], []
        return list(self.keys)

    def is_gone(self, keys: Sequence[bytes]) -> None:
        self.gone += keys

    def put_off(self, keys: Sequence[bytes]) -> None:
        self.later += keys


class Fleet:
    """Vehicles of all kinds in Redis, and a loop that serves them."""

    def __init__(self, client: Any, config: RuntimeConfig, patch: pytest.MonkeyPatch, seed: int) -> None:
        self.client = client
        self.kinds = mixture(2 * len(KINDS), seed)
        for at in (0, 7, 8, 20):
            self.kinds.insert(at, "a hash")
        self.kinds = ["not json", "absent", *self.kinds]
        self.keys = [f"vehicle:BUS-{i}".encode() for i in range(len(self.kinds))]
        for i, (key, kind) in enumerate(zip(self.keys, self.kinds, strict=True)):
            if kind == "a hash":
                client.hset(key, "lat", "9.9")
            elif value := fix(i, kind, 0):
                client.set(key, value)
        self.now_s = START_S
        self.runtime = Runtime(config, clock=lambda: self.now_s * 1_000_000)
        self.source = Ordered(config, self.keys)
        patch.setattr(self.runtime, "_polling", self.source)
        self.refused: set[str] = set()
        self._refuse(patch)

    def _refuse(self, patch: pytest.MonkeyPatch) -> None:
        """Let Redis answer with an error to documents of the vehicles in `refused`: their time to live is 0."""
        store = self.runtime._store
        begin = store.begin_write

        def begin_write(commands: memoryview, n_commands: int) -> None:
            reader = hiredis.Reader()
            reader.feed(bytes(commands))
            sent = [reader.gets() for _ in range(n_commands)]
            refused = [f"predictions:{name}".encode() for name in self.refused]
            text = b"".join(set_command(c[1], c[2], 0 if c[1] in refused else int(c[4])) for c in sent)
            begin(memoryview(text), n_commands)

        patch.setattr(store, "begin_write", begin_write)

    def poll(self) -> Counter[Status]:
        return self.runtime.poll().counts

    def named(self, *kinds: str) -> list[str]:
        return [f"BUS-{i}" for i, kind in enumerate(self.kinds) if kind in kinds]

    def expected(self, **changes: Status) -> Counter[Status]:
        """Statuses of all vehicles at the first poll, those given by kind or name being another one."""
        return Counter(
            changes.get(f"BUS-{i}", changes.get(kind, IN_REDIS.get(kind, Status.OK)))
            for i, kind in enumerate(self.kinds)
        )

    def good(self) -> list[str]:
        return [f"BUS-{i}" for i, kind in enumerate(self.kinds) if IN_REDIS.get(kind, Status.OK) == Status.OK]

    def stored(self) -> dict[str, dict[str, Any]]:
        """Documents by vehicle."""
        found = {}
        for key in self.client.keys("predictions:*"):
            document = orjson.loads(self.client.get(key))
            assert key == f"predictions:{document['vehicle_id']}".encode()
            found[document["vehicle_id"]] = document
        return found

    def aside(self) -> list[bytes]:
        return [k for k, kind in zip(self.keys, self.kinds, strict=True) if IN_REDIS.get(kind) in ASIDE]


def keys_of(names: Sequence[str]) -> list[bytes]:
    return [f"vehicle:{name}".encode() for name in names]


@pytest.fixture
def config(redis_server: RedisServer, redis_client: Any, registry_dir: Path, route_model_key: str) -> RuntimeConfig:
    redis_client.mset(ROUTE_STOPS)
    redis_client.set("eta:active_model", orjson.dumps({"model_key": route_model_key}))
    return RuntimeConfig(redis_url=redis_server.url, model_registry_dir=registry_dir, route_refresh_seconds=0)


@pytest.fixture(params=[(1, 1), (5, 2), (16, 3), (1_000, 4)], ids=str)
def fleet(
    request: pytest.FixtureRequest, config: RuntimeConfig, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    chunk_size, seed = request.param
    fleet = Fleet(redis_client, dataclasses.replace(config, chunk_size=chunk_size), monkeypatch, seed)
    yield fleet
    fleet.runtime.close()


def test_everybody_gets_the_own_document(fleet: Fleet, route_model_key: str) -> None:
    assert fleet.poll() == fleet.expected()
    stored = fleet.stored()
    assert sorted(stored) == sorted(fleet.good())
    for name, document in stored.items():
        kind = fleet.kinds[int(name[4:])]
        sent = orjson.loads(fleet.client.get(f"vehicle:{name}"))
        assert document["redis_key"] == f"vehicle:{name}"
        assert document["trip_id"] == sent["trip_id"]
        assert document["route_id"] == sent["route"]
        assert document["source_timestamp"] == sent["timestamp"]
        assert (document["model_key"] == route_model_key) == (kind in ("other", "still other"))
    assert fleet.source.gone == keys_of(fleet.named("absent"))
    assert fleet.source.later == []
    assert {m: s.count for m, s in fleet.runtime.profiler.snapshot().items()} == {
        "redis_fetch": len(fleet.keys),
        "eta_inference": len(stored),
        "redis_write": len(stored),
        "pipeline_latency": len(stored),
    }


def test_a_document_that_is_refused_is_that_vehicles_and_comes_next_time(fleet: Fleet) -> None:
    fleet.refused = set(fleet.named("not written", "not written b"))
    assert len(fleet.refused) == 4
    assert fleet.poll() == fleet.expected(**dict.fromkeys(fleet.refused, Status.WRITE_FAILED))
    assert sorted(fleet.stored()) == sorted(set(fleet.good()) - fleet.refused)
    assert sorted(fleet.source.later) == sorted(keys_of(list(fleet.refused)))
    assert fleet.runtime.profiler.snapshot()["redis_write"].count == len(fleet.stored())
    again, fleet.refused = fleet.refused, set()
    unchanged = dict.fromkeys(fleet.good(), Status.UNCHANGED)
    assert fleet.poll() == fleet.expected(**unchanged | dict.fromkeys(again, Status.OK))
    assert sorted(fleet.stored()) == sorted(fleet.good())
    assert fleet.source.later == fleet.aside()
    assert fleet.poll() == fleet.expected(**unchanged)


def test_a_prediction_that_is_gone_is_that_vehicles_and_made_again(fleet: Fleet) -> None:
    fleet.poll()
    lost = fleet.named("still b", "unmodelled")
    fleet.client.delete(*(f"predictions:{name}" for name in lost))
    unchanged = dict.fromkeys(fleet.good(), Status.UNCHANGED)
    assert fleet.poll() == fleet.expected(**unchanged)
    assert fleet.source.later == fleet.aside() + keys_of(lost)
    assert fleet.poll() == fleet.expected(**unchanged | dict.fromkeys(lost, Status.OK))
    assert fleet.source.later == fleet.aside()
    assert sorted(fleet.stored()) == sorted(fleet.good())


def test_keys_that_hold_no_snapshot_are_set_aside_and_no_others(fleet: Fleet) -> None:
    fleet.poll()
    assert sorted(fleet.runtime._aside._until) == sorted(fleet.aside())
    assert {k: reason for k, (reason, _) in fleet.runtime._aside._until.items()} == {
        key: IN_REDIS[kind] for key, kind in zip(fleet.keys, fleet.kinds, strict=True) if IN_REDIS.get(kind) in ASIDE
    }
    come = fleet.named("absent")[-1]
    fleet.client.set(f"vehicle:{come}", payload(come, route="a", timestamp=START_S))
    unchanged = dict.fromkeys(fleet.good(), Status.UNCHANGED)
    assert fleet.poll() == fleet.expected(**unchanged | {come: Status.OK})
    assert fleet.source.gone == keys_of(fleet.named("absent")[:-1])


def test_a_new_process_takes_over_what_is_stored_of_each(
    fleet: Fleet, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.poll()
    lost = fleet.named("b", "still")
    redis_client.delete(*(f"predictions:{name}" for name in lost))
    late = fleet.named("other", "unmodelled")
    for name in late:
        redis_client.set(f"predictions:{name}", orjson.dumps({"source_timestamp": START_S + 1}))
    second = Runtime(fleet.runtime.config, clock=lambda: START_S * 1_000_000)
    monkeypatch.setattr(second, "_polling", fleet.source)
    found = second.poll().counts
    second.close()
    changes = dict.fromkeys(fleet.good(), Status.UNCHANGED) | dict.fromkeys(lost, Status.OK)
    assert found == fleet.expected(**changes | dict.fromkeys(late, Status.OUT_OF_ORDER))
    assert set(lost) <= {key.decode().partition(":")[2] for key in redis_client.keys("predictions:*")}


def test_a_vehicle_in_two_chunks_moves_forward_only(
    config: RuntimeConfig, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(name: str, second: int) -> bytes:
        return payload(name, route="a", timestamp=START_S - 60 + second)

    fixes = [
        b"{",
        at("ONE", 9),
        at("TWO", 5),
        b"{",
        b"{",
        at("THREE", 5),
        at("ONE", 4),
        at("TWO", 8),
        b"{",
        at("FOUR", 1),
    ]
    keys = [b"vehicle:%d" % i for i in range(len(fixes))]
    redis_client.mset(dict(zip(keys, fixes, strict=True)))
    config = dataclasses.replace(config, chunk_size=4)
    runtime = Runtime(config, clock=lambda: START_S * 1_000_000)
    monkeypatch.setattr(runtime, "_polling", Ordered(config, keys))
    computed: list[int] = []
    predict = runtime.predict_for_snapshots

    def counted(chunk: Sequence[bytes], *arguments: Any) -> Any:
        computed.append(len(chunk))
        return predict(chunk, *arguments)

    monkeypatch.setattr(runtime, "predict_for_snapshots", counted)
    assert runtime.poll().counts == {Status.INVALID_JSON: 4, Status.OK: 5, Status.OUT_OF_ORDER: 1}
    times = {
        name: orjson.loads(redis_client.get(f"predictions:{name}") or b"")["source_timestamp"] - START_S + 60
        for name in ("ONE", "TWO", "THREE", "FOUR")
    }
    assert times == {"ONE": 9, "TWO": 8, "THREE": 5, "FOUR": 1}
    assert computed == [4, 4, 4, 2]  # the second chunk twice; rows without a vehicle have none in common
    runtime.close()


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ([], [], False),
        ([0], [], False),
        ([-1, -1], [-1], False),
        ([-1, 0, -1, 2], [-1, 1, 3], False),
        ([-1, 0, -1, 2], [-1, 3, 2], True),
        ([4], [-1, -1, 4], True),
        ([-1, 0], [0, -1], True),
    ],
)
def test_vehicles_in_two_batches(one: list[int], other: list[int], shared: bool) -> None:
    def batch(numbers: list[int]) -> Batch:
        # What stands behind the rows in use is of a batch before.
        made = Batch(len(numbers) + 5)
        made.n = made.capacity
        made.vehicle_ix[:] = [*numbers, 0, 1, 2, 3, 4]
        made.n = len(numbers)
        return made

    assert _share_vehicles(batch(one), batch(other), 5) is shared
