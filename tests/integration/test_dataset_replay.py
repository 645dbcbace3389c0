"""A dataset's feature rows are those of the loop: recorded fixes go through it as JSON, poll by poll."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import redis
from click.testing import CliRunner

from etacore.cli.app import main
from etacore.cli.options import EXIT_USAGE
from etacore.config import RuntimeConfig
from etacore.demo.city import build_city
from etacore.demo.feed import write_gtfs
from etacore.demo.reports import record
from etacore.mlops.dataset.build import build_dataset
from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.dataset.features import FEATURE_COLUMNS, FeatureTap
from etacore.mlops.replay.replay import snapshot_json
from etacore.mlops.training.matrix import feature_matrix
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.patterns import SEED_TTL_S, seed_pairs
from etacore.mlops.transit.positions import Positions, read_positions
from etacore.mlops.transit.service import trip_index
from etacore.models.choice import Models
from etacore.pipeline.engine import Batch, Engine
from etacore.status import Status
from etacore.store.server import RedisServer
from tests.transit import DAY_S, drive, real_data, write_feed, write_positions

POLL_S = 4.0
"""No bus reports twice within it."""
FIRST_DAY = date(2026, 2, 5)


class LoopRows:
    """What the engine computes when it is polled as in production: clock, ages, refreshes, eviction and documents."""

    def __init__(self, feed: Feed, time_zone: str) -> None:
        pairs = seed_pairs(feed.patterns, feed.trip_patterns(), feed.shapes)
        self.stored = {key.encode(): value for key, value in pairs}
        self.now_us = 0
        models = Models(FeatureTap(time_zone))
        self.engine = Engine(models, RuntimeConfig(), lambda: self.now_us)
        self.rows: list[npt.NDArray[np.int64]] = []
        self.stops: list[npt.NDArray[np.int32]] = []
        self.values: list[npt.NDArray[np.float32]] = []

    def poll(self, positions: Positions, rows: npt.NDArray[np.int64], batch: Batch) -> None:
        self.now_us = int(positions.time_us[rows[-1]]) + 500_000
        payloads = [snapshot_json(positions, row) for row in rows.tolist()]
        keys = [b"vehicle:%d" % row for row in rows.tolist()]
        self.engine.process(keys, payloads, lambda asked: [self.stored.get(key) for key in asked], batch)
        part = batch.parts[0]
        assert len(part.documents) == np.count_nonzero(batch.status == Status.OK)
        self.rows.append(np.repeat(rows, np.diff(part.row_offset)))
        self.stops.append(part.stop_ix.copy())
        self.values.append(part.features.copy())
        self.engine.commit(batch)
        self.engine.evict(self.now_us)


def polls(positions: Positions) -> Iterator[npt.NDArray[np.int64]]:
    """Fixes in the order of time, as many as came within `POLL_S` and no vehicle twice."""
    vehicle, time_us = positions.vehicle_id.codes.tolist(), positions.time_us.tolist()
    first = 0
    seen: set[int] = set()
    for row in range(len(vehicle)):
        if vehicle[row] in seen or time_us[row] - time_us[first] > POLL_S * 1e6:
            yield np.arange(first, row)
            first, seen = row, set()
        seen.add(vehicle[row])
    yield np.arange(first, len(vehicle))


def assert_found_again(positions: Positions, feed: Feed) -> None:
    built = build_dataset(positions, feed, BuildConfig(name="d"))
    loop = LoopRows(feed, built.time_zone)
    batch = Batch(2_000)
    for rows in polls(positions):
        loop.poll(positions, rows, batch)
    row, stop_ix = np.concatenate(loop.rows), np.concatenate(loop.stops)
    of_trip = trip_index(positions, feed)[row] >= 0
    assert built.report.rows["candidates"] + built.report.rows["other_pattern"] == np.count_nonzero(of_trip)

    served = pl.DataFrame(
        {
            "vehicle_id": pl.Series(positions.vehicle_id.values).gather(positions.vehicle_id.codes[row]),
            "vp_ts": pl.Series(positions.time_us[row]).cast(pl.Datetime("us", "UTC")),
            "stop_ordinal": stop_ix.astype(np.int64) + 1,
            "found": np.ones(len(row), bool),
        }
    ).hstack(pl.DataFrame(np.concatenate(loop.values), schema=[f"{name}_served" for name in FEATURE_COLUMNS]))
    both = built.frame.join(served, on=["vehicle_id", "vp_ts", "stop_ordinal"], how="left", maintain_order="left")
    assert len(both) == len(built.frame)
    assert both["found"].all()
    assert not both["found"].has_nulls()
    dataset: Any = SimpleNamespace(name="d", frame=built.frame, distance="along_route")
    learned = feature_matrix(dataset, None, FEATURE_COLUMNS)
    for column, name in enumerate(FEATURE_COLUMNS):
        mine = np.ascontiguousarray(learned[:, column])
        np.testing.assert_array_equal(mine.view(np.uint32), both[f"{name}_served"].to_numpy().view(np.uint32), name)


def test_a_day_of_the_simulated_city(tmp_path: Path) -> None:
    city = build_city(7)
    columns = record(city, FIRST_DAY, 1).positions
    pl.DataFrame({name: column.tolist() for name, column in columns.items()}).write_parquet(tmp_path / "p.parquet")
    write_gtfs(city, tmp_path / "feed.zip", FIRST_DAY)
    positions = read_positions(tmp_path / "p.parquet")
    some = positions.vehicle_id.codes % 24 == 0
    assert_found_again(positions.take(some), read_feed(tmp_path / "feed.zip"))


def test_command_builds_seeds_and_shows(tmp_path: Path, redis_server: RedisServer, redis_client: redis.Redis) -> None:
    write_feed(tmp_path / "feed.zip")
    write_positions(tmp_path / "p.parquet", drive("out", [0.0, 0.032], DAY_S + 8 * 3600))
    run = CliRunner()
    arguments = ["--gtfs", tmp_path / "feed.zip", "--output", "town", "--output-dir", tmp_path, "--days-back", "7"]
    done = run.invoke(
        main,
        [
            *map(str, ["dataset", "build", tmp_path / "p.parquet", *arguments, "--seed-redis"]),
            "--redis-url",
            redis_server.url,
        ],
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(tmp_path / "town.parquet")
    assert redis_client.get("trip_pattern:out") is not None
    assert 0 < redis_client.ttl("trip_pattern:out") <= SEED_TTL_S
    shown = run.invoke(main, ["dataset", "show", "town", "--dataset-dir", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    for text in ("Africa/Abidjan", "first_50m", "distance_to_stop", "2024-01-02"):
        assert text in shown.stdout


def test_command_refuses_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    write_feed(tmp_path / "feed")
    write_positions(tmp_path / "p.parquet", drive("elsewhere", [0.0, 0.032], DAY_S + 8 * 3600))
    arguments = [tmp_path / "p.parquet", "--gtfs", tmp_path / "feed", "--output", tmp_path / "sets" / "town.parquet"]
    done = CliRunner().invoke(main, ["dataset", "build", *map(str, arguments)])
    assert done.exit_code == EXIT_USAGE
    assert "0.0% of the fixes with a trip_id" in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "sets").exists()
    absent = CliRunner().invoke(main, ["dataset", "show", "absent", "--dataset-dir", str(tmp_path)])
    assert absent.exit_code == EXIT_USAGE
    assert "there is no dataset" in absent.stderr


@pytest.mark.real_data
def test_an_hour_of_a_real_city() -> None:
    positions = read_positions(real_data("ttc_2016", "positions.parquet"))
    hour = positions.select(start=datetime(2016, 12, 14, 13), end=datetime(2016, 12, 14, 14, 15))
    assert_found_again(hour, read_feed(real_data("ttc_2016", "gtfs_derived.zip")))
