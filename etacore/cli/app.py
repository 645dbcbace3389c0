"""The commands. Each is a thin shell: parse arguments, call the library, say what happened.

Exit codes: 0 done, 2 a setting or an input is wrong (one line says which).
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from etacore import __version__
from etacore.config import SNAPSHOT_SOURCES, RuntimeConfig, registry_dir_from_env
from etacore.errors import ConfigError, EtacoreError
from etacore.extras import absent_packages, install_hint

EXIT_USAGE: Final = 2
SECRET_FLAGS: Final = {"--redis-password": "REDIS_PASSWORD", "--redis-url": "REDIS_URL"}

F = TypeVar("F", bound=Callable[..., Any])


OFFLINE_COMMANDS: Final = {
    "capture": "etacore.cli.capture",
    "dataset": "etacore.cli.dataset",
    "train": "etacore.cli.train",
    "evaluate": "etacore.cli.evaluate",
    "promote": "etacore.cli.promote",
    "registry": "etacore.cli.registry",
}
"""Commands about datasets and models: each is the attribute of its name in a module that is imported when asked for."""


class _Group(click.Group):
    """Shows our own errors as one line and a hint, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *OFFLINE_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OFFLINE_COMMANDS:
            command: click.Command = getattr(import_module(OFFLINE_COMMANDS[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EtacoreError as error:
            click.echo(f"etacore: {error.message}" + (f" ({error.hint})" if error.hint else ""), err=True)
            ctx.exit(EXIT_USAGE)


class Number(click.FloatRange):
    """A finite number in a range; click lets NaN through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or a message about it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="etacore")
def main() -> None:
    """Real-time arrival predictions: vehicle snapshots in Redis become predictions in Redis."""
    hide_secret_arguments(sys.orig_argv)


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


@main.command()
@redis_options
@registry_option
@click.option(
    "--source",
    "snapshot_source",
    type=click.Choice(SNAPSHOT_SOURCES),
    help="Serve vehicles as Redis announces their changes, or look at all at each interval. Default: what is possible.",
)
@click.option(
    "--resync", "resync_seconds", type=float, help="With events, seconds between looks at all keys. Default 300."
)
@click.option(
    "--poll-interval",
    "poll_interval_seconds",
    type=float,
    help="Seconds between polls; with events, what counts as one. Default 1.",
)
@click.option("--iterations", type=int, help="Polls to make; 0 (default) = for ever.")
@click.option("--max-batch", "max_vehicle_batch", type=int, help="Vehicles per poll, the longest-waiting first.")
@click.option("--max-stops", "max_stops_per_vehicle", type=int, help="Stops per vehicle. Default 5.")
@click.option(
    "--model-key", help="Serve this model (key or short id); default: the promoted one, else the registry's best."
)
@click.option("--predictions-ttl", "predictions_ttl_seconds", type=int, help="Seconds. Default 300.")
@click.option(
    "--max-age", "max_age_seconds", type=float, help="Older snapshots are dropped; seconds, 0 = none. Default 900."
)
@click.option("--max-future", "max_future_seconds", type=float, help="Tolerated clock skew in seconds. Default 60.")
@click.option("--window", "window_seconds", type=float, help="Seconds between lines of counters. Default 10.")
@click.option("--profiling-dir", type=click.Path(file_okay=False, path_type=Path), help="Write latency CSV files here.")
def run(**options: Any) -> None:
    """Run the prediction loop until SIGTERM or Ctrl-C; finishes the batch in hand and exits 0."""
    stop = stop_on_signals()
    from etacore.loop.runtime import Runtime, Silent, Window

    class Lines(Silent):
        def on_window(self, window: Window) -> None:
            if window.n_polls or window.n_outages:
                logging.getLogger("etacore.runtime").info(window.line())

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = RuntimeConfig.from_mapping(options)
    runtime = Runtime(config, observer=Lines())
    models = runtime.engine.models.all()
    logging.getLogger("etacore.runtime").info(
        "serving %s%s", models[0].key, f" and {len(models) - 1} route models" if len(models) > 1 else ""
    )
    try:
        runtime.run(stop)
    finally:
        runtime.close()


@main.command()
@redis_options
@registry_option
@click.option("--model-key", help="Check this model (key or short id); default: all of the registry.")
def doctor(**options: Any) -> None:
    """Check Redis, the registry, its bundles and the compiler, and say what to do."""
    from etacore.loop.doctor import examine

    config = RuntimeConfig.from_mapping(options)
    healthy = True
    for finding in examine(config):
        mark = {"ok": click.style("ok  ", fg="green"), "warning": click.style("note", fg="yellow")}.get(
            finding.severity, click.style("FAIL", fg="red")
        )
        click.echo(": ".join(filter(None, (f"{mark}  {finding.kind}", finding.key, finding.text))))
        if finding.advice:
            click.echo(f"      -> {finding.advice}")
        healthy &= finding.severity != "error"
    sys.exit(0 if healthy else 1)


@main.command("compile")
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@registry_option
@click.option("--features", help="Comma-separated feature names in order; default: those in the model.")
@click.option("--model-key", help="Its key. Default: made from type, dataset, features, scope and time.")
@click.option("--dataset", default="unknown", show_default=True, help="Name of the dataset it was trained on.")
@click.option("--route-id", help="For a model of one route.")
@click.option(
    "--time-zone", envvar="ETA_TIMEZONE", default="UTC", show_default=True, help="Zone of hour and day features."
)
@click.option("--holiday-region", help="Country code of the holiday calendar, for example CR.")
@click.option("--nan-as-zero/--nan-as-missing", default=False, help="How the model was trained. Default: missing.")
@click.option("--distance", type=click.Choice(["straight", "along_route"]), default="straight", show_default=True)
@click.option("--test-mae-seconds", type=Number(0), help="Its test error: how the best model is chosen.")
def compile_command(model: Path, **options: Any) -> None:
    """Compile an XGBoost MODEL (JSON or UBJ) to a native library, check it, and put it into the registry."""
    from etacore.mlops.bundling.compile import compile_to_registry
    from etacore.models.registry import Registry

    mae = options["test_mae_seconds"]
    key = compile_to_registry(
        model,
        Registry(options["model_registry_dir"] or registry_dir_from_env()),
        features=tuple(options["features"].split(",")) if options["features"] else (),
        time_zone=options["time_zone"],
        holiday_region=options["holiday_region"],
        dataset=options["dataset"],
        route_id=options["route_id"],
        metrics={"test_mae_seconds": mae} if mae is not None else {},
        model_key=options["model_key"],
        nan_at_serving=0.0 if options["nan_as_zero"] else None,
        distance=options["distance"],
        progress=lambda text: click.echo(text, err=True),
    )
    click.echo(key)


@main.command()
@click.option("--seconds", type=Number(1, 3600), default=30.0, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
@click.option("--plain", is_flag=True, default=None, help="Lines instead of the live view.")
@registry_option
def demo(seconds: float, seed: int, plain: bool | None, model_registry_dir: Path | None) -> None:
    """Watch a simulated city being predicted, through a real Redis."""
    from etacore.demo.show import run_demo

    run_demo(seconds=seconds, seed=seed, plain=plain, model_registry_dir=model_registry_dir or registry_dir_from_env())


@main.command()
@click.argument("positions", type=click.Path(exists=True, path_type=Path))
@click.option("--gtfs", required=True, type=click.Path(exists=True, path_type=Path), help="GTFS zip or folder.")
@click.option("--start", type=click.DateTime(), help="Event time in the feed's zone, from here on.")
@click.option("--end", type=click.DateTime(), help="Event time in the feed's zone, before this.")
@click.option("--routes", help="Comma-separated route ids; default all.")
@click.option("--speed", type=Number(0, min_open=True), help="Event seconds per second; default no limit.")
@click.option("--arrivals", type=click.Path(exists=True, path_type=Path), help="Arrivals to score against (Parquet).")
@click.option("--model-key", help="Key or short id. Default: the registry's best.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the scores here too.")
@registry_option
def replay(
    positions: Path,
    gtfs: Path,
    start: datetime | None,
    end: datetime | None,
    routes: str | None,
    json_path: Path | None,
    model_registry_dir: Path | None,
    **options: Any,
) -> None:
    """Play recorded POSITIONS through Redis and the loop, and score every prediction against what happened."""
    need_modules("polars", "pyarrow")
    from etacore.mlops.replay.replay import replay_to_console

    replay_to_console(
        positions,
        gtfs,
        start=start,
        end=end,
        routes=[route.strip() for route in routes.split(",")] if routes else None,
        registry_dir=model_registry_dir or registry_dir_from_env(),
        json_path=json_path,
        **options,
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
