"""Tables, plots, JSON and files of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import orjson
import pytest
from rich.console import Console

from etacore.errors import EvaluationError
from etacore.mlops.evaluation import document, plots, report, tables
from etacore.mlops.evaluation.evaluating import Evaluation, evaluate
from etacore.mlops.evaluation.results import EvaluationConfig, Findings, RollingWindow
from etacore.mlops.evaluation.scoring import FAN_EDGES_MIN, error_fan
from etacore.mlops.metrics import METRICS, find_metric
from etacore.models.registry import Registry
from etacore.models.short_ids import short_ids
from tests.evaluation_data import dataset, linear

QUICK = EvaluationConfig(n_resamples=50)
ALL_TABLES: tuple[Callable[[Findings], tables.TextTable | None], ...] = (
    tables.leaderboard,
    tables.partial,
    tables.reasons,
    tables.eta_bands,
    tables.mbta_bands,
    tables.by_horizon,
    tables.by_route,
    tables.by_hour,
    tables.rolling,
    tables.all_metrics,
    tables.legend,
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    registry = Registry(tmp_path_factory.mktemp("registry"))
    data = dataset()
    for slope in (0.3, 0.23, 0.26):
        linear(registry, data, slope)
    linear(registry, data, 0.2, trained_on=(4,))
    linear(registry, data, 0.22, route_id="r1")
    return registry


@pytest.fixture(scope="module")
def evaluation(registry: Registry) -> Evaluation:
    active = registry.keys()[0]
    found = evaluate(dataset(), registry, replace(QUICK, active_model=active))
    windows = tuple(
        RollingWindow((date(2026, 3, 2), date(2026, 3, 3)), date(2026, 3, 4 + i), 100, {"xgboost": metrics})
        for i, metrics in enumerate([dict.fromkeys(METRICS, 40.0), dict.fromkeys(METRICS, 42.0)])
    )
    return replace(found, rolling=windows)


def test_the_document_is_what_promotion_reads(evaluation: Evaluation, registry: Registry) -> None:
    assert evaluation.kept_at is not None
    kept = orjson.loads(evaluation.kept_at.read_bytes())
    assert evaluation.kept_at.parent == registry.path / "evaluations"
    assert evaluation.kept_at.name.startswith(f"{evaluation.created_at:%Y%m%d_%H%M%S}_week")
    expected = {
        "format", "created_at", "dataset", "dataset_sha256", "test_days", "label", "metric", "minimize",
        "improvement_threshold", "active_model", "models", "baselines", "recommended", "recommendation",
    }  # fmt: skip
    assert expected <= kept.keys()
    assert (kept["format"], kept["metric"], kept["minimize"]) == (1, "test_mae_seconds", True)
    assert kept["test_days"] == ["2026-03-06", "2026-03-07"]
    assert kept["models"].keys() == set(registry.keys())
    for key, model in kept["models"].items():
        assert {"model_type", "route_id", "eligible", "reason", "n", "eta_bands", "mbta_bands"} <= model.keys()
        assert model["manifest_sha256"] == registry.manifest_sha256(key)
        assert list(model["metrics"]) == list(METRICS)
        assert (model["vs_active"] is None) == (key == kept["active_model"])
        if model["vs_active"]:
            versus = model["vs_active"]
            assert versus["low_s"] <= versus["difference_s"] <= versus["high_s"]
            assert versus["difference_s"] == pytest.approx(versus["value"] - versus["reference_value"])
    assert set(kept["baselines"]) == {"schedule", "distance_mean_speed", "historical_segment_means"}
    assert kept["recommended"] == evaluation.recommendation.key
    assert kept["why_not"].keys() == set(registry.keys()) - {kept["recommended"]}
    json.dumps(evaluation.to_dict(), allow_nan=False)
    assert len(orjson.loads(document.to_json(evaluation))["rolling"]) == 2


def test_two_evaluations_of_one_second_are_both_kept(evaluation: Evaluation, tmp_path: Path) -> None:
    odd = replace(evaluation, dataset="a/b c")
    first, second = document.keep(odd, tmp_path), document.keep(odd, tmp_path)
    assert first.name.endswith("_a_b_c.json")
    assert second.name == f"{first.stem}_2.json"
    assert sorted(path.name for path in (tmp_path / "evaluations").iterdir()) == sorted([first.name, second.name])


def test_a_folder_that_cannot_be_written_is_named(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EvaluationError, match="cannot be kept in"):
        document.keep(evaluation, tmp_path / "file")
    with pytest.raises(EvaluationError, match="cannot be written to"):
        report.write_evaluation(evaluation, tmp_path / "file")


@pytest.mark.parametrize("make", ALL_TABLES, ids=lambda make: make.__name__)
def test_rows_fit_the_headings(make: Callable[[Findings], tables.TextTable | None], evaluation: Evaluation) -> None:
    table = make(evaluation)
    assert table is not None
    assert table.rows
    assert {len(row) for row in table.rows} == {len(table.headings)}
    assert len(table.headings) <= tables.MAX_COLUMNS + 5


def test_the_leaderboard_says_who_stands_where(evaluation: Evaluation) -> None:
    table = tables.leaderboard(evaluation)
    assert table is not None
    assert [row[2] for row in table.rows] == [str(i + 1) for i in range(len(table.rows))]
    standing = {row[0]: row[1] for row in table.rows}
    assert len(standing) == 6  # four global models, two baselines that know every row
    assert standing[evaluation.result(str(evaluation.config.active_model)).title] == "active"
    assert standing["distance / mean speed"] == "baseline"
    assert sorted(standing.values()).count("not eligible") == 1
    beside = tables.partial(evaluation)
    assert beside is not None
    assert {row[0] for row in beside.rows} == {"polyreg_distance route r1", "schedule"}
    assert "cannot be compared with the leaderboard" in beside.note


def test_wide_tables_keep_who_matters(evaluation: Evaluation) -> None:
    board = evaluation.leaderboard
    more = [
        replace(board[-1], identity=replace(board[0].identity, name=f"m{i}", title=f"m{i}", kind="model"))
        for i in range(20)
    ]
    wide = replace(evaluation, results=(*more[:15], *evaluation.results, *more[15:]))
    shown = {result.name for result in tables.columns(wide)}
    assert len(shown) == tables.MAX_COLUMNS
    baselines = {result.name for result in evaluation.baselines if result.is_complete}
    assert {evaluation.config.active_model, *baselines} <= shown
    table = tables.all_metrics(wide)
    assert table is not None
    assert table.note == "18 more stand in the JSON file."


def test_markdown_has_every_section_and_whole_rows(evaluation: Evaluation) -> None:
    text = evaluation.to_markdown()
    for title in (
        "Leaderboard", "On part of the rows", "Why not the others", "ETA Accuracy Benchmark", "MBTA accuracy",
        "By horizon", "By route", "By hour", "Rolling windows", "All metrics", "Who is who",
    ):  # fmt: skip
        assert f"\n## {title}\n" in text
    assert evaluation.recommendation.text in text
    assert ".png" not in text
    assert "nan" not in text.lower()
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_a_folder_gets_report_document_and_plots(evaluation: Evaluation, tmp_path: Path) -> None:
    written = report.write_evaluation(evaluation, tmp_path / "deep" / "out")
    names = {path.name for path in written}
    assert names == {"report.md", "evaluation.json", *plots.TITLES} == {p.name for p in written[0].parent.iterdir()}
    for name in plots.TITLES:
        content = (written[0].parent / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
        assert 800 < width < 2500
        assert 300 < height < 2500
        assert f"]({name})" in (written[0].parent / "report.md").read_text()
    assert orjson.loads((written[0].parent / "evaluation.json").read_bytes())["format"] == 1


def test_the_console_shows_leaderboard_reasons_and_recommendation(evaluation: Evaluation) -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    report.print_evaluation(evaluation, console)
    text = console.export_text()
    for words in ("Leaderboard", "On part of the rows", "Why not the others", evaluation.recommendation.text[:40]):
        assert words in text


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_console_shows_whole_figures_and_ids_at_any_width(evaluation: Evaluation, width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    report.print_evaluation(evaluation, console)
    text = console.export_text()
    assert max(map(len, text.splitlines()[:-3])) <= width
    ids = short_ids(result.name for result in evaluation.models)
    board = [line for line in text.splitlines() if line.startswith(tuple(ids.values()))]
    assert len(board) >= len(ids)
    for result in evaluation.leaderboard:
        assert f" {result.metrics['mae_seconds']:.1f} s" in text
        assert all(word in text for word in result.title.split())
    assert ("columns: " in text) == (width < 200)
    assert evaluation.recommendation.key is not None
    assert f"etacore promote best, or {ids[evaluation.recommendation.key]}" in text


@pytest.mark.parametrize("metric", ["r2", "within_60s", "bias_seconds", "error_q90", "mae_minutes"])
def test_any_metric_can_be_reported(metric: str, registry: Registry) -> None:
    config = replace(QUICK, metric=metric, n_resamples=20, keep=False)
    found = evaluate(dataset(), registry, config)
    losses = [find_metric(metric).loss(result.metrics[metric]) for result in found.leaderboard]
    assert losses == sorted(losses)
    assert found.kept_at is None
    assert metric in found.to_markdown()
    assert plots.leaderboard(found) is not None


def test_without_anyone_on_the_leaderboard_the_rest_is_reported(registry: Registry) -> None:
    route_model = next(entry.key for entry in registry.entries() if entry.route_id)
    config = replace(QUICK, model_keys=(route_model,), n_test_days=6, keep=False)
    found = evaluate(dataset(), registry, config)
    assert not found.leaderboard
    assert set(plots.draw_all(found)) == set()
    assert "## On part of the rows" in found.to_markdown()
    assert "## Leaderboard" not in found.to_markdown()


def test_fans_are_quantiles_by_predicted_minutes() -> None:
    predicted = np.repeat([30.0, 400.0, 1900.0], 101)
    late = np.tile(np.arange(101.0), 3)
    fans = error_fan(predicted, predicted + late)
    assert [(fan.from_min, fan.to_min, fan.n) for fan in fans] == [(0, 1, 101), (6, 8, 101)]
    assert fans[0].quantiles_s == (5, 25, 50, 75, 95)
    assert FAN_EDGES_MIN[-1] == 30


def test_plotting_leaves_pyplot_alone() -> None:
    folder = Path(plots.__file__).parent
    assert [path.name for path in folder.glob("*.py") if "pyplot" in path.read_text()] == []
