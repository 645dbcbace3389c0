"""Tables fit any terminal: whole columns go, the least important first, and what is shown is shown whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from etacore.mlops.fitted_table import Column, FittedTable

KEY = "xgboost_" + "v" * 90 + "_max_depth=5"
COLUMNS = (
    Column("id"),
    Column("model", "key", 1),
    Column("type", "word", 5),
    Column("val MAE", "number", 2),
    Column("test MAE", "number", 8),
    Column("why", "prose", 3),
)
ROWS = [
    ("a1b2c3", KEY, "xgboost", "12,345.6 s", "47.6 s", "a reason [bold]that[/] takes more than one line"),
    ("d4e5f6", "ewma", "ewma", "8.0 s", "1,147.6 s", ""),
]


def lines(width: int, table: FittedTable | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table or FittedTable(COLUMNS, ROWS))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue().splitlines()


def test_with_room_for_everything_nothing_is_hidden():
    text = "\n".join(lines(220))
    for cell in (cell for row in ROWS for cell in row):
        assert cell in text
    assert "hidden" not in text


@pytest.mark.parametrize(
    ("width", "hidden"),
    [
        (100, None),
        (80, "model"),
        (59, "model, val MAE"),
        (40, "model, val MAE, why"),
        (20, "model, type, val MAE, why"),
    ],
)
def test_the_least_important_columns_go_first_and_are_named(width, hidden):
    shown = lines(width)
    assert max(map(len, shown)) <= width
    told = " ".join(line for line in " ".join(shown).split("wider than")[1:]) if hidden else ""
    expected = f" {width} columns: {hidden} hidden" if hidden else ""
    assert told.split() == expected.split()
    assert ("hidden" in " ".join(shown)) == (hidden is not None)


@pytest.mark.parametrize("width", range(16, 200, 3))
def test_no_number_is_ever_broken(width):
    shown = lines(width)
    text = "\n".join(shown)
    for i, column in enumerate(COLUMNS):
        if column.kind == "number" and column.heading in shown[0]:
            assert all(row[i] in text for row in ROWS), text
    for row in ROWS:
        assert row[0] in text


def test_a_key_loses_its_middle_and_keeps_both_ends():
    (line,) = [line for line in lines(100) if "a1b2c3" in line]
    shown = line.split()[1]
    assert shown.startswith("xgboost_v")
    assert shown.endswith("depth=5")
    assert "…" in shown


def test_the_first_column_stays_whatever_the_width():
    assert lines(6)[0].split() == ["id"]


def test_cells_are_no_markup_and_may_have_a_style():
    table = FittedTable((Column("state"), Column("why", "prose")), [(Text("active", style="green"), "[red]x[/]")])
    assert "[red]x[/]" in "\n".join(lines(60, table))
