"""The compose file's stack, brought up as processes: set-up, a run through the worker, and the loop beside it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from ruamel.yaml import YAML

from tests import fleet
from tests.flows.compose import Stack
from tests.flows.image import ROOT, built, built_for_training

pytestmark = pytest.mark.timeout(600)

PASSWORD: Final = 'it\'s "open" \\ sesame $1'
DEPLOYMENT: Final = "prefect-eta-runtime/eta-runtime"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The worker, and so all that it depends on."""
    folder = tmp_path_factory.mktemp("stack")
    secret = folder / "redis_password"
    secret.write_text(PASSWORD + "\n")
    images = {"runtime": built(tmp_path_factory), "training": built_for_training(tmp_path_factory)}
    stack = Stack(images, folder, {"ETA_REDIS_PASSWORD_FILE": str(secret)})
    try:
        stack.up("eta-worker")
        yield stack
    finally:
        stack.down()


@pytest.fixture
def vehicles(stack: Stack) -> Iterator[redis.Redis]:
    """A client of the stack's Redis, by its published port, with the stops of the route in place."""
    with redis.Redis(port=stack.port("6379"), password=PASSWORD, decode_responses=True) as client:
        client.set(f"route_stops:{fleet.ROUTE}", fleet.stops_blob())
        yield client


def ask(stack: Stack, path: str, body: dict[str, Any] | None = None) -> Any:
    """An answer of Prefect's API."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.port('4200')}/api/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def run_through(stack: Stack, worker: str, deployment: str, *parameters: str) -> dict[str, Any]:
    """A run of a deployment, asked for in the worker's container, when it has ended."""
    flow, _, name = deployment.partition("/")
    done = stack.execute(worker, "prefect", "deployment", "run", deployment, *parameters)
    assert done.returncode == 0, done.stdout + done.stderr

    def run() -> dict[str, Any]:
        body = {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [name]}}}
        (only,) = ask(stack, "flow_runs/filter", body)
        return dict(only)

    stack.wait(lambda: run()["state_type"] not in ("SCHEDULED", "PENDING", "RUNNING"), 90, "the run ends")
    assert run()["state_type"] == "COMPLETED", stack.log(worker)
    return run()


def test_a_run_of_the_deployment_goes_through_the_worker(stack: Stack, vehicles: redis.Redis) -> None:
    vehicles.set("vehicle:BUS-1", fleet.payload("BUS-1"))
    run = run_through(stack, "eta-worker", DEPLOYMENT, "--param", "iterations=5")
    assert run["parameters"] == {"runtime_settings_block": "eta-runtime", "iterations": 5}
    assert json.loads(str(vehicles.get("predictions:BUS-1")))["predictions"]
    assert stack.healthy("eta-worker")


def test_setup_made_what_prefect_yaml_names(stack: Stack) -> None:
    wanted = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    found = {deployment["name"]: deployment for deployment in ask(stack, "deployments/filter", {})}
    assert set(found) == {deployment["name"] for deployment in wanted}
    for deployment in wanted:
        made = found[deployment["name"]]
        assert made["work_pool_name"] == deployment["work_pool"]["name"]
        assert made["parameters"] == deployment.get("parameters", {})
        assert made["tags"] == deployment["tags"]
        schedules = [
            {key: (one["schedule"] | one)[key] for key in ("cron", "timezone", "active")} for one in made["schedules"]
        ]
        assert schedules == deployment.get("schedules", [])
        assert not any(schedule["active"] for schedule in schedules)
    promotion = found["model-promotion"]["parameter_openapi_schema"]
    assert promotion["required"] == ["model_key"]
    assert {"update_runtime_block", "runtime_block_name", "warm_cache"} <= set(promotion["properties"])
    pools = {pool["name"]: pool["type"] for pool in ask(stack, "work_pools/filter", {})}
    assert pools == {"eta-runtime-pool": "process", "eta-training-pool": "process"}


def test_the_trainer_sees_the_models_of_the_others(stack: Stack) -> None:
    stack.up("eta-trainer")
    run = run_through(stack, "eta-trainer", "registry-health-check/registry-health-check")
    stack.wait(lambda: stack.healthy("eta-trainer"), 30, "the trainer's worker is healthy")
    body = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
    (report,) = (one for one in ask(stack, "artifacts/filter", body) if one["key"] == "registry-health-check-report")
    assert "/volumes/models/models/trained: 1 models, 0 archived; 0 errors" in report["data"]
    assert stack.stop("eta-trainer") in (0, -15)


def test_the_loop_runs_beside_the_worker(stack: Stack, vehicles: redis.Redis) -> None:
    stack.up("eta-runtime")
    vehicles.set("vehicle:BUS-2", fleet.payload("BUS-2"))
    stack.wait(lambda: vehicles.exists("predictions:BUS-2"), 60, "the loop predicts")
    stack.wait(lambda: stack.healthy("eta-runtime"), 30, "the loop has written its profile")
    assert stack.stop("eta-runtime") == 0


def test_the_password_is_in_no_log_and_no_process_list(stack: Stack) -> None:
    assert stack.processes["redis"].poll() is None
    for name, process in stack.processes.items():
        assert "sesame" not in stack.log(name)
        if process.poll() is None:
            assert b"sesame" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_redis_wants_the_password(stack: Stack) -> None:
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=stack.port("6379"), retry=once) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
