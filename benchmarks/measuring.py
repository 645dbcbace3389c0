"""What the benchmarks say about themselves, for the report, and how documents are compared."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from time import perf_counter
from typing import Any, Final, Literal

import orjson

OURS: Final = "etacore"
Unit = Literal["us/vehicle", "us/row", "us/call", "s", "ms", "MB", "%"]
EDGE: Final = {"eta_seconds": 0.1, "eta_minutes": 0.01, "distance_to_stop_m": 0.1}
"""One unit in the last place of each rounded field: float32 sums may fall on either side of a rounding edge."""
SAMPLE_S: Final = 1e-3
"""Calls that are shorter are timed many at a time: long enough that caches, which the side before has filled with its
own things, do not count; short enough that most samples fit between two moments at which the scheduler gives the CPU
to somebody else."""
SLOW_S: Final = 0.1
"""Such a call is not made a second time to get warm."""

Call = Callable[[], Any]


def describe(benchmark: Any, stage: str, side: str, *, size: int = 1, unit: Unit = "us/vehicle") -> None:
    """Name what is measured: `side` does the work of `stage` on `size` units; the report divides by `size`."""
    benchmark.group = f"{stage} {size}"
    benchmark.extra_info.update(stage=stage, side=side, size=size, unit=unit)


def report_value(benchmark: Any, value: float) -> None:
    """Report this number instead of the measured time."""
    benchmark.extra_info["value"] = value


def report_rounds(
    benchmark: Any,
    stage: str,
    side: str,
    seconds: Sequence[float | None],
    *,
    size: int = 1,
    unit: Unit = "us/vehicle",
) -> None:
    """Report times that were taken within the rounds of a benchmark, round by round; None where it was left out."""
    values = [None if took_s is None else float(f"{took_s / size * 1e6:.5g}") for took_s in seconds]
    figure = {"stage": stage, "side": side, "size": size, "unit": unit, "rounds": values}
    benchmark.extra_info.setdefault("figures", []).append(figure)


def alternate(
    benchmark: Any,
    stage: str,
    sides: Mapping[str, Call],
    *,
    size: int = 1,
    unit: Unit = "us/vehicle",
    before: Mapping[str, Call] | None = None,
    every: Mapping[str, int] | None = None,
    for_s: float = 1.0,
    min_rounds: int = 7,
    max_rounds: int = 301,
    warm_up: bool = True,
) -> dict[str, Any]:
    """Measure several ways to do the same work, in turns: a noisy neighbour then hits all of them.

    Every round takes one sample of each side, beginning with another side each time. The report compares samples of
    the same round, and takes the median over the rounds.

    Parameters
    ----------
    benchmark : BenchmarkFixture
    stage : str
        The work.
    sides : mapping
        Name to call; `OURS` and its peers.
    size : int
        Units of work in a call, by which times are divided.
    unit : str
        Of the figure.
    before : mapping, optional
        Name to what has to happen before each call of that side, not timed. Such a call is a sample of its own.
    every : mapping, optional
        Name to how many rounds there are to one in which a slow side takes part.
    for_s : float
        Time for all rounds, as far as their least and greatest number allow.
    min_rounds, max_rounds : int
    warm_up : bool
        Call each side before, until it runs for as long as a sample does. Without it every call is a sample.

    Returns
    -------
    dict
        Name to the result of the side's last call.
    """
    before, every = before or {}, every or {}
    names = list(sides)
    results: dict[str, Any] = {}
    n_calls = dict.fromkeys(names, 1)
    round_s = 0.0

    def sample(name: str) -> float:
        if name in before:
            before[name]()
        call, n = sides[name], n_calls[name]
        began = perf_counter()
        for _ in repeat(None, n - 1):
            call()
        results[name] = call()
        return (perf_counter() - began) / n

    if warm_up:
        for name in names:
            began = perf_counter()
            took_s = sample(name)
            if took_s < SLOW_S:
                # What is loaded at the first call says nothing of the others.
                began = perf_counter()
                took_s = sample(name)
            while took_s * n_calls[name] < SAMPLE_S and name not in before:
                n_calls[name] *= 2
                began = perf_counter()
                took_s = sample(name)
            round_s += (perf_counter() - began) / every.get(name, 1)
    rounds = min(max(int(for_s / round_s) if round_s else min_rounds, min_rounds), max_rounds)
    samples: dict[str, list[float | None]] = {name: [] for name in names}

    def one_round() -> None:
        n = len(samples[names[0]])
        for name in names[n % len(names) :] + names[: n % len(names)]:
            samples[name].append(None if n % every.get(name, 1) else sample(name))

    # Whatever else this process has loaded is not looked through again by each collection: a peer makes many objects.
    gc.collect()
    gc.freeze()
    try:
        benchmark.group = f"{stage} {size}"
        benchmark.pedantic(one_round, rounds=rounds)
    finally:
        gc.unfreeze()
    for name in names:
        report_rounds(benchmark, stage, name, samples[name], size=size, unit=unit)
    return results


def differences(ours: Sequence[bytes], theirs: Sequence[bytes]) -> tuple[int, int]:
    """Compare documents; the latency they carry is left out.

    Returns
    -------
    n_fields : int
        Predicted stops compared.
    n_edges : int
        Stops in which a rounded number differs by one unit in the last place.

    Raises
    ------
    AssertionError
        If documents differ by more.
    """
    assert len(ours) == len(theirs)
    n_stops = n_edges = 0
    for mine, other in zip(map(_document, ours), map(_document, theirs), strict=True):
        assert list(mine) == list(other)
        my_stops, other_stops = mine.pop("predictions"), other.pop("predictions")
        assert mine == other
        assert len(my_stops) == len(other_stops)
        n_stops += len(my_stops)
        n_edges += sum(_is_edge(a, b) for a, b in zip(my_stops, other_stops, strict=True))
    return n_stops, n_edges


def _document(text: bytes) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(text)
    assert document.pop("prefect_pipeline_latency_ms") >= 0
    return document


def _is_edge(mine: dict[str, Any], other: dict[str, Any]) -> bool:
    assert list(mine) == list(other)
    if mine == other:
        return False
    assert (mine["stop_id"], mine["stop_sequence"]) == (other["stop_id"], other["stop_sequence"])
    for name, unit in EDGE.items():
        assert math.isclose(mine[name], other[name], rel_tol=0, abs_tol=1.001 * unit), (mine, other)
    # The text and the time follow the unrounded seconds, which differ by float32's own precision.
    times = [datetime.fromisoformat(stop["eta_timestamp"]).timestamp() for stop in (mine, other)]
    assert math.isclose(*times, rel_tol=0, abs_tol=1e-3), (mine, other)
    return any(mine[name] != other[name] for name in EDGE)
