from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_FEATURES: Final[int]

class Library:
    n_features: int
    def __init__(self, path: bytes, n_features: int) -> None: ...
    def predict(self, X: NDArray[np.float32], out: NDArray[np.float32], low: float, high: float) -> None: ...  # noqa: N803
