"""A few vehicles and routes for tests, as a producer would write them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

ROUTE = "171"
STOPS: list[dict[str, Any]] = [
    {"stop_id": f"S{k}", "lat": 9.93 + 0.004 * k, "lon": -84.08, "stop_sequence": 10 * k, "stop_name": f"Stop {k}"}
    for k in range(1, 9)
]
"""Eight stops due north, 445 m apart, with gaps in the sequence."""


def iso(offset_s: float = 0.0) -> str:
    """Time of a snapshot relative to now."""
    return (datetime.now(UTC) + timedelta(seconds=offset_s)).isoformat()


def snapshot(vehicle_id: str | None = "BUS-1", **changes: Any) -> dict[str, Any]:
    """A healthy snapshot between stops 2 and 3; a change to None takes the field away."""
    base = {
        "vehicle_id": vehicle_id,
        "lat": 9.940,
        "lon": -84.0801,
        "speed": 8.5,
        "bearing": 0.0,
        "timestamp": iso(),
        "route": ROUTE,
        "trip_id": "171-TRIP-001",
    } | changes
    return {name: value for name, value in base.items() if value is not None}


def payload(vehicle_id: str | None = "BUS-1", **changes: Any) -> bytes:
    """`snapshot` as JSON bytes."""
    return json.dumps(snapshot(vehicle_id, **changes)).encode()


def stops_blob(stops: list[dict[str, Any]] | None = None) -> bytes:
    """Stops as a ``route_stops:`` value."""
    return json.dumps(STOPS if stops is None else stops).encode()
