"""What may become a bundle, what is refused by name, and what the bundle then says."""

from __future__ import annotations

import json
import pickle
import re
from datetime import date

import numpy as np
import pytest
import xgboost

from etacore import extras
from etacore.errors import CompileError, SchemaError, TrainingError
from etacore.mlops.bundling import bitmask, parity
from etacore.mlops.bundling import compile as compiling
from etacore.mlops.bundling.compile import compile_model, compile_to_registry, holiday_dates
from etacore.mlops.bundling.source_model import SourceModel
from etacore.models.registry import Registry
from etacore.models.travel_times import TypicalTimes
from etacore.schema import BASE_FEATURES
from tests import models


def refused(path, message, **options):
    with pytest.raises(CompileError, match=message) as caught:
        compile_model(path, **options)
    return caught.value


def predictions_of(built, X, tmp_path):
    path = tmp_path / built.library_file.file
    path.write_bytes(built.library)
    out = np.empty(len(X), np.float32)
    compiling.Forest.load(path, built.library_file.sha256, X.shape[1]).predict(X, out)
    return out


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("binary", {"objective": "binary:logistic"}, "binary:logistic: a classifier"),
        ("multi", {"objective": "multi:softprob", "num_class": 3}, "multi:softprob: a classifier"),
        ("rank", {"objective": "rank:pairwise"}, "rank:pairwise: a ranker"),
        ("cox", {"objective": "survival:cox"}, "survival:cox: a survival model"),
        ("targets", {"targets": 2}, "multi-target"),
        ("quantiles", {"objective": "reg:quantileerror", "quantile_alpha": (0.2, 0.8)}, "multi-target"),
        ("linear", {"booster": "gblinear", "max_depth": None}, "booster gblinear: not trees"),
    ],
)
def test_refused_by_name(name, params, message):
    params = {k: v for k, v in params.items() if v is not None}
    refused(models.save(name, rounds=2, **params), message)


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert "never opened" in refused(path, "neither XGBoost JSON nor UBJ").hint
    path.write_bytes(b'{"learner": {}}')
    refused(path, "XGBoost cannot read")
    path.write_bytes(models.save().read_bytes()[:-200])
    refused(path, "XGBoost cannot read")
    refused(tmp_path / "absent.json", "cannot be read")


def test_feature_names():
    nameless = models.save("nameless", rounds=2, names=None)
    assert "--features" in refused(nameless, "does not name its 7 features").hint
    refused(nameless, "7 features .* 2 are named", features=["hour", "is_holiday"])
    refused(models.save(), "names its features", features=BASE_FEATURES[::-1])
    with pytest.raises(SchemaError, match="speed_of_light"):
        compile_model(nameless, features=[*BASE_FEATURES[:6], "speed_of_light"])


def test_tools_that_are_absent(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CC", raising=False)
    assert "apt-get install gcc" in refused(models.save(), "no C compiler found").hint
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "treelite" else object())
    assert "etacore[train]" in refused(models.save(), "^treelite not installed").hint


def test_a_compiler_that_fails():
    refused(models.save(), "false failed", compiler=["false"])
    refused(models.save(), "cannot be started", compiler=["/nonexistent/cc"])


@pytest.mark.parametrize("spelling", ["5E-1", "[5E-1]", "1.2345E2", "[1.2345E2]"])
def test_both_spellings_of_the_base_score(tmp_path, spelling):
    document = json.loads(models.save().read_bytes())
    document["learner"]["learner_model_param"]["base_score"] = spelling
    if not spelling.startswith("["):
        document["version"] = [2, 1, 4]
        del document["learner"]["gradient_booster"]["model"]["cats"]
    path = tmp_path / "model.json"
    path.write_text(json.dumps(document))
    built = compile_model(path)
    X, _ = models.data(50)
    booster = xgboost.Booster(model_file=path)
    np.testing.assert_array_equal(
        predictions_of(built, X, tmp_path), booster.inplace_predict(X, validate_features=False)
    )
    original = xgboost.Booster(model_file=models.save()).inplace_predict(X, validate_features=False)
    assert np.abs(predictions_of(built, X, tmp_path) - original).max() > 1.0
    assert built.versions["source_xgboost"] == ".".join(map(str, document["version"]))


def test_categorical_splits_on_numeric_codes_are_supported(tmp_path):
    X, y = models.data(600, 3)
    X[:, 2] = np.random.default_rng(1).integers(0, 12, 600)
    y += np.array([50, 1, 70, 2, 90, 3, 80, 0, 4, 60, 11, 10])[X[:, 2].astype(int)]
    features = ["distance_to_stop", "progress_ratio", "hour"]
    matrix = xgboost.DMatrix(X, y, feature_names=features, feature_types=["q", "q", "c"], enable_categorical=True)
    booster = xgboost.train({"max_depth": 4, "max_cat_to_onehot": 1, "tree_method": "hist"}, matrix, 5)
    path = tmp_path / "model.json"
    booster.save_model(path)
    trees = json.loads(path.read_bytes())["learner"]["gradient_booster"]["model"]["trees"]
    assert any(tree["categories_nodes"] for tree in trees)
    built = compile_model(path)
    assert built.parity.max_abs_error == 0.0
    assert (built.library_file.backend, built.backend_reason) == ("tl2cgen", "a split is categorical")
    np.testing.assert_array_equal(
        predictions_of(built, X, tmp_path), booster.inplace_predict(X, validate_features=False)
    )


def test_the_same_sources_give_the_same_library():
    """From another folder and with other names: nothing of either gets in."""
    first, second = models.compiled(models.save()), compile_model(models.save())
    assert first.library == second.library
    assert b"/tmp" not in first.library
    assert b"etacore" not in first.library


def test_a_forest_that_fits_becomes_tables():
    built = models.compiled(models.save())
    assert (built.library_file.backend, built.backend_reason) == ("bitmask", "the forest fits")
    assert "tl2cgen" not in built.versions


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"MAX_LEAVES": 15}, "a tree has 16 leaves, at most 15 fit"),
        ({"MAX_CUTS": 3}, "a feature has .* thresholds, at most 3 fit"),
        ({"MAX_MASK_BYTES": 1 << 10}, "its masks would take .* MiB"),
    ],
)
def test_a_forest_that_does_not_fit_becomes_branches_and_says_why(monkeypatch, tmp_path, limit, reason):
    for name, value in limit.items():
        monkeypatch.setattr(bitmask, name, value)
    lines = []
    built = compile_model(models.save(), progress=lines.append)
    assert built.library_file.backend == "tl2cgen"
    assert re.match(reason, built.backend_reason)
    assert any(built.backend_reason in line for line in lines)
    assert built.parity.max_abs_error == 0.0
    assert "tl2cgen" in built.versions
    X, _ = models.data(100)
    want = xgboost.Booster(model_file=models.save()).inplace_predict(X, validate_features=False)
    np.testing.assert_array_equal(predictions_of(built, X, tmp_path), want)
    refused(models.save(), f"does not fit the backend bitmask: {reason}", backend="bitmask")


def test_trees_of_too_many_leaves_become_branches():
    built = compile_model(models.save("wide", rounds=3, grow_policy="lossguide", max_leaves=70, max_depth=0))
    assert built.library_file.backend == "tl2cgen"
    assert re.match("a tree has .* leaves, at most 64 fit", built.backend_reason)


def stopped_early(tmp_path, *, scikit_learn, booster="gbtree", parallel=1, suffix="json"):
    """A model of 12 rounds whose file says that round 4 (the first is 0) was the best; and what XGBoost reads of it."""
    more = {"booster": booster, "rate_drop": 0.3} if booster == "dart" else {}
    model = xgboost.Booster(model_file=models.save(f"early-{booster}-{parallel}", num_parallel_tree=parallel, **more))
    model.set_attr(best_iteration="4", best_score="1.5")
    if scikit_learn:
        model.set_attr(scikit_learn=json.dumps({"_estimator_type": "regressor"}))
    path = tmp_path / f"early.{suffix}"
    model.save_model(path)
    return path, xgboost.Booster(model_file=path)


@pytest.mark.parametrize("booster", ["gbtree", "dart"])
@pytest.mark.parametrize(
    ("scikit_learn", "rounds", "n", "note"),
    [
        (True, None, 5, "compiling 5 of 12 rounds: early stopping found it best there, and XGBRegressor predicts so"),
        (False, None, 12, "compiling 12 rounds: early stopping found it best after 5, but a plain Booster predicts"),
        (True, "all", 12, None),
        (False, "best", 5, "compiling 5 of 12 rounds"),
        (True, 7, 7, "compiling 7 of 12 rounds: as asked for"),
        (True, 12, 12, None),
    ],
)
def test_the_rounds_that_predict_are_those_of_where_the_model_comes_from(
    tmp_path, booster, scikit_learn, rounds, n, note
):
    path, source = stopped_early(tmp_path, scikit_learn=scikit_learn, booster=booster)
    lines = []
    built = compile_model(path, rounds=rounds, progress=lines.append)
    X, _ = models.data(100)
    want = source.inplace_predict(X, iteration_range=(0, n), validate_features=False)
    # Leaves of dart have weights, and a weighted sum rounds otherwise.
    np.testing.assert_allclose(predictions_of(built, X, tmp_path), want, rtol=1e-6 if booster == "dart" else 0.0)
    other = source.inplace_predict(X, iteration_range=(0, 17 - n if n in (5, 12) else 5), validate_features=False)
    assert np.abs(want - other).max() > 1.0
    assert (built.n_rounds, built.n_trees, built.source) == (n, n, path.read_bytes())
    notes = [line for line in lines if line.startswith("note")]
    assert len(notes) == (note is not None)
    assert all(line.startswith(f"note: {note}") for line in notes)


def test_a_round_of_several_trees_is_one_round(tmp_path):
    path, _ = stopped_early(tmp_path, scikit_learn=True, parallel=3, suffix="ubj")
    built = compile_model(path)
    assert (built.n_rounds, built.n_trees) == (5, 15)


def test_rounds_that_are_not_there(tmp_path):
    path, _ = stopped_early(tmp_path, scikit_learn=False)
    refused(path, "has 12 rounds, asked for were 13", rounds=13)
    refused(path, "has 12 rounds, asked for were 0", rounds=0)
    refused(path, "rounds is 'most'", rounds="most")
    refused(models.save(), "does not say at which of its 12 rounds it was best", rounds="best")


def test_a_backend_can_be_asked_for():
    built = compile_model(models.save(), backend="tl2cgen")
    assert (built.library_file.backend, built.backend_reason) == ("tl2cgen", "as asked for")
    assert built.library != models.compiled(models.save()).library
    refused(models.save(), "unknown backend 'lleaves'", backend="lleaves")


def test_parity_is_recorded():
    parity = models.compiled(models.save()).parity
    assert parity.rows >= 10_000
    assert parity.max_abs_error == 0.0
    assert 0.0 < parity.bound < 0.1


def test_a_disagreement_shows_the_worst_row(monkeypatch):
    real = SourceModel.predict

    def wrong(self, rows):
        result = real(self, rows)
        result[3] += 1.0
        result[7] += 50.0
        wrong.row, wrong.value = rows[7], result[7]
        return result

    monkeypatch.setattr(SourceModel, "predict", wrong)
    error = refused(models.save(), "disagrees with XGBoost on 2 of")
    assert f"XGBoost {wrong.value:.9g}" in error.message
    assert f"distance_to_stop={float(wrong.row[0])!r}" in error.message
    assert f"is_peak_hour={float(wrong.row[6])!r}" in error.message


def test_nothing_is_written_to_standard_error(capfd):
    lines = []
    compile_model(models.save(), progress=lines.append)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert any("rows agree" in line for line in lines)


def test_into_the_registry(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "compile_model", lambda source, **_: models.compiled(source))
    registry = Registry(tmp_path / "registry")
    key = compile_to_registry(
        models.save(),
        registry,
        time_zone="America/Costa_Rica",
        holiday_region="CR",
        dataset="various_dataset_5",
        route_id="171",
        metrics={"test_mae_seconds": 12.5, "test_r2": float("nan")},
        nan_at_serving=0.0,
        distance="along_route",
        hyperparameters={"max_depth": 4, "n_estimators": 12},
        provenance={"seed": 42},
        n_samples=600,
        n_trips=3,
        routes=("171", "172"),
        typical=TypicalTimes({"171": {"s2": (400.0, [50.0] * 24)}}).to_json(),
    )
    assert key.startswith("xgboost_various_dataset_5_spatial-temporal_route_171_")
    assert key.endswith("_max_depth=4_n_estimators=12")
    model = Registry(tmp_path / "registry").load(key)
    assert (model.scope, model.route_id, model.nan_fill, model.clip_s) == ("route", "171", 0.0, (0.0, 7200.0))
    assert model.along_route_distance
    assert model.routes == ("171", "172")
    assert model.typical.leg_m("171", "s2") == 400.0
    assert model.feature_codes.tolist() == list(range(7))
    assert date(2026, 9, 15) in model.holidays
    assert model.manifest.metrics == {"test_mae_seconds": 12.5, "test_r2": None}
    assert model.manifest.provenance["seed"] == 42
    assert model.manifest.provenance["n_trees"] == 12
    assert model.manifest.provenance["backend"] == "bitmask"
    assert model.manifest.provenance["backend_reason"] == "the forest fits"
    assert (tmp_path / "registry" / key / "model.json").read_bytes() == models.save().read_bytes()
    X, _ = models.data(40)
    out = np.empty(40, np.float32)
    model.predict(X, out)
    want = xgboost.Booster(model_file=models.save()).inplace_predict(X, validate_features=False)
    np.testing.assert_array_equal(out, np.clip(want, 0, 7200))


def test_typical_times_that_serving_would_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "compile_model", lambda source, **_: models.compiled(source))
    registry = Registry(tmp_path / "registry")
    with pytest.raises(TrainingError, match="field routes"):
        compile_to_registry(models.save(), registry, typical=b"{}")
    assert registry.keys() == []


def test_holiday_dates():
    days = holiday_dates("CR", 2026, (0, 1))
    assert date(2026, 12, 25) in days
    assert list(days) == sorted(days)
    assert {day.year for day in days} == {2026, 2027}
    assert holiday_dates("CA-ON", 2026) != holiday_dates("CA", 2026)
    assert (days[0], days[-1]) == (date(2026, 1, 1), date(2027, 12, 25))  # of the first year and of the last
    around = holiday_dates("CR", 2026)
    assert (around[0], around[-1]) == (date(2011, 1, 1), date(2036, 12, 25))
    for region in ("ZZ", "CA-ZZ", "__class__"):
        with pytest.raises(CompileError, match=region):
            holiday_dates(region, 2026)


def test_a_difference_that_is_no_number_is_a_disagreement():
    rows = np.zeros((3, 1), np.float32)
    one = np.ones(3, np.float32)
    got = np.array([1.0, np.inf, 1.0], np.float32)
    # An infinite difference against an infinite allowance: their quotient is NaN.
    with pytest.raises(CompileError, match="1 of 3 rows"):
        parity.check_parity(["x"], rows, got, one, np.array([1.0, np.inf, 1.0]), 1, "identity")


@pytest.mark.parametrize("fraction", [0.26, 0.5, 1 - 2**-53])
def test_numbers_between_thresholds_stay_between_them(fraction):
    class Drawn:
        def random(self):
            return fraction

        def exponential(self, scale):
            return scale * 1e-12 if fraction < 0.5 else scale * 1e3

    largest = float(np.finfo(np.float32).max)
    for low in (1.0, -1.0, 0.0, 2.0**100, -largest):
        for high in (float(np.nextafter(np.float32(low), np.float32(np.inf))), low + 1e10, np.inf):
            high = float(np.float32(high))
            if low < high:
                assert low <= np.float32(parity._between(low, high, Drawn())) < high
    for high in (1.0, 0.0, -largest, largest):
        assert np.float32(parity._between(-np.inf, high, Drawn())) < high
