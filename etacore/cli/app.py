"""The commands. Each is a thin shell: parse arguments, call the library, say what happened.

Exit codes: 0 done, 2 a setting or an input is wrong (one line says which).
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

import click

from etacore import __version__
from etacore.cli.options import EXIT_USAGE, hide_secret_arguments
from etacore.errors import EtacoreError

COMMANDS: Final = {
    "capture": "capture",
    "compile": "compile_command",
    "dataset": "dataset",
    "demo": "demo",
    "doctor": "doctor",
    "evaluate": "evaluate",
    "explain": "explain",
    "promote": "promote",
    "registry": "registry",
    "replay": "replay",
    "run": "run",
    "seed": "seed",
    "train": "train",
}
"""Each command with what it is called in the module of its name, which is imported when the command is asked for."""


class _Group(click.Group):
    """Shows our own errors as one line and a hint, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"etacore.cli.{cmd_name}"), COMMANDS[cmd_name])
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EtacoreError as error:
            click.echo(f"etacore: {error.message}" + (f" ({error.hint})" if error.hint else ""), err=True)
            ctx.exit(EXIT_USAGE)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="etacore")
def main() -> None:
    """Real-time arrival predictions: vehicle snapshots in Redis become predictions in Redis."""
    hide_secret_arguments(sys.orig_argv)
