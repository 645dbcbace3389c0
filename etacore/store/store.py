"""What the loop asks of Redis: which commands a batch needs, always many keys at a time.

Connections, TLS, authentication and short retries are redis-py's. Ready-made commands and replies that stay where they
lie go through `etacore.store.link`; what Redis announces by itself is `etacore.store.changes`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, TypeVar, cast

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from etacore._kernels.resp import Values, pack_keys
from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, RedisUnavailableError
from etacore.store.link import Link, Writer, server_error

SCAN_COUNT: Final = 5_000
SEARCH_COUNT: Final = 1_000
KEYS_PER_CALL: Final = 2_000
SOCKET_TIMEOUT_S: Final = 4.0
"""With one retry short of the 10 s that a container gets to stop."""
PROBE_TIMEOUT_S: Final = 1.0

_OUTAGE: Final = (RedisConnectionError, RedisTimeoutError, OSError)
_REFUSED: Final = (AuthenticationError, AuthorizationError)
_ADDRESS: Final = (
    "redis_host and redis_port (--redis-host, --redis-port; environment REDIS_HOST, REDIS_PORT) "
    "or redis_url (--redis-url; REDIS_URL)"
)
_USERNAME: Final = "redis_username (--redis-username; environment REDIS_USERNAME)"
_PASSWORD: Final = "redis_password (--redis-password; environment REDIS_PASSWORD)"  # noqa: S105
_PASSWORD_MISSING: Final = ("Authentication required", "already authenticated")  # the latter of HELLO
_PASSWORD_NEEDLESS: Final = ("without any password", "no password is set")  # the latter until Redis 5
_COMMAND: Final = re.compile(r"run the '([^']+)' command")

T = TypeVar("T")


class RedisStore:
    """Snapshots in, predictions out.

    Every method raises `RedisUnavailableError` when Redis cannot be reached
    after short retries, and `ConfigError` when it refuses the credentials or
    does not let the user run a command; the message names the command.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self._keys = config.keys
        self._client = connect(config)
        self._where = address_of(self._client)
        self._snapshots = Link(self._client)
        self._predictions = Writer(self._client)
        self._asked: Sequence[bytes] | None = None
        self._values = Values()

    def __enter__(self) -> RedisStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._predictions.close()
        self._snapshots.close()
        self._client.close()

    @property
    def where(self) -> str:
        """Address for messages, without credentials."""
        return self._where

    def ping(self) -> None:
        """Prove that address and credentials work."""
        with self._errors("PING"):
            self._client.ping()

    def server_version(self) -> str | None:
        """What the server says it is, such as ``Redis 7.0.15``; None if this user may not ask (INFO)."""
        try:
            with self._errors("INFO"):
                said = self._client.info("server")
        except ConfigError:
            return None
        # Valkey also gives the version of Redis that it is compatible with.
        for name, field in (("Valkey", "valkey_version"), ("Redis", "redis_version")):
            if field in said:
                return f"{name} {said[field]}"
        return None

    def scan_vehicle_keys(self) -> list[bytes]:
        """All keys that match the vehicle pattern, each once."""
        return self.scan_keys(self._keys.vehicle_pattern)

    def scan_keys(self, pattern: str) -> list[bytes]:
        """All keys that match a pattern, each once."""
        with self._errors("SCAN"):
            return list(dict.fromkeys(self._client.scan_iter(match=pattern, count=SCAN_COUNT)))

    def search_vehicle_keys(self, cursor: int) -> tuple[int, list[bytes]]:
        """The same by single calls of SCAN, so short that something else can be done in between.

        Begin with cursor 0, and go on with the one returned until that is 0. Keys may recur.
        """
        with self._errors("SCAN"):
            cursor, found = self._client.scan(cursor, match=self._keys.vehicle_pattern, count=SEARCH_COUNT)
        return cursor, cast("list[bytes]", found)

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of string keys (MGET); None where a key is absent or no string."""
        values: list[bytes | None] = []
        with self._errors("MGET", keys):
            for part in _parts(keys):
                values += cast("list[bytes | None]", self._client.mget(part))
        return values

    def not_strings(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of the keys hold something that is no string (True), rather than nothing."""
        return [kind not in ("none", "string") for kind in self.kinds(keys)]

    def kinds(self, keys: Sequence[bytes]) -> list[str]:
        """What the keys hold: ``string``, ``hash``, ..., or ``none``."""
        found: list[str] = []
        with self._errors("TYPE", keys):
            for part in _parts(keys):
                pipe = self._client.pipeline(transaction=False)
                for key in part:
                    pipe.type(key)
                found += [kind.decode() for kind in pipe.execute()]
        return found

    def ttl_s(self, key: bytes) -> float | None:
        """Seconds until a key expires; None if it never does, or is gone."""
        with self._errors("PTTL", [key]):
            left_ms = self._client.pttl(key)
        return None if left_ms < 0 else left_ms / 1e3

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Positions of the keys that do not exist.

        One EXISTS for many keys answers with their number only: where all are
        there, which is the rule, that is all it takes.
        """
        gone: list[int] = []
        with self._errors("EXISTS", keys):
            for start in range(0, len(keys), KEYS_PER_CALL):
                part = keys[start : start + KEYS_PER_CALL]
                if self._client.exists(*part) == len(part):
                    continue
                pipe = self._client.pipeline(transaction=False)
                for key in part:
                    pipe.exists(key)
                gone += [start + i for i, there in enumerate(pipe.execute()) if not there]
        return gone

    def ask(self, keys: Sequence[bytes]) -> None:
        """Ask for the snapshots of some keys, without waiting for them; `snapshots` of the same keys takes them."""
        self._asked = None
        with self._errors("MGET", keys):
            self._snapshots.ask([pack_keys(b"MGET", keys)])
        self._asked = keys

    def snapshots(self, keys: Sequence[bytes]) -> Values:
        """Values of string keys, where they were received; good until the next call.

        They are asked for, unless they have been with `ask`.
        """
        if self._asked is not keys:
            self.ask(keys)
        self._asked = None
        self._values.expect(len(keys))
        with self._errors("MGET", keys):
            self._snapshots.answer(self._values)
            if self._values.error is not None:
                raise server_error(self._values.error)
        return self._values

    def begin_write(self, commands: memoryview, n_commands: int) -> None:
        """Send ready-made ``SET`` commands; `finish_write` has to follow before the next ones.

        Parameters
        ----------
        commands : memoryview
            RESP commands back to back, such as `etacore.pipeline.encoding.Documents.commands`; they must stay unchanged
            until `finish_write`.
        n_commands : int
            How many they are, at least one.
        """
        with self._errors("SET", self._keys.predictions + "*"):
            self._predictions.begin(commands, n_commands)

    def finish_write(self) -> tuple[list[int], float]:
        """Wait until the commands are stored.

        Returns
        -------
        failed : list of int
            Positions of the commands that Redis answered with an error.
        took_s : float
            Seconds from the first byte sent to the last reply.

        Raises
        ------
        ConfigError
            If the user may not write predictions; all replies have been read.
        RedisUnavailableError
            If the server is a replica (a failover has happened), for another connection may find the new master, or
            if it is loading its data.
        """
        with self._errors("SET", self._keys.predictions + "*"):
            failed = self._predictions.finish()
            for _, error in failed:
                if isinstance(error, (NoPermissionError, ReadOnlyError, *_OUTAGE)):
                    self._client.connection_pool.disconnect()
                    raise error
        return [ix for ix, _ in failed], self._predictions.took_s

    def active_model(self) -> bytes | None:
        """What promotion announced, as stored."""
        return self.fetch([self._keys.active_model.encode()])[0]

    def announce_model(self, announcement: bytes | None) -> None:
        """Store a promotion's announcement, without a time to live; None takes it away."""
        with self._errors("SET", self._keys.active_model):
            if announcement is None:
                self._client.delete(self._keys.active_model)
            else:
                self._client.set(self._keys.active_model, announcement)

    def _errors(self, command: str, keys: str | Sequence[bytes] = ()) -> _Translated:
        if not isinstance(keys, str):
            keys = keys[0].decode(errors="replace") if keys else ""
        return _Translated(self._client, command, keys)


class _Translated(AbstractContextManager[None]):
    """Turns redis-py's errors into ours, with the address and without the secret."""

    def __init__(self, client: redis.Redis, command: str, keys: str) -> None:
        self._client = client
        self._command = command
        self._keys = keys

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not isinstance(error, (RedisError, OSError)):
            return
        where = address_of(self._client)
        if isinstance(error, NoPermissionError):
            # The connection itself runs commands too, so the one that Redis names counts.
            named = _COMMAND.search(str(error))
            what = named[1].upper() if named else self._command
            if self._keys and what == self._command:
                what = f"{what} on {self._keys}"
            raise ConfigError(
                f"Redis at {where}: the user may not run {what} ({error})",
                hint=f"permit it with ACL SETUSER, or set another {_USERNAME}",
            ) from None
        if isinstance(error, _REFUSED) or (isinstance(error, ResponseError) and "AUTH" in str(error)):
            raise _refusal(where, str(error)) from None
        if isinstance(error, _OUTAGE):
            if _speaks_no_tls(self._client):
                raise ConfigError(
                    f"Redis at {where} speaks no TLS on this port",
                    hint="leave TLS out (--no-redis-tls, or redis:// instead of rediss://), or set the redis_port "
                    "that speaks it (--redis-port; environment REDIS_PORT)",
                ) from None
            raise RedisUnavailableError(
                f"Redis at {where} cannot be reached: {error}", hint=f"set {_ADDRESS}"
            ) from None
        if isinstance(error, RedisError):
            raise RedisUnavailableError(f"Redis at {where} answered: {error}") from None


def _refusal(where: str, said: str) -> ConfigError:
    """What a refusal to log in means; `said` are the server's words, which hold no secret but need not be repeated."""
    if any(words in said for words in _PASSWORD_MISSING):
        return ConfigError(f"Redis at {where} wants a password, and none is given", hint=f"set {_PASSWORD}")
    if any(words in said for words in _PASSWORD_NEEDLESS):
        return ConfigError(
            f"Redis at {where} has no password, but one is given",
            hint=f"leave out {_PASSWORD}, or say whose it is with {_USERNAME}",
        )
    return ConfigError(
        f"Redis at {where} refuses our credentials: the password is wrong, or the user unknown or disabled",
        hint=f"set {_PASSWORD}, and for another user than Redis' default one {_USERNAME}",
    )


def _speaks_no_tls(client: redis.Redis) -> bool:
    """Whether we speak TLS to a port that answers without: such a server just stays silent."""
    pool = client.connection_pool
    if not issubclass(pool.connection_class, redis.SSLConnection):
        return False
    address = pool.connection_kwargs.get("host", "localhost"), pool.connection_kwargs.get("port", 6379)
    try:
        with socket.create_connection(address, PROBE_TIMEOUT_S) as plain:
            plain.sendall(b"PING\r\n")
            return plain.recv(1) in (b"+", b"-")
    except OSError:
        return False


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), KEYS_PER_CALL):
        yield items[start : start + KEYS_PER_CALL]


def redis_errors(client: redis.Redis, command: str) -> AbstractContextManager[None]:
    """Turns redis-py's errors inside it into ours, as `RedisStore` does; `command` is for the message."""
    return _Translated(client, command, "")


def connect(config: RuntimeConfig) -> redis.Redis:
    """Open a client with our timeouts and retries.

    Raises
    ------
    ConfigError
        If ``redis_url`` cannot be read.
    """
    common: dict[str, Any] = {
        "decode_responses": False,
        # Known to every server and proxy; redis-py 8 would begin with HELLO 3, which Redis 5 refuses.
        "protocol": 2,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "retry": Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), retries=1),
        "client_name": "etacore",
    }
    if config.redis_url:
        given = {"username": config.redis_username, "password": config.redis_password}
        common |= {name: value for name, value in given.items() if value is not None}
        try:
            return redis.Redis.from_url(config.redis_url, **common)
        except (ValueError, TypeError):
            raise ConfigError(
                "redis_url cannot be read", hint="it looks like redis://host:6379/0, rediss://host or unix:///path"
            ) from None
    return redis.Redis(
        host=config.redis_host,
        port=config.redis_port,
        db=config.redis_db,
        username=config.redis_username,
        password=config.redis_password,
        ssl=config.redis_tls,
        **common,
    )


def address_of(client: redis.Redis) -> str:
    """Where a client connects to, for messages; without credentials."""
    # From what the client connects to, never from the text of a URL: secrets may be anywhere in it.
    target = client.connection_pool.connection_kwargs
    if "path" in target:
        return str(target["path"])
    host = str(target.get("host", "localhost"))
    return f"{f'[{host}]' if ':' in host else host}:{target.get('port', 6379)}/{target.get('db', 0)}"
