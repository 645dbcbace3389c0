from typing import Final

from etacore._kernels.batch import Batch, Part
from etacore._kernels.routes import PatternTable

NO_PREDICTION: Final[str]

def encode_documents(
    batch: Batch,
    part: Part,
    table: PatternTable,
    *,
    envelope: tuple[bytes, bytes, bytes, bytes],
    prefix: bytes,
    ttl_s: int,
) -> None: ...
def order_arrivals(part: Part) -> None: ...
def number_text(value: float, decimals: int) -> bytes: ...
def string_text(text: bytes) -> bytes: ...
def time_text(time_us: int) -> bytes: ...
