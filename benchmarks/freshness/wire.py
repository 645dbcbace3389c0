"""A bare connection: requests out, replies and announcements in, as they come."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

import hiredis

RECEIVE_BYTES: Final = 1 << 18
SETUP_TIMEOUT_S: Final = 30.0


class Wire:
    """A connection over a unix socket that speaks RESP3.

    redis-py would hide when bytes arrived. This one leaves the waiting, and the clock, to its owner.

    Parameters
    ----------
    path : Path
        The server's socket.
    """

    def __init__(self, path: Path) -> None:
        self.socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._reader: Final = hiredis.Reader()
        try:
            self.socket.settimeout(SETUP_TIMEOUT_S)
            self.socket.connect(str(path))
            self.ask("HELLO", 3)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, packed: bytes) -> None:
        """Send a ready-made command and wait for its reply."""
        self.socket.sendall(packed)
        self._reply()

    def ask(self, *command: str | bytes | int) -> Any:
        """Send a command and wait for its reply; for the time before and after a measurement.

        Raises
        ------
        hiredis.ReplyError
            If that is what the reply is.
        """
        self.socket.sendall(pack(*command))
        return self._reply()

    def _reply(self) -> Any:
        while True:
            reply = self._reader.gets()
            if isinstance(reply, hiredis.PushNotification):
                continue
            if reply is False:
                self._reader.feed(self._receive())
                continue
            if isinstance(reply, hiredis.ReplyError):
                raise reply
            return reply

    def track(self, prefixes: list[str]) -> None:
        """Have every write of keys with these prefixes announced on this connection, whoever writes."""
        prefix_arguments = [argument for prefix in prefixes for argument in ("PREFIX", prefix)]
        self.ask("CLIENT", "TRACKING", "ON", "BCAST", *prefix_arguments)

    def receive(self) -> list[Any]:
        """Everything that has arrived; waits only if nothing has. Call it when the socket is readable.

        Returns
        -------
        list
            Replies, and `hiredis.PushNotification` for announcements, in the order of arrival.
        """
        self._reader.feed(self._receive())
        found = []
        while (reply := self._reader.gets()) is not False:
            found.append(reply)
        return found

    def _receive(self) -> bytes:
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the benchmark's redis-server closed a connection")
        return data


def pack(*command: str | bytes | int) -> bytes:
    """A command as it is sent."""
    # hiredis' stub says "a tuple of one", and means "a tuple".
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


def announced_keys(push: Any) -> list[bytes]:
    """Keys of an invalidation.

    Raises
    ------
    RuntimeError
        If it is none, or says that the whole database was flushed.
    """
    if len(push) != 2 or push[0] != b"invalidate" or push[1] is None:
        raise RuntimeError(f"Redis announced {push!r}, and the benchmark knows only invalidations of keys")
    keys: list[bytes] = push[1]
    return keys
