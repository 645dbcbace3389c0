from collections.abc import Iterable

from etacore._kernels.batch import Batch
from etacore._kernels.resp import Values

def parse_snapshots(
    batch: Batch,
    payloads: Iterable[bytes | None] | Values,
    *,
    max_future_us: int,
    max_age_us: int,
    max_payload_bytes: int = 65536,
) -> None: ...
def parse_timestamp(value: object) -> int | None: ...
