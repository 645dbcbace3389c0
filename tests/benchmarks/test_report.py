"""The report computes what it prints, and an overrun or a missing figure cannot pass."""

from __future__ import annotations

import json

import pytest

from benchmarks.figures import BUDGETS, Budget, Figure, Ratio, by_size, judge, ratio, read_budgets, read_figures
from benchmarks.picture import draw
from benchmarks.report import budget_table, describe_machine, main, markdown, number, rows, tables

LOOP = Figure("loop", 100, "etacore", "us/vehicle", 20.0)
PEER = Figure("loop", 100, "peer", "us/vehicle", 50.0)


def entry(stage, side, size, median_s, unit="us/vehicle", **extra):
    return {
        "stats": {"median": median_s},
        "extra_info": {"stage": stage, "side": side, "size": size, "unit": unit, **extra},
    }


def in_turns(stage, size, **rounds):
    """An entry of a benchmark in which sides took turns."""
    figures = [
        {"stage": stage, "side": side, "size": size, "unit": "us/vehicle", "rounds": taken}
        for side, taken in rounds.items()
    ]
    return {"stats": {"median": 1.0}, "extra_info": {"figures": figures}}


# -- figures ------------------------------------------------------------------------------------------------------


def test_a_median_is_divided_by_the_size_of_the_work():
    figures = read_figures({"benchmarks": [entry("loop", "etacore", 100, 2e-3), entry("loop", "peer", 100, 5e-3)]})
    assert figures == [LOOP, PEER]


def test_a_reported_value_replaces_the_time():
    (figure,) = read_figures({"benchmarks": [entry("memory", "etacore", 10, 2e-3, "MB", value=99.5)]})
    assert figure == Figure("memory", 10, "etacore", "MB", 99.5)


def test_rounds_taken_in_turns_become_a_figure_for_each_side():
    ours, theirs = read_figures({"benchmarks": [in_turns("loop", 10, etacore=[1.0, 9.0, 2.0], peer=[4.0, None, 6.0])]})
    assert (ours.side, ours.value, ours.rounds) == ("etacore", 2.0, (1.0, 9.0, 2.0))
    assert (theirs.side, theirs.value) == ("peer", 5.0)


def test_rounds_are_compared_with_their_like():
    """A neighbour that makes a round slow for both leaves the ratio alone."""
    own = Figure("loop", 10, "etacore", "us/vehicle", 1.0, (1.0, 10.0, 1.0, 1.0, 10.0))
    peer = Figure("loop", 10, "peer", "us/vehicle", 4.0, (3.0, 40.0, 4.0, None, 50.0))
    assert ratio(own, peer) == Ratio(4.0, 3.75, 4.25)


def test_without_common_rounds_medians_are_compared():
    assert ratio(LOOP, PEER) == Ratio(2.5)
    once = Figure("loop", 100, "peer", "us/vehicle", 50.0, (50.0, None))
    assert ratio(Figure("loop", 100, "etacore", "us/vehicle", 20.0, (20.0, 21.0)), once) == Ratio(2.5)


# -- budgets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "within"), [(20.0, True), (19.9, False)])
def test_an_absolute_budget(limit, within):
    (verdict,) = judge([LOOP], [Budget("b", "loop", 100, at_most=limit)])
    assert (verdict.measured, verdict.within) == (20.0, within)


@pytest.mark.parametrize(("limit", "within"), [(2.5, True), (2.6, False)])
def test_a_ratio_to_a_peer(limit, within):
    (verdict,) = judge([LOOP, PEER], [Budget("b", "loop", 100, peer="peer", times_as_fast=limit)])
    assert (verdict.measured, verdict.within) == (2.5, within)


def test_a_ratio_of_another_side():
    budget = Budget("b", "loop", 100, side="peer", peer="etacore", times_as_fast=0.5)
    (verdict,) = judge([LOOP, PEER], [budget])
    assert (verdict.measured, verdict.within) == (0.4, False)


@pytest.mark.parametrize(
    "budget",
    [
        Budget("another size", "loop", 10, at_most=1e9),
        Budget("another stage", "engine", 100, at_most=1e9),
        Budget("no such peer", "loop", 100, peer="nobody", times_as_fast=0.001),
        Budget("with a goal", "loop", 10, at_most=1e9, goal=1.0),
    ],
)
def test_what_was_not_measured_is_over_budget(budget):
    (verdict,) = judge([LOOP, PEER], [budget])
    assert (verdict.measured, verdict.within, verdict.missed_by) == (None, False, None)


@pytest.mark.parametrize(
    "limits", [{}, {"at_most": 1.0, "peer": "p", "times_as_fast": 1.0}, {"times_as_fast": 1.0}, {"peer": "p"}]
)
def test_a_budget_says_one_thing(limits):
    with pytest.raises(ValueError, match="needs either"):
        Budget("b", "loop", 100, **limits)


@pytest.mark.parametrize(
    ("limits", "missed_by"),
    [
        ({"peer": "peer", "times_as_fast": 2.0, "goal": 5.0}, 0.5),
        ({"peer": "peer", "times_as_fast": 2.0, "goal": 2.5}, 0.0),
        ({"at_most": 30.0, "goal": 16.0}, 0.25),
        ({"at_most": 30.0, "goal": 20.0}, 0.0),
        ({"at_most": 30.0}, None),
    ],
)
def test_a_goal_that_is_missed_is_said_and_fails_nothing(limits, missed_by):
    verdicts = judge([LOOP, PEER], [Budget("b", "loop", 100, **limits)])
    assert verdicts[0].within
    assert verdicts[0].missed_by == missed_by
    said = {None: "", 0.0: "reached"}.get(missed_by, f"missed by {100 * (missed_by or 0):.0f} %")
    assert budget_table(verdicts).rows[0][-1] == said


@pytest.mark.parametrize("limits", [{"at_most": 10.0, "goal": 11.0}, {"peer": "p", "times_as_fast": 2.0, "goal": 1.9}])
def test_a_goal_is_no_laxer_than_the_limit(limits):
    with pytest.raises(ValueError, match="laxer"):
        Budget("b", "loop", 100, **limits)


def test_the_budgets_aim_at_what_was_promised():
    aims = {(b.stage, b.size, b.side, b.peer): b.goal or b.at_most or b.times_as_fast for b in read_budgets(BUDGETS)}
    xgboost, portable = "XGBoost inplace_predict", "etacore, portable path"
    promised = {
        ("predict", 500, "etacore", xgboost): 10.0,
        ("predict", 10_000, "etacore", "tl2cgen"): 20.0,
        ("predict random rows", 10_000, "etacore", "tl2cgen"): 20.0,
        ("predict", 5, "etacore", xgboost): 100.0,
        ("predict", 5, "etacore", "tl2cgen Predictor"): 8.0,
        ("predict", 10_000, portable, xgboost): 2.0,
        ("engine", 10_000, "etacore", "tuned Python"): 15.0,
        ("engine", 10_000, "etacore", None): 2.5,
        ("loop", 10_000, "etacore", "Redis floor"): 0.7,
        ("loop", 100_000, "etacore", "Redis floor"): 0.7,
        ("loop", 10_000, "etacore", "tuned Python"): 10.0,
        ("loop", 100_000, "etacore", "tuned Python"): 10.0,
        ("estimator", 1, "etacore", None): 15.0,
        ("memory of the vehicles' state", 1_000_000, "etacore", None): 500.0,
        ("memory of the loop's process", 100_000, "etacore", None): 150.0,
        ("import", 1, "etacore", None): 0.5,
    }
    assert {name: aims.get(name) for name in promised} == promised


# -- tables -------------------------------------------------------------------------------------------------------


def test_a_row_names_the_peer_and_how_many_times_as_fast():
    assert rows([LOOP, PEER]) == [("loop", "100", "20.0", "us/vehicle", "peer", "50.0", "2.50")]
    assert rows([LOOP])[0][4:] == ("", "", "")


def fleets(stage, sizes=(1, 10, 100_000)):
    ours = [Figure(stage, size, "etacore", "us/vehicle", 2.0 * size) for size in sizes]
    return [*ours, *(Figure(stage, size, "peer", "us/vehicle", 8.0 * size) for size in sizes[:2])]


def test_stages_of_the_same_sizes_share_a_table():
    figures = [*fleets("loop"), *fleets("engine"), *fleets("forest", (5, 50, 500)), *fleets("once", (7,))]
    assert by_size(figures) == {(1, 10, 100_000): ["loop", "engine"], (5, 50, 500): ["forest"]}
    by_fleet, by_rows, single = tables(figures)
    assert by_fleet.head == ("stage", "", "1", "10", "100 000")
    assert by_fleet.rows[:2] == [
        ("loop", "etacore", "2.00", "20.0", "200 000"),
        ("", "peer", "8.00 (4)", "80.0 (4)", ""),
    ]
    assert [row[0] for row in by_fleet.rows] == ["loop", "", "engine", ""]
    assert len(by_rows.rows) == 2
    assert [row[:2] for row in single.rows] == [("once", "7")]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0512, "0.051"), (2.345, "2.35"), (23.45, "23.4"), (234.5, "234"), (2345.6, "2 346")]
)
def test_numbers_keep_three_digits(value, text):
    assert number(value) == text


def test_markdown_shows_an_overrun_and_a_missed_goal():
    budgets = [Budget("slow", "loop", 100, at_most=1.0), Budget("far", "loop", 100, at_most=30.0, goal=10.0)]
    text = markdown([LOOP], judge([LOOP], budgets), "a machine")
    assert "| slow | at most 1 | 20.00 |  | **over** |  |" in text
    assert "| far | at most 30 | 20.00 | 10 | ok | missed by 100 % |" in text
    assert "a machine" in text
    assert "| loop | 100 | 20.0 | us/vehicle |" in text


def test_markdown_shows_the_spread_and_what_is_missing():
    figures = read_figures({"benchmarks": [in_turns("loop", 10, etacore=[1.0, 1.0, 1.0], peer=[2.0, 3.0, 4.0])]})
    budgets = [Budget("b", "loop", 10, peer="peer", times_as_fast=1.0), Budget("c", "gone", 1, at_most=1.0)]
    text = markdown(figures, judge(figures, budgets), "")
    assert "| at least 1 times peer | 3.00 (2.50 to 3.50) |" in text
    assert "| c | at most 1 | not measured |  | **over** |  |" in text


def test_the_machine_is_the_one_that_measured():
    info = {"cpu": {"brand_raw": "A CPU", "count": 3}, "python_version": "3.12.1", "versions": {"numpy": "2.9"}}
    report = {"machine_info": {**info, "forest_path": "avx2"}, "datetime": "2026-02-03T04:05:06"}
    assert describe_machine(report) == "A CPU, 3 CPUs, forest path avx2, Python 3.12.1, numpy 2.9, 2026-02-03"
    assert describe_machine({}) == ""


# -- the picture --------------------------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_picture_is_drawn_from_what_there_is():
    forest = [Figure("predict", n, "XGBoost inplace_predict", "us/row", 2.0) for n in (5, 500)]
    both, one = draw([*fleets("loop"), *forest], "a machine"), draw(forest, "a machine")
    assert both is not None
    assert one is not None
    assert both.startswith(PNG)
    assert one.startswith(PNG)
    width = [int.from_bytes(picture[16:20], "big") for picture in (both, one)]
    assert width[0] == 2 * width[1], "a panel without figures is left out"


def test_there_is_no_picture_of_nothing():
    assert draw([Figure("import", 1, "etacore", "s", 0.2)], "a machine") is None


# -- the command --------------------------------------------------------------------------------------------------


def report_of(budgets, slow=1.0):
    """A report in which everything takes `slow` times what it may."""
    values = {}
    for budget in budgets:
        if budget.at_most is not None:
            values.setdefault((budget.stage, budget.side, budget.size), budget.at_most)
    for budget in sorted(budgets, key=lambda budget: budget.side != "etacore"):
        if budget.times_as_fast is not None:
            own, peer = ((budget.stage, side, budget.size) for side in (budget.side, budget.peer))
            if peer in values:
                values[own] = values[peer] / budget.times_as_fast
            else:
                values[peer] = values.setdefault(own, 1.0) * budget.times_as_fast
    ours = {(budget.stage, budget.side, budget.size) for budget in budgets}
    return {
        "benchmarks": [
            entry(stage, side, size, 1.0, value=value * (slow if (stage, side, size) in ours else 1.0))
            for (stage, side, size), value in values.items()
        ]
    }


@pytest.mark.parametrize(("slow", "code"), [(0.999, 0), (1.01, 1)])
def test_the_exit_code_tells(tmp_path, capsys, slow, code):
    measured, results, picture = tmp_path / "measured.json", tmp_path / "results", tmp_path / "speed.png"
    measured.write_text(json.dumps(report_of(read_budgets(), slow)))
    assert main(["--json", str(measured), "--results", str(results), "--picture", str(picture)]) == code
    summary = json.loads((results / "bench.json").read_text())
    assert all(verdict["within"] is (code == 0) for verdict in summary["budgets"])
    assert summary["command"] == "python -m benchmarks.report"
    assert ("over budget" in capsys.readouterr().err) is (code == 1)
    assert "| loop |" in (results / "bench.md").read_text()
    assert (results / "bench.png").read_bytes() == picture.read_bytes()
    assert picture.read_bytes().startswith(PNG)


def test_without_figures_to_draw_no_picture_is_written(tmp_path, capsys):
    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps({"benchmarks": [entry("import", "etacore", 1, 0.2, "s", value=0.2)]}))
    assert main(["--json", str(measured), "--results", str(tmp_path)]) == 1, "all other figures are missing"
    assert not (tmp_path / "bench.png").exists()
    assert "not measured" in capsys.readouterr().err
