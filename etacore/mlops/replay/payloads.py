"""Recorded positions as the snapshots that a producer would have written."""

from __future__ import annotations

import math
from typing import Any, Final

import orjson

from etacore.mlops.transit.positions import Positions
from etacore.schema import NO_SEQUENCE, NO_START_DATE, NO_START_TIME, service_time_text

_US: Final = 1_000_000


def snapshot_json(positions: Positions, row: int) -> bytes:
    """A recorded position as the snapshot that a producer would have written."""
    snapshot: dict[str, Any] = {
        "vehicle_id": positions.vehicle_id[row],
        # JSON has no NaN: a missing coordinate becomes null, and the loop rejects it.
        "lat": _number(positions.lat[row]),
        "lon": _number(positions.lon[row]),
        "timestamp": posix(int(positions.time_us[row])),
        "route_id": positions.route_id[row],
    }
    sequence, direction = int(positions.stop_sequence[row]), int(positions.direction_id[row])
    start_date, start_s = int(positions.start_date[row]), int(positions.start_time_s[row])
    optional = {
        "trip_id": positions.trip_id[row],
        "speed": _number(positions.speed_mps[row]),
        "bearing": _number(positions.bearing_deg[row]),
        "current_stop_sequence": None if sequence == NO_SEQUENCE else sequence,
        "stop_id": positions.stop_id[row],
        "current_status": positions.current_status[row],
        "direction_id": None if direction < 0 else direction,
        "start_date": None if start_date == NO_START_DATE else str(start_date),
        "start_time": None if start_s == NO_START_TIME else service_time_text(start_s),
    }
    snapshot.update((name, value) for name, value in optional.items() if value is not None)
    return orjson.dumps(snapshot)


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def posix(time_us: int) -> int | float:
    """Seconds since the epoch as a producer writes them: whole where they are."""
    return time_us // _US if time_us % _US == 0 else time_us / _US
