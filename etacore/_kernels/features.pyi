import numpy as np
from numpy.typing import NDArray

from etacore._kernels.motion import MotionPointers
from etacore._kernels.routes import PatternTable

def count_rows(
    table: PatternTable,
    status: NDArray[np.uint8],
    pattern_ix: NDArray[np.int32],
    first_stop: NDArray[np.int32],
    max_stops: int,
    row_offset: NDArray[np.int32],
) -> int: ...
def vectorize(
    table: PatternTable,
    lat: NDArray[np.float64],
    lon: NDArray[np.float64],
    speed_mps: NDArray[np.float32],
    time_us: NDArray[np.int64],
    pattern_ix: NDArray[np.int32],
    first_stop: NDArray[np.int32],
    progress_m: NDArray[np.float64],
    row_offset: NDArray[np.int32],
    transitions_s: NDArray[np.int64],
    offset_s: NDArray[np.int32],
    holiday_days: NDArray[np.int32],
    codes: NDArray[np.int32],
    motion: MotionPointers | None,
    route_code: NDArray[np.int32] | None,
    leg_s: NDArray[np.float32] | None,
    leg_start: NDArray[np.int64] | None,
    along_route_distance: bool,
    nan_fill: float,
    matrix: NDArray[np.float32],
    distance_m: NDArray[np.float64],
    stop_ix: NDArray[np.int32],
) -> None: ...

class WindowFeatures:
    n_features: int
    def __init__(
        self,
        transitions_s: NDArray[np.int64],
        offset_s: NDArray[np.int32],
        holiday_days: NDArray[np.int32],
        codes: NDArray[np.int32],
        nan_fill: float,
    ) -> None: ...
