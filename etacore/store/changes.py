"""Which keys changed: Redis announces them, nobody has to ask.

RESP3 client tracking in broadcast mode: after one ``CLIENT TRACKING ON BCAST
PREFIX ...`` the server pushes the names of all keys below the prefixes that
anybody writes, deletes or that expire, once per turn of its event loop.
Producers need not know. See https://redis.io/docs/latest/develop/reference/client-side-caching/.
"""

from __future__ import annotations

import logging
import re
import select
import ssl
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Final

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from etacore.config import KeyNames, RuntimeConfig
from etacore.errors import TrackingUnavailableError
from etacore.store.store import SOCKET_TIMEOUT_S, address_of, connect, redis_errors

log: Final = logging.getLogger("etacore.changes")

CLIENT_NAME: Final = "etacore-changes"
PING_AFTER_S: Final = 5.0
"""Nothing heard this long: ask whether the connection still lives."""
RECEIVE_BYTES: Final = 65_536
MAX_RECEIVES: Final = 256
"""Per `ChangeFeed.take`, so that it ends however fast the producers are."""

_GLOB: Final = re.compile(r"[*?\[\]\\]")
_INCOMPLETE: Final = object()
_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_POLL: Final = "etacore polls instead (--source poll)"


@dataclass(frozen=True, slots=True)
class Changes:
    """What was announced since the last look."""

    vehicles: list[bytes]
    """Vehicle keys, each once, in the order of their first announcement."""
    routes: list[bytes]
    """Keys below ``route_stops:`` and ``direction_stops:``, likewise."""
    models: bool
    """``eta:active_model`` was written or deleted."""
    lost: bool
    """Something may have been missed (FLUSHALL, FLUSHDB; the connection was lost and is back): look at everything."""


class ChangeFeed:
    """Names of changed keys, as the server announces them, over a connection of its own.

    Open the feed first and look at all keys afterwards: then nothing is missed in between.

    Tracking knows no database numbers: a key of another database that begins
    with one of the prefixes is announced too, and costs a look at our key of
    that name. SWAPDB is not announced. Not for two threads at once.

    Parameters
    ----------
    config : RuntimeConfig
        Where Redis is, and what the keys are called. ``keys.vehicle_pattern`` must be a prefix and one ``*``.

    Raises
    ------
    TrackingUnavailableError
        If the keys have no plain prefix, or the server, a proxy before it or
        the rights of the user do not allow tracking; one line says which.
    RedisUnavailableError
        If Redis cannot be reached.
    ConfigError
        If Redis refuses the credentials, or ``redis_url`` cannot be read.

    Notes
    -----
    A lost connection is opened again by the next `wait` or `take`, which then
    says ``lost``. Where that fails they raise the same errors; they may be
    called again later, and nothing announced before is forgotten.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self._prefixes: Final = tracked_prefixes(config.keys)
        self._vehicle_prefix, *route_prefixes, self._model_key = (name.encode() for name in self._prefixes)
        self._route_prefixes: Final = tuple(route_prefixes)
        self._client: Final = connect(config)
        self._where: Final = address_of(self._client)
        self._buffer: Final = bytearray(RECEIVE_BYTES)
        self._connection: Any = None
        self._reader: Any = None
        self._sock: Any = None
        self._is_tls = False
        self._is_silent = self._is_asked = False
        self._check_at = 0.0
        self._was_open = self._is_closed = self._reached = False
        self._vehicles: dict[bytes, None] = {}
        self._routes: dict[bytes, None] = {}
        self._models = self._lost = False
        self._open()

    def __enter__(self) -> ChangeFeed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self._is_closed = True
        self._drop()
        self._client.close()

    def reconnect(self) -> None:
        """Drop the connection; the next look opens another one, wherever the address leads then, and reports `lost`."""
        self._drop()

    def wait(self, timeout_s: float) -> bool:
        """Wait until `take` has something to say (True), or the time is up (False).

        Parameters
        ----------
        timeout_s : float
            Seconds, rounded up to the next millisecond. Opening a lost connection again may take longer.
        """
        deadline = None
        while not (self._vehicles or self._routes or self._models or self._lost):
            now = monotonic()
            if deadline is None:
                deadline = now + timeout_s
            elif now >= deadline:
                return False
            self._listen(min(deadline, self._check_at) - now)
        return True

    def take(self) -> Changes:
        """Everything announced so far; does not wait."""
        self._listen(0.0)
        changes = Changes(list(self._vehicles), list(self._routes), self._models, self._lost)
        if changes.vehicles:
            self._vehicles = {}
        if changes.routes:
            self._routes = {}
        self._models = self._lost = False
        return changes

    # -- what arrives -----------------------------------------------------------------------------------------------

    def _listen(self, timeout_s: float) -> None:
        """Receive what has arrived, or arrives in time; a lost connection is opened again, once."""
        sock, why = self._sock, None
        if sock is not None:
            try:
                # What TLS has decrypted already, no poll of the socket would show.
                if (self._is_tls and sock.pending()) or self._poll.poll(max(timeout_s, 0.0) * 1e3):
                    self._receive(sock)
                if monotonic() >= self._check_at:
                    self._check_health(sock)
            except (OSError, RedisConnectionError) as error:
                why = error
                self._drop()
            else:
                return
        self._open()
        self._lost = True
        if why is not None:
            log.warning("change feed: connection to Redis at %s was lost (%s), and is open again", self._where, why)

    def _receive(self, sock: Any) -> None:
        for _ in range(MAX_RECEIVES):
            try:
                n_bytes = sock.recv_into(self._buffer)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            if not n_bytes:
                raise ConnectionResetError("closed by the server")
            self._is_silent = False
            self._reader.feed(self._buffer, 0, n_bytes)
            self._note_all()
            # TLS hands out one record at a time, whatever the buffer could hold.
            if n_bytes < RECEIVE_BYTES and not self._is_tls:
                return

    def _note_all(self) -> None:
        gets, vehicle_prefix, vehicles = self._reader.gets, self._vehicle_prefix, self._vehicles
        while (message := gets()) is not _INCOMPLETE:
            if not isinstance(message, hiredis.PushNotification) or message[0] != b"invalidate":
                continue  # the answer to a PING
            keys = message[1]
            if keys is None:
                self._lost = True
                continue
            for key in keys:
                if key.startswith(vehicle_prefix):
                    vehicles[key] = None
                elif key.startswith(self._route_prefixes):
                    self._routes[key] = None
                elif key == self._model_key:
                    self._models = True

    def _check_health(self, sock: Any) -> None:
        """A connection can be dead without a sign (NAT, proxies): what is silent gets a PING, and must answer."""
        if not self._is_silent:
            self._expect_news(within_s=PING_AFTER_S)
        elif not self._is_asked:
            sock.send(_PING)
            self._expect_news(within_s=SOCKET_TIMEOUT_S)
            self._is_asked = True
        else:
            raise TimeoutError("no answer to PING")

    def _expect_news(self, within_s: float) -> None:
        self._is_silent, self._is_asked = True, False
        self._check_at = monotonic() + within_s

    # -- the connection ---------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        self._sock = None
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _open(self) -> None:
        if self._is_closed:
            raise ValueError("the change feed is closed")
        self._connection = self._make_connection(protocol=3)
        self._reached = False
        try:
            with redis_errors(self._client, "CLIENT TRACKING"):
                self._say_hello()
                self._track()
        except BaseException:
            self._drop()
            raise
        self._was_open = True

    def _say_hello(self) -> None:
        try:
            self._connection.connect()
            # redis-py does not look where there is a password; and without RESP3 Redis tracks, and tells nobody.
            is_resp3 = self._connection.handshake_metadata[b"proto"] == 3
        except NoPermissionError:
            raise
        except (ResponseError, AttributeError, TypeError, KeyError):
            # Without its words: old servers repeat the arguments of an unknown command, the password among them.
            is_resp3 = False
        except (RedisError, OSError):
            self._blame_resp3()
            raise
        if not is_resp3:
            raise self._no_tracking("does not take HELLO 3 (RESP3)")

    def _blame_resp3(self) -> None:
        """A proxy may hang up, stay silent or ask for a password over again; but then RESP2 works."""
        if self._reached and not self._was_open and self._answers_resp2():
            raise self._no_tracking("serves RESP2, but does not answer HELLO 3 and CLIENT TRACKING") from None

    def _make_connection(self, protocol: int) -> Any:
        pool = self._client.connection_pool
        arguments = pool.connection_kwargs | {"protocol": protocol, "client_name": CLIENT_NAME}
        arguments |= {"redis_connect_func": self._handshake}
        for name in ("maint_notifications_config", "maint_notifications_pool_handler"):
            arguments.pop(name, None)
        return pool.connection_class(**arguments)

    def _handshake(self, connection: Any) -> None:
        self._reached = True
        connection.on_connect()

    def _no_tracking(self, why: str) -> TrackingUnavailableError:
        return TrackingUnavailableError(
            f"Redis at {self._where} {why}: no client tracking",
            hint=f"Redis 6 or later, without a proxy in between, announces changes; {_POLL}",
        )

    def _answers_resp2(self) -> bool:
        plain = self._make_connection(protocol=2)
        try:
            plain.connect()
            plain.send_command("PING")
            plain.read_response()
        except (RedisError, OSError):
            return False
        finally:
            plain.disconnect()
        return True

    def _track(self) -> None:
        """Turn tracking on; from here on we read the socket, for pushes may follow the reply at once.

        Without NOLOOP: this connection writes nothing, and for NOLOOP the server would build each push twice.
        """
        sock = self._connection._sock
        self._reader = hiredis.Reader(protocolError=RedisConnectionError, notEnoughData=_INCOMPLETE)
        try:
            self._connection.send_command(*_tracking_command(self._prefixes))
            while (answer := self._reader.gets()) is _INCOMPLETE:
                n_bytes = sock.recv_into(self._buffer)
                if not n_bytes:
                    raise RedisConnectionError("closed by the server")
                self._reader.feed(self._buffer, 0, n_bytes)
        except (RedisError, OSError):
            self._blame_resp3()
            raise
        if answer != b"OK":
            raise self._refused(str(answer))
        self._note_all()
        sock.setblocking(False)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._sock, self._is_tls = sock, isinstance(sock, ssl.SSLSocket)
        self._expect_news(within_s=PING_AFTER_S)

    def _refused(self, answer: str) -> TrackingUnavailableError:
        if answer.startswith("NOPERM"):
            return TrackingUnavailableError(
                f"Redis at {self._where}: the user may not run CLIENT TRACKING",
                hint=f"permit it with ACL SETUSER ... +client|tracking; until then {_POLL}",
            )
        return self._no_tracking(f"refuses CLIENT TRACKING ({answer})")


def _tracking_command(prefixes: tuple[str, ...]) -> list[str]:
    command = ["CLIENT", "TRACKING", "ON", "BCAST"]
    for prefix in prefixes:
        command += ["PREFIX", prefix]
    return command


def tracked_prefixes(keys: KeyNames) -> tuple[str, str, str, str]:
    """Prefixes of vehicles, routes and directions, and the key of the announced model, as tracking needs them.

    Raises
    ------
    TrackingUnavailableError
        If the vehicle pattern is no plain prefix, or one prefix begins with another.
    """
    pattern = keys.vehicle_pattern
    vehicles = pattern[:-1]
    if not pattern.endswith("*") or _GLOB.search(vehicles):
        raise TrackingUnavailableError(
            f"the vehicle pattern {pattern!r} is no plain prefix and one *, as client tracking needs it",
            hint=f"name the keys such as vehicle:ID and set the pattern to vehicle:*; until then {_POLL}",
        )
    names = {
        "vehicle_pattern": vehicles,
        "route_stops": keys.route_stops,
        "direction_stops": keys.direction_stops,
        "active_model": keys.active_model,
    }
    # Predictions are not tracked, but below a tracked prefix each of our own writes would come back as a change.
    for name, prefix in names.items():
        for other, key in (names | {"predictions": keys.predictions}).items():
            if other != name and key.startswith(prefix):
                raise TrackingUnavailableError(
                    f"the keys of {other} ({key!r}) begin like those of {name} ({prefix!r}): client tracking "
                    "cannot tell them apart",
                    hint=f"give them prefixes of their own; until then {_POLL}",
                )
    return vehicles, keys.route_stops, keys.direction_stops, keys.active_model
