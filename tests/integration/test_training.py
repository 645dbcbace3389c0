"""From a dataset to models that serve; what goes wrong on the way costs as little as it may."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from etacore.cli.app import main
from etacore.errors import TrainingError
from etacore.mlops.metrics import prefixed, regression_metrics
from etacore.mlops.training import FAMILIES, TrainingConfig, train
from etacore.mlops.training import scope as scope_module
from etacore.mlops.training import store as store_module
from etacore.mlops.training.matrix import model_predictions
from etacore.mlops.training.parts import Prepared
from etacore.models.manifest import Manifest
from etacore.models.registry import Registry
from etacore.models.short_ids import short_ids
from tests import training_data
from tests.transit import real_data

FAST = {"n_estimators": 12, "learning_rate": 0.3}
NOON = datetime(2026, 4, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return training_data.save(training_data.frame(5), tmp_path_factory.mktemp("d") / "small_town_5.parquet")


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    registry = Registry(tmp_path_factory.mktemp("registry"))
    return registry, train(dataset, registry, TrainingConfig(features="best", hyperparameters=FAST), saved_at=NOON)


@pytest.fixture(autouse=True)
def no_probe(trained, monkeypatch):
    """The first training looks for leaks; looking again at the same rows would only take time."""
    # By its name: the package's attribute `train` is the function.
    module = import_module("etacore.mlops.training.train")
    monkeypatch.setattr(module, "find_leaks", lambda *_, **__: ())


def files_of(registry: Registry) -> dict[str, bytes]:
    return {
        str(path.relative_to(registry.path)): path.read_bytes()
        for path in sorted(registry.path.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_every_family_is_saved_and_serves_what_was_measured(dataset, trained):
    registry, report = trained
    assert report.ok
    assert [model.model_type for model in report.models] == list(FAMILIES)
    assert sorted(model.key for model in report.models) == registry.keys()
    scope = Prepared(dataset, TrainingConfig()).scope()
    for trained_model in report.models:
        model = registry.load(trained_model.key)
        for name, part in (("val", scope.validation), ("test", scope.test)):
            served = model_predictions(dataset, part.rows, model)
            metrics = prefixed(regression_metrics(served, part.seconds), name)
            assert {k: v for k, v in model.manifest.metrics.items() if k.startswith(name)} == pytest.approx(metrics)
        assert model.manifest.metrics["test_mae_seconds"] == trained_model.metrics["test_mae_seconds"]


def test_a_manifest_says_where_its_model_comes_from(dataset, trained):
    registry, report = trained
    for trained_model in report.models:
        manifest = registry.manifest(trained_model.key)
        assert manifest.dataset == "small_town_5"
        assert manifest.time_zone == "UTC"
        assert manifest.distance == "along_route"
        assert manifest.saved_at == NOON.isoformat()
        assert manifest.n_samples == len(dataset)
        assert manifest.n_trips == 5 * 24
        assert manifest.train_samples + manifest.test_samples < manifest.n_samples
        assert dict(manifest.hyperparameters) == TrainingConfig(hyperparameters=FAST).parameters_of(manifest.model_type)
        facts = manifest.provenance
        assert facts["dataset_sha256"] == dataset.sha256
        assert facts["dataset_path"] == "small_town_5.parquet"
        assert facts["seed"] == 42
        assert facts["label"] == "rule"
        assert facts["train_days"] == ["2026-03-02", "2026-03-03", "2026-03-04"]
        assert facts["validation_days"] == ["2026-03-05"]
        assert facts["test_days"] == ["2026-03-06"]
        assert facts["n_purged"] == 0
        assert "versions" in facts
        assert str(registry.path) not in manifest.to_json().decode()
    best = registry.manifest(report.models[-1].key)
    assert best.parity is not None
    assert best.typical is not None
    assert best.nan_at_serving is None


def test_the_key_is_the_contract_s(trained):
    _, report = trained
    assert report.models[1].key == "ewma_small_town_5_identity_global_20260401_120000_alpha=0.3"
    assert report.models[-1].key == (
        "xgboost_small_town_5_history-motion-route-spatial-temporal_global_20260401_120000"
        "_learning_rate=0.3_max_depth=5_n_estimators=12"
    )


def test_the_better_features_give_the_better_model(trained):
    _, report = trained
    mae = {model.model_type: model.metrics["test_mae_seconds"] for model in report.models}
    assert mae["xgboost"] < min(mae["polyreg_time"], mae["historical_mean"])


def test_a_second_run_gives_the_same_files(dataset, trained, tmp_path):
    registry, _ = trained
    again = Registry(tmp_path)
    train(dataset, again, TrainingConfig(features="best", hyperparameters=FAST), saved_at=NOON)
    assert files_of(again) == files_of(registry)


def test_a_key_that_is_taken_is_not_overwritten(dataset, tmp_path):
    registry = Registry(tmp_path)
    config = TrainingConfig(model_types=("polyreg_distance",))
    keys = [train(dataset, registry, config, saved_at=NOON).models[0].key for _ in range(2)]
    assert registry.keys() == sorted(keys)
    assert "20260401_120001" in keys[1]


def test_routes_have_models_of_their_own_and_small_ones_are_listed(tmp_path):
    data = training_data.save(training_data.frame(5, {"r1": 12, "r2": 4}), tmp_path / "d.parquet")
    registry = Registry(tmp_path / "registry")
    config = TrainingConfig(by_route=True, hyperparameters=FAST, model_types=("polyreg_time", "xgboost"))
    report = train(data, registry, config)
    assert {(model.model_type, model.route_id) for model in report.models} == {
        ("polyreg_time", "r1"),
        ("xgboost", "r1"),
    }
    assert [(route.route_id, route.n_trips) for route in report.skipped] == [("r2", 12)]
    assert "30 are needed" in report.skipped[0].reason
    assert registry.choose("xgboost", "r1") == report.models[1].key
    manifest = registry.manifest(report.models[1].key)
    assert manifest.route_id == "r1"
    assert manifest.n_samples == int((data.frame["route_id"] == "r1").sum())
    assert "r2" in report.to_markdown()


def elsewhere(function, tasks):
    """As another process would: out of order, with nothing but what the pickled task says."""
    packed = [pickle.dumps((function, task)) for task in tasks]
    outcomes = []
    for message in reversed(packed):
        scope_module._prepared.cache_clear()
        called, task = pickle.loads(message)
        outcomes.append(pickle.loads(pickle.dumps(called(task))))
    return outcomes[::-1]


def test_routes_trained_elsewhere_are_the_same_models(dataset, tmp_path):
    types = ("historical_mean", "polyreg_time", "xgboost")
    config = TrainingConfig(by_route=True, model_types=types, features="best", hyperparameters={"n_estimators": 4})
    here, there = Registry(tmp_path / "here"), Registry(tmp_path / "there")
    report = train(dataset, here, config, saved_at=NOON)
    other = train(dataset, there, config, saved_at=NOON, map_routes=elsewhere)
    assert len(report.models) == 6
    assert files_of(here) == files_of(there)
    assert [model.key for model in other.models] == [model.key for model in report.models]


def test_a_worker_refuses_another_file(dataset, tmp_path):
    seen = []

    def spoil(function, tasks):
        seen.extend(pickle.loads(pickle.dumps(tasks)))
        return [function(task) for task in tasks]

    copy = training_data.save(dataset.frame, tmp_path / "d.parquet")
    training_data.save(dataset.frame[1:], tmp_path / "d.parquet")
    with pytest.raises(TrainingError, match="has changed"):
        train(copy, None, TrainingConfig(by_route=True), map_routes=spoil)
    assert [task.route_id for task in seen] == ["r1", "r2"]


def test_a_family_that_fails_loses_no_other(dataset, tmp_path, monkeypatch):
    def no_compiler(*args, **kwargs):
        raise TrainingError("no compiler", hint="get one")

    monkeypatch.setattr(store_module, "compile_bundle", no_compiler)
    registry = Registry(tmp_path)
    report = train(dataset, registry, TrainingConfig(hyperparameters=FAST))
    assert not report.ok
    assert [(failure.model_type, failure.reason) for failure in report.failures] == [
        ("xgboost", "no compiler (get one)")
    ]
    assert [model.model_type for model in report.models] == list(FAMILIES)[:-1]
    assert len(registry.keys()) == 4
    assert "no compiler" in report.to_markdown()


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_crash_leaves_the_registry_as_it_was(dataset, tmp_path, monkeypatch, after):
    registry = Registry(tmp_path)
    types = tuple(FAMILIES)[:4]
    train(dataset, registry, TrainingConfig(model_types=types[:1]), saved_at=NOON)
    before = files_of(registry)
    honest, n_saved = Registry.add, []

    def crash(self, bundle):
        if len(n_saved) == after:
            raise KeyboardInterrupt
        n_saved.append(bundle)
        return honest(self, bundle)

    monkeypatch.setattr(Registry, "add", crash)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, registry, TrainingConfig(model_types=types))
    assert len(n_saved) == after
    assert files_of(registry) == before


def test_a_dry_run_measures_and_saves_nothing(dataset, tmp_path):
    registry = Registry(tmp_path / "none")
    report = train(dataset, registry, TrainingConfig(save_models=False, hyperparameters=FAST))
    assert [model.key for model in report.models] == [None] * 5
    assert all(model.metrics["test_mae_seconds"] > 0 for model in report.models)
    assert not registry.path.exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"features": ("hour", "temperature_c")}, "temperature_c is unknown in every row"),
        ({"by_route": True, "route_ids": ("r9",)}, "'r9'"),
        ({"by_route": True, "min_trips_per_route": 1000}, "1000 trips"),
        ({"n_test_days": 5}, "5 service days"),
        ({"route_ids": ("r1",)}, "by_route"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_error(dataset, tmp_path, fields, words):
    registry = Registry(tmp_path / "none")
    with pytest.raises(TrainingError, match=words):
        train(dataset, registry, TrainingConfig(**fields))
    assert not registry.path.exists()


def test_a_weather_model_is_trained_where_there_is_weather_and_the_report_warns(dataset, tmp_path):
    weather = pl.Series("temperature_c", np.random.default_rng(0).normal(5, 3, len(dataset)))
    data = training_data.save(dataset.frame.with_columns(weather), tmp_path / "d.parquet")
    config = TrainingConfig(
        model_types=("xgboost",), features=("distance_to_stop", "temperature_c"), hyperparameters={"n_estimators": 3}
    )
    registry = Registry(tmp_path / "registry")
    report = train(data, registry, config)
    assert report.ok
    assert any("weather" in note and "refuses" in note for note in report.notes)
    assert registry.choose() is None


def test_the_report_is_whole_as_json_and_markdown(trained):
    _, report = trained
    document = report.to_dict()
    assert len(document["models"]) == 5
    assert document["split"]["test_days"] == ["2026-03-06"]
    assert document["models"][-1]["best_iteration"] is not None
    text = report.to_markdown()
    assert all(model.key in text for model in report.models)
    assert "2026-03-02 to 2026-03-04 (3 days)" in text


def run(*arguments: str):
    return CliRunner().invoke(main, ["train", *arguments])


def test_the_command_trains_saves_and_shows_a_table(dataset, tmp_path):
    result = run(
        "small_town_5", "--dataset-dir", str(dataset.path.parent), "--model-registry-dir", str(tmp_path / "r"),
        "--model-type", "polyreg_time", "--model-type", "ewma", "--set", "alpha=0.5", "--test-days", "1",
        "--validation-days", "1", "--report", str(tmp_path / "report.md"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    keys = Registry(tmp_path / "r").keys()
    assert len(keys) == 2
    assert all(key in result.output for key in keys)
    assert "test MAE s" in result.output
    assert "alpha=0.5" in keys[0]
    assert all(one in result.output for one in short_ids(keys).values())
    stages = result.stderr.splitlines()
    assert stages.count("looking for leaks") == stages.count("compiling and checking") == 1
    assert not [line for line in stages if "━" in line], "a bar where nobody sees it"
    assert all(key in (tmp_path / "report.md").read_text() for key in keys)


def test_the_command_says_that_a_model_failed_and_exits_with_1(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "compile_bundle", lambda *_, **__: 1 / 0)
    result = run(
        str(dataset.path), "--model-registry-dir", str(tmp_path / "r"), "--model-type", "xgboost", "--model-type",
        "ewma", "--set", "n_estimators=3",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "failed: xgboost, global: ZeroDivisionError" in result.output
    assert len(Registry(tmp_path / "r").keys()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model-type", "forest"], "'forest'"),
        (["--features", "speed"], "'speed'"),
        (["--features", "hour,speed"], "'speed'"),
        (["--set", "depth=3"], "'depth'"),
        (["--set", "max_depth"], "max_depth=7"),
        (["--test-day", "2031-01-01"], "2031-01-01"),
    ],
)
def test_the_command_refuses_in_one_line(dataset, tmp_path, arguments, words):
    result = run(str(dataset.path), "--model-registry-dir", str(tmp_path / "r"), *arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "r").exists()


@pytest.mark.real_data
def test_a_single_recorded_day_is_too_few(tmp_path):
    path = real_data("mbta_green_2025", "dataset_25_columns.parquet")
    result = run(str(path), "--time-zone", "America/New_York", "--model-registry-dir", str(Path(tmp_path) / "r"))
    assert result.exit_code == 2
    assert "1 service day (2025-10-08)" in result.output
    assert "at least three service days" in result.output


def test_manifests_read_back(trained):
    registry, report = trained
    for model in report.models:
        manifest = registry.manifest(model.key)
        assert Manifest.from_json(manifest.to_json()) == manifest
