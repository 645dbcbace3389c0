"""What the command lines of all flows share: their log, whether Prefect answers, one line for what went wrong."""

from __future__ import annotations

import logging
from typing import Final

from prefect.client.orchestration import get_client
from prefect.exceptions import FailedRun
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from etacore.errors import EtacoreError

log: Final = logging.getLogger("etacore.flows")

API_TIMEOUT_S: Final = 5.0
API_IS_GONE_END_S: Final = 3.0
"""No use in waiting for a server that did not answer the last report; a temporary one hears Ctrl-C too."""


def one_line(error: EtacoreError) -> str:
    """What was wrong and what to do about it."""
    return f"{error.message} ({error.hint})" if error.hint else error.message


class SayOnce(logging.Filter):
    """Keeps Prefect from saying again what a failed run's state has said, and from showing its own traceback for it."""

    is_alone = False
    """Whether the command line says at its end what went wrong."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop repetitions."""
        text = record.getMessage()
        if record.name == "prefect.engine":
            kind = record.exc_info[0] if record.exc_info else None
            return not (kind is not None and issubclass(kind, FailedRun))
        if text.startswith("Task run failed with state"):
            return False
        return not (self.is_alone and text.startswith("Finished in state Failed("))


say_once: Final = SayOnce()


def set_up_logging() -> None:
    """Our own lines go to stderr by our own handler: Prefect's can end the process when its reader is gone."""
    for name in ("prefect.engine", "prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(say_once)  # a filter that is there is not added again
    ours = logging.getLogger("etacore")
    if ours.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False


def api_answers() -> bool:
    """Whether there is an API; without an address Prefect starts a temporary one."""
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": API_TIMEOUT_S}) as client,
        ):
            problem = client.api_healthcheck()
    except Exception as error:
        problem = error
    if problem is None:
        return True
    where = PREFECT_API_URL.value() or "no address is set and a temporary one did not start"
    log.warning("Prefect's API cannot be reached (%s, %s): running without it", where, type(problem).__name__)
    return False
