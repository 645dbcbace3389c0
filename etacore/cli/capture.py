"""Record snapshots from Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from etacore.cli.options import Number, need_modules, redis_options, stop_on_signals


@click.command()
@redis_options
@click.option(
    "--output-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the Parquet files.",
)
@click.option("--interval", type=Number(0.1, 3600), default=5.0, show_default=True, help="Seconds between two polls.")
@click.option(
    "--rotate-minutes",
    type=Number(0, 10_000, min_open=True),
    default=60.0,
    show_default=True,
    help="A new file after so long; what a crash can lose.",
)
@click.option("--duration", type=Number(0, min_open=True), help="Seconds until the end. Default: until told to stop.")
def capture(
    output_dir: Path, interval: float, rotate_minutes: float, duration: float | None, **redis_settings: Any
) -> None:
    """Record the snapshots under vehicle:* as Parquet files of positions, each snapshot once.

    A file appears when it is complete: every --rotate-minutes, and at the end
    (SIGTERM, Ctrl-C or --duration). A crash loses at most one rotation. What
    the files hold is read by `etacore dataset build` and `etacore replay`.
    """
    need_modules("polars", "google.transit", extra="capture")
    from etacore.config import RuntimeConfig
    from etacore.mlops.progress import console_progress
    from etacore.mlops.transit.capture import Capture, CaptureSummary

    def say(part: CaptureSummary) -> None:
        click.echo(part.line(), err=True)

    config = RuntimeConfig.from_mapping({**redis_settings, "poll_interval_seconds": interval})
    stop = stop_on_signals()
    with console_progress() as progress:
        recording = Capture(
            config, output_dir, rotate_s=rotate_minutes * 60, duration_s=duration, on_part=say, progress=progress
        )
        try:
            summary = recording.run(stop)
        finally:
            recording.close()
    click.echo(f"{summary.n_positions} positions in {len(summary.files)} files in {output_dir}")
