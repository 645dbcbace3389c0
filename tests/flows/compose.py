"""Brings up services of the compose file as processes: its own commands, environment, health checks and order.

Host names become loopback, ports become free ones, and a volume becomes a
folder; the image is the one of `tests.flows.image`, and redis is whatever
Redis or Valkey this machine has.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from etacore.store.server import find_redis_server
from tests.flows.image import ROOT, Image

FILE: Final = ROOT / "docker-compose.prefect.yml"
CONTAINER_PORTS: Final = re.compile(r"\b(4200|6379|8080|8081)\b")
REDIS_CLI: Final = f"""#!{sys.executable}
import socket, sys

assert sys.argv[1] == "-p" and sys.argv[3:] == ["ping"], sys.argv
with socket.create_connection(("127.0.0.1", int(sys.argv[2])), 3) as server:
    server.sendall(b"PING\\r\\n")
    print(server.recv(100).decode())
"""
"""Not every server here comes with a client, and the health check needs no more of it."""
VARIABLE: Final = re.compile(r"\$(?:(\$)|\{(\w+)(?::-([^}]*))?\})")


def load(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The compose file with its variables put in, anchors and merges resolved."""

    def put_in(node: Any) -> Any:
        if isinstance(node, str):
            return VARIABLE.sub(lambda m: "$" if m[1] else (variables or {}).get(m[2]) or m[3] or "", node)
        if isinstance(node, list):
            return [put_in(item) for item in node]
        if isinstance(node, dict):
            return {key: put_in(value) for key, value in node.items()}
        return node

    document: dict[str, Any] = put_in(YAML(typ="safe").load(FILE))
    return document


class Stack:
    """Services of the compose file, as processes below `folder`."""

    def __init__(self, images: Mapping[str, Image], folder: Path, variables: Mapping[str, str]) -> None:
        self.document: Final = load(variables)
        self.processes: Final[dict[str, subprocess.Popen[bytes]]] = {}
        self._images: Final = images  # by the name of their stage
        self._folder: Final = folder
        self._ports: Final[dict[str, int]] = {}

    # -- what tests ask ---------------------------------------------------------------------------------------------

    def up(self, name: str) -> None:
        """Start a service after those it depends on, as ``docker compose up`` would."""
        if name in self.processes:
            return
        for other, wanted in self._service(name).get("depends_on", {}).items():
            self.up(other)
            if wanted["condition"] == "service_completed_successfully":
                assert self.processes[other].wait(180) == 0, self.log(other)
            else:
                self._until_healthy(other)
        self.processes[name] = self._start(name)

    def healthy(self, name: str) -> bool:
        """Whether the service's health check passes now."""
        kind, *words = self._service(name)["healthcheck"]["test"]
        argv = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        return self._run(name, argv).returncode == 0

    def execute(self, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """``docker compose exec``: without the entrypoint, so without what that adds."""
        return self._run(name, argv)

    def stop(self, name: str) -> int:
        """``docker compose stop``; returns the exit code, negative if the grace period was not enough."""
        process = self.processes.pop(name)
        grace_s = float(self._service(name).get("stop_grace_period", "10s").rstrip("s"))
        process.terminate()
        try:
            return process.wait(grace_s)
        finally:
            _end_group(process)

    def down(self) -> None:
        """End everything."""
        for process in reversed(self.processes.values()):
            _end_group(process)

    def port(self, container_port: str) -> int:
        """What stands for a port of a container here."""
        return self._ports.setdefault(container_port, _free_port())

    def log(self, name: str) -> str:
        """All that the service has printed."""
        return self._log_path(name).read_text(errors="replace")

    def wait(self, condition: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait for `condition`; if time is up, or a service ended, show what the services printed last."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            ended = [name for name, process in self.processes.items() if process.poll()]
            if time.monotonic() > deadline or ended:
                logs = "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in self.processes)
                raise AssertionError(f"{what}: not within {timeout_s} s (ended: {ended})\n{logs}")
            time.sleep(0.2)

    # -- how --------------------------------------------------------------------------------------------------------

    def _service(self, name: str) -> dict[str, Any]:
        service: dict[str, Any] = self.document["services"][name]
        return service

    def _image(self, name: str) -> Image | None:
        """None for an image that is not ours."""
        build = self._service(name).get("build")
        return self._images[build["target"]] if build else None

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        service = self._service(name)
        image = self._image(name)
        entrypoint = image.stage.entrypoint if image else []
        with self._log_path(name).open("wb") as output:
            return subprocess.Popen(
                [self._place(name, word) for word in (*entrypoint, *service["command"])],
                env=self._environment(name),
                cwd=self._workdir(name),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _run(self, name: str, argv: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._place(name, word) for word in argv],
            env=self._environment(name),
            cwd=self._workdir(name),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def _until_healthy(self, name: str) -> None:
        check = self._service(name)["healthcheck"]
        seconds = [float(check[key].rstrip("s")) for key in ("start_period", "interval")]
        self.wait(lambda: self.healthy(name), seconds[0] + seconds[1] * check["retries"], f"{name} is healthy")

    def _environment(self, name: str) -> dict[str, str]:
        service = self._service(name)
        image = self._image(name)
        if image:
            values = dict(image.stage.environment)
        else:
            values = {"PATH": os.pathsep.join([os.fspath(self._redis_server_folder(name)), os.environ["PATH"]])}
        values |= service.get("environment", {})
        placed = {key: self._place(name, self._loopback(value)) for key, value in values.items()}
        return {"HOME": os.fspath(self._private(name)), "LANG": "C.UTF-8"} | placed

    def _redis_server_folder(self, name: str) -> Path:
        """A folder with what the image has: this machine's server, whatever it is called here, and a client."""
        folder = self._private(name) / "bin"
        if not folder.exists():
            folder.mkdir()
            (folder / "redis-server").symlink_to(find_redis_server())
            client = folder / "redis-cli"
            client.write_text(REDIS_CLI)
            client.chmod(0o755)
        return folder

    def _loopback(self, value: str) -> str:
        for host in self.document["services"]:
            value = "127.0.0.1" if value == host else value.replace(f"//{host}:", "//127.0.0.1:")
        return value

    def _workdir(self, name: str) -> str:
        if image := self._image(name):
            return image.place(image.stage.workdir)
        return os.fspath(self._volume(self._mounts(name)["/data"], "/data"))

    def _place(self, name: str, text: str) -> str:
        """`text` of a service with paths, ports and addresses as they are here."""
        text = CONTAINER_PORTS.sub(lambda port: str(self.port(port[0])), text).replace("0.0.0.0", "127.0.0.1")
        image = self._image(name)
        for target, volume in self._mounts(name).items():
            text = text.replace(target, os.fspath(self._volume(volume, target, image)))
        for secret in self._service(name).get("secrets", ()):
            text = text.replace(f"/run/secrets/{secret}", self.document["secrets"][secret]["file"])
        text = re.sub(r"(?<![\w./-])/var/lib(?=/)", os.fspath(self._private(name)), text)
        return image.place(text) if image else text

    def _mounts(self, name: str) -> dict[str, str]:
        pairs = (mount.split(":")[:2] for mount in self._service(name).get("volumes", ()))
        return {target: volume for volume, target in pairs}

    def _volume(self, name: str, target: str, image: Image | None = None) -> Path:
        """A new volume begins with what the image has at its place; beside it lies what lies beside that place."""
        place = Path(target)
        folder = self._folder / "volumes" / name / place.parent.name / place.name
        if not folder.exists():
            origin = Path(image.place(target)) if image else None
            if origin and origin.is_dir():
                shutil.copytree(origin, folder)
            else:
                folder.mkdir(parents=True)
            if origin and origin.parent.is_dir():
                for neighbour in set(origin.parent.iterdir()) - {origin}:
                    (folder.parent / neighbour.name).symlink_to(neighbour)
        return folder

    def _private(self, name: str) -> Path:
        """Where a container writes that has no volume for it."""
        folder = self._folder / "containers" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _log_path(self, name: str) -> Path:
        return self._private(name) / "output.log"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        if number == signal.SIGTERM:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                continue
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
