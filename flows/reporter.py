"""The thread that owns every call to Prefect while the loop runs.

The loop hands over what happened and goes on; it never waits. What does not
fit into the queue is dropped and counted. When Prefect's server is gone each
call fails within seconds, nothing is retried, and the next window tries anew.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Final, Protocol
from uuid import UUID

from prefect.events.schemas.events import Event, RelatedResource, Resource
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from etacore.loop.latency import METRICS, Profiler
from etacore.loop.runtime import PollResult, Silent, Window
from etacore.pipeline.engine import summarize
from flows.artifacts import artifact_key, latency_markdown, progress_percent
from flows.notify import Alert, AlertRules, Receiver, send
from flows.prefect_api import PrefectApi
from flows.runtime_config import BLOCK_SLUG, RunSettings

log: Final = logging.getLogger("etacore.flows")

EVENT: Final = "etacore.runtime.window"
QUEUE_SIZE: Final = 64
CLOSE_TIMEOUT_S: Final = 6.0


class Loop(Protocol):
    """What the reporter needs of `etacore.loop.runtime.Runtime`."""

    @property
    def profiler(self) -> Profiler:
        """Latencies of the stages."""

    def request_swap(self, model_key: str) -> None:
        """Ask for another model."""


class Reporter(Silent):
    """Observer of the loop, and the thread behind it.

    Parameters
    ----------
    settings : RunSettings
    receivers : sequence of Receiver
        Who gets alerts.
    flow_run_id, flow_run_name : optional
        Without a run (no API) only alerts are sent, and nothing is asked of Prefect.
    """

    def __init__(
        self,
        settings: RunSettings,
        receivers: Sequence[Receiver] = (),
        *,
        flow_run_id: UUID | None = None,
        flow_run_name: str = "",
    ) -> None:
        self.n_dropped = 0
        self.n_failed = 0
        self._settings: Final = settings
        self._receivers: Final = tuple(receivers)
        self._run: Final = flow_run_id
        self._run_name: Final = flow_run_name
        self._rules: Final = AlertRules(settings.zero_prediction_alert_threshold, settings.artifact_prefix)
        self._queue: Final[queue.Queue[Window | Alert | logging.LogRecord | None]] = queue.Queue(QUEUE_SIZE)
        self.thread: threading.Thread | None = None
        self._api: Final = PrefectApi(flow_run_id)
        self.api_is_gone = False
        self._deadline: float | None = None
        self._n_polls = 0
        self._model_key = settings.config.model_key

    # -- on the loop's thread ---------------------------------------------------------------------------------------

    def on_poll(self, result: PollResult) -> None:
        """Count towards an alert."""
        self.alert(self._rules.after_poll(result))

    def on_outage(self, message: str) -> None:
        """Count towards an alert."""
        self.alert(self._rules.after_outage(message))

    def on_refusal(self, model_key: str, message: str) -> None:
        """Tell people at once."""
        self.alert(
            Alert(
                f"{self._settings.artifact_prefix}: model refused",
                f"Model {model_key} was not taken over, the one before goes on serving: {message}",
            )
        )

    def on_window(self, window: Window) -> None:
        """Hand over the window's counters."""
        if window.n_polls or window.n_outages:
            log.info(window.line())
        self._put(window)

    def alert(self, alert: Alert | None) -> None:
        """Hand over an alert, from any thread."""
        if alert is not None:
            log.warning("%s: %s", alert.subject, alert.body)
            self._put(alert)

    def log_handler(self) -> logging.Handler:
        """Sends the loop's log lines to the run's page, by way of this thread: Prefect's own handlers can block."""
        handler = _Lines(self)
        handler.setLevel(logging.INFO)
        return handler

    def _put(self, item: Window | Alert | logging.LogRecord) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.n_dropped += 1

    # -- start and end ----------------------------------------------------------------------------------------------

    def start(self, loop: Loop) -> None:
        """Start the thread, with the context of the flow run."""
        context = contextvars.copy_context()
        self.thread = threading.Thread(target=context.run, args=(self._work, loop), name="eta-reporter", daemon=True)
        self.thread.start()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Report what is left, for a few seconds at most; returns whether all of it was."""
        thread = self.thread
        if thread is None:
            return True
        self._deadline = monotonic() + timeout_s
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return False
        thread.join(max(self._deadline - monotonic(), 0.0))
        return not thread.is_alive()

    # -- on the reporter's thread -----------------------------------------------------------------------------------

    def _work(self, loop: Loop) -> None:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            while True:
                item = self._queue.get()
                if item is None:
                    return
                try:
                    if isinstance(item, Alert):
                        send(item, self._receivers)
                    elif isinstance(item, logging.LogRecord):
                        self._ask_prefect(partial(self._send_line, item))
                    else:
                        self._report(item, loop)
                except Exception:
                    # Whatever went wrong here must not end the reporting of a loop that runs for months.
                    self.n_failed += 1
                    log.exception("a report failed")

    def _report(self, window: Window, loop: Loop) -> None:
        self._n_polls += window.n_polls
        if self._run is None:
            return
        steps: list[Callable[[], None]] = [
            partial(self._emit, window, loop.profiler),
            partial(self._publish_progress, window),
            *(partial(self._publish_latency, metric, loop.profiler) for metric in METRICS),
            partial(self._look_for_promotion, loop),
        ]
        for step in steps:
            if not self._ask_prefect(step):
                return

    def _ask_prefect(self, step: Callable[[], None]) -> bool:
        """False if Prefect does not answer; said once, and once when it does again."""
        if self._deadline is not None and monotonic() > self._deadline:
            return False
        try:
            step()
        except Exception as error:
            self.n_failed += 1
            self._api.close()
            if not self.api_is_gone:
                log.warning("Prefect's API fails (%s); predictions go on without it", type(error).__name__)
            self.api_is_gone = True
            return False
        if self.api_is_gone:
            log.info("Prefect's API answers again")
            self.api_is_gone = False
        return True

    def _send_line(self, record: logging.LogRecord) -> None:
        line = {
            "name": record.name,
            "level": record.levelno,
            "message": record.getMessage(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "flow_run_id": str(self._run),
        }
        self._api.request("POST", "/logs/", json=[line])

    def _emit(self, window: Window, profiler: Profiler) -> None:
        latency = {
            metric: {
                "count": f.count,
                "p50_ms": round(f.p50_ms, 3),
                "p99_ms": round(f.p99_ms, 3),
                "max_ms": round(f.max_ms, 3),
            }
            for metric, f in profiler.reset_window().items()
        }
        event = Event(
            event=EVENT,
            resource=Resource(
                {
                    "prefect.resource.id": f"etacore.runtime.{self._settings.artifact_prefix}",
                    "prefect.resource.name": self._settings.artifact_prefix,
                }
            ),
            related=[
                RelatedResource(
                    {
                        "prefect.resource.id": f"prefect.flow-run.{self._run}",
                        "prefect.resource.role": "flow-run",
                        "prefect.resource.name": self._run_name,
                    }
                )
            ],
            payload={
                "duration_s": round(window.duration_s, 3),
                "polls": window.n_polls,
                "outages": window.n_outages,
                "max_late_ms": round(window.max_late_s * 1e3, 3),
                **summarize(window.counts),
                "reasons": {status.label: n for status, n in window.counts.items()},
                "odd": {str(remark): n for remark, n in window.remarks.items()},
                "latency": latency,
                "reports_dropped": self.n_dropped,
                "reports_failed": self.n_failed,
            },
        )
        self._api.request("POST", "/events", json=[event.model_dump(mode="json")])

    def _publish_progress(self, window: Window) -> None:
        iterations = self._settings.config.iterations
        self._api.publish(
            "progress",
            progress_percent(window, self._n_polls, iterations),
            f"{self._n_polls} polls of {iterations}"
            if iterations
            else "Vehicles that should have got a prediction in the last window and did, per cent",
            f"{self._settings.artifact_prefix}-progress",
        )

    def _publish_latency(self, metric: str, profiler: Profiler) -> None:
        text = latency_markdown(metric, profiler.csv_text(metric), profiler.snapshot()[metric])
        self._api.publish(
            "markdown",
            text,
            f"{metric}_times.csv since the start",
            artifact_key(self._settings.artifact_prefix, metric),
        )

    def _look_for_promotion(self, loop: Loop) -> None:
        block = self._settings.watched_block
        if block is None:
            return
        document = self._api.request(
            "GET",
            "/block_types/slug/{slug}/block_documents/name/{block_document_name}",
            path_params={"slug": BLOCK_SLUG, "block_document_name": block},
        )
        model_key = document["data"].get("model_key") or None
        if model_key == self._model_key:
            return
        self._model_key = model_key
        if model_key is not None:
            log.info("block %s now names model %s", block, model_key)
            loop.request_swap(model_key)


class _Lines(logging.Handler):
    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter._put(record)
