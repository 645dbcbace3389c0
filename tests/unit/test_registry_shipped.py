"""What models/trained lacks, models/shipped beside it answers for; nobody writes there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from etacore.config import DEFAULT_REGISTRY_DIR, SHIPPED_REGISTRY_DIR
from etacore.errors import ModelNotFoundError, RegistryError
from etacore.mlops.promotion.health import archive, check_registry
from etacore.mlops.promotion.tables import model_rows
from etacore.models.choice import choose_models
from etacore.models.registry import Registry, open_registry
from tests import models

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def checkout(tmp_path: Path) -> Registry:
    """A fresh checkout: a shipped model, and nothing trained."""
    models.add_table(Registry(tmp_path / SHIPPED_REGISTRY_DIR), "shipped", seconds=7.0, metrics={"test_mae_seconds": 1})
    return open_registry(tmp_path / DEFAULT_REGISTRY_DIR)


def contents(registry: Registry) -> dict[str, bytes]:
    folder = registry.path.parent / "shipped"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_checkout_serves_the_shipped_model_and_makes_no_folder(checkout):
    assert checkout.choose() == "shipped"
    assert checkout.keys() == checkout.shipped_keys() == ["shipped"]
    assert [entry.key for entry in checkout.entries()] == ["shipped"]
    assert choose_models(checkout, "shipped").default is checkout.load("shipped")
    assert checkout.manifest("shipped").model_key == "shipped"
    assert len(checkout.manifest_sha256("shipped")) == 64
    assert checkout.folder("shipped") == checkout.path.parent / "shipped" / "shipped"
    assert not checkout.path.exists()


def test_what_is_trained_goes_to_trained_and_is_chosen_from_then_on(checkout):
    before = contents(checkout)
    models.add_table(checkout, "own", metrics={"test_mae_seconds": 500}, saved_at="2020-01-01T00:00:00+00:00")
    assert checkout.choose() == "own", "a model of another city is no better for its lower error there"
    assert checkout.keys() == ["own", "shipped"]
    assert checkout.folder("own") == checkout.path / "own"
    assert checkout.load("shipped").key == "shipped", "one that is announced goes on"
    assert Registry(checkout.path).keys() == ["own"]
    assert contents(checkout) == before


def test_a_registry_of_one_route_leaves_the_others_to_the_shipped_model(checkout):
    models.add_table(checkout, "own", route_id="7")
    assert checkout.choose(route_id="7") == "own"
    assert checkout.choose(route_id="8") == "shipped"


def test_a_model_of_the_same_key_hides_the_shipped_one(checkout):
    models.add_table(checkout, "shipped", seconds=9.0)
    assert checkout.keys() == ["shipped"]
    assert checkout.shipped_keys() == []
    assert checkout.folder("shipped") == checkout.path / "shipped"


@pytest.mark.parametrize("path", ["models/mine", "trained", "models/trained/deeper", "elsewhere"])
def test_any_other_folder_stands_alone(checkout, path):
    root = checkout.path.parents[1]
    assert open_registry(root / path).keys() == []


def test_writers_leave_the_shipped_model_alone(checkout):
    before = contents(checkout)
    models.add_table(checkout, "own")
    with pytest.raises(ModelNotFoundError, match="ships with etacore"):
        archive(checkout, ["shipped"], now=NOW)
    for write in (checkout.remove, lambda key: checkout.archive([key])):
        with pytest.raises(ModelNotFoundError):
            write("shipped")
    kept = archive(checkout, ["own"], now=NOW).kept
    assert kept == {"own": "nothing is promoted, and a loop would choose it by itself"}
    assert archive(checkout, stale=True, max_age_days=1, in_use=["x"], now=NOW).kept == {
        "own": "it is the last good xgboost model for all routes"
    }, "the shipped model knows nothing of the city"
    assert contents(checkout) == before


def test_without_a_registry_there_is_nothing_to_archive(checkout):
    with pytest.raises(RegistryError, match="there is no registry"):
        archive(checkout, ["shipped"], now=NOW)


def test_it_is_checked_and_listed_and_never_stale(checkout):
    report = check_registry(checkout, now=NOW, max_age_days=1, active=["shipped"])
    assert (report.n_models, report.findings) == (1, ())
    assert {row["key"]: row["state"] for row in model_rows(checkout, [])} == {"shipped": "shipped"}
    assert {row["key"]: row["state"] for row in model_rows(checkout, ["shipped"])} == {"shipped": "active"}
    (checkout.folder("shipped") / "model.json").unlink()
    assert [one.kind for one in check_registry(checkout, now=NOW).findings] == ["missing"]


def test_nothing_that_is_trained_in_a_checkout_is_tracked():
    root = Path(__file__).resolve().parents[2]
    assert f"/{DEFAULT_REGISTRY_DIR}/" in (root / ".gitignore").read_text().splitlines()
    shipped = Registry(root / SHIPPED_REGISTRY_DIR)
    assert (len(shipped.keys()), shipped.legacy(), shipped.refused()) == (1, [], {})
