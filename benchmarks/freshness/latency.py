"""Which prediction answers which write, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.freshness.open_loop import Recording, source_stamp
from benchmarks.freshness.schedule import Probes, Schedule, read_stamps, vehicle_of

QUANTILES: Final = (0.5, 0.99, 0.999, 1.0)
LATE_NS: Final = 1_000_000
"""A producer that is later than this is counted."""
SATURATED_MS: Final = 1_000.0
NOT_TAKEN_MS: Final = 100.0
OVERTAKEN: Final = 0.1
GROWTH: Final = 0.05
GROWN_MS: Final = 50.0
"""A backlog grows when latency does, by more than this share of the time that passes, and by more than a hiccup."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Latencies of the watched writes.

    Attributes
    ----------
    due_s : ndarray of float64, shape (n,)
        When each write was due, seconds after the start.
    latency_ms : ndarray of float64, shape (n,)
        From then until the first prediction that knows this write or a later one of the same vehicle was announced;
        infinite if none was.
    late_ms : ndarray of float64, shape (n_writes,)
        How late the producer was with each write, watched or not.
    n_answers : int
        Predictions that answered these writes.
    """

    due_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    late_ms: NDArray[np.float64]
    n_answers: int

    @property
    def n_unanswered(self) -> int:
        """Writes that no prediction answered."""
        return int(np.isinf(self.latency_ms).sum())

    @property
    def n_late(self) -> int:
        """Writes that the producer was late with."""
        return int((self.late_ms > LATE_NS / 1e6).sum())

    def quantile_ms(self, q: float) -> float:
        """Exact quantile of all samples: the smallest sample that at least a share `q` does not exceed."""
        return quantile(self.latency_ms, q)

    def between(self, begin_s: float, end_s: float) -> NDArray[np.float64]:
        """Latencies of writes that were due in a stretch of time."""
        return self.latency_ms[(self.due_s >= begin_s) & (self.due_s < end_s)]

    @property
    def saturated(self) -> bool:
        """Whether work came faster than it was done: answers missing, p99 above a second, or a growing backlog.

        Or many changes were overtaken by the next of their vehicle before they were looked at: what keeps latency
        within bounds, but not keeping up. Or Redis took the writes so late that the rate was not the one on the label.
        """
        if self.n_answers < (1 - OVERTAKEN) * len(self.latency_ms):
            return True
        if self.n_unanswered or self.quantile_ms(0.99) > SATURATED_MS or quantile(self.late_ms, 0.99) > NOT_TAKEN_MS:
            return True
        (before_s, before_ms), *_, (after_s, after_ms) = zip(
            np.array_split(self.due_s, 4), np.array_split(self.latency_ms, 4), strict=True
        )
        grown_ms = np.median(after_ms) - np.median(before_ms)
        passed_ms = (np.median(after_s) - np.median(before_s)) * 1e3
        return bool(grown_ms > max(GROWN_MS, GROWTH * passed_ms))


def quantile(values: NDArray[np.float64], q: float) -> float:
    """Exact quantile, never between two samples, so that infinity stays infinity; NaN of nothing."""
    return float(np.quantile(values, q, method="inverted_cdf")) if len(values) else float("nan")


def answered(schedule: Schedule, probes: Probes, recording: Recording) -> Samples:
    """Latencies of predictions.

    Under load one prediction answers several writes of a vehicle: the newest wins.
    """
    vehicle_ix, event_us, heard_ns = predictions(recording)
    return _samples(schedule, probes, recording, vehicle_ix, event_us, heard_ns)


def announced(schedule: Schedule, probes: Probes, recording: Recording) -> Samples:
    """Latencies of the bare announcement: the n-th of a vehicle is of its n-th write."""
    watched = np.flatnonzero(probes.are(schedule.vehicle_ix))
    heard_ns: dict[int, list[int]] = {}
    for at, key in recording.heard:
        heard_ns.setdefault(vehicle_of(key), []).append(at)
    written: dict[int, list[int]] = {}
    for event_us, vehicle in zip(
        schedule.event_us[watched].tolist(), schedule.vehicle_ix[watched].tolist(), strict=True
    ):
        written.setdefault(vehicle, []).append(event_us)
    rows = [
        (vehicle, event_us, at)
        for vehicle, events in written.items()
        for event_us, at in zip(events, heard_ns.get(vehicle, []), strict=False)
    ]
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return _samples(schedule, probes, recording, *columns)


def predictions(recording: Recording) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Vehicle, snapshot's timestamp and time of announcement of each prediction, one row a prediction.

    The reader fetches a document after its announcement, and may already get a later one, whose own announcement
    is then still to come. Of several readings of one document the last announcement is the one that can be meant.
    """
    rows = [
        (vehicle_of(key), at, stamp)
        for (at, key), document in zip(recording.heard, recording.documents, strict=False)
        if (stamp := source_stamp(document)) is not None
    ]
    vehicle_ix = np.array([row[0] for row in rows], np.int64)
    heard_ns = np.array([row[1] for row in rows], np.int64)
    event_us = read_stamps([row[2] for row in rows])
    order = np.lexsort((heard_ns, event_us, vehicle_ix))
    vehicle_ix, event_us, heard_ns = vehicle_ix[order], event_us[order], heard_ns[order]
    is_last = np.ones(len(order), bool)
    is_last[:-1] = (np.diff(vehicle_ix) != 0) | (np.diff(event_us) != 0)
    return vehicle_ix[is_last], event_us[is_last], heard_ns[is_last]


def _samples(
    schedule: Schedule,
    probes: Probes,
    recording: Recording,
    vehicle_ix: NDArray[np.int64],
    event_us: NDArray[np.int64],
    heard_ns: NDArray[np.int64],
) -> Samples:
    due_s = schedule.due_s()
    due_ns = recording.start_ns + due_s * 1e9
    late_ms = (recording.sent_ns - due_ns) / 1e6
    counted = np.arange(len(schedule)) >= schedule.n_warm
    rows = np.flatnonzero(probes.are(schedule.vehicle_ix) & counted)
    # Vehicle and time as one number: what answers a write is the next of the same vehicle.
    epoch_us = int(schedule.event_us[0])
    known = event_us >= epoch_us
    answers = _combined(vehicle_ix[known], event_us[known] - epoch_us)
    order = np.argsort(answers, kind="stable")
    answers, heard_ns = answers[order], heard_ns[known][order]
    written = _combined(schedule.vehicle_ix[rows], schedule.event_us[rows] - epoch_us)
    found = np.searchsorted(answers, written)
    is_there = found < len(answers)
    is_there[is_there] = answers[found[is_there]] >> _TIME_BITS == schedule.vehicle_ix[rows][is_there]
    latency_ms = np.full(len(rows), np.inf)
    latency_ms[is_there] = (heard_ns[found[is_there]] - due_ns[rows][is_there]) / 1e6
    return Samples(due_s[rows], latency_ms, late_ms[counted], len(np.unique(found[is_there])))


_TIME_BITS: Final = 40


def _combined(vehicle_ix: NDArray[np.int64], elapsed_us: NDArray[np.int64]) -> NDArray[np.int64]:
    return (vehicle_ix << _TIME_BITS) | elapsed_us


def pooled(parts: Sequence[Samples]) -> Samples:
    """Samples of several runs as one."""
    return Samples(
        np.concatenate([part.due_s for part in parts]),
        np.concatenate([part.latency_ms for part in parts]),
        np.concatenate([part.late_ms for part in parts]),
        sum(part.n_answers for part in parts),
    )
