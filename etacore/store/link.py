"""One connection of redis-py's that carries ready-made commands, and lets replies be read where they lie.

Address, TLS, authentication, reconnects and timeouts stay redis-py's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any, Final, Protocol

import redis
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from etacore._kernels.resp import Acknowledgements, ProtocolError, group_sets

FITS_THE_SOCKET: Final = 1 << 16
"""So many bytes are sent without waiting for the server: no thread is worth them."""

GROUP: Final = 100
"""Documents to one MSETEX: more save the server nothing, and keep its other clients waiting."""

Commands = Sequence[bytes | memoryview]


class Reply(Protocol):
    """What receives the bytes of a reply: `etacore._kernels.resp.Values` or `Acknowledgements`."""

    @property
    def is_complete(self) -> bool:
        """Whether all of it is there."""

    @property
    def n(self) -> int:
        """What it was told to expect."""

    def expect(self, n: int) -> None:
        """Begin anew."""

    def room(self) -> memoryview:
        """Where to receive to."""

    def received(self, n_bytes: int) -> None:
        """So much has come."""


class Link:
    """Sends commands and receives their replies, two calls, so that something can be done in between.

    A connection that the server has closed is opened again once, and the commands are sent again: they must be such
    that this does no harm, as reading and overwriting are.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool: Final = client.connection_pool
        self._connection: Any = None
        self._unanswered: Commands | None = None

    def ask(self, commands: Commands) -> None:
        """Send commands, ready-made, back to back; an answer nobody asked for any more is thrown away."""
        self.abandon()
        if self._connection is None:
            self._connection = self._pool.get_connection()
        try:
            self._connection.send_packed_command(commands)
        except RedisConnectionError:
            self._connection.send_packed_command(commands)
        self._unanswered = commands

    def answer(self, reply: Reply) -> None:
        """Receive the reply to what was sent."""
        commands = self._unanswered
        if commands is None:
            raise RuntimeError("nothing was asked")
        try:
            try:
                self._receive(reply)
            except RedisConnectionError:
                self._connection.disconnect()
                reply.expect(reply.n)
                self._connection.send_packed_command(commands)
                self._receive(reply)
        except BaseException:
            self._connection.disconnect()  # what is still to come would answer somebody else's question
            raise
        finally:
            self._unanswered = None

    def abandon(self) -> None:
        """Take no answer to what was sent."""
        if self._unanswered is not None:
            self._unanswered = None
            self._connection.disconnect()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._unanswered = None
            self._connection.disconnect()
            self._pool.release(self._connection)
            self._connection = None

    def _receive(self, reply: Reply) -> None:
        sock = self._connection._sock  # its _get_socket is newer than the oldest redis-py that we allow
        if sock is None:
            raise RedisConnectionError("Connection closed by the client")
        receive = sock.recv_into
        try:
            while not reply.is_complete:
                n_bytes = receive(reply.room())
                if n_bytes == 0:
                    raise RedisConnectionError("Connection closed by server")
                reply.received(n_bytes)
        except TimeoutError:
            raise RedisTimeoutError("Timeout reading from socket") from None
        except OSError as error:
            raise RedisConnectionError(f"Error while reading from socket: {error}") from None
        except ProtocolError as error:
            raise InvalidResponse(f"not Redis' protocol: {error}") from None


class Writer:
    """SET commands on their way: while they travel, the next ones can be made.

    Large ones are sent, and their replies read, on a thread of its own. A server that knows MSETEX (Redis 8.4,
    Valkey 9.1 and later) gets many documents with one command, which takes it less time.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client: Final = client
        self._link: Final = Link(client)
        self._replies: Final = Acknowledgements()
        self._grouped: Final = bytearray()
        self._takes_groups: bool | None = None
        self._thread: Final = ThreadPoolExecutor(1, "etacore-write")
        self._travelling: Future[None] | None = None
        self._failed: list[tuple[int, RedisError]] = []
        self._began = 0.0
        self.took_s = 0.0
        """From the first byte sent to the last reply, of the commands that were last finished."""

    def begin(self, commands: memoryview, n_commands: int) -> None:
        """Send ``SET ... EX`` commands, back to back; they must stay unchanged until `finish`."""
        self._began = perf_counter()
        self._failed = []
        if len(commands) > FITS_THE_SOCKET:
            self._travelling = self._thread.submit(self._exchange, commands, n_commands)
        else:
            self._replies.expect(n_commands)
            self._link.ask([commands])

    def finish(self) -> list[tuple[int, RedisError]]:
        """Wait for the replies; which commands failed, by position, and why."""
        travelling, self._travelling = self._travelling, None
        if travelling is not None:
            travelling.result()
        else:
            self._failed = self._read_replies()
            self.took_s = perf_counter() - self._began
        return self._failed

    def _exchange(self, commands: memoryview, n_commands: int) -> None:
        if self._takes_groups is None:
            self._takes_groups = knows_msetex(self._client)
        if self._takes_groups:
            self._store_groups(commands, n_commands)
        else:
            self._failed = self._store([commands], n_commands)
        self.took_s = perf_counter() - self._began

    def _store(self, commands: Commands, n_commands: int) -> list[tuple[int, RedisError]]:
        self._replies.expect(n_commands)
        self._link.ask(commands)
        return self._read_replies()

    def _read_replies(self) -> list[tuple[int, RedisError]]:
        self._link.answer(self._replies)
        return [(ix, server_error(said)) for ix, said in self._replies.errors]

    def _store_groups(self, commands: memoryview, n_commands: int) -> None:
        size, begins = group_sets(commands, n_commands, GROUP, self._grouped)
        with memoryview(self._grouped)[:size] as grouped:
            refused = self._store([grouped], len(begins) - 1)
        # A group is stored whole or not at all: of those that are not, each document by itself tells which and why.
        for group, _ in refused:
            first = group * GROUP
            failed = self._store([commands[begins[group] : begins[group + 1]]], min(GROUP, n_commands - first))
            self._failed += [(first + ix, error) for ix, error in failed]
        if len(refused) == len(begins) - 1 and not self._failed:
            self._takes_groups = False  # not permitted to this user, or a proxy does not know it

    def close(self) -> None:
        """Close the connection, after what is still travelling."""
        self._thread.shutdown()
        self._link.close()


def knows_msetex(client: redis.Redis) -> bool:
    """Whether a server says that it is Redis 8.4, Valkey 9.1 or later; one that may not be asked counts as older."""
    try:
        said = client.info("server")
    except RedisError:
        return False
    # Valkey also gives the version of Redis that it is compatible with.
    name, first = ("valkey_version", [9, 1]) if "valkey_version" in said else ("redis_version", [8, 4])
    return [int(number) for number in re.findall(r"\d+", str(said.get(name, "")))[:2]] >= first


def server_error(said: bytes) -> RedisError:
    """What redis-py would raise for an error reply."""
    parse_error: Callable[[str], RedisError] = DefaultParser.parse_error
    return parse_error(said.decode(errors="replace"))
