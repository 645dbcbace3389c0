from typing import Any

import numpy as np
import orjson
import pytest

from etacore.config import KeyNames
from etacore.mlops.transit.geodesy import distance_m
from etacore.mlops.transit.patterns import NO_DIRECTION, Pattern, Shape, pattern_id, seed_pairs, shape_blob, stops_blob


def make(name: str, stops: str, *, direction: int = 0, shape: str | None = None, route: str = "7") -> Pattern:
    n = len(stops)
    return Pattern(
        name,
        route,
        direction,
        shape,
        tuple(stops),
        np.linspace(10.0, 10.1, n),
        np.linspace(20.0, 20.1, n),
        np.arange(0, 10 * n, 10, dtype=np.int32),
        tuple(f"stop {s}" for s in stops),
    )


def seeded(*args: Any, **kwargs: Any) -> dict[str, bytes]:
    pairs = list(seed_pairs(*args, **kwargs))
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_every_key_of_a_route_with_two_directions_and_a_branch() -> None:
    patterns = [make("p1", "ABC", shape="s"), make("p2", "ABX"), make("p3", "CBA", direction=1)]
    shapes = {"s": Shape(np.array([10.0, 10.1]), np.array([20.0, 20.1]))}
    keys = seeded(patterns, {"t1": "p1", "t2": "p2", "t3": "p2", "t4": "p3"}, shapes)
    assert set(keys) == {
        "pattern_stops:p1", "pattern_stops:p2", "pattern_stops:p3", "pattern_shape:p1",
        "route_stops:7", "direction_stops:0:7", "direction_stops:1:7",
        "trip_pattern:t1", "trip_pattern:t2", "trip_pattern:t3", "trip_pattern:t4",
    }  # fmt: skip
    # p2 has two trips: it speaks for the route, and its missing shape is not borrowed from p1
    stops = {key: orjson.loads(blob) for key, blob in keys.items() if "_stops:" in key}
    assert "patterns" not in stops["pattern_stops:p2"]
    assert stops["route_stops:7"] == stops["pattern_stops:p2"] | {"patterns": 3}
    assert stops["direction_stops:0:7"] == stops["pattern_stops:p2"] | {"patterns": 2}
    assert stops["direction_stops:1:7"] == stops["pattern_stops:p3"] | {"patterns": 1}
    assert keys["trip_pattern:t3"] == b"p2"


def test_route_shape_is_that_of_the_pattern_that_speaks_for_the_route() -> None:
    shapes = {"s": Shape(np.array([10.0, 10.1]), np.array([20.0, 20.1]))}
    keys = seeded([make("p1", "ABC", shape="s"), make("p2", "AB")], {"t": "p1"}, shapes)
    assert keys["route_shape:7"] == keys["direction_shape:0:7"] == keys["pattern_shape:p1"]


def test_stops_as_the_contract_spells_them() -> None:
    document = orjson.loads(stops_blob(make("p1", "AB", direction=NO_DIRECTION)))
    first = {"stop_id": "A", "lat": 10.0, "lon": 20.0, "stop_sequence": 0, "stop_name": "stop A"}
    second = {"stop_id": "B", "lat": 10.1, "lon": 20.1, "stop_sequence": 10, "stop_name": "stop B"}
    assert document == {"route_id": "7", "stops": [stop | {"total_stop_sequence": 2} for stop in (first, second)]}


def test_a_stop_without_coordinates_is_null_not_nan() -> None:
    pattern = make("p1", "AB")
    pattern.lat[1] = np.nan
    assert [stop["lat"] for stop in orjson.loads(stops_blob(pattern))["stops"]] == [10.0, None]


def test_shape_distance_is_in_metres() -> None:
    blob = orjson.loads(shape_blob("s", Shape(np.array([0.0, 0.0, 0.0]), np.array([0.0, 0.001, 0.003]))))
    assert blob["shape_id"] == "s"
    assert [p["shape_pt_sequence"] for p in blob["points"]] == [1, 2, 3]
    assert [p["shape_dist_traveled"] for p in blob["points"]] == pytest.approx([0.0, 111.19, 333.58], abs=0.01)


def test_renamed_prefixes() -> None:
    names = KeyNames(
        route_stops="rs/", route_shape="rl/", direction_stops="ds/", direction_shape="dl/", trip_pattern="tp/",
        pattern_stops="ps/", pattern_shape="pl/", run_pattern="rp/",
    )  # fmt: skip
    shapes = {"s": Shape(np.array([10.0, 10.1]), np.array([20.0, 20.1]))}
    assert set(seeded([make("p1", "AB", shape="s")], {"t": "p1"}, shapes, names, [("p1", 7 * 3600)])) == {
        "ps/p1", "pl/p1", "rs/7", "rl/7", "ds/0:7", "dl/0:7", "tp/t", "rp/0:07:00:00:7", "rp/-:07:00:00:7",
    }  # fmt: skip


def test_keys_of_two_routes_never_meet() -> None:
    patterns = [
        make(f"{route}/{direction}", "AB", route=route, direction=direction)
        for route in ("5", "5:0", "0:5", "0", "1:0:5")
        for direction in (0, 1, NO_DIRECTION)
    ]
    trips = {pattern.pattern_id: pattern.pattern_id for pattern in patterns}
    keys = seeded(patterns, trips, {})  # which also looks whether a key comes twice
    for pattern in patterns:
        if pattern.direction_id != NO_DIRECTION:
            blob = orjson.loads(keys[f"direction_stops:{pattern.direction_id}:{pattern.route_id}"])
            assert (blob["route_id"], blob["direction_id"]) == (pattern.route_id, pattern.direction_id)
        assert orjson.loads(keys[f"route_stops:{pattern.route_id}"])["patterns"] == 3


def test_a_run_has_a_pattern_where_all_of_its_start_share_one() -> None:
    patterns = [
        make("out", "ABC"),
        make("short", "AB"),
        make("back", "CBA", direction=1),
        make("none", "AB", route="8", direction=NO_DIRECTION),
    ]
    runs = [("out", 25 * 3600 + 60), ("out", 25 * 3600 + 60), ("out", 3600), ("short", 3600), ("back", 3600)]
    runs += [("out", 7200), ("back", 7200), ("none", 5)]
    keys = seeded(patterns, {}, {}, runs=runs)
    assert {key: value for key, value in keys.items() if key.startswith("run_pattern:")} == {
        "run_pattern:0:25:01:00:7": b"out",
        "run_pattern:-:25:01:00:7": b"out",
        "run_pattern:1:01:00:00:7": b"back",
        "run_pattern:0:02:00:00:7": b"out",
        "run_pattern:1:02:00:00:7": b"back",
        "run_pattern:-:00:00:05:8": b"none",
        "run_pattern:0:00:00:05:8": b"none",
        "run_pattern:1:00:00:05:8": b"none",
    }


def test_pattern_ids_are_stable_short_and_tell_patterns_apart() -> None:
    same = pattern_id("7", 0, ["A", "B"], [1, 2], "s")
    assert same == pattern_id("7", 0, ("A", "B"), np.array([1, 2]), "s")
    assert same == "7:0:" + same[-12:]
    others = [
        pattern_id("7", 1, ["A", "B"], [1, 2], "s"),
        pattern_id("7", 0, ["B", "A"], [1, 2], "s"),
        pattern_id("7", 0, ["A", "B"], [1, 3], "s"),
        pattern_id("7", 0, ["A", "B"], [1, 2], None),
        pattern_id("7", 0, ["AB"], [1, 2], "s"),
        pattern_id("8", 0, ["A", "B"], [1, 2], "s"),
    ]
    assert len({same, *others}) == 7
    odd = pattern_id("ligne d'été: 🚌" * 20, NO_DIRECTION, ["A"], [1], None)
    assert odd.isascii()
    assert " " not in odd
    assert len(odd) <= 56


def test_distance_of_a_degree() -> None:
    zero, one = np.array([0.0]), np.array([1.0])
    assert distance_m(zero, zero, zero, one)[0] == pytest.approx(111_194.93, abs=0.01)
