"""What a model knows of routes, laid out for the patterns of an engine."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etacore.pipeline.calendar import Calendar
from etacore.pipeline.route_knowledge import LegTable, RouteCodes, text_key
from etacore.pipeline.routes import RouteTable
from tests.reference.drive import EPOCH_US, Vehicle, line_of_stops, stops_blob, table_of

UTC = Calendar("UTC")


class Legs:
    """The leg to stop k takes 10 k seconds, one more each hour; of the route "none" nothing is known."""

    def __init__(self):
        self.asked = []

    def legs(self, route_id, stop_ids):
        self.asked.append((route_id, tuple(stop_ids)))
        seconds = 10.0 * np.arange(len(stop_ids)) + np.arange(24)[:, None]
        if route_id == "none":
            seconds[:] = np.nan
        seconds[:, 0] = 0.0
        return seconds.astype(np.float32)

    def leg_m(self, route_id, stop_id):
        return math.nan


def block(table, pattern_ix, n_stops):
    """The legs of a pattern as the kernel finds them."""
    start = int(table.start[pattern_ix])
    return table.seconds[start : start + 24 * n_stops].reshape(24, n_stops)


def of_lengths(lengths, name=b"P%d"):
    """Routes with one pattern for each number of stops."""
    routes = RouteTable()
    for i, n in enumerate(lengths):
        routes.set_pattern(b"pattern_stops:" + name % i, stops_blob(line_of_stops(n, lat=40 + 0.01 * i)))
    return routes


def test_each_pattern_is_asked_for_once_with_its_first_route():
    routes, typical = of_lengths([3, 5]), Legs()
    table = LegTable(typical, routes.patterns)
    pattern_ix = np.array([-1, 1, 0, 1, 0], np.int32)
    assert table.unseen(pattern_ix).tolist() == [2, 1]
    for row, route in ((2, "A"), (1, "B")):
        table.learn(int(pattern_ix[row]), route)
    assert table.unseen(pattern_ix).tolist() == []
    assert typical.asked == [("A", ("S1", "S2", "S3")), ("B", ("S1", "S2", "S3", "S4", "S5"))]
    assert block(table, 0, 3)[7].tolist() == [0.0, 17.0, 27.0]
    assert block(table, 1, 5)[0].tolist() == [0.0, 10.0, 20.0, 30.0, 40.0]


def test_a_pattern_without_any_typical_time_takes_no_room():
    routes = of_lengths([3])
    table = LegTable(Legs(), routes.patterns)
    table.learn(0, "none")
    assert table.start[0] < 0
    assert table.unseen(np.zeros(2, np.int32)).tolist() == []


def test_a_pattern_that_cannot_be_used_is_unknown():
    routes = RouteTable()
    routes.set_pattern(b"route_stops:X", b"[]")
    table = LegTable(Legs(), routes.patterns)
    for pattern_ix in (0, 5):
        assert table.unseen(np.array([pattern_ix], np.int32)).tolist() == [0]
        table.learn(pattern_ix, "A")
        assert table.start[pattern_ix] < 0


def test_a_table_that_answers_of_other_stops_is_refused():
    routes, typical = of_lengths([3]), Legs()
    typical.legs = lambda route_id, stop_ids: np.zeros((24, 2), np.float32)
    with pytest.raises(ValueError, match="3 stops"):
        LegTable(typical, routes.patterns).learn(0, "A")


def test_many_patterns_keep_their_own_times():
    lengths = [2 + i % 17 for i in range(200)]
    routes = of_lengths(lengths)
    table = LegTable(Legs(), routes.patterns)
    pattern_ix = np.arange(200, dtype=np.int32)
    for row in table.unseen(pattern_ix):
        table.learn(int(row), "A")
    for i, n in enumerate(lengths):
        assert block(table, i, n)[3, 1:].tolist() == [10.0 * k + 3 for k in range(1, n)]


def test_room_of_patterns_that_are_gone_is_used_again():
    routes, typical = RouteTable(), Legs()
    table = LegTable(typical, routes.patterns)

    def learn(key):
        pattern_ix = np.array([routes.pattern_ix(key)], np.int32)
        assert table.unseen(pattern_ix).tolist() == [0]
        table.learn(int(pattern_ix[0]), "A")
        return int(pattern_ix[0])

    kept = None
    for i in range(400):
        routes.set_pattern(b"pattern_stops:P", stops_blob(line_of_stops(20, lat=40 + 0.001 * i)))
        if i == 0:
            routes.set_pattern(b"pattern_stops:kept", stops_blob(line_of_stops(4)))
            kept = learn(b"pattern_stops:kept")
        routes.patterns.sweep()
        last = learn(b"pattern_stops:P")
    assert len(table.seconds) <= 8 * 24 * 24
    assert block(table, kept, 4)[1].tolist() == [0.0, 11.0, 21.0, 31.0]
    assert block(table, last, 20)[1, 19] == 191.0


def test_typical_times_add_up_from_the_next_stop():
    routes = table_of(line_of_stops(5))
    table = LegTable(Legs(), routes.patterns)
    table.learn(0, "R")
    vehicle = Vehicle(routes)
    hour = 3_600_000_000
    vehicle.fix(lat=45.0 + 0.01 * 1.25, lon=7.0, time_us=EPOCH_US // (24 * hour) * 24 * hour + 5 * hour)
    rows = vehicle.rows(UTC, max_stops=2, legs=table)[0]
    left = float(np.float32(rows[0]["leg_left"]))
    assert left == pytest.approx(0.75, abs=1e-4)
    assert [row["typical_travel_s"] for row in rows] == [np.float32(left * 25.0), np.float32(left * 25.0 + 35.0)]
    assert math.isnan(vehicle.rows(UTC)[0][0]["typical_travel_s"])
    assert vehicle.rows(UTC, nan_fill=0.0)[0][0]["typical_travel_s"] == 0.0


def test_a_leg_that_is_not_known_leaves_what_lies_behind_it_unknown():
    routes, typical = table_of(line_of_stops(5)), Legs()
    seconds = typical.legs("R", "ABCDE")
    seconds[:, 3] = np.nan
    typical.legs = lambda route_id, stop_ids: seconds
    table = LegTable(typical, routes.patterns)
    table.learn(0, "R")
    vehicle = Vehicle(routes)
    vehicle.fix(lat=45.0 + 0.01 * 1.25, lon=7.0)
    assert [math.isnan(row["typical_travel_s"]) for row in vehicle.rows(UTC, legs=table)[0]] == [False, True, True]


def test_a_damaged_table_reads_nothing_outside():
    routes = table_of(line_of_stops(5))
    vehicle = Vehicle(routes)
    vehicle.fix(lat=45.0 + 0.01 * 1.25, lon=7.0)
    table = LegTable(Legs(), routes.patterns)
    table.learn(0, "R")
    for start in (-(2**63), -1, len(table.seconds) - 24 * 5 + 1, 2**62):
        table.start[0] = start
        assert math.isnan(vehicle.rows(UTC, legs=table)[0][0]["typical_travel_s"])
    table.start = table.start[:0].copy()
    assert math.isnan(vehicle.rows(UTC, legs=table)[0][0]["typical_travel_s"])


def test_route_codes_are_positions_among_the_models_routes():
    routes = [f"R{i}" for i in range(50)] + ["é/7"]
    codes = RouteCodes(routes)
    keys = np.array([text_key(text) for text in (b"R49", "é/7".encode(), b"", b"other", b"R0")], np.uint64)
    found = codes.of(np.append(keys, np.uint64(2**64 - 1)))
    assert found.dtype == np.int32
    assert found.tolist() == [49, 50, -1, -1, 0, -1]
    assert RouteCodes(()).of(keys).tolist() == [-1] * 5
