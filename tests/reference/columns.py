"""Snapshot columns filled by hand, for tests of what comes after parsing."""

from collections.abc import Sequence

import numpy as np

from etacore.pipeline.snapshots import SnapshotColumns


def columns_of(
    vehicle_ids: Sequence[bytes],
    status: Sequence[int] | None = None,
    time_us: Sequence[int] | None = None,
    trip_ids: Sequence[bytes] | None = None,
    spare_rows: int = 3,
) -> SnapshotColumns:
    """Columns with a few more places than rows, which hold what would be an error if it were read."""
    n = len(vehicle_ids)
    columns = SnapshotColumns(n + spare_rows)
    columns.n = n
    texts = {"vehicle_id": list(vehicle_ids), "trip_id": list(trip_ids or [b""] * n)}
    columns.text = np.frombuffer(b"".join(t for column in texts.values() for t in column) + b" ", np.uint8).copy()
    start = 0
    for name, column in texts.items():
        array = getattr(columns, name)
        array["start"], array["length"] = 2**40, -1
        for row, text in enumerate(column):
            array[row] = (start, len(text), 0)
            start += len(text)
    columns.time_us[:n] = 0 if time_us is None else time_us
    columns.status[:n] = 0 if status is None else status
    return columns
