from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NO_PREDICTION: Final[str]
NO_COORDINATES: Final[str]

def first(item: Mapping[str, Any], names: tuple[str, ...]) -> Any: ...
def number(value: Any) -> float: ...
def degrees(value: Any, limit: float) -> float: ...
def identifier(value: Any) -> str | None: ...
def read_stops(
    stops: Sequence[Any],
    lat: NDArray[np.float64],
    lon: NDArray[np.float64],
    sequence: NDArray[np.int64],
    total: NDArray[np.int64],
    given_m: NDArray[np.float64],
) -> tuple[list[str | None], list[int], list[str | None]]: ...
def prediction_dicts(
    stop_ids: list[str | None],
    sequences: list[int],
    errors: list[str | None],
    distance_m: NDArray[np.float64],
    eta_s: NDArray[np.float32],
    time_us: int,
) -> list[dict[str, Any]]: ...
