"""Which announcements are taken over, which are refused, and when they are tried again."""

from __future__ import annotations

import json

import pytest

from etacore.config import RuntimeConfig
from etacore.errors import RedisUnavailableError
from etacore.loop import model_switch as module
from etacore.loop.model_switch import RETRY_PROMOTION_S, ModelSwitch
from etacore.models.registry import Registry
from tests import models


class Store:
    announcement = None
    n_asked = 0

    def active_model(self):
        self.n_asked += 1
        if isinstance(self.announcement, Exception):
            raise self.announcement
        return self.announcement


class Engine:
    models = None


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1_000.0

    monkeypatch.setattr(module, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path)
    models.add_table(registry, "first", metrics={"test_mae_seconds": 1.0})
    models.add_table(registry, "second", metrics={"test_mae_seconds": 2.0})
    return registry


class Bench:
    """The switch with an engine of no consequence."""

    def __init__(self, registry, **changes):
        self.refusals = []
        self.store, self.engine = Store(), Engine()
        config = RuntimeConfig(model_registry_dir=registry.path, **changes)
        self.switch = ModelSwitch(config, self.store, lambda key, why: self.refusals.append(key))
        self.engine.models = self.switch.initial()

    def announce(self, key):
        self.store.announcement = json.dumps({"model_key": key}).encode()

    @property
    def serving(self):
        return self.engine.models.default.key

    def look(self):
        self.switch.look(self.engine)
        return self.serving


def test_an_announcement_is_taken_over_once(registry, clock, monkeypatch):
    bench = Bench(registry)
    assert bench.look() == "first"
    bench.announce("second")
    assert bench.look() == "second"
    monkeypatch.setattr(Registry, "load", None)
    assert bench.look() == "second"
    assert not bench.switch.is_due


def test_a_refused_one_is_tried_again_in_time_and_told_once(registry, clock):
    bench = Bench(registry)
    bench.announce("late")
    assert bench.look() == "first"
    assert bench.refusals == ["late"]
    models.add_table(registry, "late", metrics={"test_mae_seconds": 3.0})
    assert bench.look() == "first"
    assert not bench.switch.is_due
    clock.now += RETRY_PROMOTION_S
    assert bench.switch.is_due
    assert bench.look() == "late"
    assert not bench.switch.is_due
    assert bench.refusals == ["late"]


def test_one_that_stays_wrong_is_told_once(registry, clock):
    bench = Bench(registry)
    bench.store.announcement = b"{"
    for _ in range(4):
        assert bench.look() == "first"
        clock.now += RETRY_PROMOTION_S
    assert bench.refusals == ["?"]
    bench.announce("second")
    assert bench.look() == "second"


@pytest.mark.parametrize("then", [None, "second"])
def test_a_refused_announcement_that_is_taken_back_is_no_longer_due(then, registry, clock):
    bench = Bench(registry)
    bench.announce("second")
    bench.look()
    bench.announce("absent")
    bench.look()
    clock.now += RETRY_PROMOTION_S
    assert bench.switch.is_due
    bench.store.announcement = None
    if then:
        bench.announce(then)
    bench.look()
    clock.now += RETRY_PROMOTION_S
    assert not bench.switch.is_due


def test_with_a_model_of_its_own_nobody_asks(registry, clock):
    bench = Bench(registry, model_key="second")
    bench.announce("first")
    assert bench.look() == "second"
    assert bench.store.n_asked == 0


def test_an_outage_is_told(registry, clock):
    bench = Bench(registry)
    bench.store.announcement = RedisUnavailableError("gone")
    with pytest.raises(RedisUnavailableError):
        bench.look()
    bench.announce("second")
    assert bench.look() == "second"


def test_of_several_requests_the_last_one_counts(registry, clock):
    bench = Bench(registry)
    bench.switch.serve_request(bench.engine)
    for key in ("absent", "first", "second"):
        bench.switch.request(key)
    bench.switch.serve_request(bench.engine)
    assert bench.serving == "second"
    bench.switch.request("absent")
    bench.switch.serve_request(bench.engine)
    assert bench.serving == "second"
    assert bench.refusals == ["absent"]
