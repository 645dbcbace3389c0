"""The only module that talks to Redis.

Connections, TLS, authentication and short retries are redis-py's; this module
says which commands a batch needs, always many keys at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar, cast

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, RedisUnavailableError

SCAN_COUNT: Final = 5_000
KEYS_PER_CALL: Final = 2_000
SOCKET_TIMEOUT_S: Final = 10.0

_OUTAGE: Final = (RedisConnectionError, RedisTimeoutError, OSError)
_REFUSED: Final = (AuthenticationError, AuthorizationError, NoPermissionError)

T = TypeVar("T")


class RedisStore:
    """Snapshots in, predictions out.

    Every method raises `RedisUnavailableError` when Redis cannot be reached
    after short retries, and `ConfigError` when it refuses the credentials.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self._keys = config.keys
        self._client = _client(config)
        self._where = _describe(config)

    def __enter__(self) -> RedisStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    @property
    def where(self) -> str:
        """Address for messages, without credentials."""
        return self._where

    def ping(self) -> dict[str, Any]:
        """Server facts (``INFO server``); proves that address and credentials work."""
        with self._errors():
            return self._client.info("server")

    def scan_vehicle_keys(self) -> list[bytes]:
        """All keys that match the vehicle pattern, each once."""
        with self._errors():
            return list(dict.fromkeys(self._client.scan_iter(match=self._keys.vehicle_pattern, count=SCAN_COUNT)))

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of string keys (MGET); None where a key is absent or no string."""
        values: list[bytes | None] = []
        with self._errors():
            for part in _parts(keys):
                values += cast("list[bytes | None]", self._client.mget(part))
        return values

    def not_strings(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of the keys hold something that is no string (True), rather than nothing."""
        found: list[bool] = []
        with self._errors():
            for part in _parts(keys):
                pipe = self._client.pipeline(transaction=False)
                for key in part:
                    pipe.type(key)
                found += [kind not in (b"none", b"string") for kind in pipe.execute()]
        return found

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Positions of the keys that do not exist.

        One EXISTS for many keys answers with their number only: where all are
        there, which is the rule, that is all it takes.
        """
        gone: list[int] = []
        with self._errors():
            for start in range(0, len(keys), KEYS_PER_CALL):
                part = keys[start : start + KEYS_PER_CALL]
                if self._client.exists(*part) == len(part):
                    continue
                pipe = self._client.pipeline(transaction=False)
                for key in part:
                    pipe.exists(key)
                gone += [start + i for i, there in enumerate(pipe.execute()) if not there]
        return gone

    def write(self, commands: bytes | memoryview, n_commands: int) -> list[int]:
        """Send ready-made commands and read their replies.

        Parameters
        ----------
        commands : buffer
            RESP commands back to back, from `etacore.encoding.pack_set_commands`.
        n_commands : int
            How many they are.

        Returns
        -------
        list of int
            Positions of the commands that Redis answered with an error.
        """
        if not n_commands:
            return []
        failed: list[int] = []
        pool = self._client.connection_pool
        with self._errors():
            connection: Any = pool.get_connection()
            try:
                connection.send_packed_command([commands])
                for i in range(n_commands):
                    try:
                        connection.read_response()
                    except ResponseError:
                        failed.append(i)
            except BaseException:
                # Unread replies would answer somebody else's question.
                connection.disconnect()
                raise
            finally:
                pool.release(connection)
        return failed

    def active_model(self) -> bytes | None:
        """What promotion announced, as stored."""
        return self.fetch([self._keys.active_model.encode()])[0]

    def seed(self, pairs: Iterable[tuple[str, bytes]], ttl_seconds: int | None) -> int:
        """Write keys, for example those of `etacore.seeding`; returns how many."""
        n = 0
        with self._errors():
            pipe = self._client.pipeline(transaction=False)
            for key, value in pairs:
                pipe.set(key, value, ex=ttl_seconds)
                n += 1
                if n % KEYS_PER_CALL == 0:
                    pipe.execute()
            pipe.execute()
        return n

    def _errors(self) -> _Translated:
        return _Translated(self._where)


class _Translated:
    """Turns redis-py's errors into ours, with the address and without the secret."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, _REFUSED) or (isinstance(error, ResponseError) and "AUTH" in str(error)):
            raise ConfigError(
                f"Redis at {self._where} refuses our credentials",
                hint="set redis_username / redis_password (environment REDIS_USERNAME, REDIS_PASSWORD), "
                "and check the ACL of that user",
            ) from None
        if isinstance(error, _OUTAGE):
            raise RedisUnavailableError(
                f"Redis at {self._where} cannot be reached: {error}",
                hint="set redis_host and redis_port (environment REDIS_HOST, REDIS_PORT) or redis_url (REDIS_URL)",
            ) from None
        if isinstance(error, RedisError):
            raise RedisUnavailableError(f"Redis at {self._where} answered: {error}") from None


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), KEYS_PER_CALL):
        yield items[start : start + KEYS_PER_CALL]


def _client(config: RuntimeConfig) -> redis.Redis:
    common: dict[str, Any] = {
        "decode_responses": False,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "retry": Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), retries=2),
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


def _describe(config: RuntimeConfig) -> str:
    if not config.redis_url:
        return f"{config.redis_host}:{config.redis_port}/{config.redis_db}"
    address = config.redis_url.rpartition("@")[2] if "@" in config.redis_url else config.redis_url.partition("://")[2]
    return address.partition("?")[0]
