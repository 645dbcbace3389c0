"""The flow against a real Prefect server and a real Redis, in this process."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from click.testing import CliRunner
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.blocks.system import Secret
from prefect.blocks.webhook import Webhook
from prefect.variables import Variable
from pydantic import SecretStr

from etacore.loop import runtime
from etacore.loop.latency import METRICS, Profiler
from etacore.loop.runtime import Window
from etacore.pipeline import engine
from etacore.store.server import RedisServer
from flows import prefect_eta_flow, runtime_deployment
from flows.artifacts import artifact_key
from flows.prefect_eta_flow import prefect_eta_runtime
from flows.reporter import EVENT, Loop, Reporter
from flows.runtime_config import EtaRuntimeSettings, RunSettings, merge
from tests.fleet import payload
from tests.flows.conftest import FIRST, SECOND, Inbox
from tests.flows.prefect_server import PrefectServer

SECRET = "correct-horse-battery"
STEPS = {"fetch_vehicle_snapshots", "predict_for_snapshots", "write_predictions_to_redis"}


def document(client: redis.Redis, vehicle_id: str = "BUS-1") -> dict[str, Any]:
    blob = client.get(f"predictions:{vehicle_id}")
    assert blob is not None
    return json.loads(blob)


@pytest.fixture
def given(tcp_redis: RedisServer, registry_dir: Path, tmp_path: Path) -> dict[str, Any]:
    """Parameters of a short run."""
    return {
        "redis_port": tcp_redis.port,
        "poll_interval_seconds": 0.05,
        "model_registry_dir": str(registry_dir),
        "profiling_dir": str(tmp_path / "profiling"),
    }


def flow_run(**parameters: Any) -> Any:
    """The final state of a run in this process."""
    return prefect_eta_runtime(**parameters, return_state=True)


def webhook(inbox: Inbox, text: str) -> Any:
    """A notification block that posts `text`, a template, to the inbox."""
    made: Any = CustomWebhookNotificationBlock
    return made(name="alerts", url=inbox.url, json_data={"text": text})


def command(*arguments: str) -> Any:
    return CliRunner().invoke(runtime_deployment.main, list(arguments))


def test_a_bounded_run_shows_steps_files_artifacts_and_an_event(
    api: Any, city: redis.Redis, given: dict[str, Any], tmp_path: Path, wait_until: Any
) -> None:
    EtaRuntimeSettings(redis_host="127.0.0.1", redis_port=1, profiling_artifact_key_prefix="eta-artifacts").save(
        "eta-short"
    )
    city.set("vehicle:BUS-1", payload())
    state = flow_run(**given, runtime_settings_block="eta-short", iterations=2)
    assert state.is_completed(), state.message
    assert state.message == "2 polls: 1 predicted, 1 unchanged, 0 rejected, 0 failed, 0 outages"
    assert document(city)["source"] == "prefect"

    run_id = str(state.state_details.flow_run_id)
    made = api.request("POST", "/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [run_id]}}}).json()
    pages = {artifact["key"]: artifact for artifact in made}
    assert set(pages) == {artifact_key("eta-artifacts", metric) for metric in METRICS} | {"eta-artifacts-progress"}
    assert pages["eta-artifacts-progress"]["data"] == 100.0
    for metric in METRICS:
        rows = (tmp_path / "profiling" / f"{metric}_times.csv").read_text().splitlines()
        assert rows[1].startswith(f"{metric},1," if metric != "redis_fetch" else f"{metric},2,")
        page = pages[artifact_key("eta-artifacts", metric)]["data"]
        assert all(f"| {' | '.join(row.split(','))} |" in page for row in rows if row)

    def events() -> list[dict[str, Any]]:
        body = {"filter": {"event": {"name": [EVENT]}, "related": {"id": [f"prefect.flow-run.{run_id}"]}}}
        return api.request("POST", "/events/filter", json=body).json()["events"]

    wait_until(events, what="the event")
    (event,) = events()
    counters = {name: event["payload"][name] for name in ("polls", "predicted", "unchanged", "failed")}
    assert counters == {"polls": 2, "predicted": 1, "unchanged": 1, "failed": 0}

    def steps() -> list[str]:
        body = {"flow_runs": {"id": {"any_": [run_id]}}}
        runs = api.request("POST", "/task_runs/filter", json=body).json()
        return sorted(run["name"].rsplit("-", 1)[0] for run in runs)

    wait_until(lambda: steps() == sorted(2 * [*STEPS]), what="three steps a poll")
    lines = api.request("POST", "/logs/filter", json={"logs": {"flow_run_id": {"any_": [run_id]}}}).json()
    assert any("2 polls in" in line["message"] for line in lines)


def test_what_prefect_takes_is_no_latency(
    city: redis.Redis, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [1000.0]

    def slow_task_run(step: Any) -> Any:
        now_s[0] += 0.06
        result = step()
        now_s[0] += 0.04
        return result

    for module in (prefect_eta_flow, runtime, engine):
        monkeypatch.setattr(module, "perf_counter", lambda: now_s[0])
    for name in ("_show_fetch", "_show_predict", "_show_write"):
        monkeypatch.setattr(prefect_eta_flow, name, slow_task_run)
    city.set("vehicle:BUS-1", payload())
    shown = prefect_eta_flow.ShownRuntime(merge(given | {"iterations": 1}, {}, {}).config)
    try:
        shown.poll()
        figures = shown.profiler.snapshot()
    finally:
        shown.close()
    assert now_s[0] == pytest.approx(1000.3)
    assert figures["pipeline_latency"].count == 1
    assert figures["pipeline_latency"].max_ms == pytest.approx(0.0, abs=1e-6)
    assert document(city)["prefect_pipeline_latency_ms"] == 0.0


@pytest.mark.usefixtures("city")
def test_a_password_never_stays_in_the_parameters(api: Any, given: dict[str, Any], locked_redis: RedisServer) -> None:
    given |= {"redis_port": locked_redis.port, "redis_password": locked_redis.password, "iterations": 1}
    state = flow_run(**given)
    assert state.is_completed(), state.message
    stored = api.read_flow_run(state.state_details.flow_run_id).parameters
    assert "redis_password" not in stored
    assert stored["redis_port"] == locked_redis.port


def test_the_password_comes_from_a_secret(server: PrefectServer, locked_redis: RedisServer, given: Any) -> None:
    secret: Any = Secret  # Secret[str] would be a block type of another name
    secret(value=locked_redis.password).save("redis-primary")
    EtaRuntimeSettings(redis_port=locked_redis.port, redis_password_secret="redis-primary").save("eta-locked")
    given.pop("redis_port")
    state = flow_run(**given, runtime_settings_block="eta-locked", iterations=1)
    assert state.is_completed(), state.message


def test_alerts_reach_each_receiver_once_and_the_end_is_told(
    server: PrefectServer, city: redis.Redis, given: dict[str, Any], inbox: Inbox, caplog: Any, wait_until: Any
) -> None:
    webhook(inbox, "{{subject}}: {{body}}").save("eta-alerts")
    SlackWebhook(url=SecretStr("http://127.0.0.1:1/dead")).save("eta-dead")
    city.set("vehicle:BUS-1", payload(route="nowhere"))

    def end_the_outage() -> None:
        wait_until(lambda: inbox.bodies, 30, "the first alert")
        city.set("vehicle:BUS-1", payload())

    helper = threading.Thread(target=end_the_outage)
    helper.start()
    caplog.clear()  # making the block itself says the address
    with caplog.at_level("WARNING"):
        state = flow_run(
            **given,
            notification_blocks=["slack/eta-dead", "eta-alerts"],
            zero_prediction_alert_threshold=3,
            iterations=40,
        )
    helper.join()
    assert state.is_completed(), state.message
    assert len(inbox.bodies) == 2, inbox.bodies
    assert "unknown_route 1" in inbox.bodies[0]
    assert "recovered" in inbox.bodies[1]
    assert "127.0.0.1:1/dead" not in caplog.text


def test_a_failed_run_is_told(server: PrefectServer, given: dict[str, Any], inbox: Inbox) -> None:
    webhook(inbox, "{{body}}").save("eta-failures")
    state = flow_run(**given | {"redis_port": 1}, notification_blocks=["eta-failures"], iterations=1)
    assert state.is_failed()
    assert len(inbox.bodies) == 1
    assert "cannot be reached" in inbox.bodies[0]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown block": ({"runtime_settings_block": "absent"}, "there is no block eta-runtime-settings/absent"),
    "block of another type": ({"runtime_settings_block": "eta-other"}, "block eta-other is a webhook"),
    "bad block name": ({"runtime_settings_block": "Eta Runtime"}, "lower-case letters"),
    "missing secret": ({"runtime_settings_block": "eta-no-secret"}, "there is no block secret/gone"),
    "unknown receiver": ({"notification_blocks": ["slack/absent"]}, "there is no notification block slack/absent"),
    "receiver that cannot": ({"notification_blocks": ["eta-other"]}, "is not a notification block"),
    "unknown model": ({"model_key": "absent"}, "Model absent not found in registry"),
    "unreachable Redis": ({"redis_port": 1}, "cannot be reached"),
    "wrong password": ({"redis_password": SECRET}, "refuses our credentials"),
    "out of range": ({"max_stops_per_vehicle": 0}, "max_stops_per_vehicle is 0, but must be between 1 and 1000"),
}


@pytest.fixture
def wrong_blocks(server: PrefectServer) -> None:
    Webhook(url=SecretStr("http://127.0.0.1:1/")).save("eta-other", overwrite=True)
    EtaRuntimeSettings(redis_password_secret="gone").save("eta-no-secret", overwrite=True)


@pytest.mark.usefixtures("wrong_blocks")
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_without_a_secret(
    name: str, given: dict[str, Any], locked_redis: RedisServer, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Prefect's console handler may hold the stream that pytest had put there when the server was started.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    changes, said = WRONG[name]
    if name == "wrong password":
        changes = changes | {"redis_port": locked_redis.port}
    body = prefect_eta_runtime.fn(**given | changes, iterations=1)
    assert body.is_failed()
    assert said in body.message
    captured = capfd.readouterr()
    text = captured.out + captured.err + body.message
    assert SECRET not in text
    assert "Traceback" not in text
    assert "\n" not in body.message


def test_the_command_line_exits_with_2(
    server: PrefectServer, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_eta_flow, "end_by_deadline", lambda *_: None)
    monkeypatch.setattr(prefect_eta_flow, "_owned_by_command_line", False)
    for arguments, said in (
        (["--runtime-block", "absent/block"], "there is no block eta-runtime-settings/absent-block"),
        (["--max-stops", "0"], "max_stops_per_vehicle is 0"),
    ):
        done = CliRunner().invoke(prefect_eta_flow.main, arguments)
        assert done.exit_code == 2, done.output
        assert said in done.output.splitlines()[-1]


def test_save_block_twice(server: PrefectServer) -> None:
    arguments = ["save-block", "--block-name", "eta-runtime/twice", "--redis-host", "redis", "--redis-port", "6379"]
    first = command(*arguments, "--notification-block", "slack/eta-alerts", "--redis-password-secret", "redis/primary")
    assert first.exit_code == 0, first.output
    assert "taking eta-runtime-twice for eta-runtime/twice" in first.output
    again = command(*arguments)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    assert command(*arguments, "--max-stops", "9", "--overwrite").exit_code == 0
    saved: Any = EtaRuntimeSettings.load("eta-runtime-twice")
    assert (saved.redis_host, saved.max_stops_per_vehicle) == ("redis", 9)


def test_a_wrong_block_is_not_saved(server: PrefectServer) -> None:
    done = command("save-block", "--block-name", "eta-wrong", "--redis-port", "99999")
    assert done.exit_code == 2
    assert "redis_port is 99999" in done.output
    assert "Traceback" not in done.output


def test_deploy_takes_environment_tags_and_the_block(server: PrefectServer, api: Any) -> None:
    runtime_deployment.create_pools()
    Variable.set("env_runtime", {"MODEL_REGISTRY_DIR": "/opt/models", "LEVEL": "1"}, overwrite=True)
    done = command(
        "deploy",
        *("--block-name", "eta-runtime/dev", "--name", "by-hand", "--tag", "streaming", "--tag", "eta"),
        *("--env-block", "env/runtime", "--env", "LEVEL=2"),
    )
    assert done.exit_code == 0, done.output
    made = api.read_deployment_by_name("prefect-eta-runtime/by-hand")
    assert made.parameters == {"runtime_settings_block": "eta-runtime-dev"}
    assert made.work_pool_name == "eta-runtime-pool"
    assert sorted(made.tags) == ["eta", "streaming"]
    environment = made.job_variables["env"]
    assert (environment["MODEL_REGISTRY_DIR"], environment["LEVEL"]) == ("/opt/models", "2")
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--work-pool", "absent"], "there is no work pool absent"),
        (["--env", "novalue"], "--env is 'novalue'"),
        (["--env-block", "absent"], "there is no Prefect Variable absent"),
    ],
)
def test_deploy_says_what_is_missing(server: PrefectServer, arguments: list[str], said: str) -> None:
    done = command("deploy", *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


# -- the reporter by itself --------------------------------------------------------------------------------------------


class FakeLoop:
    def __init__(self) -> None:
        self.profiler = Profiler()
        self.requested: list[str] = []

    def request_swap(self, model_key: str) -> None:
        self.requested.append(model_key)


def window() -> Window:
    from collections import Counter

    return Window(10.0, 1, 0, Counter())


def test_a_model_key_changed_in_the_block_is_asked_for_once(api: Any, wait_until: Any) -> None:
    EtaRuntimeSettings(model_key=FIRST).save("eta-watched")
    settings = merge({}, {"model_key": FIRST}, {})
    run = api.create_flow_run(prefect_eta_runtime)
    reporter = Reporter(
        RunSettings(settings.config, artifact_prefix="eta-watched", watched_block="eta-watched"), flow_run_id=run.id
    )
    loop = FakeLoop()
    reporter.start(loop)
    reporter.on_window(window())
    wait_until(reporter._queue.empty)
    EtaRuntimeSettings(model_key=SECOND).save("eta-watched", overwrite=True)
    reporter.on_window(window())
    reporter.on_window(window())
    assert reporter.close(20.0)
    assert loop.requested == [SECOND]
    assert reporter.n_failed == 0
    body = {"artifacts": {"flow_run_id": {"any_": [str(run.id)]}}}
    assert len(api.request("POST", "/artifacts/filter", json=body).json()) == 5, "one a key, however many windows"


def test_a_reporter_that_hangs_drops_and_counts_and_does_not_hold_up_the_loop() -> None:
    hang = threading.Event()

    class Hanging(Reporter):
        def _report(self, window: Window, loop: Loop) -> None:
            hang.wait()

    reporter = Hanging(merge({}, {}, {}), flow_run_id=uuid4())
    reporter.start(FakeLoop())
    for _ in range(200):
        reporter.on_window(window())
    assert 130 <= reporter.n_dropped <= 136
    assert not reporter.close(0.05)
    hang.set()


def test_without_an_api_a_report_fails_and_is_counted(caplog: Any) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}), caplog.at_level("WARNING"):
        reporter = Reporter(merge({}, {}, {}), flow_run_id=uuid4())
        reporter.start(FakeLoop())
        reporter.on_window(window())
        reporter.on_window(window())
        assert reporter.close(20.0)
    assert reporter.n_failed == 2
    assert caplog.text.count("predictions go on without it") == 1
