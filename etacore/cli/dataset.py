"""Datasets: build one, look at one."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from etacore.cli.options import Number, need_modules, redis_options

_dataset_dir = click.option(
    "--output-dir",
    "--dataset-dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="ETACORE_DATASET_DIR",
    help="Where datasets lie. Default datasets.",
)


@click.group()
def dataset() -> None:
    """Build a dataset from recorded positions, or look at one."""


@dataset.command()
@click.argument("positions", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--gtfs", required=True, type=click.Path(exists=True, path_type=Path), help="GTFS zip or folder.")
@click.option("--output", required=True, help="Name of the dataset, or a path that ends in .parquet.")
@_dataset_dir
@click.option("--start", type=click.DateTime(["%Y-%m-%d"]), help="First service date.")
@click.option("--end", type=click.DateTime(["%Y-%m-%d"]), help="Last service date, included.")
@click.option("--days-back", type=click.IntRange(1), help="Without --start: so many service dates up to the last.")
@click.option("--routes", help="Comma-separated route ids; default all.")
@click.option("--max-stops", type=click.IntRange(1, 1000), default=5, show_default=True, help="Rows per fix.")
@click.option(
    "--distance-threshold",
    type=Number(1, 1000),
    default=50.0,
    show_default=True,
    help="Metres to a stop at which a vehicle has arrived.",
)
@click.option(
    "--use-shapes/--no-use-shapes", default=True, show_default=True, help="Measure distance_to_stop along the route."
)
@click.option("--sample-every", type=click.IntRange(1), default=1, show_default=True, help="Rows of every n-th fix.")
@click.option("--skip-first-stop", is_flag=True, help="Leave out the first stop of each trip.")
@click.option("--under-way-only", is_flag=True, help="Leave out fixes before the arrival at the second stop.")
@click.option("--holiday-region", help="Country code of the holiday calendar, for example CR or CA-ON.")
@click.option("--time-zone", help="Of hour and day. Default: the feed's.")
@click.option("--weather", help="Hourly weather (Parquet or CSV), or `archive` to ask Open-Meteo. Default: none.")
@click.option("--arrivals", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Arrivals to use.")
@click.option("--seed-redis", is_flag=True, help="Write stops, shapes and patterns of the feed into Redis too.")
@redis_options
def build(
    positions: tuple[Path, ...],
    gtfs: Path,
    output: str,
    folder: Path | None,
    start: datetime | None,
    end: datetime | None,
    routes: str | None,
    max_stops: int,
    distance_threshold: float,
    weather: str | None,
    arrivals: Path | None,
    seed_redis: bool,
    **options: Any,
) -> None:
    """Build a dataset from POSITIONS (files, folders, captures) and a GTFS feed."""
    need_modules("polars", "pyarrow", "google.transit")
    from rich.console import Console

    from etacore.config import RuntimeConfig
    from etacore.mlops.dataset.config import BuildConfig
    from etacore.mlops.dataset.job import build_from_files, split_output
    from etacore.mlops.progress import console_progress

    redis_settings = {name: options.pop(name) for name in list(options) if name.startswith("redis_")}
    name, folder = split_output(output, folder)
    config = BuildConfig(
        name=name,
        start=start.date() if start else None,
        end=end.date() if end else None,
        routes=None if routes is None else tuple(name for route in routes.split(",") if (name := route.strip())),
        max_stops_ahead=max_stops,
        distance_threshold_m=distance_threshold,
        **options,
    )
    seed = RuntimeConfig.from_mapping(redis_settings) if seed_redis else None
    with console_progress() as progress:
        path, built = build_from_files(
            positions, gtfs, config, folder=folder, weather=weather, arrivals=arrivals, seed=seed, progress=progress
        )
    Console(stderr=True).print(built.report)
    click.echo(path)


@dataset.command()
@click.argument("name")
@_dataset_dir
@click.option("--time-zone", help="Of a dataset that does not say, for example America/New_York.")
def show(name: str, folder: Path | None, time_zone: str | None) -> None:
    """Show what is in a dataset (a NAME or a file)."""
    need_modules("polars", "pyarrow")
    from rich.console import Console

    from etacore.mlops.dataset.layout import read_dataset
    from etacore.mlops.dataset.show import tables

    console = Console()
    for table in tables(read_dataset(name, folder=folder, time_zone=time_zone)):
        console.print(table)
