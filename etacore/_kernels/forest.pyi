from typing import Final, final

import numpy as np
from numpy.typing import NDArray

MAX_FEATURES: Final[int]

@final
class Library:
    def __init__(self, path: bytes, n_features: int, kernel_path: str = "auto") -> None: ...
    @property
    def n_features(self) -> int: ...
    @property
    def kernel_path(self) -> str: ...
    def predict(
        self,
        X: NDArray[np.float32],  # noqa: N803
        out: NDArray[np.float32],
        low: float = ...,
        high: float = ...,
    ) -> None: ...
