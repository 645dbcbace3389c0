"""The gate in front of the loop, the switch, and the way back."""

from __future__ import annotations

import json

import pytest

from etacore import files
from etacore.errors import PromotionError, RedisUnavailableError, RegistryError
from etacore.mlops.promotion import promote as module
from etacore.mlops.promotion.evidence import BASELINE
from etacore.mlops.promotion.history import HISTORY_FILE, read_history
from etacore.mlops.promotion.promote import PromotionConfig, active_model, promote, rollback
from etacore.models.bundle import Bundle
from etacore.models.registry import Registry
from tests import models


class Store:
    """Redis, as far as promotion asks it; fails when told to."""

    def __init__(self, announcement=None):
        self.announcement = announcement
        self.failing = ""

    def active_model(self):
        self.fail_if("get")
        return self.announcement

    def announce_model(self, announcement):
        self.announcement = announcement
        self.fail_if("set")

    def fail_if(self, step):
        if self.failing == step:
            self.failing = ""
            raise RedisUnavailableError("Redis at nowhere cannot be reached")

    @property
    def key(self):
        return json.loads(self.announcement)["model_key"] if self.announcement else None


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry")
    for key in ("old", "new", "other"):
        models.add_table(registry, key)
    return registry


@pytest.fixture
def store():
    return Store()


def tree(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def figures(registry, key, mae_s, **changes):
    fields = {
        "model_type": "xgboost",
        "route_id": None,
        "manifest_sha256": registry.manifest_sha256(key),
        "eligible": True,
        "reason": None,
        "n": 500,
        "metrics": {"mae_seconds": mae_s, "r2": 0.5},
        "vs_active": None,
    }
    return fields | changes


def evaluation(registry, scores, *, name="20260101_000000_d", baseline_s=200.0, **changes):
    """Write an evaluation: MAE by key, or the whole record of a key."""
    document = {
        "format": 1,
        "created_at": "2026-01-01T00:00:00+00:00",
        "dataset": "d",
        "metric": "test_mae_seconds",
        "minimize": True,
        "active_model": None,
        "models": {k: v if isinstance(v, dict) else figures(registry, k, v) for k, v in scores.items()},
        "baselines": {
            BASELINE: {"n": 500, "metrics": {"mae_seconds": baseline_s}},
            "schedule": {"n": 3, "metrics": {}},
        },
        **changes,
    }
    folder = registry.path / "evaluations"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document))


def set_active(registry, store, key="old"):
    promote(registry, key, store, PromotionConfig(force_reason="first"))


def refused(registry, key, store, match, **config):
    before, announcement = tree(registry.path), store.announcement
    with pytest.raises(PromotionError, match=match) as caught:
        promote(registry, key, store, PromotionConfig(**config))
    assert (tree(registry.path), store.announcement) == (before, announcement)
    return caught.value


def test_a_better_model_goes_through(registry, store):
    set_active(registry, store)
    evaluation(registry, {"old": 100.0, "new": 94.0})
    done = promote(registry, "new", store, PromotionConfig(source="test"))
    assert store.key == "new"
    assert json.loads(store.announcement) == {
        "model_key": "new",
        "promoted_at": done.record.promoted_at,
        "source": "test",
    }
    assert (done.evidence.improvement, done.evidence.against) == (pytest.approx(0.06), "old")
    assert done.warm_s > 0
    raw = json.loads((registry.path / HISTORY_FILE).read_bytes())
    assert raw[1] == {
        "model_key": "new",
        "promoted_at": done.record.promoted_at,
        "source": "test",
        "previous": "old",
        "forced_reason": None,
        "evaluation": "20260101_000000_d.json",
        "difference_s": -6.0,
    }
    assert [record.model_key for record in read_history(registry)] == ["old", "new"]
    assert sorted(p.name for p in registry.path.iterdir() if p.suffix == ".partial") == []


def test_warming_is_measured_and_can_be_left_out(registry, store, monkeypatch):
    moments = iter((100.0, 102.5))
    monkeypatch.setattr(module, "perf_counter", lambda: next(moments))
    assert promote(registry, "new", store, PromotionConfig(force_reason="x")).warm_s == 2.5
    assert promote(registry, "old", store, PromotionConfig(force_reason="x", warm=False)).warm_s is None


@pytest.mark.parametrize(("mae_s", "passes"), [(95.0, True), (95.1, False), (100.0, False), (120.0, False)])
def test_the_threshold(registry, store, mae_s, passes):
    set_active(registry, store)
    evaluation(registry, {"old": 100.0, "new": mae_s})
    if passes:
        promote(registry, "new", store)
    else:
        error = refused(
            registry, "new", store, r"does not beat the active model by 5\.0%: mae_seconds .* against 100 of old"
        )
        assert "--force" in error.hint


def test_a_share_that_is_the_threshold_but_for_rounding_is_enough(registry, store):
    old, new = 3.0, 2.85
    assert (old - new) / old < 0.05
    set_active(registry, store)
    evaluation(registry, {"old": old, "new": new})
    promote(registry, "new", store)


def test_no_better_is_not_enough_for_a_threshold_of_nothing(registry, store):
    set_active(registry, store)
    evaluation(registry, {"old": 100.0, "new": 100.0})
    refused(registry, "new", store, "does not beat", improvement_threshold=0.0)
    evaluation(registry, {"old": 100.0, "new": 99.99})
    promote(registry, "new", store, PromotionConfig(improvement_threshold=0.0))


@pytest.mark.parametrize(
    ("metric", "old", "new", "minimize", "passes"),
    [
        ("test_r2", 0.5, 0.6, False, True),
        ("r2", 0.5, 0.51, False, False),
        ("r2", -0.5, -0.4, False, True),
        ("bias_seconds", -100.0, 20.0, True, True),
        ("bias_seconds", 20.0, -100.0, True, False),
    ],
)
def test_other_metrics(registry, store, metric, old, new, minimize, passes):
    set_active(registry, store)
    name = metric.removeprefix("test_")
    scores = {key: figures(registry, key, 1.0, metrics={name: v}) for key, v in (("old", old), ("new", new))}
    evaluation(registry, scores, metric=metric, minimize=minimize)
    if passes:
        promote(registry, "new", store)
    else:
        refused(registry, "new", store, "does not beat")


def test_the_comparison_on_common_samples_counts_where_there_is_one(registry, store):
    set_active(registry, store)
    versus = {"value": 80.0, "reference_value": 100.0, "difference_s": -20.0, "low_s": -30.0, "high_s": -10.0}
    ours = figures(registry, "new", 150.0, n=500, vs_active=versus)
    evaluation(registry, {"old": figures(registry, "old", 100.0, n=400), "new": ours}, active_model="old")
    done = promote(registry, "new", store)
    assert (done.evidence.value, done.evidence.against_value, done.evidence.interval) == (80.0, 100.0, (-30.0, -10.0))


def test_silence_where_it_is_difficult_is_no_improvement(registry, store):
    set_active(registry, store)
    versus = {"value": 10.0, "reference_value": 100.0, "difference_s": -90.0, "low_s": -95.0, "high_s": -85.0}
    ours = figures(registry, "new", 10.0, n=499, vs_active=versus)
    evaluation(registry, {"old": 100.0, "new": ours}, active_model="old")
    refused(registry, "new", store, "new predicts 499 of the 500 samples there that old predicts")


def test_a_model_for_all_routes_is_not_held_against_that_of_one_route(registry, store):
    set_active(registry, store)
    models.add_table(registry, "one", seconds=5.0, route_id="r")
    evaluation(registry, {"old": 100.0, "new": 150.0, "one": figures(registry, "one", 900.0, n=9, route_id="r")})
    promote(registry, "one", store, PromotionConfig(force_reason="x"))
    refused(registry, "new", store, "does not beat the active model .* against 100 of old")
    evaluation(registry, {"old": 100.0, "new": 90.0})
    done = promote(registry, "new", store)
    assert (done.evidence.against, done.record.previous) == ("old", "one")


def test_a_route_s_model_is_held_against_the_one_whose_place_it_takes(registry, store):
    for key in ("one", "two"):
        models.add_table(registry, key, seconds=5.0, route_id="r")
    set_active(registry, store)
    scores = {key: figures(registry, key, mae_s, n=9, route_id="r") for key, mae_s in (("one", 50.0), ("two", 60.0))}
    evaluation(registry, {"old": figures(registry, "old", 100.0, n=9), **scores})
    assert promote(registry, "one", store).evidence.against == "old"
    promote(registry, "old", store, PromotionConfig(force_reason="x"))
    refused(registry, "two", store, "against 50 of one")


def test_the_newest_evaluation_counts(registry, store):
    set_active(registry, store)
    evaluation(registry, {"old": 100.0, "new": 50.0}, name="20260101_000000_d")
    evaluation(registry, {"old": 100.0, "new": 99.0}, name="20260102_000000_d")
    evaluation(registry, {"other": 1.0}, name="20260103_000000_d")
    refused(registry, "new", store, "20260102_000000_d")


def reasons(registry, store):
    return {
        "it does not hold new": {"old": 100.0},
        "it does not hold old": {"new": 50.0},
        "another model of the name new": {"old": 100.0, "new": figures(registry, "new", 1, manifest_sha256="0" * 64)},
        "another model of the name old": {"old": figures(registry, "old", 9, manifest_sha256="0" * 64), "new": 1.0},
        "new is not eligible there: it saw the days": {
            "old": 100.0,
            "new": figures(registry, "new", 1, eligible=False, reason="it saw the days"),
        },
        r"same samples \(new: 507, old: 500\)": {"old": 100.0, "new": figures(registry, "new", 1, n=507)},
        "no mae_seconds of both": {"old": 100.0, "new": figures(registry, "new", None)},
    }


@pytest.mark.parametrize("n", range(7))
def test_an_evaluation_that_does_not_count_says_why(registry, store, n):
    set_active(registry, store)
    match, scores = list(reasons(registry, store).items())[n]
    evaluation(registry, scores)
    error = refused(registry, "new", store, match)
    assert "20260101_000000_d.json" in error.message
    assert "etacore evaluate d --model-key new --active old" in error.hint


def test_no_evaluation_at_all(registry, store):
    set_active(registry, store)
    refused(registry, "new", store, "no evaluation compares new with the active model old: .*evaluations holds none")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "created_at": "2026-01-01", "metric": "x"}']
)
def test_a_damaged_evaluation_is_passed_over_and_named(registry, store, text):
    set_active(registry, store)
    evaluation(registry, {"old": 100.0, "new": 50.0})
    (registry.path / "evaluations" / "20270101_000000_d.json").write_text(text)
    promote(registry, "new", store)
    refused(registry, "other", store, "20270101_000000_d.json: ")


def test_the_first_model_has_to_beat_the_baseline(registry, store):
    evaluation(registry, {"new": 150.0}, baseline_s=140.0)
    refused(registry, "new", store, f"does not beat the baseline: mae_seconds 150 against 140 of {BASELINE}")
    evaluation(registry, {"new": 139.0}, baseline_s=140.0)
    done = promote(registry, "new", store)
    assert (done.record.previous, done.evidence.against) == (None, BASELINE)


def test_the_first_model_that_is_as_good_as_the_baseline_does_not_beat_it(registry, store):
    evaluation(registry, {"new": 140.0}, baseline_s=140.0)
    refused(
        registry, "new", store, f"does not beat the baseline: mae_seconds 140 against 140 of {BASELINE} \\(\\+0.0%\\)"
    )
    refused(registry, "new", store, "does not beat the baseline", improvement_threshold=0.0)
    versus = {"reference": BASELINE, "value": 140.0, "reference_value": 140.0, "low_s": 0.0, "high_s": 0.0}
    evaluation(registry, {"new": figures(registry, "new", 100.0, vs_baseline=versus)}, baseline_s=140.0)
    refused(registry, "new", store, "does not beat the baseline: mae_seconds 140 against 140")
    evaluation(registry, {"new": 139.999}, baseline_s=140.0)
    promote(registry, "new", store)  # against the baseline any improvement is enough


@pytest.mark.parametrize(
    ("metric", "old", "new", "passes"),
    [
        ("mae_seconds", 0.0, 0.0, False),  # a share of nothing
        ("mae_seconds", 0.0, 1.0, False),
        ("r2", 0.0, 0.0, False),
        ("r2", 0.0, -0.1, False),
        ("r2", 0.0, 0.1, True),
        ("within_60s", 0.5, 0.5, False),
        ("bias_seconds", 10.0, -10.0, False),  # as far off on the other side
        ("bias_seconds", -10.0, 9.0, True),
    ],
)
def test_equal_is_not_better_whatever_the_metric(registry, store, metric, old, new, passes):
    set_active(registry, store)
    higher = metric in ("r2", "within_60s")
    scores = {key: figures(registry, key, 1.0, metrics={metric: v}) for key, v in (("old", old), ("new", new))}
    evaluation(registry, scores, metric=metric, minimize=not higher)
    if passes:
        promote(registry, "new", store, PromotionConfig(improvement_threshold=0.0))
    else:
        refused(registry, "new", store, "does not beat the active model", improvement_threshold=0.0)


def test_the_first_model_needs_an_evaluation_and_the_baseline(registry, store):
    refused(registry, "new", store, "no evaluation compares new with the baselines")
    evaluation(registry, {"new": 1.0}, baselines={"schedule": {}})
    refused(registry, "new", store, f"no baseline {BASELINE}, but schedule")


def test_force_passes_the_comparison_only(registry, store):
    set_active(registry, store)
    done = promote(registry, "new", store, PromotionConfig(force_reason="a hotfix"))
    assert (done.record.forced_reason, done.evidence, store.key) == ("a hotfix", None, "new")
    assert read_history(registry)[-1].forced_reason == "a hotfix"
    (registry.path / "other" / "model.json").write_bytes(b"{}")
    refused(registry, "other", store, r"other cannot be promoted: .*model\.json has SHA-256", force_reason="still")


def test_settings_that_make_no_sense():
    for config in (
        {"force_reason": "  "},
        {"improvement_threshold": -0.1},
        {"improvement_threshold": float("nan")},
        {"source": "rollback"},
    ):
        with pytest.raises(PromotionError):
            PromotionConfig(**config)


def test_what_may_not_be_served_is_refused(registry, store):
    force = {"force_reason": "because"}
    registry.add(Bundle(*models.bundle("forest")))
    refused(registry, "forest", store, "forest cannot be promoted: .*the system refuses the library", **force)
    models.add_table(registry, "weather", features=("hour", "temperature_c"))
    refused(registry, "weather", store, "needs temperature_c, and serving has no weather source", **force)
    library = models.compiled(models.save()).library
    registry.add(Bundle(*models.bundle("no-parity", library=library)))
    refused(registry, "no-parity", store, "no record that it was held against", **force)
    registry.archive(["other"])
    assert "restore" in refused(registry, "other", store, "is archived", **force).hint
    refused(registry, "absent", store, "there is no model absent", **force)
    (registry.path / "pickled.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    refused(registry, "pickled", store, "never opened", **force)
    (registry.path / "new" / "manifest.json").unlink()
    refused(registry, "new", store, r"manifest\.json is missing", **force)


def test_a_model_that_predicts_no_number_is_refused(registry, store):
    term = {"feature": 0, "power": 1, "mean": 1e38, "scale": 1e-300, "coefficient": 1.0}
    content = json.dumps({"kind": "polynomial", "intercept": 0, "terms": [term]}).encode()
    source = models.SourceFile("model.json", models.sha256_hex(content))
    manifest, _ = models.bundle("wild", source=source, libraries=(), predictor="polynomial")
    registry.add(Bundle(manifest, {"model.json": content}))
    refused(registry, "wild", store, "wild predicts no finite number", force_reason="because")


def test_the_active_model_is_gone(registry):
    store = Store(json.dumps({"model_key": "vanished"}).encode())
    evaluation(registry, {"new": 1.0})
    refused(registry, "new", store, "the active model vanished is not in")
    promote(registry, "new", store, PromotionConfig(force_reason="vanished"))
    assert read_history(registry)[-1].previous == "vanished"


def test_without_a_registry_nothing_is_made(tmp_path, store):
    registry = Registry(tmp_path / "misspelt")
    for call in (lambda: promote(registry, "a", store), lambda: rollback(registry, store)):
        with pytest.raises(PromotionError, match="no registry at"):
            call()
    assert not registry.path.exists()


def test_what_is_active(registry, store):
    assert active_model(registry, store) is None
    set_active(registry, store, "old")
    assert active_model(registry, store) == active_model(registry, None) == "old"
    assert active_model(registry, Store(b"garbage")) == "old"
    assert active_model(registry, Store(b'{"model_key": "new"}')) == "new"


def test_promoting_the_active_model_again_announces_it_again(registry, store):
    set_active(registry, store)
    announcement, before = store.announcement, tree(registry.path)
    store.announcement = None
    done = promote(registry, "old", store)
    assert (done.was_active, store.announcement, tree(registry.path)) == (True, announcement, before)


# -- the switch ------------------------------------------------------------


def test_the_block_comes_first_and_the_history_last(registry, store, monkeypatch):
    set_active(registry, store)
    steps = []
    monkeypatch.setattr(module, "append_record", lambda registry, record: steps.append(("history", store.key)))
    config = PromotionConfig(force_reason="because")
    promote(registry, "new", store, config, update_block=lambda key: steps.append(("block", key, store.key)))
    assert steps == [("block", "new", "old"), ("history", "new")]


@pytest.mark.parametrize("step", ["get", "set", "block", "sync_file", "replace", "sync_folder", "interrupt"])
@pytest.mark.parametrize("block", ["old", "a key of its own", None])
def test_a_failure_at_any_step_takes_everything_back(registry, store, monkeypatch, step, block):
    set_active(registry, store)
    before, announcement, blocks = tree(registry.path), store.announcement, [block]

    def update_block(key):
        if step == "block":
            raise ConnectionError("no Prefect here")
        blocks.append(key)
        return blocks[-2]

    def fail(*_, **__):
        if step == "interrupt":
            raise KeyboardInterrupt
        raise OSError(28, "No space left on device")

    error = {"get": RedisUnavailableError, "set": RedisUnavailableError, "block": PromotionError}.get(
        step, RegistryError
    )
    with monkeypatch.context() as patch:
        if step in ("get", "set"):
            store.failing = step
        elif step == "replace":
            patch.setattr(files.os, "replace", fail)
        elif step == "interrupt":
            patch.setattr(module, "append_record", fail)
            error = KeyboardInterrupt
        elif step != "block":
            patch.setattr(files, step, fail)
        with pytest.raises(error):
            promote(registry, "new", store, PromotionConfig(force_reason="x"), update_block=update_block)
    assert (store.announcement, blocks[-1]) == (announcement, block)
    after = tree(registry.path)
    if step == "sync_folder":  # it is written, and only not known to be on disk
        after[HISTORY_FILE] = before[HISTORY_FILE]
    assert after == before
    promote(
        registry,
        "new",
        store,
        PromotionConfig(force_reason="x"),
        update_block=update_block if step != "block" else None,
    )
    assert (store.key, read_history(registry)[-1].model_key) == ("new", "new")


def test_nothing_announced_before_is_nothing_announced_after_a_failure(registry, store):
    store.failing = "set"
    with pytest.raises(RedisUnavailableError):
        promote(registry, "new", store, PromotionConfig(force_reason="x"))
    assert store.announcement is None
    assert read_history(registry) == []


def test_a_process_that_died_between_redis_and_the_history(registry, store):
    set_active(registry, store)
    store.announcement = b'{"model_key": "new", "promoted_at": "x", "source": "killed"}'
    assert active_model(registry, store) == "new"
    assert rollback(registry, store).record.model_key == "old"
    store.announcement = b'{"model_key": "new", "promoted_at": "x", "source": "killed"}'
    done = promote(registry, "new", store)
    assert (done.was_active, done.record.previous) == (True, "old")
    assert read_history(registry)[-1].model_key == "new"


@pytest.mark.parametrize(
    ("text", "named"),
    [("{", "is not JSON"), ("{}", "not a JSON list"), ("[1]", "record 0"), ('[{"model_key": 3}]', "model_key is 3")],
)
def test_a_damaged_history_is_named_and_nothing_is_promoted(registry, store, text, named):
    (registry.path / HISTORY_FILE).write_text(text)
    with pytest.raises(RegistryError, match=rf"promotions\.json.*{named}"):
        promote(registry, "new", store, PromotionConfig(force_reason="x"))
    assert store.announcement is None
    assert (registry.path / HISTORY_FILE).read_text() == text


# -- the way back ------------------------------------------------------------


def test_rollback_goes_back_step_by_step_and_is_recorded(registry, store):
    for key in ("old", "new", "other"):
        promote(registry, key, store, PromotionConfig(force_reason="x"))
    blocks = []
    assert rollback(registry, store, update_block=blocks.append).record.previous == "other"
    assert (store.key, blocks) == ("new", ["new"])
    assert rollback(registry, store).record.model_key == "old"
    with pytest.raises(PromotionError, match="no earlier model"):
        rollback(registry, store)
    assert store.key == "old"
    history = [(record.model_key, record.source) for record in read_history(registry)]
    assert history == [("old", "cli"), ("new", "cli"), ("other", "cli"), ("new", "rollback"), ("old", "rollback")]


def test_rollback_passes_over_what_no_longer_loads(registry, store):
    for key in ("old", "new", "other"):
        promote(registry, key, store, PromotionConfig(force_reason="x"))
    (registry.path / "new" / "model.json").unlink()
    done = rollback(registry, store)
    assert (done.record.model_key, list(done.skipped)) == ("old", ["new"])
    registry.archive(["other"])
    (registry.path / "old" / "model.json").unlink()
    with pytest.raises(PromotionError, match=r"no earlier model"):
        rollback(registry, store)


def test_rollback_to_what_an_older_system_announced(registry):
    store = Store(b'{"model_key": "old"}')
    promote(registry, "new", store, PromotionConfig(force_reason="x"))
    rollback(registry, store)
    assert store.key == "old"


def test_nothing_to_go_back_to(registry, store):
    with pytest.raises(PromotionError, match="no earlier model"):
        rollback(registry, store)
    assert not (registry.path / HISTORY_FILE).exists()
