"""What is wrong with a registry, what may leave it, and the commands that say so."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from etacore.cli.app import main
from etacore.errors import ModelLoadError, ModelNotFoundError, RegistryError
from etacore.mlops.promotion.health import archive, check_registry
from etacore.mlops.promotion.history import HISTORY_FILE, Record, append_record
from etacore.models.bundle import Bundle
from etacore.models.registry import Registry
from etacore.models.short_ids import short_ids, shorten
from etacore.store import store as redis_io
from etacore.store.store import RedisStore
from tests import models

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry")


def tree(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def add(registry, key, *, days=1, **changes):
    return models.add_table(registry, key, saved_at=(NOW - timedelta(days=days)).isoformat(), **changes)


def kinds(registry, **options):
    before = tree(registry.path) if registry.path.is_dir() else None
    report = check_registry(registry, now=NOW, **options)
    assert before is None or tree(registry.path) == before
    return {(finding.kind, finding.key): finding for finding in report.findings}


def only(registry, kind, key, severity, **options):
    found = kinds(registry, **options)
    assert list(found) == [(kind, key)]
    finding = found[kind, key]
    assert finding.severity == severity
    assert finding.text
    assert finding.advice
    return finding


def test_a_healthy_registry(registry):
    add(registry, "a")
    registry.add(Bundle(*models.bundle("b", library=models.compiled(models.save()).library, parity=models.PARITY)))
    report = check_registry(registry, now=NOW, active=["a"], check_stale=False)
    assert (report.findings, report.is_healthy, report.n_models) == ((), True, 2)
    assert "Nothing is wrong" in report.to_markdown()
    assert report.line().endswith("2 models, 0 archived; 0 errors, 0 warnings, 0 notes")


def test_no_registry_and_an_empty_one(registry):
    finding = only(registry, "missing", str(registry.path), "error")
    assert "MODEL_REGISTRY_DIR" in finding.advice
    assert not registry.path.exists()
    registry.path.mkdir()
    assert kinds(registry) == {}


def test_missing_files(registry):
    for key in "abc":
        add(registry, key)
    (registry.path / "a" / "manifest.json").unlink()
    (registry.path / "b" / "model.json").unlink()
    for name in ("manifest.json", "model.json"):
        (registry.path / "c" / name).unlink()
    (registry.path / "c").rmdir()
    found = kinds(registry)
    assert list(found) == [("missing", "a"), ("missing", "b"), ("missing", "c")]
    assert "manifest.json is missing" in found["missing", "a"].text
    assert "model.json is missing" in found["missing", "b"].text
    assert "its folder is missing" in found["missing", "c"].text


def test_a_changed_file(registry):
    for key in "ab":
        add(registry, key)
    (registry.path / "a" / "model.json").write_bytes(b"{}")
    (registry.path / "b" / "manifest.json").write_bytes(b"{}")
    found = kinds(registry)
    assert list(found) == [("hash_mismatch", "a"), ("hash_mismatch", "b")]
    assert not check_registry(registry, now=NOW).is_healthy


def rehash(registry, key, content):
    """Put another manifest into a bundle, and let the index agree with it."""
    (registry.path / key / "manifest.json").write_bytes(content)
    path = registry.path / "registry.json"
    index = json.loads(path.read_bytes())
    index[key]["manifest_sha256"] = models.sha256_hex(content)
    path.write_text(json.dumps(index))


def test_a_manifest_that_cannot_be_read(registry):
    add(registry, "a")
    rehash(registry, "a", b"{")
    assert "is not JSON" in only(registry, "corrupt", "a", "error").text


def test_features_of_another_version(registry):
    add(registry, "a")
    raw = json.loads((registry.path / "a" / "manifest.json").read_bytes()) | {"features": ["speed_of_light"]}
    rehash(registry, "a", json.dumps(raw).encode())
    assert "speed_of_light" in only(registry, "unknown_schema", "a", "error").text


def test_a_model_this_machine_cannot_load(registry):
    registry.add(Bundle(*models.bundle("a", saved_at=NOW.isoformat())))
    assert "the system refuses" in only(registry, "unloadable", "a", "error").text
    manifest, files = models.bundle("b", saved_at=NOW.isoformat())
    foreign = [
        models.LibraryFile("forest.so", lib.sha256, "linux", "riscv64", "tl2cgen", "cc") for lib in manifest.libraries
    ]
    registry.add(Bundle(models.bundle("b", saved_at=NOW.isoformat(), libraries=tuple(foreign))[0], files))
    assert "compiled for linux-riscv64" in kinds(registry)["unloadable", "b"].text


def test_what_is_worth_a_note(registry):
    add(registry, "weather", features=("hour", "wind_speed_kmh"))
    only(registry, "needs_weather", "weather", "note")
    library = models.compiled(models.save()).library
    registry.add(Bundle(*models.bundle("no-parity", library=library, saved_at=NOW.isoformat())))
    assert kinds(registry)["unchecked", "no-parity"].severity == "warning"
    assert check_registry(registry, now=NOW).is_healthy


def test_folders_that_nobody_lists(registry):
    for key in "abc":
        add(registry, key)
    registry.archive(["b"])
    (registry.path / "copy").mkdir()
    (registry.path / "copy" / "manifest.json").write_bytes((registry.path / "a" / "manifest.json").read_bytes())
    (registry.path / "b").mkdir()
    (registry.path / "notes").mkdir()
    (registry.path / "evaluations").mkdir()
    found = kinds(registry)
    assert list(found) == [("unregistered", "b"), ("unregistered", "copy"), ("unregistered", "notes")]
    assert "left over from archiving" in found["unregistered", "b"].text
    assert "import_bundle" in found["unregistered", "copy"].advice


def test_age(registry):
    add(registry, "young", days=90)
    add(registry, "old", days=91)
    assert "saved 91 days ago" in only(registry, "stale", "old", "warning").text
    assert kinds(registry, check_stale=False) == {}
    assert kinds(registry, max_age_days=91) == {}
    assert list(kinds(registry, max_age_days=0)) == [("stale", "old"), ("stale", "young")]
    for days in (-1, float("nan")):
        with pytest.raises(RegistryError, match="max_age_days"):
            check_registry(registry, max_age_days=days)


def test_an_active_model_that_is_not_there(registry):
    for key in "ab":
        add(registry, key)
    registry.archive(["b"])
    append_record(registry, Record(model_key="b", promoted_at="t", source="test"))
    found = kinds(registry, active=["vanished", "a"])
    assert list(found) == [("active_missing", "b"), ("active_missing", "vanished")]
    assert "etacore registry restore b" in found["active_missing", "b"].advice


def test_damaged_indexes(registry):
    add(registry, "a")
    (registry.path / HISTORY_FILE).write_text("{")
    only(registry, "corrupt", HISTORY_FILE, "error")
    path = registry.path / "registry.json"
    index = json.loads(path.read_bytes())
    path.write_text(json.dumps(index | {"odd": {"format": 7}}))
    assert "format 7" in kinds(registry)["corrupt", "odd"].text
    path.write_text("{")
    assert list(kinds(registry)) == [("corrupt", "registry.json")]


def test_what_a_dead_writer_left(registry):
    add(registry, "a")
    (registry.path / ".tmp-99-ab").mkdir()
    drafts = [".registry.json.99.1.partial", ".registry.json.new"]
    for name in drafts:
        (registry.path / name).write_text("")
    found = kinds(registry)
    assert list(found) == [("leftover", name) for name in (*drafts, ".tmp-99-ab")]
    add(registry, "b")
    assert kinds(registry) == {}


class Bomb:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def legacy(registry, tmp_path):
    """A registry of the old system whose pickles run code when they are opened."""
    trap = tmp_path / "opened"
    bomb = pickle.dumps(Bomb(trap))
    registry.path.mkdir()
    for name in ("listed.pkl", "listed_meta.pkl", "loose.pkl"):
        (registry.path / name).write_bytes(bomb)
    (registry.path / "folder").mkdir()
    (registry.path / "folder" / "model.pkl").write_bytes(bomb)
    entry = {"saved_at": "2025-01-01", "model_type": "xgboost", "path": "/srv/models/listed.pkl", "route_id": None}
    (registry.path / "registry.json").write_text(
        json.dumps({"listed": entry, "elsewhere": entry | {"r2": float("nan")}})
    )
    yield registry
    assert not trap.exists()
    pickle.loads(bomb).close()
    assert trap.exists()


def test_an_old_registry_is_listed_and_never_opened(legacy):
    found = kinds(legacy)
    assert {key for kind, key in found if kind == "legacy"} == {
        "elsewhere",
        "folder",
        "listed",
        "listed_meta",
        "loose",
    }
    assert {finding.severity for finding in found.values()} == {"note"}
    assert "absolute path" in found["legacy", "listed"].text
    assert "absolute path" not in found["legacy", "loose"].text
    assert "etacore compile" in found["legacy", "listed"].advice
    for call in (legacy.load, lambda key: archive(legacy, [key])):
        with pytest.raises((ModelLoadError, ModelNotFoundError), match="pickle"):
            call("listed")
    done = run(legacy, "list", "--json", "--offline")
    assert {row["state"] for row in json.loads(done.stdout)} == {"legacy"}
    assert "never opened" in run(legacy, "show", "listed").stderr
    assert run(legacy, "check", "--offline").exit_code == 0
    before = tree(legacy.path) | {".lock": b""}
    assert archive(legacy, stale=True, max_age_days=0).keys == ()
    assert tree(legacy.path) == before


# -- archiving ------------------------------------------------------------


def test_stale_models_are_archived_but_the_last_good_one(registry):
    add(registry, "old-a", days=200)
    add(registry, "old-b", days=100)
    add(registry, "route-old", days=100, route_id="7")
    add(registry, "young", days=10)
    add(registry, "other-family", days=300, model_type="ewma")
    append_record(registry, Record(model_key="young", promoted_at="t", source="test"))
    dry = archive(registry, stale=True, now=NOW, dry_run=True)
    assert registry.archived() == []
    done = archive(registry, stale=True, now=NOW)
    assert done.keys == dry.keys == ("old-a", "old-b")
    assert dict(done.kept) == {
        "other-family": "it is the last good ewma model for all routes",
        "route-old": "it is the last good xgboost model of route 7",
    }
    assert (registry.archived(), registry.keys()) == (["old-a", "old-b"], ["other-family", "route-old", "young"])


def test_the_newest_good_one_of_a_route_stays(registry):
    for days, key in ((300, "a"), (200, "b"), (100, "c")):
        add(registry, key, days=days, route_id="7")
    append_record(registry, Record(model_key="elsewhere", promoted_at="t", source="test"))
    (registry.path / "c" / "model.json").write_bytes(b"damaged")
    done = archive(registry, stale=True, now=NOW)
    assert (done.keys, list(done.kept)) == (("a", "c"), ["b"])


def test_a_damaged_rest_does_not_count_as_good(registry):
    add(registry, "good", days=100)
    add(registry, "bad", days=1)
    append_record(registry, Record(model_key="elsewhere", promoted_at="t", source="test"))
    (registry.path / "bad" / "model.json").unlink()
    assert archive(registry, ["good"]).kept == {"good": "it is the last good xgboost model for all routes"}
    assert archive(registry, ["bad"]).keys == ("bad",)


def test_what_is_active_stays(registry):
    for key in ("announced", "promoted", "free", "last"):
        add(registry, key, days=100)
    append_record(registry, Record(model_key="promoted", promoted_at="t", source="test"))
    done = archive(registry, ["announced", "promoted", "free"], in_use=["announced"])
    assert done.keys == ("free",)
    assert dict(done.kept) == {"announced": "it is in use", "promoted": "it was promoted last"}


def test_where_nothing_is_promoted_the_choice_of_the_loop_is_active(registry):
    add(registry, "best", days=100, metrics={"test_mae_seconds": 10.0})
    add(registry, "worse", days=1, metrics={"test_mae_seconds": 20.0})
    done = archive(registry, stale=True, now=NOW)
    assert dict(done.kept) == {"best": "nothing is promoted, and a loop would choose it by itself"}
    assert archive(registry, stale=True, now=NOW, in_use=["worse"]).keys == ("best",)


def test_archive_refuses(registry):
    with pytest.raises(RegistryError, match="no registry"):
        archive(registry, ["a"])
    assert not registry.path.exists()
    add(registry, "a")
    with pytest.raises(ModelNotFoundError, match="model b is not in"):
        archive(registry, ["a", "b"])
    with pytest.raises(RegistryError, match="max_age_days"):
        archive(registry, stale=True, max_age_days=-1)
    assert registry.archived() == []


# -- the commands ------------------------------------------------------------


def run(registry, *arguments, redis_url="redis://127.0.0.1:1/0"):
    command = ["registry", *arguments, "--model-registry-dir", str(registry.path)]
    return CliRunner().invoke(main, command, env={"REDIS_URL": redis_url, "REDIS_HOST": None, "REDIS_PORT": None})


@pytest.mark.parametrize("arguments", [["list"], ["check", "--no-stale"], ["archive", "--stale", "--dry-run"]])
def test_a_redis_that_nobody_named_is_not_asked(registry, arguments, monkeypatch):
    class Asked(RedisStore):
        def __init__(self, config):
            raise AssertionError(f"asked {config.redis_host}:{config.redis_port}")

    monkeypatch.setattr(redis_io, "RedisStore", Asked)
    models.add_table(registry, "a")
    append_record(registry, Record(model_key="a", promoted_at="t", source="test"))
    done = run(registry, *arguments, redis_url=None)
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    for named in (["--redis-host", "localhost"], ["--redis-port", "1"], ["--redis-url", "redis://127.0.0.1:1/0"]):
        assert isinstance(run(registry, *arguments, *named, redis_url=None).exception, AssertionError)
        assert run(registry, *arguments, *named, "--offline", redis_url=None).exit_code == 0


def test_short_ids_do_for_every_command(registry):
    for key in ("xgboost_city_1", "xgboost_city_2", "ewma_city"):
        models.add_table(registry, key, metrics={"test_mae_seconds": 42.25})
    ids = {row["key"]: row["id"] for row in json.loads(run(registry, "list", "--json", "--offline").stdout)}
    assert ids == short_ids(registry.keys())
    assert all(one in run(registry, "list", "--offline").stdout for one in ids.values())
    shown = run(registry, "show", ids["xgboost_city_1"]).stdout
    assert "xgboost_city_1" in shown
    assert ids["xgboost_city_1"] in shown
    done = run(registry, "show", "xgboost_city")
    assert done.exit_code == 2
    assert "may be any of 2 models" in done.stderr
    assert ids["xgboost_city_2"] in done.stderr
    done = run(registry, "archive", "xgboost_city", "--offline")
    assert (done.exit_code, registry.archived()) == (2, [])
    assert run(registry, "archive", ids["xgboost_city_1"], "--offline").exit_code == 0
    assert registry.archived() == ["xgboost_city_1"]
    assert "kept" in run(registry, "archive", ids["xgboost_city_2"], "--in-use", "xgboost_city_2", "--offline").stdout
    done = run(registry, "restore", "xgboost")
    assert (done.exit_code, done.stdout) == (0, "xgboost_city_1\n")
    assert registry.archived() == []


def test_check(registry):
    add(registry, "a")
    done = run(registry, "check", "--offline", "--max-age-days", "36500")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "1 models, 0 archived; 0 errors" in done.stdout
    done = run(registry, "check", "--no-stale")
    assert done.exit_code == 0
    assert "what it announces is not known" in done.stderr
    (registry.path / "a" / "model.json").unlink()
    done = run(registry, "check", "--offline")
    assert done.exit_code == 1
    assert "model.json is missing" in done.stdout
    raw = json.loads(run(registry, "check", "--offline", "--json", "--no-stale").stdout)
    assert (raw["healthy"], [finding["kind"] for finding in raw["findings"]]) == (False, ["missing"])
    assert run(registry, "check", "--max-age-days", "-3").exit_code == 2
    assert run(registry, "check", "--max-age-days", "nan").exit_code == 2


LONG = (
    "xgboost_various_dataset_5_spatial-temporal_global_20251202_063133_handle_nan=drop_learning_rate=0.05_max_depth=5"
)


def test_list(registry):
    assert "holds no model" in run(registry, "list", "--offline").stdout
    add(registry, LONG, metrics={"test_mae_seconds": 42.25}, route_id="7[x]")
    add(registry, "weather", features=("hour", "wind_speed_kmh"))
    add(registry, "gone")
    add(registry, "broken")
    (registry.path / "broken" / "manifest.json").write_text("{}")
    registry.archive(["gone"])
    (registry.path / "old.pkl").write_bytes(b"")
    append_record(registry, Record(model_key=LONG, promoted_at="t", source="test"))
    rows = {row["key"]: row for row in json.loads(run(registry, "list", "--offline", "--json").stdout)}
    assert {key: row["state"] for key, row in rows.items()} == {
        LONG: "active",
        "weather": "refused",
        "gone": "archived",
        "broken": "refused",
        "old": "legacy",
    }
    assert rows[LONG]["test_mae_seconds"] == 42.25
    text = run(registry, "list", "--offline").stdout
    assert shorten(LONG) in text
    assert LONG not in text
    assert "42.2 s" in text
    assert "7[x]" in text
    assert LONG in run(registry, "list", "--offline", "--full").stdout


def test_show(registry):
    models.add_table(registry, "a", metrics={"test_mae_seconds": 42.25}, provenance={"train_days": ["2026-01-01"] * 9})
    text = run(registry, "show", "a").stdout
    for piece in ("mean_table", "42.25", "America/Costa_Rica", "(9)", registry.manifest("a").source.sha256):
        assert piece in text
    assert run(registry, "show", "a", "--json").stdout_bytes == (registry.path / "a" / "manifest.json").read_bytes()
    done = run(registry, "show", "b")
    assert done.exit_code == 2
    assert done.stderr.startswith("etacore: Model b not found in registry (etacore registry list")
    models.add_table(registry, "c")
    registry.archive(["a"])
    assert "archived" in run(registry, "show", "a").stdout


def test_archive_and_restore(registry):
    for key in "abc":
        add(registry, key)
    done = run(registry, "archive", "a")
    assert done.exit_code == 2
    assert "--offline" in done.stderr
    assert run(registry, "archive").exit_code == 2
    assert "would be archived" in run(registry, "archive", "a", "--offline", "--in-use", "b", "--dry-run").stdout
    assert registry.archived() == []
    done = run(registry, "archive", "a", "b", "--offline", "--in-use", "b")
    assert done.exit_code == 0
    assert "it is in use" in done.stdout
    assert (registry.keys(), registry.archived()) == (["b", "c"], ["a"])
    done = run(registry, "restore", "a")
    assert (done.exit_code, done.stdout, registry.keys()) == (0, "a\n", ["a", "b", "c"])
    assert run(registry, "restore", "zzz").exit_code == 2
    stale = run(registry, "archive", "--stale", "--max-age-days", "100000", "--offline")
    assert stale.stdout == "nothing to archive\n"


def test_shorten():
    assert shorten("short") == "short"
    assert len(shorten(LONG, 40)) == 40
    assert shorten("abcdefghij", 5) == "ab…ij"
