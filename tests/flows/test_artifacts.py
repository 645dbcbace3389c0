"""What the UI shows."""

from __future__ import annotations

from collections import Counter

import pytest

from etacore.loop.latency import METRICS, Profiler
from etacore.loop.runtime import Window
from etacore.status import Status
from flows.artifacts import artifact_key, bar, latency_markdown, progress_percent


def test_keys_are_those_of_the_documentation():
    assert [artifact_key("eta-runtime", metric) for metric in METRICS] == [
        "eta-runtime-redis-fetch",
        "eta-runtime-eta-inference",
        "eta-runtime-redis-write",
        "eta-runtime-pipeline-latency",
    ]


def test_an_artifact_holds_every_value_of_the_file_and_a_bar_for_each_bin():
    profiler = Profiler()
    for ms, count in ((1.0, 30), (5.5, 10), (11.0, 1)):
        profiler.record("redis_fetch", ms, count)
    text = profiler.csv_text("redis_fetch")
    page = latency_markdown("redis_fetch", text, profiler.snapshot()["redis_fetch"])
    for row in filter(None, text.splitlines()):
        assert f"| {' | '.join(row.split(','))} |" in page
    bars = page.split("```")[1].strip("\n").splitlines()
    assert len(bars) == 10
    assert [line.count("█") for line in bars] == [40, 0, 0, 0, 13, 0, 0, 0, 0, 1]
    assert len({len(line) for line in bars}) == 1, "ragged bars"
    assert "99 % within" in page


def test_nothing_recorded_is_a_page_too():
    profiler = Profiler()
    assert "| redis_write | 0 |" in latency_markdown("redis_write", profiler.csv_text("redis_write"))


@pytest.mark.parametrize(("share", "text"), [(0.0, "░░░░"), (1e-9, "█░░░"), (0.5, "██░░"), (1.0, "████")])
def test_a_bar_is_as_long_as_its_share(share, text):
    assert bar(share, 4) == text


def test_progress_is_polls_made_or_vehicles_served():
    window = Window(10.0, 5, 0, Counter({Status.OK: 3, Status.NO_MODEL: 1, Status.UNCHANGED: 9}))
    assert progress_percent(window, 5, 20) == 25.0
    assert progress_percent(window, 1, 3) == 33.3
    assert progress_percent(window, 5, 0) == 75.0
    assert progress_percent(Window(10.0, 5, 0, Counter()), 5, 0) == 100.0
