"""A TCP server that answers Redis commands as a test says: for the servers and proxies that nobody can install."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import hiredis

OK: Final = b"+OK\r\n"
PONG: Final = b"+PONG\r\n"
HELLO_3: Final = b"%1\r\n$5\r\nproto\r\n:3\r\n"
SILENCE: Final = b""
HANG_UP: Final = None


class Last(bytes):
    """An answer after which the server closes the connection."""


Answer = Callable[[list[bytes]], bytes | None]


class FakeServer(socketserver.ThreadingTCPServer):
    """Counts connections and remembers commands."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.answer = answer
        self.n_connections = 0
        self.commands: list[list[bytes]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""


class _Client(socketserver.BaseRequestHandler):
    server: FakeServer
    request: socket.socket

    def handle(self) -> None:
        self.server.n_connections += 1
        reader = hiredis.Reader(notEnoughData=SILENCE)
        while received := self.request.recv(4096):
            reader.feed(received)
            while (command := reader.gets()) is not SILENCE:
                self.server.commands.append(command)
                answer = self.server.answer(command)
                if answer is HANG_UP:
                    return
                self.request.sendall(answer)
                if isinstance(answer, Last):
                    return


@contextmanager
def fake_server(answer: Answer) -> Iterator[FakeServer]:
    """Serve until the end of the block."""
    with FakeServer(answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def push(*keys: str) -> bytes:
    """An invalidation message."""
    body = b"".join(b"$%d\r\n%s\r\n" % (len(key), key.encode()) for key in keys)
    return b">2\r\n$10\r\ninvalidate\r\n*%d\r\n%s" % (len(keys), body)
