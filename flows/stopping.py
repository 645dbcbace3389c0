"""How a run ends: the batch in hand is finished, and the process is gone in time even if Prefect's server is not there.

The loop has a thread of its own. Signals reach the main thread, where Prefect
raises its `TerminationSignal` in the middle of whatever runs; a batch is
never what it hits.
"""

from __future__ import annotations

import contextvars
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep
from typing import Final

from prefect.exceptions import TerminationSignal

from etacore.loop.runtime import Runtime

log: Final = logging.getLogger("etacore.flows")

LOOP_END_S: Final = 8.0
"""The batch in hand, or a Redis that hangs; its files are then written without it."""
PROCESS_END_S: Final = 20.0
"""From being told to stop to the end of the process. `docker stop` and Prefect's cancel wait 30 s at most."""


def serve(runtime: Runtime, stop: threading.Event) -> BaseException | None:
    """Run the loop in a thread of its own until it ends or a signal comes.

    Returns
    -------
    TerminationSignal, KeyboardInterrupt or None
        What told it to stop. It is for the caller to raise it again.

    Raises
    ------
    Exception
        What ended the loop.
    """
    failures: list[BaseException] = []

    def work() -> None:
        try:
            runtime.run(stop)
        except BaseException as error:
            failures.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="eta-loop", daemon=True)
    told: BaseException | None = None
    thread.start()
    try:
        thread.join()
    except (TerminationSignal, KeyboardInterrupt) as signal_:
        told = signal_
        log.info("told to stop: finishing the batch in hand")
    finally:
        stop.set()
    thread.join(LOOP_END_S)
    if thread.is_alive():
        log.warning("the loop hangs in Redis: ending without it")
        runtime.write_profile()
    if failures:
        raise failures[0]
    return told


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """As Prefect does while a flow runs, for a run without it."""

    def handle(number: int, _frame: object) -> None:
        raise TerminationSignal(signal=number)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_by_deadline(stop: threading.Event, limit_s: float = PROCESS_END_S, exit_code: int = 0) -> threading.Thread:
    """End this process `limit_s` after `stop` is set, whatever hangs in it; for a process that is all ours.

    Prefect retries the report of a final state for 140 s, and waits at exit
    for its queue of events, when its server has died.
    """

    def watch() -> None:
        stop.wait()
        sleep(limit_s)
        print("Prefect's API does not answer: ending without reporting the final state", file=sys.stderr, flush=True)
        _end_temporary_servers()
        os._exit(exit_code)

    thread = threading.Thread(target=watch, name="eta-deadline", daemon=True)
    thread.start()
    return thread


def _end_temporary_servers() -> None:
    from prefect.server.api.server import SubprocessASGIServer

    for server in list(SubprocessASGIServer._instances.values()):
        if server.server_process is not None:
            server.server_process.terminate()
