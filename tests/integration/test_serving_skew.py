"""What was measured is what riders get: the engine and the drop-in call give the ETAs that evaluation gave the rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from importlib import import_module
from itertools import pairwise

import numpy as np
import orjson
import polars as pl
import pytest

from etacore.config import RuntimeConfig
from etacore.demo.city import build_city
from etacore.demo.feed import write_gtfs
from etacore.demo.reports import record
from etacore.estimator import estimate_stop_times
from etacore.mlops.dataset.build import build_dataset
from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.dataset.layout import Dataset, read_dataset
from etacore.mlops.replay.payloads import snapshot_json
from etacore.mlops.training import FAMILIES, TrainingConfig, train
from etacore.mlops.training.matrix import model_predictions
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.patterns import seed_pairs
from etacore.mlops.transit.positions import Positions, read_positions
from etacore.models.choice import Models
from etacore.models.model import Model
from etacore.models.registry import Registry
from etacore.pipeline.engine import Batch, Engine
from etacore.schema import BASE_FEATURES

FIRST_DAY = date(2026, 2, 5)
MAX_STOPS = 3
POLL_S = 4.0
FAST = {"n_estimators": 20, "learning_rate": 0.3}
ROUTE_NUMBERS = (*BASE_FEATURES, "route_code", "stop_sequence", "current_speed_kmh")


@dataclass(frozen=True)
class Town:
    positions: Positions
    feed: Feed
    dataset: Dataset
    registry: Registry
    models: dict[str, Model]


def one_forest(features: str | tuple[str, ...]) -> TrainingConfig:
    return TrainingConfig(model_types=("xgboost",), features=features, hyperparameters=FAST)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """An hour of four days of some buses of the simulated city, and a model of every kind."""
    folder = tmp_path_factory.mktemp("skew")
    city = build_city(7)
    columns = record(city, FIRST_DAY, 4).positions
    morning = columns["timestamp"] % 86_400 // 3_600 == 14
    some = np.flatnonzero(morning & np.isin(columns["vehicle_id"], np.unique(columns["vehicle_id"])[::3]))
    pl.DataFrame({name: column[some].tolist() for name, column in columns.items()}).write_parquet(folder / "p.parquet")
    write_gtfs(city, folder / "feed.zip", FIRST_DAY)
    positions, feed = read_positions(folder / "p.parquet"), read_feed(folder / "feed.zip")
    built = build_dataset(positions, feed, BuildConfig(name="town", max_stops_ahead=MAX_STOPS))
    dataset = read_dataset(built.write(folder))
    registry = Registry(folder / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("etacore.mlops.training.train"), "find_leaks", lambda *_, **__: ())
        reports = {
            "": train(dataset, registry, TrainingConfig(hyperparameters=FAST)),
            " best": train(dataset, registry, one_forest("best")),
            " routes": train(dataset, registry, one_forest(ROUTE_NUMBERS)),
        }
    assert [report.failures for report in reports.values()] == [(), (), ()]
    trained = {one.model_type + kind: one.key or "" for kind, report in reports.items() for one in report.models}
    models = {kind: registry.load(key) for kind, key in trained.items()}
    assert models.keys() == {*FAMILIES, "xgboost best", "xgboost routes"}
    return Town(positions, feed, dataset, registry, models)


def test_the_engine_predicts_what_evaluation_predicted(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model changes every few polls, as a promotion would change it; its answers are compared as they are."""
    monkeypatch.setattr("etacore.pipeline.engine.order_arrivals", lambda part: None)
    stored = {k.encode(): v for k, v in seed_pairs(town.feed.patterns, town.feed.trip_patterns(), town.feed.shapes)}
    now_us = 0
    engine = Engine(Models(None), RuntimeConfig(max_stops_per_vehicle=MAX_STOPS), lambda: now_us)
    batch = Batch(100)
    kinds = list(town.models)
    served: list[pl.DataFrame] = []
    for poll, (first, end) in enumerate(polls(town.positions)):
        kind = kinds[poll // 4 % len(kinds)]
        engine.models = Models(town.models[kind])
        rows = range(first, end)
        now_us = int(town.positions.time_us[end - 1]) + 500_000
        payloads = [snapshot_json(town.positions, row) for row in rows]
        keys = [b"vehicle:%d" % row for row in rows]
        engine.process(keys, payloads, lambda asked: [stored.get(key) for key in asked], batch)
        part = batch.parts[0]
        assert part.model is town.models[kind]
        row_of = np.repeat(np.arange(first, end), np.diff(part.row_offset))
        shown = [
            one["eta_seconds"]
            for i in np.flatnonzero(np.diff(part.row_offset)).tolist()
            for one in orjson.loads(part.documents[i])["predictions"]
        ]
        assert np.abs(np.array(shown) - part.eta_s).max(initial=0.0) <= 0.0501
        served.append(
            pl.DataFrame(
                {
                    "vehicle_id": pl.Series(town.positions.vehicle_id.values).gather(
                        town.positions.vehicle_id.codes[row_of]
                    ),
                    "vp_ts": pl.Series(town.positions.time_us[row_of]).cast(pl.Datetime("us", "UTC")),
                    "stop_ordinal": part.stop_ix.astype(np.int64) + 1,
                    "kind": pl.Series([kind] * len(row_of), dtype=pl.String),
                    "eta_s": part.eta_s.copy(),
                }
            )
        )
        engine.commit(batch)
    frame = town.dataset.frame.with_row_index("row")
    both = pl.concat(served).join(frame, on=["vehicle_id", "vp_ts", "stop_ordinal"], how="inner")
    assert len(both) > 0.95 * len(frame)
    for kind, model in town.models.items():
        mine = both.filter(pl.col("kind") == kind)
        assert len(mine) > 500
        expected = model_predictions(town.dataset, mine["row"].to_numpy().astype(np.int64), model)
        np.testing.assert_array_equal(mine["eta_s"].to_numpy(), expected, kind)
        assert np.unique(expected).size > 20


@pytest.mark.parametrize("family", FAMILIES)
def test_the_drop_in_call_predicts_what_evaluation_predicted(
    town: Town, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_DIR", str(town.registry.path))
    model = town.models[family]
    # To these families the sequence is the number on display; to the others the place in the pattern.
    number = "stop_sequence" if "stop_sequence" in model.features else "stop_ordinal"
    fix_number = pl.struct("vehicle_id", "vp_ts").rank("dense")
    frame = town.dataset.frame.with_columns(predicted=model_predictions(town.dataset, None, model))
    n_compared = 0
    for fix in frame.filter(fix_number % 100 == 0).partition_by("vehicle_id", "vp_ts", maintain_order=True):
        stops = [
            {
                "stop_id": row["stop_id"],
                "lat": row["stop_lat"],
                "lon": row["stop_lon"],
                "stop_sequence": row[number],
                "total_stop_sequence": row["n_stops"],
                "shape_distance_to_stop": row["along_route_distance_m"],
            }
            for row in fix.iter_rows(named=True)
        ]
        here = fix.row(0, named=True)
        vehicle = {
            "vehicle_id": here["vehicle_id"],
            "lat": here["vp_lat"],
            "lon": here["vp_lon"],
            "timestamp": here["vp_ts"],
            "route": here["route_id"],
        }
        document = estimate_stop_times(
            vehicle, stops, model_type=family, model_key=model.key if family == "xgboost" else None, max_stops=MAX_STOPS
        )
        assert "error" not in document
        assert document["model_key"] == model.key
        expected = fix["predicted"].to_list()
        ordinals = fix["stop_ordinal"].to_list()
        for i, prediction in enumerate(document["predictions"]):
            # A window ends where the pattern may go on: its last stop has no successor there.
            if (i + 1 < len(ordinals) and ordinals[i + 1] == ordinals[i] + 1) or ordinals[i] == here["n_stops"]:
                assert prediction["eta_seconds"] == pytest.approx(expected[i], abs=0.0501)
                n_compared += 1
    assert n_compared > 50


def polls(positions: Positions) -> list[tuple[int, int]]:
    """Fixes in the order of time: as many as came within `POLL_S`, and no vehicle twice."""
    vehicle, time_us = positions.vehicle_id.codes.tolist(), positions.time_us.tolist()
    starts, seen = [0], set[int]()
    for row in range(len(vehicle)):
        if vehicle[row] in seen or time_us[row] - time_us[starts[-1]] > POLL_S * 1e6:
            starts.append(row)
            seen = set()
        seen.add(vehicle[row])
    return list(pairwise([*starts, len(vehicle)]))
