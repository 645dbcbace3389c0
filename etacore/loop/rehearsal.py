"""The stages of the loop on some vehicles, without a trace: nothing is written, what was asked for is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final

import numpy as np
import orjson

from etacore.config import RuntimeConfig
from etacore.models.choice import Models
from etacore.pipeline.engine import Batch, Engine
from etacore.pipeline.routes import Fetch
from etacore.status import Remark, Status, StopHint

REPEATED: Final = (Status.UNCHANGED, Status.OUT_OF_ORDER)
"""What sets a vehicle aside though it could be predicted: the rehearsal goes on, to say what would be."""


class Rehearsal:
    """An engine of its own, that no loop knows of.

    Parameters
    ----------
    models : Models
    config : RuntimeConfig
    fetch : callable
        Keys to values; each key is asked for once.
    now_us : int
        The time at which it is, microseconds since the epoch; may be changed between two batches.

    Attributes
    ----------
    engine : Engine
    asked : dict of bytes to bytes or None
        Every key that was asked for, in that order, with its value.
    """

    def __init__(self, models: Models, config: RuntimeConfig, fetch: Fetch, now_us: int) -> None:
        self.now_us = now_us
        self.engine: Final = Engine(models, config, lambda: self.now_us)
        self.asked: Final[dict[bytes, bytes | None]] = {}
        self._fetch: Final = fetch

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of keys."""
        if new := [key for key in keys if key not in self.asked]:
            self.asked.update(zip(new, self._fetch(new), strict=True))
        return [self.asked[key] for key in keys]

    def run(self, keys: Sequence[bytes], payloads: Sequence[bytes | None]) -> tuple[Batch, list[Status]]:
        """Take vehicles through all stages.

        Returns
        -------
        batch : Batch
            With its documents; `REPEATED` rows went on as if they were new.
        counted : list of Status
            As what the loop would count each row.
        """
        engine, batch = self.engine, Batch(max(len(payloads), 1))
        engine.parse(batch, keys, payloads)
        engine.screen(batch, self.fetch)
        screened = batch.status.copy()
        repeated = np.isin(screened, REPEATED)
        batch.status[repeated] = Status.OK
        engine.resolve(batch, self.fetch)
        engine.select(batch)
        engine.predict(batch)
        engine.encode(batch, perf_counter())
        return batch, [Status(code) for code in np.where(repeated, screened, batch.status).tolist()]

    def keep(self, batch: Batch, counted: Sequence[Status]) -> None:
        """Let the vehicles' state move on, as if their documents had been stored."""
        batch.status[:] = counted
        self.engine.commit(batch)

    def look_up(self, key: bytes, payload: bytes) -> None:
        """Ask for what one vehicle's pattern needs, as an engine does that knows of none."""
        batch = Batch(1)
        self.engine.parse(batch, [key], [payload])
        self.engine.resolve(batch, self.fetch)


def document_of(batch: Batch, row: int) -> dict[str, Any] | None:
    """The document that the loop would store for a row."""
    for part in batch.parts:
        if document := part.documents[row]:
            found: dict[str, Any] = orjson.loads(document)
            return found
    return None


def remarks_of(batch: Batch, row: int) -> list[Remark]:
    """What is odd about a row that was predicted, as the loop counts it."""
    if batch.status[row] != Status.OK:
        return []
    hints = {StopHint.UNKNOWN: Remark.STOP_HINT_UNKNOWN, StopHint.CONTRADICTED: Remark.STOP_HINT_CONTRADICTED}
    remark = hints.get(StopHint(int(batch.stop_hint[row])))
    return [*([remark] if remark else []), *([Remark.PATTERN_GUESSED] if batch.is_guessed[row] else [])]
