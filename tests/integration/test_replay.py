"""Replay: recorded positions through a real Redis, scored."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
import redis
from rich.console import Console

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, FeedError
from etacore.loop.runtime import PollResult
from etacore.mlops.replay.replay import TICK_S, replay, replay_to_console
from etacore.mlops.replay.scoring import Unscored
from etacore.mlops.transit.geodesy import distance_m
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.positions import Positions, read_positions
from etacore.models.registry import Registry
from etacore.status import Status
from etacore.store.server import RedisServer
from tests.transit import DAY_S, FILES, SPEED_MPS, drive, real_data, write_feed, write_positions

EIGHT = DAY_S + 8 * 3600


class StraightLine:
    """A stand-in for the loop: the seeded stops ahead, at the buses' true speed plus a delay."""

    delay_s = 0.0

    def __init__(self, config: RuntimeConfig, clock: Callable[[], int]) -> None:
        assert config.redis_url is not None
        self.client: Any = redis.Redis.from_url(config.redis_url)
        self.clock = clock
        self.ages_s: list[float] = []

    def close(self) -> None:
        self.client.close()

    def poll(self) -> PollResult:
        counts: Counter[Status] = Counter()
        keys = list(self.client.scan_iter("vehicle:*"))
        for key in keys:
            snapshot = orjson.loads(self.client.get(key))
            self.ages_s.append(self.clock() / 1e6 - snapshot["timestamp"])
            counts[self.predict(snapshot)] += 1
        return PollResult(len(keys), counts, 0.0)

    def predict(self, snapshot: dict[str, object]) -> Status:
        pattern = self.client.get(f"trip_pattern:{snapshot.get('trip_id')}")
        stops = orjson.loads(
            self.client.get(b"pattern_stops:" + pattern)
            if pattern
            else self.client.get(f"route_stops:{snapshot['route_id']}")
        )["stops"]
        there = [np.array([stop[axis] for stop in stops]) for axis in ("lat", "lon")]
        here = [np.full(len(stops), snapshot[axis]) for axis in ("lat", "lon")]
        predictions = [
            {**stop, "eta_seconds": float(metres) / SPEED_MPS + self.delay_s}
            for stop, metres in zip(stops, distance_m(*here, *there), strict=True)
        ]
        document = {"model_key": "line", "source_timestamp": snapshot["timestamp"], "predictions": predictions}
        self.client.set(f"predictions:{snapshot['vehicle_id']}", orjson.dumps(document))
        return Status.OK


class Late(StraightLine):
    delay_s = 30.0


@pytest.fixture
def town(tmp_path: Path) -> Path:
    write_feed(tmp_path / "feed.zip")
    rows = drive("out", [0.0, 0.032], EIGHT) + drive("back", [0.030, -0.002], EIGHT + 3, vehicle_id="other")
    rows += [row | {"vehicle_id": "stray", "trip_id": None} for row in rows[:5]]
    write_positions(tmp_path / "positions.parquet", rows)
    return tmp_path


@pytest.fixture
def feed(town: Path) -> Feed:
    return read_feed(town / "feed.zip")


@pytest.fixture
def positions(town: Path) -> Positions:
    return read_positions(town / "positions.parquet")


def test_perfect_predictions_score_perfectly(positions: Positions, feed: Feed, tmp_path: Path) -> None:
    result = replay(positions, feed, registry_dir=tmp_path, make_loop=StraightLine)
    report = result.scores.model
    assert report.n > 50
    assert report.overall.mae_s < 1.0
    assert report.overall.within_60s == 1.0
    assert result.scores.baseline_speed_mps == pytest.approx(SPEED_MPS, abs=0.05)
    assert result.scores.baseline.overall.mae_s < 5.0
    assert result.played.n_positions == len(positions)
    assert result.played.model_keys.keys() == {"line"}
    assert report.n + sum(result.scores.unscored.values()) == len(result.played.recording)
    # every position was sent by one tick, and ten seconds apart two fall into one
    assert result.played.n_answered + result.played.n_overwritten == len(positions)
    assert result.played.n_overwritten > 0


def test_what_cannot_be_scored_is_counted_by_reason(positions: Positions, feed: Feed, tmp_path: Path) -> None:
    unscored = replay(positions, feed, registry_dir=tmp_path, make_loop=StraightLine).scores.unscored
    assert unscored[Unscored.NO_TRIP] > 0
    assert unscored[Unscored.FIRST_STOP] > 0
    assert unscored[Unscored.ALREADY_ARRIVED] > 0


def test_a_delay_shows_as_bias(positions: Positions, feed: Feed, tmp_path: Path) -> None:
    overall = replay(positions, feed, registry_dir=tmp_path, make_loop=Late).scores.model.overall
    assert overall.bias_s == pytest.approx(30.0, abs=1.0)
    assert overall.mae_s == pytest.approx(30.0, abs=1.0)


def test_positions_are_seen_in_event_time_and_leave_when_silent(
    positions: Positions, feed: Feed, tmp_path: Path
) -> None:
    loops: list[StraightLine] = []

    def make(config: RuntimeConfig, clock: Callable[[], int]) -> StraightLine:
        loops.append(StraightLine(config, clock))
        return loops[-1]

    replay(positions, feed, registry_dir=tmp_path, make_loop=make)
    ages_s = np.array(loops[0].ages_s)
    assert ages_s.min() >= 0
    assert ages_s.max() <= 300.0
    assert np.median(ages_s) < TICK_S


def test_range_and_routes(positions: Positions, feed: Feed, tmp_path: Path) -> None:
    start, end = datetime(2024, 1, 2, 8, 1), datetime(2024, 1, 2, 8, 3)
    result = replay(positions, feed, start=start, end=end, routes=["r1"], registry_dir=tmp_path, make_loop=StraightLine)
    assert (result.start.minute, result.end.minute, result.routes) == (1, 2, ("r1",))
    assert result.played.n_positions == 24
    # stops reached after the end of the range still have a truth
    assert result.scores.model.by_minutes[1].n > 0


def test_console_and_json(town: Path) -> None:
    written = io.StringIO()
    console = Console(file=written, width=80)
    out = town / "scores.json"
    replay_to_console(
        town / "positions.parquet", town / "feed.zip", json_path=out, console=console,
        registry_dir=town, make_loop=StraightLine,
    )  # fmt: skip
    text = written.getvalue()
    assert "route r1" in text
    assert "distance along the route / mean speed" in text
    assert "…" not in text
    scores = json.loads(out.read_text())
    assert scores["model"]["mae_s"] < 1.0
    assert scores["baseline"]["n"] == scores["model"]["n"] == sum(scores["labels"].values())
    assert scores["positions"] == len(read_positions(town / "positions.parquet"))


def test_routes_and_notes_are_printed_as_they_are(town: Path) -> None:
    changes = {name: FILES[name].replace("r1,", "[r1] :bus:,") for name in ("routes.txt", "trips.txt")}
    changes["trips.txt"] = changes["trips.txt"].replace("out,0,", "out,[2],")
    write_feed(town / "marked.zip", changes)
    rows = pl.read_parquet(town / "positions.parquet").with_columns(route_id=pl.lit("[r1] :bus:"))
    rows.write_parquet(town / "marked.parquet")
    written = io.StringIO()
    replay_to_console(
        town / "marked.parquet", town / "marked.zip", console=Console(file=written, width=200),
        registry_dir=town, make_loop=StraightLine,
    )  # fmt: skip
    assert "of route [r1] :bus:, " in written.getvalue()
    assert "direction_id '[2]', row 2" in written.getvalue()


def test_routes_come_from_the_feed_and_what_is_lost_is_said_loudly(town: Path) -> None:
    rows = pl.read_parquet(town / "positions.parquet")
    n = len(rows)
    no_route = pl.lit(None, pl.String).alias("route_id")
    strange = rows.with_columns(no_route, trip_id=pl.lit("elsewhere"), vehicle_id=pl.lit("strange"))
    pl.concat([rows.with_columns(no_route), strange, strange]).write_parquet(town / "bare.parquet")
    written = io.StringIO()
    result = replay_to_console(
        town / "bare.parquet", town / "feed.zip", console=Console(file=written, width=200),
        registry_dir=town, make_loop=StraightLine,
    )  # fmt: skip
    assert result.routes == ("r1",)
    assert result.played.n_positions == n - 5  # five have no trip either
    assert result.played.n_answered == result.played.n_positions - result.played.n_overwritten
    warning = written.getvalue()[written.getvalue().index("WARNING") :]
    assert warning.startswith(f"WARNING: only {n - 5} of {3 * n} fixes could be used")
    assert f"{2 * n + 5} no_route (no route, nor a trip that the feed knows): bare.parquet row " in warning


def test_scores_against_an_arrivals_file(positions: Positions, feed: Feed, tmp_path: Path) -> None:
    arrival = {"trip_id": "out", "vehicle_id": "bus", "stop_id": "C", "stop_sequence": 40, "arrival_ts": EIGHT + 400}
    path = tmp_path / "arrivals.parquet"
    pl.DataFrame([arrival]).write_parquet(path)
    result = replay(positions, feed, registry_dir=tmp_path, make_loop=StraightLine, arrivals=path)
    assert result.scores.labels == {"arrivals file": result.scores.model.n}
    # sent every 10 s, seen every 20 s, until the arrival after 400 s
    assert result.scores.model.n == 20
    pl.DataFrame([arrival | {"trip_id": "none"}]).write_parquet(path)
    with pytest.raises(FeedError, match="none of the 1 arrivals fits"):
        replay(positions, feed, registry_dir=tmp_path, make_loop=StraightLine, arrivals=path)


def test_a_redis_in_use_is_left_alone(positions: Positions, feed: Feed, tmp_path: Path) -> None:
    with RedisServer() as server, server.client() as client:
        replay(positions, feed, registry_dir=tmp_path, make_loop=StraightLine, redis_url=server.url)
        assert client.get("trip_pattern:out")
        with pytest.raises(ConfigError, match="not empty"):
            replay(positions, feed, registry_dir=tmp_path, make_loop=StraightLine, redis_url=server.url)


def test_positions_and_feed_must_belong_together(tmp_path: Path, feed: Feed) -> None:
    rows = [row | {"trip_id": "elsewhere"} for row in drive("out", [0.0, 0.01], EIGHT)]
    positions = read_positions(write_positions(tmp_path / "p.parquet", rows))
    with pytest.raises(FeedError, match="no run of a trip"):
        replay(positions, feed, registry_dir=tmp_path, make_loop=StraightLine)
    with pytest.raises(ConfigError, match="speed is -1"):
        replay(positions, feed, registry_dir=tmp_path, make_loop=StraightLine, speed=-1)


@pytest.mark.parametrize("folder", ["ttc_2016", "capmetro_2016"])
def test_real_recordings_through_the_real_loop(folder: str, default_registry: Registry) -> None:
    ttc = folder == "ttc_2016"
    feed = read_feed(real_data(folder, "gtfs_derived.zip" if ttc else "gtfs.zip"))
    positions = read_positions(real_data(folder, "positions.parquet"))
    day = (2016, 12, 16) if ttc else (2016, 11, 25)
    result = replay(
        positions,
        feed,
        start=datetime(*day, 8),
        end=datetime(*day, 9),
        routes=["26"] if ttc else ["7"],
        registry_dir=default_registry.path,
    )
    assert result.scores.model.n > 200
    assert result.played.status["ok"] > 0.5 * result.played.n_positions
    assert result.scores.model.overall.mae_s < 300
