"""The flow as processes: with a server, without one, through a worker, and when one of the others dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from etacore.store.server import RedisServer
from flows import runtime_deployment
from flows.runtime_config import EtaRuntimeSettings
from tests.fleet import ROUTE, payload, stops_blob
from tests.flows.conftest import FIRST, ROOT, SECOND
from tests.flows.prefect_server import PrefectServer

FLOW = [sys.executable, "flows/prefect_eta_flow.py"]
FILES = {f"{m}_times.csv" for m in ("redis_fetch", "eta_inference", "redis_write", "pipeline_latency")}


class Process:
    """A child whose output is kept in a file."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, name: str) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """``start(command, environment)``: a process that does not outlive the test."""
    children: list[Process] = []

    def run(command: list[str], environment: dict[str, str]) -> Process:
        children.append(Process(command, environment, tmp_path, f"process-{len(children)}"))
        return children[-1]

    yield run
    for child in children:
        child.kill()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis of the test's own, to be killed."""
    with RedisServer(tcp=True) as server:
        fill(server)
        yield server


def fill(server: RedisServer) -> None:
    with server.client() as client:
        client.set(f"route_stops:{ROUTE}", stops_blob())
        client.set("vehicle:BUS-1", payload())


def predicted(server: RedisServer) -> dict[str, Any] | None:
    """A prediction made from now on, or None if there is none yet: the one before is taken away."""
    with server.client() as client:
        try:
            blob = client.getdel("predictions:BUS-1")
            client.set("vehicle:BUS-1", payload())
        except redis.ConnectionError:
            return None
    return json.loads(blob) if blob else None


def options(folder: Path, registry_dir: Path, server: RedisServer) -> list[str]:
    return [
        *("--redis-port", str(server.port), "--profiling-dir", str(folder / "profiling")),
        *("--model-registry-dir", str(registry_dir)),
    ]


def test_without_an_api_one_line_and_predictions(
    own_redis: RedisServer, registry_dir: Path, tmp_path: Path, start: Any
) -> None:
    environment = dict(os.environ) | {"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_HOME": str(tmp_path / "p")}
    run = start([*FLOW, "--iterations", "1", *options(tmp_path, registry_dir, own_redis)], environment)
    assert run.child.wait(60) == 0, run.output
    assert run.output.count("Prefect's API cannot be reached") == 1
    assert "Traceback" not in run.output
    assert predicted(own_redis)
    assert {path.name for path in (tmp_path / "profiling").iterdir()} == FILES


def test_a_fresh_machine_without_a_server(
    own_redis: RedisServer, registry_dir: Path, tmp_path: Path, start: Any
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "HOME": str(tmp_path)}
    run = start([*FLOW, "--iterations", "1", *options(tmp_path, registry_dir, own_redis)], environment)
    assert run.child.wait(150) == 0, run.output
    assert "Completed('1 polls: 1 predicted" in run.output
    assert predicted(own_redis)


def test_promotion_redis_dies_prefect_dies_sigterm(
    server: PrefectServer, own_redis: RedisServer, registry_dir: Path, tmp_path: Path, start: Any, wait_until: Any
) -> None:
    """One run, from start to end, to which everything happens that can."""
    EtaRuntimeSettings(redis_port=own_redis.port, model_key=FIRST).save("eta-long", overwrite=True)
    arguments = options(tmp_path, registry_dir, own_redis)[2:]
    run = start([*FLOW, "--runtime-block", "eta-long", "--poll-interval", "0.05", *arguments], server.environment)

    def model() -> str | None:
        found = predicted(own_redis)
        return found["model_key"] if found else None

    wait_until(lambda: model() == FIRST, 60, f"a prediction {run.output}")
    EtaRuntimeSettings(redis_port=own_redis.port, model_key=SECOND).save("eta-long", overwrite=True)
    wait_until(lambda: model() == SECOND, 30, "the model of the block")

    own_redis.kill()
    wait_until(lambda: "waiting for it to return" in run.output, 10, "the outage")
    own_redis.start()
    fill(own_redis)
    wait_until(model, 10, "a prediction after Redis came back")

    def deaths_noticed() -> int:
        return run.output.count("predictions go on without it")

    for n_deaths in (1, 2):
        server.kill()
        wait_until(partial(lambda n: deaths_noticed() == n, n_deaths), 30, "the reporter's line")
        assert run.child.poll() is None
        wait_until(model, 10, "a prediction after Prefect died")
        if n_deaths == 1:
            server.start()
            wait_until(lambda: "answers again" in run.output, 60, "reports after Prefect came back")

    for path in (tmp_path / "profiling").iterdir():
        path.unlink()
    told = time.monotonic()
    run.child.send_signal(signal.SIGTERM)
    run.child.wait(30)
    assert time.monotonic() - told < 30
    assert run.child.returncode == 0, run.output
    assert {path.name for path in (tmp_path / "profiling").iterdir()} == FILES
    assert "refused model" not in run.output


def test_through_a_worker_and_cancelled(
    server: PrefectServer,
    api: Any,
    own_redis: RedisServer,
    registry_dir: Path,
    tmp_path: Path,
    start: Any,
    wait_until: Any,
) -> None:
    from click.testing import CliRunner
    from prefect.client.schemas.objects import StateType
    from prefect.deployments import run_deployment
    from prefect.states import Cancelling

    EtaRuntimeSettings(
        redis_port=own_redis.port, model_registry_dir=str(registry_dir), poll_interval_seconds=0.05
    ).save("eta-worker", overwrite=True)
    runtime_deployment.create_pools()
    done = CliRunner().invoke(runtime_deployment.main, ["deploy", "--block-name", "eta-worker", "--name", "worked"])
    assert done.exit_code == 0, done.output
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "eta-runtime-pool"]
    worker = start([*command, "--install-policy", "never"], server.environment)

    def state(run: Any) -> StateType | None:
        return api.read_flow_run(run.id).state_type

    def begin(name: str, **parameters: Any) -> Any:
        parameters["profiling_dir"] = str(tmp_path / name)
        return run_deployment("prefect-eta-runtime/worked", parameters=parameters, timeout=0)

    bounded, endless = begin("bounded", iterations=2), begin("endless")
    wait_until(lambda: state(bounded) == StateType.COMPLETED, 90, "the bounded run")
    wait_until(lambda: state(endless) == StateType.RUNNING, 60, "the endless run")
    predicted(own_redis)
    wait_until(lambda: predicted(own_redis), 20, "a prediction of the endless run")
    for path in (tmp_path / "endless").glob("*"):
        path.unlink()
    api.set_flow_run_state(endless.id, Cancelling())
    wait_until(lambda: state(endless) == StateType.CANCELLED, 45, f"the cancellation {worker.output}")
    assert {path.name for path in (tmp_path / "endless").iterdir()} == FILES
    refused = begin("refused", iterations=1, model_key="xgboost_tests_frist")
    wait_until(lambda: state(refused) == StateType.FAILED, 60, "the run of an unknown model")
    said = "Model xgboost_tests_frist not found in registry (set model_key; the nearest in "
    wait_until(lambda: said in worker.output, 30, "what was wrong")
    assert worker.output.count("xgboost_tests_frist") == 1
    assert FIRST in worker.output.partition(said)[2].splitlines()[0]
    assert "Traceback" not in worker.output
    heartbeat = api.read_work_pool("eta-runtime-pool").base_job_template["variables"]["properties"]["env"]["default"]
    assert heartbeat["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


@pytest.mark.parametrize("how", [["-m", "flows.runtime_config"], ["-f", "flows/runtime_config.py"]])
def test_the_block_can_be_registered(server: PrefectServer, api: Any, how: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "block", "register", *how],
        cwd=ROOT,
        env=server.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EtaRuntimeSettings" in done.stdout
    assert api.read_block_type_by_slug("eta-runtime-settings").name == "EtaRuntimeSettings"
