"""What real feeds do, played to the loop: a feed is seeded, snapshots are written one after another, and the loop is
asked a second after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from etacore.config import RuntimeConfig
from etacore.loop.observer import PollResult
from etacore.loop.runtime import Runtime
from etacore.mlops.transit.gtfs import read_feed
from etacore.mlops.transit.seed import seed_redis
from etacore.status import Remark, Status
from etacore.store.server import RedisServer
from tests.transit import write_feed

START_S = 1_741_071_600
STEP_DEG = 0.0035973  # 400 m of latitude
N_STOPS = 10
AGENCY = "agency_id,agency_name,agency_url,agency_timezone\nx,X,http://x.example,Europe/Rome\n"
ROUTES = "route_id,route_short_name,route_type\nR1,1,3\n"
CALENDAR = (
    "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\n"
    "D,1,1,1,1,1,1,1,20250101,20261231\n"
)


def north(along: float) -> tuple[float, float]:
    """A place so many stops north of the first one."""
    return 45.0 + along * STEP_DEG, 7.0


def around(along: float) -> tuple[float, float]:
    """A place on a square of eight stops, two a side; 8.0 is the first stop again."""
    side, rest = divmod(along % 8.0, 2.0)
    east, north_ = [(0, rest), (rest, 2), (2, 2 - rest), (2 - rest, 0)][int(side)]
    return 45.0 + north_ * STEP_DEG, 7.0 + east * STEP_DEG / 0.7071


def trip_rows(trip_id: str, stops: Sequence[str], *, step: int = 1, start_h: int = 8) -> str:
    """Stop times a minute apart."""
    rows = [
        f"{trip_id},{start_h:02}:{i:02}:00,{start_h:02}:{i:02}:00,{stop},{step * (i + 1)}"
        for i, stop in enumerate(stops)
    ]
    return "".join(f"{row}\n" for row in rows)


def feed_files(trips: str, stop_times: str, place: Callable[[float], tuple[float, float]] = north) -> dict[str, Any]:
    """The files of a feed whose stops S1, S2 ... lie at `place` (0, 1, ...)."""
    n = N_STOPS if place is north else 8
    stops = "".join(f"S{i + 1},Stop {i + 1},{lat:.7f},{lon:.7f}\n" for i, (lat, lon) in enumerate(map(place, range(n))))
    return {
        "agency.txt": AGENCY,
        "routes.txt": ROUTES,
        "calendar.txt": CALENDAR,
        "calendar_dates.txt": None,
        "shapes.txt": None,
        "stops.txt": f"stop_id,stop_name,stop_lat,stop_lon\n{stops}",
        "trips.txt": f"route_id,service_id,trip_id,direction_id\n{trips}",
        "stop_times.txt": f"trip_id,arrival_time,departure_time,stop_id,stop_sequence\n{stop_times}",
    }


ALL_STOPS = [f"S{i + 1}" for i in range(N_STOPS)]
ONE_WAY = feed_files("R1,D,T1,\n", trip_rows("T1", ALL_STOPS, step=10))
BOTH_WAYS = feed_files("R1,D,U,0\nR1,D,B,1\n", trip_rows("U", ALL_STOPS) + trip_rows("B", ALL_STOPS[::-1]))
CIRCLE = feed_files("R1,D,LOOP,\n", trip_rows("LOOP", [f"S{i % 8 + 1}" for i in range(9)]), around)
TWO_BRANCHES = feed_files(
    "R1,D,LONG,0\nR1,D,SHORT,0\n", trip_rows("LONG", ALL_STOPS) + trip_rows("SHORT", ALL_STOPS[:4])
)


class Street:
    """A loop over a seeded feed."""

    def __init__(self, server: RedisServer, registry_dir: Path, feed_path: Path, **settings: Any) -> None:
        self.client = server.client()
        self.client.flushall()
        seed_redis(self.client, read_feed(feed_path))
        self.now_us = START_S * 1_000_000
        config = RuntimeConfig(redis_url=server.url, model_registry_dir=registry_dir, **settings)
        self.runtime = Runtime(config, clock=lambda: self.now_us)
        self.result = PollResult(0, {}, 0.0)  # type: ignore[arg-type]

    def report(self, place: tuple[float, float], seconds: float, vehicle_id: str = "bus", **members: Any) -> Any:
        """The document for a snapshot; the `Status` if there is none."""
        time_s = START_S + seconds
        snapshot = {"vehicle_id": vehicle_id, "lat": round(place[0], 7), "lon": round(place[1], 7), "route_id": "R1"}
        self.client.set(f"vehicle:{vehicle_id}", orjson.dumps(snapshot | {"timestamp": time_s} | members))
        self.now_us = round((time_s + 1) * 1_000_000)
        self.result = self.runtime.poll()
        document = orjson.loads(self.client.get(f"predictions:{vehicle_id}") or b"{}")
        if document.get("source_timestamp") == time_s:
            return document
        return next(status for status in self.result.counts if status not in (Status.OK, Status.UNCHANGED))

    def next_stop(self, place: tuple[float, float], seconds: float, vehicle_id: str = "bus", **members: Any) -> Any:
        """Sequence of the first stop of the document, or the `Status`."""
        document = self.report(place, seconds, vehicle_id, **members)
        return document if isinstance(document, Status) else document["predictions"][0]["stop_sequence"]

    def close(self) -> None:
        self.runtime.close()
        self.client.close()


Opened = Callable[..., Street]


@pytest.fixture
def street(redis_server: RedisServer, registry_dir: Path, tmp_path: Path) -> Iterator[Opened]:
    """Opens a loop over a feed of these files."""
    opened: list[Street] = []

    def open_street(files: dict[str, Any], **settings: Any) -> Street:
        path = write_feed(tmp_path / f"feed{len(opened)}", files)
        opened.append(Street(redis_server, registry_dir, path, **settings))
        return opened[-1]

    yield open_street
    for one in opened:
        one.close()


@pytest.mark.parametrize(
    ("along", "said", "expected", "remark"),
    [
        (3.5, {}, 50, None),
        (3.5, {"current_stop_sequence": 0}, 50, Remark.STOP_HINT_UNKNOWN),
        (3.5, {"current_stop_sequence": -1}, 50, Remark.STOP_HINT_UNKNOWN),
        (3.5, {"current_stop_sequence": 5}, 50, Remark.STOP_HINT_UNKNOWN),
        (3.5, {"stop_id": "elsewhere"}, 50, Remark.STOP_HINT_UNKNOWN),
        (3.5, {"current_stop_sequence": 10}, 50, Remark.STOP_HINT_CONTRADICTED),
        (6.5, {"current_stop_sequence": 20, "current_status": "STOPPED_AT"}, 80, Remark.STOP_HINT_CONTRADICTED),
        (6.5, {"stop_id": "S2", "current_status": "STOPPED_AT"}, 80, Remark.STOP_HINT_CONTRADICTED),
        (3.5, {"current_stop_sequence": 50, "current_status": "STOPPED_AT"}, 50, None),
        (4.0, {"current_stop_sequence": 50, "current_status": "STOPPED_AT"}, 60, None),
        (-0.5, {}, 10, None),
        (-0.5, {"current_stop_sequence": 20}, 10, None),
    ],
)
def test_the_position_has_the_last_word(
    street: Opened, along: float, said: dict[str, Any], expected: int, remark: Remark | None
) -> None:
    one = street(ONE_WAY)
    assert one.next_stop(north(along), 0, trip_id="T1", **said) == expected
    assert one.result.remarks == ({} if remark is None else {remark: 1})


def east_of(along: float, metres: float) -> tuple[float, float]:
    """A place beside the line of `north`."""
    lat, lon = north(along)
    return lat, lon + metres / 78_600


def test_a_vehicle_on_its_way_to_the_begin_is_told_the_first_stop(street: Opened) -> None:
    one = street(ONE_WAY)
    # From a depot east of the middle of the line, along another street, to the first stop; then along the line.
    way = [east_of(4.3, 1200), east_of(3.1, 900), east_of(1.5, 700), east_of(0.5, 400), east_of(0.2, 120), north(0.0)]
    found = [one.next_stop(place, 60 * i, trip_id="T1") for i, place in enumerate(way)]
    assert found == [10, 10, 10, 10, 10, 20]
    assert [one.next_stop(north(0.4 + i), 400 + 60 * i, trip_id="T1") for i in range(4)] == [20, 30, 40, 50]


def test_a_vehicle_that_joins_its_line_goes_on_from_there(street: Opened) -> None:
    one = street(ONE_WAY)
    assert one.next_stop(east_of(4.3, 100), 0, trip_id="T1") == 60, "near enough to be on the line"
    assert one.next_stop(east_of(4.3, 400), 0, "far", trip_id="T1") == 10
    assert one.next_stop(east_of(4.5, 20), 60, "far", trip_id="T1") == 60
    assert one.next_stop(east_of(5.5, 400), 120, "far", trip_id="T1") == 70, "a detour of a vehicle that was there"
    assert one.next_stop(east_of(4.3, 400), 0, "told", trip_id="T1", current_stop_sequence=60) == 60
    assert one.next_stop(east_of(4.3, 400), 0, "no trip") == 60, "nothing says that it has a begin to go to"


def test_two_stops_at_the_begin_of_the_line_are_both_ahead(street: Opened) -> None:
    files = feed_files("R1,D,T1,\n", trip_rows("T1", ["S1", "S1", *ALL_STOPS[1:]]))
    one = street(files)
    assert one.next_stop(north(-0.5), 0, trip_id="T1") == 1
    assert one.next_stop(north(0.0), 60, trip_id="T1") == 3, "both were reached"


def test_the_same_trip_again_is_a_run_of_its_own(street: Opened) -> None:
    one = street(ONE_WAY)
    places = [0.0, 0.9, 1.9, 2.9, 3.9, 4.9, 5.9, 6.9, 7.9, 8.9]
    runs = [
        [one.next_stop(north(along), 900 * run + 60 * i, trip_id="T1") for i, along in enumerate(places)]
        for run in range(3)
    ]
    assert runs == [[20, 20, 30, 40, 50, 60, 70, 80, 90, 100]] * 3


def test_a_start_names_the_run_and_is_told(street: Opened) -> None:
    one = street(ONE_WAY)
    for i in range(5):
        one.report(north(0.5 + i), 60 * i, trip_id="T1", start_date="20250304", start_time="08:00:00")
    # Half a minute after the last report of the run before, in the middle of the line.
    document = one.report(north(1.5), 270, trip_id="T1", startDate="2025-03-04", startTime="8:15:00")
    assert document["predictions"][0]["stop_sequence"] == 30
    assert list(document)[-3:] == ["prefect_pipeline_latency_ms", "start_date", "start_time"]
    assert (document["start_date"], document["start_time"]) == ("20250304", "08:15:00")


def test_a_circular_line_goes_on_with_the_next_lap(street: Opened) -> None:
    one = street(CIRCLE)
    for i in range(60):
        driven = 0.05 + 0.45 * i
        assert one.next_stop(around(driven), 30 * i, trip_id="LOOP") == int(driven % 8.0) + 2, driven


@pytest.mark.parametrize("bearing", [{}, {"bearing": 180.0}, {"bearing": 0.0}])
def test_a_vehicle_without_a_trip_follows_the_direction_in_which_it_drives(
    street: Opened, bearing: dict[str, Any]
) -> None:
    one = street(BOTH_WAYS)
    found = [one.next_stop(north(7.6 - 0.6 * i), 30 * i, **bearing) for i in range(6)]
    # S10 is stop 1 of direction 1.
    expected = [3, 4, 4, 5, 5, 6]
    assert found[1:] == expected[1:], "by its movement"
    assert found[0] == {None: Status.DIRECTION_UNKNOWN, 180.0: expected[0], 0.0: 9}[bearing.get("bearing")]


def test_off_both_directions_is_off_the_route(street: Opened) -> None:
    one = street(BOTH_WAYS)
    assert one.report((45.4, 7.0), 0) == Status.OFF_ROUTE
    one.report((45.001, 7.0), 0, "other")
    assert one.result.counts == {Status.OFF_ROUTE: 1, Status.DIRECTION_UNKNOWN: 1}


def test_a_trip_that_the_feed_does_not_know_is_a_guess(street: Opened) -> None:
    one = street(TWO_BRANCHES)
    assert "pattern" not in one.report(north(1.5), 0, trip_id="SHORT")
    document = one.report(north(1.5), 0, "other", trip_id="added-by-the-dispatcher")
    assert document["pattern"] == "guessed"
    assert one.result.remarks == {Remark.PATTERN_GUESSED: 1}
    strict = street(TWO_BRANCHES, guessed_patterns=False)
    assert strict.report(north(1.5), 0, trip_id="added-by-the-dispatcher") == Status.GUESSED_PATTERN
    assert strict.result.n_due == 0, "nobody is alarmed by what was switched off"
    assert strict.next_stop(north(1.5), 0, "other", trip_id="LONG") == 3


def test_stops_of_old_deployments_are_no_guess(street: Opened) -> None:
    one = street(ONE_WAY)
    one.client.flushdb()
    stops = [{"stop_id": f"S{i}", "lat": north(i)[0], "lon": north(i)[1]} for i in range(N_STOPS)]
    one.client.set("route_stops:R1", orjson.dumps(stops))
    document = one.report(north(1.5), 0, trip_id="whatever")
    assert document["predictions"][0]["stop_id"] == "S2"
    assert "pattern" not in document


def test_a_run_without_a_trip_id_finds_its_trip(street: Opened) -> None:
    files = feed_files(
        "R1,D,LONG,0\nR1,D,SHORT,0\n", trip_rows("LONG", ALL_STOPS) + trip_rows("SHORT", ALL_STOPS[:4], start_h=9)
    )
    one = street(files, max_stops_per_vehicle=20)
    start = {"direction_id": 0, "start_date": "20250304"}
    for vehicle_id, start_time, expected in (("a", "09:00:00", 3), ("b", "08:00:00", 9)):
        document = one.report(north(0.5), 0, vehicle_id, **start, start_time=start_time)
        assert len(document["predictions"]) == expected
        assert "pattern" not in document


def test_arrivals_never_fall_along_the_line(street: Opened) -> None:
    one = street(CIRCLE, max_stops_per_vehicle=8)
    n_equal = 0
    for i in range(40):
        document = one.report(around(0.03 + 0.19 * i), 15 * i, trip_id="LOOP")
        etas_s = [prediction["eta_seconds"] for prediction in document["predictions"]]
        assert etas_s[0] >= 0
        assert all(later >= earlier for earlier, later in pairwise(etas_s)), etas_s
        n_equal += sum(later == earlier for earlier, later in pairwise(etas_s))
    assert n_equal, "the model's own answers would have fallen"
