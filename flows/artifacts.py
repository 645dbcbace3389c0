"""What the UI shows of a run: latency tables with a small picture, and the latest counters."""

from __future__ import annotations

import csv
import io
from typing import Final

from etacore.loop.latency import MetricSnapshot
from etacore.loop.runtime import Window
from etacore.pipeline.engine import summarize

BAR_WIDTH: Final = 40

TITLES: Final = {
    "redis_fetch": "Fetching a snapshot from Redis",
    "eta_inference": "Predicting a vehicle",
    "redis_write": "Writing a prediction to Redis",
    "pipeline_latency": "From reading the snapshot to its stored prediction",
}


def artifact_key(prefix: str, metric: str) -> str:
    """Key of the artifact of a metric, such as ``eta-runtime-redis-fetch``."""
    return f"{prefix}-{metric.replace('_', '-')}"


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """A bar of text for a share between 0 and 1, always `width` long; something, however small, is never invisible.

    Only whole blocks: fonts of browsers lack the narrower ones, and what replaces them has another width.
    """
    full = max(round(share * width), 1) if share > 0 else 0
    return "█" * full + "░" * (width - full)


def latency_markdown(metric: str, csv_text: str, figures: MetricSnapshot | None = None) -> str:
    """The content of a profiling file as Markdown: its tables, and bars for its bins.

    Parameters
    ----------
    metric : str
        One of `etacore.loop.latency.METRICS`.
    csv_text : str
        As `etacore.loop.latency.Profiler.csv_text` gives it.
    figures : MetricSnapshot, optional
        For a line with the percentiles.
    """
    rows = list(csv.reader(io.StringIO(csv_text)))
    summary, bins = rows[:2], rows[3:]
    lines = [f"### {TITLES.get(metric, metric)}", "", *_table(summary), ""]
    if figures is not None and figures.count:
        lines += [
            f"Half within {figures.p50_ms:.3f} ms, 95 % within {figures.p95_ms:.3f} ms, "
            f"99 % within {figures.p99_ms:.3f} ms.",
            "",
        ]
    lines += ["```", *_bars(bins[1:]), "```", "", *_table(bins), ""]
    return "\n".join(lines)


def _bars(bins: list[list[str]]) -> list[str]:
    largest = max((int(count) for *_, count, _ in bins), default=0)
    width = max((len(end) for _, end, *_ in bins), default=0)
    return [
        f"to {end:>{width}} ms {bar(int(count) / largest if largest else 0.0)} {share:>6} %"
        for _, end, count, share in bins
    ]


def _table(rows: list[list[str]]) -> list[str]:
    header, *body = rows
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body)]


def progress_percent(window: Window, n_polls: int, iterations: int) -> float:
    """Polls made of those asked for; of a run without an end, the share of due vehicles that got a prediction."""
    if iterations:
        return round(min(100.0 * n_polls / iterations, 100.0), 1)
    totals = summarize(window.counts)
    due = totals["predicted"] + totals["failed"]
    return round(100.0 * totals["predicted"] / due, 1) if due else 100.0
