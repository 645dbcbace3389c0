"""The flows about datasets and models against a real Prefect server: from recorded positions to a promoted model."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

pytest.importorskip("polars", reason="the extra `train` is not installed")

import polars as pl
from prefect.blocks.notifications import CustomWebhookNotificationBlock

from etacore.demo.city import build_city
from etacore.demo.feed import write_gtfs
from etacore.demo.reports import record
from etacore.errors import RedisUnavailableError
from etacore.mlops.dataset.layout import CONTRACT_COLUMNS, read_dataset
from etacore.mlops.promotion.history import Record, append_record
from etacore.models.registry import Registry
from etacore.models.short_ids import short_ids
from etacore.store.server import RedisServer
from flows import mlops_run, registry_flow
from flows.dataset_flow import dataset_build
from flows.dataset_flow import main as dataset_main
from flows.evaluation_flow import model_evaluation
from flows.promotion_flow import main as promotion_main
from flows.promotion_flow import model_promotion
from flows.registry_flow import registry_health_check
from flows.runtime_config import EtaRuntimeSettings
from flows.training_flow import main as training_main
from flows.training_flow import model_training
from tests import models
from tests.flows.conftest import ROOT, Inbox
from tests.flows.prefect_server import PrefectServer

pytestmark = pytest.mark.timeout(600)

FIRST_DAY: Final = date(2026, 3, 2)  # a Monday
REQUIRED: Final = object()
CONTRACT: Final[dict[Any, dict[str, Any]]] = {
    model_training: {
        "dataset_name": "various_dataset_5",
        "by_route": False,
        "model_types": None,
        "save_models": True,
        "notification_blocks": None,
    },
    dataset_build: {
        "output_name": None,
        "days_back": 7,
        "route_ids": None,
        "start_date": None,
        "end_date": None,
        "distance_threshold": 50,
        "max_stops_ahead": 5,
        "attach_weather": False,
        "use_shapes": True,
        "seed_redis": False,
        "gtfs_path": None,
        "telemetry_source": None,
        "notification_blocks": None,
    },
    model_evaluation: {
        "metric": "test_mae_seconds",
        "minimize": True,
        "current_active_model": None,
        "improvement_threshold": 0.05,
        "notification_blocks": None,
    },
    model_promotion: {
        "model_key": REQUIRED,
        "update_runtime_block": True,
        "runtime_block_name": "eta-runtime",
        "warm_cache": True,
        "notification_blocks": None,
    },
    registry_health_check: {
        "check_stale": True,
        "max_age_days": 90,
        "archive_stale": False,
        "fail_on_errors": False,
        "notification_blocks": None,
    },
}
NAMES: Final = ["model-training", "dataset-build", "model-evaluation", "model-promotion", "registry-health-check"]
SCHEDULES: Final = {
    "model-training": "0 2 * * 0",
    "dataset-build": "0 0 * * 0",
    "registry-health-check": "0 6 * * *",
}


# -- what the contract names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flow", "name"), list(zip(CONTRACT, NAMES, strict=True)))
def test_a_flow_has_the_parameters_of_the_contract_and_more_only_as_options(flow: Any, name: str) -> None:
    parameters = inspect.signature(flow.fn).parameters
    given = {
        key: REQUIRED if one.default is inspect.Parameter.empty else one.default for key, one in parameters.items()
    }
    assert flow.name == name
    assert list(given)[: len(CONTRACT[flow])] == list(CONTRACT[flow])
    assert {key: given[key] for key in CONTRACT[flow]} == CONTRACT[flow]
    assert not [key for key, value in given.items() if value is REQUIRED and key not in CONTRACT[flow]]
    assert not [key for key in given if "password" in key]


def test_every_flow_has_a_deployment_and_no_schedule_is_active() -> None:
    made = {one["name"]: one for one in YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]}
    assert set(made) == {"eta-runtime", "eta-runtime-dev", *NAMES}
    for name in NAMES:
        assert made[name]["work_pool"]["name"] == "eta-training-pool"
        assert "parameters" not in made[name], "the flow's defaults are those of the contract"
        cron = [{"cron": SCHEDULES[name], "timezone": "UTC", "active": False}] if name in SCHEDULES else []
        assert made[name].get("schedules", []) == cron


def test_the_file_of_deployments_loads_flows_of_the_same_names() -> None:
    for one in YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]:
        path, function = one["entrypoint"].split(":")
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert getattr(module, function).name == (
            "prefect-eta-runtime" if "runtime" in path + function else one["name"]
        )


# -- from positions to a promoted model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four mornings of two routes of the simulated city: ``positions.parquet`` and ``gtfs.zip``."""
    folder = tmp_path_factory.mktemp("recording")
    city = build_city()
    write_gtfs(city, folder / "gtfs.zip", FIRST_DAY)
    fixes = pl.DataFrame(record(city, FIRST_DAY, 4).positions)
    local_hour = (pl.col("timestamp") - 6 * 3600) // 3600 % 24
    fixes = fixes.filter(pl.col("route_id").is_in(["20", "40"]) & local_hour.is_between(6, 10))
    fixes.gather_every(8).write_parquet(folder / "positions.parquet")
    return folder


class Workshop:
    """Folders and what the chain of flows left there."""

    def __init__(self, folder: Path, recording: Path, redis_port: int) -> None:
        self.registry = Registry(folder / "models")
        self.environment = {
            "ETACORE_DATASET_DIR": str(folder / "datasets"),
            "ETACORE_RESULTS_DIR": str(folder / "results"),
            "MODEL_REGISTRY_DIR": str(self.registry.path),
            "ETA_TELEMETRY_SOURCE": str(recording / "positions.parquet"),
            "ETA_GTFS_PATH": str(recording / "gtfs.zip"),
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(redis_port),
        }
        self.states: dict[str, Any] = {}

    def key(self, model_type: str) -> str:
        (found,) = (entry.key for entry in self.registry.entries() if entry.model_type == model_type)
        return found


@pytest.fixture(scope="module")
def workshop(
    tmp_path_factory: pytest.TempPathFactory, recording: Path, prefect_server: PrefectServer, tcp_redis: RedisServer
) -> Iterator[Workshop]:
    """The whole chain, once."""
    prefect_server.start()
    prefect_server.wait()
    tcp_redis.start()
    with tcp_redis.client() as client:
        client.flushall()
    shop = Workshop(tmp_path_factory.mktemp("workshop"), recording, tcp_redis.port)
    settings: dict[str, Any] = {"redis_host": "127.0.0.1", "redis_port": tcp_redis.port, "poll_interval_seconds": 0.5}
    EtaRuntimeSettings(**settings).save("eta-chain", overwrite=True)
    EtaRuntimeSettings(model_key="absent", model_registry_dir="/elsewhere").save("eta-elsewhere", overwrite=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shop.environment.items():
            patch.setenv(name, value)

        def run(flow: Any, **parameters: Any) -> Any:
            shop.states[flow.name] = state_of(flow, **parameters)
            return shop.states[flow.name]

        run(dataset_build, output_name="mornings", max_stops_ahead=2, seed_redis=True)
        run(model_training, dataset_name="mornings", model_types="xgboost,polyreg_distance")
        run(model_evaluation)
        run(model_promotion, model_key=shop.key("xgboost"), runtime_block_name="eta-chain")
        run(registry_health_check, archive_stale=True, max_age_days=0)
        yield shop


def state_of(flow: Any, **parameters: Any) -> Any:
    """The final state of a run in this process."""
    return flow(**parameters, return_state=True)


def artifacts(api: Any, state: Any) -> dict[str, Any]:
    """What a run left, by key."""
    body = {"artifacts": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}
    return {one["key"]: one for one in api.request("POST", "/artifacts/filter", json=body).json()}


def steps(api: Any, state: Any) -> list[str]:
    body = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    runs = api.request("POST", "/task_runs/filter", json=body).json()
    return sorted(run["name"].rsplit("-", 1)[0] for run in runs)


def test_the_dataset(workshop: Workshop, api: Any) -> None:
    state = workshop.states["dataset-build"]
    assert state.is_completed(), state.message
    dataset = read_dataset("mornings", folder=workshop.environment["ETACORE_DATASET_DIR"])
    assert tuple(dataset.frame.columns[: len(CONTRACT_COLUMNS)]) == tuple(CONTRACT_COLUMNS)
    assert dataset.frame["service_date"].n_unique() == 4
    left = artifacts(api, state)
    assert set(left) == {"dataset-build-report", "dataset-build-days", "dataset-build-progress"}
    assert left["dataset-build-report"]["data"].startswith("# Dataset mornings\n")
    days = json.loads(left["dataset-build-days"]["data"])
    assert [one["service_date"] for one in days] == [f"2026-03-0{n}" for n in range(2, 6)]
    assert sum(one["rows"] for one in days) == dataset.frame.height
    assert left["dataset-build-progress"]["data"] == 100.0


def test_redis_is_seeded(workshop: Workshop, tcp_redis: RedisServer) -> None:
    with tcp_redis.client() as client:
        assert client.exists("route_stops:20", "route_shape:20") == 2


def test_the_models(workshop: Workshop, api: Any, wait_until: Any) -> None:
    state = workshop.states["model-training"]
    assert state.is_completed(), state.message
    left = artifacts(api, state)
    rows = json.loads(left["model-training-models"]["data"])
    assert [row["model_type"] for row in rows] == ["polyreg_distance", "xgboost"]
    assert [row["model_key"] for row in rows] == [workshop.key("polyreg_distance"), workshop.key("xgboost")]
    assert 0 < rows[1]["test_mae_seconds"] < 60
    assert workshop.key("xgboost") in left["model-training-report"]["data"]
    wait_until(lambda: steps(api, state) == ["read_dataset", "train_models"], what="two steps")
    body = {"logs": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}
    assert any("mornings" in line["message"] for line in api.request("POST", "/logs/filter", json=body).json())


def test_the_evaluation(workshop: Workshop, api: Any) -> None:
    state = workshop.states["model-evaluation"]
    assert state.is_completed(), state.message
    (folder,) = Path(workshop.environment["ETACORE_RESULTS_DIR"]).iterdir()
    pictures = {path.name for path in folder.glob("*.png")}
    assert pictures
    left = artifacts(api, state)
    assert workshop.key("xgboost") in left["model-evaluation-report"]["data"]
    assert left["model-evaluation-plots"]["data"].count("](data:image/png;base64,") == len(pictures)
    assert len(json.loads(left["model-evaluation-leaderboard"]["data"])) > 2  # models and baselines
    assert json.loads((folder / "evaluation.json").read_text())["recommended"] == workshop.key("xgboost")


def test_the_promotion(workshop: Workshop, api: Any, tcp_redis: RedisServer) -> None:
    state = workshop.states["model-promotion"]
    assert state.is_completed(), state.message
    key = workshop.key("xgboost")
    block: Any = EtaRuntimeSettings.load("eta-chain")
    assert (block.model_key, block.poll_interval_seconds) == (key, 0.5)
    with tcp_redis.client() as client:
        announced = json.loads(client.get("eta:active_model") or b"{}")
    assert (announced["model_key"], announced["source"]) == (key, "model-promotion")
    assert key in artifacts(api, state)["model-promotion-report"]["data"]


@pytest.mark.parametrize("how", ["best", "short id"])
def test_best_and_short_ids_mean_the_model(workshop: Workshop, how: str) -> None:
    key = workshop.key("xgboost")
    given = how if how == "best" else short_ids(workshop.registry.keys())[key]
    state = state_of(model_promotion, model_key=given, runtime_block_name="eta-chain")
    assert state.is_completed(), state.message
    assert f"{key} is active again" in state.message


def test_the_registry_is_healthy_and_keeps_what_is_active(workshop: Workshop, api: Any) -> None:
    state = workshop.states["registry-health-check"]
    assert state.is_completed(), state.message
    assert workshop.key("xgboost") in workshop.registry.keys()  # noqa: SIM118  (a method, and no mapping)
    left = artifacts(api, state)
    assert workshop.key("xgboost") in left["registry-health-check-archived"]["data"].partition("# Kept")[2]
    rows = json.loads(left["registry-health-check-findings"]["data"])
    assert "absent" not in {row["model"] for row in rows}, "a block of another registry"
    # Other tests have blocks that name models of their own.
    assert {row["kind"] for row in rows if row["model"] in workshop.registry.keys()} == {"stale"}  # noqa: SIM118


@pytest.mark.parametrize("flow", ["dataset-build", "model-training", "model-evaluation", "model-promotion"])
def test_every_column_has_a_heading_and_every_number_an_end(workshop: Workshop, api: Any, flow: str) -> None:
    n_tables = 0
    for one in artifacts(api, workshop.states[flow]).values():
        if one["type"] == "markdown":
            lines = one["data"].splitlines()
            headings = [lines[i - 1] for i, line in enumerate(lines) if line.startswith(("| --- ", "|---"))]
            n_tables += len(headings)
            assert all(cell.strip() for line in headings for cell in line.strip("|").split("|")), headings
            assert not re.search(r"\d\.\d{6}", re.sub(r"`[^`]*`|base64,\S+", "", one["data"])), one["data"]
        elif one["type"] == "table":
            n_tables += 1
            values = [value for row in json.loads(one["data"]) for value in row.values()]
            assert all(round(value, 3) == value for value in values if isinstance(value, float)), values
    assert n_tables


@pytest.mark.parametrize("named", [False, True])
def test_only_a_redis_that_is_named_is_asked(named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Asked:
        def __init__(self, config: Any) -> None:
            asked.append(config.redis_port)
            raise RedisUnavailableError("it is away")

    monkeypatch.setattr(registry_flow, "RedisStore", Asked)
    if named:
        monkeypatch.setenv("REDIS_PORT", "1")
    registry = Registry(tmp_path)
    for key in ("old", "older"):
        models.add_table(registry, key)
    append_record(registry, Record(model_key="old", promoted_at="t", source="test"))
    state = registry_health_check.fn(model_registry_dir=str(tmp_path), archive_stale=True, max_age_days=1)
    assert asked == ([1] if named else [])
    assert state.is_failed() == named, state.message
    assert registry.archived() == ([] if named else ["older"])


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_worse_model_is_refused_and_told(workshop: Workshop, inbox: Inbox, tcp_redis: RedisServer) -> None:
    made: Any = CustomWebhookNotificationBlock
    made(name="mlops", url=inbox.url, json_data={"text": "{{subject}}: {{body}}"}).save("eta-mlops", overwrite=True)
    with tcp_redis.client() as client:
        before = client.get("eta:active_model")
        state = state_of(
            model_promotion,
            model_key=workshop.key("polyreg_distance"),
            runtime_block_name="eta-chain",
            notification_blocks=["eta-mlops"],
        )
        assert state.is_failed()
        assert client.get("eta:active_model") == before
    block: Any = EtaRuntimeSettings.load("eta-chain")
    assert block.model_key == workshop.key("xgboost")
    (told,) = inbox.bodies
    assert "model-promotion failed" in told
    assert workshop.key("polyreg_distance") in told


def test_a_forced_promotion_is_told_and_can_be_taken_back(
    workshop: Workshop, inbox: Inbox, tcp_redis: RedisServer
) -> None:
    made: Any = CustomWebhookNotificationBlock
    made(name="mlops", url=inbox.url, json_data={"text": "{{subject}}: {{body}}"}).save("eta-mlops", overwrite=True)
    worse, better = workshop.key("polyreg_distance"), workshop.key("xgboost")
    common = {"runtime_block_name": "eta-chain", "notification_blocks": "eta-mlops"}
    state = state_of(model_promotion, model_key=worse, force_reason="a test", **common)
    assert state.is_completed(), state.message
    assert "model-promotion done" in inbox.bodies[0]
    assert "a test" in inbox.bodies[0]
    wrong = state_of(model_promotion, model_key=better, rollback=True, **common)
    assert f"{better} is not active" in wrong.message
    state = state_of(model_promotion, model_key="active", rollback=True, **common)
    assert state.is_completed(), state.message
    block: Any = EtaRuntimeSettings.load("eta-chain")
    assert block.model_key == better
    with tcp_redis.client() as client:
        assert json.loads(client.get("eta:active_model") or b"{}")["model_key"] == better


def test_a_broken_model_fails_the_check_if_that_is_asked_for(workshop: Workshop, api: Any, tmp_path: Path) -> None:
    (tmp_path / "registry.json").write_text("{broken")
    state = state_of(registry_health_check, model_registry_dir=str(tmp_path), fail_on_errors=True)
    assert state.is_failed()
    assert "registry.json" in state.message
    assert "registry.json" in artifacts(api, state)["registry-health-check-report"]["data"]
    assert state_of(registry_health_check, model_registry_dir=str(tmp_path)).is_completed()


WRONG: Final[dict[str, tuple[Any, dict[str, Any], str]]] = {
    "no dataset": (model_training, {"dataset_name": "absent"}, "absent"),
    "unknown family": (model_training, {"model_types": ["oracle"]}, "model type 'oracle' is unknown"),
    "unknown feature": (model_training, {"features": "colour,smell"}, "colour"),
    "dask without routes": (model_training, {"task_runner": "dask"}, "set by_route"),
    "unknown runner": (model_training, {"task_runner": "ray", "by_route": True}, "task_runner is 'ray'"),
    "no recording": (dataset_build, {"telemetry_source": "/nowhere"}, "telemetry_source: /nowhere does not exist"),
    "unknown route": (dataset_build, {"route_ids": ["999"]}, "999"),
    "bad date": (dataset_build, {"start_date": "2026-02-30"}, "start_date is '2026-02-30'"),
    "unknown metric": (model_evaluation, {"metric": "beauty"}, "beauty"),
    "wrong direction": (model_evaluation, {"minimize": False}, "minimize"),
    "no model": (model_promotion, {"model_key": "absent", "update_runtime_block": False}, "absent"),
    "block without an API": (model_promotion, {"model_key": "a"}, "cannot be updated without Prefect's API"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(name: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    for variable, value in workshop.environment.items():
        monkeypatch.setenv(variable, value)
    flow, parameters, said = WRONG[name]
    state = flow.fn(**parameters)
    assert state.is_failed()
    assert said in state.message
    assert "\n" not in state.message
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (training_main, ["--dataset-name", "absent"], "absent"),
        (promotion_main, ["--model-key", "a", "--runtime-block-name", "gone"], "eta-runtime-settings/gone"),
    ],
)
def test_the_command_line_exits_with_2(
    command: Any, arguments: list[str], said: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(mlops_run, "_owned_by_command_line", False)
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2, done.output
    assert said in done.output.splitlines()[-1]
    captured = capfd.readouterr()
    assert "Traceback" not in done.output + captured.out + captured.err


def test_without_an_api_the_work_is_done(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(mlops_run, "_owned_by_command_line", False)
    output = tmp_path / "alone.parquet"
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        done = CliRunner().invoke(
            dataset_main, ["--output-name", str(output), "--days-back", "1", "--notification-block", "eta-mlops"]
        )
    assert done.exit_code == 0, done.output
    assert read_dataset(output).frame["service_date"].unique().to_list() == [date(2026, 3, 5)]


# -- routes on a cluster -----------------------------------------------------------------------------------------------


def test_dask_trains_the_same_models(workshop: Workshop, api: Any, tmp_path: Path) -> None:
    pytest.importorskip("prefect_dask", reason="the extra `dask` is not installed")
    sources = []
    for runner in (None, "dask"):
        registry = Registry(tmp_path / str(runner))
        state = state_of(
            model_training,
            dataset_name="mornings",
            by_route=True,
            model_types=["xgboost"],
            task_runner=runner,
            model_registry_dir=str(registry.path),
        )
        assert state.is_completed(), state.message
        found = {str(entry.route_id): registry.manifest(entry.key) for entry in registry.entries()}
        assert sorted(found) == ["20", "40"]
        sources.append({route: (one.source.sha256, dict(one.metrics)) for route, one in found.items()})
    assert sources[0] == sources[1]
    assert steps(api, state).count("train_route") == 2
