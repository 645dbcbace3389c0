"""Which pattern rows follow that name a run, a direction, or neither, and when that is a guess."""

import orjson
import pytest

from etacore.pipeline.routes import RouteTable
from etacore.status import Status
from tests.reference.drive import columns_of, line_of_stops, shape_blob, stops_blob
from tests.rounds import fetch_all

S = 1_000_000
TWO = stops_blob(line_of_stops(2))
THREE = stops_blob(line_of_stops(3))


def described(table, key):
    return table.patterns.describe(table.pattern_ix(key))


def seeded(n_stops, **says):
    """Stops as etacore seeds them for a route or direction."""
    return orjson.dumps({"stops": orjson.loads(stops_blob(line_of_stops(n_stops)))} | says)


def rows_of(table, redis, *snapshots):
    """A batch after all its rounds."""
    columns = columns_of(snapshots)
    fetch_all(table, columns, {key.encode(): value for key, value in redis.items()})
    return columns


def test_a_run_is_a_trip_and_its_start():
    snapshots = [
        {},
        {"trip_id": "T"},
        {"trip_id": "T", "start_date": "20260120"},
        {"trip_id": "T", "start_date": "20260121"},
        {"trip_id": "T", "start_time": "08:00:00"},
        {"trip_id": "T", "start_time": "08:15:00"},
        {"trip_id": "T", "start_date": "20260120", "start_time": "08:15:00"},
        {"trip_id": "U", "start_time": "08:00:00"},
        {"start_date": "20260120"},
        {"start_time": "08:00:00"},
        {"start_time": "00:00:00"},
    ]
    run_key = rows_of(RouteTable(), {"route_stops:R": TWO}, *snapshots, *snapshots).run_key.tolist()
    assert run_key[:11] == run_key[11:]
    assert run_key[0] == 0
    assert len(set(run_key)) == 11


def test_route_5_0_is_not_direction_0_of_route_5():
    redis = {
        "direction_stops:0:5": seeded(2, route_id="5", direction_id=0, patterns=1),
        "route_stops:5": seeded(2, route_id="5", direction_id=0, patterns=1),
        "route_stops:5:0": seeded(3, route_id="5:0", patterns=1),
        "direction_stops:0:5:0": seeded(4, route_id="5:0", direction_id=0, patterns=1),
    }
    table = RouteTable()
    snapshots = [{"route_id": "5", "direction_id": 0}, {"route_id": "5:0"}, {"route_id": "5:0", "direction_id": 0}]
    columns = rows_of(table, redis, *snapshots)
    assert columns.status.tolist() == [Status.OK] * 3
    assert [len(table.patterns.stop_ids(ix)) for ix in columns.pattern_ix] == [2, 3, 4]


@pytest.mark.parametrize(
    ("says", "direction", "route"),
    [
        ({}, 3, 3),  # as others write it: who asks first, gets it
        ({"route_id": "5", "direction_id": 0}, 3, None),
        ({"route_id": "5"}, 3, 3),
        ({"route_id": "5:0"}, None, 3),
        ({"route_id": "5:0", "direction_id": 0}, None, 3),
        ({"route_id": "6"}, None, 3),
    ],
)
def test_the_older_key_of_a_direction_counts_unless_it_is_another_routes(says, direction, route):
    table = RouteTable()
    columns = rows_of(
        table, {"route_stops:5:0": seeded(3, **says)}, {"route_id": "5", "direction_id": 0}, {"route_id": "5:0"}
    )
    for i, n_stops in enumerate((direction, route)):
        assert columns.status[i] == (Status.UNKNOWN_ROUTE if n_stops is None else Status.OK)
        if n_stops is not None:
            assert len(table.patterns.stop_ids(columns.pattern_ix[i])) == n_stops


def test_the_newer_key_of_a_direction_wins_and_comes_with_its_own_shape():
    newer, older, table = seeded(3, route_id="5"), seeded(2, route_id="5"), RouteTable()
    redis = {
        "direction_stops:0:5": newer,
        "route_stops:5:0": older,
        "route_shape:5:0": shape_blob([(45.0, 7.0), (45.01, 7.001), (45.02, 7.0)]),
    }
    row = {"route_id": "5", "direction_id": 0}
    rows_of(table, redis, row)
    pattern = described(table, b"direction_stops:0:5")
    assert (len(pattern["stop_ids"]), pattern["n_segments"], pattern["length_m"]) == (
        3, 2, pytest.approx(2 * 1111.95, rel=1e-4),
    )  # fmt: skip
    table = RouteTable()
    del redis["direction_stops:0:5"]
    redis["route_stops:5:0"] = newer
    rows_of(table, redis, row)
    assert described(table, b"direction_stops:0:5")["length_m"] > 2224  # along the older shape


def test_a_changed_direction_is_looked_at_again_under_either_key():
    table, redis = RouteTable(refresh_s=1_000), {}

    def fetch(keys):
        return [redis.get(key) for key in keys]

    columns = columns_of([{"direction_id": 1}])
    fetch_all(table, columns, redis)
    assert columns.status.tolist() == [Status.UNKNOWN_ROUTE]
    redis[b"route_stops:R:1"] = TWO
    assert table.look_again([b"route_stops:R:1"], fetch, 1 * S)
    redis[b"direction_stops:1:R"] = THREE
    assert not table.look_again([b"direction_stops:1:R"], fetch, 2 * S)  # there were stops before
    columns = columns_of([{"direction_id": 1}])
    fetch_all(table, columns, redis, 3 * S)
    assert len(table.patterns.stop_ids(columns.pattern_ix[0])) == 3
    del redis[b"direction_stops:1:R"]
    table.look_again([b"direction_stops:1:R"], fetch, 4 * S)
    assert len(described(table, b"direction_stops:1:R")["stop_ids"]) == 2  # the older one counts again
    assert not table.look_again([b"route_stops:other:1", b"direction_stops:1:other"], fetch, 5 * S)


TWO_WAYS = {
    "route_stops:R": seeded(2, route_id="R", direction_id=0, patterns=2),
    "direction_stops:0:R": seeded(3, route_id="R", direction_id=0, patterns=1),
    "direction_stops:1:R": seeded(4, route_id="R", direction_id=1, patterns=1),
}


def n_stops_of(table, columns):
    """Stops of each row's pattern and of the other one, None where there is none."""
    pairs = zip(columns.pattern_ix.tolist(), columns.other_pattern_ix.tolist(), strict=True)
    return [tuple(len(ids) if (ids := table.patterns.stop_ids(ix)) else None for ix in pair) for pair in pairs]


def test_without_trip_and_direction_both_directions_are_possible():
    table = RouteTable()
    redis = TWO_WAYS | {"trip_pattern:T": b"P", "pattern_stops:P": stops_blob(line_of_stops(5))}
    snapshots = [{}, {"trip_id": "gone"}, {"direction_id": 0}, {"direction_id": 1}, {"trip_id": "T"}]
    columns = rows_of(table, redis, *snapshots)
    assert n_stops_of(table, columns) == [(3, 4), (3, 4), (3, None), (4, None), (5, None)]
    assert columns.is_guessed.tolist() == [0, 1, 0, 0, 0]
    assert columns.status.tolist() == [Status.OK] * 5


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        ((), (3, 4)),
        (("direction_stops:1:R",), (2, None)),
        (("direction_stops:0:R",), (2, None)),
        (("direction_stops:0:R", "direction_stops:1:R"), (2, None)),
        (("route_stops:R",), (3, 4)),
        (("route_stops:R", "direction_stops:1:R"), (3, None)),
        (("route_stops:R", "direction_stops:0:R"), (4, None)),
    ],
)
def test_what_a_row_without_direction_may_follow(absent, expected):
    table = RouteTable()
    columns = rows_of(table, {key: value for key, value in TWO_WAYS.items() if key not in absent}, {})
    assert n_stops_of(table, columns) == [expected]


@pytest.mark.parametrize(("says", "expected"), [({}, (2, None)), ({"route_id": "R"}, (3, 4))])
def test_the_older_keys_of_directions_are_possible_only_if_they_name_the_route(says, expected):
    table = RouteTable()
    redis = {"route_stops:R": TWO, "route_stops:R:0": seeded(3, **says), "route_stops:R:1": seeded(4, **says)}
    columns = rows_of(table, redis, {}, {"trip_id": "T"})
    assert n_stops_of(table, columns) == [expected] * 2
    assert columns.is_guessed.tolist() == [0, 0]


@pytest.mark.parametrize("direction", [0, 1])
def test_a_direction_without_usable_stops_is_a_reason_not_the_other_direction(direction):
    redis = TWO_WAYS | {f"direction_stops:{direction}:R": seeded(1, route_id="R", patterns=1)}
    columns = rows_of(RouteTable(), redis, {})
    assert columns.status.tolist() == [Status.TOO_FEW_STOPS]
    assert columns.other_pattern_ix.tolist() == columns.pattern_ix.tolist() == [-1]


def test_directions_come_and_go():
    table, redis = RouteTable(refresh_s=10), {b"route_stops:R": TWO_WAYS["route_stops:R"]}
    seen = []
    for now_s in range(0, 100, 20):
        if now_s == 20:
            redis |= {key.encode(): value for key, value in TWO_WAYS.items()}
        elif now_s == 60:
            del redis[b"direction_stops:1:R"]
        columns = columns_of([{}])
        fetch_all(table, columns, redis, now_s * S)
        seen += n_stops_of(table, columns)
    assert seen == [(2, None), (3, 4), (3, 4), (2, None), (2, None)]


def test_directions_last_as_long_as_their_route_is_used():
    table = RouteTable(refresh_s=1e6, forget_after_s=100)
    redis = {key.encode(): value for key, value in TWO_WAYS.items()}
    fetch_all(table, columns_of([{}]), redis, 0)
    for now_s in range(20, 400, 20):
        columns = columns_of([{}])
        assert fetch_all(table, columns, redis, now_s * S)[1] == []
        assert n_stops_of(table, columns) == [(3, 4)]
    for now_s in range(400, 800, 20):
        fetch_all(table, columns_of([{"direction_id": 1}]), redis, now_s * S)
    assert table._names.n_sources == 1


@pytest.mark.parametrize(
    ("n_patterns", "with_unknown_trip", "without_trip"), [(None, 0, 0), (0, 0, 0), (1, 1, 0), (2, 1, 1), (-3, 0, 0)]
)
@pytest.mark.parametrize("key", ["route_stops:R", "direction_stops:1:R"])
def test_when_stops_are_a_guess(key, n_patterns, with_unknown_trip, without_trip):
    redis = {
        key: seeded(3, patterns=n_patterns),
        "trip_pattern:T": b"P",
        "trip_pattern:U": b"gone",
        "pattern_stops:P": seeded(4, patterns=9),
    }
    snapshots = [{"trip_id": "X"}, {"trip_id": "U"}, {}, {"trip_id": "T"}]
    if key.startswith("direction"):
        snapshots = [snapshot | {"direction_id": 1} for snapshot in snapshots]
    expected = [with_unknown_trip, with_unknown_trip, without_trip, 0]
    assert rows_of(RouteTable(), redis, *snapshots).is_guessed.tolist() == expected
    columns = rows_of(RouteTable(guessed_patterns=False), redis, *snapshots)
    assert columns.status.tolist() == [Status.GUESSED_PATTERN if is_guess else Status.OK for is_guess in expected]
    assert (columns.pattern_ix < 0).tolist() == [bool(is_guess) for is_guess in expected]


def test_a_row_that_may_follow_either_direction_is_a_guess_if_one_of_them_is():
    redis = TWO_WAYS | {"direction_stops:1:R": seeded(4, route_id="R", patterns=2)}
    assert rows_of(RouteTable(), redis, {}).is_guessed.tolist() == [1]
    assert rows_of(RouteTable(guessed_patterns=False), redis, {}).status.tolist() == [Status.GUESSED_PATTERN]


def test_a_number_of_patterns_that_changed_is_a_change():
    table, redis = RouteTable(refresh_s=10), {b"route_stops:R": seeded(3, patterns=1)}
    for now_s, is_guess in ((0, 0), (20, 1)):
        columns = columns_of([{}])
        fetch_all(table, columns, redis, now_s * S)
        assert columns.is_guessed.tolist() == [is_guess]
        redis[b"route_stops:R"] = seeded(3, patterns=2)


def test_a_run_without_trip_id_is_found_by_route_direction_and_start():
    redis = TWO_WAYS | {
        "run_pattern:1:25:04:09:R": b"P",
        "run_pattern:-:25:04:09:R": b"Q",
        "run_pattern:0:07:00:00:R": b"gone",
        "pattern_stops:P": stops_blob(line_of_stops(5)),
        "pattern_stops:Q": stops_blob(line_of_stops(6)),
    }
    table = RouteTable()
    start = {"start_date": "20260120", "start_time": "25:04:09"}
    snapshots = [
        start | {"direction_id": 1},
        start,
        start | {"direction_id": 0},  # no such run
        start | {"direction_id": 1, "trip_id": "X"},  # its trip id has the first word, and the last
        {"direction_id": 0, "start_time": "07:00:00"},
        {"start_date": "20260120", "direction_id": 1},
    ]
    columns = rows_of(table, redis, *snapshots)
    assert n_stops_of(table, columns) == [(5, None), (6, None), (3, None), (4, None), (3, None), (4, None)]
    assert columns.is_guessed.tolist() == [0, 0, 0, 1, 0, 0]
    assert len(set(columns.run_key[[0, 3, 4, 5]].tolist())) == 4


def test_a_run_is_no_trip_of_that_name():
    redis = {"route_stops:R": TWO, "trip_pattern:-:07:00:00:R": b"P", "pattern_stops:P": THREE}
    columns = columns_of([{"start_time": "07:00:00"}, {"trip_id": "-:07:00:00:R"}])
    table = RouteTable()
    _, rounds = fetch_all(table, columns, {key.encode(): value for key, value in redis.items()})
    assert n_stops_of(table, columns) == [(2, None), (3, None)]
    assert {b"run_pattern:-:07:00:00:R", b"trip_pattern:-:07:00:00:R"} <= set(rounds[0])
    assert {b"run_pattern:-:07:00:00:R", b"trip_pattern:-:07:00:00:R"} <= set(table.due(3600 * S))
