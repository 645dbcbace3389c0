"""Work says how far it is once: by bars on a terminal, by lines without one."""

from __future__ import annotations

import io

from rich.console import Console

from etacore.mlops.progress import LINE_S, LineProgress, console_progress, stage_line


def test_without_a_terminal_each_stage_is_one_line():
    output = io.StringIO()
    with console_progress(Console(file=output, width=40)) as progress:
        progress("reading", 0, 1)
        progress("reading", 1, 1)
        for done in range(101):
            progress("computing features of a name that is longer than the console", done, 100)
    assert output.getvalue().splitlines() == [
        "reading",
        "computing features of a name that is longer than the console",
    ]


def test_a_terminal_gets_bars_and_no_line_beside_them():
    output = io.StringIO()
    with console_progress(Console(file=output, width=100, force_terminal=True)) as progress:
        progress("reading", 0, 4)
        progress("reading", 4, 4)
    last = output.getvalue().rpartition("reading")[2]
    assert "4/4" in last
    assert "━" in last
    assert not any(line.strip() == "reading" for line in output.getvalue().split("\n"))


def test_a_long_stage_is_heard_of_again_and_again():
    lines: list[str] = []
    now_s = [0.0]
    progress = LineProgress(lines.append, clock=lambda: now_s[0])
    for done in range(5):
        progress("playing", done, 5)
        now_s[0] += LINE_S / 2
    progress("playing", 5, 5)
    assert lines == ["playing", "playing: 2 of 5", "playing: 4 of 5"]


def test_a_stage_without_an_end_is_said_once():
    lines: list[str] = []
    now_s = [0.0]
    progress = LineProgress(lines.append, clock=lambda: now_s[0])
    for done in range(10):
        progress("recording positions", done, 0)
        now_s[0] += LINE_S
    progress("writing", 0, 1)
    assert lines == ["recording positions", "writing"]


def test_a_stage_and_how_far_it_is():
    assert stage_line("reading", 0, 1) == "reading"
    assert stage_line("training routes", 3, 7) == "training routes: 3 of 7"
    assert stage_line("seeding Redis", 2_000, 0) == "seeding Redis: 2000"
