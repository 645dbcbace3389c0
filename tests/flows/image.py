"""Builds and starts what the Dockerfile says, without Docker.

Its instructions are read from the file and carried out below a folder of their
own: every absolute path of the image stands for a path there. What needs a
Debian system, packages and a user account, is noted and left out.

A stage that stands on one that was built as an image already begins with a
copy of that, in a folder of its own, so that both can run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

import pytest
from docker.utils import exclude_paths  # type: ignore[import-untyped, unused-ignore]

ROOT: Final = Path(__file__).resolve().parents[2]

LEFT_OUT: Final = ("apt-get", "useradd")
DEBIAN_TOOLS: Final = ("cat", "env", "find", "grep", "ls", "mkdir", "rm", "sed", "sh", "sleep", "uname")
IMAGE_PATHS: Final = re.compile(r"(?<![\w./-])/(?:opt|build|dist|app|var/lib|run/secrets)(?![\w-])")
CACHE_MOUNT: Final = re.compile(r"--mount=type=cache,target=(\S+)\s+")
PASSED_ON: Final = re.compile(r"(?i)(PIP_|SSL_|REQUESTS_|(https?|no)_proxy$|TMPDIR$)")


def instructions(text: str) -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in joined.splitlines() if line.strip()]


@dataclass(slots=True)
class Stage:
    """A stage, while it is built and afterwards."""

    root: Path
    environment: dict[str, str]
    workdir: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health_command: list[str] = field(default_factory=list)


class Image:
    """A stage of the Dockerfile, built below `folder`.

    Parameters
    ----------
    folder : Path
    target : str
        Name of the stage.
    parent : Image, optional
        What the stage stands on, built before.
    """

    def __init__(self, folder: Path, target: str, parent: Image | None = None) -> None:
        self._folder: Final = folder
        self.context: Final = folder / "context"
        self.root: Final = folder / "root"
        self.left_out: Final[list[str]] = []
        self._stages: Final[dict[str, Stage]] = {}
        copy_context(self.context)
        self._base_path: Final = os.fspath(_debian_tools(folder / "tools"))
        skipped = parent is not None
        for keyword, arguments in instructions((ROOT / "Dockerfile").read_text()):
            if keyword == "FROM":
                name = arguments.split()[-1]
                if target in self._stages:
                    break
                if parent is not None and name == target:
                    self._stages[name] = parent.moved(self.root, self._base_path)
                    skipped = False
                    continue
            if not skipped:
                self._carry_out(keyword, arguments)

    # -- running what was built -------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """The last stage."""
        return list(self._stages.values())[-1]

    def start(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None, output: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `argv` with the image's environment and nothing of ours; the caller ends the process."""
        return subprocess.Popen(
            [self.place(word) for word in argv],
            env=self.environment() | dict(environment or {}),
            cwd=self.place(self.stage.workdir),
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` to its end."""
        return subprocess.run(
            [self.place(word) for word in argv],
            env=self.environment() | dict(environment or {}),
            cwd=self.place(self.stage.workdir),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """Of a process in the image."""
        placed = {name: self.place(value) for name, value in self.stage.environment.items()}
        return {"HOME": os.fspath(self._home()), "LANG": "C.UTF-8"} | placed

    def place(self, text: str) -> str:
        """`text` with the image's paths replaced by where they are here."""
        return IMAGE_PATHS.sub(lambda path: f"{self.root}{path[0]}", text) if text != "/" else os.fspath(self.root)

    def _home(self) -> Path:
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        return home

    def moved(self, root: Path, path: str) -> Stage:
        """The stage in another place; `path` stands for the programs of Debian."""
        shutil.copytree(self.root, root, symlinks=True, copy_function=os.link)
        before, after = (os.fspath(folder).encode() for folder in (self.root, root))
        for script in (root / "opt/etacore/bin").iterdir():
            if not script.is_symlink() and before in (content := script.read_bytes()):
                mode = script.stat().st_mode
                script.unlink()  # the other place has the same file
                script.write_bytes(content.replace(before, after))
                script.chmod(mode)
        last = self.stage
        environment = last.environment | {"PATH": last.environment["PATH"].replace(self._base_path, path)}
        return replace(last, root=root, environment=environment)

    # -- building ---------------------------------------------------------------------------------------------------

    def _carry_out(self, keyword: str, arguments: str) -> None:
        if keyword == "FROM":
            return self._from(arguments)
        stage = self.stage
        if keyword == "RUN":
            self._run(CACHE_MOUNT.sub("", arguments), CACHE_MOUNT.findall(arguments))
        elif keyword == "COPY":
            self._copy(shlex.split(arguments))
        elif keyword == "ENV":
            for pair in shlex.split(arguments):
                name, value = pair.split("=", 1)
                stage.environment[name] = value.replace("$PATH", stage.environment["PATH"])
        elif keyword == "WORKDIR":
            stage.workdir = arguments
            Path(self.place(arguments)).mkdir(parents=True, exist_ok=True)
        elif keyword == "USER":
            stage.user = arguments
        elif keyword == "ENTRYPOINT":
            stage.entrypoint = json.loads(arguments)
        elif keyword == "CMD":
            stage.command = json.loads(arguments)
        elif keyword == "HEALTHCHECK":
            stage.health_command = json.loads(arguments.partition("CMD ")[2])
        else:
            raise NotImplementedError(f"{keyword} {arguments}")
        return None

    def _from(self, arguments: str) -> None:
        parent, _, name = arguments.split()
        # Scripts carry the path they were installed at, so each stage is built in the same place and then moved.
        if self._stages:
            last = self.stage
            last.root = self.root.rename(self._folder / f"stage-{len(self._stages)}")
        if parent in self._stages:
            before = self._stages[parent]
            shutil.copytree(before.root, self.root, symlinks=True, copy_function=os.link)
            self._stages[name] = Stage(self.root, dict(before.environment), before.workdir)
        else:
            self.root.mkdir()
            self._stages[name] = Stage(self.root, {"PATH": self._base_path})

    def _run(self, command: str, caches: Sequence[str] = ()) -> None:
        for folder in caches:  # outlives a build, as a cache mount does
            command = command.replace(folder, os.path.expanduser("~/.cache/pip"))  # noqa: PTH111
        if command.startswith(LEFT_OUT):
            self.left_out.append(command)
            if command.startswith("apt-get"):
                self.stage.environment["PATH"] += os.pathsep + os.environ["PATH"]
            return
        passed_on = {name: value for name, value in os.environ.items() if PASSED_ON.match(name)}
        done = subprocess.run(
            ["sh", "-c", self.place(command)],
            env=passed_on | self.environment(),
            cwd=self.place(self.stage.workdir),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"RUN {command}\n{done.stdout[-4000:]}")

    def _copy(self, words: list[str]) -> None:
        flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        *sources, target = [word for word in words if not word.startswith("--")]
        origin = self._stages[flags["from"]].root if "from" in flags else self.context
        place = Path(self.place(target)) if target.startswith("/") else Path(self.place(self.stage.workdir), target)
        for source in sources:
            path = origin / source.lstrip("/")
            if path.is_dir():
                shutil.copytree(path, place, symlinks=True, dirs_exist_ok=True)
            else:
                into = place / path.name if len(sources) > 1 or target.endswith("/") else place
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, into)


def copy_context(folder: Path) -> None:
    """What Docker would get to see of the checkout, by .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for name in exclude_paths(os.fspath(ROOT), [line for line in lines if line and not line.startswith("#")]):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def _debian_tools(folder: Path) -> Path:
    """A PATH with Python and what every Debian image has, and no compiler."""
    folder.mkdir()
    for name in DEBIAN_TOOLS:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (folder / "python").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    (folder / "python").chmod(0o755)
    return folder


_built: Final[dict[str, Image]] = {}


def built(factory: pytest.TempPathFactory) -> Image:
    """The image of the services, built once a session."""
    if "runtime" not in _built:
        _built["runtime"] = Image(factory.mktemp("image"), "runtime")
    return _built["runtime"]


def built_for_training(factory: pytest.TempPathFactory) -> Image:
    """The larger image of the service that trains, built once a session."""
    if "training" not in _built:
        _built["training"] = Image(factory.mktemp("training-image"), "training", built(factory))
    return _built["training"]
