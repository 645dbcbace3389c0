"""One vehicle explained without Redis: what was chosen, from which key, and why."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from etacore.config import RuntimeConfig
from etacore.loop.explain import explain_snapshots, split_snapshots, vehicle_key
from etacore.loop.explanation import Explanation
from etacore.loop.rehearsal import Rehearsal
from etacore.models.choice import Models
from tests.fleet import ROUTE, STOPS, stops_blob
from tests.unit.test_engine import NOW_US, Speed, Store

NOW_S = NOW_US // 1_000_000
SHAPE = {
    "points": [
        {"shape_pt_lat": stop["lat"], "shape_pt_lon": stop["lon"] + 0.00001 * (k % 2), "shape_pt_sequence": k}
        for k, stop in enumerate(STOPS)
    ]
}


def snapshot(**changes: Any) -> bytes:
    base = {"vehicle_id": "B", "lat": 9.940, "lon": -84.0801, "timestamp": NOW_S, "route": ROUTE}
    return json.dumps({name: value for name, value in (base | changes).items() if value is not None}).encode()


def explained(
    *payloads: bytes, store: dict[str, bytes] | None = None, models: Models | None = None, guessed_patterns: bool = True
) -> Explanation:
    held = {f"route_stops:{ROUTE}": stops_blob()} if store is None else store
    config = RuntimeConfig(guessed_patterns=guessed_patterns)
    fetch = Store({key.encode(): value for key, value in held.items()}).fetch
    rehearsal = Rehearsal(models or Models(Speed()), config, fetch, NOW_US)
    played = [(b"vehicle:B", payload) for payload in payloads]
    return explain_snapshots(config, rehearsal, played, is_played=len(played) > 1)


def test_a_healthy_vehicle_shows_pattern_place_and_prediction() -> None:
    found = explained(snapshot())
    assert (found.status, found.counted_as, found.details) == ("ok", "predicted", [])
    assert found.pattern is not None
    assert (found.pattern.key, found.pattern.n_stops, found.pattern.guessed) == (f"route_stops:{ROUTE}", 8, False)
    assert found.pattern.length_m == pytest.approx(3113.5, abs=0.1)
    assert found.pattern.why == "the stops of its route: it names no trip, and it names no direction"
    assert found.place is not None
    assert found.place.previous_stop is not None
    assert found.place.next_stop is not None
    assert (found.place.previous_stop.stop_id, found.place.next_stop.stop_id) == ("S2", "S3")
    assert (found.place.next_stop.name, found.place.next_stop.sequence) == ("Stop 3", 30)
    assert found.place.progress_m == pytest.approx(667.2, abs=0.1)
    assert found.place.share == pytest.approx(0.2143, abs=0.0001)
    assert found.place.off_line_m == pytest.approx(11.0, abs=0.1)
    assert found.place.why == ["it names no stop, so its position decides", "no earlier fix on this run is known"]
    assert found.prediction is not None
    assert [stop.stop_id for stop in found.prediction.stops] == ["S3", "S4", "S5", "S6", "S7"]
    first = found.prediction.stops[0]
    assert (first.name, first.distance_m) == ("Stop 3", 222.7)
    assert first.eta_s == pytest.approx(222.7 / 8.0, abs=0.1)
    assert first.arrival == "2026-01-21 12:53:47 UTC"
    assert found.prediction.features[0].name == "distance_to_stop"
    assert found.prediction.features[0].value == pytest.approx(222.66, abs=0.01)
    assert found.prediction.features[0].unit == "m"
    assert orjson.loads(orjson.dumps(found.to_dict()))["pattern"]["key"] == f"route_stops:{ROUTE}"


def test_the_pattern_of_the_trip_is_named_with_the_key_that_names_it() -> None:
    store = {
        "trip_pattern:T": b"P",
        "pattern_stops:P": stops_blob(STOPS[1:]),
        "pattern_shape:P": json.dumps(SHAPE).encode(),
        f"route_stops:{ROUTE}": stops_blob(),
    }
    found = explained(snapshot(trip_id="T"), store=store)
    assert found.pattern is not None
    assert (found.pattern.key, found.pattern.n_stops) == ("pattern_stops:P", 7)
    assert found.pattern.why == "its trip's own pattern, named by trip_pattern:T"
    asked = {each.key: each.found for each in found.asked}
    assert asked["trip_pattern:T"] is True
    assert asked["pattern_stops:P"] is True
    assert not any("shape" in key for key in asked)


def test_a_trip_without_a_pattern_gets_the_stops_of_its_route_and_says_so() -> None:
    found = explained(snapshot(trip_id="T"))
    assert found.pattern is not None
    assert found.pattern.key == f"route_stops:{ROUTE}"
    assert "no pattern is known of its trip 'T'" in found.pattern.why
    assert ("trip_pattern:T", False) in [(each.key, each.found) for each in found.asked]


def test_the_stops_of_its_direction_are_named_by_the_key_that_holds_them() -> None:
    store = {f"route_stops:{ROUTE}": stops_blob(), f"route_stops:{ROUTE}:1": stops_blob(STOPS[::-1])}
    found = explained(snapshot(direction_id=1), store=store)
    assert found.pattern is not None
    assert found.pattern.key == f"route_stops:{ROUTE}:1"
    assert found.pattern.why == "the stops of its route and direction 1: it names no trip"
    assert found.place is not None
    assert found.place.next_stop is not None
    assert found.place.next_stop.stop_id == "S2"


SEEDED = {
    "direction_stops:0:171": orjson.dumps({"stops": STOPS, "route_id": ROUTE, "direction_id": 0, "patterns": 1}),
    "direction_stops:1:171": orjson.dumps({"stops": STOPS[::-1], "route_id": ROUTE, "direction_id": 1, "patterns": 1}),
    f"route_stops:{ROUTE}": orjson.dumps({"stops": STOPS, "route_id": ROUTE, "patterns": 2}),
}


def test_the_direction_that_a_vehicle_follows_is_said_with_the_key_of_its_stops() -> None:
    found = explained(snapshot(bearing=180), store=SEEDED)
    assert (found.status, found.remarks) == ("ok", [])
    assert found.pattern is not None
    assert found.pattern.key == f"direction_stops:1:{ROUTE}"
    assert found.pattern.why.startswith("the direction of its route that it follows")
    assert found.place is not None
    assert found.place.next_stop is not None
    assert found.place.next_stop.stop_id == "S2"
    assert any("of two directions" in why for why in found.place.why)


def test_a_vehicle_that_may_go_either_way_shows_both_lines_until_it_moves() -> None:
    found = explained(snapshot(), store=SEEDED)
    assert (found.status, found.prediction) == ("direction_unknown", None)
    assert sorted(found.details) == [f"11 m from the line of direction_stops:{k}:{ROUTE}" for k in (0, 1)]
    moving = explained(*(snapshot(lat=9.94 - 0.001 * k, timestamp=NOW_S - 90 + 30 * k) for k in range(2)), store=SEEDED)
    assert [each.status for each in moving.earlier] == ["direction_unknown"]
    assert moving.pattern is not None
    assert moving.pattern.key == f"direction_stops:1:{ROUTE}"


def test_a_run_without_a_trip_id_is_found_by_its_start() -> None:
    store = SEEDED | {"run_pattern:1:08:00:00:171": b"P", "pattern_stops:P": stops_blob(STOPS[::-1])}
    found = explained(snapshot(direction_id=1, start_time="08:00:00"), store=store)
    assert found.pattern is not None
    assert found.pattern.key == "pattern_stops:P"
    assert "below run_pattern:" in found.pattern.why
    assert ("run_pattern:1:08:00:00:171", True) in [(each.key, each.found) for each in found.asked]


def test_a_trip_that_the_seeded_feed_does_not_have_is_a_guess() -> None:
    payload = snapshot(trip_id="T", direction_id=1)
    found = explained(payload, store=SEEDED)
    assert (found.status, found.remarks) == ("ok", ["pattern_guessed"])
    assert found.pattern is not None
    assert found.pattern.guessed
    assert found.pattern.why.endswith("its trip is not among them, so this is a guess")
    found = explained(payload, store=SEEDED, guessed_patterns=False)
    assert (found.status, found.counted_as, found.place) == ("guessed_pattern", "rejected", None)
    assert found.details[0].startswith("not in Redis: trip_pattern:T")


@pytest.mark.parametrize(
    ("changes", "hint", "words"),
    [
        ({"current_stop_sequence": 30}, "followed", "its position bears that out (stop sequence 30)"),
        ({"current_stop_sequence": 5}, "unknown", "a stop that the pattern does not have"),
        ({"stop_id": "S7", "current_status": "STOPPED_AT"}, "contradicted", "(stop id 'S7', STOPPED_AT)"),
    ],
)
def test_what_became_of_the_stop_that_it_names(changes: dict[str, Any], hint: str, words: str) -> None:
    found = explained(snapshot(**changes))
    assert found.place is not None
    assert found.place.stop_hint == hint
    assert words in found.place.why[0]
    assert found.place.next_stop is not None
    assert found.place.next_stop.stop_id == "S3"
    assert found.remarks == ([] if hint == "followed" else [f"stop_hint_{hint}"])


def test_before_the_first_stop_the_list_begins_with_it() -> None:
    found = explained(snapshot(lat=STOPS[0]["lat"] - 0.002))
    assert found.place is not None
    assert found.place.next_stop is not None
    assert (found.place.next_stop.stop_id, found.place.previous_stop) == ("S1", None)
    assert "the first stop is not reached yet" in found.place.why


def test_snapshots_are_played_in_their_order_and_state_is_kept() -> None:
    payloads = [snapshot(lat=9.936 + 0.001 * k, timestamp=NOW_S - 300 + 30 * k, trip_id="T") for k in range(5)]
    found = explained(*payloads)
    assert [(each.status, each.next_stop) for each in found.earlier] == [("ok", "S2")] * 2 + [("ok", "S3")] * 2
    assert found.earlier[0].time == "2026-01-21T12:48:20+00:00"
    assert found.place is not None
    assert "at its fix before, 30 s earlier, it was at 556 m" in found.place.why
    assert any("a loop that reads it now" in note and "too_old" in note for note in found.notes)


def test_an_older_snapshot_in_a_file_is_out_of_order_and_explained_all_the_same() -> None:
    found = explained(snapshot(timestamp=NOW_S - 60), snapshot(timestamp=NOW_S - 90))
    assert (found.status, found.counted_as) == ("out_of_order", "rejected")
    assert "what was served last is of 2026-01-21T12:52:20+00:00" in found.details[0]
    assert found.prediction is not None


def test_what_would_be_rejected_behind_a_repetition_is_said() -> None:
    found = explained(snapshot(), snapshot(route="nowhere"))
    assert found.status == "unchanged"
    assert any(detail.startswith("not in Redis: route_stops:nowhere, ") for detail in found.details)
    assert found.details[-1].startswith("and otherwise it would be unknown_route")


def test_a_rejected_vehicle_has_no_prediction_and_says_which_keys_are_not_there() -> None:
    found = explained(snapshot(trip_id="T", route="nowhere"))
    assert (found.status, found.pattern, found.place, found.prediction) == ("unknown_route", None, None, None)
    assert found.details[0].startswith("not in Redis: trip_pattern:T, route_stops:nowhere, direction_stops:0:nowhere")


def test_a_trip_whose_pattern_has_no_stops_says_which_pattern() -> None:
    found = explained(snapshot(trip_id="T", route="nowhere"), store={"trip_pattern:T": b"P"})
    assert found.status == "unknown_route"
    assert "trip_pattern:T names the pattern 'P'" in found.details
    assert any(detail.startswith("not in Redis: ") and "pattern_stops:P" in detail for detail in found.details)


@pytest.mark.parametrize(
    ("blob", "status", "words"),
    [
        (b"{nope", "unknown_route", f"route_stops:{ROUTE} is there, but is no JSON list of stops"),
        (stops_blob(STOPS[:1]), "too_few_stops", f"route_stops:{ROUTE} is there, but the stops in Redis are fewer"),
        (
            stops_blob([*STOPS, {"stop_id": "S9", "stop_sequence": 90}]),
            "stop_without_coordinates",
            f'route_stops:{ROUTE}: stop 9 of 9 is \'{{"stop_id":"S9"',
        ),
    ],
)
def test_unusable_stops_say_what_is_wrong_with_them(blob: bytes, status: str, words: str) -> None:
    found = explained(snapshot(), store={f"route_stops:{ROUTE}": blob})
    assert found.status == status
    assert found.details[0].startswith(words)


@pytest.mark.parametrize(
    ("lat", "lon", "words"),
    [
        (-84.08, 9.94, "lat and lon may be exchanged: then it would be"),
        (9.94, 84.08, "the sign of lon may be wrong: then it would be"),
        (-9.94, -84.08, "the sign of lat may be wrong: then it would be"),
        (0.0, 0.0, "0/0 is what many receivers report without a fix"),
    ],
)
def test_a_vehicle_off_its_route_says_how_far_and_what_would_help(lat: float, lon: float, words: str) -> None:
    found = explained(snapshot(lat=lat, lon=lon))
    assert found.status == "off_route"
    assert "km from the line, and the limit is 2000 m" in found.details[0]
    assert found.details[1].startswith(words)
    assert len(found.details) == 2


def test_a_vehicle_far_away_is_told_the_distance_alone() -> None:
    found = explained(snapshot(lat=9.96, lon=-84.12))
    assert found.status == "off_route"
    assert found.details == ["it is 4381 m from the line, and the limit is 2000 m"]
    assert found.prediction is None


def test_a_finished_trip_names_its_last_stop() -> None:
    found = explained(snapshot(lat=STOPS[-1]["lat"] + 0.002))
    assert found.status == "trip_finished"
    assert found.details == ["the last stop, S8 Stop 8, is not ahead of it"]
    assert found.place is not None
    assert found.place.previous_stop is not None
    assert (found.place.previous_stop.stop_id, found.place.next_stop) == ("S8", None)


def test_without_a_model_the_place_is_explained_nevertheless() -> None:
    found = explained(snapshot(), models=Models(None, {b"9": Speed("of-9", route_id="9")}))
    assert (found.status, found.counted_as, found.prediction) == ("no_model", "failed", None)
    assert found.details == ["there are models of the routes 9 only"]
    assert found.place is not None


def test_a_model_without_a_number_is_a_failed_prediction() -> None:
    found = explained(snapshot(), models=Models(Speed(mps=float("nan"))))
    assert (found.status, found.counted_as, found.prediction) == ("prediction_failed", "failed", None)


@pytest.mark.parametrize(
    ("pattern", "name", "key"),
    [
        ("vehicle:*", "7", b"vehicle:7"),
        ("vehicle:*", "vehicle:7", b"vehicle:7"),
        ("vehicle:*", "vehicle:", b"vehicle:vehicle:"),
        ("bus:*:now", "7", b"bus:7:now"),
        ("bus:*:now", "bus:7:now", b"bus:7:now"),
    ],
)
def test_a_bare_id_gets_the_prefix_of_the_vehicles(pattern: str, name: str, key: bytes) -> None:
    from etacore.config import KeyNames

    assert vehicle_key(RuntimeConfig(keys=KeyNames(vehicle_pattern=pattern)), name) == key


@pytest.mark.parametrize(
    ("content", "snapshots"),
    [
        (b"", []),
        (b"\n \n", []),
        (b'{"a": 1}', [b'{"a": 1}']),
        (b'{"a": 1}\n\n{"a": 2}\r\n', [b'{"a": 1}', b'{"a": 2}']),
        (b'{\n "a": 1\n}\n', [b'{\n "a": 1\n}']),
        (b'{"a": 1}\n{broken\n{"a": 3}', [b'{"a": 1}', b"{broken", b'{"a": 3}']),
    ],
)
def test_a_file_holds_one_snapshot_or_one_a_line(content: bytes, snapshots: list[bytes]) -> None:
    assert split_snapshots(content) == snapshots
