"""What the documents of one model in one batch have in common.

`encode_documents` writes the documents, each inside the Redis command that stores it: the engine talks to no Redis, but
it emits RESP.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import orjson

from etacore._kernels.encode import encode_documents, order_arrivals, time_text

__all__ = ["Envelope", "encode_documents", "iso_time", "order_arrivals"]


@dataclass(slots=True)
class Envelope:
    """What the documents of one model in one batch have in common. Times are ISO 8601 texts."""

    model_key: str
    model_type: str
    model_scope: str
    computed_at: str
    fetched_at: str
    persisted_at: str
    latency_ms: float
    source: str = "prefect"

    def parts(self) -> tuple[bytes, bytes, bytes, bytes]:
        """The ready-made JSON around a document's stops, Redis key and source timestamp."""
        text = orjson.dumps
        of_model, source = _of_model(self.model_key, self.model_type, self.model_scope, self.source)
        return (
            b',"computed_at":%b%b' % (text(self.computed_at), of_model),
            source,
            b',"fetched_at":%b,"persisted_at":%b,"source_timestamp":'
            % (text(self.fetched_at), text(self.persisted_at)),
            b',"prefect_pipeline_latency_ms":%b}' % text(round(float(self.latency_ms), 3)),
        )


@functools.lru_cache(maxsize=1024)
def _of_model(model_key: str, model_type: str, model_scope: str, source: str) -> tuple[bytes, bytes]:
    """The two parts of an envelope that no batch changes."""
    text = orjson.dumps
    return (
        b',"model_key":%b,"model_type":%b,"model_scope":%b,"predictions":['
        % (text(model_key), text(model_type), text(model_scope)),
        b'],"source":%b,"redis_key":' % text(source),
    )


def iso_time(time_us: int) -> str:
    """A UTC time in microseconds since 1970 as `datetime.isoformat` writes it.

    Raises
    ------
    ValueError
        If it lies outside the years 1 to 9999.
    """
    return time_text(time_us).decode()
