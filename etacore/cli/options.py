"""What the commands share: flags of Redis and the registry, numbers in a range, signals, and what they need."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from etacore.errors import ConfigError
from etacore.extras import absent_packages, install_hint

EXIT_USAGE: Final = 2
SECRET_FLAGS: Final = {"--redis-password": "REDIS_PASSWORD", "--redis-url": "REDIS_URL"}

F = TypeVar("F", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A finite number in a range; click lets NaN through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or a message about it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number


def hide_secret_arguments(argv: list[str]) -> None:
    """Start anew with secrets moved from the command line, which every user can list, to the environment."""
    kept: list[str] = []
    arguments = iter(argv)
    moved = False
    for argument in arguments:
        flag, has_value, value = argument.partition("=")
        if flag not in SECRET_FLAGS:
            kept.append(argument)
            continue
        os.environ[SECRET_FLAGS[flag]] = value if has_value else next(arguments, "")
        moved = True
    if moved:
        os.execv(sys.executable, [sys.executable, *kept[1:]])  # noqa: S606


def redis_options(command: F) -> F:
    """Add the flags that say which Redis."""
    options = (
        click.option("--redis-host", envvar="REDIS_HOST", help="Default localhost."),
        click.option("--redis-port", type=int, envvar="REDIS_PORT", help="Default 6379."),
        click.option("--redis-db", type=int, envvar="REDIS_DB", help="Default 0."),
        click.option("--redis-username", envvar="REDIS_USERNAME", help="ACL user."),
        click.option("--redis-password", envvar="REDIS_PASSWORD", help="Better given as REDIS_PASSWORD."),
        click.option("--redis-tls/--no-redis-tls", default=None, help="Speak TLS to the host and port."),
        click.option(
            "--redis-url", envvar="REDIS_URL", help="redis://, rediss:// or unix://; wins over host, port and db."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


registry_option = click.option(
    "--model-registry-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="MODEL_REGISTRY_DIR",
    help="Default models/trained; a model that it lacks is looked for in models/shipped beside it.",
)


guessed_patterns_option = click.option(
    "--guessed-patterns/--no-guessed-patterns",
    "guessed_patterns",
    default=None,
    help="Whether to predict vehicles whose trip is not among the seeded ones. Default: yes, the document says so.",
)


def need_modules(*modules: str, extra: str = "train") -> None:
    """Refuse a command whose libraries are not installed; `extra` is the one that brings them.

    Raises
    ------
    ConfigError
        If one of them is absent.
    """
    if absent := absent_packages(*modules):
        raise ConfigError(f"this command needs {', '.join(absent)}", hint=install_hint(extra))


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()

    def handle(number: int, _frame: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop
