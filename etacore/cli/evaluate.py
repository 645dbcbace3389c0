"""Compare models on held-out days."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from etacore.cli.options import Number, need_modules, redis_options, registry_option


@click.command()
@click.argument("dataset")
@click.option(
    "--model-key",
    "model_keys",
    multiple=True,
    help="Candidate (key or short id); repeatable. Default: all trained on this dataset.",
)
@click.option(
    "--active",
    "active_model",
    metavar="KEY",
    help="Model in production. Default: what Redis announces if one is named, else the last that was promoted.",
)
@click.option("--metric", default="test_mae_seconds", show_default=True, help="What decides.")
@click.option("--minimize/--maximize", default=None, help="Default: as the metric is better.")
@click.option(
    "--improvement-threshold",
    type=Number(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Share by which a candidate must beat the active model.",
)
@click.option("--label", default="rule", show_default=True, help="Which arrival counts: rule or interpolated.")
@click.option("--test-days", "n_test_days", type=int, help="Hold out this many last days.")
@click.option(
    "--test-day", "test_days", multiple=True, type=click.DateTime(["%Y-%m-%d"]), help="Hold out this day; repeatable."
)
@click.option(
    "--rolling",
    "n_rolling_windows",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Also train the best kind of model anew for each of the last N days.",
)
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the report goes. Default results/evaluation-<dataset>-<time>.",
)
@click.option(
    "--dataset-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="ETACORE_DATASET_DIR",
    help="Where names of datasets are looked up. Default datasets.",
)
@click.option("--time-zone", help="Of a dataset that does not say, for example America/New_York.")
@redis_options
@registry_option
def evaluate(dataset: str, **options: Any) -> None:
    """Score models on held-out days of DATASET (a name or a file) beside baselines, and say which to promote."""
    need_modules("polars", "pyarrow", "scipy", "matplotlib")
    from rich.console import Console

    from etacore.config import registry_dir_from_env
    from etacore.mlops.dataset.layout import read_dataset
    from etacore.mlops.evaluation import EvaluationConfig, print_evaluation, write_evaluation
    from etacore.mlops.evaluation import evaluate as evaluate_models
    from etacore.mlops.progress import console_progress
    from etacore.models.registry import open_registry
    from etacore.models.short_ids import resolve_key

    registry = open_registry(options["model_registry_dir"] or registry_dir_from_env())
    active = options["active_model"]
    days: tuple[datetime, ...] = options["test_days"]
    config = EvaluationConfig(
        metric=options["metric"],
        minimize=options["minimize"],
        improvement_threshold=options["improvement_threshold"],
        label=options["label"],
        model_keys=tuple(resolve_key(registry, key) for key in options["model_keys"]),
        active_model=resolve_key(registry, active) if active else _active(registry, options),
        n_test_days=options["n_test_days"],
        test_days=tuple(day.date() for day in days) or None,
        n_rolling_windows=options["n_rolling_windows"],
    )
    rows = read_dataset(dataset, time_zone=options["time_zone"], folder=options["dataset_dir"])
    with console_progress() as progress:
        evaluation = evaluate_models(rows, registry, config, progress)
    console = Console()
    # A table cut to the width of a pipe would lose the figures.
    console = console if console.is_terminal else Console(width=200)
    print_evaluation(evaluation, console)
    folder = options["output_dir"] or Path("results") / f"evaluation-{rows.name}-{evaluation.created_at:%Y%m%d_%H%M%S}"
    written = write_evaluation(evaluation, folder)
    for path in (*written, evaluation.kept_at):
        if path is not None:
            click.echo(path)


def _active(registry: Any, options: dict[str, Any]) -> str | None:
    from etacore.config import RuntimeConfig, names_redis
    from etacore.mlops.promotion.promote import active_model
    from etacore.store.store import RedisStore

    if not names_redis(options):
        return active_model(registry, None)
    redis = {name: value for name, value in options.items() if name.startswith("redis_")}
    with RedisStore(RuntimeConfig.from_mapping(redis)) as store:
        return active_model(registry, store)
