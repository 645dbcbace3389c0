"""The report computes what it prints, and an overrun or a missing figure cannot pass."""

from __future__ import annotations

import json

import pytest

from benchmarks.report import BUDGETS, Budget, Figure, judge, main, markdown, read_budgets, read_figures, rows

LOOP = Figure("loop", 100, "etacore", "us/vehicle", 20.0)
PEER = Figure("loop", 100, "peer", "us/vehicle", 50.0)


def entry(stage, side, size, median_s, unit="us/vehicle", **extra):
    return {
        "stats": {"median": median_s},
        "extra_info": {"stage": stage, "side": side, "size": size, "unit": unit, **extra},
    }


def test_a_median_is_divided_by_the_size_of_the_work():
    figures = read_figures({"benchmarks": [entry("loop", "etacore", 100, 2e-3), entry("loop", "peer", 100, 5e-3)]})
    assert figures == [LOOP, PEER]


def test_a_reported_value_replaces_the_time():
    (figure,) = read_figures({"benchmarks": [entry("memory", "etacore", 10, 2e-3, "MB", value=99.5)]})
    assert figure == Figure("memory", 10, "etacore", "MB", 99.5)


@pytest.mark.parametrize(("limit", "within"), [(20.0, True), (19.9, False)])
def test_an_absolute_budget(limit, within):
    (verdict,) = judge([LOOP], [Budget("b", "loop", 100, at_most=limit)])
    assert (verdict.measured, verdict.within) == (20.0, within)


@pytest.mark.parametrize(("limit", "within"), [(2.5, True), (2.6, False)])
def test_a_ratio_to_a_peer(limit, within):
    (verdict,) = judge([LOOP, PEER], [Budget("b", "loop", 100, peer="peer", times_as_fast=limit)])
    assert (verdict.measured, verdict.within) == (2.5, within)


@pytest.mark.parametrize(
    "budget",
    [
        Budget("another size", "loop", 10, at_most=1e9),
        Budget("another stage", "engine", 100, at_most=1e9),
        Budget("no such peer", "loop", 100, peer="nobody", times_as_fast=0.001),
    ],
)
def test_what_was_not_measured_is_over_budget(budget):
    (verdict,) = judge([LOOP, PEER], [budget])
    assert (verdict.measured, verdict.within) == (None, False)


@pytest.mark.parametrize(
    "limits", [{}, {"at_most": 1.0, "peer": "p", "times_as_fast": 1.0}, {"times_as_fast": 1.0}, {"peer": "p"}]
)
def test_a_budget_says_one_thing(limits):
    with pytest.raises(ValueError, match="needs either"):
        Budget("b", "loop", 100, **limits)


def test_a_row_names_the_peer_and_how_many_times_as_fast():
    assert rows([LOOP, PEER]) == [("loop", "100", "20.00", "us/vehicle", "peer", "50.00", "2.50")]
    assert rows([LOOP])[0][4:] == ("", "", "")


def test_markdown_shows_an_overrun():
    verdicts = judge([LOOP], [Budget("too slow", "loop", 100, at_most=1.0)])
    assert "| too slow | at most 1 | 20.00 | **over** |" in markdown([LOOP], verdicts, "a machine")


def test_the_budgets_hold_what_was_promised():
    promised = {
        (b.stage, b.size): b.at_most or b.times_as_fast
        for b in read_budgets(BUDGETS)
        if b.stage in ("engine without inference", "estimator", "loop", "memory", "import")
    }
    assert promised == {
        ("engine without inference", 10_000): 5.0,
        ("estimator", 1): 60.0,
        ("loop", 10_000): 1.5,
        ("memory", 100_000): 150.0,
        ("import", 1): 0.5,
    }


def report_of(budgets, slow=1.0):
    """A report in which everything takes `slow` times what it may."""
    entries = []
    for budget in budgets:
        if budget.at_most is not None:
            entries.append(entry(budget.stage, "etacore", budget.size, 1.0, value=budget.at_most * slow))
        else:
            entries.append(entry(budget.stage, budget.side, budget.size, 1.0, value=1.0 * slow))
            entries.append(entry(budget.stage, budget.peer, budget.size, 1.0, value=budget.times_as_fast))
    return {"benchmarks": entries}


@pytest.mark.parametrize(("slow", "code"), [(1.0, 0), (1.01, 1)])
def test_the_exit_code_tells(tmp_path, capsys, slow, code):
    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps(report_of(read_budgets(), slow)))
    assert main(["--json", str(measured), "--results", str(tmp_path / "results")]) == code
    summary = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert all(verdict["within"] is (code == 0) for verdict in summary["budgets"])
    assert ("over budget" in capsys.readouterr().err) is (code == 1)
    assert "| loop |" in (tmp_path / "results" / "bench.md").read_text()
