from collections.abc import Callable, Iterable
from typing import Any, final

import numpy as np
import numpy.typing as npt

from etacore._kernels.resp import Values

@final
class ColumnPointers:
    @property
    def capacity(self) -> int: ...
    def __init__(
        self,
        status: npt.NDArray[np.uint8],
        vehicle_id: npt.NDArray[Any],
        route_id: npt.NDArray[Any],
        trip_id: npt.NDArray[Any],
        stop_id: npt.NDArray[Any],
        timestamp: npt.NDArray[Any],
        timestamp_is_number: npt.NDArray[np.uint8],
        direction_id: npt.NDArray[np.int8],
        lat: npt.NDArray[np.float64],
        lon: npt.NDArray[np.float64],
        speed_mps: npt.NDArray[np.float32],
        bearing_deg: npt.NDArray[np.float32],
        time_us: npt.NDArray[np.int64],
        stop_sequence: npt.NDArray[np.int32],
        current_status: npt.NDArray[np.int8],
    ) -> None: ...

def parse_payloads(
    payloads: Iterable[bytes | None],
    pointers: ColumnPointers,
    reserve_text: Callable[[int], npt.NDArray[np.uint8]],
    earliest_us: int,
    latest_us: int,
    max_payload_bytes: int,
) -> int: ...
def parse_values(
    values: Values,
    pointers: ColumnPointers,
    reserve_text: Callable[[int], npt.NDArray[np.uint8]],
    earliest_us: int,
    latest_us: int,
    max_payload_bytes: int,
) -> int: ...
def timestamp_us(value: bytes | float) -> int | None: ...
def text_list(
    arena: npt.NDArray[np.uint8], texts: npt.NDArray[Any], rows: npt.NDArray[np.int64], prefix: bytes
) -> list[bytes]: ...
