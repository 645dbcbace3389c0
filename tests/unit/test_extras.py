"""What is said where the packages of an extra are absent, or two that must not be installed together."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from etacore.cli.app import main
from etacore.config import RuntimeConfig
from etacore.extras import absent_packages, installed_xgboosts
from etacore.finding import Finding
from etacore.loop.doctor import examine


def hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    """Let these modules be absent, and those inside them."""

    def find(module: str) -> ModuleSpec | None:
        if module in hidden:
            return None
        if module.split(".")[0] in hidden:
            raise ModuleNotFoundError(module)
        return find_spec(module)

    monkeypatch.setattr("etacore.extras.find_spec", find)


def test_what_is_absent_has_the_name_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert absent_packages("json", "numpy") == []
    hide(monkeypatch, "google", "polars", "xgboost")
    assert absent_packages("polars", "json", "google.transit", "xgboost") == [
        "polars",
        "gtfs-realtime-bindings",
        "xgboost-cpu",
    ]


@pytest.mark.parametrize(
    ("arguments", "hidden", "packages", "extra"),
    [
        (["capture", "--output-dir", "x"], ["google"], "gtfs-realtime-bindings", "capture"),
        (["capture", "--output-dir", "x"], ["google", "polars"], "polars, gtfs-realtime-bindings", "capture"),
        (["replay", ".", "--gtfs", "."], ["polars"], "polars", "train"),
        (["seed", "gtfs.zip"], ["polars", "httpx"], "polars", "train"),
        (["seed", "https://host/gtfs.zip"], ["httpx"], "httpx", "train"),
    ],
)
def test_a_command_names_the_packages_and_their_extra(
    arguments: list[str], hidden: list[str], packages: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, *hidden)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert f"this command needs {packages} (" in done.output
    assert f"etacore[{extra}]" in done.output
    assert f"pip install '.[{extra}]'" in done.output


@pytest.fixture
def both_xgboosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("xgboost", "xgboost_cpu"):
        folder = tmp_path / f"{name}-3.2.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 3.2.0\n")
    monkeypatch.syspath_prepend(tmp_path)


def about_training(folder: Path) -> Finding:
    config = RuntimeConfig(redis_url="unix:///nowhere/redis.sock", model_registry_dir=folder)
    (finding,) = (finding for finding in examine(config) if finding.kind == "training")
    return finding


def test_one_xgboost_is_well(tmp_path: Path) -> None:
    assert len(installed_xgboosts()) == 1
    assert about_training(tmp_path).severity == "ok"


@pytest.mark.usefixtures("both_xgboosts")
def test_doctor_tells_that_both_are_installed(tmp_path: Path) -> None:
    assert installed_xgboosts() == {"xgboost", "xgboost-cpu"}
    finding = about_training(tmp_path)
    assert finding.severity == "error"
    assert finding.text.startswith("xgboost and xgboost-cpu are both installed")
    assert "pip uninstall xgboost xgboost-cpu" in finding.advice
    assert "train-gpu" in finding.advice
