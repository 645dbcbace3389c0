"""Say what could keep the loop from running here."""

from __future__ import annotations

import sys
from typing import Any

import click

from etacore.cli.options import redis_options, registry_option
from etacore.config import RuntimeConfig


@click.command()
@redis_options
@registry_option
@click.option("--model-key", help="Check this model (key or short id); default: all of the registry.")
def doctor(**options: Any) -> None:
    """Check Redis, the registry, its bundles and the compiler, and say what to do."""
    from etacore.loop.doctor import examine

    config = RuntimeConfig.from_mapping(options)
    healthy = True
    for finding in examine(config):
        mark = {"ok": click.style("ok  ", fg="green"), "warning": click.style("note", fg="yellow")}.get(
            finding.severity, click.style("FAIL", fg="red")
        )
        click.echo(": ".join(filter(None, (f"{mark}  {finding.kind}", finding.key, finding.text))))
        if finding.advice:
            click.echo(f"      -> {finding.advice}")
        healthy &= finding.severity != "error"
    sys.exit(0 if healthy else 1)
