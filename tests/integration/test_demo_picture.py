"""The picture of the demo in the documents: the real last screen, and nothing that has to be loaded to show it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]


def words(picture: Path) -> str:
    text = "".join(ElementTree.fromstring(picture.read_text()).itertext())
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_picture_shows_a_demo_that_ran(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    command = [sys.executable, "-m", "etacore.demo.picture", str(picture), "--seconds", "3"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    shown = words(picture)
    for title in ("etacore demo", "city time", "Next stops", "The loop", "Accuracy so far"):
        assert title in shown
    n_buses = re.search(r"buses +(\d+)", shown)
    assert n_buses is not None
    assert int(n_buses[1]) > 10


def test_the_picture_in_the_documents_loads_nothing() -> None:
    picture = ROOT / "docs/demo.svg"
    assert "Next stops" in words(picture)
    assert re.findall(r"https?://[^\"') ]+", picture.read_text()) == ["http://www.w3.org/2000/svg"]
