"""Keeps the stops of a feed in Redis: writes a version, recognises it again, swaps it for the next one.

A swap writes the new patterns, then the trips and routes that name them, and removes last what is gone, so that a
vehicle has stops at every moment. Patterns that are gone lapse after `RETIRED_S` only: a running loop may know
their trips for a while.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import redis

from etacore import __version__
from etacore.config import KeyNames
from etacore.errors import EtacoreError, FeedError, FeedUnavailableError, RedisUnavailableError, SeedingStoppedError
from etacore.mlops.progress import Progress, silent
from etacore.mlops.transit.gtfs import Feed, read_feed
from etacore.mlops.transit.seed import CHUNK, chunks_of, feed_pairs
from etacore.mlops.transit.seeding.feed_source import FeedSource, Version
from etacore.mlops.transit.seeding.ledger import Manifest, SeedLedger, SeedLock, kinds_of
from etacore.store.store import redis_errors

KINDS: Final = (
    "pattern_stops",
    "pattern_shape",
    "trip_pattern",
    "run_pattern",
    "direction_stops",
    "direction_shape",
    "route_stops",
    "route_shape",
)
"""Fields of `KeyNames` that are prefixes of seeded keys."""
RETIRED_S: Final = 600
"""Time to live of a pattern that is gone: ten times what a loop goes on with the pattern of a trip by default."""
RETRY_S: Final = 5.0
"""Seconds to the next look after a failed one; twice as many after each further one."""
MAX_NOTES: Final = 50
MAX_NOTE_LENGTH: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """What a look at the feed came to.

    Attributes
    ----------
    manifest : Manifest
        Of what Redis holds now.
    is_changed : bool
        Whether anything was written; False if the feed is the one that Redis holds.
    n_new, n_gone : mapping of str to int
        Keys that the seeding before did not have, and those of it that were removed, by kind.
    n_shared : mapping of str to int
        Keys that another seeding writes, too, by its name: whoever writes last counts.
    before : Manifest or None
        Of what Redis held, where that was replaced.
    """

    manifest: Manifest
    is_changed: bool
    n_new: Mapping[str, int] = field(default_factory=dict)
    n_gone: Mapping[str, int] = field(default_factory=dict)
    n_shared: Mapping[str, int] = field(default_factory=dict)
    before: Manifest | None = None


class Seeder:
    """Brings the feed of one source into Redis, under a name.

    Parameters
    ----------
    client : redis.Redis
        From `etacore.store.store.connect`.
    source : FeedSource
        See `etacore.mlops.transit.seeding.feed_place.feed_source`.
    name : str
        Several feeds in one Redis have a name each: each removes its own keys only.
    lock : SeedLock
        Of that name, held.
    keys : KeyNames, optional
        Prefixes, if the deployment renamed them.
    ttl_s : int
        Time to live of the keys in seconds, 0 = they stay.
    stop : threading.Event, optional
        Once it is set, the work ends at the next chunk.
    progress : Progress, optional
        Told what is done.
    """

    def __init__(
        self,
        client: redis.Redis,
        source: FeedSource,
        name: str,
        lock: SeedLock,
        *,
        keys: KeyNames | None = None,
        ttl_s: int = 0,
        stop: threading.Event | None = None,
        progress: Progress = silent,
    ) -> None:
        self.source: Final = source
        self._client: Final = client
        self._lock: Final = lock
        self._ledger: Final = SeedLedger(client, name)
        self._keys: Final = keys or KeyNames()
        self._prefixes: Final = {kind: str(getattr(self._keys, kind)) for kind in KINDS}
        self._ttl_s: Final = ttl_s
        self._stop: Final = stop or threading.Event()
        self._progress: Final = progress
        self._seen: Version | None = None
        self._refused: Version | None = None

    def look(self) -> Seeded:
        """Bring the feed into Redis, unless that holds this version and all of its keys.

        Raises
        ------
        FeedError
            If there is no feed, or none that can be used. Redis keeps what it has.
        RedisUnavailableError, ConfigError
            If Redis cannot be reached, or refuses. If that happens in the middle, the keys of both versions are
            there, and the next look finishes what this one began.
        SeedingStoppedError
            If ``stop`` was set in the middle; likewise.
        """
        manifest = self._ledger.manifest()
        held = manifest if manifest is not None and self._is_whole(manifest) else None
        with self.source.look(self._known(held) if held is not None else None) as found:
            self._check()
            if held is not None and (found is None or self._is_seen(found.version, held)):
                return Seeded(manifest=self._noticed(held, found.version if found else None), is_changed=False)
            assert found is not None  # whatever there is was asked for
            try:
                feed = self._read(found.path)
            except FeedError:
                self._seen = self._refused = found.version
                raise
        return self._swap(feed, found.version)

    def watch(self, every_s: float, *, retry_s: float = RETRY_S) -> Generator[Seeded | EtacoreError, None, None]:
        """Look again and again, until ``stop`` is set.

        Parameters
        ----------
        every_s : float
            Seconds between two looks.
        retry_s : float
            Seconds to the first look after one that failed.

        Yields
        ------
        Seeded or EtacoreError
            The first look, every change, what goes wrong (once, until it is something else), and the first look
            after that. Meanwhile Redis keeps what it has, and no time to live runs out.

        Raises
        ------
        EtacoreError
            As `look`, if the first look fails with nothing in Redis that could be kept, or a setting is wrong.
        """
        n_failed, said, is_first = 0, "", True
        with self._renewed():
            while True:
                wait_s = every_s
                try:
                    seeded = self.look()
                except (FeedError, RedisUnavailableError) as error:
                    if is_first and (isinstance(error, RedisUnavailableError) or self._ledger.manifest() is None):
                        raise
                    if isinstance(error, (FeedUnavailableError, RedisUnavailableError)):
                        wait_s = min(every_s, retry_s * 2.0 ** min(n_failed, 20))
                        n_failed += 1
                    if str(error) != said:
                        said = str(error)
                        yield error
                except SeedingStoppedError:
                    if self._ledger.is_interrupted():
                        raise
                    return
                else:
                    if is_first or seeded.is_changed or (said and self._refused is None):
                        said = ""
                        yield seeded
                    n_failed = 0
                is_first = False
                if self._stop.wait(wait_s):
                    return

    def renew(self) -> int:
        """Renew the time to live of all keys; returns how many are missing, or do not stay as long as they should."""
        n_missing = 0
        for part in self._ledger.key_lists():
            if self._ttl_s:
                pipe = self._client.pipeline(transaction=False)
                for key in part:
                    pipe.expire(key, self._ttl_s)
                with redis_errors(self._client, "EXPIRE"):
                    n_missing += sum(not there for there in pipe.execute())
            else:
                # One key speaks for the time to live of its list: who gives them one writes all of them.
                with redis_errors(self._client, "EXISTS"):
                    pipe = self._client.pipeline(transaction=False)
                    pipe.exists(*part)
                    pipe.ttl(part[0])
                    n_there, ttl_s = pipe.execute()
                n_missing += len(part) - n_there + (ttl_s >= 0)
        return n_missing

    def _is_whole(self, manifest: Manifest) -> bool:
        """Whether Redis holds all that a manifest says, as we would write it."""
        ours = (__version__, self._ttl_s, self._prefixes)
        return (
            (manifest.etacore_version, manifest.ttl_s, manifest.prefixes) == ours
            and not self._ledger.is_interrupted()
            and self.renew() == 0
        )

    def _known(self, manifest: Manifest) -> Version | None:
        if self._seen is not None:
            return self._seen
        # Two addresses may differ in what is not kept: their key, or the agency that they ask for.
        if manifest.source != self.source.shown or self.source.keeps_secrets:
            return None
        return Version(digest=manifest.feed_digest, etag=manifest.etag, last_modified=manifest.last_modified)

    def _is_seen(self, version: Version, held: Manifest) -> bool:
        return version.digest == held.feed_digest or (
            self._refused is not None and version.digest == self._refused.digest
        )

    def _noticed(self, held: Manifest, version: Version | None) -> Manifest:
        """Remember that a version is the known one, though the server may call it by another ETag."""
        if version is None or version.digest != held.feed_digest:
            return held
        self._seen, self._refused = version, None
        now = dataclasses.replace(
            held, source=self.source.shown, etag=version.etag, last_modified=version.last_modified
        )
        if now != held:
            self._ledger.update(now)
        return now

    def _read(self, path: Path) -> Feed:
        self._progress("reading the feed", 0, 1)
        try:
            feed = read_feed(path)
        except FeedError as error:
            place, shown = str(path), self.source.shown
            hint = error.hint and error.hint.replace(place, shown)
            raise FeedError(error.message.replace(place, shown), hint=hint) from None
        self._progress("reading the feed", 1, 1)
        if not feed.patterns:
            raise FeedError(f"{self.source.shown} has no trip with stops")
        return feed

    def _swap(self, feed: Feed, version: Version) -> Seeded:
        held = self._ledger.manifest()
        before = {key for part in self._ledger.key_lists() for key in part}
        others = self._ledger.keys_of_others()
        self._ledger.begin()
        written = self._write(feed)
        gone = before.difference(written, *others.values())
        self._remove(gone)
        manifest = Manifest(
            source=self.source.shown,
            feed_digest=version.digest,
            etag=version.etag,
            last_modified=version.last_modified,
            seeded_at=datetime.now(UTC).isoformat(timespec="seconds"),
            etacore_version=__version__,
            ttl_s=self._ttl_s,
            prefixes=self._prefixes,
            n_keys=kinds_of(written, self._prefixes),
            n_routes=len({pattern.route_id for pattern in feed.patterns}),
            n_patterns=len(feed.patterns),
            n_trips=len(feed.trips),
            notes=[note[:MAX_NOTE_LENGTH] for note in feed.notes[:MAX_NOTES]],
        )
        self._ledger.finish(manifest)
        self._seen, self._refused = version, None
        return Seeded(
            manifest=manifest,
            is_changed=True,
            n_new=kinds_of(written - before, self._prefixes),
            n_gone=kinds_of(gone, self._prefixes),
            n_shared={name: n for name, keys in others.items() if (n := len(written & keys))},
            before=held,
        )

    def _write(self, feed: Feed) -> set[str]:
        written: set[str] = set()
        for chunk in chunks_of(feed_pairs(feed, self._keys)):
            self._check()
            pipe = self._client.pipeline(transaction=False)
            self._ledger.note(pipe, [key for key, _ in chunk])
            for key, value in chunk:
                pipe.set(key, value, ex=self._ttl_s or None)
            with redis_errors(self._client, "SET"):
                pipe.execute()
            written.update(key for key, _ in chunk)
            self._progress("writing keys", len(written), 0)
        return written

    def _remove(self, gone: set[str]) -> None:
        patterns = (self._keys.pattern_stops, self._keys.pattern_shape)
        rest = sorted(gone)
        for start in range(0, len(rest), CHUNK):
            self._check()
            pipe = self._client.pipeline(transaction=False)
            for key in rest[start : start + CHUNK]:
                if key.startswith(patterns):
                    pipe.expire(key, RETIRED_S)
                else:
                    pipe.unlink(key)
            with redis_errors(self._client, "UNLINK"):
                pipe.execute()
            self._progress("removing keys of before", min(start + CHUNK, len(rest)), len(rest))

    def _check(self) -> None:
        self._lock.check()
        if self._stop.is_set():
            raise SeedingStoppedError(
                "stopped before the feed was in Redis; what was there before is still there",
                hint="run it again: it finishes what is begun, and removes what is left over",
            )

    @contextmanager
    def _renewed(self) -> Iterator[None]:
        """Renew the time to live in time, whatever else takes long: a download, or a feed that is refused."""
        if not self._ttl_s:
            yield
            return
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self._ttl_s / 3):
                with suppress(EtacoreError):  # a look meets it, too, and says so
                    held = self._ledger.manifest()
                    if held is not None and held.ttl_s == self._ttl_s:
                        self.renew()

        thread = threading.Thread(target=renew, name="etacore-seed-renew", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
