"""The life of a model, from nothing, by the commands that a user would type: ``python -m etacore.demo.lifecycle``.

A week of the simulated city is recorded. From it come a dataset, a first generation of models of all families, an
evaluation and a promotion; then a better model, its evaluation against the first, and its promotion while a loop is
running, which takes it over.

With ``--shipped-model REGISTRY`` it stops at the small model of ``models/shipped``, made anew in that registry.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any, Final

import click
import polars as pl

from etacore.demo.city import build_city
from etacore.demo.feed import write_gtfs
from etacore.demo.reports import Recording, record
from etacore.demo.show import run_demo
from etacore.errors import EtacoreError, PromotionError
from etacore.models.registry import Registry

FIRST_DAY: Final = date(2026, 2, 5)
"""A Thursday; the demo shows a day some weeks later."""
N_DAYS: Final = 7
KEEP_EVERY: Final = 4
"""Of the reports of a vehicle, one in so many: they come every 8 to 12 seconds and neighbours say nearly the same."""
DATASET: Final = "city_week"
N_SHIPPED_DAYS: Final = 8
SHIPPED_DATASET: Final = "simulated_city"
SHIPPED_TRAINING: Final = (
    *("--model-type", "xgboost", "--objective", "reg:absoluteerror", "--test-days", "2"),
    *("--set", "n_estimators=100", "--set", "learning_rate=0.1"),
)
"""A small forest of the base features, as a fresh clone needs one."""


class Commands:
    """Runs commands of etacore in a folder and shows them as one would type them."""

    def __init__(self, folder: Path, registry_dir: Path | None = None) -> None:
        self.folder = folder
        self.registry = Registry(registry_dir or folder / "models")
        self._environment = {
            **os.environ,
            "MODEL_REGISTRY_DIR": str(self.registry.path),
            "ETACORE_DATASET_DIR": str(folder / "datasets"),
        }

    def run(self, *words: str, redis_url: str | None = None) -> None:
        """Run ``etacore <words>``.

        Raises
        ------
        EtacoreError
            If it fails; what it said has been shown.
        """
        click.secho(f"\n$ etacore {shlex.join(words)}", bold=True)
        environment = self._environment | ({"REDIS_URL": redis_url} if redis_url else {})
        done = subprocess.run([sys.executable, "-m", "etacore", *words], cwd=self.folder, env=environment, check=False)
        if done.returncode:
            raise EtacoreError(f"etacore {words[0]} ended with exit code {done.returncode}")

    def evaluation(self) -> dict[str, Any]:
        """The newest evaluation."""
        newest = max((self.registry.path / "evaluations").glob("*.json"))
        content: dict[str, Any] = json.loads(newest.read_bytes())
        return content


def write_positions(recording: Recording, path: Path) -> int:
    """Write every `KEEP_EVERY`-th report of each vehicle as recorded positions; returns how many."""
    columns = {name: pl.Series(name, column.tolist(), strict=False) for name, column in recording.positions.items()}
    frame = pl.DataFrame(columns).filter(pl.int_range(pl.len()).over("vehicle_id") % KEEP_EVERY == 0)
    frame.write_parquet(path)
    return len(frame)


def record_city(folder: Path, n_days: int, seed: int) -> tuple[str, ...]:
    """Record days of the city; returns what names the files to ``etacore dataset build``."""
    click.secho(f"recording {n_days} days of a simulated city", bold=True)
    city = build_city(seed)
    n_positions = write_positions(record(city, FIRST_DAY, n_days), folder / "positions.parquet")
    write_gtfs(city, folder / "gtfs.zip", FIRST_DAY)
    click.echo(f"{n_positions:,} positions, GTFS feed of {len(city.routes)} routes")
    return ("positions.parquet", "--gtfs", "gtfs.zip")


def make_shipped_model(folder: Path, registry_dir: Path, *, seed: int = 7) -> str:
    """Make the model of ``models/shipped`` anew, and let it serve the demo; returns its key.

    Parameters
    ----------
    folder : Path
        Where recording and dataset are written.
    registry_dir : Path
        Where the model goes.
    seed : int
        Which city.

    Raises
    ------
    EtacoreError
        If a step fails, or the loop serves another model of the registry.
    """
    commands = Commands(folder, registry_dir)
    before = set(commands.registry.keys())
    source = record_city(folder, N_SHIPPED_DAYS, seed)
    # Callers of estimate_stop_times rarely have a shape: its distances are straight.
    straight = ("--sample-every", "3", "--no-use-shapes")
    commands.run("dataset", "build", *source, "--output", SHIPPED_DATASET, *straight)
    commands.run("train", SHIPPED_DATASET, *SHIPPED_TRAINING)
    (key,) = set(commands.registry.keys()) - before
    commands.run("registry", "check", "--offline")
    summary = run_demo(seconds=10.0, seed=seed, plain=True, model_registry_dir=registry_dir, active_model=key)
    if summary.model_key != key:
        raise PromotionError(f"the loop serves {summary.model_key}, not {key}")
    click.echo(key)
    return key


def live(folder: Path, *, seconds: float = 20.0, seed: int = 7, plain: bool | None = None) -> str:
    """Go through the life of a model; returns the key that the loop serves in the end.

    Parameters
    ----------
    folder : Path
        Where everything is written.
    seconds : float
        How long the loop is watched at the end.
    seed : int
        Which city.
    plain : bool, optional
        Lines instead of the live view.

    Raises
    ------
    EtacoreError
        If a step fails.
    """
    started = time.monotonic()
    commands = Commands(folder)
    source = record_city(folder, N_DAYS, seed)
    commands.run("dataset", "build", *source, "--output", DATASET, "--sample-every", "3")
    commands.run("train", DATASET)
    commands.run("evaluate", DATASET, "--output-dir", "first evaluation")
    first = _recommended(commands.evaluation())
    commands.run("train", DATASET, "--model-type", "xgboost", "--features", "best", "--objective", "reg:absoluteerror")
    commands.run("evaluate", DATASET, "--active", first, "--output-dir", "second evaluation")
    second = _recommended(commands.evaluation())

    def promote(redis_url: str) -> None:
        time.sleep(seconds / 4)
        commands.run("promote", second, redis_url=redis_url)

    click.secho(f"\nthe loop serves {first}; a promotion follows while it runs", bold=True)
    summary = run_demo(
        seconds=seconds,
        seed=seed,
        plain=plain,
        model_registry_dir=commands.registry.path,
        active_model=first,
        meanwhile=promote,
    )
    if summary.model_key != second:
        raise PromotionError(f"the loop serves {summary.model_key}, not the promoted {second}")
    commands.run("registry", "check", "--offline")
    click.secho(f"\nthe loop serves {summary.model_key}", bold=True, fg="green")
    click.echo(f"{time.monotonic() - started:.0f} s from nothing to here")
    return second


def _recommended(evaluation: dict[str, Any]) -> str:
    key: str | None = evaluation["recommended"]
    if key is None:
        raise PromotionError(f"no model is recommended: {evaluation['recommendation']}")
    return key


@click.command()
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Keep everything here.")
@click.option("--seconds", default=20.0, show_default=True, help="How long the loop is watched at the end.")
@click.option("--plain", is_flag=True, default=None, help="Lines instead of the live view.")
@click.option(
    "--shipped-model",
    "shipped_to",
    metavar="REGISTRY",
    type=click.Path(file_okay=False, path_type=Path),
    help="Only make the model of models/shipped anew, in this registry.",
)
def main(folder: Path | None, seconds: float, plain: bool | None, shipped_to: Path | None) -> None:
    """Record, build a dataset, train, evaluate, promote, and watch the running loop take the model over."""
    try:
        with ExitStack() as stack:
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="etacore-lifecycle-")))
            folder.mkdir(parents=True, exist_ok=True)
            if shipped_to is not None:
                make_shipped_model(folder.resolve(), shipped_to.resolve())
            else:
                live(folder.resolve(), seconds=seconds, plain=plain)
    except EtacoreError as error:
        click.echo(f"lifecycle: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
