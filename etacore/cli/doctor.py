"""Say what could keep the loop from running here."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import click

from etacore.cli.options import redis_options, registry_option
from etacore.config import RuntimeConfig

MARKS: Final = {
    "ok": click.style("ok  ", fg="green"),
    "note": click.style("note", fg="cyan"),
    "warning": click.style("note", fg="yellow"),
}


@click.command()
@redis_options
@registry_option
@click.option("--model-key", help="Check this model (key or short id); default: all of the registry.")
@click.option(
    "--sample", type=click.IntRange(min=0), default=200, show_default=True, help="Vehicles to look at; 0 = none."
)
def doctor(sample: int, **options: Any) -> None:
    """Check Redis, a sample of its vehicles, the registry, its bundles and the compiler, and say what to do."""
    from etacore.loop.doctor import examine

    config = RuntimeConfig.from_mapping(options)
    logging.getLogger("etacore.runtime").addHandler(logging.NullHandler())  # what it would log is among the findings
    healthy = True
    for finding in examine(config, sample):
        mark = MARKS.get(finding.severity, click.style("FAIL", fg="red"))
        click.echo(": ".join(filter(None, (f"{mark}  {finding.kind}", finding.key, finding.text))))
        if finding.advice:
            click.echo(f"      -> {finding.advice}")
        healthy &= finding.severity != "error"
    sys.exit(0 if healthy else 1)
