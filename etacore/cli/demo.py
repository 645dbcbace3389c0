"""Watch a simulated city being predicted."""

from __future__ import annotations

from pathlib import Path

import click

from etacore.cli.options import Number, registry_option
from etacore.config import registry_dir_from_env


@click.command()
@click.option("--seconds", type=Number(1, 3600), default=30.0, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
@click.option("--plain", is_flag=True, default=None, help="Lines instead of the live view.")
@registry_option
def demo(seconds: float, seed: int, plain: bool | None, model_registry_dir: Path | None) -> None:
    """Watch a simulated city being predicted, through a real Redis."""
    from etacore.demo.show import run_demo

    run_demo(seconds=seconds, seed=seed, plain=plain, model_registry_dir=model_registry_dir or registry_dir_from_env())
