import numpy as np
import orjson
import pytest

from etacore._kernels.resolve import ROUTE, NameTable
from etacore._kernels.routes import Line, PatternTable
from etacore.config import KeyNames
from etacore.errors import RouteDataError
from etacore.pipeline.route_blobs import ShapePolyline, parse_shape, parse_stops
from etacore.pipeline.routes import RouteTable
from etacore.status import Status
from tests.reference.drive import columns_of, line_of_stops, shape_blob, stops_blob
from tests.rounds import fetch_all, route_keys

S = 1_000_000
TWO = stops_blob(line_of_stops(2))
THREE = stops_blob(line_of_stops(3))


def described(table, key):
    return table.patterns.describe(table.pattern_ix(key))


@pytest.mark.parametrize(
    ("blob", "status"),
    [
        (TWO, Status.OK),
        (b'{"stops":' + TWO + b', "route_id": "1"}', Status.OK),
        (b"[", Status.UNKNOWN_ROUTE),
        (b"\xff", Status.UNKNOWN_ROUTE),
        (b"3", Status.UNKNOWN_ROUTE),
        (b'{"stops": {}}', Status.UNKNOWN_ROUTE),
        (b"[]", Status.TOO_FEW_STOPS),
        (stops_blob(line_of_stops(1)), Status.TOO_FEW_STOPS),
        (b"[1, 2]", Status.STOP_WITHOUT_COORDINATES),
        (b'[{"lat": 1, "lon": 2}, {"lat": 1}]', Status.STOP_WITHOUT_COORDINATES),
        (b'[{"lat": 1, "lon": 2}, {"lat": 91, "lon": 2}]', Status.STOP_WITHOUT_COORDINATES),
        (b'[{"lat": 1, "lon": 2}, {"lat": "nan", "lon": 2}]', Status.STOP_WITHOUT_COORDINATES),
        (b'[{"lat": 1, "lon": 2}, {"lat": true, "lon": 2}]', Status.STOP_WITHOUT_COORDINATES),
        (b'[{"lat": 1, "lon": 2}, {"lat": "1e400", "lon": 2}]', Status.STOP_WITHOUT_COORDINATES),
    ],
)
def test_status_of_stops(blob, status):
    assert parse_stops(blob).status == status
    table, columns = RouteTable(), columns_of([{}])
    table.set_pattern(b"route_stops:R", blob)
    table.resolve_rest(columns)
    assert columns.status[0] == status
    assert columns.pattern_ix[0] == (0 if status == Status.OK else -1)


def test_names_of_a_stop():
    blob = b"""[{"stopId": 7, "latitude": "1.5", "lng": " 2 ", "stop_order": "30"},
        {"id": "b", "stop_lat": 1, "stop_lon": 2, "sequence": 10},
        {"stop_id": "", "stopId": "c", "lat": "", "latitude": 3, "longitude": 4, "stop_sequence": 20.0}]"""
    stops = parse_stops(blob)
    assert stops.ids == ["7", "b", "c"]
    assert stops.sequence.tolist() == [30, 10, 20]
    assert stops.lat.tolist() == [1.5, 1.0, 3.0]


def test_order_of_stops():
    def ids(*sequences):
        stops = [{"stop_id": str(i), "lat": 0, "lon": i, "stop_sequence": s} for i, s in enumerate(sequences)]
        parsed = parse_stops(orjson.dumps(stops))
        return parsed.ids, parsed.sequence.tolist()

    assert ids(3, 0, 3, 1) == (["0", "1", "2", "3"], [3, 0, 3, 1])
    assert ids(3, None, 1) == (["0", "1", "2"], [3, 2, 1])
    assert ids(None, None) == (["0", "1"], [1, 2])
    assert ids(2**40, 1) == (["0", "1"], [1, 1])


def test_json_prefix():
    table = RouteTable()
    blob = orjson.dumps(
        [{"stop_id": 'a"\né', "lat": 0, "lon": 0, "stop_sequence": -5}, {"lat": 0, "lon": 1, "sequence": 0}]
    )
    table.set_pattern(b"route_stops:R", blob)
    pattern = described(table, b"route_stops:R")
    assert pattern["prefixes"] == [
        '{"stop_id":"a\\"\\né","stop_sequence":-5,"distance_to_stop_m":'.encode(),
        b'{"stop_id":null,"stop_sequence":0,"distance_to_stop_m":',
    ]
    assert pattern["stop_ids"] == ['a"\né'.encode(), b""]


def test_two_rounds_and_then_none():
    redis = {b"trip_pattern:T": b" P\n", b"pattern_stops:P": THREE, b"route_stops:R": TWO}
    table, columns = RouteTable(), columns_of([{"trip_id": "T"}, {"trip_id": "U"}, {"trip_id": "T"}])
    pattern_ix, rounds = fetch_all(table, columns, redis)
    assert rounds == [
        sorted([*route_keys(), b"trip_pattern:T", b"trip_pattern:U"]),
        [b"pattern_shape:P", b"pattern_stops:P"],
    ]
    assert columns.pattern_ix[0] == columns.pattern_ix[2] == table.pattern_ix(b"pattern_stops:P")
    assert columns.pattern_ix[1] == table.pattern_ix(b"route_stops:R")
    assert fetch_all(table, columns, redis) == (pattern_ix, [])


def test_direction_before_route():
    redis = {b"route_stops:R": TWO, b"route_stops:R:1": THREE, b"route_stops:R:127": THREE}
    table = RouteTable()
    columns = columns_of([{"direction_id": d} for d in (None, 0, 1, 127)])
    pattern_ix, rounds = fetch_all(table, columns, redis)
    assert len(rounds) == 1
    keys = (b"route_stops:R", b"route_stops:R", b"direction_stops:1:R", b"direction_stops:127:R")
    assert [table.pattern_ix(key) for key in keys] == pattern_ix
    assert len(set(pattern_ix)) == 3


def test_a_failed_fetch_is_repeated_and_is_not_due():
    table, columns = RouteTable(refresh_s=10), columns_of([{"trip_id": "T"}])
    keys = [b"trip_pattern:T", *route_keys()]
    assert table.missing(columns) == keys
    assert table.due(100 * S) == []
    assert table.missing(columns) == keys
    follow_up = table.update(keys, [b"P", TWO] + [None] * 9, 100 * S)
    assert table.missing(columns) == follow_up == [b"pattern_stops:P", b"pattern_shape:P"]
    table.resolve_rest(columns)
    assert columns.pattern_ix.tolist() == [table.pattern_ix(b"route_stops:R")]


def test_rows_that_are_not_ok_ask_for_nothing():
    table, columns = RouteTable(), columns_of([{}, {"trip_id": "T"}])
    columns.status[:2] = Status.TOO_OLD
    assert table.missing(columns) == []
    columns.pattern_ix[:] = 0
    table.resolve_rest(columns)
    assert columns.pattern_ix.tolist() == [-1, -1]
    assert columns.status[:2].tolist() == [Status.TOO_OLD] * 2


def test_absent_route_is_remembered_until_it_is_due():
    table, redis = RouteTable(refresh_s=10), {}
    for now_s, n_rounds, status in ((0, 1, Status.UNKNOWN_ROUTE), (4, 0, Status.UNKNOWN_ROUTE), (10, 1, Status.OK)):
        columns = columns_of([{}])
        if now_s == 10:
            redis[b"route_stops:R"] = TWO
        assert len(fetch_all(table, columns, redis, now_s * S)[1]) == n_rounds
        assert columns.status[0] == status


def test_a_changed_blob_gets_a_new_number_and_an_equal_one_keeps_it():
    table, redis = RouteTable(refresh_s=10), {b"route_stops:R": TWO}
    first, _ = fetch_all(table, columns_of([{}]), redis, 0)
    redis[b"route_stops:R"] = orjson.dumps({"written_at": "later", "stops": orjson.loads(TWO)})
    assert fetch_all(table, columns_of([{}]), redis, 10 * S)[0] == first
    redis[b"route_stops:R"] = THREE
    second, _ = fetch_all(table, columns_of([{}]), redis, 20 * S)
    assert second != first
    assert table.patterns.describe(first[0]) is None
    redis[b"route_shape:R"] = shape_blob([(45.0, 7.0), (45.01, 7.001), (45.02, 7.0)])
    third, _ = fetch_all(table, columns_of([{}]), redis, 30 * S)
    assert third not in (first, second)
    redis[b"route_shape:R"] = redis[b"route_shape:R"].replace(b":", b" :  ") + b"\n"
    assert fetch_all(table, columns_of([{}]), redis, 35 * S)[0] == third
    assert fetch_all(table, columns_of([{}]), redis, 60 * S)[0] == third
    assert described(table, b"route_stops:R")["length_m"] > 2224
    del redis[b"route_stops:R"]
    columns = columns_of([{}])
    assert fetch_all(table, columns, redis, 40 * S)[0] == [-1]
    assert columns.status[0] == Status.UNKNOWN_ROUTE


def test_changed_stops_are_looked_at_without_waiting_until_they_are_due():
    table, redis, asked = RouteTable(refresh_s=1_000), {b"route_stops:R": TWO}, []

    def fetch(keys):
        asked.extend(keys)
        return [redis.get(key) for key in keys]

    columns = columns_of([{}, {"route_id": "S"}])
    first = fetch_all(table, columns, redis)[0]
    assert columns.status.tolist() == [Status.OK, Status.UNKNOWN_ROUTE]
    redis[b"route_stops:R"] = THREE
    assert not table.look_again([b"route_stops:R"], fetch, 1 * S)  # there were stops before
    assert asked == [b"route_stops:R", b"route_shape:R"]
    assert fetch_all(table, columns_of([{}]), redis, 2 * S)[0] != first[:1]
    redis[b"route_stops:S"] = redis[b"route_stops:T"] = TWO
    asked.clear()
    assert not table.look_again([b"route_stops:T"], fetch, 3 * S)  # nobody has needed it
    assert not asked
    assert table.look_again([b"route_stops:T", b"route_stops:S", b"route_stops:R"], fetch, 3 * S)
    assert asked == [b"route_stops:S", b"route_shape:S", b"route_stops:R", b"route_shape:R"]
    columns = columns_of([{"route_id": "S"}])
    assert fetch_all(table, columns, redis, 4 * S)[1] == []
    assert columns.status.tolist() == [Status.OK]
    assert not table.look_again([b"route_stops:S"], fetch, 5 * S)


def test_numbers_of_a_batch_hold_until_the_next_resolve():
    table = RouteTable()
    table.set_pattern(b"route_stops:R", TWO)
    table.set_pattern(b"route_stops:R", THREE)
    assert table.patterns.describe(0) is not None
    table.resolve_rest(columns_of([{}]))
    assert table.patterns.describe(0) is None
    assert not table.set_pattern(b"route_stops:R", THREE)


def test_what_is_not_used_is_not_looked_at_again():
    table, redis = RouteTable(refresh_s=10, trip_refresh_s=60), {b"route_stops:R": TWO, b"trip_pattern:T": b"P"}
    fetch_all(table, columns_of([{"trip_id": "T"}]), redis, 0)
    assert sorted(table.due(10 * S)) == sorted([*route_keys(), b"pattern_stops:P", b"pattern_shape:P"])
    fetch_all(table, columns_of([]), redis, 11 * S)
    assert table.due(30 * S) == []
    assert b"trip_pattern:T" in table.due(60 * S)


def test_due_has_a_limit_and_nobody_starves():
    table = RouteTable(refresh_s=10)
    columns = [{"route_id": f"{i}"} for i in range(30)]
    fetch_all(table, columns_of(columns), {}, 0)
    asked = set()
    for now_s in (10, 11, 12):
        keys = table.due(now_s * S, limit=10)
        assert len(keys) == 100
        asked.update(keys)
        table.update(keys, [None] * 100, now_s * S)
    assert len(asked) == 300


def test_a_bound_of_one_name():
    table = RouteTable(max_names=1)
    pattern_ix, _ = fetch_all(table, columns_of([{}, {"route_id": "other"}]), {b"route_stops:R": TWO})
    assert pattern_ix == [0, -1]
    assert table._names.n_sources == 1


@pytest.mark.parametrize("due_first", [True, False])
def test_the_first_batch_after_hours_of_silence_has_its_routes(due_first):
    table, redis = RouteTable(), {b"route_stops:R": TWO, b"trip_pattern:T": b"P", b"pattern_stops:P": THREE}
    snapshots = [{}, {"trip_id": "T"}]
    before, _ = fetch_all(table, columns_of(snapshots), redis, 0)
    now_us = 3 * 3600 * S
    columns = columns_of(snapshots)
    first, second = (table.due(now_us), table.missing(columns)) if due_first else (table.missing(columns), None)
    needed = first + (table.due(now_us) if second is None else second)
    table.update(needed, [redis.get(key) for key in needed], now_us)
    table.resolve_rest(columns)
    assert columns.status[:2].tolist() == [Status.OK] * 2
    assert columns.pattern_ix.tolist() == before


def test_a_fleet_does_not_come_due_at_once():
    table = RouteTable(refresh_s=10)
    fetch_all(table, columns_of([{"route_id": f"{i}"} for i in range(400)]), {}, 0)
    assert table.due(int(4.5 * S)) == []
    early = len(table.due(int(7.5 * S)))
    assert 500 < early < 3500
    assert len(table.due(10 * S)) == 4000


def test_what_is_about_to_be_due_is_taken_along():
    table = RouteTable(refresh_s=10)
    columns = [{"route_id": "A"}, {"route_id": "B"}, {"route_id": "C"}]
    fetch_all(table, columns_of(columns), {}, 0)
    for name, now_ms in ((b"A", 10_000), (b"B", 10_200), (b"C", 10_500)):
        table.update([b"route_stops:" + name], [None], now_ms * 1000)
    table.resolve_rest(columns_of(columns))
    assert table.due(19_600_000) == []
    due = table.due(20 * S)
    assert due[:4] == [b"route_stops:A", b"route_shape:A", b"route_stops:B", b"route_shape:B"]
    assert sorted(due) == sorted(route_keys("A") + route_keys("B"))


def test_a_name_that_could_not_be_fetched_is_due_again():
    table = RouteTable(refresh_s=10)
    fetch_all(table, columns_of([{}]), {b"route_stops:R": TWO}, 0)
    keys = route_keys()
    assert table.due(10 * S) == table.due(11 * S) == keys
    table.update(keys, [TWO] + [None] * 9, 11 * S)
    assert table.due(11 * S) == []


def test_a_name_used_late_is_due_at_once():
    table = RouteTable(refresh_s=10)
    fetch_all(table, columns_of([{}]), {b"route_stops:R": TWO}, 0)
    keys = table.due(10 * S)
    table.update(keys, [TWO] + [None] * 9, 10 * S)
    assert table.due(50 * S) == []
    table.resolve_rest(columns_of([{}]))
    assert table.due(50 * S) == keys


def test_a_clock_set_back_makes_everything_due():
    table = RouteTable(refresh_s=10, forget_after_s=100)
    redis = {b"route_stops:R": TWO}
    fetch_all(table, columns_of([{}, {"route_id": "old"}]), redis, 10_000 * S)
    assert table.due(10_001 * S) == []
    assert b"route_stops:R" in table.due(5_000 * S)
    for now_s in range(5_000, 5_300, 10):
        fetch_all(table, columns_of([{}]), redis, now_s * S)
    assert table.missing(columns_of([{"route_id": "old"}])) == route_keys("old")


def test_names_are_bounded_and_the_longest_unused_go():
    table, redis = RouteTable(refresh_s=1e6, max_names=400), {b"route_stops:R": TWO}
    redis |= {f"trip_pattern:{i}".encode(): b"P%d" % (i % 3) for i in range(5000)}
    redis |= {f"pattern_stops:P{i}".encode(): THREE for i in range(3)}
    for now_s in range(50):
        snapshots = [{"trip_id": f"{i}"} for i in range(100 * now_s, 100 * now_s + 100)]
        pattern_ix, _ = fetch_all(table, columns_of(snapshots), redis, now_s * S)
        assert pattern_ix == [
            table.pattern_ix(b"pattern_stops:P%d" % (i % 3)) for i in range(100 * now_s, 100 * now_s + 100)
        ]
        assert table._names.n_trips <= 400
    newest = columns_of([{"trip_id": f"{i}"} for i in range(4900, 5000)])
    assert table.missing(newest) == []
    assert len(table.missing(columns_of([{"trip_id": "0"}]))) > 0
    # Also of one batch that is larger than the bound, and without a trip that lost its pattern.
    many = columns_of([{"trip_id": f"{i}", "route_id": f"{i}"} for i in range(2000)])
    pattern_ix, _ = fetch_all(table, many, redis, 60 * S)
    assert min(pattern_ix) >= 0
    assert max(table._names.n_trips, table._names.n_sources) <= 400
    again = columns_of([{"trip_id": f"{i}", "route_id": f"{i}"} for i in range(2000)])
    assert min(fetch_all(table, again, redis, 61 * S)[0]) >= 0


def test_memory_of_forgotten_names_is_given_back():
    table = RouteTable(forget_after_s=100)
    empty = table.nbytes
    for start in range(0, 6000, 1000):
        names = [{"trip_id": f"trip-{start + i}", "route_id": f"route-{start + i}"} for i in range(1000)]
        fetch_all(table, columns_of(names), {}, 0)
    assert table.nbytes > empty + 6000 * 100
    for now_s in range(50, 350, 50):
        fetch_all(table, columns_of([{}]), {}, now_s * S)
    assert table.nbytes < empty + 10_000


def test_a_pattern_id_that_is_too_long_is_none():
    table = RouteTable()
    redis = {b"route_stops:R": TWO, b"trip_pattern:T": b"x" * 257, b"trip_pattern:U": b"x" * 256}
    columns = columns_of([{"trip_id": "T"}, {"trip_id": "U"}])
    pattern_ix, rounds = fetch_all(table, columns, redis)
    assert rounds[1] == [b"pattern_shape:" + b"x" * 256, b"pattern_stops:" + b"x" * 256]
    assert pattern_ix == [table.pattern_ix(b"route_stops:R")] * 2


def test_a_name_longer_than_an_int32_is_refused():
    names = NameTable(1, 1)
    for call in (names.learn_trip, names.learn_source, names.pattern_of):
        arguments = {"learn_trip": (None,), "learn_source": (ROUTE, 0), "pattern_of": (ROUTE,)}[call.__name__]
        with pytest.raises(ValueError, match=r"2\*\*31"):
            call(bytes(2**31), *arguments)


@pytest.mark.parametrize("column", ["route_id", "trip_id"])
@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1), (0, 10**6), (10**12, 1), (2**63 - 1, 5)])
def test_a_text_outside_the_arena_is_refused(column, start, length):
    table, columns = RouteTable(), columns_of([{}, {"trip_id": "T"}])
    text = getattr(columns, column)
    text["start"][1], text["length"][1] = start, length
    with pytest.raises(ValueError, match="row 1 lies outside"):
        table.missing(columns)
    with pytest.raises(ValueError, match="row 1 lies outside"):
        table.resolve_rest(columns)
    columns.status[1] = Status.TOO_OLD
    assert table.missing(columns) == route_keys()


def test_a_huge_shape_is_not_solved():
    line = Line(np.linspace(45.0, 46.0, 50_001), np.full(50_001, 7.0))
    lat = np.linspace(45.0, 46.0, 84)
    assert line.place_stops(lat, np.full(84, 7.0))[1] == np.inf
    assert line.place_stops(lat[:83], np.full(83, 7.0))[1] < 2000


def test_unused_names_are_forgotten():
    table = RouteTable(refresh_s=1e6, forget_after_s=100)
    redis = {b"route_stops:R": TWO, b"trip_pattern:T": b"P", b"pattern_stops:P": THREE}
    fetch_all(table, columns_of([{"trip_id": "T"}, {"route_id": "old"}, {"trip_id": "gone"}]), redis, 0)
    nbytes = table.nbytes
    for now_s in range(20, 220, 20):
        pattern_ix, rounds = fetch_all(table, columns_of([{"trip_id": "T"}]), redis, now_s * S)
    # The route itself was not used either: the trip has its pattern.
    assert rounds == []
    assert table.pattern_ix(b"route_stops:R") == -1
    assert pattern_ix == [table.pattern_ix(b"pattern_stops:P")]
    assert table.nbytes < nbytes
    columns = columns_of([{"trip_id": "T"}, {"trip_id": "gone"}])
    pattern_ix, rounds = fetch_all(table, columns, redis, 220 * S)
    assert rounds == [sorted([*route_keys(), b"trip_pattern:gone"])]
    assert columns.pattern_ix[1] == table.pattern_ix(b"route_stops:R")


def test_many_trips():
    table, redis = RouteTable(), {b"route_stops:R": TWO}
    snapshots = [{"trip_id": f"trip-{i}"} for i in range(3000)]
    redis |= {f"trip_pattern:trip-{i}".encode(): f"P{i % 7}".encode() for i in range(3000)}
    redis |= {f"pattern_stops:P{i}".encode(): THREE for i in range(7)}
    pattern_ix, rounds = fetch_all(table, columns_of(snapshots), redis)
    assert [len(r) for r in rounds] == [3010, 14]
    assert all(len(set(keys)) == len(keys) for keys in rounds)
    assert pattern_ix == [table.pattern_ix(b"pattern_stops:P%d" % (i % 7)) for i in range(3000)]


def test_key_names_can_be_others():
    names = KeyNames(route_stops="a/", route_shape="b/", direction_stops="c/", direction_shape="d/", run_pattern="e/")
    table = RouteTable(names)
    assert table.missing(columns_of([{"direction_id": 1, "start_time": "07:05:09"}])) == [
        b"e/1:07:05:09:R", b"a/R", b"b/R", b"c/1:R", b"d/1:R", b"a/R:1", b"b/R:1",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no key of stops"):
        table.set_pattern(b"route_stops:R", TWO)


def test_a_long_route_id_and_control_characters():
    redis = {}
    table = RouteTable()
    names = ["x" * 250, "a\0b", "é:1"]
    columns = columns_of([{"route_id": name, "direction_id": 1} for name in names])
    _, rounds = fetch_all(table, columns, redis)
    assert len(rounds[0]) == 18
    assert ("direction_stops:1:" + "x" * 250).encode() in rounds[0]
    assert ("route_stops:" + "x" * 250 + ":1").encode() in rounds[0]


def test_shape_is_sorted_and_bad_shapes_are_left_out():
    points = [(45.0, 7.0), (45.01, 7.0), (45.01, 7.01)]
    rows = [
        {"shape_pt_lat": str(a), "shape_pt_lon": o, "shape_pt_sequence": s}
        for (a, o), s in zip(points, (5, 10, 20), strict=True)
    ]
    shape = ShapePolyline.from_blob(orjson.dumps({"points": rows[::-1]}))
    assert shape.length_m == pytest.approx(ShapePolyline(points).length_m)
    for bad in (
        b"[",
        b"[1]",
        b'{"points": 3}',
        b"[]",
        orjson.dumps({"points": rows[:1]}),
        b'[{"lat":1,"lon":1},{"lat":1}]',
    ):
        assert parse_shape(bad) is None
        with pytest.raises(RouteDataError, match="shape"):
            ShapePolyline.from_blob(bad)


def test_a_shape_far_from_the_stops_is_not_used():
    table = RouteTable()
    table.set_pattern(b"route_stops:R", THREE, shape_blob([(45.0, 7.0), (45.02, 7.02)]))
    assert described(table, b"route_stops:R")["n_segments"] == 2
    # A shape of the other direction: the stops cannot follow it.
    table.set_pattern(b"route_stops:R", THREE, shape_blob([(45.03, 7.0), (45.02, 7.0), (45.0, 7.0)]))
    pattern = described(table, b"route_stops:R")
    assert pattern["length_m"] == pytest.approx(2 * 1111.95, rel=1e-4)
    assert pattern["s_m"] == pytest.approx([0.0, 1111.95, 2223.9], rel=1e-4)


def test_stops_of_an_out_and_back_shape_keep_their_order():
    shape = ShapePolyline([(45.0, 7.0), (45.02, 7.0), (45.0, 7.0)])
    lat = np.array([45.0, 45.01, 45.02, 45.01, 45.0])
    s_m, worst_m = shape.line.place_stops(lat, np.full(5, 7.0))
    assert s_m / shape.length_m == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert worst_m == pytest.approx(0.0, abs=1e-3)


def test_a_point_said_twice_is_dropped():
    assert ShapePolyline([(1, 2), (1, 2), (1, 3), (1, 3)]).line.n_segments == 1
    assert ShapePolyline([(1, 2), (1, 2)]).length_m == 0.0


def test_kernels_refuse_arrays_that_do_not_fit():
    lat, sequence, text = np.zeros(2), np.zeros(2, np.int32), np.zeros(4, np.uint8)
    spans = np.zeros((2, 4), np.int32)
    table = PatternTable()
    assert table.add(0, lat, lat, sequence, text, spans) == 0
    for bad in (-1, 5):
        wrong = spans.copy()
        wrong[1, 3] = bad
        with pytest.raises(ValueError, match="span"):
            table.add(0, lat, lat, sequence, text, wrong)
    with pytest.raises(ValueError, match="one length"):
        table.add(0, lat, lat[:1], sequence, text, spans)
    with pytest.raises(ValueError, match="two stops"):
        table.add(0, lat[:1], lat[:1], sequence[:1], text, spans[:1])
    with pytest.raises(ValueError, match="two points"):
        Line(lat[:1], lat[:1])


def test_the_stop_ids_of_a_pattern_are_given_while_it_lasts():
    table = RouteTable()
    table.set_pattern(b"route_stops:R", stops_blob([("A", 45.0, 7.0, 1), ("é", 45.1, 7.0, 2), (7, 45.2, 7.0, 3)]))
    table.set_pattern(b"route_stops:X", b"[]")
    number, unusable = table.pattern_ix(b"route_stops:R"), table.pattern_ix(b"route_stops:X")
    assert table.patterns.stop_ids(number) == [b"A", "é".encode(), b"7"]
    assert table.patterns.stop_ids(unusable) == []
    table.patterns.retire(number)
    assert table.patterns.stop_ids(number) is not None
    table.patterns.sweep()
    assert [table.patterns.stop_ids(gone) for gone in (number, -1, 99)] == [None, None, None]


@pytest.mark.parametrize(
    "row",
    [
        {"trip_id": "new"},
        {"route_id": "new"},
        {"direction_id": 2},
        {"start_time": "07:00:00"},
        {"trip_id": "T", "route_id": "new"},
    ],
)
def test_names_that_are_not_known_are_not_resolved(row):
    table = RouteTable()
    fetch_all(table, columns_of([{}, {"trip_id": "T"}]), {b"route_stops:R": TWO})
    columns = columns_of([{}, row])
    assert not table.resolve_known(columns)
    assert columns.status[:2].tolist() == [Status.OK, Status.OK]
    assert table.missing(columns)
    fetch_all(table, columns, {b"route_stops:R": TWO})
    assert table.missing(columns_of([{}, row])) == []
