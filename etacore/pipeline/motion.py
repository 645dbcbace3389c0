"""How vehicles moved from fix to fix: their speed along the pattern, and how long they are on their way to a stop."""

from __future__ import annotations

from typing import Final

import numpy as np

from etacore._kernels.motion import MotionPointers

__all__ = ["SPEED_TAU_S", "Motion"]

SPEED_TAU_S: Final = 60.0
"""Time constant of the smoothed speed: what happened this long ago counts 1/e."""


class Motion:
    """Motion of the vehicles of a batch; allocated once and used again.

    `VehicleState.gather` fills what was remembered, `select_stops` measures what follows from the fix at hand, and
    `VehicleState.commit` remembers it.

    With v the progress made between two fixes of a vehicle on one trip and pattern, divided by the time dt between
    them (0 if the vehicle was put back, and 40 m/s at most: one stray fix must not count for minutes), the smoothed
    speed s becomes s + (1 - exp(-dt / `SPEED_TAU_S`)) (v - s): an exponential mean that does not depend on how often a
    vehicle reports. The first v starts it; two fixes of one time leave it. A vehicle is on its way to a stop since the
    fix at which that stop became its next one. Both begin anew with a new trip or pattern, and after a silence longer
    than `SelectOptions.reset_after_s`.

    Parameters
    ----------
    capacity : int
        The largest number of rows of a batch.

    Attributes
    ----------
    prev_stop : ndarray of int32, shape (capacity,)
        Index of the next stop at the last fix, modulo 65536; -1 without one.
    prev_since_us : ndarray of int64, shape (capacity,)
        Time of the fix at which that stop had become the next one; 0 without one.
    prev_speed_mps : ndarray of float32, shape (capacity,)
        Smoothed speed at the last fix; NaN without one.
    since_us : ndarray of int64, shape (capacity,)
        Time of the fix at which the next stop became the next one, microseconds.
    speed_mps : ndarray of float32, shape (capacity,)
        Smoothed speed: the feature ``recent_speed_mps``. NaN until there are two fixes of different times, and for
        rows that are neither ``OK`` nor ``TRIP_FINISHED``.
    since_s : ndarray of float64, shape (capacity,)
        Seconds since ``since_us``: the feature ``since_last_stop_s``. NaN where ``speed_mps`` is.

    Raises
    ------
    ValueError
        If ``capacity`` is below 1.
    """

    __slots__ = ("pointers", "prev_since_us", "prev_speed_mps", "prev_stop", "since_s", "since_us", "speed_mps")

    def __init__(self, capacity: int) -> None:
        self.prev_stop: Final = np.full(capacity, -1, np.int32)
        self.prev_since_us: Final = np.zeros(capacity, np.int64)
        self.prev_speed_mps: Final = np.full(capacity, np.nan, np.float32)
        self.since_us: Final = np.zeros(capacity, np.int64)
        self.speed_mps: Final = np.full(capacity, np.nan, np.float32)
        self.since_s: Final = np.full(capacity, np.nan, np.float64)
        self.pointers: Final = MotionPointers(
            self.prev_stop,
            self.prev_since_us,
            self.prev_speed_mps,
            self.since_us,
            self.speed_mps,
            self.since_s,
            SPEED_TAU_S,
        )
