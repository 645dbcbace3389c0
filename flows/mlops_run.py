"""What the flows about datasets and models share: steps, artifacts, progress, alerts, and how a run ends.

Each flow is a thin shell: it turns parameters into settings, calls the library,
and shows what came out. Prefect sees one flow run with a few task runs. What it
is shown may get lost, when its server is slow or gone; the work goes on.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, NoReturn, TypeVar

import click
from prefect import Flow, State, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Completed, Failed

from etacore.cli.options import EXIT_USAGE
from etacore.errors import EtacoreError
from etacore.mlops.progress import LineProgress, stage_line
from flows.notify import Alert, Receiver, find_receivers, send
from flows.parameters import Names, names
from flows.prefect_api import PrefectApi
from flows.shell import API_IS_GONE_END_S, api_answers, log, one_line, say_once, set_up_logging
from flows.stopping import end_by_deadline, sigterm_raises

UPDATE_S: Final = 2.0
"""Seconds between two updates of the progress artifact."""
SILENCE_S: Final = 30.0
"""Nothing more is shown for so long after Prefect did not answer."""
MAX_PICTURE_BYTES: Final = 400_000

T = TypeVar("T")

_owned_by_command_line = False


class FlowFailedError(EtacoreError):
    """The work was done and is reported; what came out makes the run a failed one."""


class MlopsRun:
    """One run of such a flow, with Prefect around it or without.

    Parameters
    ----------
    name : str
        Of the flow; what its artifacts begin with.
    """

    def __init__(self, name: str) -> None:
        context = FlowRunContext.get()
        run = context.flow_run if context is not None else None
        self.name: Final = name
        self.label: Final = run.name if run is not None else name
        self.run_id: Final = run.id if run is not None else None
        self._api: Final = PrefectApi(self.run_id)
        self._silent_until = 0.0
        self.api_is_gone = False
        self._stage = ""
        self._shown_at = 0.0
        self._say_progress: Final = LineProgress(log.info)

    @property
    def has_prefect(self) -> bool:
        """Whether this is a flow run that Prefect knows."""
        return self.run_id is not None

    # -- work -------------------------------------------------------------------------------------------------------

    def step(self, name: str, work: Callable[[], T]) -> T:
        """Do a part of the work, as a task run of this name.

        Its result stays here, and what is wrong with an input is no traceback in Prefect's log.
        """
        if not self.has_prefect:
            return work()
        results: list[T] = []
        errors: list[Exception] = []

        def body() -> Any:
            try:
                results.append(work())
            except EtacoreError as error:
                errors.append(error)
                return Failed(message=one_line(error))
            except Exception as error:
                errors.append(error)
                raise
            return Completed(message=name)

        task(name=name, cache_policy=NO_CACHE, persist_result=False)(body)(return_state=True)
        if errors:
            raise errors[0]
        return results[0]

    def progress(self, stage: str, done: int, total: int) -> None:
        """How far it is; see `etacore.mlops.progress.Progress`."""
        now = monotonic()
        begins, ends = stage != self._stage, total > 0 and done >= total
        self._stage = stage
        self._say_progress(stage, done, total)
        if begins or ends or now - self._shown_at >= UPDATE_S:
            if now - self._shown_at < UPDATE_S / 4:  # many short stages
                return
            self._shown_at = now
            self._publish(
                "progress",
                round(100.0 * done / total, 1) if total else 0.0,
                stage_line(stage, done, total),
                f"{self.name}-progress",
            )

    # -- what is shown ----------------------------------------------------------------------------------------------

    def page(self, suffix: str, markdown: str, description: str) -> None:
        """A Markdown artifact, with the key ``<flow>-<suffix>``."""
        self._publish("markdown", markdown, description, f"{self.name}-{suffix}")

    def table(self, suffix: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """A table artifact; numbers are rounded to three decimals, those that are none are left empty."""
        plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
        self._publish("table", json.dumps(plain), description, f"{self.name}-{suffix}")

    def pictures(self, suffix: str, titles: Mapping[Path, str], description: str) -> None:
        """PNG files in a Markdown artifact: Prefect's UI shows pictures that are part of the text.

        Its image artifact would show the picture, too, and the whole of its data as a link below it.
        """
        lines = []
        for path, title in titles.items():
            content = path.read_bytes()
            data = base64.b64encode(content).decode()
            shown = f"![{title}](data:image/png;base64,{data})" if len(content) <= MAX_PICTURE_BYTES else "(too large)"
            lines += [f"### {title}", "", shown, "", f"`{path}`", ""]
        if lines:
            self.page(suffix, "\n".join(lines), description)

    def log_handler(self) -> logging.Handler:
        """Sends our lines to the run's page."""
        handler = _Lines(self)
        handler.setLevel(logging.INFO)
        return handler

    def finish(self) -> None:
        """Bring the progress to its end, or find out that Prefect is gone."""
        self._silent_until = 0.0
        self._publish("progress", 100.0, "done", f"{self.name}-progress")
        self._api.close()

    def send_line(self, logger: str, level: int, text: str) -> None:
        """A line on the run's page."""
        line = {
            "name": logger,
            "level": level,
            "message": text,
            "timestamp": datetime.now(UTC).isoformat(),
            "flow_run_id": str(self.run_id),
        }
        self.ask("POST", "/logs/", json=[line])

    def ask(self, method: str, route: Any, **arguments: Any) -> bool:
        """Tell Prefect something; False if it does not answer."""
        if not self.has_prefect or monotonic() < self._silent_until:
            return False
        return self._try(partial(self._api.request, method, route, **arguments))

    def _publish(self, kind: str, data: str | float, description: str, key: str) -> None:
        if self.has_prefect and monotonic() >= self._silent_until:
            self._try(partial(self._api.publish, kind, data, description, key))

    def _try(self, call: Callable[[], object]) -> bool:
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                call()
        except Exception as error:
            self._api.close()
            self._silent_until = monotonic() + SILENCE_S
            if not self.api_is_gone:
                self.api_is_gone = True
                log.warning("Prefect's API fails (%s); the work goes on without it", type(error).__name__)
            return False
        self.api_is_gone = False
        return True


class _Lines(logging.Handler):
    def __init__(self, run: MlopsRun) -> None:
        super().__init__()
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        self._run.send_line(record.name, record.levelno, record.getMessage())


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


# -- a run, from its parameters to its state ---------------------------------------------------------------------------


def run_flow(
    name: str,
    notification_blocks: Names,
    work: Callable[[MlopsRun], tuple[str, Any]],
    *,
    tell_success: bool = False,
) -> State[Any]:
    """Do the work of a flow and make a state of what became of it.

    Parameters
    ----------
    name : str
        Of the flow.
    notification_blocks
        Who is told of a failure.
    work : callable
        Returns a one-line summary, and what a caller in Python gets.
    tell_success : bool
        Tell them of a success as well.
    """
    set_up_logging()
    run = MlopsRun(name)
    receivers: list[Receiver] = []
    ours = logging.getLogger("etacore")
    lines = run.log_handler()
    ours.addHandler(lines)
    state: State[Any]
    try:
        receivers = _receivers(run, names(notification_blocks))
        summary, data = work(run)
        log.info("%s", summary)
        state = Completed(message=summary, data=data)
        if tell_success:
            send(Alert(f"{name} done", summary), receivers)
    except EtacoreError as error:
        text = one_line(error)
        if run.has_prefect and _owned_by_command_line:
            run.send_line(log.name, logging.ERROR, text)  # to the run's page; here it is the command's last line
        elif not run.has_prefect and not _owned_by_command_line:
            log.error("%s", text)  # else Prefect says it with the state
        send(Alert(f"{name} failed", text), receivers)
        state = Failed(message=text)
    except (TerminationSignal, KeyboardInterrupt):
        log.info("told to stop")
        if not _owned_by_command_line:
            raise
        state = Cancelled(message="Told to stop; files are as they were, or whole.")
    except Exception as error:
        send(Alert(f"{name} failed", f"{type(error).__name__}: see the run's log."), receivers)
        raise
    finally:
        ours.removeHandler(lines)
    run.finish()
    if run.has_prefect and run.api_is_gone and (_owned_by_command_line or "PREFECT__FLOW_RUN_ID" in os.environ):
        told = threading.Event()
        told.set()
        end_by_deadline(told, API_IS_GONE_END_S, 0 if state.is_completed() else EXIT_USAGE)
    return state


def _receivers(run: MlopsRun, blocks: Sequence[str] | None) -> list[Receiver]:
    if blocks and not run.has_prefect:
        log.warning("no alerts to %s: they are blocks in Prefect", ", ".join(blocks))
        return []
    return find_receivers(blocks or ())


# -- command line ------------------------------------------------------------------------------------------------------

CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

notification_option = click.option(
    "--notification-block",
    "notification_blocks",
    multiple=True,
    help="Who is told: type-slug/name, for example slack-webhook/eta-alerts. Repeatable.",
)
registry_option = click.option(
    "--model-registry-dir", type=click.Path(file_okay=False), help="Default: MODEL_REGISTRY_DIR, else models/trained."
)


def run_command(flow: Flow[..., Any], options: Mapping[str, Any]) -> None:
    """Run a flow here and now, with Prefect's server or without one; exits with 2 if it failed."""
    global _owned_by_command_line
    set_up_logging()
    _owned_by_command_line = say_once.is_alone = True
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value is not None and value != ()
    }
    with_prefect = api_answers()
    try:
        with nullcontext() if with_prefect else sigterm_raises():
            state: Any = flow(**given, return_state=True) if with_prefect else flow.fn(**given)
    except EtacoreError as error:
        _fail(flow.name, one_line(error))
    except KeyboardInterrupt:
        state = Cancelled(message="told to stop")
    if state.is_completed():
        return
    if state.is_cancelled():
        click.echo(f"{flow.name}: {state.message}", err=True)
        sys.exit(128 + signal.SIGINT)
    _fail(flow.name, state.message or "failed")


def _fail(name: str, text: str) -> NoReturn:
    click.echo(f"{name}: {text}", err=True)
    sys.exit(EXIT_USAGE)
