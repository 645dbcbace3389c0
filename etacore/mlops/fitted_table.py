"""Tables for a terminal of any width: the least important columns go first, and no number is ever broken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from etacore.models.short_ids import shorten

Kind = Literal["number", "word", "prose", "key"]

PADDING: Final = 2
"""Blanks between two columns."""
MIN_WIDTH: Final = {"prose": 20, "key": 20}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    heading : str
    kind : str
        ``number`` (right) and ``word`` (left) are shown whole or not at all, ``prose`` may be wrapped between words,
        a ``key`` loses its middle.
    keep : int
        The column with the smallest goes first when there is no room; of equals the one further right.
    """

    heading: str
    kind: Kind = "word"
    keep: int = 0


class FittedTable:
    """Rows of text below headings, cut to the width of the console by whole columns.

    Parameters
    ----------
    columns : sequence of Column
        The first one always stays.
    rows : iterable of sequence of str or Text
        Plain text, or one with a style.
    title : str, optional
        Above the table.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Iterable[Sequence[str | Text]],
        *,
        title: str | None = None,
    ) -> None:
        self.columns: Final = tuple(columns)
        self.rows: Final = [tuple(row) for row in rows]
        self._title: Final = title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, and one dim line that names the columns it has no room for."""
        shown = self._shown(options.max_width)
        widths = self._widths(shown, options.max_width)
        table = Table(
            title=self._title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, PADDING - 1, 0, 0),  # and the box has one between two columns
            show_edge=False,
        )
        for i in shown:
            column = self.columns[i]
            table.add_column(
                escape(column.heading),
                justify="right" if column.kind == "number" else "left",
                width=widths[i],
                overflow="fold",
            )
        for row in self.rows:
            cells = [shorten(str(row[i]), widths[i]) if self.columns[i].kind == "key" else row[i] for i in shown]
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
        yield table
        hidden = [column.heading for i, column in enumerate(self.columns) if i not in shown]
        if hidden:
            yield Text(f"wider than {options.max_width} columns: {', '.join(hidden)} hidden", style="dim")

    def _natural(self, i: int) -> int:
        return max([cell_len(self.columns[i].heading), *(cell_len(str(row[i])) for row in self.rows)])

    def _least(self, i: int) -> int:
        column = self.columns[i]
        least = min(self._natural(i), MIN_WIDTH.get(column.kind, self._natural(i)))
        return max(least, cell_len(column.heading))

    def _shown(self, width: int) -> list[int]:
        shown = list(range(len(self.columns)))
        while len(shown) > 1 and sum(map(self._least, shown)) + PADDING * (len(shown) - 1) > width:
            shown.remove(min(shown[1:], key=lambda i: (self.columns[i].keep, -i)))
        return shown

    def _widths(self, shown: Sequence[int], width: int) -> dict[int, int]:
        widths = {i: self._least(i) for i in shown}
        spare = width - sum(widths.values()) - PADDING * (len(shown) - 1)
        for i in sorted(shown, key=lambda i: (-self.columns[i].keep, i)):
            more = max(0, min(self._natural(i) - widths[i], spare))
            widths[i] += more
            spare -= more
        return widths
