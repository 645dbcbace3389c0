"""The demo's view: everything it has to show is on a screen of any size, and in plain lines without one."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pytest
from rich.console import Console

from etacore.accuracy import score
from etacore.demo.buses import Run, drive_day, vehicle_id
from etacore.demo.city import TIME_ZONE, City, build_city
from etacore.demo.follow import Follower
from etacore.demo.timetable import build_timetable
from etacore.demo.view import DemoFrame, DemoSummary, DemoView, Followed, NextStop, plain_line, render
from etacore.loop.latency import MetricSnapshot
from etacore.models.short_ids import short_ids, shorten

NOW = datetime(2026, 3, 3, 17, 5, tzinfo=ZoneInfo(TIME_ZONE))
FRAME = DemoFrame(
    city_time=NOW,
    time_factor=20.0,
    elapsed_s=12.0,
    total_s=30.0,
    n_vehicles=71,
    n_snapshots=5432,
    n_documents=1234,
    documents_per_s=187.0,
    stages={"pipeline_latency": MetricSnapshot("pipeline_latency", 9, 1.0, 9.0, 3.0, 1.25, 4.5, 8.75)},
    rejected={"invalid_json": 12, "wrong_type": 2},
    followed=tuple(
        Followed(
            f"bus-{1000 + k}",
            f"{k}0",
            "C0392B",
            f"Terminal {k}",
            tuple(NextStop(f"Acacia Av / {k}{n}th St", NOW, 60.0 * n + 5) for n in range(1, 6)),
        )
        for k in range(1, 8)
    ),
    accuracy=score([100.0, 200.0, 400.0], [110.0, 190.0, 460.0]),
)


def screen(frame: DemoFrame, width: int = 100, height: int = 30) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(render(frame), height=height)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue().rstrip("\n").split("\n")


def test_a_screen_of_100_by_30_holds_it_all():
    lines = screen(FRAME)
    assert len(lines) == 30
    assert max(map(len, lines)) == 100
    text = "\n".join(lines)
    for shown in (
        "Tue 17:05:00", "20x", "18 s left", "Terminal 7", "Acacia Av / 11th St", "1:05", "2:05",
        "71", "1,234", "187", "1.25 ms", "4.50 ms", "8.75 ms", "invalid json", "wrong type", "27 s",
    ):  # fmt: skip
        assert shown in text, f"{shown}\n{text}"


BUSY = replace(
    FRAME,
    n_snapshots=1_234_567,
    n_documents=7_654_321,
    rejected={f"a rather long reason {k:02d}": 12_345 + k for k in range(16)},
    stages={"pipeline_latency": MetricSnapshot("pipeline_latency", 9, 1.0, 9.0, 3.0, 1.25, 1234.5, 8.75)},
    followed=tuple(replace(bus, vehicle_id=f"{bus.vehicle_id}-{n}") for n in range(5) for bus in FRAME.followed),
)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (120, 40), (160, 50)])
def test_every_number_is_whole_at_any_size(width, height):
    lines = screen(BUSY, width, height)
    text = "\n".join(lines)
    assert (len(lines), max(map(len, lines))) == (height, width)
    for number in ("1,234,567", "7,654,321", "1234.50 ms", "12,360", "12,354", "17:05:00", "1:05"):
        assert number in text, f"{number}\n{text}"
    assert "Acacia Av / 11th St" in text


def test_a_tall_screen_is_filled_with_buses_and_reasons():
    lines = screen(BUSY, 160, 50)
    assert sum("Terminal" in line for line in lines) == 26
    assert sum("a rather long reason" in line for line in lines) == 16
    assert not [line for line in lines[4:31] if not line.strip(" │")], "blank rows"


def test_a_small_screen_shows_a_bus_of_each_route_first():
    rows = [line.split()[1] for line in screen(BUSY, 80, 24) if "Terminal" in line]
    assert rows == ["10", "20", "30", "40", "50", "60"]


@pytest.mark.parametrize(
    ("width", "hidden"),
    [(160, ()), (80, ("80 columns: then hidden",)), (60, ("then hidden", "hidden: rejected, by"))],
)
def test_what_has_no_room_is_named(width, hidden):
    text = "\n".join(screen(BUSY, width, 24))
    assert all(note in text for note in hidden), text
    assert text.count("hidden") == len(hidden)


def test_the_first_moment_has_nothing_to_show_yet():
    text = "\n".join(screen(replace(FRAME, followed=(), accuracy=score([], []), rejected={}, stages={}, n_documents=0)))
    assert "waiting for the first predictions" in text
    assert "no bus has arrived yet" in text


def test_many_reasons_are_cut_to_the_panel_and_lose_no_count():
    rejected = {f"reason_{k:02d}": 100 - k for k in range(20)}
    text = "\n".join(screen(replace(FRAME, rejected=rejected)))
    assert "reason 08" in text
    assert "reason 09" not in text
    assert "11 more reasons" in text
    assert str(sum(100 - k for k in range(9, 20))) in text.replace(",", "")


def test_names_from_a_feed_are_not_taken_for_markup():
    bus = replace(FRAME.followed[0], headsign="[bold]x[/", stops=(NextStop("[red]y", NOW, 61.0),))
    text = "\n".join(screen(replace(FRAME, followed=(bus,))))
    assert "[bold]x[/" in text
    assert "[red]y" in text
    assert "[red]y in 1:01" in plain_line(replace(FRAME, followed=(bus,)))


def plain_view() -> tuple[DemoView, io.StringIO]:
    output = io.StringIO()
    return DemoView(Console(file=output, width=80)), output


def test_without_a_terminal_it_prints_a_line_every_five_seconds():
    view, output = plain_view()
    with view:
        assert view.plain
        for elapsed_s in (0.2, 0.5, 4.9, 5.1, 9.9, 10.0, 12.0):
            view.show(replace(FRAME, elapsed_s=elapsed_s))
    lines = output.getvalue().splitlines()
    assert len(lines) == 3
    for shown in ("17:05:00 (20x)", "71 buses", "1,234 predictions (187/s)", "p95 4.5", "rejected 14", "over 3 scored"):
        assert shown in lines[0]
    assert "\x1b" not in output.getvalue()


def test_a_terminal_gets_the_live_view_and_is_given_back():
    output = io.StringIO()
    view = DemoView(Console(file=output, width=100, height=30, force_terminal=True))
    with view:
        view.show(FRAME)
    enter, leave = "\x1b[?1049h", "\x1b[?1049l"
    assert output.getvalue().index(enter) < output.getvalue().index("Terminal 7") < output.getvalue().index(leave)


def test_plain_can_be_asked_for_in_a_terminal():
    assert DemoView(Console(file=io.StringIO(), force_terminal=True), plain=True).plain


def test_the_summary_scores_by_minutes_ahead_and_rejects_by_reason():
    view, output = plain_view()
    actual_s = np.array([100.0, 250.0, 500.0, 800.0])
    view.summarize(DemoSummary(FRAME, 48, "a-model", score(actual_s + 30.0, actual_s), 17))
    text = output.getvalue()
    for shown in ("1,234 predictions", "48 polls", "a-model", "0-3", "3-6", "6-10", "10-15", "30.0", "17 pred"):
        assert shown in text, text
    assert "invalid json" in text
    assert "…" not in text


def test_the_summary_breaks_no_key():
    key = "xgboost_simulated_city_spatial-temporal_global_20261122_171029_colsample_bytree=0.8_learning_rate=0.1"
    view, output = plain_view()
    view.summarize(DemoSummary(FRAME, 48, key, score([100.0], [90.0]), 0))
    (line,) = [line for line in output.getvalue().splitlines() if line.startswith("model ")]
    assert line.split()[1:] == [short_ids([key])[key], shorten(key)]


@pytest.fixture(scope="module")
def city() -> City:
    return build_city(7)


@pytest.fixture(scope="module")
def runs(city: City) -> list[Run]:
    return drive_day(city, build_timetable(city), NOW.date(), seed=1)


def document(city: City, run: Run, first: int, late_s: float, **changes: object) -> bytes:
    """What the loop would write just before the bus reaches stop `first`, were it `late_s` too pessimistic."""
    pattern = city.patterns[run.trip.pattern_ix]
    sample_s = run.arrival_s[first] - 30.0
    stops = [
        {
            "stop_id": city.stops[pattern.stop_ix[k]].stop_id,
            "stop_sequence": int(pattern.stop_sequence[k]),
            "eta_seconds": round(float(run.arrival_s[k] + late_s - sample_s), 1),
            "eta_timestamp": datetime.fromtimestamp(run.arrival_s[k] + late_s, NOW.tzinfo).isoformat(),
        }
        for k in range(first, first + 3)
    ]
    base = {
        "vehicle_id": vehicle_id(run.trip.vehicle),
        "route_id": pattern.route_id,
        "trip_id": run.trip.trip_id,
        "computed_at": str(sample_s),
        "predictions": stops,
    }
    return orjson.dumps({**base, **changes})


def test_predictions_are_scored_against_the_truth_once(city: City, runs: list[Run]):
    follower = Follower(city, runs)
    blob = document(city, runs[40], 3, 20.0)
    follower.look([blob, None])
    follower.look([blob])
    report = follower.accuracy()
    assert follower.n_predicted == 1
    assert report.n == 3
    assert report.overall.bias_s == pytest.approx(20.0, abs=0.1)
    assert follower.accuracy(runs[40].arrival_s[4]).n == 2


def test_a_bus_without_a_trip_is_scored_by_its_next_visit(city: City, runs: list[Run]):
    follower = Follower(city, runs)
    follower.look([document(city, runs[40], 3, -15.0, trip_id=None)])
    assert follower.accuracy().overall.bias_s == pytest.approx(-15.0, abs=0.1)


def test_first_stops_and_strangers_are_not_scored(city: City, runs: list[Run]):
    follower = Follower(city, runs)
    follower.look([document(city, runs[40], 0, 0.0), document(city, runs[41], 3, 0.0, trip_id="unheard-of")])
    assert follower.accuracy().n == 2
    assert follower.n_unscored == 4


def test_followed_buses_are_of_different_routes_and_leave_when_their_stops_are_over(city: City, runs: list[Run]):
    follower = Follower(city, runs)
    one = {city.patterns[run.trip.pattern_ix].route_id: run for run in runs[200:260]}
    follower.look([document(city, run, 3, 0.0) for run in one.values()])
    begin_s = min(run.arrival_s[3] for run in one.values()) - 30.0
    shown = follower.followed(begin_s)
    assert len(shown) == min(len(one), 8)
    assert len({bus.route_id for bus in shown}) == len(shown)
    assert all(bus.stops[0].in_s > 0 and bus.headsign for bus in shown)
    more = Follower(city, runs, n_followed=40)
    more.look([document(city, run, 3, 0.0) for run in runs[200:260]])
    routes = [bus.route_id for bus in more.followed(begin_s)]
    assert len(routes) > len(set(routes)) == len(one), "a tall screen has room for a second bus of a route"
    assert follower.followed(max(run.arrival_s[5] for run in one.values()) + 1.0) == ()
