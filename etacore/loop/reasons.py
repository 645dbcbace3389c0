"""What each status means and what to do about it, in words for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from etacore.status import Remark, Status, StopHint


@dataclass(frozen=True, slots=True)
class Reason:
    """A status in words.

    Attributes
    ----------
    meaning : str
        What is so, of a vehicle.
    advice : str
        What to do about it; empty where there is nothing to do.
    """

    meaning: str
    advice: str = ""


_SEED: Final = "seed the feed: etacore seed GTFS"

REASONS: Final[dict[Status, Reason]] = {
    Status.OK: Reason("it is predicted"),
    Status.UNCHANGED: Reason(
        "its prediction is stored already: same event time, and not expired",
        "nothing; if the vehicle has moved, its producer does not move the timestamp on",
    ),
    Status.EXPIRED: Reason(
        "there is no such key", "look for the key's right name, or let the producer write it with a longer time to live"
    ),
    Status.WRONG_TYPE: Reason(
        "the key holds no string, so no snapshot can be read from it",
        "nothing, if another program keeps it there; a producer has to write snapshots with SET",
    ),
    Status.TOO_LARGE: Reason(
        "the value is larger than a snapshot may be",
        "write one vehicle per key, without what nobody reads; the limit is max_payload_bytes",
    ),
    Status.INVALID_JSON: Reason(
        "the value is not JSON in UTF-8", "let the producer write one JSON object per key, whole and in UTF-8"
    ),
    Status.NOT_AN_OBJECT: Reason(
        "the value is JSON, but no object",
        'write an object such as {"vehicle_id": "7", "lat": 9.93, "lon": -84.08, ...}',
    ),
    Status.MISSING_VEHICLE_ID: Reason(
        "it has no vehicle id",
        "give it as vehicle_id, vehicleId, id or vehicle.id: text or a number, at most 256 bytes",
    ),
    Status.MISSING_POSITION: Reason("it has no position", "give lat and lon in degrees"),
    Status.INVALID_POSITION: Reason(
        "its latitude or longitude is no finite number", "give lat and lon in degrees, as numbers"
    ),
    Status.POSITION_OUT_OF_RANGE: Reason(
        "its position is not on the globe",
        "give lat in -90..90 and lon in -180..180 degrees, not exchanged, not in metres",
    ),
    Status.MISSING_TIMESTAMP: Reason(
        "it has no timestamp", "give the time of the position as timestamp: POSIX seconds or milliseconds, or ISO 8601"
    ),
    Status.INVALID_TIMESTAMP: Reason(
        "its timestamp cannot be read", "give POSIX seconds or milliseconds, or ISO 8601 (2026-01-20T12:00:00Z)"
    ),
    Status.FUTURE_TIMESTAMP: Reason(
        "its timestamp lies in the future",
        "set the producer's clock, and give the offset of a local time (a time without one is UTC); "
        "--max-future tolerates more",
    ),
    Status.TOO_OLD: Reason(
        "its timestamp is too old: the vehicle is a ghost",
        "see whether the producer still runs and moves the timestamp on, and give the offset of a local time (a time "
        "without one is UTC); --max-age tolerates more",
    ),
    Status.MISSING_ROUTE: Reason(
        "it has no route", "give it as route_id, route, routeId or route_short_name: the id that the feed uses"
    ),
    Status.DUPLICATE: Reason(
        "another key holds a newer snapshot of the same vehicle",
        "let each vehicle have an id and one key of its own; delete keys that nobody writes any more",
    ),
    Status.OUT_OF_ORDER: Reason(
        "a newer snapshot of this vehicle was served already",
        "see whether two producers write this key, or late messages overwrite newer ones; "
        "if the producer's clock was ahead, wait, or delete the prediction",
    ),
    Status.UNKNOWN_ROUTE: Reason("Redis has no stops for its trip or route", f"{_SEED}; then compare the ids"),
    Status.TOO_FEW_STOPS: Reason(
        "the stops in Redis are fewer than two", "write all stops of the route, in the order of travel; or " + _SEED
    ),
    Status.STOP_WITHOUT_COORDINATES: Reason(
        "a stop in Redis has no usable coordinates", "give each stop lat and lon in degrees; or " + _SEED
    ),
    Status.OFF_ROUTE: Reason(
        "it is too far from the line of its trip or route",
        "see whether trip and route are those that it runs, whether lat and lon are exchanged, and whether the stops "
        "are of the feed in force; the limit is max_off_route_metres",
    ),
    Status.TRIP_FINISHED: Reason(
        "it is at or past the last stop of its trip", "nothing; it is served again once it reports its next trip"
    ),
    Status.PREDICTION_FAILED: Reason(
        "the model gave no usable number for any stop",
        "check the model: etacore registry check; or promote another one",
    ),
    Status.WRITE_FAILED: Reason(
        "Redis refused to store the prediction", "see what Redis says: its memory limit, and the rights of the user"
    ),
    Status.NO_MODEL: Reason(
        "no model serves its route",
        "promote a global model, or one of this route: etacore registry list, etacore promote MODEL_KEY",
    ),
    Status.DIRECTION_UNKNOWN: Reason(
        "it names no trip and no direction, and its position does not yet tell which way it goes",
        "wait for its next fix: movement decides; or let the producer give trip_id, direction_id or bearing",
    ),
    Status.GUESSED_PATTERN: Reason(
        "patterns are seeded, its trip is not among them or not named, and guesses are switched off",
        "seed the feed in force (etacore seed GTFS), compare the trip ids, or run with --guessed-patterns",
    ),
}

REMARKS: Final[dict[Remark, Reason]] = {
    Remark.STOP_HINT_UNKNOWN: Reason(
        "it names a stop that its pattern does not have, and is predicted by its position",
        "compare stop ids and sequences with those of the feed in force, and leave out what is never filled",
    ),
    Remark.STOP_HINT_CONTRADICTED: Reason(
        "it names a stop, but is elsewhere, and is predicted by its position",
        "see whether the producer moves current_stop_sequence and stop_id on",
    ),
    Remark.PATTERN_GUESSED: Reason(
        "patterns are seeded, its trip is not among them or not named, and it is predicted by a guess",
        "seed the feed in force (etacore seed GTFS) and compare the trip ids; --no-guessed-patterns leaves such out",
    ),
}

HINTS: Final[dict[StopHint, str]] = {
    StopHint.NONE: "it names no stop, so its position decides",
    StopHint.FOLLOWED: "it names a stop, and its position bears that out",
    StopHint.UNKNOWN: "it names a stop that the pattern does not have, so its position decides",
    StopHint.CONTRADICTED: "it names a stop, but is elsewhere, so its position decides",
}


def age_text(seconds: float) -> str:
    """A length of time in the two largest units that it has."""
    whole = round(abs(seconds))
    parts: list[str] = []
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        n, whole = divmod(whole, unit)
        if n or parts:
            parts.append(f"{n} {name}")
    return " ".join(parts[:2]) or "0 s"


def cut(text: str, width: int = 80) -> str:
    """Text from outside as it may be shown: without control characters, and not longer than `width`."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"


def quoted(value: object, width: int = 80) -> str:
    """A value from outside in quotes, cut."""
    return f"'{cut(value if isinstance(value, str) else str(value), width)}'"
