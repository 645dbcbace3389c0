"""Payloads to columns, beside orjson and NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost

from benchmarks.fleet import NOW_US, make_fleet
from benchmarks.measuring import OURS, describe
from benchmarks.serving import Clock, WarmPeer, facts
from etacore.model import Model
from etacore.schema import Status
from etacore.snapshots import SnapshotColumns, parse_snapshots

N = 10_000


@pytest.fixture(scope="module")
def columns() -> SnapshotColumns:
    return SnapshotColumns(N)


def parse(payloads: list[bytes], columns: SnapshotColumns) -> None:
    parse_snapshots(payloads, columns, now_us=NOW_US, max_future_us=60_000_000, max_age_us=900_000_000)


def bench_parse(benchmark: Any, columns: SnapshotColumns) -> None:
    describe(benchmark, "parse", OURS, size=N)
    fleet = make_fleet(N)
    benchmark(parse, fleet.payloads, columns)
    assert (columns.status[:N] == Status.OK).all()


def bench_parse_peer(benchmark: Any, columns: SnapshotColumns, booster: xgboost.Booster, model: Model) -> None:
    describe(benchmark, "parse", "orjson + NumPy", size=N)
    fleet = make_fleet(N)
    peer = WarmPeer(booster, facts(model), fleet, Clock()).pipeline

    def columns_of_peer() -> tuple[Any, ...]:
        return peer.columns(peer.parse(fleet.payloads))

    lat, lon, time_us = benchmark(columns_of_peer)
    parse(fleet.payloads, columns)
    np.testing.assert_array_equal(columns.lat[:N], lat)
    np.testing.assert_array_equal(columns.lon[:N], lon)
    np.testing.assert_array_equal(columns.time_us[:N], time_us)
