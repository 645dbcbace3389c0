from typing import final

import numpy as np
from numpy.typing import NDArray

@final
class MotionPointers:
    @property
    def capacity(self) -> int: ...
    def __init__(
        self,
        prev_stop: NDArray[np.int32],
        prev_since_us: NDArray[np.int64],
        prev_speed_mps: NDArray[np.float32],
        since_us: NDArray[np.int64],
        speed_mps: NDArray[np.float32],
        since_s: NDArray[np.float64],
        tau_s: float,
    ) -> None: ...
