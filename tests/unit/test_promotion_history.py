"""The list of promotions, and the ways back that it knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from etacore.mlops.promotion.history import (
    HISTORY_FILE,
    Record,
    append_record,
    last_promoted,
    read_history,
    ways_back,
)
from etacore.models.registry import Registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.path.mkdir()
    return registry


def test_there_and_back(registry):
    assert (read_history(registry), last_promoted(registry)) == ([], None)
    record = Record(
        model_key="a",
        promoted_at="t",
        source="s",
        previous="b",
        forced_reason="why",
        evaluation="e.json",
        difference_s=-1.5,
    )
    append_record(registry, record)
    assert (read_history(registry), last_promoted(registry)) == ([record], "a")


WRITER = """
import sys
from etacore.mlops.promotion.history import Record, append_record
from etacore.models.registry import Registry
registry = Registry(sys.argv[1])
for i in range(15):
    append_record(registry, Record(model_key=f"{sys.argv[2]}{i}", promoted_at="t", source="test"))
"""


def test_two_writers_of_the_history(registry):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, registry.path, name], cwd=ROOT) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    keys = [record.model_key for record in read_history(registry)]
    assert sorted(keys) == sorted(f"{name}{i}" for name in "ab" for i in range(15))
    assert [key for key in keys if key[0] == "a"] == [f"a{i}" for i in range(15)]


@pytest.mark.parametrize(
    ("steps", "active", "ways"),
    [
        ("", None, ""),
        ("A", "A", ""),
        ("AB", "B", "A"),
        ("ABC", "C", "BA"),
        ("ABCb", "B", "A"),
        ("ABCbD", "D", "BA"),
        ("ABA", "A", "B"),
        ("ABCA", "A", "CB"),
        ("AB", "C", "BA"),
        ("ABC", "B", "A"),
        ("AB", None, "A"),
    ],
)
def test_ways_back(steps, active, ways):
    """Capital letters are promotions, small ones steps back."""
    history = [
        Record(model_key=step.upper(), promoted_at="t", source="rollback" if step.islower() else "cli")
        for step in steps
    ]
    assert "".join(ways_back(history, active)) == ways


def test_the_history_keeps_what_a_newer_version_wrote(registry):
    (registry.path / HISTORY_FILE).write_text(
        '[{"model_key": "old", "promoted_at": "t", "source": "s", "surprise": [1]}]'
    )
    append_record(registry, Record(model_key="new", promoted_at="t", source="s"))
    assert json.loads((registry.path / HISTORY_FILE).read_bytes())[0]["surprise"] == [1]
    assert [record.model_key for record in read_history(registry)] == ["old", "new"]
