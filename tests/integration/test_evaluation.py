"""From training to evidence: the command, what it leaves behind, and whether promotion can use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from click.testing import CliRunner, Result

from etacore.cli.app import main
from etacore.mlops.dataset.layout import read_dataset
from etacore.mlops.evaluation import EvaluationConfig, evaluate
from etacore.mlops.promotion.evidence import find_evidence
from etacore.mlops.promotion.history import Record, append_record
from etacore.mlops.training import TrainingConfig, train
from etacore.models.registry import Registry
from etacore.store.server import RedisServer
from tests.evaluation_data import dataset, linear


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def command(registry: Registry, *arguments: Any) -> Result:
    return CliRunner(env={"REDIS_HOST": None, "REDIS_URL": None, "REDIS_PORT": None}).invoke(
        main, ["evaluate", *map(str, arguments), "--model-registry-dir", str(registry.path)]
    )


def test_a_trained_model_is_evaluated_on_the_days_its_training_left_out(registry: Registry) -> None:
    data = dataset()
    trained = train(data, registry, TrainingConfig(model_types=("polyreg_distance",)))
    (model,) = trained.models
    found = evaluate(data, registry, EvaluationConfig(n_resamples=50))
    assert [str(day) for day in found.test_days] == list(trained.split["test_days"])
    result = found.result(str(model.key))
    assert result.identity.eligible
    # the number that training reported is the number of the evaluation
    reported = {name.removeprefix("test_"): v for name, v in model.metrics.items() if name.startswith("test_")}
    assert dict(result.metrics) == pytest.approx(reported, rel=1e-4)


def test_promotion_finds_the_evidence(registry: Registry) -> None:
    data = dataset()
    active, better = linear(registry, data, 0.33), linear(registry, data, 0.23)
    found = evaluate(data, registry, EvaluationConfig(active_model=active, n_resamples=200))
    assert found.recommendation.key == better
    evidence = find_evidence(registry, better, active)
    versus = found.result(better).vs_active
    assert versus is not None
    assert evidence.improvement == pytest.approx(versus.improvement)
    evaluate(data, registry, EvaluationConfig(n_resamples=20))
    assert find_evidence(registry, better, None).against == "distance_mean_speed"


def test_the_command_compares_with_the_last_promoted_model(registry: Registry, tmp_path: Path) -> None:
    data = dataset()
    active, better = linear(registry, data, 0.33), linear(registry, data, 0.23)
    append_record(registry, Record(model_key=active, promoted_at="2026-04-02T00:00:00+00:00", source="test"))
    folder = tmp_path / "out"
    done = command(registry, data.path, "--output-dir", folder, "--rolling", 1, "--test-days", 2)
    assert done.exit_code == 0, done.output
    assert f"({better})" in done.output
    assert "Leaderboard" in done.output
    assert "Rolling windows" in done.output
    names = {path.name for path in folder.iterdir()}
    assert {"report.md", "evaluation.json", "leaderboard.png", "rolling.png"} <= names
    assert all(str(folder / name) in done.output for name in names)
    document = orjson.loads((folder / "evaluation.json").read_bytes())
    assert (document["active_model"], document["recommended"]) == (active, better)
    (kept,) = (registry.path / "evaluations").iterdir()
    assert str(kept) in done.output
    assert orjson.loads(kept.read_bytes()) == document


def test_the_command_asks_redis_only_if_one_is_named(
    registry: Registry, redis_server: RedisServer, redis_client: redis.Redis, tmp_path: Path
) -> None:
    data = dataset()
    announced = linear(registry, data, 0.33)
    linear(registry, data, 0.23)
    redis_client.set("eta:active_model", orjson.dumps({"model_key": announced, "promoted_at": "", "source": "test"}))
    for n, (arguments, active) in enumerate([(["--redis-url", redis_server.url], announced), ([], None)]):
        folder = tmp_path / str(n)
        done = command(registry, data.path, "--output-dir", folder, *arguments)
        assert done.exit_code == 0, done.output
        assert orjson.loads((folder / "evaluation.json").read_bytes())["active_model"] == active


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--metric", "speed"], "there is no metric 'speed'"),
        (["--model-key", "absent"], "Model absent not found in registry"),
        (["--active", "absent"], "Model absent not found in registry"),
        (["--test-day", "2020-01-01"], "2020-01-01"),
        (["--maximize"], "mae_seconds is better when lower"),
        (["--label", "guess"], "label 'guess' is unknown"),
        (["--rolling", "9"], "9 rolling windows cannot be made"),
    ],
)
def test_the_command_names_what_is_wrong_and_writes_nothing(
    registry: Registry, arguments: list[str], named: str, tmp_path: Path
) -> None:
    data = dataset()
    linear(registry, data, 0.23)
    done = command(registry, data.path, "--output-dir", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    (line,) = [line for line in done.output.splitlines() if line.startswith("etacore: ")]
    assert named in line
    assert not (tmp_path / "out").exists()
    assert not (registry.path / "evaluations").exists()


def test_a_dataset_that_is_not_there_is_named(registry: Registry, tmp_path: Path) -> None:
    done = command(registry, "nothing", "--dataset-dir", tmp_path)
    assert done.exit_code == 2
    assert f"there is no dataset {tmp_path / 'nothing.parquet'}" in done.output


@pytest.mark.real_data
def test_a_day_of_light_rail_in_the_contracts_25_columns(registry: Registry, recorded: Path) -> None:
    path = recorded / "data" / "mbta_green_2025" / "dataset_25_columns.parquet"
    data = read_dataset(path, time_zone="America/New_York")
    key = linear(registry, data, 0.2, 30.0, provenance={"train_days": ["2025-01-01"], "dataset_sha256": "0" * 64})
    found = evaluate(data, registry, EvaluationConfig(model_keys=(key,), n_test_days=9, n_resamples=50))
    assert found.n_rows > 13_000
    assert found.result(key).is_complete
    assert len(found.result(key).by_route) == len(set(data.frame["route_id"]))
    assert "## By route" in found.to_markdown()
