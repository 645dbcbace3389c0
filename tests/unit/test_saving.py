"""Models that are no forests, on their way into a registry."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import orjson
import pytest

from etacore.errors import CompileError, RegistryError, SchemaError, TrainingError
from etacore.estimator import estimate_stop_times
from etacore.models.registry import Registry
from etacore.models.travel_times import TypicalTimes
from tests import models

TABLE = orjson.dumps({"kind": "mean_table", "keys": [[1, 7], [1, 8]], "values": [100, 110.5], "default": 300})
LINE = orjson.dumps(
    {
        "kind": "polynomial",
        "intercept": 10,
        "terms": [{"feature": 0, "power": 1, "mean": 0, "scale": 1, "coefficient": 0.5}],
    }
)
AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry")


def test_a_table_with_everything(registry):
    typical = TypicalTimes({"7": {"s2": (400.0, [50.0] * 24)}}).to_json()
    key = models.add_predictor(
        registry,
        model_type="historical_mean",
        content=TABLE,
        features=("stops_ahead", "hour"),
        time_zone="America/Costa_Rica",
        holiday_region="CR",
        dataset="d",
        route_id="7",
        metrics={"test_mae_seconds": 61, "test_r2": float("nan")},
        hyperparameters={"alpha": 0.3},
        provenance={"seed": 42},
        n_samples=10,
        n_trips=2,
        train_samples=8,
        test_samples=2,
        distance="along_route",
        routes=("7", "9"),
        typical=typical,
        saved_at=AT,
    )
    assert key == "historical_mean_d_route-temporal_route_7_20260304_050607_alpha=0.3"
    assert sorted(path.name for path in (registry.path / key).iterdir()) == [
        "manifest.json",
        "model.json",
        "typical.json",
    ]
    assert (registry.path / key / "model.json").read_bytes() == TABLE
    assert (registry.path / key / "typical.json").read_bytes() == typical
    model = Registry(registry.path).load(key)
    assert (model.model_type, model.route_id, model.routes) == ("historical_mean", "7", ("7", "9"))
    assert model.typical.leg_m("7", "s2") == 400.0
    assert (model.manifest.predictor, model.manifest.libraries, model.manifest.parity) == ("mean_table", (), None)
    assert model.manifest.metrics == {"test_mae_seconds": 61.0, "test_r2": None}
    assert model.manifest.provenance["seed"] == 42
    assert set(model.manifest.provenance["versions"]) == {"etacore", "numpy", "python"}
    assert date(2026, 9, 15) in model.holidays
    assert model.manifest.train_samples == 8
    out = np.empty(3, np.float32)
    model.predict(np.array([[1, 8], [1, 9], [np.nan, 7]], np.float32), out)
    assert out.tolist() == [110.5, 300, 300]


def test_a_polynomial(registry):
    key = models.add_predictor(
        registry,
        model_type="polyreg_distance",
        content=LINE,
        features=["distance_to_stop"],
        nan_at_serving=0.0,
        model_key="mine",
        clip_seconds=(0.0, 600.0),
    )
    assert key == "mine"
    model = registry.load(key)
    assert (model.nan_fill, model.scope, model.typical, model.routes) == (0.0, "global", None, ())
    out = np.empty(3, np.float32)
    model.predict(np.array([[100], [1e6], [-1e6]], np.float32), out)
    assert out.tolist() == [60, 600, 0]


def test_the_same_model_gives_the_same_bundle(tmp_path):
    folders = []
    for name in "ab":
        registry = Registry(tmp_path / name)
        key = models.add_predictor(registry, model_type="p", content=LINE, features=["distance_to_stop"], saved_at=AT)
        folders.append({path.name: path.read_bytes() for path in (registry.path / key).iterdir()})
    assert folders[0] == folders[1]


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"content": b"{"}, TrainingError, "model t is not JSON"),
        ({"content": LINE.replace(b'"scale":1', b'"scale":0')}, TrainingError, "scale"),
        ({"content": TABLE}, TrainingError, r"keys\[0\]"),
        ({"typical": b"{}"}, TrainingError, "typical times: field routes"),
        ({"n_rows": 3}, TypeError, "n_rows"),
        ({"features": ["speed_of_light"]}, SchemaError, "speed_of_light"),
        ({"routes": ["1", "1"]}, RegistryError, "routes"),
        ({"time_zone": "Mars/Olympus"}, RegistryError, "time_zone"),
        ({"holiday_region": "ZZ"}, CompileError, "ZZ"),
        ({"model_key": "../x"}, RegistryError, "file name"),
    ],
)
def test_what_serving_would_not_read_is_not_saved(registry, changes, error, named):
    with pytest.raises(error, match=named):
        models.add_predictor(
            registry, **{"model_type": "t", "content": LINE, "features": ["distance_to_stop"], **changes}
        )
    assert registry.keys() == []
    assert not [path for path in registry.path.glob("*") if path.is_dir()]


def test_a_stop_without_a_prediction_is_shown_with_an_error(tmp_path, monkeypatch):
    """What overflows is no prediction: the document keeps the stop and says so."""
    registry = Registry(tmp_path / "registry")
    term = {"feature": 0, "power": 1, "mean": 1000.0, "scale": 1e-300, "coefficient": 1e38}
    wild = orjson.dumps({"kind": "polynomial", "intercept": 10, "terms": [term]})
    models.add_predictor(registry, model_type="xgboost", content=wild, features=["along_route_distance_m"])
    monkeypatch.setenv("MODEL_REGISTRY_DIR", str(registry.path))
    stops = [{"stop_id": f"S{i}", "lat": 9.94 + i / 100, "lon": -84.08, "stop_sequence": i} for i in (1, 2)]
    stops[1]["shape_distance_to_stop"] = 1000.0
    vehicle = {"vehicle_id": "B", "lat": 9.93, "lon": -84.08, "timestamp": "2026-01-20T12:00:00Z", "route": "7"}
    first, second = estimate_stop_times(vehicle, stops)["predictions"]
    assert (first["eta_seconds"], first["eta_timestamp"]) == (None, None)
    assert first["error"]
    assert second["eta_seconds"] == 10.0
