from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etacore._kernels.routes import PatternTable

NO_PREDICTION: Final[str]

def encode_documents(
    text: NDArray[np.uint8],
    status: NDArray[np.uint8],
    vehicle_id: NDArray[Any],
    route_id: NDArray[Any],
    trip_id: NDArray[Any],
    timestamp: NDArray[Any],
    timestamp_is_number: NDArray[np.uint8],
    time_us: NDArray[np.int64],
    keys: tuple[bytes, ...],
    table: PatternTable,
    pattern_ix: NDArray[np.int32],
    row_offset: NDArray[np.int32],
    stop_ix: NDArray[np.int32],
    distance_m: NDArray[np.float64],
    eta_s: NDArray[np.float32],
    envelope: tuple[bytes, bytes, bytes, bytes],
    prefix: bytes,
    ttl_s: int,
    buffer: bytearray,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    found: NDArray[np.int64],
    n: int,
) -> tuple[int, int]: ...
def number_text(value: float, decimals: int) -> bytes: ...
def string_text(text: bytes) -> bytes: ...
def time_text(time_us: int) -> bytes: ...
