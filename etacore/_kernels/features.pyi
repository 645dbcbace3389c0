from typing import final

import numpy as np
from numpy.typing import NDArray

from etacore._kernels.batch import Batch, Part
from etacore._kernels.routes import PatternTable

@final
class Vectorizer:
    def __init__(
        self,
        transitions_s: NDArray[np.int64],
        offset_s: NDArray[np.int32],
        holiday_days: NDArray[np.int32],
        codes: NDArray[np.int32],
        nan_fill: float,
        along_route_distance: bool = False,
    ) -> None: ...
    @property
    def n_features(self) -> int: ...
    def count_rows(self, batch: Batch, part: Part, table: PatternTable, max_stops: int) -> int: ...
    def vectorize(
        self,
        batch: Batch,
        part: Part,
        table: PatternTable,
        *,
        route_code: NDArray[np.int32] | None = None,
        leg_s: NDArray[np.float32] | None = None,
        leg_start: NDArray[np.int64] | None = None,
    ) -> None: ...
