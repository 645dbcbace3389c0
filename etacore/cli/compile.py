"""Compile a model into the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from etacore.cli.options import Number, registry_option
from etacore.config import registry_dir_from_env


@click.command("compile")
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
@click.option("--rounds", metavar="N|all|best", help="Default: best for a scikit-learn model, all for a Booster.")
def compile_command(model: Path, **options: Any) -> None:
    """Compile an XGBoost MODEL (JSON or UBJ) to a native library, check it, and put it into the registry."""
    from etacore.mlops.bundling.compile import compile_to_registry
    from etacore.models.registry import Registry

    mae = options["test_mae_seconds"]
    rounds: str | None = options["rounds"]
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
        rounds=int(rounds) if rounds and rounds.isascii() and rounds.isdigit() else rounds,
        progress=lambda text: click.echo(text, err=True),
    )
    click.echo(key)
