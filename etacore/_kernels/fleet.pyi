from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etacore._kernels.motion import MotionPointers

NO_TIME: Final[int]
RECORD_BYTES: Final[int]

def text_keys(arena: NDArray[np.uint8], texts: NDArray[Any], out: NDArray[np.uint64], n: int) -> None: ...

class VehicleTable:
    def __init__(self, capacity: int = 0) -> None: ...
    @property
    def n(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def record(self, vehicle_ix: int) -> tuple[bytes, int, int, int, int, int, float, int, int, int, float, bool]: ...
    def lookup(
        self,
        text: NDArray[np.uint8],
        vehicle_id: NDArray[Any],
        status: NDArray[np.uint8],
        vehicle_ix: NDArray[np.int32],
        is_new: NDArray[np.uint8],
        n: int,
    ) -> int: ...
    def restore(
        self,
        vehicle_ix: NDArray[np.int32],
        time_us: NDArray[np.int64],
        valid_until_us: NDArray[np.int64],
        max_time_us: int,
    ) -> None: ...
    def screen(
        self,
        status: NDArray[np.uint8],
        vehicle_ix: NDArray[np.int32],
        time_us: NDArray[np.int64],
        now_us: int,
        n: int,
    ) -> None: ...
    def gather(
        self,
        vehicle_ix: NDArray[np.int32],
        trip_key: NDArray[np.uint64],
        pattern_ix: NDArray[np.int32],
        prev_progress_m: NDArray[np.float64],
        prev_time_us: NDArray[np.int64],
        prev_strikes: NDArray[np.uint8],
        motion: MotionPointers,
    ) -> None: ...
    def commit(
        self,
        status: NDArray[np.uint8],
        vehicle_ix: NDArray[np.int32],
        time_us: NDArray[np.int64],
        valid_until_us: int,
        trip_key: NDArray[np.uint64],
        pattern_ix: NDArray[np.int32],
        progress_m: NDArray[np.float64],
        strikes: NDArray[np.uint8],
        next_stop: NDArray[np.int32],
        motion: MotionPointers,
        seen_us: int,
    ) -> None: ...
    def forget_prediction(self, vehicle_ix: NDArray[np.int32]) -> None: ...
    def evict(self, older_than_us: int) -> int: ...
