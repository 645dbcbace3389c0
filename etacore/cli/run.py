"""Run the prediction loop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from etacore.cli.options import guessed_patterns_option, redis_options, registry_option, stop_on_signals
from etacore.config import SNAPSHOT_SOURCES, RuntimeConfig


@click.command()
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
@guessed_patterns_option
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
