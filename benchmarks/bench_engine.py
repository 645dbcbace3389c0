"""Payload bytes to document bytes, five stops a vehicle, by size of the fleet: warm, cold, and stage by stage.

Warm: the fleet has been served before, and every vehicle reports again. Cold: an engine that knows no vehicle and no
route serves the fleet once; its routes are parsed on the way. The model is in memory both times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import xgboost

from benchmarks.fleet import MAX_STOPS, make_fleet
from benchmarks.measuring import OURS, alternate, differences, report_rounds
from benchmarks.serving import Stopwatch, TimedModel, WarmEngine, WarmPeer, facts, without_inference
from etacore.models.model import Model

FLEETS = [1, 10, 100, 1_000, 10_000, 100_000]
PEER = "tuned Python"
LARGE = 100_000
"""Fewer rounds: it is many chunks, and the peer takes seconds."""
COMPARED = 20_000


def check(ours: list[bytes], theirs: list[bytes], n: int) -> None:
    """The same documents; up to one number in a thousand may have been rounded to the other side of an edge."""
    assert len(ours) == len(theirs) == n
    every = max(n // COMPARED, 1)
    n_stops, n_edges = differences(ours[::every], theirs[::every])
    assert n_stops == MAX_STOPS * len(ours[::every])
    assert n_edges <= n_stops // 1_000 + 1


@pytest.mark.parametrize("n", FLEETS)
def bench_engine(benchmark: Any, model: Model, booster: xgboost.Booster, n: int) -> None:
    fleet = make_fleet(n, tick=1)
    warm, peer = WarmEngine(model, make_fleet(n)), WarmPeer(booster, facts(model), fleet)
    results = alternate(
        benchmark,
        "engine",
        {OURS: lambda: warm.process(fleet), PEER: lambda: peer.documents(fleet)},
        size=n,
        min_rounds=3 if n == LARGE else 7,
        every={PEER: 2 if n == LARGE else 1},
        warm_up=n < LARGE,
    )
    assert results[OURS] == n
    check(warm.documents(fleet), results[PEER], n)


@pytest.mark.parametrize("n", FLEETS)
def bench_engine_cold(benchmark: Any, model: Model, booster: xgboost.Booster, n: int) -> None:
    fleet, names = make_fleet(n, tick=1).with_own_routes(), facts(model)
    results = alternate(
        benchmark,
        "engine, cold",
        {OURS: lambda: WarmEngine(model, fleet), PEER: lambda: WarmPeer(booster, names, fleet).documents(fleet)},
        size=n,
        for_s=0.5,
        min_rounds=3,
        every={PEER: 2 if n == LARGE else 1},
        warm_up=n < LARGE,
    )
    assert results[OURS].engine.fleet.n == n
    check(WarmEngine(model, fleet.parked()).documents(fleet), results[PEER], n)


@pytest.mark.parametrize("n", FLEETS)
@pytest.mark.parametrize("state", ["warm", "cold"])
def bench_stages(benchmark: Any, model: Model, booster: xgboost.Booster, n: int, state: str) -> None:
    """The same work with a watch around every stage."""
    fleet, names = make_fleet(n, tick=1).with_own_routes(), facts(model)
    ours, theirs = Stopwatch(), Stopwatch()
    timed = TimedModel(model, ours)
    warm = WarmEngine(timed, make_fleet(n), watch=ours)
    peer = WarmPeer(booster, names, fleet, watch=theirs)
    calls: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "warm": (lambda: warm.process(fleet), lambda: peer.documents(fleet)),
        "cold": (
            lambda: WarmEngine(timed, fleet, watch=ours),
            lambda: WarmPeer(booster, names, fleet, watch=theirs).documents(fleet),
        ),
    }
    samples: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    n_calls = max(20 // n, 1)

    sides = list(zip((OURS, PEER), (ours, theirs), calls[state], strict=True))[: 1 if n == LARGE else 2]

    def one_round() -> None:
        for side, watch, call in sides:
            watch.seconds.clear()
            for _ in range(n_calls):
                call()
            for stage, took_s in watch.seconds.items():
                samples[stage, side].append(took_s / n_calls)

    if n < LARGE:
        one_round()
        samples.clear()
    benchmark.pedantic(one_round, rounds=max(3, min(41, 50_000 // n)))
    for (stage, side), taken in samples.items():
        name = f"stage: {stage}" if state == "warm" else f"stage, cold: {stage}"
        report_rounds(benchmark, name, side, taken, size=n)


def bench_engine_without_inference(benchmark: Any, model: Model, booster: xgboost.Booster) -> None:
    n = 10_000
    fleet, instant = make_fleet(n, tick=1), without_inference(model)
    warm, peer = WarmEngine(instant, make_fleet(n)), WarmPeer(booster, facts(model), fleet)
    peer.pipeline.predict = lambda X: X[:, 0] * 0 + 60  # type: ignore[method-assign]
    sides = {OURS: lambda: warm.process(fleet), PEER: lambda: peer.documents(fleet)}
    results = alternate(benchmark, "engine without inference", sides, size=n)
    n_stops, n_edges = differences(warm.documents(fleet), results[PEER])
    assert (n_stops, n_edges) == (MAX_STOPS * n, 0)
