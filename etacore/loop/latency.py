"""How long the stages take: bounded histograms, windows, and the files and tables made of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from etacore._kernels.histogram import Histogram
from etacore.files import whole_file

METRICS: Final = ("redis_fetch", "eta_inference", "redis_write", "pipeline_latency")
N_BINS: Final = 10

_SUMMARY: Final = ("metric", "count", "min_ms", "max_ms", "avg_ms")
_BINS: Final = ("bin_start_ms", "bin_end_ms", "count", "percentage")
_US_PER_MS: Final = 1e3


@dataclass(frozen=True, slots=True)
class MetricSnapshot:
    """Figures of one metric at one moment; all 0 if nothing was recorded.

    Attributes
    ----------
    metric : str
        One of `METRICS`.
    count : int
        Recorded durations.
    min_ms, max_ms, avg_ms : float
        Exact, milliseconds.
    p50_ms, p95_ms, p99_ms : float
        Percentiles by nearest rank, to about 1 per cent, milliseconds.
    """

    metric: str
    count: int
    min_ms: float
    max_ms: float
    avg_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Profiler:
    """Durations of the four metrics, since the start and in the current window.

    Notes
    -----
    Memory is fixed (about 100 kB), whatever is recorded. One thread may record while others read: a
    histogram is copied, or taken and emptied, in one step under the GIL, and all figures come from that
    copy. Two metrics, or window and total, may differ by what was recorded between their copies.
    """

    def __init__(self) -> None:
        self._total: Final = {metric: Histogram() for metric in METRICS}
        self._window: Final = {metric: Histogram() for metric in METRICS}

    def record(self, metric: str, ms: float, count: int = 1) -> None:
        """Add a duration.

        Parameters
        ----------
        metric : str
            One of `METRICS`.
        ms : float
            Milliseconds, not negative.
        count : int, optional
            How many times, such as the vehicles that shared a batch.

        Raises
        ------
        ValueError
            If the metric is unknown, the duration negative or not finite, or the count negative.
        """
        total = self._histogram(self._total, metric)
        total.record(ms * _US_PER_MS, count)
        self._window[metric].record(ms * _US_PER_MS, count)

    def record_many(self, metric: str, ms: NDArray[np.float64], counts: NDArray[np.int64] | None = None) -> None:
        """Add many durations; if one is bad, none is added.

        Parameters
        ----------
        metric : str
            One of `METRICS`.
        ms : ndarray of float64, shape (n,)
            Milliseconds.
        counts : ndarray of int64, shape (n,), optional
            How many times each; once by default.

        Raises
        ------
        ValueError
            As `record`, or if the shapes differ.
        """
        total = self._histogram(self._total, metric)
        values_us = np.asarray(ms, np.float64) * _US_PER_MS
        total.record_many(values_us, counts)
        self._window[metric].record_many(values_us, counts)

    def snapshot(self, *, window: bool = False) -> dict[str, MetricSnapshot]:
        """Figures by metric, since the start or of the current window."""
        histograms = self._window if window else self._total
        return {metric: _figures(metric, histogram.copy()) for metric, histogram in histograms.items()}

    def reset_window(self) -> dict[str, MetricSnapshot]:
        """Begin a new window; returns the figures of the one that ends, and loses nothing between the two."""
        return {metric: _figures(metric, histogram.take()) for metric, histogram in self._window.items()}

    def csv_text(self, metric: str) -> str:
        """All durations of a metric since the start, as CSV.

        One summary row, an empty row, then ten equal bins between minimum and maximum whose counts add
        up to the summary's; milliseconds with 3 decimals, percentages with 2.

        Raises
        ------
        ValueError
            If the metric is unknown.
        """
        summary, bins = self._tables(metric)
        rows = [_SUMMARY, summary, (), _BINS, *bins]
        return "".join(",".join(row) + "\n" for row in rows)

    def markdown(self, metric: str) -> str:
        """The content of `csv_text` as two Markdown tables.

        Raises
        ------
        ValueError
            If the metric is unknown.
        """
        summary, bins = self._tables(metric)
        return "\n".join([*_markdown_table(_SUMMARY, [summary]), "", *_markdown_table(_BINS, bins), ""])

    def write_csvs(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write ``<metric>_times.csv`` for each metric; the folder is made if it is missing.

        A reader sees the old file or the new one, never a part.

        Returns
        -------
        list of Path
            In the order of `METRICS`.

        Raises
        ------
        OSError
            If a file cannot be written; the old one is then untouched.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        paths = []
        for metric in METRICS:
            path = target / f"{metric}_times.csv"
            with whole_file(path, synced=False) as draft:  # the loop does not wait for the disk
                draft.write_text(self.csv_text(metric), encoding="utf-8", newline="")
            paths.append(path)
        return paths

    def _tables(self, metric: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        histogram = self._histogram(self._total, metric).copy()
        figures = _figures(metric, histogram)
        edges_us, counts = histogram.equal_bins(N_BINS)
        edges_ms = (edges_us / _US_PER_MS).tolist()
        summary = (
            metric,
            str(figures.count),
            f"{figures.min_ms:.3f}",
            f"{figures.max_ms:.3f}",
            f"{figures.avg_ms:.3f}",
        )
        bins: list[tuple[str, ...]] = [
            (f"{start:.3f}", f"{end:.3f}", str(count), f"{100.0 * count / max(figures.count, 1):.2f}")
            for start, end, count in zip(edges_ms, edges_ms[1:], counts.tolist(), strict=False)
        ]
        return summary, bins

    @staticmethod
    def _histogram(histograms: dict[str, Histogram], metric: str) -> Histogram:
        try:
            return histograms[metric]
        except KeyError:
            raise ValueError(f"no metric {metric!r}; there are {', '.join(METRICS)}") from None


def _figures(metric: str, histogram: Histogram) -> MetricSnapshot:
    return MetricSnapshot(
        metric=metric,
        count=histogram.count,
        min_ms=histogram.min_us / _US_PER_MS,
        max_ms=histogram.max_us / _US_PER_MS,
        avg_ms=histogram.mean_us / _US_PER_MS,
        p50_ms=histogram.percentile(50) / _US_PER_MS,
        p95_ms=histogram.percentile(95) / _US_PER_MS,
        p99_ms=histogram.percentile(99) / _US_PER_MS,
    )


def _markdown_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows)]
