"""Pictures that can be read: markers on every line, minutes near the arrival, no text on other text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from etacore.mlops.evaluation import plots
from etacore.mlops.evaluation.baselines import BASELINES
from etacore.mlops.evaluation.evaluating import evaluate
from etacore.mlops.evaluation.results import EvaluationConfig, Findings, RollingWindow
from etacore.mlops.evaluation.scoring import BAND_EDGES_MIN, NEAR_MIN, mae_by_minutes
from etacore.mlops.metrics import METRICS
from etacore.models.registry import Registry
from tests.evaluation_data import dataset, linear

Draw = Callable[[Findings], Figure | None]
LONG_TITLE = "xgboost spatial-temporal global of the third of March, tried again {} (not eligible)"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """An evaluation whose samples reach far, with long names."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    for slope in (0.3, 0.23, 0.26):
        linear(registry, dataset(), slope)
    config = EvaluationConfig(n_resamples=20, active_model=registry.keys()[0], keep=False)
    evaluation = evaluate(dataset(), registry, config)
    rng = np.random.default_rng(0)
    actual_s = rng.exponential(900.0, 20_000).clip(0, 7200)
    results = []
    for i, result in enumerate(evaluation.results):
        bands = mae_by_minutes(actual_s + rng.normal(0, 10 + 0.1 * (i + 1) * actual_s), actual_s)
        identity = replace(result.identity, title=LONG_TITLE.format(i) if i % 2 else result.title)
        results.append(replace(result, by_minutes=bands, identity=identity))
    return replace(evaluation, results=tuple(results), rolling=windows(30))


def windows(n: int) -> tuple[RollingWindow, ...]:
    first = date(2026, 3, 4)
    names = ("xgboost", "ewma", *BASELINES)
    return tuple(
        RollingWindow(
            (first - timedelta(days=2), first - timedelta(days=1)),
            first + timedelta(days=i),
            100,
            {name: dict.fromkeys(METRICS, 40.0 + 3 * i + 5 * j) for j, name in enumerate(names)},
        )
        for i in range(n)
    )


def drawn(draw: Draw, found: Findings) -> Figure:
    figure = draw(found)
    assert figure is not None
    FigureCanvasAgg(figure).draw()
    return figure


def labels(axis: Any, limits: tuple[float, float]) -> list[Any]:
    """The labels of the ticks that are in view."""
    low, high = sorted(limits)
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def lines_of(figure: Figure) -> list[Any]:
    """The lines of predictors, without rulers."""
    return [line for axes in figure.axes for line in axes.get_lines() if not str(line.get_label()).startswith("_")]


@pytest.mark.parametrize("n_days", [1, 2, 30])
def test_each_predictor_of_rolling_windows_has_a_marker_of_its_own(found: Findings, n_days: int) -> None:
    lines = lines_of(drawn(plots.rolling, replace(found, rolling=windows(n_days))))
    assert len(lines) == 5
    markers = [line.get_marker() for line in lines]
    assert "None" not in map(str, markers)
    assert len(set(markers)) == 5
    assert all(len(line.get_xdata()) == n_days for line in lines)


def test_one_hour_of_the_day_is_seen_too(found: Findings) -> None:
    one = [replace(result, by_hour={"7": result.by_hour["7"]}) for result in found.results]
    for line in lines_of(drawn(plots.bias_by_hour, replace(found, results=tuple(one)))):
        assert str(line.get_marker()) != "None"


def test_near_the_arrival_each_minute_is_a_band_with_a_scale_of_its_own(found: Findings) -> None:
    figure = drawn(plots.mae_by_horizon, found)
    near, far, near_rows, far_rows = figure.axes
    labels = [label.get_text() for label in near_rows.get_xticklabels()]
    assert labels == [f"{minute}-{minute + 1}" for minute in range(NEAR_MIN)]
    assert [label.get_text() for label in far_rows.get_xticklabels()][:3] == ["10-12", "12-15", "15-20"]
    assert near.get_ylim()[1] < far.get_ylim()[1] / 3
    for line, result in zip(near.get_lines(), found.leaderboard, strict=True):
        assert np.asarray(line.get_ydata()).tolist() == [band.mae_s for band in result.by_minutes[:NEAR_MIN]]
        assert str(line.get_marker()) != "None"


def test_bands_hold_every_sample_once() -> None:
    actual_s = np.array([0.0, 59.9, 60.0, 599.9, 600.0, 719.9, 720.0, 7199.0, 7200.0])
    bands = mae_by_minutes(actual_s + np.arange(9.0), actual_s)
    assert [(band.from_min, band.to_min, band.n, band.mae_s) for band in bands] == [
        (0, 1, 2, 0.5),
        (1, 2, 1, 2.0),
        (9, 10, 1, 3.0),
        (10, 12, 2, 4.5),
        (12, 15, 1, 6.0),
        (90, 120, 2, 7.5),
    ]
    assert list(BAND_EDGES_MIN) == sorted(set(BAND_EDGES_MIN))


@pytest.mark.parametrize(
    "draw", [plots.leaderboard, plots.error_fan, plots.mae_by_horizon, plots.bias_by_hour, plots.rolling]
)
def test_no_text_runs_into_another_or_out_of_the_picture(draw: Draw, found: Findings) -> None:
    figure = drawn(draw, found)
    texts: list[Any] = [getattr(figure, "_suptitle", None)] if figure.get_suptitle() else []
    for axes in figure.axes:
        if axes.get_visible():
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
            texts += [*labels(axes.xaxis, axes.get_xlim()), *labels(axes.yaxis, axes.get_ylim())]
    for legend in figure.legends:
        texts += legend.get_texts()
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    frame = figure.bbox
    for text, box in boxes:
        assert box.x0 >= frame.x0 - 1, text
        assert box.x1 <= frame.x1 + 1, text
    for (one, box), (other, other_box) in combinations(boxes, 2):
        assert not box.shrunk(0.98, 0.9).overlaps(other_box.shrunk(0.98, 0.9)), f"{one!r} and {other!r}"


def test_pictures_are_the_same_every_time(found: Findings, tmp_path: Path) -> None:
    assert plots.draw_all(found) == plots.draw_all(found)
