from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from etacore._kernels.batch import Batch

NO_TIME: Final[int]
RECORD_BYTES: Final[int]

class VehicleRecord(NamedTuple):
    vehicle_id: bytes
    time_us: int
    valid_until_us: int
    seen_s: int
    run_key: int
    pattern_ix: int
    progress_m: float
    strikes: int
    next_stop: int
    stop_since_us: int
    speed_mps: float
    fallback_m: float
    known: bool

class Fleet:
    def __init__(self, capacity: int = 1024) -> None: ...
    @property
    def n(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def record(self, vehicle_ix: int) -> VehicleRecord: ...
    def lookup(self, batch: Batch) -> int: ...
    def restore(
        self,
        vehicle_ix: NDArray[np.int32],
        time_us: NDArray[np.int64],
        valid_until_us: NDArray[np.int64],
        max_time_us: int = 9223372036854775807,
    ) -> None: ...
    def screen(self, batch: Batch) -> None: ...
    def gather(self, batch: Batch) -> None: ...
    def commit(self, batch: Batch, valid_until_us: int) -> None: ...
    def forget_prediction(self, vehicle_ix: NDArray[np.int32]) -> None: ...
    def evict(self, older_than_us: int) -> int: ...
