from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_FEATURES: Final[int]

class Library:
    n_features: int
    kernel_path: str
    def __init__(self, path: bytes, n_features: int, kernel_path: str = "auto") -> None: ...
    def predict(self, X: NDArray[np.float32], out: NDArray[np.float32], low: float, high: float) -> None: ...  # noqa: N803
