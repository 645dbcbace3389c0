"""Train models."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from etacore.cli.options import need_modules, registry_option

EXIT_FAILED = 1


@click.command()
@click.argument("dataset")
@click.option("--model-type", "model_types", multiple=True, help="Family to train; repeatable. Default: all five.")
@click.option("--by-route", is_flag=True, help="One model for each route instead of one for all.")
@click.option("--route", "route_ids", multiple=True, help="With --by-route: only this one; repeatable.")
@click.option("--min-trips", type=int, default=30, show_default=True, help="Routes with fewer trips are skipped.")
@click.option("--features", default="base", show_default=True, help="Of XGBoost: base, best, or names: a,b,c.")
@click.option("--objective", default="reg:squarederror", show_default=True, help="Of XGBoost.")
@click.option("--label", default="rule", show_default=True, help="What is learned: rule or interpolated.")
@click.option("--test-days", "n_test_days", type=int, help="Last days to test on. Default: a fifth.")
@click.option(
    "--test-day", "test_days", multiple=True, type=click.DateTime(["%Y-%m-%d"]), help="Test on this day; repeatable."
)
@click.option(
    "--validation-days", "n_validation_days", type=int, help="Days before the test. Default: as many. 0: none."
)
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--set", "settings", multiple=True, metavar="NAME=NUMBER", help="Hyperparameter; repeatable.")
@click.option("--allow-leaks", is_flag=True, help="Train although a column seems to know the future.")
@click.option("--dry-run", is_flag=True, help="Train and report; compile and save nothing.")
@click.option(
    "--dataset-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="ETACORE_DATASET_DIR",
    help="Where names of datasets are looked up. Default datasets.",
)
@click.option("--time-zone", help="Of a dataset that does not say, for example America/New_York.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here, as Markdown.")
@registry_option
def train(dataset: str, **options: Any) -> None:
    """Train models on the first days of DATASET (a name or a file), measure them on the last, and save them.

    Exit code 1 says that a model failed; the others are saved.
    """
    need_modules("polars", "pyarrow", "xgboost")
    from rich.console import Console

    from etacore.config import registry_dir_from_env
    from etacore.mlops.dataset.layout import read_dataset
    from etacore.mlops.progress import console_progress
    from etacore.mlops.training import FAMILIES, TrainingConfig
    from etacore.mlops.training import train as train_models
    from etacore.mlops.training.config import parse_setting
    from etacore.models.registry import Registry

    days: tuple[datetime, ...] = options["test_days"]
    config = TrainingConfig(
        model_types=options["model_types"] or tuple(FAMILIES),
        features=options["features"],
        objective=options["objective"],
        label=options["label"],
        hyperparameters=dict(parse_setting(text) for text in options["settings"]),
        by_route=options["by_route"],
        route_ids=options["route_ids"] or None,
        min_trips_per_route=options["min_trips"],
        n_test_days=options["n_test_days"],
        n_validation_days=options["n_validation_days"],
        test_days=[day.date() for day in days] or None,
        seed=options["seed"],
        save_models=not options["dry_run"],
        allow_leaks=options["allow_leaks"],
    )
    registry = None if options["dry_run"] else Registry(options["model_registry_dir"] or registry_dir_from_env())
    rows = read_dataset(dataset, time_zone=options["time_zone"], folder=options["dataset_dir"])
    with console_progress() as progress:
        report = train_models(rows, registry, config, progress)
    console = Console()
    # A table cut to the width of a pipe would lose the keys.
    console = console if console.is_terminal else Console(width=400)
    console.print(report.table())
    for line in report.summary():
        console.print(line, markup=False, highlight=False)
    for route in report.skipped:
        console.print(f"skipped route {route.route_id}: {route.reason}", markup=False, highlight=False)
    if options["report"]:
        _write(options["report"], report.to_markdown())
    for failure in report.failures:
        click.echo(f"failed: {failure.model_type}, {failure.route_id or 'global'}: {failure.reason}", err=True)
    if report.failures:
        sys.exit(EXIT_FAILED)


def _write(path: Path, text: str) -> None:
    from etacore.errors import ConfigError
    from etacore.files import write_whole

    try:
        write_whole(path, text.encode())
    except OSError as err:
        raise ConfigError(f"{path} cannot be written: {err.strerror or err}") from None
