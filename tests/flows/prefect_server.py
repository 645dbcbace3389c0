"""A Prefect server for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import flows


class PrefectServer:
    """A real server with a database of its own; may be killed and brought back."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.home = home
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For processes that are to use this server."""
        return (
            {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "REDIS_"))}
            | flows.PREFECT_DEFAULTS
            | {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": self.url, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        )

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._process is not None and self._process.poll() is None:
            return
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--no-ui"]
        with (self.home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, timeout_s: float = 120.0) -> None:
        """Until it answers."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(URLError, OSError), urlopen(f"{self.url}/health", timeout=2):
                return
            time.sleep(0.1)
        raise TimeoutError(f"no Prefect server within {timeout_s} s: {(self.home / 'server.log').read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL to it and what it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
