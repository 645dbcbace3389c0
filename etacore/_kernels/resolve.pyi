from typing import Any

import numpy as np
from numpy.typing import NDArray

from etacore._kernels.routes import PatternTable

class NameTable:
    n_trips: int
    n_sources: int
    clock_us: int
    def __init__(self, refresh_us: int, trip_refresh_us: int) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def learn_source(self, name: bytes, is_pattern: bool, pattern_ix: int) -> int: ...
    def learn_trip(self, name: bytes, pattern_id: bytes | None) -> bool: ...
    def knows(self, name: bytes, is_pattern: bool) -> bool: ...
    def pattern_of(self, name: bytes, is_pattern: bool) -> int: ...
    def missing(
        self,
        arena: NDArray[np.uint8],
        status: NDArray[np.uint8],
        route_id: NDArray[Any],
        trip_id: NDArray[Any],
        direction_id: NDArray[np.int8],
        n: int,
    ) -> tuple[list[bytes], list[bytes], list[bytes]]: ...
    def resolve(
        self,
        table: PatternTable,
        arena: NDArray[np.uint8],
        status: NDArray[np.uint8],
        route_id: NDArray[Any],
        trip_id: NDArray[Any],
        direction_id: NDArray[np.int8],
        pattern_ix: NDArray[np.int32],
        trip_key: NDArray[np.uint64] | None,
        only_if_known: bool,
    ) -> bool: ...
    def due(self, limit: int) -> tuple[list[bytes], list[bytes], list[bytes]]: ...
    def forget(self, before_us: int, max_names: int) -> list[int]: ...
