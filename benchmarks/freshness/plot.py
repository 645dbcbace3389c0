"""The picture: latency by rate, and by percentile at one rate."""

from __future__ import annotations

import io
import math
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.freshness.rates import CURVE, MAIN_RATE, Rate
from benchmarks.freshness.results import Findings, machine_line, thousands

DPI: Final = 130
LINES: Final = (
    ("p50_ms", "p50", "#0072B2", "o"),
    ("p99_ms", "p99", "#D55E00", "s"),
    ("p999_ms", "p99.9", "#009E73", "^"),
)
GREY: Final = "#777777"
PERCENTILES: Final = (0.5, 0.9, 0.99, 0.999, 0.9999)


def draw(findings: Findings) -> bytes:
    """PNG of what there is; latencies that are infinite are left out."""
    figure = Figure(figsize=(11.5, 4.8), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _by_rate(left, findings)
    _by_percentile(right, findings)
    figure.suptitle("From the moment a position is due to its prediction in Redis", fontsize=12)
    figure.supxlabel(machine_line(findings.machine), fontsize=6.5, color=GREY)
    buffer = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _by_rate(axes: Any, findings: Findings) -> None:
    # All stretches: the other rates were not chosen by what else the machine did either.
    rates = sorted([*findings.rates, *([findings.main.all] if findings.main else [])], key=_rate_per_s)
    for name, label, colour, marker in LINES:
        points = [(r.rate_per_s, value) for r in rates if math.isfinite(value := getattr(r, name))]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=label)
    if findings.bare is not None:
        for name, _, colour, _ in LINES[:2]:
            axes.axhline(getattr(findings.bare.all, name), color=colour, linestyle=":", linewidth=1)
        axes.plot([], [], color=GREY, linestyle=":", linewidth=1, label="bare announcement, p50 and p99")
    saturated = [rate.rate_per_s for rate in rates if rate.saturated]
    if saturated:
        axes.axvspan(saturated[0] * 0.84, saturated[0] * 1.19, color="#EEEEEE", zorder=0, label="does not keep up")
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [rate.rate_per_s for rate in rates]
    axes.set_xticks(ticks, [thousands(tick) for tick in ticks], rotation=45, ha="right", fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("changed positions a second")
    axes.set_ylabel("latency, ms")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title("By rate", fontsize=10)
    _tidy(axes)


def _by_percentile(axes: Any, findings: Findings) -> None:
    styles = (
        (findings.main.best_known if findings.main else None, "#0072B2", "-"),
        (findings.contrast, "#CC79A7", "-"),
        (findings.bare.best_known if findings.bare else None, GREY, ":"),
    )
    for rate, colour, style in styles:
        if rate is None:
            continue
        curve = [(_odds(q), ms) for q, ms in zip(CURVE, rate.curve_ms, strict=True) if _is_known(rate, q, ms)]
        axes.plot(*zip(*curve, strict=True), color=colour, linestyle=style, label=rate.source)
    axes.set_xscale("log")
    axes.set_xticks([_odds(q) for q in PERCENTILES], [f"{q * 100:g} %" for q in PERCENTILES])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("percentile")
    axes.set_title(f"By percentile, at {thousands(MAIN_RATE)} a second", fontsize=10)
    _tidy(axes)


def _rate_per_s(rate: Rate) -> float:
    return rate.rate_per_s


def _odds(q: float) -> float:
    return 1 / (1 - q)


def _is_known(rate: Rate, q: float, ms: float) -> bool:
    """A percentile beyond the samples is only the largest of them again."""
    return math.isfinite(ms) and _odds(q) <= rate.n_watched


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, frameon=False)
