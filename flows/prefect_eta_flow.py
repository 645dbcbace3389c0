"""The flow `prefect-eta-runtime`: Prefect's view of the prediction loop, and its command line.

``python flows/prefect_eta_flow.py --iterations 1`` needs no server. The loop
itself is `etacore.loop.runtime.Runtime`, which knows no Prefect; while it runs, the
reporter's thread talks to Prefect.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, NoReturn, TypeVar, cast
from uuid import UUID

from etacore.cli.options import EXIT_USAGE, hide_secret_arguments

if __name__ == "__main__":
    hide_secret_arguments(sys.orig_argv)  # before Prefect's slow import leaves a password in the process list

import flows  # noqa: F401  (sets defaults of Prefect, so it comes first)

# isort: split
import click
from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Failed
from pydantic import SecretStr

from etacore._kernels.resp import Values
from etacore.config import SNAPSHOT_SOURCES
from etacore.errors import EtacoreError
from etacore.loop.runtime import Chunk, Runtime
from etacore.pipeline.engine import Batch, summarize
from flows.notify import Alert, Receiver, find_receivers, send
from flows.parameters import Names, names
from flows.reporter import Reporter
from flows.runtime_config import RunSettings, merge, resolve
from flows.shell import API_IS_GONE_END_S, api_answers, log, one_line, say_once, set_up_logging
from flows.stopping import PROCESS_END_S, end_by_deadline, serve, sigterm_raises

FLOW_NAME: Final = "prefect-eta-runtime"
MAX_SHOWN_STEPS: Final = 60
"""Task runs that a bounded run shows. One costs 5 ms here and 40 ms of the server's time."""

T = TypeVar("T")

_owned_by_command_line = False


@task(name="fetch_vehicle_snapshots", cache_policy=NO_CACHE, persist_result=False)
def _show_fetch(step: Callable[[], Values]) -> Values:
    return step()


@task(name="predict_for_snapshots", cache_policy=NO_CACHE, persist_result=False)
def _show_predict(step: Callable[[], Chunk]) -> Chunk:
    return step()


@task(name="write_predictions_to_redis", cache_policy=NO_CACHE, persist_result=False)
def _show_write(step: Callable[[], int]) -> int:
    return step()


class ShownRuntime(Runtime):
    """The loop, with its first steps as task runs: what a bounded run shows in the UI."""

    n_shown = 0

    def fetch_vehicle_snapshots(self, keys: Sequence[bytes], ahead: Sequence[bytes] | None = None) -> Values:
        """See `Runtime`."""
        return self._show(_show_fetch, partial(super().fetch_vehicle_snapshots, keys, ahead))

    def predict_for_snapshots(
        self, keys: Sequence[bytes], payloads: Sequence[bytes | None] | Values, batch: Batch, started: float
    ) -> Chunk:
        """See `Runtime`."""
        return self._show(_show_predict, partial(super().predict_for_snapshots, keys, payloads, batch, started))

    def write_predictions_to_redis(self, chunk: Chunk) -> int:
        """See `Runtime`."""
        return self._show(_show_write, partial(super().write_predictions_to_redis, chunk))

    def _show(self, task_run: Callable[[Callable[[], T]], T], step: Callable[[], T]) -> T:
        """Do a step inside of a task run. What Prefect takes before and after it is no time of the pipeline."""
        if self.n_shown >= MAX_SHOWN_STEPS:
            return step()
        self.n_shown += 1
        since = perf_counter()

        def timed() -> T:
            nonlocal since
            self.shown_s += perf_counter() - since
            try:
                return step()
            finally:
                since = perf_counter()

        try:
            return task_run(timed)
        finally:
            self.shown_s += perf_counter() - since


@flow(name=FLOW_NAME, persist_result=False)
def prefect_eta_runtime(
    redis_host: str | None = None,
    redis_port: int | None = None,
    redis_db: int | None = None,
    redis_password: SecretStr | None = None,
    poll_interval_seconds: float | None = None,
    snapshot_source: str | None = None,
    max_vehicle_batch: int | None = None,
    max_stops_per_vehicle: int | None = None,
    predictions_ttl_seconds: int | None = None,
    model_key: str | None = None,
    runtime_settings_block: str | None = None,
    notification_blocks: Names = None,
    zero_prediction_alert_threshold: int | None = None,
    profiling_artifact_key_prefix: str | None = None,
    model_registry_dir: str | None = None,
    iterations: int = 0,
    profiling_dir: str | None = None,
    guessed_patterns: bool | None = None,
) -> Any:
    """Predict arrivals of every vehicle in Redis, poll after poll.

    What is not given comes from the block ``runtime_settings_block``, then
    from the environment (``REDIS_HOST``, ``REDIS_PORT``, ``REDIS_PASSWORD``,
    ``MODEL_REGISTRY_DIR``, ...), then from the defaults.

    Parameters
    ----------
    redis_host, redis_port, redis_db
        The vehicles' Redis. Default localhost, 6379, 0.
    redis_password
        Only understood for old callers: Prefect stores parameters as they are. Name a Secret in the block, or set
        REDIS_PASSWORD.
    poll_interval_seconds
        Default 1.
    snapshot_source
        events: serve vehicles as Redis announces their changes; poll: look at all at each interval. Default auto:
        events where they are possible, poll in a bounded run.
    max_vehicle_batch
        Vehicles per poll, the longest-waiting first. Default all.
    max_stops_per_vehicle
        Default 5.
    predictions_ttl_seconds
        Default 300.
    model_key
        Key, its first characters, or short id. Default: what eta:active_model announces, else the registry's best.
    runtime_settings_block
        Name of an EtaRuntimeSettings block.
    guessed_patterns
        Whether to predict vehicles whose trip is not among the seeded ones. Default yes.
    notification_blocks
        Who gets alerts: type-slug/name, or the name alone.
    zero_prediction_alert_threshold
        Polls in a row without a prediction before an alert. Default 0 = never.
    profiling_artifact_key_prefix
        Default eta-runtime.
    model_registry_dir
        Default MODEL_REGISTRY_DIR, else models/trained.
    iterations
        Polls to make; 0 = for ever.
    profiling_dir
        Folder of the latency files. Default profiling.
    """
    given = dict(locals())
    given["notification_blocks"] = names(notification_blocks)
    return _run(given)


def _run(given: dict[str, Any]) -> State[Any]:
    set_up_logging()
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is not None and given.get("redis_password") is not None:
        _take_out_password(run.id, run.parameters)
    receivers: list[Receiver] = []
    try:
        settings = resolve(given, api=True, say=log.info)
        receivers = find_receivers(settings.notification_blocks)
        reporter = Reporter(
            settings, receivers, flow_run_id=run.id if run else None, flow_run_name=run.name if run else ""
        )
        told, summary = _predict(settings, reporter)
    except EtacoreError as error:
        text = one_line(error)
        if run is None:
            log.error("%s", text)  # else Prefect says it with the state
        send(Alert(f"{FLOW_NAME} failed", text), receivers)
        return Failed(message=text)
    except Exception as error:
        send(Alert(f"{FLOW_NAME} failed", f"{type(error).__name__}: see the run's log."), receivers)
        raise
    if told is not None and not _owned_by_command_line:
        raise told
    if told is not None:
        return Cancelled(message=f"Told to stop. {summary}")
    return Completed(message=summary)


def _predict(settings: RunSettings, reporter: Reporter) -> tuple[BaseException | None, str]:
    """Run the loop to its end; what told it to stop, if anything did, and a summary."""
    shown = settings.config.iterations and FlowRunContext.get() is not None
    runtime = (ShownRuntime if shown else Runtime)(settings.config, observer=reporter)
    stop = threading.Event()
    process_is_ours = _owned_by_command_line or "PREFECT__FLOW_RUN_ID" in os.environ
    if process_is_ours:
        end_by_deadline(stop, PROCESS_END_S)
    log.info("serving %s", ", ".join(model.key for model in runtime.engine.models.all()))
    ours = logging.getLogger("etacore")
    lines = reporter.log_handler()
    ours.addHandler(lines)
    reporter.start(runtime)
    try:
        told = serve(runtime, stop)
    finally:
        ours.removeHandler(lines)
        if not reporter.close():
            log.warning("not everything could be reported to Prefect")
        if process_is_ours and reporter.api_is_gone:
            end_by_deadline(stop, API_IS_GONE_END_S)
        runtime.close()
    totals = summarize(runtime.summary.counts)
    counts = ", ".join(f"{n} {name}" for name, n in totals.items())
    return told, f"{runtime.summary.n_polls} polls: {counts}, {runtime.summary.n_outages} outages"


def _take_out_password(run_id: UUID, parameters: Mapping[str, Any]) -> None:
    """Whoever called with a plain password has it stored by now: overwrite it."""
    log.warning("redis_password as a parameter is stored by Prefect: name a Secret in the block instead; taken out now")
    kept = {name: value for name, value in parameters.items() if name != "redis_password"}
    with get_client(sync_client=True) as client:
        client.update_flow_run(run_id, parameters=kept)


# -- command line ------------------------------------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--redis-host", help="Default: the block's, else REDIS_HOST, else localhost.")
@click.option("--redis-port", type=int, help="Default: the block's, else REDIS_PORT, else 6379.")
@click.option("--redis-db", type=int, help="Default: the block's, else REDIS_DB, else 0.")
@click.option("--redis-password", help="Better given as REDIS_PASSWORD; moved there before anything else happens.")
@click.option(
    "--poll-interval",
    "poll_interval_seconds",
    type=float,
    help="Seconds between polls; with events, what counts as one. Default 1.",
)
@click.option(
    "--source",
    "snapshot_source",
    type=click.Choice(SNAPSHOT_SOURCES),
    help="Serve vehicles as Redis announces their changes, or look at all at each interval. Default: what is possible.",
)
@click.option("--iterations", type=int, default=0, help="Polls to make; 0 (default) = for ever.")
@click.option("--max-batch", "max_vehicle_batch", type=int, help="Vehicles per poll, the longest-waiting first.")
@click.option("--max-stops", "max_stops_per_vehicle", type=int, help="Stops per vehicle. Default 5.")
@click.option(
    "--model-key", help="Serve this model (key or short id); default: the promoted one, else the registry's best."
)
@click.option("--predictions-ttl", "predictions_ttl_seconds", type=int, help="Seconds. Default 300.")
@click.option(
    "--guessed-patterns/--no-guessed-patterns",
    "guessed_patterns",
    default=None,
    help="Whether to predict vehicles whose trip is not among the seeded ones. Default: yes, the document says so.",
)
@click.option("--runtime-block", "runtime_settings_block", help="EtaRuntimeSettings block with the defaults.")
@click.option(
    "--notification-block",
    "notification_blocks",
    multiple=True,
    help="Who gets alerts: type-slug/name, for example slack-webhook/eta-alerts. Repeatable.",
)
@click.option(
    "--zero-prediction-threshold",
    "zero_prediction_alert_threshold",
    type=int,
    help="Polls in a row without a prediction before an alert. Default 0 = never.",
)
@click.option("--profiling-artifact-key-prefix", help="Default eta-runtime.")
@click.option("--model-registry-dir", type=click.Path(file_okay=False), help="Default models/trained.")
@click.option("--profiling-dir", type=click.Path(file_okay=False), help="Latency files go here. Default profiling.")
def main(**options: Any) -> None:
    """Run the flow prefect-eta-runtime here and now, with Prefect's server or without one."""
    global _owned_by_command_line
    set_up_logging()
    _owned_by_command_line = say_once.is_alone = True
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if "notification_blocks" in given:
        given["notification_blocks"] = list(given["notification_blocks"])
    try:
        merge(given, {}, os.environ)  # what is wrong with the flags alone is said before a server is started
        state = _run_with_prefect(given) if api_answers() else _run_alone(given)
    except EtacoreError as error:
        _fail(one_line(error))
    if state.is_failed() or state.is_crashed():
        _fail(state.message or "failed")


def _fail(text: str) -> NoReturn:
    click.echo(f"{FLOW_NAME}: {text}", err=True)
    sys.exit(EXIT_USAGE)


def _run_with_prefect(given: dict[str, Any]) -> State[Any]:
    return cast("State[Any]", prefect_eta_runtime(**given, return_state=True))


def _run_alone(given: dict[str, Any]) -> State[Any]:
    settings = resolve(given, api=False, say=log.info)
    if settings.notification_blocks:
        log.warning("no alerts to %s: they are blocks in Prefect", ", ".join(settings.notification_blocks))
    with sigterm_raises():
        _, summary = _predict(settings, Reporter(settings))
    log.info("%s", summary)
    return Completed(message=summary)


if __name__ == "__main__":
    main()
