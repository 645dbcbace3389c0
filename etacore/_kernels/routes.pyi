from typing import Any

import numpy as np
from numpy.typing import NDArray

class Line:
    n_segments: int
    length_m: float
    def __init__(self, lat: NDArray[np.float64], lon: NDArray[np.float64]) -> None: ...
    def place_stops(self, lat: NDArray[np.float64], lon: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]: ...

class PatternTable:
    n: int
    nbytes: int
    def __len__(self) -> int: ...
    def add(
        self,
        status: int,
        lat: NDArray[np.float64],
        lon: NDArray[np.float64],
        sequence: NDArray[np.int32],
        text: NDArray[np.uint8],
        spans: NDArray[np.int32],
        line: Line | None = None,
        stands_for: int = 0,
    ) -> int: ...
    def retire(self, pattern_ix: int) -> None: ...
    def sweep(self) -> None: ...
    def stop_ids(self, pattern_ix: int) -> list[bytes] | None: ...
    def describe(self, pattern_ix: int) -> dict[str, Any] | None: ...
