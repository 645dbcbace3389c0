"""Recorded calls of estimate_stop_times, document for document: those of the old system, and our own."""

import os
from datetime import datetime
from pathlib import Path

import orjson
import pytest

from etacore.estimator import ShapePolyline, estimate_stop_times
from etacore.models.registry import Registry
from tests.golden import record

HERE = Path(__file__).parent
OLD = Path(os.environ.get("ETACORE_GOLDEN", HERE.parent.parent.parent / "shared" / "golden"))


def calls_of(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def registry_with(folder, source, meta):
    pytest.importorskip("treelite", reason="compiling a model needs the extra `train`")
    from etacore.mlops.bundling.compile import compile_to_registry

    compile_to_registry(
        source,
        Registry(folder),
        features=meta["features"],
        time_zone=meta["time_zone"],
        holiday_region=meta.get("holiday_region"),
        dataset=meta["dataset"],
        metrics=meta["metrics"],
        model_key=meta["model_key"],
        nan_at_serving=0.0,
    )
    return folder


def answer(call):
    options = dict(call["kwargs"])
    if options.get("shape"):
        options["shape"] = ShapePolyline(options["shape"])
    document = estimate_stop_times(call["vehicle_position"], call["upcoming_stops"], **options)
    names = list(document)
    assert names.index("computed_at") == 3
    datetime.fromisoformat(document.pop("computed_at"))
    orjson.dumps(document)
    return document


def compare(found, expected):
    """Assert that two documents agree; returns how many ETAs lie one unit in the last place apart."""
    assert list(found) == list(expected)
    assert {k: v for k, v in found.items() if k != "predictions"} == {
        k: v for k, v in expected.items() if k != "predictions"
    }
    assert len(found["predictions"]) == len(expected["predictions"])
    moved = 0
    for ours, theirs in zip(found["predictions"], expected["predictions"], strict=True):
        assert list(ours) == list(theirs)
        if ours == theirs:
            continue
        for name in ("stop_id", "stop_sequence", "distance_to_stop_m"):
            assert ours[name] == theirs[name]
        apart = datetime.fromisoformat(ours["eta_timestamp"]) - datetime.fromisoformat(theirs["eta_timestamp"])
        assert abs(apart.total_seconds()) <= 0.001
        assert ours["eta_seconds"] == pytest.approx(theirs["eta_seconds"], abs=0.1001)
        assert ours["eta_minutes"] == pytest.approx(theirs["eta_minutes"], abs=0.01001)
        same = all(ours[name] == theirs[name] for name in ("eta_seconds", "eta_minutes", "eta_formatted"))
        moved += not same
    return moved


@pytest.fixture(scope="module")
def old_registry(tmp_path_factory):
    if not OLD.is_dir():
        pytest.skip(f"the calls recorded from the old system are not at {OLD}; ETACORE_GOLDEN names their folder")
    meta = orjson.loads((OLD / "model_meta.json").read_bytes())
    return registry_with(tmp_path_factory.mktemp("old"), OLD / "model.json", meta)


@pytest.fixture(scope="module")
def own_registry(tmp_path_factory):
    meta = {
        "features": record.FEATURES,
        "time_zone": record.TIME_ZONE,
        "dataset": "tiny",
        "metrics": {},
        "model_key": record.MODEL_KEY,
    }
    return registry_with(tmp_path_factory.mktemp("own"), HERE / "tiny_model.json", meta)


def test_calls_of_the_old_estimator(old_registry, monkeypatch):
    monkeypatch.setenv("MODEL_REGISTRY_DIR", str(old_registry))
    calls = calls_of(OLD / "estimate_stop_times.jsonl")
    assert len(calls) == 405
    moved = sum(compare(answer(call), call["expected"]) for call in calls)
    # XGBoost adds 200 float32 leaves in one order, a compiled forest in another: an ETA next to a rounding edge may
    # fall on its other side. 872 ETAs, 0.1 s and 0.01 min apart, float32 noise of some 1e-5 s: a handful at most.
    assert moved <= 4


@pytest.mark.parametrize("number", range(len(record.calls())))
def test_own_calls(own_registry, monkeypatch, number):
    monkeypatch.setenv("MODEL_REGISTRY_DIR", str(own_registry))
    call = calls_of(HERE / "own_calls.jsonl")[number]
    assert compare(answer(call), call["expected"]) == 0


def test_own_calls_are_all_recorded():
    assert len(calls_of(HERE / "own_calls.jsonl")) == len(record.calls())
