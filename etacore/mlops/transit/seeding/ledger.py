"""What seedings wrote into a Redis, kept there: a later one, on whatever machine, knows which keys are its own.

=========================== ======================================================================================
``eta:seed``                hash: name of a seeding to its `Manifest` as JSON
``eta:seed:<name>:keys``    list: the keys that it wrote, some thousand in each element (JSON, zlib)
``eta:seed:<name>:pending`` list: the same of a seeding that is at work, or was interrupted
``eta:seed:<name>:lock``    string: who is at work; lapses by itself
=========================== ======================================================================================
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, cast

import orjson
import redis

from etacore.errors import ConfigError
from etacore.store.store import address_of, redis_errors

SEEDINGS: Final = "eta:seed"
LOCK_S: Final = 30.0
"""A seeder that died is forgotten after this time."""
MAX_KEY_LIST_BYTES: Final = 64 * 2**20
"""Of one element of a list of keys, unpacked."""

_NAME_HINT: Final = "1 to 64 of the characters A-Z a-z 0-9 _ . -"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a seeding wrote, and from what.

    Attributes
    ----------
    source : str
        Where the feed came from, without credentials.
    feed_digest : str
        SHA-256 of the feed's content.
    etag, last_modified : str or None
        What the server said of this version.
    seeded_at : str
        ISO 8601, UTC.
    etacore_version : str
        Another version may read the same feed in another way.
    ttl_s : int
        Time to live of the keys in seconds, 0 = they stay.
    prefixes : mapping
        How the keys were called; see `etacore.config.KeyNames`.
    n_keys : mapping of str to int
        Keys by kind.
    n_routes, n_patterns, n_trips : int
        What the feed holds.
    notes : sequence of str
        What was odd in the feed.
    """

    source: str
    feed_digest: str
    etag: str | None
    last_modified: str | None
    seeded_at: str
    etacore_version: str
    ttl_s: int
    prefixes: Mapping[str, str]
    n_keys: Mapping[str, int]
    n_routes: int
    n_patterns: int
    n_trips: int
    notes: Sequence[str]

    def to_json(self) -> bytes:
        """As it is stored."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes | None) -> Manifest | None:
        """Read what `to_json` wrote; None for anything else, such as the mark of a seeding that never ended."""
        try:
            found = orjson.loads(text or b"")
            return cls(**{field.name: found[field.name] for field in fields(cls)})
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None


class SeedLedger:
    """The manifest and the keys of one seeding.

    Every method raises `RedisUnavailableError` and `ConfigError` as `etacore.store.store.RedisStore` does.

    Parameters
    ----------
    client : redis.Redis
        From `etacore.store.store.connect`.
    name : str
        Of the seeding: feeds side by side have a name each.

    Raises
    ------
    ConfigError
        If the name cannot be one.
    """

    def __init__(self, client: redis.Redis, name: str) -> None:
        self.name: Final = checked_name(name)
        self._client: Final = client

    def manifest(self) -> Manifest | None:
        """Read what the last complete seeding wrote."""
        with redis_errors(self._client, "HGET"):
            return Manifest.from_json(cast("bytes | None", self._client.hget(SEEDINGS, self.name)))

    def is_interrupted(self) -> bool:
        """Whether a seeding began and did not end."""
        with redis_errors(self._client, "EXISTS"):
            return bool(self._client.exists(self._pending))

    def key_lists(self) -> Iterator[list[str]]:
        """Every key that may have been written under this name, some thousand at a time."""
        yield from self._keys_of(self.name)

    def keys_of_others(self) -> dict[str, set[str]]:
        """The keys of all other seedings in this Redis, by their names."""
        with redis_errors(self._client, "HKEYS"):
            names = [name.decode(errors="replace") for name in cast("list[bytes]", self._client.hkeys(SEEDINGS))]
        return {
            name: {key for part in self._keys_of(name) for key in part}
            for name in names
            if name != self.name and _NAME.fullmatch(name)
        }

    def begin(self) -> None:
        """Begin a seeding; what an interrupted one wrote counts as written by the one before."""
        with redis_errors(self._client, "RPUSH"):
            left = cast("list[bytes]", self._client.lrange(self._pending, 0, -1))
            pipe = self._client.pipeline(transaction=True)
            pipe.hsetnx(SEEDINGS, self.name, b'{"unfinished":true}')
            if left:
                pipe.rpush(self._keys, *left)
            pipe.delete(self._pending)
            pipe.execute()

    def note(self, pipe: Any, keys: Sequence[str]) -> None:
        """Add to a pipeline that these keys are about to be written; it has to come before the writing."""
        pipe.rpush(self._pending, zlib.compress(orjson.dumps(keys), level=1))

    def finish(self, manifest: Manifest) -> None:
        """Forget the keys of before: those noted since `begin`, at least one, are all there is."""
        with redis_errors(self._client, "RENAME"):
            pipe = self._client.pipeline(transaction=True)
            pipe.rename(self._pending, self._keys)
            pipe.hset(SEEDINGS, self.name, cast("str", manifest.to_json()))
            pipe.execute()

    def update(self, manifest: Manifest) -> None:
        """Replace the manifest; the keys are the same."""
        with redis_errors(self._client, "HSET"):
            self._client.hset(SEEDINGS, self.name, cast("str", manifest.to_json()))

    @property
    def _keys(self) -> str:
        return f"{SEEDINGS}:{self.name}:keys"

    @property
    def _pending(self) -> str:
        return f"{SEEDINGS}:{self.name}:pending"

    def _keys_of(self, name: str) -> Iterator[list[str]]:
        for key in (f"{SEEDINGS}:{name}:keys", f"{SEEDINGS}:{name}:pending"):
            with redis_errors(self._client, "LRANGE"):
                parts = cast("list[bytes]", self._client.lrange(key, 0, -1))
            for part in parts:
                yield _unpacked(key, part)


def _unpacked(key: str, part: bytes) -> list[str]:
    try:
        unzip = zlib.decompressobj()
        text = unzip.decompress(part, MAX_KEY_LIST_BYTES)
        found = orjson.loads(text) if unzip.eof else None
    except (zlib.error, orjson.JSONDecodeError):
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ConfigError(
            f"{key} in Redis is no list of keys that a seeding wrote",
            hint=f"DEL {key}: then the keys of the feed before stay where the new feed has no such key",
        )
    return found


class SeedLock:
    """Only one seeder works under a name: held inside the context, and kept from lapsing by a thread of its own.

    Parameters
    ----------
    client : redis.Redis
        Used by the thread, too.
    name : str
        Of the seeding.
    lapse_s : float
        How long the lock outlives a seeder that died.

    Raises
    ------
    ConfigError
        If the name cannot be one; on entering, if somebody else is at work.
    """

    def __init__(self, client: redis.Redis, name: str, *, lapse_s: float = LOCK_S) -> None:
        self._client: Final = client
        self._name: Final = checked_name(name)
        self._key: Final = f"{SEEDINGS}:{name}:lock"
        self._lapse_ms: Final = max(int(lapse_s * 1e3), 1)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._holder: Final = f"process {os.getpid()} on {socket.gethostname()}, since {since}"
        self._value: Final = f"{self._holder} [{secrets.token_hex(8)}]".encode()
        self._done: Final = threading.Event()
        self._taken_by: str | None = None
        self._thread: Final = threading.Thread(target=self._hold, name="etacore-seed-lock", daemon=True)

    def __enter__(self) -> SeedLock:
        with redis_errors(self._client, "SET"):
            if not self._take():
                raise self._busy()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        try:
            if self._client.get(self._key) == self._value:
                self._client.delete(self._key)
        except redis.RedisError:
            pass  # it lapses

    def check(self) -> None:
        """Raise `ConfigError` if somebody else has taken over: this process was stopped, or cut off from Redis."""
        if self._taken_by is not None:
            raise self._busy()

    def _take(self) -> bool:
        if self._client.set(self._key, self._value, px=self._lapse_ms, nx=True):
            return True
        holder = cast("bytes | None", self._client.get(self._key))
        if holder == self._value:  # taken, but the answer was lost on its way
            return True
        self._taken_by = (holder or b"somebody").decode(errors="replace").partition(" [")[0][:200]
        return False

    def _hold(self) -> None:
        while not self._done.wait(self._lapse_ms / 3e3):
            try:
                if self._client.get(self._key) == self._value:
                    self._client.pexpire(self._key, self._lapse_ms)
                elif not self._take():
                    return
            except redis.RedisError:
                continue  # whoever writes meets the same, and says so

    def _busy(self) -> ConfigError:
        return ConfigError(
            f"the seeding {self._name!r} in Redis at {address_of(self._client)} is at work already: {self._taken_by}",
            hint="wait for it or stop it, or give this feed a name of its own (--name); "
            f"one that died is forgotten after {self._lapse_ms / 1e3:g} s",
        )


def checked_name(name: str) -> str:
    """Give the name of a seeding back, or raise `ConfigError` if it cannot be one."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a seeding cannot be called {name[:70]!r}", hint=_NAME_HINT)
    return name


def kinds_of(keys: Iterable[str], prefixes: Mapping[str, str]) -> dict[str, int]:
    """Count keys by their kind: the name of the longest prefix that fits, else ``other``."""
    by_length = sorted(prefixes.items(), key=lambda item: -len(item[1]))
    counts: Counter[str] = Counter()
    for key in keys:
        counts[next((kind for kind, prefix in by_length if key.startswith(prefix)), "other")] += 1
    return dict(counts)
