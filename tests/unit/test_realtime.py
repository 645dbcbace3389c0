import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.transit import gtfs_realtime_pb2

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs import read_feed
from etacore.mlops.transit.left_out import LeftOut
from etacore.mlops.transit.positions import read_positions
from etacore.mlops.transit.realtime import FIX_SCHEMA, read_captures
from etacore.schema import NO_SEQUENCE, NO_START_DATE, NO_START_TIME
from tests.transit import real_data, write_feed, write_positions

NOW_S = 1_700_000_000


def message(*vehicles: dict[str, Any], header_s: int = NOW_S) -> Any:
    """A feed message; `vehicles` have the fields of VehiclePosition, and `entity_id`, `is_deleted`."""
    whole = gtfs_realtime_pb2.FeedMessage()
    whole.header.gtfs_realtime_version = "2.0"
    whole.header.timestamp = header_s
    for i, fields in enumerate(vehicles):
        entity = whole.entity.add(
            id=fields.pop("entity_id", str(i)),
            is_deleted=fields.pop("is_deleted", False),
        )
        entity.vehicle.CopyFrom(gtfs_realtime_pb2.VehiclePosition(**fields))
    return whole


def bus(name: str = "bus", time_s: int = NOW_S, **changes: Any) -> dict[str, Any]:
    base = {
        "vehicle": {"id": name},
        "timestamp": time_s,
        "position": {"latitude": 1.5, "longitude": 2.5},
        "trip": {"trip_id": "out", "route_id": "r1"},
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def capture(path: Path, *vehicles: dict[str, Any], header_s: int = NOW_S) -> Path:
    content = message(*vehicles, header_s=header_s).SerializeToString()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["c.pb", "c.bin", "c.pb.gz"])
def test_all_fields(tmp_path: Path, name: str) -> None:
    position = {"latitude": 1.5, "longitude": 2.5, "speed": 3.5, "bearing": 90.0}
    more: dict[str, Any] = {
        "position": position,
        "current_stop_sequence": 0,
        "stop_id": "S",
        "current_status": "STOPPED_AT",
    }
    positions = read_positions(capture(tmp_path / name, bus(**more)))
    assert (positions.vehicle_id[0], positions.route_id[0], positions.trip_id[0]) == ("bus", "r1", "out")
    assert positions.time_us.tolist() == [NOW_S * 1_000_000]
    assert (positions.lat[0], positions.lon[0]) == (1.5, 2.5)
    assert (positions.speed_mps[0], positions.bearing_deg[0], positions.stop_sequence[0]) == (3.5, 90.0, 0)
    assert (positions.stop_id[0], positions.current_status[0]) == ("S", "STOPPED_AT")
    assert positions.left_out == {}


def test_a_field_that_is_not_given_is_missing_and_not_its_default(tmp_path: Path) -> None:
    positions = read_positions(capture(tmp_path / "c.pb", bus()))
    assert np.isnan(positions.speed_mps[0])
    assert np.isnan(positions.bearing_deg[0])
    assert positions.stop_sequence[0] == NO_SEQUENCE
    assert positions.current_status[0] is None
    assert positions.stop_id[0] is None


def test_the_vehicle_has_a_name_and_a_time_if_there_is_any(tmp_path: Path) -> None:
    path = capture(
        tmp_path / "c.pb",
        bus(vehicle={"label": "label"}, timestamp=None, trip={"route_id": "r1"}),
        bus(vehicle=None, entity_id="entity", trip={"route_id": "r1"}),
        bus(vehicle={"id": "id", "label": "label"}, timestamp=NOW_S - 10),
        header_s=NOW_S + 5,
    )
    positions = read_positions(path)
    assert [positions.vehicle_id[i] for i in range(3)] == ["id", "entity", "label"]
    assert (positions.time_us // 1_000_000 - NOW_S).tolist() == [-10, 0, 5]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = capture(
        tmp_path / "c.pb",
        bus("a"),
        bus("b", position=None),
        bus("c", is_deleted=True),
        bus("d", trip=None),
        bus("", entity_id="", trip={"route_id": "r1"}),
    )
    positions = read_positions(path)
    assert positions.vehicle_id.values == ("a",)
    assert positions.left_out == {"no_position": 1, "deleted_entity": 1, "no_route": 1, "no_vehicle_id": 1}
    untimed = capture(tmp_path / "untimed.pb", bus(timestamp=None), header_s=0)
    with pytest.raises(FeedError, match=r"no position that can be used \(1 no_time\)"):
        read_positions(untimed)


def test_a_route_that_is_missing_comes_from_the_trip(tmp_path: Path) -> None:
    feed = read_feed(write_feed(tmp_path / "feed"))
    path = capture(
        tmp_path / "c.pb",
        bus("a", trip={"trip_id": "loop"}),
        bus("b", trip={"trip_id": "elsewhere"}),
        bus("c", trip={"trip_id": "loop", "route_id": "own"}),
    )
    positions = read_positions(path, feed=feed)
    assert [positions.route_id[i] for i in range(len(positions))] == ["r2", "own"]
    assert positions.left_out == {"no_route": 1}
    with pytest.raises(FeedError, match=r"2 no_route\)(.|\n)*give the GTFS feed"):
        read_positions(capture(tmp_path / "d.pb", bus("a", trip={"trip_id": "loop"}), bus("b", trip=None)))


def test_a_fix_that_captures_repeat_is_there_once(tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    capture(tmp_path / "day" / "1.pb", bus("a", NOW_S), bus("b", NOW_S))
    capture(tmp_path / "day" / "2.pb", bus("a", NOW_S), bus("b", NOW_S + 20))
    capture(tmp_path / "late.pb", bus("a", NOW_S + 20), bus("b", NOW_S))  # older than what was seen of b
    positions = read_positions(tmp_path)
    found = [(positions.vehicle_id[i], int(positions.time_us[i]) // 1_000_000 - NOW_S) for i in range(len(positions))]
    assert found == [("a", 0), ("b", 0), ("a", 20), ("b", 20)]
    assert positions.left_out == {"repeated_fix": 2}


def test_a_folder_mixes_kinds(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    row = {"vehicle_id": "t", "timestamp": NOW_S, "lat": 1.0, "lon": 2.0, "route_id": "7"}
    write_positions(tmp_path / "a" / "1.parquet", [row, row])
    write_positions(tmp_path / "a" / "b" / "2.csv", [row | {"timestamp": NOW_S + 1}])
    capture(tmp_path / "c.pb", bus())
    (tmp_path / "notes.txt").write_text("no positions")
    (tmp_path / ".c.pb.partial").write_text("half")
    (tmp_path / ".hidden.pb").write_text("half")
    positions = read_positions(tmp_path)
    assert len(positions) == 4  # what a table repeats is for the builder to judge
    assert len(read_positions([tmp_path / "c.pb", tmp_path, tmp_path / "c.pb"])) == 4
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeedError, match="empty has no positions in it"):
        read_positions([tmp_path, tmp_path / "empty"])


def test_a_bad_capture_among_good_ones_is_skipped_and_counted(tmp_path: Path) -> None:
    capture(tmp_path / "1.pb", bus())
    whole = (tmp_path / "1.pb").read_bytes()
    (tmp_path / "2.pb").write_bytes(whole[:-3])
    (tmp_path / "3.pb").write_bytes(b"")
    (tmp_path / "4.pb.gz").write_bytes(gzip.compress(whole)[:-12])
    positions = read_positions(tmp_path)
    assert len(positions) == 1
    assert positions.left_out == {"unreadable_file": 3}
    (tmp_path / "1.pb").unlink()
    with pytest.raises(FeedError, match=r"none of 3 captures can be used; the first: .*2\.pb is no GTFS-Realtime"):
        read_positions(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>Too many requests</html>", b'{"entity": []}', b"P\x00\x01"])
def test_a_foreign_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pb").write_bytes(content)
    with pytest.raises(FeedError, match=r"c\.pb is no GTFS-Realtime message"):
        read_positions(tmp_path / "c.pb")


def test_the_other_kinds_of_feed_are_named(tmp_path: Path) -> None:
    whole = message()
    whole.entity.add(id="1").trip_update.trip.trip_id = "t"
    whole.entity.add(id="2").alert.header_text.translation.add(text="detour")
    (tmp_path / "updates.pb").write_bytes(whole.SerializeToString())
    with pytest.raises(FeedError, match=r"updates\.pb holds 1 trip updates, 1 alerts and no vehicle positions"):
        read_positions(tmp_path / "updates.pb")
    capture(tmp_path / "positions.pb", bus())
    assert read_positions(tmp_path).left_out == {"file_without_vehicles": 1}


def test_a_quiet_night_is_no_error_beside_others(tmp_path: Path) -> None:
    capture(tmp_path / "night.pb")
    left_out = LeftOut()
    table = read_captures([tmp_path / "night.pb"], left_out)
    assert (len(table), list(table.columns), left_out) == (0, list(FIX_SCHEMA), Counter())
    with pytest.raises(FeedError, match=r"no position that can be used \(the captures are empty\)"):
        read_positions(tmp_path / "night.pb")


def test_times_above_1e11_are_milliseconds(tmp_path: Path) -> None:
    path = capture(
        tmp_path / "c.pb",
        bus("seconds"),
        bus("milliseconds", NOW_S * 1000 + 250),
        bus("microseconds", NOW_S * 1_000_000),
        bus("header", timestamp=None),
        header_s=(NOW_S + 5) * 1000,
    )
    positions = read_positions(path)
    assert [positions.vehicle_id[i] for i in range(3)] == ["seconds", "milliseconds", "header"]
    assert (positions.time_us - NOW_S * 1_000_000).tolist() == [0, 250_000, 5_000_000]
    assert positions.left_out == {"bad_time": 1}
    assert positions.examples["bad_time"].startswith(f"c.pb entity 2: timestamp {NOW_S * 1_000_000}")


def test_an_entity_that_lacks_a_required_field_costs_itself(tmp_path: Path) -> None:
    whole = message(bus("a"), bus("b"), bus("c"))
    whole.entity[1].vehicle.position.ClearField("longitude")
    whole.entity[2].ClearField("id")  # nobody needs it
    whole.header.ClearField("gtfs_realtime_version")
    (tmp_path / "c.pb").write_bytes(whole.SerializePartialToString())
    positions = read_positions(tmp_path / "c.pb")
    assert positions.vehicle_id.values == ("a", "c")
    assert positions.left_out == {"no_position": 1}
    assert positions.examples == {"no_position": "c.pb entity 1: latitude or longitude is missing"}


def test_of_a_message_that_was_cut_off_the_whole_entities_are_taken(tmp_path: Path) -> None:
    content = message(bus("a"), bus("b"), bus("c")).SerializeToString()
    (tmp_path / "c.pb").write_bytes(content[:-3])
    positions = read_positions(tmp_path / "c.pb")
    assert positions.vehicle_id.values == ("a", "b")
    assert positions.left_out == {"cut_off_file": 1}
    packed = gzip.compress(content)
    (tmp_path / "c.pb").write_bytes(packed[:-4])  # but for the length at its end, all is there
    assert read_positions(tmp_path / "c.pb").vehicle_id.values == ("a", "b", "c")


def test_an_entity_of_broken_bytes_costs_itself(tmp_path: Path) -> None:
    first, second = message(bus("a")).SerializeToString(), message(bus("b"))
    broken = b"\x12\x04\x22\x7f\x0a\x00"  # its vehicle claims 127 bytes of two
    second.ClearField("header")
    (tmp_path / "c.pb").write_bytes(first + broken + second.SerializePartialToString())
    positions = read_positions(tmp_path / "c.pb")
    assert positions.vehicle_id.values == ("a", "b")
    assert positions.left_out == {"bad_entity": 1}


def test_a_text_that_is_no_utf_8_is_latin_1(tmp_path: Path) -> None:
    content = message(bus("n?1", stop_id="s?")).SerializeToString().replace(b"?", b"\xe9")
    (tmp_path / "c.pb").write_bytes(content)
    positions = read_positions(tmp_path / "c.pb")
    assert (positions.vehicle_id[0], positions.stop_id[0]) == ("n\u00e91", "s\u00e9")


def unnamed(trip: dict[str, Any] | None, lon: float, time_s: int = NOW_S, **more: Any) -> dict[str, Any]:
    return bus(vehicle=None, time_s=time_s, trip=trip, position={"latitude": 1.5, "longitude": lon}) | more


def test_without_an_id_the_trip_with_its_start_names_the_vehicle(tmp_path: Path) -> None:
    """Entities are numbered anew in each message: the second bus is entity 1 first, and entity 0 then."""
    started = {"trip_id": "t2", "start_date": "20231114", "start_time": "25:05:00"}
    frequent = {"route_id": "r1", "direction_id": 1, "start_date": "20231114", "start_time": "8:00:00"}
    first = unnamed({"trip_id": "t1"}, 2.0), unnamed(started, 2.1), unnamed(frequent, 2.2)
    later = unnamed(started, 2.2, NOW_S + 30), unnamed(frequent, 2.3, NOW_S + 30)
    capture(tmp_path / "1.pb", *(fix | {"trip": fix["trip"] | {"route_id": "r1"}} for fix in first))
    capture(tmp_path / "2.pb", *(fix | {"trip": fix["trip"] | {"route_id": "r1"}} for fix in later))
    positions = read_positions(tmp_path)
    assert positions.vehicle_id.values == (
        "trip:r1:1:20231114:08:00:00",
        "trip:t1",
        "trip:t2:20231114:25:05:00",
    )
    assert np.bincount(positions.vehicle_id.codes).tolist() == [2, 1, 2]


def test_an_id_that_two_vehicles_of_a_message_share_is_no_name(tmp_path: Path) -> None:
    def fix(name: str, trip_id: str, lon: float, time_s: int = NOW_S, **more: Any) -> dict[str, Any]:
        return unnamed({"trip_id": trip_id, "route_id": "r1"}, lon, time_s, vehicle={"id": name}, **more)

    capture(tmp_path / "1.pb", fix("0", "t1", 2.0), fix("0", "t2", 2.1), fix("7", "t3", 2.2), fix("7", "t4", 2.2))
    capture(tmp_path / "2.pb", fix("0", "t1", 2.05, NOW_S + 30))  # alone now, and no name either
    positions = read_positions(tmp_path)
    # Vehicle 7 stands where it stands: it is one vehicle, told twice.
    assert positions.vehicle_id.values == ("7", "trip:t1", "trip:t2")
    assert positions.left_out == {"shared_vehicle_id": 3, "repeated_fix": 1}
    assert positions.examples["shared_vehicle_id"] == "1.pb entity 0: vehicle id '0'"


def test_two_buses_of_one_trip_are_named_by_what_is_left(tmp_path: Path) -> None:
    trip = {"trip_id": "t1", "route_id": "r1"}
    capture(
        tmp_path / "c.pb",
        unnamed(trip, 2.0, vehicle={"label": "bus 1"}),
        unnamed(trip, 2.1, entity_id="own"),
        unnamed(trip, 2.2, entity_id="other"),
    )
    assert read_positions(tmp_path / "c.pb").vehicle_id.values == ("bus 1", "other", "own")


@pytest.mark.parametrize("ids", [("0", "1"), ("1", "2")])
def test_the_number_of_an_entity_never_names_a_vehicle(tmp_path: Path, ids: tuple[str, str]) -> None:
    trip = {"route_id": "r1"}
    path = capture(tmp_path / "c.pb", *(unnamed(trip, 2.0 + n, entity_id=name) for n, name in enumerate(ids)))
    with pytest.raises(FeedError, match=r"\(2 no_vehicle_id\); for example c\.pb entity 0"):
        read_positions(path)
    capture(path, *(unnamed(trip, 2.0 + n, entity_id=f"10{name}") for n, name in enumerate(ids)))
    assert read_positions(path).vehicle_id.values == tuple(f"10{name}" for name in ids)


def test_the_start_of_a_run_and_its_direction(tmp_path: Path) -> None:
    trip = {"trip_id": "t", "route_id": "r1"}
    path = capture(
        tmp_path / "c.pb",
        bus("a", trip=trip | {"start_date": "20231114", "start_time": "25:05:07", "direction_id": 0}),
        bus("b", trip=trip | {"start_date": "14.11.2023", "start_time": "noon", "direction_id": 400}),
        bus("c", trip={"route_id": "r1", "start_time": "07:30:00"}),
    )
    positions = read_positions(path)
    assert positions.start_date.tolist() == [20231114, NO_START_DATE, NO_START_DATE]
    assert positions.start_time_s.tolist() == [25 * 3600 + 5 * 60 + 7, NO_START_TIME, 7 * 3600 + 1800]
    assert positions.direction_id.tolist() == [0, -1, -1]
    assert [positions.trip_id[i] for i in range(3)] == ["t", "t", None]
    assert positions.left_out == {"bad_start": 2}
    assert positions.examples == {"bad_start": "c.pb entity 1: start_date '14.11.2023'"}


@pytest.mark.parametrize(("relationship", "trip_id"), [("CANCELED", None), ("DELETED", None), ("ADDED", "t")])
def test_a_cancelled_trip_is_not_run_by_the_vehicle(tmp_path: Path, relationship: str, trip_id: str | None) -> None:
    trip = {"trip_id": "t", "route_id": "r1", "start_date": "20231114", "schedule_relationship": relationship}
    positions = read_positions(capture(tmp_path / "c.pb", bus(trip=trip)))
    assert (positions.trip_id[0], positions.route_id[0]) == (trip_id, "r1")
    assert positions.start_date[0] == (NO_START_DATE if trip_id is None else 20231114)
    assert positions.left_out == ({} if trip_id else {"canceled_trip": 1})


@pytest.mark.parametrize("name", ["vp.pbf", "vehiclepositions", "1700000000", "vp.dat"])
def test_a_capture_is_told_by_what_is_in_it(tmp_path: Path, name: str) -> None:
    capture(tmp_path / name, bus())
    assert read_positions(tmp_path / name).vehicle_id.values == ("bus",)
    assert read_positions(tmp_path).vehicle_id.values == ("bus",)


@pytest.mark.parametrize("is_snake", [False, True])
@pytest.mark.parametrize("form", ["alone", "wrapped", "lines"])
def test_messages_in_json(tmp_path: Path, is_snake: bool, form: str) -> None:
    trip = {"trip_id": "t", "route_id": "r1", "start_time": "08:00:00"}
    whole = message(bus("a", NOW_S * 1000, trip=trip, current_status="STOPPED_AT"), bus("b", trip=trip))
    document = json_format.MessageToDict(whole, preserving_proto_field_name=is_snake)
    document["entity"].append({"id": "x", "vehicle": {"position": {"latitude": "north"}}})
    document["entity"][0]["newer"] = {"than": "this version"}
    if form == "wrapped":
        document = {"status": "OK", "response": document}
    text = json.dumps(document) if form == "lines" else json.dumps(document, indent=2)
    (tmp_path / "vp.json").write_text(f"{text}\n{text}\n" if form == "lines" else text)
    positions = read_positions(tmp_path)
    assert [positions.vehicle_id[i] for i in range(2)] == ["a", "b"]
    assert (positions.time_us == NOW_S * 1_000_000).all()
    assert positions.start_time_s.tolist() == [8 * 3600] * 2
    assert positions.current_status[0] == "STOPPED_AT"
    assert positions.left_out["bad_entity"] == (2 if form == "lines" else 1)
    assert positions.left_out.get("repeated_fix", 0) == (2 if form == "lines" else 0)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("c.pb", b"<!DOCTYPE html><html><title>502 Bad Gateway</title></html>", "an HTML page"),
        ("c", b"<html>login</html>", "an HTML page"),
        ("c.parquet", b"PK\x03\x04 and so on", "a zip file: unpack it first"),
        ("c.csv", b"<?xml version='1.0'?><Siri/>", "an XML document"),
        ("c.pb", b"", "an empty file"),
        ("c.pb", b"Too many requests", "text that begins with 'Too many requests'"),
        ("c.json", b'{"Siri": {"ServiceDelivery": {}}}', "JSON with the keys 'Siri'"),
        ("c.json", b'{"entity": [{"id": "1", "tripUpdate": {"trip": {"tripId": "t"}}}]}', "holds 1 trip updates"),
        ("c.json", b'{"entity": [{"id"', "is no readable JSON"),
    ],
)
def test_a_file_that_is_not_understood_says_what_it_is(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FeedError) as refused:
        read_positions(tmp_path / name)
    assert what in refused.value.message
    assert name in refused.value.message


@pytest.mark.parametrize(
    ("name", "n", "n_speed", "n_status"),
    [
        ("brodie-g__hfx-transit-data__e3cb74__VehiclePositions.pb", 72, 37, 0),
        ("drachins__ETS_DEW_Line__25af97__VehiclePositions.pb", 104, 61, 0),
        ("robertej19__CCMF__f985ea__VehiclePositions.pb", 449, 50, 449),
        ("sashaboi__gtfs-mississauga__a39162__VehiclePositions.pb", 125, 62, 0),
        ("thelatemail__bcc_transit__af9b06__SEQ-VehiclePositions.pb", 920, 0, 920),
    ],
)
@pytest.mark.real_data
def test_real_captures(name: str, n: int, n_speed: int, n_status: int) -> None:
    positions = read_positions(real_data("gtfs_rt", name))
    assert len(positions) == n
    assert np.isfinite(positions.speed_mps).sum() == n_speed
    assert (positions.current_status.codes >= 0).sum() == n_status
    assert (np.abs(positions.lat) > 1).all()
    assert (positions.trip_id.codes >= 0).all()


@pytest.mark.real_data
def test_a_real_folder_with_trip_updates_among_the_captures() -> None:
    positions = read_positions(real_data("gtfs_rt"))
    assert len(positions) == 1670
    assert positions.left_out == {"file_without_vehicles": 1}
