"""What becomes of a row of a batch: one code for each reason.

The numbers are those of ``src_ext/etacore/_kernels/types.pxd``.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class Status(IntEnum):
    """What became of a vehicle in a batch. Everything but ``OK`` keeps it out of the later stages."""

    OK = 0
    UNCHANGED = 1
    EXPIRED = 2
    WRONG_TYPE = 3
    TOO_LARGE = 4
    INVALID_JSON = 5
    NOT_AN_OBJECT = 6
    MISSING_VEHICLE_ID = 7
    MISSING_POSITION = 8
    INVALID_POSITION = 9
    POSITION_OUT_OF_RANGE = 10
    MISSING_TIMESTAMP = 11
    INVALID_TIMESTAMP = 12
    FUTURE_TIMESTAMP = 13
    TOO_OLD = 14
    MISSING_ROUTE = 15
    DUPLICATE = 16
    OUT_OF_ORDER = 17
    UNKNOWN_ROUTE = 18
    TOO_FEW_STOPS = 19
    STOP_WITHOUT_COORDINATES = 20
    OFF_ROUTE = 21
    TRIP_FINISHED = 22
    PREDICTION_FAILED = 23
    WRITE_FAILED = 24
    NO_MODEL = 25
    DIRECTION_UNKNOWN = 26
    GUESSED_PATTERN = 27

    @property
    def label(self) -> str:
        """Lower-case name, as counters and log lines show it."""
        return self.name.lower()


class StopHint(IntEnum):
    """What became of the stop that a vehicle names, by its ``current_stop_sequence`` or ``stop_id``."""

    NONE = 0
    FOLLOWED = 1
    UNKNOWN = 2
    """The vehicle's pattern has no such stop."""
    CONTRADICTED = 3
    """The vehicle is elsewhere."""


class Remark(StrEnum):
    """What was odd about a vehicle that was served all the same; counted beside the `Status`."""

    STOP_HINT_UNKNOWN = "stop_hint_unknown"
    """It named a stop that its pattern does not have."""
    STOP_HINT_CONTRADICTED = "stop_hint_contradicted"
    """It named a stop that its position contradicts."""
    PATTERN_GUESSED = "pattern_guessed"
    """Its trip is not among the seeded ones: its stops are those of some trip of its route."""


REJECTED: Final = frozenset(s for s in Status if Status.EXPIRED <= s <= Status.TRIP_FINISHED) | {
    Status.DIRECTION_UNKNOWN,
    Status.GUESSED_PATTERN,
}
FAILED: Final = frozenset({Status.PREDICTION_FAILED, Status.WRITE_FAILED, Status.NO_MODEL})
