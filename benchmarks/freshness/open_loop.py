"""The process that is producer and reader: writes by the clock, dates what it hears."""

from __future__ import annotations

import gc
import select
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import hiredis
import numpy as np
from numpy.typing import NDArray

from benchmarks.freshness.schedule import PREDICTIONS, Probes, Schedule, iso_stamps, prediction_key
from benchmarks.freshness.wire import RECEIVE_BYTES, Wire, announced_keys, pack

LEAD_S: Final = 0.01
TICK_S: Final = 2e-4
"""The producer wakes up no sooner than this after its last writes: above 5 000 a second it writes several at once. The
wait counts, like any other lateness of the producer."""
MAX_SEND_BYTES: Final = 1 << 18
OK: Final = b"+OK\r\n"
SOURCE: Final = b'"source_timestamp":"'


@dataclass(frozen=True, slots=True)
class Action:
    """A command that the producer sends once, `at_s` seconds after the start."""

    at_s: float
    command: tuple[str | bytes, ...]


@dataclass(slots=True)
class Recording:
    """What happened; times are of the monotonic clock, nanoseconds.

    Attributes
    ----------
    start_ns : int
        When the first write was due.
    sent_ns : ndarray of int64, shape (n,)
        When each write was handed to the kernel.
    heard : list of (int, bytes)
        When each announcement of a watched key arrived, and the key.
    documents : list of (bytes or None)
        What the key then held, one for each announcement, unless the reader was told not to fetch.
    acted_ns : list of int
        When each action was sent.
    """

    start_ns: int
    sent_ns: NDArray[np.int64]
    heard: list[tuple[int, bytes]] = field(default_factory=list)
    documents: list[bytes | None] = field(default_factory=list)
    acted_ns: list[int] = field(default_factory=list)


class OpenLoop:
    """One run of a schedule.

    One thread serves both connections, whichever is ready; the producer never waits for a reply and the reader
    never for the producer. That they share a thread can only make figures worse: the reader dates an announcement
    when it gets to it.

    Parameters
    ----------
    schedule : Schedule
    producer, reader : Wire
        A connection each.
    probes : Probes
        Which vehicles the reader watches.
    watch : {"predictions", "vehicles"}
        The loop's answers, or, for the bare announcement, the producer's own writes.
    actions : sequence of Action
        In order of time.
    """

    def __init__(
        self,
        schedule: Schedule,
        producer: Wire,
        reader: Wire,
        probes: Probes,
        *,
        watch: Literal["predictions", "vehicles"] = "predictions",
        actions: Sequence[Action] = (),
    ) -> None:
        self._schedule: Final = schedule
        self._producer: Final = producer
        self._reader: Final = reader
        self._fetch: Final = watch == "predictions"
        prefix = PREDICTIONS.decode() if self._fetch else "vehicle:"
        reader.track([prefix + probe for probe in probes.prefixes])
        self._actions: Final = deque(actions)
        self._unsent = memoryview(b"")
        self._n_sent = 0
        self._ack_bytes = 0
        self._n_commands = len(schedule) + len(actions)
        self._n_documents_seen = 0
        self._unanswered: Final = self._last_stamps(probes)
        self._n_expected: Final = int(np.count_nonzero(probes.are(schedule.vehicle_ix)))
        self.recording: Final = Recording(0, np.zeros(len(schedule), np.int64))

    def run(self, patience_s: float) -> Recording:
        """Write everything, then listen until the last watched write is answered, or for `patience_s` more.

        Raises
        ------
        RuntimeError
            If Redis answered a write with an error.
        """
        gc.collect()
        gc.disable()
        try:
            return self._run(patience_s)
        finally:
            gc.enable()

    def _run(self, patience_s: float) -> Recording:
        recording, clock = self.recording, time.monotonic_ns
        write_socket, read_socket = self._producer.socket, self._reader.socket
        write_socket.setblocking(False)
        recording.start_ns = start_ns = clock() + round(LEAD_S * 1e9)
        last_due_ns = start_ns + round((len(self._schedule) - 1) / self._schedule.rate_per_s * 1e9)
        deadline_ns = last_due_ns + round(patience_s * 1e9)
        try:
            while True:
                now = clock()
                wait_s = self._send_due(now, start_ns)
                if wait_s is None:
                    if self._all_answered() or now > deadline_ns:
                        break
                    wait_s = min(max((deadline_ns - now) / 1e9, 0.0), 0.05)
                readable, _, _ = select.select(
                    (write_socket, read_socket), (write_socket,) if self._unsent else (), (), wait_s
                )
                if read_socket in readable:
                    self._read()
                if write_socket in readable:
                    self._acknowledge()
        finally:
            write_socket.setblocking(True)
        return recording

    # -- the producer ------------------------------------------------------------------------------------------------

    def _send_due(self, now: int, start_ns: int) -> float | None:
        """Send what is due; seconds until more is, None when all is sent."""
        schedule = self._schedule
        if self._unsent:
            self._push()
        if self._actions and now >= start_ns + self._actions[0].at_s * 1e9:
            self._unsent = memoryview(bytes(self._unsent) + pack(*self._actions.popleft().command))
            self._push()
            self.recording.acted_ns.append(now)
        n_due = min(int((now - start_ns) * schedule.rate_per_s / 1e9) + 1, len(schedule)) if now >= start_ns else 0
        if not self._unsent and n_due > self._n_sent:
            begin = int(schedule.ends[self._n_sent - 1]) if self._n_sent else 0
            # Never more at once than the socket is likely to take: what is handed over is then also sent.
            fitting = int(np.searchsorted(schedule.ends, begin + MAX_SEND_BYTES, side="right"))
            upto = max(min(n_due, fitting), self._n_sent + 1)
            self._unsent = memoryview(schedule.commands)[begin : int(schedule.ends[upto - 1])]
            self._push()
            self.recording.sent_ns[self._n_sent : upto] = now
            self._n_sent = upto
        if self._unsent:
            return 0.05
        if self._n_sent == len(schedule):
            return None if not self._actions else 0.0
        due_ns = start_ns + self._n_sent / schedule.rate_per_s * 1e9
        return max((due_ns - time.monotonic_ns()) / 1e9, TICK_S if due_ns - now < TICK_S * 1e9 else 0.0)

    def _push(self) -> None:
        try:
            self._unsent = self._unsent[self._producer.socket.send(self._unsent) :]
        except BlockingIOError:
            return

    def _acknowledge(self) -> None:
        data = self._producer.socket.recv(RECEIVE_BYTES)
        if not data or b"-" in data:
            raise RuntimeError(f"Redis answered a write with {data[:200]!r}")
        self._ack_bytes += len(data)

    # -- the reader --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        arrived = self._reader.receive()
        now = time.monotonic_ns()
        keys: list[bytes] = []
        for item in arrived:
            if isinstance(item, hiredis.PushNotification):
                keys += announced_keys(item)
            else:
                self.recording.documents.append(item)
        self.recording.heard += [(now, key) for key in keys]
        if keys and self._fetch:
            self._reader.socket.sendall(b"".join([b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(k), k) for k in keys]))

    # -- the end -----------------------------------------------------------------------------------------------------

    def _last_stamps(self, probes: Probes) -> dict[bytes, bytes]:
        """Timestamp of the last write of each watched vehicle, by the key of its prediction."""
        watched = probes.are(self._schedule.vehicle_ix)
        vehicles, events = self._schedule.vehicle_ix[watched], self._schedule.event_us[watched]
        last = dict(zip(vehicles.tolist(), events.tolist(), strict=True))
        stamps = iso_stamps(np.array(list(last.values()), np.int64))
        return dict(zip(map(prediction_key, last), stamps, strict=True))

    def _all_answered(self) -> bool:
        if self._ack_bytes < len(OK) * self._n_commands:
            return False
        recording = self.recording
        if not self._fetch:
            return len(recording.heard) >= self._n_expected
        new = recording.documents[self._n_documents_seen :]
        for (_, key), document in zip(recording.heard[self._n_documents_seen :], new, strict=False):
            if key in self._unanswered and source_stamp(document) == self._unanswered[key]:
                del self._unanswered[key]
        self._n_documents_seen += len(new)
        return not self._unanswered


def source_stamp(document: bytes | None) -> bytes | None:
    """``source_timestamp`` of a prediction, as it stands there; None if there is none."""
    if document is None:
        return None
    at = document.rfind(SOURCE)
    if at < 0:
        return None
    return document[at + len(SOURCE) : document.index(b'"', at + len(SOURCE))]
