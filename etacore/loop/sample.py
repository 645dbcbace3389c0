"""What would become of a sample of the vehicles in Redis, by reason; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from etacore.config import RuntimeConfig
from etacore.finding import Finding, Severity
from etacore.loop.observer import PollResult
from etacore.loop.reasons import REASONS, REMARKS, cut
from etacore.loop.rehearsal import Rehearsal, remarks_of
from etacore.models.choice import Models
from etacore.pipeline.engine import system_clock_us
from etacore.status import FAILED, Remark, Status
from etacore.store.store import RedisStore

SAMPLE_SEED: Final = 0
"""The same vehicles are looked at again, as long as the keys are the same."""

_EXPECTED: Final = (Status.EXPIRED, Status.WRONG_TYPE, Status.TRIP_FINISHED)


class Sample:
    """What became of some vehicles: how many, and the first key, of each kind."""

    def __init__(self) -> None:
        self.n = 0
        self.statuses: Final[dict[Status, tuple[int, bytes]]] = {}
        self.remarks: Final[dict[Remark, tuple[int, bytes]]] = {}

    def add(self, key: bytes, status: Status, remarks: Sequence[Remark]) -> None:
        """One more vehicle."""
        self.n += 1
        n, first = self.statuses.get(status, (0, key))
        self.statuses[status] = n + 1, first
        for remark in remarks:
            n, first = self.remarks.get(remark, (0, key))
            self.remarks[remark] = n + 1, first

    def n_of(self, *statuses: Status) -> int:
        """How many vehicles have one of these statuses."""
        return sum(self.statuses[status][0] for status in statuses if status in self.statuses)


def take_sample(config: RuntimeConfig, store: RedisStore, models: Models, keys: Sequence[bytes]) -> Sample:
    """Take vehicles through the stages of the loop, and count what becomes of them."""
    sample = Sample()
    rehearsal = Rehearsal(models, config, store.fetch, system_clock_us())
    for start in range(0, len(keys), config.chunk_size):
        part = keys[start : start + config.chunk_size]
        payloads = store.fetch(part)
        batch, counted = rehearsal.run(part, payloads)
        absent = [row for row, payload in enumerate(payloads) if payload is None]
        for row, kind in zip(absent, store.kinds([part[row] for row in absent]), strict=True):
            counted[row] = Status.EXPIRED if kind == "none" else Status.WRONG_TYPE
        for row, (key, status) in enumerate(zip(part, counted, strict=True)):
            sample.add(key, status, remarks_of(batch, row))
    return sample


def examine_sample(
    config: RuntimeConfig, store: RedisStore, models: Models, keys: Sequence[bytes], n_vehicles: int
) -> Iterator[Finding]:
    """Look at so many of the vehicles, and yield what becomes of them, the most frequent reason first.

    It is an error that of the vehicles which should be predicted none is.
    """
    chosen = sorted(keys)
    if len(chosen) > n_vehicles:
        chosen = Random(SAMPLE_SEED).sample(chosen, n_vehicles)
    sample = take_sample(config, store, models, chosen)
    n_predicted = sample.n_of(Status.OK, Status.UNCHANGED)
    yield Finding("sample", "", _severity(sample, n_predicted), _summary(sample, n_predicted, len(keys)))
    reasons = [(status, *found) for status, found in sample.statuses.items() if status > Status.UNCHANGED]
    for status, n, key in sorted(reasons, key=lambda reason: (-reason[1], reason[0])):
        severity: Severity = "note" if status in _EXPECTED else "warning"
        yield _finding(status.label, severity, n, key, REASONS[status].meaning, REASONS[status].advice)
    for remark, (n, key) in sorted(sample.remarks.items()):
        yield _finding(remark, "note", n, key, REMARKS[remark].meaning, REMARKS[remark].advice)


def _severity(sample: Sample, n_predicted: int) -> Severity:
    n_due = PollResult(sample.n, Counter({status: n for status, (n, _) in sample.statuses.items()}), 0.0).n_due
    if n_predicted == 0 and n_due:
        return "error"
    return "warning" if 2 * n_predicted < sample.n else "ok"


def _summary(sample: Sample, n_predicted: int, n_keys: int) -> str:
    n_failed = sample.n_of(*FAILED)
    share = 100.0 * n_predicted / max(sample.n, 1)
    return (
        f"{sample.n} of {n_keys} vehicles looked at: {n_predicted} predicted ({share:.0f} %), "
        f"{sample.n - n_predicted - n_failed} rejected, {n_failed} failed"
    )


def _finding(name: str, severity: Severity, n: int, key: bytes, text: str, advice: str) -> Finding:
    shown = cut(key.decode(errors="replace"), 120)
    return Finding("sample", name, severity, f"{n}, such as {shown}: {text}", f"{advice}; etacore explain {shown}")
