"""Sides take turns, and what is reported is what each of them took."""

from __future__ import annotations

import pytest

from benchmarks.figures import read_figures
from benchmarks.measuring import alternate
from benchmarks.serving import Stopwatch


class Fixture:
    """What `alternate` uses of pytest-benchmark's fixture."""

    def __init__(self):
        self.extra_info = {}
        self.group = None

    def pedantic(self, call, rounds):
        for _ in range(rounds):
            call()


def measured(benchmark):
    return {figure.side: figure for figure in read_figures({"benchmarks": [{"extra_info": benchmark.extra_info}]})}


def test_sides_take_turns_and_each_is_prepared():
    calls, benchmark = [], Fixture()
    sides = {name: lambda name=name: calls.append(name) or name for name in "abc"}
    results = alternate(
        benchmark,
        "work",
        sides,
        size=10,
        before={name: lambda name=name: calls.append(f"before {name}") for name in "abc"},
        min_rounds=4,
        max_rounds=4,
        warm_up=False,
    )
    assert results == {"a": "a", "b": "b", "c": "c"}
    assert calls[1::2] == [*"abc", *"bca", *"cab", *"abc"]
    assert calls[::2] == [f"before {name}" for name in calls[1::2]]
    assert benchmark.group == "work 10"
    figures = measured(benchmark)
    assert list(figures) == ["a", "b", "c"]
    assert all(len(figure.rounds) == 4 and figure.size == 10 for figure in figures.values())


def test_a_slow_side_is_left_out_of_rounds():
    counts, benchmark = {"fast": 0, "slow": 0}, Fixture()

    def count(name):
        counts[name] += 1

    alternate(
        benchmark,
        "work",
        {name: lambda name=name: count(name) for name in counts},
        before=dict.fromkeys(counts, lambda: None),
        every={"slow": 2},
        min_rounds=5,
        max_rounds=5,
        warm_up=False,
    )
    assert counts == {"fast": 5, "slow": 3}
    taken = measured(benchmark)["slow"].rounds
    assert [value is None for value in taken] == [False, True, False, True, False]


def test_short_calls_are_timed_many_at_a_time():
    counts, benchmark = {"n": 0}, Fixture()

    def count():
        counts["n"] += 1

    alternate(benchmark, "work", {"short": count}, min_rounds=2, max_rounds=2)
    assert counts["n"] > 100
    assert all(value > 0 for value in measured(benchmark)["short"].rounds)


def test_the_first_call_does_not_set_how_many_calls_a_sample_has(monkeypatch):
    now, calls = [0.0], []

    def load_first():
        now[0] += 1e-5 if calls else 5e-2
        calls.append(1)

    monkeypatch.setattr("benchmarks.measuring.perf_counter", lambda: now[0])
    benchmark = Fixture()
    alternate(benchmark, "work", {"loads": load_first}, min_rounds=1, max_rounds=1)
    assert measured(benchmark)["loads"].value == pytest.approx(10.0)
    assert len(calls) > 2 * 100


def test_a_stage_within_a_stage_counts_once(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr("benchmarks.serving.perf_counter", lambda: next(now))

    class Work:
        def whole(self):
            return self.part()

        def part(self):
            return "done"

    work, watch = Work(), Stopwatch()
    watch.around(work, {"whole": "whole", "part": "part"})
    assert work.whole() == "done"
    assert watch.seconds == {"part": 3.0, "whole": 7.0}
