"""The floor under every client of Redis: the same commands, packed beforehand; replies are counted, not read.

No client that asks for the same keys and stores the same documents in the
same chunks can be faster, whatever it is written in; what it costs is the
server's work and the bytes on the socket.
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


class RedisFloor:
    """Replays one poll of a fleet over a unix socket.

    Parameters
    ----------
    socket_path : str
    keys, documents : sequence of bytes
        Snapshots' keys and the prediction of each, in the same order. Both must be in the database already, so
        that what SCAN and MGET answer stays the same from poll to poll.
    ttl_s : int
    """

    def __init__(self, socket_path: str, keys: Sequence[bytes], documents: Sequence[bytes], ttl_s: int = 300) -> None:
        self._socket: Final = socket.socket(socket.AF_UNIX)
        self._socket.connect(socket_path)
        self._buffer: Final = memoryview(bytearray(RECEIVE_BYTES))
        with redis.Redis(unix_socket_path=socket_path) as client:
            self._exchanges: Final = _scans(client)
            for start in range(0, len(keys), CHUNK):
                chunk = keys[start : start + CHUNK]
                self._exchanges.append((command(b"MGET", *chunk), len(array(client.mget(chunk)))))
                sets = [
                    command(b"SET", b"predictions:" + key.partition(b":")[2], document, b"EX", b"%d" % ttl_s)
                    for key, document in zip(chunk, documents[start : start + CHUNK], strict=True)
                ]
                self._exchanges.append((b"".join(sets), OK * len(sets)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def poll(self) -> int:
        """Send everything, wait for all replies; returns the bytes received."""
        received = 0
        for request, n_expected in self._exchanges:
            self._socket.sendall(request)
            missing = n_expected
            while missing > 0:
                missing -= self._socket.recv_into(self._buffer)
            if missing:
                raise RuntimeError(f"Redis answered {-missing} bytes more than before: the database has changed")
            received += n_expected
        return received


def command(*words: bytes) -> bytes:
    """A command in Redis' wire format."""
    return b"*%d\r\n" % len(words) + b"".join(map(_bulk, words))


def array(values: Sequence[Any]) -> bytes:
    """An array reply in Redis' wire format."""
    return b"*%d\r\n" % len(values) + b"".join(b"$-1\r\n" if value is None else _bulk(value) for value in values)


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _scans(client: redis.Redis) -> list[tuple[bytes, int]]:
    """The SCAN calls of one pass over the keys, each with the length of its reply."""
    exchanges, cursor = [], 0
    while True:
        request = command(b"SCAN", b"%d" % cursor, b"MATCH", b"vehicle:*", b"COUNT", b"%d" % SCAN_COUNT)
        cursor, found = client.scan(cursor, match="vehicle:*", count=SCAN_COUNT)
        exchanges.append((request, len(b"*2\r\n" + _bulk(b"%d" % cursor) + array(found))))
        if cursor == 0:
            return exchanges
