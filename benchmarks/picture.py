"""The picture of a run: microseconds a vehicle by size of the fleet, and a row by rows of a batch."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from benchmarks.figures import Figure
from benchmarks.measuring import OURS

DPI: Final = 130
GREY: Final = "#555555"
LABEL_APART: Final = 0.12
"""Where two lines end nearer to each other, as a natural logarithm, the second one's number would hide the first's."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a line shows, and how. Colours are Okabe and Ito's, told apart with any kind of colour vision."""

    stage: str
    side: str
    label: str
    colour: str
    marker: str = "o"
    dash: str = "-"


FLEETS: Final = (
    Line("loop", "tuned Python", "loop through Redis, tuned Python", "#D55E00", "s"),
    Line("engine", "tuned Python", "without Redis, tuned Python", "#E69F00", "s", "--"),
    Line("loop", OURS, "loop through Redis, etacore", "#0072B2"),
    Line("loop", "Redis floor", "Redis floor", GREY, "v", ":"),
    Line("loop", "Redis floor, pipelined", "Redis floor, pipelined", "#A0A0A0", "^", ":"),
    Line("engine", OURS, "without Redis, etacore", "#56B4E9", "o", "--"),
)
ROWS: Final = (
    Line("predict", "treelite GTIL", "treelite GTIL", "#CC79A7", "D"),
    Line("predict", "ONNX Runtime", "ONNX Runtime", "#E69F00", "P"),
    Line("predict", "XGBoost inplace_predict", "XGBoost inplace_predict", "#D55E00", "s"),
    Line("predict", "tl2cgen Predictor", "tl2cgen Predictor", "#009E73", "^"),
    Line("predict", "tl2cgen", "tl2cgen's code, called from C", "#009E73", "v", "--"),
    Line("predict", f"{OURS}, portable path", "etacore, portable path", "#56B4E9", "o", "--"),
    Line("predict", OURS, "etacore", "#0072B2"),
)


def draw(figures: Sequence[Figure], caption: str) -> bytes | None:
    """PNG of both panels, or of the one there are figures for; None if there are none."""
    known = {(figure.stage, figure.side, figure.size): figure.value for figure in figures}
    panels = [
        (lines, title, unit)
        for lines, title, unit in (
            (FLEETS, "A prediction of five stops", "vehicle"),
            (ROWS, "The forest alone: 200 trees, depth 5", "row"),
        )
        if any(_points(known, line) for line in lines)
    ]
    if not panels:
        return None
    canvas = Canvas(figsize=(6.6 * len(panels), 5.8), dpi=DPI, layout="constrained")
    for axes, (lines, title, unit) in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axes, known, lines, title, unit)
    canvas.supxlabel("\n".join(textwrap.wrap(caption, 95 * len(panels))), fontsize=7, color=GREY)
    buffer = io.BytesIO()
    png: Any = FigureCanvasAgg(canvas)
    png.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _points(known: dict[tuple[str, str, int], float], line: Line) -> list[tuple[int, float]]:
    return sorted((size, us) for (stage, side, size), us in known.items() if (stage, side) == (line.stage, line.side))


def _panel(axes: Any, known: dict[tuple[str, str, int], float], lines: Sequence[Line], title: str, unit: str) -> None:
    sizes: set[int] = set()
    labelled: list[tuple[int, float]] = []
    for line in lines:
        points = _points(known, line)
        if not points:
            continue
        x, y = zip(*points, strict=True)
        sizes.update(x)
        axes.plot(x, y, line.dash, color=line.colour, marker=line.marker, markersize=5, label=line.label)
        end = points[-1]
        if all(end[0] != x or abs(math.log(end[1] / y)) > LABEL_APART for x, y in labelled):
            labelled.append(end)
            text = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": line.colour}
            axes.annotate(f"{end[1]:.2g}", end, (6, 0), **text)
    axes.set(xscale="log", yscale="log", title=title, xlabel=f"{unit}s", ylabel=f"microseconds a {unit}")
    axes.set_xticks(sorted(sizes), [f"{size:,}".replace(",", " ") for size in sorted(sizes)])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.7)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8, frameon=False)
