"""Workloads of the bytes between the engine and Redis: commands packed, replies found in what arrived.

Older trees have no such kernels: everything of theirs is looked for when a workload is prepared, so that only these
workloads fail there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from benchmarks.gate.sample import Moment
from benchmarks.gate.workload import Workload

if TYPE_CHECKING:
    from etacore.pipeline.engine import Batch, Engine

CHUNK_BYTES: Final = 1 << 16
"""What one look at the socket brings at most."""
GROUP: Final = 100


class Replies:
    """Replies to the commands of a moment, and the commands."""

    def __init__(self, moment: Moment) -> None:
        self.keys, self.n = moment.keys, len(moment.keys)
        self.values_reply: Final = b"*%d\r\n" % self.n + b"".join(map(_bulk, moment.payloads))
        self.sets_reply: Final = b"+OK\r\n" * self.n
        self.sets: Final = b"".join(
            b"*5\r\n" + b"".join(map(_bulk, (b"SET", key, payload, b"EX", b"300")))
            for key, payload in zip(moment.keys, moment.payloads, strict=True)
        )
        self.kept: dict[str, Any] = {}
        self.grouped: Final = bytearray()

    def workloads(self, engine: Callable[[], Engine], batch: Batch) -> list[Workload]:
        """All of them; `engine` parses into `batch`."""
        n, kept = self.n, self.kept

        def read() -> None:
            receive(kept["Values"], self.values_reply, n)

        def parse() -> None:
            kept["engine"].parse(batch, self.keys, kept["Values"])

        def before_parsing() -> None:
            kept["engine"] = engine()
            self.find()
            read()

        def acknowledge() -> None:
            receive(kept["Acknowledgements"], self.sets_reply, n)

        def pack() -> None:
            kept["pack_keys"](b"MGET", self.keys)

        def group() -> None:
            kept["group_sets"](self.sets, n, GROUP, self.grouped)

        return [
            Workload("pack keys", n, "vehicle", pack, self.find),
            Workload("read replies", n, "vehicle", read, self.find),
            Workload("parse replies", n, "vehicle", parse, before_parsing),
            Workload("group documents", n, "vehicle", group, self.find),
            Workload("read acknowledgements", n, "vehicle", acknowledge, self.find),
        ]

    def find(self) -> None:
        """Look for the kernels, once."""
        if not self.kept.get("Values"):
            from etacore._kernels.resp import Acknowledgements, Values, group_sets, pack_keys

            self.kept |= {"Values": Values(), "Acknowledgements": Acknowledgements()}
            self.kept |= {"pack_keys": pack_keys, "group_sets": group_sets}


def receive(reply: Any, data: bytes, n: int) -> None:
    """Give a reply its bytes as a socket would."""
    reply.expect(n)
    at = 0
    while at < len(data):
        room = reply.room()
        n_bytes = min(len(room), CHUNK_BYTES, len(data) - at)
        room[:n_bytes] = data[at : at + n_bytes]
        del room
        reply.received(n_bytes)
        at += n_bytes
    assert reply.is_complete


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)
