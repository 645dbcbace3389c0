"""The floor under every client of Redis: the same commands, packed beforehand; replies are counted, not read.

What it costs is the server's work and the bytes on the socket. In sequence it does one exchange after the other, as a
client does that has one thing to do at a time: find the vehicles, then for each chunk of them read the snapshots,
wait, store the documents, wait. No such client that asks for the same keys and stores the same documents in the same
chunks can be faster, whatever it is written in.

Pipelined it does not wait between chunks: the server has the next chunks' reads at hand while it stores documents, and
does not run out of work. It only keeps to the order of cause and effect: the documents of a chunk are sent after its
snapshots have been received. A client that overlaps reading, computing and writing may fall below the floor in
sequence, but not below this one.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import redis

CHUNK: Final = 2_000
SCAN_COUNT: Final = 5_000
RECEIVE_BYTES: Final = 1 << 20
OK: Final = len(b"+OK\r\n")
AHEAD: Final = 2
"""Chunks that the pipelined floor has asked for before it needs them."""

Exchange = tuple[bytes, int]
"""What is sent, and how many bytes are then waited for."""


class RedisFloor:
    """Replays one poll of a fleet over a unix socket.

    Parameters
    ----------
    socket_path : str
    keys, documents : sequence of bytes
        Snapshots' keys and the prediction of each, in the same order. Both must be in the database already, so
        that what SCAN and MGET answer stays the same from poll to poll.
    ttl_s : int
    database : int
    pipelined : bool
        Do not wait between chunks.
    """

    def __init__(
        self,
        socket_path: str,
        keys: Sequence[bytes],
        documents: Sequence[bytes],
        *,
        ttl_s: int = 300,
        database: int = 0,
        pipelined: bool = False,
    ) -> None:
        self._socket: Final = socket.socket(socket.AF_UNIX)
        self._socket.connect(socket_path)
        self._buffer: Final = memoryview(bytearray(RECEIVE_BYTES))
        self._exchange((command(b"SELECT", b"%d" % database), OK))
        reads, writes = [], []
        with redis.Redis(unix_socket_path=socket_path, db=database) as client:
            scans = _scans(client)
            for start in range(0, len(keys), CHUNK):
                chunk = keys[start : start + CHUNK]
                reads.append((command(b"MGET", *chunk), len(array(client.mget(chunk)))))
                sets = [
                    command(b"SET", b"predictions:" + key.partition(b":")[2], document, b"EX", b"%d" % ttl_s)
                    for key, document in zip(chunk, documents[start : start + CHUNK], strict=True)
                ]
                writes.append((b"".join(sets), OK * len(sets)))
        self._exchanges: Final = scans + (_overlapped if pipelined else _in_sequence)(reads, writes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def poll(self) -> int:
        """Send everything, wait for all replies; returns the bytes received.

        Raises
        ------
        RuntimeError
            If Redis answers more than it did before.
        """
        received = sum(map(self._exchange, self._exchanges))
        try:
            self._socket.recv_into(self._buffer, 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return received
        raise RuntimeError("Redis answered more than before: the database has changed")

    def _exchange(self, exchange: Exchange) -> int:
        request, n_expected = exchange
        self._socket.sendall(request)
        missing = n_expected
        while missing > 0:
            missing -= self._socket.recv_into(self._buffer, min(missing, RECEIVE_BYTES))
        return n_expected


def _in_sequence(reads: list[Exchange], writes: list[Exchange]) -> list[Exchange]:
    return [exchange for pair in zip(reads, writes, strict=True) for exchange in pair]


def _overlapped(reads: list[Exchange], writes: list[Exchange]) -> list[Exchange]:
    """Replies come in the order of the commands; with a chunk's documents goes the read of the next chunk but one.

    So the snapshots of chunk i + 1 are preceded by the replies to the documents of chunk i + 1 - AHEAD.
    """
    n = len(reads)
    ahead = b"".join(request for request, _ in reads[:AHEAD])
    exchanges = [(ahead, reads[0][1])] if n else []
    for ix, (documents, _) in enumerate(writes):
        request = documents + (reads[ix + AHEAD][0] if ix + AHEAD < n else b"")
        if ix + 1 < n:
            stored = writes[ix + 1 - AHEAD][1] if ix + 1 >= AHEAD else 0
            exchanges.append((request, stored + reads[ix + 1][1]))
        else:
            exchanges.append((request, sum(n_bytes for _, n_bytes in writes[max(n - AHEAD, 0) :])))
    return exchanges


def command(*words: bytes) -> bytes:
    """A command in Redis' wire format."""
    return b"*%d\r\n" % len(words) + b"".join(map(_bulk, words))


def array(values: Sequence[Any]) -> bytes:
    """An array reply in Redis' wire format."""
    return b"*%d\r\n" % len(values) + b"".join(b"$-1\r\n" if value is None else _bulk(value) for value in values)


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _scans(client: redis.Redis) -> list[Exchange]:
    """The SCAN calls of one pass over the keys, each with the length of its reply."""
    exchanges, cursor = [], 0
    while True:
        request = command(b"SCAN", b"%d" % cursor, b"MATCH", b"vehicle:*", b"COUNT", b"%d" % SCAN_COUNT)
        cursor, found = client.scan(cursor, match="vehicle:*", count=SCAN_COUNT)
        exchanges.append((request, len(b"*2\r\n" + _bulk(b"%d" % cursor) + array(found))))
        if cursor == 0:
            return exchanges
