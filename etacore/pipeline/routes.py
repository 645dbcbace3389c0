"""Which stops a vehicle serves, in which order, and along which line.

A *pattern* is an ordered list of stops with the line that joins them. A
snapshot follows its trip's pattern where Redis names one (a run without a trip
id is found by route, direction and start), else the stops of its direction,
else those of its route; one that names no direction may follow either of two.
`RouteTable` keeps what Redis holds of this, says which keys it lacks, and gives
every row of a batch the number of its pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from etacore._kernels.batch import Batch
from etacore._kernels.resolve import DIRECTION, PATTERN, ROUTE, RUN_MARK, NameTable
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
    guessed_patterns : bool
        Whether rows are served whose trip is not among the seeded ones.

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
        guessed_patterns: bool = True,
    ) -> None:
        keys = keys or KeyNames()
        self.patterns: Final = PatternTable()
        trip_refresh_s = 6.0 * refresh_s if trip_refresh_s is None else trip_refresh_s
        self._names: Final = NameTable(int(refresh_s * _US), int(trip_refresh_s * _US))
        self._trip_prefix: Final = keys.trip_pattern.encode()
        self._run_prefix: Final = keys.run_pattern.encode()
        # By the kind of source: ROUTE, DIRECTION, PATTERN.
        stops = (keys.route_stops, keys.direction_stops, keys.pattern_stops)
        shapes = (keys.route_shape, keys.direction_shape, keys.pattern_shape)
        self._stops_prefix: Final = tuple(prefix.encode() for prefix in stops)
        self._shape_prefix: Final = tuple(prefix.encode() for prefix in shapes)
        self._forget_after_us: Final = int(forget_after_s * _US)
        self._max_names: Final = max_names
        self._reject_guessed: Final = not guessed_patterns
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
            The Redis key of the stops, for example ``b"route_stops:171"``, ``b"direction_stops:0:171"`` or
            ``b"pattern_stops:P1"``.
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
            If the key has none of the prefixes.
        """
        kind, name = self._source(key)
        return self._learn(kind, name, stops_blob, shape_blob)

    def _learn(
        self, kind: int, name: bytes, stops_blob: bytes, shape_blob: bytes | None, *, is_old_key: bool = False
    ) -> bool:
        before = self._names.pattern_of(name, kind)
        raw = digest(b"%d" % is_old_key, stops_blob, b"\0" if shape_blob is None else shape_blob)
        raw_before, content_before = self._digests.get(before, (b"", b""))
        if raw == raw_before:
            self._names.learn_source(name, kind, before)
            return False
        stops, shape = parse_stops(stops_blob), parse_shape(shape_blob)
        if _is_of_another(kind, name, stops, is_old_key=is_old_key):
            self._learn_absent(kind, name)
            return before >= 0
        tells_route = not is_old_key or stops.route_id is not None
        stands_for = 0 if kind == PATTERN else stops.n_patterns or (-1 if kind == DIRECTION else 0)
        direction_id = -1 if not stands_for or stops.direction_id is None else stops.direction_id
        content = digest(b"%d,%d,%d" % (tells_route, stands_for, direction_id), content_digest(stops, shape))
        if content == content_before:
            self._digests[before] = (raw, content)
            self._names.learn_source(name, kind, before)
            return False
        text, spans = _texts(stops)
        line = shape.line if shape else None
        pattern_ix = self.patterns.add(
            stops.status, stops.lat, stops.lon, stops.sequence, text, spans, line, stands_for, direction_id
        )
        self._digests[pattern_ix] = (raw, content)
        self._retire(self._names.learn_source(name, kind, pattern_ix, tells_route))
        return True

    def _learn_absent(self, kind: int, name: bytes) -> None:
        self._retire(self._names.learn_source(name, kind, -1))

    def set_trip(self, trip_id: bytes, pattern_id: bytes | None) -> bool:
        """Remember which pattern a trip follows, or that Redis does not say.

        A pattern id of more than 256 bytes is none. A run without a trip id is called `RUN_MARK` and
        ``<direction or ->:<HH:MM:SS>:<route>``.

        Returns
        -------
        bool
            True if that pattern's stops have still to be looked up.
        """
        usable = pattern_id is not None and len(pattern_id) <= MAX_PATTERN_ID_BYTES
        return self._names.learn_trip(trip_id, pattern_id if usable else None)

    def pattern_ix(self, key: bytes) -> int:
        """Number of the pattern under a key of `set_pattern`; -1 if absent or unknown."""
        kind, name = self._source(key)
        return self._names.pattern_of(name, kind)

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
            if (trip := self._trip_of(key)) is not None:
                pattern_id = (blob.strip() if blob else None) or None
                if self.set_trip(trip, pattern_id) and pattern_id is not None:
                    patterns[pattern_id] = None
            elif key.startswith(self._stops_prefix):
                kind, name = self._source(key)
                # Not the key of a direction's stops as older versions wrote it, unless a route has that name.
                if kind != ROUTE or self._names.needs(name, ROUTE):
                    self._take(kind, name, values)
        return self._redis_keys(
            ([], [], [], [name for name in patterns if self._stops_prefix[PATTERN] + name not in values])
        )

    def _take(self, kind: int, name: bytes, values: Mapping[bytes, bytes | None]) -> None:
        for n_before, (stops_key, shape_key) in enumerate(self._keys_of(kind, name)):
            if (blob := values.get(stops_key)) is not None:
                self._learn(kind, name, blob, values.get(shape_key), is_old_key=n_before > 0)
                return
        self._learn_absent(kind, name)

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
        names: tuple[list[bytes], ...] = ([], [], [], [])
        before = {}
        for key in keys:
            for kind, name in self._sources(key):
                if self._names.knows(name, kind) and (kind, name) not in before:
                    names[1 + kind].append(name)
                    before[kind, name] = self._names.pattern_of(name, kind)
        if asked := self._redis_keys(names):
            self.update(asked, fetch(asked), now_us)
        return any(was < 0 <= self._names.pattern_of(name, kind) for (kind, name), was in before.items())

    def resolve(self, batch: Batch, fetch: Fetch) -> None:
        """Give every row the number of its pattern, looking up what is not known yet or due for another look.

        Parameters
        ----------
        batch : Batch
            IN: ``status``, ``route_id``, ``trip_id``, ``direction_id``, ``start_date``, ``start_time_s``, ``now_us``.
            OUT: ``pattern_ix``, ``other_pattern_ix``, ``is_guessed``, ``run_key``; ``status`` of rows with status OK
            becomes ``UNKNOWN_ROUTE`` where nothing is known, what is wrong with the pattern's stops, or
            ``GUESSED_PATTERN``.
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
        done = self._names.resolve(batch, self.patterns, only_if_known, self._reject_guessed)
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

    def _trip_of(self, key: bytes) -> bytes | None:
        # Name of the trip or run whose pattern is under this key; None for other keys.
        if key.startswith(self._trip_prefix):
            return key[len(self._trip_prefix) :]
        return RUN_MARK + key[len(self._run_prefix) :] if key.startswith(self._run_prefix) else None

    def _source(self, key: bytes) -> tuple[int, bytes]:
        for kind, prefix in enumerate(self._stops_prefix):
            if key.startswith(prefix):
                return kind, key[len(prefix) :]
        raise ValueError(f"{key!r} is no key of stops")

    def _sources(self, key: bytes) -> Iterator[tuple[int, bytes]]:
        # All that are read from this key: a route's may hold a direction of another one, as older versions wrote it.
        kind, name = self._source(key)
        yield kind, name
        route, colon, direction = name.rpartition(b":")
        if kind == ROUTE and colon:
            yield DIRECTION, direction + b":" + route

    def _keys_of(self, kind: int, name: bytes) -> Iterator[tuple[bytes, bytes]]:
        # Keys of stops and shape, the one that counts first.
        yield self._stops_prefix[kind] + name, self._shape_prefix[kind] + name
        if kind == DIRECTION:
            direction, _, route = name.partition(b":")
            old = route + b":" + direction
            yield self._stops_prefix[ROUTE] + old, self._shape_prefix[ROUTE] + old

    def _redis_keys(self, names: tuple[list[bytes], ...]) -> list[bytes]:
        if not any(names):
            return []
        keys: dict[bytes, None] = {}
        for name in names[0]:
            is_run = name.startswith(RUN_MARK)
            keys[self._run_prefix + name[len(RUN_MARK) :] if is_run else self._trip_prefix + name] = None
        for kind in (ROUTE, DIRECTION, PATTERN):
            for name in names[1 + kind]:
                for pair in self._keys_of(kind, name):
                    keys |= dict.fromkeys(pair)
        return list(keys)

    def _retire(self, pattern_ix: int) -> None:
        if pattern_ix >= 0:
            self.patterns.retire(pattern_ix)
            self._digests.pop(pattern_ix, None)


def _is_of_another(kind: int, name: bytes, stops: StopList, *, is_old_key: bool) -> bool:
    # Route "5:0" and direction 0 of route "5" had one key: what the value says of itself tells which it is.
    if stops.route_id is None:
        return False
    if kind == ROUTE:
        return stops.direction_id is not None and name == f"{stops.route_id}:{stops.direction_id}".encode()
    return is_old_key and name.partition(b":")[2] != stops.route_id.encode()


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
