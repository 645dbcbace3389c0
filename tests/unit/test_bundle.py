"""A model in memory: checked once, loaded without a registry, and the same bytes on disk as ever."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import pytest

from etacore.errors import ModelLoadError, RegistryError, SchemaError
from etacore.mlops.bundling.compile import compile_bundle
from etacore.mlops.bundling.saving import bundle_predictor
from etacore.models.bundle import Bundle
from etacore.models.facts import ModelFacts
from etacore.models.forest import sha256_hex
from etacore.models.manifest import Manifest, SourceFile
from etacore.models.registry import Registry
from etacore.models.travel_times import TypicalTimes
from etacore.schema import BASE_FEATURES
from tests import models

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "trained"
AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
TABLE = orjson.dumps({"kind": "mean_table", "keys": [[1, 7], [1, 8]], "values": [100, 110.5], "default": 300})
FACTS = ModelFacts(model_type="historical_mean", features=("stops_ahead", "hour"), dataset="d")


def test_a_manifest_is_written_as_it_always_was():
    registry = Registry(SHIPPED)
    for key in registry.keys():  # noqa: SIM118
        written = (SHIPPED / key / "manifest.json").read_bytes()
        assert Manifest.from_json(written).to_json() == written
    manifest, _ = models.bundle("k", routes=("1",), predictor="polynomial", typical=SourceFile("t.json", "0" * 64))
    # The order of its fields when the first bundle with all of them was written; hashes in indices rest on it.
    assert list(orjson.loads(manifest.to_json())) == [
        *("model_key", "model_type", "dataset", "route_id", "saved_at", "features", "time_zone", "source"),
        *("libraries", "parity", "metrics", "hyperparameters", "provenance", "holiday_region", "holidays"),
        *("nan_at_serving", "distance", "clip_seconds", "n_samples", "n_trips", "train_samples", "test_samples"),
        *("predictor", "routes", "typical", "format_version"),
    ]
    assert {field.name for field in fields(Manifest)} == orjson.loads(manifest.to_json()).keys()


def test_facts_reach_the_manifest_unchanged():
    facts = ModelFacts(
        model_type="historical_mean",
        dataset="d",
        route_id="7",
        features=("stops_ahead", "hour"),
        time_zone="America/Costa_Rica",
        metrics={"test_mae_seconds": 61.0},
        hyperparameters={"alpha": 0.3},
        provenance={"seed": 42},
        holiday_region="CR",
        nan_at_serving=0.0,
        distance="along_route",
        clip_seconds=(1.0, 600.0),
        n_samples=10,
        n_trips=2,
        train_samples=8,
        test_samples=2,
        routes=("7", "9"),
    )
    manifest = bundle_predictor(TABLE, facts, saved_at=AT).manifest
    assert manifest.model_key == "historical_mean_d_route-temporal_route_7_20260304_050607_alpha=0.3"
    given = {field.name for field in fields(ModelFacts)} - {"provenance", "holidays"}
    assert {name: getattr(manifest, name) for name in given} == {name: getattr(facts, name) for name in given}
    assert (manifest.provenance["seed"], manifest.saved_at) == (42, AT.isoformat())
    assert {day.year for day in manifest.holidays} >= {2025, 2026, 2027}
    with pytest.raises(FrozenInstanceError):
        facts.dataset = "other"


def test_a_table_loads_without_a_registry_and_predicts_as_from_one(tmp_path):
    typical = TypicalTimes({"7": {"s2": (400.0, [50.0] * 24)}}).to_json()
    bundle = bundle_predictor(TABLE, FACTS, typical=typical, model_key="mine")
    registry = Registry(tmp_path / "registry")
    assert registry.add(bundle) == bundle.key == "mine"
    rows = np.array([[1, 8], [1, 9], [np.nan, 7]], np.float32)
    for model in (bundle.load(), registry.load("mine"), Bundle.read(registry.path / "mine").load()):
        out = np.empty(3, np.float32)
        model.predict(rows, out)
        assert (model.key, out.tolist(), model.typical.leg_m("7", "s2")) == ("mine", [110.5, 300, 300], 400.0)


def test_a_forest_is_compiled_from_memory_and_loads_without_a_registry(tmp_path):
    path = models.save()
    bundle = compile_bundle(path.read_bytes(), ModelFacts(dataset="d"), model_key="mine", saved_at=AT)
    assert bundle.manifest.features == BASE_FEATURES
    assert bundle.files["model.json"] == path.read_bytes()
    assert bundle == compile_bundle(path, ModelFacts(dataset="d"), model_key="mine", saved_at=AT)
    X, _ = models.data(40)
    registry = Registry(tmp_path / "registry")
    registry.add(bundle)
    mine, theirs = np.empty(40, np.float32), np.empty(40, np.float32)
    bundle.load().predict(X, mine)
    registry.load("mine").predict(X, theirs)
    assert mine.std() > 0
    np.testing.assert_array_equal(mine, theirs)


def test_a_bundle_is_kept_as_a_reader_will_see_it():
    manifest, files = models.bundle("k", metrics={"test_mae_seconds": 61}, clip_seconds=(0, 600))
    seen = Bundle(manifest, files).manifest
    assert (seen.metrics, seen.clip_seconds) == ({"test_mae_seconds": 61.0}, (0.0, 600.0))
    assert isinstance(seen.clip_seconds[1], float)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"forest.so": b"other"}, "forest.so of bundle k has SHA-256"),
        ({"more": b""}, "bundle k names .* and holds"),
    ],
)
def test_files_that_the_manifest_does_not_name_are_refused(change, said):
    manifest, files = models.bundle("k")
    with pytest.raises(RegistryError, match=said):
        Bundle(manifest, files | change)
    with pytest.raises(RegistryError, match="names"):
        Bundle(manifest, {})
    with pytest.raises(RegistryError, match="manifest of k: field distance"):
        Bundle(replace(manifest, distance="as the crow flies"), files)
    with pytest.raises(SchemaError, match="speed_of_light"):
        Bundle(replace(manifest, features=("speed_of_light",)), files)


def test_a_bundle_that_is_not_whole_is_not_read(tmp_path):
    registry = Registry(tmp_path)
    registry.add(Bundle(*models.bundle("k")))
    (tmp_path / "k" / "forest.so").unlink()
    with pytest.raises(ModelLoadError, match=r"forest\.so cannot be read: No such file"):
        Bundle.read(tmp_path / "k")
    (tmp_path / "k" / "forest.so").write_bytes(b"other")
    with pytest.raises(RegistryError, match=r"forest\.so of bundle k has SHA-256"):
        Bundle.read(tmp_path / "k")


def test_what_cannot_be_served_is_not_loaded_from_memory_either():
    with pytest.raises(ModelLoadError, match=r"forest\.so of k"):
        Bundle(*models.bundle("k")).load()
    weather = (*BASE_FEATURES, "temperature_c")
    with pytest.raises(SchemaError, match="model k needs temperature_c, and serving has no weather source"):
        Bundle(*models.bundle("k", features=weather)).load()
    other = SourceFile("model.json", sha256_hex(TABLE))
    manifest, _ = models.bundle("k", source=other, libraries=(), predictor="polynomial", features=FACTS.features)
    with pytest.raises(ModelLoadError, match=r"model\.json of k: field kind is 'mean_table'"):
        Bundle(manifest, {"model.json": TABLE}).load()
