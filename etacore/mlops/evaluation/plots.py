"""The plots of a report. Figures are made by the object API: nothing is shown, no global state is touched."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from etacore.accuracy import MBTA_BANDS
from etacore.mlops.evaluation.baselines import BASELINES
from etacore.mlops.evaluation.baselines import TITLES as TITLES_OF_BASELINES
from etacore.mlops.evaluation.results import Fan, Findings, Result
from etacore.mlops.evaluation.scoring import NEAR_MIN
from etacore.mlops.evaluation.tables import columns

LEADERBOARD: Final = "leaderboard.png"
ERROR_FAN: Final = "error_by_predicted_minutes.png"
MAE_BY_HORIZON: Final = "mae_by_horizon.png"
BIAS_BY_HOUR: Final = "bias_by_hour.png"
ROLLING: Final = "rolling.png"
TITLES: Final = {
    LEADERBOARD: "Leaderboard with intervals",
    ERROR_FAN: "Error by predicted minutes ahead",
    MAE_BY_HORIZON: "Mean absolute error by minutes to the arrival",
    BIAS_BY_HOUR: "Bias by hour of the day",
    ROLLING: "Rolling windows",
}
DPI: Final = 130
# Okabe and Ito's palette, told apart with any kind of colour vision; baselines are grey and dashed besides.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREYS: Final = ("#444444", "#777777", "#A0A0A0")
DASHES: Final = ("--", ":", "-.")
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
GREY_MARKERS: Final = ("x", "+", "*")
HATCHES: Final = ("//", "..", "xx")
MAX_PANELS: Final = 6
TITLE_WIDTH: Final = 40
"""Letters in a line above a panel."""
LEGEND_MARK_INCHES: Final = 0.8
LEGEND_LETTER_INCHES: Final = 0.075
MAX_DAYS_SHOWN: Final = 12
"""Labels below the axis of days."""
MIN_IN_BIN: Final = 20
MIN_SHARE: Final = 0.005
"""Bins and hours with fewer samples, or a smaller share of all, are not drawn: they would set the scale of the rest."""
ERROR_LIMITS_S: Final = (-600.0, 900.0)


def draw_all(evaluation: Findings) -> dict[str, bytes]:
    """Every plot that there is something to draw for: PNG by file name."""
    drawn: dict[str, Callable[[Findings], Figure | None]] = {
        LEADERBOARD: leaderboard,
        ERROR_FAN: error_fan,
        MAE_BY_HORIZON: mae_by_horizon,
        BIAS_BY_HOUR: bias_by_hour,
        ROLLING: rolling,
    }
    pictures = {}
    for name, draw in drawn.items():
        figure = draw(evaluation)
        if figure is not None:
            pictures[name] = _png(figure)
    return pictures


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)


def _styles(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each by its name: models in colour, baselines grey."""
    styles: dict[str, dict[str, Any]] = {}
    n_models = 0
    for result in results:
        if result.identity.kind == "model":
            i, n_models = n_models, n_models + 1
            styles[result.name] = {
                "color": COLOURS[i % len(COLOURS)],
                "linestyle": "-",
                "marker": MARKERS[i % len(MARKERS)],
                "hatch": "" if i < len(COLOURS) else "\\\\",
            }
        else:
            i = BASELINES.index(result.name)
            styles[result.name] = {
                "color": GREYS[i],
                "linestyle": DASHES[i],
                "marker": GREY_MARKERS[i],
                "hatch": HATCHES[i],
            }
    return styles


def leaderboard(evaluation: Findings) -> Figure | None:
    """Bars of the metric, and beside them the improvement with its interval."""
    results = evaluation.leaderboard
    if not results:
        return None
    metric, config = evaluation.metric, evaluation.config
    styles = _styles(results)
    figure = _figure(10.5, 1.5 + 0.42 * len(results))
    bars, gains = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.1))
    rows = range(len(results))
    scale, unit = (100.0, "%") if metric.unit == "share" else (1.0, metric.unit)
    values = [scale * result.metrics[metric.name] for result in results]
    drawn = bars.barh(rows, values, color=[styles[r.name]["color"] for r in results], height=0.66)
    for patch, result in zip(drawn, results, strict=True):
        patch.set_hatch(styles[result.name]["hatch"])
        patch.set_edgecolor("white")
    bars.bar_label(drawn, fmt="%.3g" if metric.unit in ("1", "min") else "%.1f", padding=3, fontsize=9)
    bars.set_yticks(rows, [_marked(result, evaluation) for result in results])
    bars.invert_yaxis()
    bars.margins(x=0.16)
    bars.set_xlabel(metric.name if unit == "1" else f"{metric.name} ({unit})")
    bars.set_title(f"{'higher' if metric.higher_is_better else 'lower'} is better", fontsize=10, color="#555555")
    with_active = config.active_model is not None
    reference = "active model" if with_active else "best baseline"
    for row, result in enumerate(results):
        comparison = result.vs_active if with_active else result.vs_baseline
        if comparison is None:
            gains.plot(0, row, "D", color=styles[result.name]["color"], markersize=6)
            gains.annotate(
                "the reference", (0, row), (8, 0), textcoords="offset points", va="center", fontsize=9,
                color="#444444", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
            continue
        value, low, high = (
            100 * x for x in (comparison.improvement, comparison.improvement_low, comparison.improvement_high)
        )
        if not math.isfinite(value):
            continue
        reach = [[value - low], [high - value]] if math.isfinite(low) else None
        gains.errorbar(value, row, xerr=reach, fmt="o", capsize=4, color=styles[result.name]["color"], markersize=6)
    gains.axvline(0, color="#222222", linewidth=1)
    if with_active and config.improvement_threshold > 0:
        gains.axvline(100 * config.improvement_threshold, color="#009E73", linestyle="--", linewidth=1.2)
        gains.annotate(
            f"threshold {100 * config.improvement_threshold:g} %",
            (100 * config.improvement_threshold, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -3),
            textcoords="offset points",
            fontsize=8,
            color="#00664B",
            va="top",
        )
    gains.set_xlabel(f"better than the {reference} (%)\n{100 * config.confidence:g} % interval, trips drawn")
    gains.set_title("right is better", fontsize=10, color="#555555")
    for axes in (bars, gains):
        _tidy(axes)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x", color="#DDDDDD", linewidth=0.7)
        axes.tick_params(axis="y", length=0)
    figure.suptitle(f"{evaluation.dataset}: {evaluation.n_rows:,} held-out rows of {evaluation.n_trips:,} trips")
    return figure


def _marked(result: Result, evaluation: Findings) -> str:
    marks = []
    if result.name == evaluation.config.active_model:
        marks.append("active")
    if result.name == evaluation.recommendation.key:
        marks.append("promote")
    if not result.identity.eligible:
        marks.append("not eligible")
    return result.title + (f"  ({', '.join(marks)})" if marks else "")


def error_fan(evaluation: Findings) -> Figure | None:
    """Quantiles of actual minus predicted by predicted minutes ahead, a panel each, with the MBTA's windows."""
    results = [result for result in columns(evaluation) if _drawn(result)]
    must = (evaluation.config.active_model, evaluation.recommendation.key)
    baselines = [result for result in results if result.identity.kind == "baseline"][:2]
    models = sorted((r for r in results if r.identity.kind == "model"), key=lambda result: result.name not in must)
    chosen = [*models[: MAX_PANELS - len(baselines)], *baselines]
    chosen = [result for result in results if result in chosen]
    if not chosen:
        return None
    n_columns = min(3, len(chosen))
    n_rows = math.ceil(len(chosen) / n_columns)
    figure = _figure(3.9 * n_columns + 0.4, 3.2 * n_rows + 0.9)
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    styles = _styles(results)
    furthest = 0.0
    for axes, result in zip(grid.flat, chosen, strict=False):
        fans = _drawn(result)
        middle = [(fan.from_min + fan.to_min) / 2 for fan in fans]
        low, quarter, median, three_quarters, high = np.array([fan.quantiles_s for fan in fans]).T
        colour = styles[result.name]["color"]
        axes.fill_between(middle, low, high, color=colour, alpha=0.18, linewidth=0, label="5 to 95 %")
        axes.fill_between(middle, quarter, three_quarters, color=colour, alpha=0.4, linewidth=0, label="25 to 75 %")
        axes.plot(middle, median, color=colour, marker="o", markersize=3.5, label="median")
        for edge in ("earliest_s", "latest_s"):
            steps = [getattr(band, edge) for band in MBTA_BANDS]
            label = "MBTA window" if edge == "latest_s" else None
            axes.stairs(
                steps, [0, *(band.to_min for band in MBTA_BANDS)], baseline=None, color="#222222", linestyle=":",
                linewidth=1.2, label=label,
            )  # fmt: skip
        axes.axhline(0, color="#222222", linewidth=0.8)
        axes.set_title(textwrap.fill(_marked(result, evaluation), TITLE_WIDTH), fontsize=10)
        _tidy(axes)
        furthest = max(furthest, middle[-1])
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    grid[0, 0].set_xlim(0, furthest * 1.05)
    grid[0, 0].set_ylim(*_limits(chosen))
    for axes in grid[:, 0]:
        axes.set_ylabel("actual - predicted (s)\nlater than said is up", fontsize=9)
    for column in range(n_columns):
        last = max(row for row in range(n_rows) if row * n_columns + column < len(chosen))
        grid[last, column].set_xlabel("predicted minutes ahead")
        grid[last, column].xaxis.set_tick_params(labelbottom=True)
    _legend(figure, grid[0, 0])
    figure.suptitle("What a shown prediction turned out to mean")
    return figure


def _drawn(result: Result) -> list[Fan]:
    least = max(MIN_IN_BIN, MIN_SHARE * result.n)
    return [fan for fan in result.fan if fan.n >= least]


def _limits(results: Sequence[Result]) -> tuple[float, float]:
    """Limits that show the fans and not only their longest outlier."""
    ends = [fan.quantiles_s for result in results for fan in _drawn(result)]
    low, high = min(ends_of[0] for ends_of in ends), max(ends_of[-1] for ends_of in ends)
    return max(ERROR_LIMITS_S[0], 1.08 * min(low, -60.0)), min(ERROR_LIMITS_S[1], 1.08 * max(high, 60.0))


def mae_by_horizon(evaluation: Findings) -> Figure | None:
    """Lines of the mean absolute error by minutes to the actual arrival, above the number of samples.

    Minute by minute near the arrival, and with a scale of its own, which the errors far away would set otherwise.
    """
    results = columns(evaluation)
    if not results:
        return None
    least = max(MIN_IN_BIN, MIN_SHARE * results[0].n)
    bands = [band for band in results[0].by_minutes if band.n >= least] or list(results[0].by_minutes)
    parts = [
        part
        for part in (
            [band for band in bands if band.to_min <= NEAR_MIN],
            [band for band in bands if band.to_min > NEAR_MIN],
        )
        if part
    ]
    if not parts:
        return None
    styles = _styles(results)
    figure = _figure(11.0, 5.4)
    grid = figure.subplots(
        2,
        len(parts),
        sharex="col",
        squeeze=False,
        height_ratios=(4, 1),
        width_ratios=[max(len(part), 3) for part in parts],
    )
    for column, part in enumerate(parts):
        axes, counts = grid[:, column]
        at = range(len(part))
        for result in results:
            known = {(band.from_min, band.to_min): band.mae_s for band in result.by_minutes}
            axes.plot(
                at, [known.get((band.from_min, band.to_min), math.nan) for band in part],
                **_line(styles[result.name]), label=result.title,
            )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.margins(x=0.06)
        axes.set_title("near: each minute" if part[-1].to_min <= NEAR_MIN else "far", fontsize=10, color="#555555")
        counts.bar(at, [band.n for band in part], color="#BBBBBB", width=0.8)
        counts.set_xticks(at, [f"{band.from_min:g}-{band.to_min:g}" for band in part])
        counts.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
        counts.set_xlabel("minutes to the actual arrival")
        _tidy(axes)
        _tidy(counts)
    grid[0, 0].set_ylabel("mean absolute error (s)")
    grid[1, 0].set_ylabel("rows")
    _legend(figure, grid[0, 0])
    figure.suptitle("Error by horizon: every predictor on the same rows")
    return figure


def _line(style: Mapping[str, Any]) -> dict[str, Any]:
    names = ("color", "linestyle", "marker")
    return {name: style[name] for name in names} | {"markersize": 6, "linewidth": 1.6}


def _legend(figure: Figure, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    entry_inches = LEGEND_MARK_INCHES + LEGEND_LETTER_INCHES * max(map(len, labels), default=0)
    n_columns = max(1, min(4, int(figure.get_figwidth() / entry_inches)))
    figure.legend(handles, labels, loc="outside lower center", ncols=n_columns, frameon=False, fontsize=9)


def bias_by_hour(evaluation: Findings) -> Figure | None:
    """Lines of the bias by hour of the day, above the number of samples."""
    results = columns(evaluation)
    if not results:
        return None
    styles = _styles(results)
    figure = _figure(9.5, 5.2)
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for result in results:
        least = MIN_SHARE * result.n
        # A gap where hours have no sample, not a line across.
        known = {int(hour): piece.bias_s for hour, piece in result.by_hour.items() if piece.n >= least}
        span = range(min(known), max(known) + 1)
        axes.plot(
            list(span), [known.get(hour, math.nan) for hour in span], **_line(styles[result.name]), label=result.title
        )
    axes.axhline(0, color="#222222", linewidth=1)
    axes.set_ylabel("predicted - actual (s)\npromised too late is up")
    axes.set_title(f"Bias by hour of the day (hours with at least {100 * MIN_SHARE:g} % of the rows)")
    _tidy(axes)
    _legend(figure, axes)
    sizes = {int(hour): piece.n for hour, piece in results[0].by_hour.items()}
    counts.bar(list(sizes), list(sizes.values()), color="#BBBBBB", width=0.8)
    counts.set_ylabel("rows")
    counts.set_xlabel(f"hour of the day ({evaluation.time_zone})")
    counts.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=24))
    counts.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    _tidy(counts)
    return figure


def rolling(evaluation: Findings) -> Figure | None:
    """The metric of each retraining over its test days."""
    windows = evaluation.rolling
    if not windows:
        return None
    metric = evaluation.metric
    names = list(dict.fromkeys(name for window in windows for name in window.metrics))
    figure = _figure(9.0, 4.8)
    axes = figure.subplots()
    models = [name for name in names if name not in BASELINES]
    for name in names:
        points = [window.metrics.get(name, {}).get(metric.name, math.nan) for window in windows]
        i = models.index(name) if name in models else BASELINES.index(name)
        palette: tuple[Sequence[str], Sequence[str], Sequence[str]] = (
            (COLOURS, MARKERS, ("-",)) if name in models else (GREYS, GREY_MARKERS, DASHES)
        )
        colour, marker, line = (choices[i % len(choices)] for choices in palette)
        style = _line({"color": colour, "marker": marker, "linestyle": line})
        axes.plot(range(len(windows)), points, label=TITLES_OF_BASELINES.get(name, name), **style)
    step = math.ceil(len(windows) / MAX_DAYS_SHOWN)
    axes.set_xticks(
        range(0, len(windows), step), [f"{window.test_day:%d %b}\n{window.test_day:%Y}" for window in windows[::step]]
    )
    n_days = sorted({len(window.train_days) for window in windows})
    before = f"{n_days[0]}" if len(n_days) == 1 else f"{n_days[0]} to {n_days[-1]}"
    axes.set_xlabel(f"test day; trained on the {before} day{'s' if n_days[-1] > 1 else ''} before it")
    axes.set_ylabel(metric.name if metric.unit == "1" else f"{metric.name} ({metric.unit})")
    axes.set_title("Trained anew for each day")
    axes.margins(x=0.08)
    axes.set_ylim(bottom=0 if metric.unit in ("s", "min") and not metric.signed else None)
    _tidy(axes)
    _legend(figure, axes)
    return figure
