"""Models on disk: all or nothing, movable, safe with two writers, and the right one chosen."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from etacore import files
from etacore.errors import ModelLoadError, ModelNotFoundError, RegistryError, SchemaError
from etacore.models import model as model_module
from etacore.models.bundle import Bundle
from etacore.models.forest import sha256_hex
from etacore.models.manifest import Manifest, SourceFile, check_model_key, make_model_key
from etacore.models.registry import Registry
from etacore.schema import BASE_FEATURES
from tests import models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry")


def add(registry, key, **changes):
    return registry.add(Bundle(*models.bundle(key, **changes)))


def tree(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_keys_of_the_field_are_accepted():
    key = "xgboost_various_dataset_5_spatial-temporal_global_20251202_063133_handle_nan=drop_learning_rate=0.05"
    assert check_model_key(key) == key
    assert check_model_key("a" * 200)


@pytest.mark.parametrize(
    "key", ["", ".", "..", ".x", "a/b", "a\\b", "../x", "a b", "a\n", "é", "a\0", "a" * 201, "registry.json"]
)
def test_keys_that_are_no_file_names(registry, key):
    with pytest.raises(RegistryError, match="cannot be a file name"):
        check_model_key(key)
    with pytest.raises(RegistryError):
        add(registry, key)
    with pytest.raises(ModelNotFoundError):
        registry.load(key)
    assert not registry.path.exists()


def test_make_model_key():
    at = datetime(2025, 12, 2, 6, 31, 33, tzinfo=UTC)
    parameters = {"n_estimators": 200, "handle_nan": "drop", "max_depth": 5, "learning_rate": 0.05}
    assert make_model_key("xgboost", "various_dataset_5", BASE_FEATURES, None, at, parameters) == (
        "xgboost_various_dataset_5_spatial-temporal_global_20251202_063133"
        "_handle_nan=drop_learning_rate=0.05_max_depth=5_n_estimators=200"
    )
    assert make_model_key("ewma", "d", ["hour"], "1_7", at) == "ewma_d_temporal_route_1_7_20251202_063133"
    assert "route_a@2Fb@20@C3@A9@40_" in make_model_key("ewma", "d", ["hour"], "a/b é@", at)
    with pytest.raises(RegistryError):
        make_model_key("ewma", "d" * 300, ["hour"], None, at)


def test_manifest_survives_json():
    manifest, _ = models.bundle("k", metrics={"test_mae_seconds": 1.5}, route_id="7", nan_at_serving=0.0, n_trips=3)
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_key", "../x"),
        ("model_type", 3),
        ("dataset", None),
        ("route_id", 171),
        ("saved_at", "yesterday"),
        ("features", []),
        ("features", "hour"),
        ("time_zone", "Mars/Olympus"),
        ("time_zone", "../../etc/passwd"),
        ("holidays", ["2026-02-30"]),
        ("metrics", {"test_mae_seconds": "low"}),
        ("n_samples", True),
        ("nan_at_serving", 1.0),
        ("distance", "crow"),
        ("clip_seconds", [7200, 0]),
        ("source", {"file": "../model.json", "sha256": "0" * 64}),
        ("source", {"file": "model.json", "sha256": "zz"}),
        ("libraries", [{"file": "x.so"}]),
        ("parity", {"rows": "many"}),
        ("format_version", 99),
        ("surprise", 1),
        ("predictor", "oracle"),
        ("predictor", "polynomial"),
        ("routes", ["7", "7"]),
        ("routes", ["7", 8]),
        ("routes", "7"),
        ("typical", "typical.json"),
        ("typical", {"file": "../typical.json", "sha256": "0" * 64}),
        ("typical", {"file": "forest.so", "sha256": "0" * 64}),
    ],
)
def test_a_bad_field_is_named_with_its_file(field, value):
    raw = json.loads(models.bundle("k")[0].to_json())
    raw[field] = value
    with pytest.raises(RegistryError) as caught:
        Manifest.from_json(json.dumps(raw).encode(), "somewhere/manifest.json")
    assert "somewhere/manifest.json" in caught.value.message or field == "model_key"
    assert field in caught.value.message or field == "model_key" or value == "polynomial" or "forest.so" in str(value)


def test_fields_that_came_later_may_be_absent():
    plain, _ = models.bundle("k")
    raw = json.loads(plain.to_json())
    assert raw.keys().isdisjoint({"predictor", "routes", "typical"})
    assert (plain.predictor, plain.routes, plain.typical) == ("forest", (), None)
    table = SourceFile("typical.json", "0" * 64)
    manifest, _ = models.bundle("k", predictor="mean_table", libraries=(), routes=("7", "8"), typical=table)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.files() == {"model.json": manifest.source.sha256, "typical.json": "0" * 64}


def test_the_shipped_bundle_reads_back_byte_for_byte(default_registry):
    (key,) = default_registry.keys()
    content = (default_registry.path / key / "manifest.json").read_bytes()
    assert default_registry.manifest(key).to_json() == content
    assert default_registry.load(key).predictor.n_features == 7
    assert [library.backend for library in default_registry.manifest(key).libraries] == ["bitmask"]


def test_a_missing_field_is_named():
    raw = json.loads(models.bundle("k")[0].to_json())
    for field in raw:
        assert field not in ("predictor", "routes", "typical")
        less = {k: v for k, v in raw.items() if k != field}
        with pytest.raises(RegistryError, match=field if field != "source" else "source"):
            Manifest.from_json(json.dumps(less).encode())
    for data in (b"", b"[]", b"{", b"\xff"):
        with pytest.raises(RegistryError, match=r"manifest\.json"):
            Manifest.from_json(data)


def test_an_unknown_key_and_no_registry(registry):
    assert registry.keys() == registry.entries() == registry.legacy() == []
    assert registry.choose() is None
    with pytest.raises(ModelNotFoundError) as caught:
        registry.load("nope")
    assert caught.value.message == str(caught.value) == "Model nope not found in registry"


def test_save_load_move(registry, tmp_path):
    built = models.compiled(models.save())
    manifest, files = models.bundle("k", library=built.library)
    assert registry.add(Bundle(manifest, files)) == "k"
    assert sorted(p.name for p in registry.path.iterdir()) == [".lock", "k", "registry.json"]
    for name in ("registry.json", "k/manifest.json"):
        assert str(tmp_path) not in (registry.path / name).read_text()
    assert registry.load("k") is registry.load("k")
    moved = Registry((tmp_path / "registry").rename(tmp_path / "elsewhere"))
    model = moved.load("k")
    out = np.empty(1, np.float32)
    model.predict(np.zeros((1, 7), np.float32), out)
    assert np.isfinite(out).all()
    assert model.calendar_args == ("America/Costa_Rica", ())
    other = Registry(tmp_path / "third")
    assert other.import_bundle(moved.path / "k") == "k"
    assert tree(other.path / "k") == tree(moved.path / "k")


def test_another_writer_is_noticed(registry):
    assert registry.keys() == []
    writer = Registry(registry.path)
    add(writer, "a")
    assert registry.keys() == ["a"]
    add(writer, "b")
    assert registry.keys() == ["a", "b"]
    writer.remove("a")
    assert registry.keys() == ["b"]
    assert not (registry.path / "a").exists()
    with pytest.raises(ModelNotFoundError):
        writer.remove("a")


def test_what_is_refused_leaves_no_trace(registry):
    add(registry, "a")
    before = tree(registry.path)
    manifest, files = models.bundle("b")
    for broken in ({**files, "forest.so": b"other"}, {"model.json": files["model.json"]}, {**files, "more": b""}):
        with pytest.raises(RegistryError, match="bundle b"):
            registry.add(Bundle(manifest, broken))
    with pytest.raises(RegistryError, match="already in the registry"):
        add(registry, "a")
    assert tree(registry.path) == before


@pytest.mark.parametrize("step", ["mkdir", "sync_file", "rename", "sync_folder", "replace"])
def test_a_failure_in_the_middle_leaves_the_registry_as_it_was(registry, monkeypatch, step):
    add(registry, "a")
    before = tree(registry.path)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        owner = {"mkdir": Path, "rename": os, "replace": os}.get(step, files)
        if step == "mkdir":
            real = Path.mkdir
            patch.setattr(Path, "mkdir", lambda self, *a, **k: fail() if ".tmp-" in self.name else real(self, *a, **k))
        else:
            patch.setattr(owner, step, fail)
        with pytest.raises(RegistryError, match=r"registry.* cannot be written: No space left on device"):
            add(registry, "b")
    assert tree(registry.path) == before
    assert Registry(registry.path).keys() == ["a"]
    add(registry, "b")
    assert Registry(registry.path).keys() == ["a", "b"]


KILLED = """
import os, sys
from etacore.models import registry as module
from etacore.models.bundle import Bundle
from tests import models
step, path = sys.argv[1:]
setattr(os, step, lambda *a, **k: os._exit(9))
module.Registry(path).add(Bundle(*models.bundle("b")))
"""


@pytest.mark.parametrize("step", ["rename", "replace"])
def test_a_writer_that_dies_in_the_middle(registry, step):
    add(registry, "a")
    index = (registry.path / "registry.json").read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, step, registry.path], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert (registry.path / "registry.json").read_bytes() == index
    assert registry.keys() == ["a"]
    with pytest.raises(ModelNotFoundError):
        registry.load("b")
    add(registry, "b")
    assert registry.keys() == ["a", "b"]
    assert not list(registry.path.glob(".tmp-*"))


WRITER = """
import sys
from etacore.models.bundle import Bundle
from etacore.models.registry import Registry
from tests import models
for i in range(15):
    Registry(sys.argv[1]).add(Bundle(*models.bundle(f"{sys.argv[2]}-{i}")))
"""


def test_two_writers(registry):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, registry.path, name], cwd=ROOT) for name in "ab"]
    expected = {f"{name}-{i}" for name in "ab" for i in range(15)}
    while any(writer.poll() is None for writer in writers):
        assert set(registry.keys()) <= expected
        with suppress(subprocess.TimeoutExpired):
            writers[0].wait(0.01)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert set(registry.keys()) == expected
    for key in expected:
        assert registry.manifest(key).model_key == key


def test_a_lock_that_is_held(registry):
    add(registry, "a")
    with registry.locked(), pytest.raises(RegistryError, match="another writer"):
        add(Registry(registry.path, lock_timeout_s=0.05), "b")


def test_bundles_that_cannot_be_served(registry, monkeypatch):
    add(registry, "weather", features=("hour", "temperature_c"))
    with pytest.raises(SchemaError, match="temperature_c"):
        registry.load("weather")
    add(registry, "plain")
    with pytest.raises(ModelLoadError, match="the system refuses"):
        registry.load("plain")
    (registry.path / "plain" / "forest.so").write_bytes(b"changed")
    with pytest.raises(ModelLoadError, match="SHA-256"):
        registry.load("plain")
    (registry.path / "plain" / "forest.so").unlink()
    with pytest.raises(ModelLoadError, match="is missing"):
        registry.load("plain")
    monkeypatch.setattr(model_module, "CPU", "riscv64")
    with pytest.raises(ModelLoadError, match=r"compiled for .*, this machine is .*riscv64") as caught:
        registry.load("plain")
    assert "etacore compile" in caught.value.hint
    (registry.path / "plain" / "manifest.json").unlink()
    with pytest.raises(ModelLoadError, match=r"manifest\.json"):
        registry.load("plain")


def test_a_manifest_that_was_changed_is_refused(registry):
    add(registry, "plain")
    path = registry.path / "plain" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps(manifest | {"features": manifest["features"][::-1]}))
    with pytest.raises(ModelLoadError, match="hash differs"):
        registry.load("plain")


def test_a_damaged_index(registry):
    add(registry, "a")
    path = registry.path / "registry.json"
    for text in ("{", "[]", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(RegistryError, match=r"registry\.json"):
            registry.keys()
    entry = {"format": 1, "saved_at": "2026-01-01", "model_type": "xgboost", "route_id": None, "dataset": "d"}
    path.write_text(json.dumps({"../a": {**entry, "metrics": {}, "features": []}}))
    with pytest.raises(RegistryError, match="file name"):
        registry.load("../a")


ODD = {
    "no-fields": {"format": 1},
    "newer": {"format": 2, "anything": []},
    "odd-format": {"format": {}},
    "number-as-route": {"route_id": 0},
    "bad-time": {"saved_at": "yesterday"},
    "../bad": {"metrics": 3},
}


def test_an_odd_entry_hides_no_other(registry):
    entry(registry, "a", 5.0)
    path = registry.path / "registry.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, **{k: v if "format" in v else {**index["a"], **v} for k, v in ODD.items()}}))
    assert registry.keys() == [one.key for one in registry.entries()] == ["a"]
    assert registry.choose() == "a"
    assert registry.manifest("a").model_key == "a"
    assert registry.legacy() == []
    assert sorted(registry.refused()) == sorted(ODD)
    assert "format 2" in registry.refused()["newer"]
    for key in ODD:
        for call in (registry.load, registry.manifest):
            with pytest.raises(RegistryError, match=key) as caught:
                call(key)
            assert caught.value.hint
    add(registry, "b")
    assert sorted(registry.refused()) == sorted(ODD)
    for key in ODD:
        registry.remove(key)
    assert registry.refused() == {}
    assert registry.keys() == ["a", "b"]


def test_an_endless_number_for_a_score(registry):
    entry(registry, "a", 5.0)
    path = registry.path / "registry.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "b": {**index["a"], "metrics": {"test_mae_seconds": 10**400}}}))
    assert registry.choose() == "a"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("call", ["stat", "read_bytes"])
def test_an_index_that_cannot_be_read(registry, monkeypatch, number, call):
    add(registry, "a")

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os if call == "stat" else Path, call, fail)
    with pytest.raises(RegistryError, match=rf"registry\.json cannot be read: {os.strerror(number)}"):
        Registry(registry.path).keys()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match=r"file.* cannot be written: ") as caught:
        add(Registry(tmp_path / "file" / "registry"), "a")
    assert caught.value.hint


def test_pickles_are_listed_and_never_opened(registry):
    registry.path.mkdir()
    (registry.path / "old_model.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    old = {
        "old_model": {
            "saved_at": "2025-01-01T00:00:00",
            "model_type": "xgboost",
            "path": "/x/old_model.pkl",
            "r2": math.nan,
        }
    }
    (registry.path / "registry.json").write_text(json.dumps(old))
    (registry.path / "unlisted.pkl").write_bytes(b"")
    assert registry.keys() == []
    assert registry.legacy() == ["old_model", "unlisted"]
    assert registry.choose() is None
    for key in registry.legacy():
        with pytest.raises(ModelLoadError, match="never opened"):
            registry.load(key)
    add(registry, "new")
    assert registry.keys() == ["new"]
    assert registry.legacy() == ["old_model", "unlisted"]


def entry(registry, key, mae, route_id=None, dataset="d", day=1, **changes):
    metrics = {} if mae is None else {"test_mae_seconds": mae}
    return add(
        registry,
        key,
        route_id=route_id,
        dataset=dataset,
        metrics=metrics,
        saved_at=f"2026-01-{day:02}T00:00:00",
        **changes,
    )


def test_choose(registry):
    entry(registry, "global-good", 10.0, day=1)
    entry(registry, "global-bad", 20.0, day=2)
    entry(registry, "own-7", 50.0, route_id="7")
    entry(registry, "own-8", 1.0, route_id="8")
    assert registry.choose() == "global-good"
    assert registry.choose("xgboost", "7") == "own-7"
    assert registry.choose("xgboost", "7", prefer_route_model=False) == "global-good"
    assert registry.choose("xgboost", "9") == "global-good"
    assert registry.choose("ewma", "7") is None
    assert registry.choose(None, "7") == "own-7"


def test_choose_never_takes_another_routes_model(registry):
    entry(registry, "own-8", 1.0, route_id="8")
    assert registry.choose("xgboost", "7") is None
    assert registry.choose() is None


def test_choose_compares_within_the_newest_dataset_only(registry):
    entry(registry, "easy", 1.0, dataset="easy", day=1)
    entry(registry, "hard-best", 30.0, dataset="hard", day=2)
    entry(registry, "hard-newest", 40.0, dataset="hard", day=3)
    assert registry.choose() == "hard-best"


def test_choose_without_scores(registry):
    entry(registry, "old", None, day=1)
    entry(registry, "new", None, day=2)
    assert registry.choose() == "new"
    entry(registry, "scored", 7000.0, day=1)
    assert registry.choose() == "scored"
    entry(registry, "not-finite", math.nan, day=9)
    assert registry.choose() == "scored"
    entry(registry, "tie", 7000.0, day=3)
    assert registry.choose() == "tie"


def test_choose_leaves_out_what_cannot_be_served(registry):
    entry(registry, "weather", 1.0, features=("hour", "wind_speed_kmh"))
    assert registry.choose() is None
    entry(registry, "plain", 5.0)
    assert registry.choose() == "plain"


def test_a_whole_number_as_a_metric(registry):
    models.add_table(registry, "a", metrics={"test_mae_seconds": 10})
    assert registry.load("a").manifest.metrics == {"test_mae_seconds": 10.0}
    assert registry.manifest_sha256("a") == sha256_hex(registry.manifest("a").to_json())
    with pytest.raises(ModelNotFoundError):
        registry.manifest_sha256("b")


def test_a_model_that_is_no_forest(registry):
    models.add_table(registry, "a", seconds=75.5)
    model = registry.load("a")
    out = np.empty(3, np.float32)
    model.predict(np.full((3, 7), np.nan, np.float32), out)
    assert out.tolist() == [75.5] * 3
    with pytest.raises(ValueError, match="7"):
        model.predict(np.zeros((3, 6), np.float32), out)
    models.add_table(registry, "slow", seconds=9000.0)
    registry.load("slow").predict(np.zeros((3, 7), np.float32), out)
    assert out.tolist() == [7200.0] * 3


def test_a_source_is_not_parsed_before_its_hash_is_right(registry, monkeypatch):
    models.add_table(registry, "a")
    path = registry.path / "a" / "model.json"
    path.write_bytes(path.read_bytes() + b" ")
    monkeypatch.setattr(model_module, "load_predictor", lambda *_: pytest.fail("parsed"))
    with pytest.raises(ModelLoadError, match=r"model\.json has SHA-256 .*, its manifest says"):
        registry.load("a")
    path.unlink()
    with pytest.raises(ModelLoadError, match=r"model\.json cannot be read"):
        registry.load("a")


def test_a_source_of_another_kind(registry):
    content = b'{"kind":"polynomial","intercept":1,"terms":[]}'
    source = SourceFile("model.json", sha256_hex(content))
    manifest, _ = models.bundle("a", source=source, libraries=(), predictor="mean_table")
    registry.add(Bundle(manifest, {"model.json": content}))
    with pytest.raises(ModelLoadError, match="kind is 'polynomial', the manifest says 'mean_table'"):
        registry.load("a")


def test_a_feature_that_needs_something_names_it():
    for feature, name in (("route_code", "routes"), ("typical_travel_s", "typical")):
        raw = json.loads(models.bundle("k")[0].to_json()) | {"features": ["hour", feature]}
        with pytest.raises(RegistryError, match=f"field {name} .* {feature} needs it"):
            Manifest.from_json(json.dumps(raw).encode())


def test_folders_of_the_registry_are_no_keys(registry):
    for key in ("archive", "evaluations"):
        with pytest.raises(RegistryError, match="a folder of the registry itself"):
            add(registry, key)


def test_the_lock_may_be_nested(registry):
    with registry.locked():
        models.add_table(registry, "a")
        with registry.locked():
            registry.archive(["a"])
        with pytest.raises(RegistryError, match="another writer"), Registry(registry.path, lock_timeout_s=0.0).locked():
            pytest.fail("locked twice")
    assert registry.archived() == ["a"]
