"""The shipped model is made by commands that a user could type, and has to serve."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from etacore.demo import lifecycle
from etacore.demo.lifecycle import make_shipped_model
from etacore.errors import PromotionError
from tests import models


@pytest.fixture
def typed(monkeypatch):
    typed = []

    def run(commands, *words):
        typed.append(words)
        if words[0] == "train":
            models.add_table(commands.registry, "new")

    def record_city(folder, n_days, seed):
        return ("positions.parquet", "--gtfs", "gtfs.zip")

    def run_demo(**settings):
        return SimpleNamespace(model_key=settings["active_model"])

    monkeypatch.setattr(lifecycle.Commands, "run", run)
    monkeypatch.setattr(lifecycle, "record_city", record_city)
    monkeypatch.setattr(lifecycle, "run_demo", run_demo)
    return typed


def test_the_new_model_of_a_registry_is_named_whatever_else_is_in_it(typed, tmp_path):
    registry = lifecycle.Commands(tmp_path, tmp_path / "registry").registry
    models.add_table(registry, "old")
    assert make_shipped_model(tmp_path, tmp_path / "registry") == "new"
    assert [words[:2] for words in typed] == [
        ("dataset", "build"),
        ("train", "simulated_city"),
        ("registry", "check"),
    ]
    assert "--no-use-shapes" in typed[0]


def test_a_model_that_the_loop_does_not_serve_is_refused(typed, tmp_path, monkeypatch):
    monkeypatch.setattr(lifecycle, "run_demo", lambda **_: SimpleNamespace(model_key="old"))
    with pytest.raises(PromotionError, match="the loop serves old, not new"):
        make_shipped_model(tmp_path, tmp_path / "registry")
