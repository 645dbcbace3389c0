"""Batches filled by hand, for tests of what comes after parsing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from etacore._kernels.batch import Batch
from etacore.pipeline.snapshots import parse_snapshots


def columns_of(
    vehicle_ids: Sequence[bytes],
    status: Sequence[int] | None = None,
    time_us: Sequence[int] | None = None,
    trip_ids: Sequence[bytes] | None = None,
    spare_rows: int = 3,
) -> Batch:
    """A batch with a few more places than rows, which hold what would be an error if it were read."""
    n = len(vehicle_ids)
    columns = Batch(n + spare_rows)
    columns.n = n + spare_rows
    texts = {"vehicle_id": list(vehicle_ids), "trip_id": list(trip_ids or [b""] * n)}
    columns.text = np.frombuffer(b"".join(t for column in texts.values() for t in column) + b" ", np.uint8).copy()
    start = 0
    for name, column in texts.items():
        array = getattr(columns, name)
        array["start"], array["length"] = 2**40, -1
        for row, text in enumerate(column):
            array[row] = (start, len(text), 0)
            start += len(text)
    columns.n = n
    columns.time_us[:] = 0 if time_us is None else time_us
    columns.status[:] = 0 if status is None else status
    return columns


def parse_into(batch: Batch, payloads: Sequence[bytes | None], *, now_us: int, **limits: Any) -> None:
    """Start a batch at a time and parse payloads into it."""
    batch.start(now_us)
    parse_snapshots(batch, payloads, **limits)
