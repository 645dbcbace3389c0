"""Which stops a vehicle serves, in which order, and along which line.

A *pattern* is an ordered list of stops with the line that joins them. A
snapshot follows its trip's pattern where Redis names one, else the stops of
its route and direction, else those of its route. `RouteTable` keeps what Redis
holds of this, says which keys it lacks, and gives every row of a batch the
number of its pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from etacore._kernels.batch import Batch
from etacore._kernels.resolve import NameTable
from etacore._kernels.routes import PatternTable
from etacore.config import KeyNames
from etacore.pipeline.route_blobs import StopList, content_digest, digest, parse_shape, parse_stops

Fetch = Callable[[Sequence[bytes]], list[bytes | None]]
"""Keys to values, None where there is none (Redis' MGET)."""

MAX_PATTERN_ID_BYTES: Final = 256

_US: Final = 1_000_000


class RouteTable:
    """Patterns by trip, route and direction, and what has to be asked of Redis about them.

    `resolve` does what a batch needs; the other calls are its steps, and what
    seeds the table in tests and tools.

    Pattern numbers of a batch hold until the next `resolve`. Not for several
    threads at once.

    Parameters
    ----------
    keys : KeyNames
        Prefixes of the Redis keys.
    refresh_s : float
        Stops and shapes in use are looked at again after this time.
    trip_refresh_s : float, optional
        The same for the pattern of a trip, which hardly ever changes; default 6 times ``refresh_s``.
    forget_after_s : float
        What no vehicle has used for this long is forgotten.
    max_names : int
        Most trips, and most routes and patterns, to know of; beyond that the longest unused are forgotten.

    Attributes
    ----------
    patterns : PatternTable
        What the kernels read.
    """

    def __init__(
        self,
        keys: KeyNames | None = None,
        *,
        refresh_s: float = 10.0,
        trip_refresh_s: float | None = None,
        forget_after_s: float = 7200.0,
        max_names: int = 500_000,
    ) -> None:
        keys = keys or KeyNames()
        self.patterns: Final = PatternTable()
        trip_refresh_s = 6.0 * refresh_s if trip_refresh_s is None else trip_refresh_s
        self._names: Final = NameTable(int(refresh_s * _US), int(trip_refresh_s * _US))
        self._trip_prefix: Final = keys.trip_pattern.encode()
        # is_pattern -> prefixes of the stops and of the shape
        self._stops_prefix: Final = (keys.route_stops.encode(), keys.pattern_stops.encode())
        self._shape_prefix: Final = (keys.route_shape.encode(), keys.pattern_shape.encode())
        self._forget_after_us: Final = int(forget_after_s * _US)
        self._max_names: Final = max_names
        self._next_forget_us: int | None = None
        self._digests: dict[int, tuple[bytes, bytes]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held by the compiled tables."""
        return self.patterns.nbytes + self._names.nbytes

    def set_pattern(self, key: bytes, stops_blob: bytes, shape_blob: bytes | None = None) -> bool:
        """Take over stops and shape.

        Parameters
        ----------
        key : bytes
            The Redis key of the stops, for example ``b"route_stops:171"`` or ``b"pattern_stops:P1"``.
        stops_blob, shape_blob : bytes
            See `parse_stops` and `ShapePolyline.from_blob`. A shape that cannot be used is as if absent; stops that
            cannot be used make a pattern with a bad status. Neither raises.

        Returns
        -------
        bool
            True if this changed anything. Then the pattern has a new number; else it keeps its number.

        Raises
        ------
        ValueError
            If the key has neither prefix.
        """
        is_pattern, name = self._source(key)
        before = self._names.pattern_of(name, is_pattern)
        raw = digest(stops_blob, b"\0" if shape_blob is None else shape_blob)
        raw_before, content_before = self._digests.get(before, (b"", b""))
        if raw == raw_before:
            self._names.learn_source(name, is_pattern, before)
            return False
        stops, shape = parse_stops(stops_blob), parse_shape(shape_blob)
        content = content_digest(stops, shape)
        if content == content_before:
            self._digests[before] = (raw, content)
            self._names.learn_source(name, is_pattern, before)
            return False
        text, spans = _texts(stops)
        line = shape.line if shape else None
        pattern_ix = self.patterns.add(stops.status, stops.lat, stops.lon, stops.sequence, text, spans, line)
        self._digests[pattern_ix] = (raw, content)
        self._retire(self._names.learn_source(name, is_pattern, pattern_ix))
        return True

    def set_absent(self, key: bytes) -> None:
        """Remember that Redis has no such stops; ``key`` as in `set_pattern`."""
        is_pattern, name = self._source(key)
        self._retire(self._names.learn_source(name, is_pattern, -1))

    def set_trip(self, trip_id: bytes, pattern_id: bytes | None) -> bool:
        """Remember which pattern a trip follows, or that Redis does not say.

        A pattern id of more than 256 bytes is none.

        Returns
        -------
        bool
            True if that pattern's stops have still to be looked up.
        """
        usable = pattern_id is not None and len(pattern_id) <= MAX_PATTERN_ID_BYTES
        return self._names.learn_trip(trip_id, pattern_id if usable else None)

    def pattern_ix(self, key: bytes) -> int:
        """Number of the pattern under a key of `set_pattern`; -1 if absent or unknown."""
        is_pattern, name = self._source(key)
        return self._names.pattern_of(name, is_pattern)

    def missing(self, batch: Batch) -> list[bytes]:
        """Redis keys that rows with status OK need and of which nothing is known, not even that they are absent."""
        return self._redis_keys(self._names.missing(batch))

    def due(self, now_us: int, limit: int = 2000) -> list[bytes]:
        """Redis keys in use that have to be looked at again. Costs next to nothing while there are none.

        Parameters
        ----------
        now_us : int
            Microseconds since 1970 UTC; also the clock of everything that follows.
        limit : int
            Most names per call; the next call goes on where this one stopped.
        """
        names = self._names
        names.clock_us = now_us
        return self._redis_keys(names.due(limit))

    def update(self, keys: Sequence[bytes], blobs: Sequence[bytes | None], now_us: int) -> list[bytes]:
        """Take over what was fetched.

        Parameters
        ----------
        keys : sequence of bytes
            As given by `missing`, `due` or this function. A shape counts only together with its stops.
        blobs : sequence of bytes or None
            Their values; None if absent.
        now_us : int
            Microseconds since 1970 UTC.

        Returns
        -------
        list of bytes
            Keys that this discovery makes necessary: the stops and shapes of newly named patterns.
        """
        self._names.clock_us = now_us
        values = dict(zip(keys, blobs, strict=True))
        patterns: dict[bytes, None] = {}
        for key, blob in values.items():
            if key.startswith(self._trip_prefix):
                pattern_id = (blob.strip() if blob else None) or None
                if self.set_trip(key[len(self._trip_prefix) :], pattern_id) and pattern_id is not None:
                    patterns[pattern_id] = None
            elif key.startswith(self._stops_prefix):
                if blob is None:
                    self.set_absent(key)
                else:
                    is_pattern, name = self._source(key)
                    self.set_pattern(key, blob, values.get(self._shape_prefix[is_pattern] + name))
        return self._redis_keys(([], [], [name for name in patterns if self._stops_prefix[1] + name not in values]))

    def look_again(self, keys: Sequence[bytes], fetch: Fetch, now_us: int) -> bool:
        """Look at stops that are said to have changed, without waiting until they are due.

        Parameters
        ----------
        keys : sequence of bytes
            Keys of stops; those that no vehicle has needed so far are passed over.
        fetch : callable
            Keys to values.
        now_us : int
            Microseconds since 1970 UTC.

        Returns
        -------
        bool
            True if there are stops now where there were none: vehicles may have been waiting for them.
        """
        known = []
        for key in keys:
            is_pattern, name = self._source(key)
            if self._names.knows(name, is_pattern):
                known.append((key, self.shape_key(key), self.pattern_ix(key)))
        asked = [key for stops_key, shape_key, _ in known for key in (stops_key, shape_key)]
        if asked:
            self.update(asked, fetch(asked), now_us)
        return any(before < 0 <= self.pattern_ix(key) for key, _, before in known)

    def resolve(self, batch: Batch, fetch: Fetch) -> None:
        """Give every row the number of its pattern, looking up what is not known yet or due for another look.

        Parameters
        ----------
        batch : Batch
            IN: ``status``, ``route_id``, ``trip_id``, ``direction_id``, ``now_us``. OUT: ``pattern_ix``, ``run_key``;
            ``status`` of rows with status OK becomes ``UNKNOWN_ROUTE`` where nothing is known, or what is wrong with
            the pattern's stops.
        fetch : callable
            Keys to values (an MGET); asked three times at most, nearly never at all.
        """
        needed = self.due(batch.now_us)
        # A batch whose names are all known, which is nearly every one, goes through the names once, not twice.
        if not needed and self.resolve_known(batch):
            return
        needed += self.missing(batch)
        while needed:
            needed = self.update(needed, fetch(needed), batch.now_us)
        self.resolve_rest(batch)

    def resolve_known(self, batch: Batch) -> bool:
        """Give every row its pattern, unless `missing` has something to ask for: then it returns False."""
        return self._resolve(batch, only_if_known=True)

    def resolve_rest(self, batch: Batch) -> None:
        """Give every row its pattern with what is known; a name that is not known is as if absent."""
        self._resolve(batch, only_if_known=False)

    def _resolve(self, batch: Batch, *, only_if_known: bool) -> bool:
        self.patterns.sweep()
        done = self._names.resolve(batch, self.patterns, only_if_known)
        if done:
            self._forget()
        return done

    def _forget(self) -> None:
        # Only here: what the batch in hand needs has just been used, even after hours of silence.
        names, now_us = self._names, self._names.clock_us
        if self._next_forget_us is None or now_us < self._next_forget_us - self._forget_after_us:
            self._next_forget_us = now_us + self._forget_after_us
        if now_us >= self._next_forget_us or max(names.n_trips, names.n_sources) > self._max_names:
            for pattern_ix in names.forget(now_us - self._forget_after_us, self._max_names):
                self._retire(pattern_ix)
            self._next_forget_us = now_us + self._forget_after_us // 8

    def shape_key(self, key: bytes) -> bytes:
        """Key of the shape that belongs to a key of stops."""
        is_pattern, name = self._source(key)
        return self._shape_prefix[is_pattern] + name

    def _source(self, key: bytes) -> tuple[bool, bytes]:
        for is_pattern in (False, True):
            prefix = self._stops_prefix[is_pattern]
            if key.startswith(prefix):
                return is_pattern, key[len(prefix) :]
        raise ValueError(f"{key!r} is no key of stops")

    def _redis_keys(self, names: tuple[list[bytes], list[bytes], list[bytes]]) -> list[bytes]:
        trips, routes, patterns = names
        if not (trips or routes or patterns):
            return []
        keys = [self._trip_prefix + name for name in trips]
        for is_pattern, group in ((False, routes), (True, patterns)):
            for name in group:
                keys += (self._stops_prefix[is_pattern] + name, self._shape_prefix[is_pattern] + name)
        return keys

    def _retire(self, pattern_ix: int) -> None:
        if pattern_ix >= 0:
            self.patterns.retire(pattern_ix)
            self._digests.pop(pattern_ix, None)


def _texts(stops: StopList) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    # Ids and the JSON that stands before each stop's distance, one after another, and where each lies.
    text = bytearray()
    spans = np.zeros((len(stops.ids), 4), np.int32)
    for i, (stop_id, sequence) in enumerate(zip(stops.ids, stops.sequence.tolist(), strict=True)):
        raw = b"" if stop_id is None else stop_id.encode()
        prefix = b'{"stop_id":%b,"stop_sequence":%d,"distance_to_stop_m":' % (orjson.dumps(stop_id), sequence)
        spans[i] = len(text), len(raw), len(text) + len(raw), len(prefix)
        text += raw + prefix
    return np.frombuffer(bytes(text), np.uint8), spans
