from typing import Any

import numpy as np
from numpy.typing import NDArray

from etacore._kernels.motion import MotionPointers
from etacore._kernels.routes import Line, PatternTable

def select(
    table: PatternTable,
    arena: NDArray[np.uint8],
    status: NDArray[np.uint8],
    stop_id: NDArray[Any],
    stop_sequence: NDArray[np.int32],
    current_status: NDArray[np.int8],
    lat: NDArray[np.float64],
    lon: NDArray[np.float64],
    bearing_deg: NDArray[np.float32],
    time_us: NDArray[np.int64],
    pattern_ix: NDArray[np.int32],
    trip_key: NDArray[np.uint64],
    prev_progress_m: NDArray[np.float64],
    prev_time_us: NDArray[np.int64],
    prev_strikes: NDArray[np.uint8],
    options: tuple[float, float, float, float, float, float, float, float, int, int, int],
    first_stop: NDArray[np.int32],
    progress_m: NDArray[np.float64],
    strikes: NDArray[np.uint8],
    motion: MotionPointers | None,
) -> None: ...
def along(
    line: Line, lat: float, lon: float, stop_lat: float, stop_lon: float, near_equal_m: float
) -> tuple[float, float, float, float]: ...
