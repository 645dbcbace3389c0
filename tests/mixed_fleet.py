"""Vehicles of every kind, interleaved: good, rejected for each reason, unchanged, and not to be stored."""

from __future__ import annotations

from typing import Any

import numpy as np

from etacore.status import Status
from tests.fleet import STOPS, payload, stops_blob

START_S = 1_769_000_000
ROUTES = ("a", "b", "other", "none", "unmodelled")

ROUTE_STOPS = {
    f"route_stops:{route}".encode(): stops_blob(
        [stop | {"stop_id": f"{route}{i}", "lat": float(stop["lat"]) + 1e-5 * i * k} for i, stop in enumerate(STOPS)]
    )
    for k, route in enumerate(ROUTES)
}
GOOD = {"a": "a", "b": "b", "other": "other", "not written": "a", "not written b": "b"}
UNCHANGED = {"still": "a", "still b": "b", "still other": "other"}
KINDS = (
    *GOOD, *UNCHANGED, "older", "not json", "absent", "too old", "no route", "unknown route", "off the route",
    "at its end", "no numbers", "unmodelled", "a list", "too large",
)  # fmt: skip
EXPECTED = {
    "older": Status.OUT_OF_ORDER,
    "not json": Status.INVALID_JSON,
    "absent": Status.EXPIRED,
    "too old": Status.TOO_OLD,
    "no route": Status.MISSING_ROUTE,
    "unknown route": Status.UNKNOWN_ROUTE,
    "off the route": Status.OFF_ROUTE,
    "at its end": Status.TRIP_FINISHED,
    "no numbers": Status.PREDICTION_FAILED,
    "a list": Status.NOT_AN_OBJECT,
    "too large": Status.TOO_LARGE,
}


def fix(i: int, kind: str, tick: int) -> bytes | None:
    """What the producer wrote of vehicle `i`, 20 s after the last time if its kind goes on."""
    if kind in ("not json", "absent", "a list"):
        return {"not json": b"{", "absent": None, "a list": b"[%d]" % i}[kind]
    moves = tick if kind in GOOD or kind == "unmodelled" else -tick if kind == "older" else 0
    changes: dict[str, Any] = {
        "lat": 9.9345 + 0.0001 * (i % 150) + 0.001 * moves,
        "speed": 1.0 + i % 17,
        "timestamp": START_S - 100 + i % 40 + 20 * moves,
        "route": {**GOOD, **UNCHANGED, "no numbers": "none"}.get(kind, "unmodelled" if kind == "unmodelled" else "a"),
        "trip_id": f"trip {i}",
        "stop_id": "a5" if i % 3 == 0 and kind in GOOD else None,
    }
    others: dict[str, dict[str, Any]] = {
        "too old": {"timestamp": START_S - 90_000},
        "no route": {"route": None},
        "unknown route": {"route": "nowhere"},
        "off the route": {"lat": 50.0},
        "at its end": {"lat": float(STOPS[-1]["lat"]) + 0.002},
        "too large": {"note": "x" * 70_000},
    }
    return payload(f"BUS-{i}", **changes | others.get(kind, {}))


def mixture(n: int, seed: int) -> list[str]:
    """Kinds of `n` vehicles; every kind is there before any comes twice."""
    rng = np.random.default_rng(seed)
    return [KINDS[k] for _ in range(n // len(KINDS) + 1) for k in rng.permutation(len(KINDS))][:n]
