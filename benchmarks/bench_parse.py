"""Payloads to columns, beside orjson and NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost

from benchmarks.fleet import NOW_US, make_fleet
from benchmarks.measuring import OURS, alternate
from benchmarks.serving import Clock, WarmPeer, facts
from etacore._kernels.batch import Batch
from etacore.models.model import Model
from etacore.status import Status
from tests.reference.columns import parse_into

N = 10_000


def bench_parse(benchmark: Any, booster: xgboost.Booster, model: Model) -> None:
    fleet, columns = make_fleet(N), Batch(N)
    peer = WarmPeer(booster, facts(model), fleet, Clock()).pipeline

    def parse() -> None:
        parse_into(columns, fleet.payloads, now_us=NOW_US, max_future_us=60_000_000, max_age_us=900_000_000)

    sides = {OURS: parse, "orjson + NumPy": lambda: peer.columns(peer.parse(fleet.payloads))}
    lat, lon, time_us = alternate(benchmark, "parse", sides, size=N)["orjson + NumPy"]
    assert (columns.status[:N] == Status.OK).all()
    np.testing.assert_array_equal(columns.lat[:N], lat)
    np.testing.assert_array_equal(columns.lon[:N], lon)
    np.testing.assert_array_equal(columns.time_us[:N], time_us)
