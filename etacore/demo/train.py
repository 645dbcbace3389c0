"""Train the small model that ships in ``models/shipped``: ``python -m etacore.demo.train``.

Its data is a recorded week of the simulated city. The feature rows are those
that the engine makes of the recorded reports, in the order in which they came,
so the model sees in training what it is given at serving.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt
import orjson

from etacore import accuracy
from etacore.config import SHIPPED_REGISTRY_DIR, RuntimeConfig
from etacore.demo.city import TIME_ZONE, City, build_city
from etacore.demo.feed import redis_pairs
from etacore.demo.reports import Recording, record
from etacore.demo.timetable import WEEKDAY, WEEKEND, build_timetable
from etacore.models.choice import Models
from etacore.models.registry import Registry
from etacore.pipeline.engine import Batch, Engine
from etacore.schema import BASE_FEATURES, MAX_ETA_S, feature_codes

FIRST_DAY: Final = date(2026, 2, 5)
"""A Thursday; the days before those that the demo shows."""
N_TRAIN_DAYS: Final = 6
N_TEST_DAYS: Final = 2
PARAMETERS: Final = {
    "max_depth": 5,
    "learning_rate": 0.1,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "seed": 42,
}
N_TREES: Final = 100
TICK_S: Final = 60
"""Of each vehicle one report a tick: neighbouring ones say nearly the same."""
LOGGED_ON_AFTER_S: Final = 120.0
MIN_DISTANCE_M: Final = 10.0
_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Rows:
    """Feature rows and what they should have predicted."""

    features: npt.NDArray[np.float32]
    seconds: npt.NDArray[np.float64]
    day: npt.NDArray[np.int64]
    n_trips: int


class _FeatureTap:
    """Stands where a model stands in the engine, asks for the features and predicts nothing."""

    key = model_type = "feature_tap"
    scope = "global"
    features = BASE_FEATURES
    feature_codes = feature_codes(BASE_FEATURES)
    calendar_args = (TIME_ZONE, ())
    nan_fill = None
    along_route_distance = False

    def predict(self, X: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:  # noqa: N803
        out[:] = 0.0


def feature_rows(city: City, recording: Recording) -> Rows:
    """What the engine computes of a recording, with the seconds to the true arrival.

    Vehicles that do not tell their trip are left out: nobody knows which arrival was theirs.
    """
    runs = _runs_by_trip(recording)
    stored = {
        key.encode(): value
        for service in (WEEKDAY, WEEKEND)
        for key, value in redis_pairs(city, build_timetable(city, service))
    }
    now_us = 0
    config = RuntimeConfig(max_age_seconds=0, route_refresh_seconds=86_400)
    engine = Engine(Models(_FeatureTap()), config, lambda: now_us)  # type: ignore[arg-type]
    batch = Batch(1024)
    features, seconds, days = [], [], []
    for rows, payloads in _ticks(recording):
        now_us = int(recording.positions["timestamp"][rows[-1]]) * _US
        engine.parse(batch, [b""] * len(rows), payloads)
        engine.screen(batch, lambda keys: [None] * len(keys))
        engine.resolve(batch, lambda keys: [stored.get(key) for key in keys])
        engine.select(batch)
        engine.predict(batch)
        engine.commit(batch)
        part = batch.parts[0]
        for i in np.flatnonzero(np.diff(part.row_offset)):
            mine = slice(part.row_offset[i], part.row_offset[i + 1])
            time_s = batch.time_us[i] / _US
            of_trip = runs[batch.text_at("trip_id", int(i))]
            # A trip runs every day; the run at hand is the first that has not ended yet.
            day, arrival_s = next(run for run in of_trip if time_s <= run[1][-1] + LOGGED_ON_AFTER_S)
            left_s = arrival_s[part.stop_ix[mine]] - time_s
            kept = (left_s >= 0) & (left_s <= MAX_ETA_S) & (part.distance_m[mine] >= MIN_DISTANCE_M)
            features.append(part.features[mine][kept])
            seconds.append(left_s[kept])
            days.append(np.full(int(kept.sum()), day))
    return Rows(np.concatenate(features), np.concatenate(seconds), np.concatenate(days), sum(map(len, runs.values())))


def _runs_by_trip(recording: Recording) -> dict[str, list[tuple[int, npt.NDArray[np.float64]]]]:
    """Trip -> its runs: service day, and POSIX seconds at each stop."""
    trip, day, arrival_s = (recording.arrivals[name] for name in ("trip_id", "service_date", "arrival_s"))
    starts = 1 + np.flatnonzero((trip[1:] != trip[:-1]) | (day[1:] != day[:-1]))
    runs: dict[str, list[tuple[int, npt.NDArray[np.float64]]]] = {}
    for start, end in pairwise([0, *starts.tolist(), len(trip)]):
        runs.setdefault(trip[start], []).append((int(day[start]), arrival_s[start:end]))
    return runs


def _ticks(recording: Recording) -> Iterator[tuple[npt.NDArray[np.int64], Sequence[bytes]]]:
    """Rows of each tick, in time, with their snapshots."""
    positions = recording.positions
    known = np.flatnonzero(~np.ma.getmaskarray(positions["trip_id"]))
    tick = positions["timestamp"][known] // TICK_S
    _, vehicle = np.unique(positions["vehicle_id"][known].astype(str), return_inverse=True)
    _, first = np.unique(tick * (vehicle.max() + 1) + vehicle, return_index=True)
    chosen = known[np.sort(first)]
    for rows in np.split(chosen, np.flatnonzero(np.diff(positions["timestamp"][chosen] // TICK_S)) + 1):
        yield rows, [orjson.dumps(_snapshot(positions, int(row))) for row in rows]


def _snapshot(positions: dict[str, npt.NDArray[Any]], row: int) -> dict[str, Any]:
    plain = {"vehicle_id", "lat", "lon", "bearing", "route_id", "trip_id"}
    snapshot = {name: positions[name][row] for name in plain}
    snapshot = {name: value.item() if isinstance(value, np.generic) else value for name, value in snapshot.items()}
    return snapshot | {"timestamp": int(positions["timestamp"][row])}


@click.command()
@click.option("--registry", type=click.Path(file_okay=False, path_type=Path), help="Default models/shipped.")
@click.option("--seed", default=7, show_default=True, help="Which city.")
def main(registry: Path | None, seed: int) -> None:
    """Record the simulated city, train on its first days, test on its last, and save the model."""
    import xgboost

    from etacore.mlops.bundling.compile import compile_to_registry

    city = build_city(seed)
    click.echo(f"recording {N_TRAIN_DAYS + N_TEST_DAYS} days", err=True)
    recording = record(city, FIRST_DAY, N_TRAIN_DAYS + N_TEST_DAYS)
    click.echo(f"computing features of {len(recording.positions['timestamp'])} reports", err=True)
    rows = feature_rows(city, recording)
    test = rows.day >= np.unique(rows.day)[-N_TEST_DAYS]
    known = xgboost.DMatrix(rows.features[~test], rows.seconds[~test], feature_names=list(BASE_FEATURES))
    booster = xgboost.train(PARAMETERS | {"objective": "reg:absoluteerror"}, known, num_boost_round=N_TREES)
    report = accuracy.score(booster.inplace_predict(rows.features[test]), rows.seconds[test])
    click.echo(f"test MAE {report.overall.mae_s:.1f} s, bands {report.bands_score:.1%}", err=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.ubj"
        booster.save_model(source)
        key = compile_to_registry(
            source,
            Registry(registry or SHIPPED_REGISTRY_DIR),
            time_zone=TIME_ZONE,
            dataset="simulated_city",
            metrics={"test_mae_seconds": report.overall.mae_s, "test_bias_seconds": report.overall.bias_s},
            hyperparameters={"n_estimators": N_TREES} | PARAMETERS,
            samples={
                "n_samples": len(rows.day),
                "n_trips": rows.n_trips,
                "train_samples": int((~test).sum()),
                "test_samples": int(test.sum()),
            },
            provenance={"made_by": "python -m etacore.demo.train", "city_seed": seed},
            progress=lambda text: click.echo(text, err=True),
        )
    click.echo(key)


if __name__ == "__main__":
    main()
