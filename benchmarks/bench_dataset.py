"""Building a dataset of 200 trips, beside a plain pandas builder.

That one needs minutes for as many; its time for a row is taken from every
twentieth of the same trips.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from benchmarks.fleet import ROOT
from benchmarks.measuring import OURS, describe, report_value
from benchmarks.peers.pandas_builder import build
from etacore.demo.city import build_city
from etacore.demo.feed import write_gtfs
from etacore.demo.reports import record
from etacore.mlops.dataset.build import build_dataset
from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.positions import Positions, read_positions
from etacore.mlops.transit.service import trip_index

N_TRIPS = 200
EVERY = 20
CONFIG = BuildConfig(name="bench", use_shapes=False)
FIRST_DAY = date(2026, 2, 5)
CITY_SAMPLING = 3
"""Of the simulated city every third report: about the 20 s of the recorded one."""


@dataclass(frozen=True, slots=True, eq=False)
class Trips:
    """The work: the same fixes in the form that each side takes."""

    positions: Positions
    feed: Feed
    fixes: pd.DataFrame
    stop_times: pd.DataFrame


@pytest.fixture(scope="module")
def trips(tmp_path_factory: pytest.TempPathFactory) -> Trips:
    """200 trips of a recorded city if there is one, else of the simulated one."""
    folder = tmp_path_factory.mktemp("dataset")
    recorded = Path(os.environ.get("ETACORE_REAL_DATA", ROOT.parent / "shared" / "data")) / "ttc_2016"
    if recorded.is_dir():
        frame = pl.read_parquet(recorded / "positions.parquet")
        feed = read_feed(recorded / "gtfs_derived.zip")
    else:
        city = build_city(7)
        columns = record(city, FIRST_DAY, 1).positions
        frame = pl.DataFrame({name: column.tolist() for name, column in columns.items()}).gather_every(CITY_SAMPLING)
        write_gtfs(city, folder / "feed.zip", FIRST_DAY)
        feed = read_feed(folder / "feed.zip")
    names = frame["trip_id"].drop_nulls().unique().sort()
    chosen = names.gather_every(max(len(names) // N_TRIPS, 1)).head(N_TRIPS)
    frame = frame.filter(pl.col("trip_id").is_in(chosen.implode()))
    frame.write_parquet(folder / "p.parquet")
    positions = read_positions(folder / "p.parquet")
    fixes = frame.select("trip_id", "vehicle_id", "timestamp", "lat", "lon", "bearing").to_dict(as_series=False)
    return Trips(positions, feed, pd.DataFrame(fixes), _stop_times(feed, chosen.to_list()))


def _stop_times(feed: Feed, chosen: list[str]) -> pd.DataFrame:
    number = {trip_id: ix for ix, trip_id in enumerate(feed.trips.trip_id)}
    parts = []
    for trip_id in chosen:
        pattern = feed.patterns[int(feed.trips.pattern_ix[number[trip_id]])]
        columns = {"stop_id": pattern.stop_id, "stop_sequence": pattern.stop_sequence}
        parts.append(pd.DataFrame({"trip_id": trip_id, **columns, "lat": pattern.lat, "lon": pattern.lon}))
    return pd.concat(parts, ignore_index=True)


def bench_dataset(benchmark: Any, trips: Trips) -> None:
    describe(benchmark, "dataset of 200 trips", OURS, size=N_TRIPS, unit="us/row")
    built = benchmark.pedantic(build_dataset, (trips.positions, trips.feed, CONFIG), rounds=5, warmup_rounds=1)
    assert (trip_index(trips.positions, trips.feed) >= 0).all()
    report_value(benchmark, benchmark.stats.stats.median / len(built.frame) * 1e6)


def bench_dataset_peer(benchmark: Any, trips: Trips) -> None:
    describe(benchmark, "dataset of 200 trips", "pandas, row by row", size=N_TRIPS, unit="us/row")
    some = sorted(set(trips.fixes["trip_id"]))[::EVERY]
    fixes, stop_times = (table[table["trip_id"].isin(some)] for table in (trips.fixes, trips.stop_times))
    theirs = benchmark.pedantic(build, (fixes, stop_times, trips.feed.time_zone), rounds=1)
    report_value(benchmark, benchmark.stats.stats.median / len(theirs) * 1e6)
    ours = build_dataset(trips.positions, trips.feed, CONFIG).frame
    compare(ours.filter(pl.col("trip_id").is_in(some)), theirs)


def compare(frame: pl.DataFrame, theirs: pd.DataFrame) -> None:
    """Where both have a row they agree: on features to float32's precision, on nearly all arrivals to the second."""
    seconds = pl.col("vp_ts").dt.epoch("s").cast(pl.Float64)
    arrival = pl.col("actual_arrival").dt.epoch("s").cast(pl.Float64)
    other = pl.DataFrame(theirs.to_dict(orient="list")).with_columns(pl.col("timestamp").cast(pl.Float64))
    keys = ["trip_id", "vehicle_id", "stop_sequence", "timestamp"]
    ours = frame.with_columns(timestamp=seconds, arrival=arrival)
    both = ours.join(other.with_columns(pl.col("stop_sequence").cast(pl.Int64)), on=keys, suffix="_theirs")
    assert len(both) >= 0.75 * max(len(frame), len(theirs))
    for name in ("distance_to_stop", "progress_on_segment", "progress_ratio"):
        np.testing.assert_allclose(both[name].to_numpy(), both[f"{name}_theirs"].to_numpy(), rtol=1e-5, atol=1e-4)
    for name in ("hour", "day_of_week", "is_weekend", "is_peak_hour", "stop_id"):
        assert (both[name] == both[f"{name}_theirs"]).all()
    same = (both["arrival"] == both["arrival_theirs"]).sum() / len(both)
    assert same > 0.9
    print(f"\n{len(frame)} rows here, {len(theirs)} there, {len(both)} of both; {same:.1%} of arrivals the same")
