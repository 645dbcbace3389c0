"""A picture of the demo as a terminal shows it: ``python -m etacore.demo.picture docs/demo.svg``."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME

from etacore.demo.show import run_demo
from etacore.demo.view import DemoFrame, render

WIDTH: Final = 120
HEIGHT: Final = 34
# Rich's own format loads its font from another server, which a picture in a repository should not.
SVG_FORMAT: Final = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
    <style>
    .{unique_id}-matrix {{
        font-family: "Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace;
        font-size: {char_height}px;
        line-height: {line_height}px;
    }}
    .{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
    {styles}
    </style>
    <defs>
    <clipPath id="{unique_id}-clip-terminal">
      <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
    </clipPath>
    {lines}
    </defs>
    {chrome}
    <g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix">
    {matrix}
    </g>
    </g>
</svg>
"""


def to_svg(frame: DemoFrame) -> str:
    """A frame on a terminal of 120 columns and 34 rows, as SVG."""
    console = Console(
        file=io.StringIO(), record=True, width=WIDTH, height=HEIGHT, force_terminal=True, color_system="truecolor"
    )
    console.print(render(frame), height=HEIGHT)
    return console.export_svg(
        title="etacore demo", theme=SVG_EXPORT_THEME, code_format=SVG_FORMAT, unique_id="etacore-demo"
    )


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seconds", type=click.FloatRange(1, 3600), default=30.0, show_default=True)
def main(path: Path, seconds: float) -> None:
    """Run the demo and draw its last frame to PATH, an SVG file."""
    summary = run_demo(seconds=seconds, plain=True, console=Console(stderr=True))
    path.write_text(to_svg(summary.frame), encoding="utf-8")
    print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
