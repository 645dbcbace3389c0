"""What the demo shows: a live view for a terminal, plain lines for everything else, and a summary at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from etacore.accuracy import COLUMNS, AccuracyReport
from etacore.loop.latency import MetricSnapshot
from etacore.models.short_ids import short_ids, shorten

PLAIN_INTERVAL_S: Final = 5.0
ACCENT: Final = "cyan"
QUIET: Final = "bright_black"
MARGIN: Final = (0, 1)
HEADER_ROWS: Final = 3
FRAME_ROWS: Final = 2
"""Border of a panel."""
STOPS_FRAME_ROWS: Final = FRAME_ROWS + 1
"""Border and headings."""
LEAST_FIGURES: Final = 10
LEAST_STOPS_ROWS: Final = 15
LEAST_PANEL_COLUMNS: Final = 26
PANEL_COLUMNS: Final = 4
"""Border and margin of a panel, left and right."""


@dataclass(frozen=True, slots=True)
class NextStop:
    """A stop ahead: its name, the predicted arrival in city time, and the seconds until then."""

    name: str
    arrival: datetime
    in_s: float


@dataclass(frozen=True, slots=True)
class Followed:
    """A vehicle the view follows. `color` is the route's, six hexadecimal digits."""

    vehicle_id: str
    route_id: str
    color: str
    headsign: str
    stops: tuple[NextStop, ...]


@dataclass(frozen=True, slots=True)
class DemoFrame:
    """Everything the view shows at one moment.

    Attributes
    ----------
    city_time : datetime
        Aware, in the city's zone.
    time_factor : float
        City seconds per second.
    elapsed_s, total_s : float
        Of the demo.
    n_vehicles : int
        Buses with a prediction at this moment.
    n_snapshots : int
        Snapshots sent so far.
    n_documents : int
        Prediction documents written so far.
    documents_per_s : float
        Over the last few seconds.
    stages : mapping of str to MetricSnapshot
        `etacore.loop.latency.Profiler.snapshot` of the loop.
    rejected : mapping of str to int
        Rejected inputs so far, by reason.
    followed : tuple of Followed
    accuracy : AccuracyReport or None
        Of the predictions whose bus has arrived since.
    """

    city_time: datetime
    time_factor: float
    elapsed_s: float
    total_s: float
    n_vehicles: int
    n_snapshots: int
    n_documents: int
    documents_per_s: float
    stages: Mapping[str, MetricSnapshot] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    followed: tuple[Followed, ...] = ()
    accuracy: AccuracyReport | None = None


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What the demo found out.

    Attributes
    ----------
    frame : DemoFrame
        The last one.
    n_polls : int
        Polls of the loop.
    model_key : str
        The model that predicted.
    accuracy : AccuracyReport
        All predictions against what the buses then did.
    n_unscored : int
        Predictions for a stop that the bus had reached already or never came to.
    """

    frame: DemoFrame
    n_polls: int
    model_key: str
    accuracy: AccuracyReport
    n_unscored: int


class DemoView:
    """Shows frames: live in a terminal, else a line every few seconds.

    Parameters
    ----------
    console : Console, optional
    plain : bool, optional
        Lines instead of the live view; by default what the console can do.
    """

    def __init__(self, console: Console | None = None, *, plain: bool | None = None) -> None:
        self.console: Final = console or Console()
        self.plain: Final = not self.console.is_terminal if plain is None else plain
        self._live = None if self.plain else Live(console=self.console, screen=True, auto_refresh=False)
        self._next_line_s = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, frame: DemoFrame) -> None:
        """Show a frame; plain lines leave most of them out."""
        if self._live:
            self._live.update(render(frame), refresh=True)
        elif frame.elapsed_s >= self._next_line_s:
            self._next_line_s = frame.elapsed_s - frame.elapsed_s % PLAIN_INTERVAL_S + PLAIN_INTERVAL_S
            self.say(plain_line(frame))

    def say(self, text: str) -> None:
        """Print a line, without markup and unwrapped."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def summarize(self, summary: DemoSummary) -> None:
        """Print the summary."""
        self.console.print(render_summary(summary))


def plain_line(frame: DemoFrame) -> str:
    """A frame in one line."""
    parts = [
        f"{frame.city_time:%H:%M:%S} ({frame.time_factor:g}x)",
        f"{frame.n_vehicles} buses",
        f"{frame.n_documents:,} predictions ({frame.documents_per_s:.0f}/s)",
    ]
    if latency := frame.stages.get("pipeline_latency"):
        parts.append(f"latency ms p50 {latency.p50_ms:.1f} p95 {latency.p95_ms:.1f} p99 {latency.p99_ms:.1f}")
    parts.append(f"rejected {sum(frame.rejected.values()):,}")
    if frame.accuracy and frame.accuracy.n:
        parts.append(f"MAE {frame.accuracy.overall.mae_s:.0f} s over {frame.accuracy.n:,} scored")
    if frame.followed and frame.followed[0].stops:
        bus = frame.followed[0]
        parts.append(f"{bus.route_id} to {bus.headsign}: {bus.stops[0].name} in {_countdown(bus.stops[0].in_s)}")
    return " | ".join(parts)


def render(frame: DemoFrame) -> RenderableType:
    """A frame as a full screen of any size, best from 80 columns and 24 rows on."""
    return _Screen(frame)


@dataclass(frozen=True, slots=True)
class _Screen:
    frame: DemoFrame

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Figures as tall as they need to be, and the followed buses in all rows that are left."""
        width, height = options.max_width, options.height or console.height
        frame = self.frame
        loop, accuracy = _loop_rows(frame), _accuracy_rows(frame)
        tallest = max(len(loop), len(accuracy), len(frame.rejected))
        n_rows = max(LEAST_FIGURES, min(tallest, height - HEADER_ROWS - FRAME_ROWS - LEAST_STOPS_ROWS))
        n_stops = height - HEADER_ROWS - n_rows - FRAME_ROWS - STOPS_FRAME_ROWS
        page = Layout()
        page.split_column(
            Layout(_header(frame), name="header", size=HEADER_ROWS),
            Layout(_stops_panel(frame, width, max(n_stops, 1)), name="stops", ratio=1),
            Layout(name="figures", size=n_rows + FRAME_ROWS),
        )
        panels = {
            "the loop": _pairs(loop),
            "accuracy so far": _pairs(accuracy[:n_rows]) if accuracy else _quiet("no bus has arrived yet"),
            "rejected, by reason": _rejected_table(frame.rejected, n_rows),
        }
        titles = list(panels)
        n_shown = max(1, min(width // LEAST_PANEL_COLUMNS, len(panels)))
        hidden = f"hidden: {', '.join(titles[n_shown:])}" if n_shown < len(panels) else None
        page["figures"].split_row(
            *(
                Layout(_panel(title.capitalize(), panels[title], hidden if title == titles[n_shown - 1] else None))
                for title in titles[:n_shown]
            )
        )
        yield from page.__rich_console__(console, options)


def _header(frame: DemoFrame) -> RenderableType:
    line = Table.grid(expand=True, padding=MARGIN)
    line.add_column()
    line.add_column(justify="right")
    clock = Text.assemble(
        ("etacore", f"bold {ACCENT}"),
        ("   city time ", QUIET),
        (f"{frame.city_time:%a %H:%M:%S}", "bold"),
        (f"   {frame.time_factor:g}x real time", QUIET),
    )
    left_s = max(frame.total_s - frame.elapsed_s, 0.0)
    line.add_row(clock, Text(f"{left_s:.0f} s left", style=QUIET))
    bar = ProgressBar(frame.total_s, min(frame.elapsed_s, frame.total_s), style=QUIET, complete_style=ACCENT)
    return Group(line, Text(""), bar)


def _stops_panel(frame: DemoFrame, width: int, n_rows: int) -> RenderableType:
    buses = _chosen(frame.followed, n_rows)
    if not buses:
        return _panel("Next stops", _quiet("waiting for the first predictions ..."))
    shown = {name: [cell(bus) for bus in buses] for name, cell in STOP_CELLS.items()}
    widths = {name: max([len(name), *map(cell_len, map(str, cells))]) for name, cells in shown.items()}
    hidden = []
    for names in STOPS_DROPPED:
        if sum(widths.values()) + 2 * len(widths) + PANEL_COLUMNS <= width:
            break
        hidden.append(names[0])
        for name in names:
            del widths[name]
    table = Table(box=None, expand=True, padding=MARGIN, header_style=QUIET)
    for name, least in widths.items():
        is_time = name in ("in", "then in")
        is_name = name in ("to", "next stop", "then")
        table.add_column(
            "in" if is_time else name,
            no_wrap=True,
            min_width=None if is_name else least,
            ratio=least if is_name else None,
            justify="right" if is_time else "left",
        )
    for row in zip(*(shown[name] for name in widths), strict=True):
        table.add_row(*row)
    note = f"wider than {width} columns: {', '.join(hidden)} hidden" if hidden else None
    return _panel("Next stops", table, note)


def _chosen(followed: Sequence[Followed], n: int) -> list[Followed]:
    """So many buses: the first of each route, then second ones, in the order in which they came."""
    seen: Counter[str] = Counter()
    turns = []
    for i, bus in enumerate(followed):
        if bus.stops:
            turns.append((seen[bus.route_id], i))
            seen[bus.route_id] += 1
    return [followed[i] for i in sorted(i for _, i in sorted(turns)[:n])]


def _badge(bus: Followed) -> Text:
    return Text(f" {bus.route_id.replace('_', '')[:3]} ", style=f"bold white on #{bus.color}")


def _then(bus: Followed) -> NextStop | None:
    return bus.stops[1] if len(bus.stops) > 1 else None


STOP_CELLS: Final[dict[str, Callable[[Followed], Text]]] = {
    "route": _badge,
    "to": lambda bus: Text(bus.headsign),
    "next stop": lambda bus: Text(bus.stops[0].name, style="bold"),
    "at": lambda bus: Text(f"{bus.stops[0].arrival:%H:%M:%S}"),
    "in": lambda bus: Text(_countdown(bus.stops[0].in_s), style=f"bold {ACCENT}"),
    "then": lambda bus: Text(then.name if (then := _then(bus)) else ""),
    "then in": lambda bus: Text(_countdown(then.in_s) if (then := _then(bus)) else "", style=ACCENT),
}
STOPS_DROPPED: Final = (("then", "then in"), ("to",), ("at",))
"""Columns that go when the terminal is narrow, the least important first."""


def _loop_rows(frame: DemoFrame) -> list[tuple[str, str]]:
    rows = [
        ("buses", f"{frame.n_vehicles:,}"),
        ("snapshots", f"{frame.n_snapshots:,}"),
        ("predictions", f"{frame.n_documents:,}"),
        ("  per second", f"{frame.documents_per_s:,.0f}"),
    ]
    if latency := frame.stages.get("pipeline_latency"):
        rows += [
            ("latency p50", f"{latency.p50_ms:.2f} ms"),
            ("  p95", f"{latency.p95_ms:.2f} ms"),
            ("  p99", f"{latency.p99_ms:.2f} ms"),
        ]
    names = {"redis_fetch": "fetch, a bus", "eta_inference": "predict", "redis_write": "write"}
    rows += [
        (name, f"{frame.stages[stage].avg_ms * 1000:.0f} µs") for stage, name in names.items() if stage in frame.stages
    ]
    return rows


def _accuracy_rows(frame: DemoFrame) -> list[tuple[str, str]]:
    report = frame.accuracy
    if report is None or not report.n:
        return []
    whole = report.overall
    rows = [
        ("scored", f"{report.n:,}"),
        ("mean error", f"{whole.mae_s:.0f} s"),
        ("median error", f"{whole.median_ae_s:.0f} s"),
        ("bias", f"{whole.bias_s:+.0f} s"),
        ("within 60 s", f"{whole.within_60s:.0%}"),
        ("within 120 s", f"{whole.within_120s:.0%}"),
    ]
    return rows + [(f"  {piece.label} min ahead", f"{piece.mae_s:.0f} s") for piece in report.by_minutes if piece.n]


def _rejected_table(rejected: Mapping[str, int], n_shown: int) -> RenderableType:
    if not rejected:
        return _quiet("none")
    rows = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
    if len(rows) > n_shown:
        rest = rows[n_shown - 1 :]
        rows = [*rows[: n_shown - 1], (f"{len(rest)} more reasons", sum(n for _, n in rest))]
    return _pairs([(name.replace("_", " "), f"{n:,}") for name, n in rows])


def render_summary(summary: DemoSummary) -> RenderableType:
    """The summary: what was done, how right the predictions were, and what was rejected."""
    frame = summary.frame
    done = Text.assemble(
        (f"\n{frame.n_documents:,}", "bold"),
        f" predictions for {frame.n_vehicles} buses in {summary.n_polls:,} polls, ",
        (f"{frame.elapsed_s:.0f} s", "bold"),
        f" ({frame.elapsed_s * frame.time_factor / 60:.0f} minutes of city time)\n",
        ("model ", QUIET),
        f"{short_ids([summary.model_key])[summary.model_key]} {shorten(summary.model_key)}",
    )
    table = Table(
        title="Predicted arrivals, against what the buses then did",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right", no_wrap=True)
    *pieces, whole = summary.accuracy.rows()
    for row in pieces:
        table.add_row(*row)
    table.add_section()
    table.add_row(*whole, style="bold")
    notes = Text(
        f"The buses drove on until the last predicted stop. Not scored: {summary.n_unscored:,} predictions for a "
        "stop that the bus had just reached or left from, or never came to.",
        style=QUIET,
    )
    rejected = Table(title="Rejected inputs", box=box.SIMPLE_HEAD, title_justify="left")
    rejected.add_column("reason")
    rejected.add_column("times", justify="right")
    for name, n in sorted(frame.rejected.items(), key=lambda item: (-item[1], item[0])):
        rejected.add_row(name.replace("_", " "), f"{n:,}")
    return Group(done, Text(""), table, notes, Text(""), rejected)


def _panel(title: str, content: RenderableType, note: str | None = None) -> Panel:
    return Panel(
        content,
        title=Text(title, style="bold"),
        title_align="left",
        subtitle=None if note is None else Text(note, style="dim"),
        subtitle_align="right",
        border_style=QUIET,
        box=box.ROUNDED,
    )


def _quiet(text: str) -> Text:
    return Text(text, style=QUIET)


def _pairs(rows: list[tuple[str, str]]) -> Table:
    """Names and values; without room the names lose their ends, never the values."""
    table = Table.grid(expand=True, padding=MARGIN)
    table.add_column(style=QUIET, no_wrap=True, ratio=1)
    table.add_column(justify="right", no_wrap=True, width=max((len(value) for _, value in rows), default=0))
    for name, value in rows:
        table.add_row(name, value)
    return table


def _countdown(seconds: float) -> str:
    whole = max(int(seconds), 0)
    return "now" if whole < 10 else f"{whole // 60}:{whole % 60:02d}"
