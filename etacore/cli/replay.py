"""Play recorded positions through the loop."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from etacore.cli.options import Number, need_modules, registry_option
from etacore.config import registry_dir_from_env


@click.command()
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
