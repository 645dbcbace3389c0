"""Blocks and deployments of the runtime: ``save-block``, ``deploy`` and the idempotent ``setup``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import flows

# isort: split
import click
import httpx
from prefect import Flow
from prefect.automations import Automation, ChangeFlowRunState
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.variables import Variable
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from etacore.cli.options import EXIT_USAGE
from etacore.config import SNAPSHOT_SOURCES
from etacore.errors import ConfigError, EtacoreError
from flows.prefect_eta_flow import FLOW_NAME
from flows.runtime_config import SETTINGS, EtaRuntimeSettings, block_name, environment_settings
from flows.shell import one_line

ROOT: Final = Path(__file__).resolve().parents[1]
WORK_POOLS: Final = ("eta-runtime-pool", "eta-training-pool")
DEFAULT_BLOCKS: Final[dict[str, dict[str, Any]]] = {
    "eta-runtime": {},
    "eta-runtime-dev": {"profiling_artifact_key_prefix": "eta-runtime-dev"},
}
ENTRYPOINT: Final = "flows/prefect_eta_flow.py:prefect_eta_runtime"
DEPLOYMENT: Final = "eta-runtime"
WATCHED_FLOWS: Final = (
    FLOW_NAME,
    "model-training",
    "dataset-build",
    "model-evaluation",
    "model-promotion",
    "registry-health-check",
)
ZOMBIES: Final = "eta-runs-without-heartbeat"
SILENCE: Final = timedelta(seconds=90)
"""Three heartbeats."""


def say(line: str) -> None:
    """A line for the operator."""
    click.echo(line, err=True)


class _Commands(click.Group):
    """What can be expected to go wrong is one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EtacoreError as error:
            _fail(one_line(error))
        except ValidationError as error:
            problem = error.errors()[0]
            _fail(f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}: {problem['msg']}")
        except (httpx.TransportError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "API" not in str(error):
                raise
            _fail(f"Prefect's API cannot be reached at {PREFECT_API_URL.value() or 'a temporary server'}")


def _fail(text: str) -> NoReturn:
    click.echo(f"runtime_deployment: {text}", err=True)
    sys.exit(EXIT_USAGE)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Blocks and deployments of the flow prefect-eta-runtime."""


# -- blocks ------------------------------------------------------------------------------------------------------------


@main.command("save-block")
@click.option("--block-name", required=True, help="Lower-case letters, digits, dashes.")
@click.option("--redis-host", envvar="REDIS_HOST", help="Default localhost.")
@click.option("--redis-port", type=int, envvar="REDIS_PORT", help="Default 6379.")
@click.option("--redis-db", type=int, envvar="REDIS_DB", help="Default 0.")
@click.option("--redis-password-secret", help="Name of the Secret block with the password.")
@click.option("--poll-interval", "poll_interval_seconds", type=float, help="Seconds. Default 1.")
@click.option("--source", "snapshot_source", type=click.Choice(SNAPSHOT_SOURCES), help="Default: what is possible.")
@click.option("--model-key", help="Default: what eta:active_model announces, else the registry's best.")
@click.option("--predictions-ttl", "predictions_ttl_seconds", type=int, help="Seconds. Default 300.")
@click.option("--max-batch", "max_vehicle_batch", type=int, help="Vehicles per poll. Default all.")
@click.option("--max-stops", "max_stops_per_vehicle", type=int, help="Stops per vehicle. Default 5.")
@click.option(
    "--guessed-patterns/--no-guessed-patterns",
    "guessed_patterns",
    default=None,
    help="Whether to predict vehicles whose trip is not among the seeded ones. Default: yes.",
)
@click.option(
    "--zero-prediction-threshold",
    "zero_prediction_alert_threshold",
    type=int,
    help="Polls in a row without a prediction before an alert. Default 0 = never.",
)
@click.option(
    "--notification-block", "notification_blocks", multiple=True, help="Who gets alerts: type-slug/name. Repeatable."
)
@click.option("--profiling-artifact-key-prefix", help="Default eta-runtime.")
@click.option("--model-registry-dir", help="Default: MODEL_REGISTRY_DIR of the process that runs.")
@click.option("--overwrite", is_flag=True, help="Replace the block if there is one.")
def save_block(block_name: str, overwrite: bool, **options: Any) -> None:
    """Save an EtaRuntimeSettings block."""
    values = {name: value for name, value in options.items() if value is not None and value != ()}
    if "notification_blocks" in values:
        values["notification_blocks"] = list(values["notification_blocks"])
    name, made = save_settings(block_name, values, overwrite=overwrite)
    if not made:
        raise ConfigError(f"there is a block {name} already", hint="--overwrite replaces it")
    click.echo(f"saved {EtaRuntimeSettings.get_block_type_slug()}/{name}")


def save_settings(name: str, values: dict[str, Any], *, overwrite: bool) -> tuple[str, bool]:
    """Save a block; returns its name as Prefect has it, and False if there is one that must not be replaced."""
    name = block_name(name, say)
    if secret := values.get("redis_password_secret"):
        values = values | {"redis_password_secret": block_name(secret, say)}
    assert set(values) <= set(SETTINGS)
    block = EtaRuntimeSettings(**values)
    try:
        block.save(name, overwrite=overwrite)
    except ValueError as error:
        if "already" not in str(error):
            raise
        return name, False
    return name, True


# -- deployments -------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--block-name", help="EtaRuntimeSettings block with the defaults of its runs.")
@click.option("--work-pool", default=WORK_POOLS[0], show_default=True, help="A pool of type process.")
@click.option(
    "--env-block",
    "env_variables",
    multiple=True,
    help="Name of a Prefect Variable that holds a mapping of environment variables. Environment-variable blocks, "
    "which this flag named once, no longer exist in Prefect. Repeatable.",
)
@click.option("--env", "pairs", multiple=True, metavar="KEY=VALUE", help="Environment of its runs. Repeatable.")
@click.option("--tag", "tags", multiple=True, help="Repeatable.")
@click.option("--name", default=DEPLOYMENT, show_default=True, help="Name of the deployment.")
def deploy(
    block_name: str | None,
    work_pool: str,
    env_variables: Sequence[str],
    pairs: Sequence[str],
    tags: Sequence[str],
    name: str,
) -> None:
    """Deploy the runtime's flow to a work pool."""
    environment = dict(flows.PREFECT_DEFAULTS)
    for variable in env_variables:
        environment |= _mapping(variable)
    environment |= dict(_pair(text) for text in pairs)
    parameters = {"runtime_settings_block": _name(block_name)} if block_name else {}
    _check_pool(work_pool)
    runtime = cast(Flow[Any, Any], Flow.from_source(source=str(ROOT), entrypoint=ENTRYPOINT))
    runtime.deploy(
        name=name,
        work_pool_name=work_pool,
        parameters=parameters,
        job_variables={"env": environment},
        tags=list(tags),
        build=False,
        push=False,
        print_next_steps=False,
        ignore_warnings=True,
    )
    click.echo(f"deployed {runtime.name}/{name}: prefect deployment run '{runtime.name}/{name}'")


def _name(text: str) -> str:
    return block_name(text, say)


def _mapping(variable: str) -> dict[str, str]:
    name = variable.replace("/", "_").replace("-", "_")
    value = Variable.get(name)
    if not isinstance(value, dict):
        problem = "there is no Prefect Variable" if value is None else "no mapping in the Prefect Variable"
        raise ConfigError(
            f"{problem} {name}", hint=f"""prefect variable set {name} '{{"MODEL_REGISTRY_DIR": "/opt/models"}}'"""
        )
    return {str(key): str(text) for key, text in value.items()}


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise ConfigError(f"--env is {text!r}", hint="give KEY=VALUE")
    return key, value


def _check_pool(name: str) -> None:
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            raise ConfigError(
                f"there is no work pool {name}", hint=f"prefect work-pool create {name} --type process"
            ) from None


# -- set-up ------------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--overwrite", is_flag=True, help="Replace the default blocks if they exist.")
def setup(overwrite: bool) -> None:
    """Bring a Prefect server to where everything runs; may be repeated at any time.

    Work pools, block types, default blocks, all deployments of prefect.yaml,
    and the automation that marks runs without a heartbeat as crashed.
    """
    create_pools()
    register_blocks()
    save_default_blocks(overwrite)
    deploy_all()
    watch_heartbeats()


def create_pools() -> None:
    """Both work pools, of type process; their runs send the heartbeats that `watch_heartbeats` counts on."""
    with get_client(sync_client=True) as client:
        for name in WORK_POOLS:
            try:
                pool = client.read_work_pool(name)
            except ObjectNotFound:
                template = _with_environment(ProcessWorker.get_default_base_job_template())
                client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
                click.echo(f"work pool {name}: created")
                continue
            # A pool made by `prefect work-pool create` is empty until its first worker starts.
            template = _with_environment(pool.base_job_template or ProcessWorker.get_default_base_job_template())
            if template != pool.base_job_template:
                client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
            click.echo(f"work pool {name}: there")


def _with_environment(template: dict[str, Any]) -> dict[str, Any]:
    """A base job template whose runs have Prefect's settings for these flows, unless it says otherwise itself."""
    template = deepcopy(template)
    env = template["variables"]["properties"]["env"]
    env["default"] = flows.PREFECT_DEFAULTS | (env.get("default") or {})
    return template


def register_blocks() -> None:
    """Types of the blocks that the flows use."""
    for block in (EtaRuntimeSettings, Secret, SlackWebhook, CustomWebhookNotificationBlock):
        block.register_type_and_schema()
    click.echo("block types: registered")


def save_default_blocks(overwrite: bool) -> None:
    """``eta-runtime`` and ``eta-runtime-dev``, with the Redis of this environment."""
    for name, values in DEFAULT_BLOCKS.items():
        _, made = save_settings(name, environment_settings() | values, overwrite=overwrite)
        click.echo(f"block {name}: {'saved' if made else 'there'}")


def deploy_all() -> None:
    """Everything in prefect.yaml, as ``prefect deploy --all`` does."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(
            f"prefect deploy --all failed: {(done.stderr or done.stdout).strip()[-800:]}",
            hint=f"run it in {ROOT} to see all of it",
        )
    click.echo("deployments: all of prefect.yaml")


def watch_heartbeats() -> None:
    """A run whose process vanished stays RUNNING for ever: after three silent heartbeats it is marked as crashed."""
    automation = Automation(
        name=ZOMBIES,
        description="Marks flow runs as crashed when their process no longer says that it lives.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                "prefect.flow-run.Completed",
                "prefect.flow-run.Failed",
                "prefect.flow-run.Cancelled",
                "prefect.flow-run.Crashed",
            },
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": ["flow"], "prefect.resource.name": list(WATCHED_FLOWS)}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, force=False, message="No heartbeat for 90 s: its process is gone."
            )
        ],
    )
    with get_client(sync_client=True) as client:
        response = client.request("POST", "/automations/filter", json={"automations": {"name": {"any_": [ZOMBIES]}}})
        known = response.json()
    if known:
        click.echo(f"automation {ZOMBIES}: there")
        return
    cast(Any, automation).create()
    click.echo(f"automation {ZOMBIES}: created")


if __name__ == "__main__":
    main()
