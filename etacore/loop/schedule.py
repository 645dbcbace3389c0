"""Which vehicles the loop serves in its next turn: all of them at every tick, or those that changed, as they change."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from math import inf
from random import uniform
from time import monotonic
from typing import Final

from etacore.config import RuntimeConfig
from etacore.errors import TrackingUnavailableError
from etacore.loop.observer import PollResult
from etacore.status import Remark, Status
from etacore.store.changes import ChangeFeed
from etacore.store.store import RedisStore

log: Final = logging.getLogger("etacore.runtime")

BESIDE: Final = 1_000
"""Vehicles of a turn that nobody announced, beside those announced: a few milliseconds that these wait."""
MAX_WAIT_S: Final = 0.2
"""So soon a schedule that waits for changes notices that it is told to stop."""
RETRY_S: Final = 1.0
"""So soon a vehicle that could not be served is tried again, though nobody announces it; and so soon all keys are
searched for again where connections come and go."""
MIN_SUM_S: Final = 0.1
"""Turns are summed up no more often, whatever the poll interval: 0 would leave nothing to wait for."""
SET_ASIDE_S: Final = 10.0
"""A key that holds no string, or far too much, is counted but not fetched again for about this long."""


class SetAside:
    """Keys that hold something no vehicle can be read from: other programs' keys below our prefix, mostly."""

    def __init__(self) -> None:
        self._until: dict[bytes, tuple[Status, float]] = {}
        self._sorted_at = monotonic()

    def __len__(self) -> int:
        """How many keys are set aside, or were a moment ago."""
        return len(self._until)

    def add(self, key: bytes, reason: Status) -> None:
        """Set a key aside, for a time that differs from key to key: they should not all come back in one poll."""
        self._until[key] = reason, monotonic() + SET_ASIDE_S * uniform(0.5, 1.5)

    def sort(self, keys: list[bytes]) -> tuple[list[bytes], list[bytes], Counter[Status]]:
        """Take out the keys that are set aside.

        Returns
        -------
        worth : list of bytes
            The others, in their order.
        aside : list of bytes
        reasons : Counter
            How many are aside, by reason.
        """
        if not self._until:
            return keys, [], Counter()
        now = monotonic()
        if now - self._sorted_at >= 0.1 * SET_ASIDE_S:  # not for each of the few keys that were announced
            self._sorted_at = now
            self._until = {key: held for key, held in self._until.items() if held[1] > now}
        aside = [key for key in keys if key in self._until]
        if not aside:
            return keys, [], Counter()
        worth = [key for key in keys if key not in self._until]
        return worth, aside, Counter(self._until[key][0] for key in aside)


class Schedule:
    """Says when a turn of the loop is due, and which vehicle keys it serves.

    `wait`, `take` and `restart` are each schedule's own; the others suit one that looks at all keys in every turn and
    has nothing to remember between two of them.
    """

    every_s: float
    """An unchanged vehicle is looked at again after this time at the latest."""

    def wait(self, stop: threading.Event) -> float | None:
        """Wait for the next turn, or for a moment: how late it is in seconds, None if there is nothing to do yet."""
        raise NotImplementedError

    def take(self) -> list[bytes]:
        """Give the vehicle keys of this turn."""
        raise NotImplementedError

    def restart(self) -> None:
        """Begin anew after an outage of Redis: keys given before it may not have been served."""
        raise NotImplementedError

    def listen(self) -> None:
        """Take in what was announced meanwhile; called between two chunks of a turn."""

    def is_gone(self, keys: Sequence[bytes]) -> None:
        """Note keys that were not there."""

    def put_off(self, keys: Sequence[bytes]) -> None:
        """Note keys that could not be served this time, but may be soon."""

    def recheck(self) -> None:
        """Look at all vehicles again soon: routes changed, and with them which vehicles can be served."""

    def take_routes(self) -> list[bytes]:
        """Give the keys of ``route_stops:`` and ``direction_stops:`` that were announced since the last call.

        Where nothing is announced, routes are looked at again every ``route_refresh_seconds``.
        """
        return []

    def take_model(self) -> bool:
        """Say whether to look for a promoted model now."""
        return True

    def sum_up(self, turn: PollResult | None, *, is_last: bool = False) -> PollResult | None:
        """Say what counts as a poll, if one is over; `turn` is what has just been served, if anything was."""
        return turn

    def close(self) -> None:
        """Give back what it holds."""


class Polling(Schedule):
    """All vehicles, found with SCAN, at every multiple of the poll interval: no drift, no burst after a slow poll."""

    def __init__(self, config: RuntimeConfig, store: RedisStore) -> None:
        self.every_s = config.poll_interval_seconds
        self._store: Final = store
        self._limit: Final = config.max_vehicle_batch
        self._remember_s: Final = config.state_retention_seconds
        self._served_at: dict[bytes, float] = {}
        self._tick = monotonic()
        self._is_first = True

    def wait(self, stop: threading.Event) -> float | None:
        """See `Schedule`."""
        now = monotonic()
        if self._is_first:
            self._is_first = False
        elif self.every_s <= 0:
            self._tick = now
        else:
            self._tick += self.every_s * max(1, int((now - self._tick) // self.every_s) + 1)
            stop.wait(self._tick - now)
        return max(monotonic() - self._tick, 0.0)

    def take(self) -> list[bytes]:
        """See `Schedule`; of more keys than a turn may serve, those that have waited longest."""
        keys = self._store.scan_vehicle_keys()
        if self._limit is None or self._limit >= len(keys):
            return keys
        now = monotonic()
        # A key never served has waited since it was first seen; one that went away keeps its place for a while.
        for key in keys:
            self._served_at.setdefault(key, now)
        if len(self._served_at) > 2 * len(keys):
            there, since = set(keys), now - self._remember_s
            self._served_at = {key: at for key, at in self._served_at.items() if at > since or key in there}
        keys = sorted(keys, key=self._served_at.__getitem__)[: self._limit]
        self._served_at.update(dict.fromkeys(keys, monotonic()))
        return keys

    def restart(self) -> None:
        """See `Schedule`; the next poll begins at once."""
        self._tick, self._is_first = monotonic(), True


class Announced(Schedule):
    """Vehicles whose keys Redis announces as changed (client tracking), as soon as they are announced.

    All vehicles that are known are looked at again every ``every_s``, because stored predictions expire though
    nothing changes; and all keys are searched for (SCAN) at the start, when announcements may have been missed, and
    every ``resync_seconds``. Both go on beside what is announced, a piece in each turn, so that nobody waits for them.
    """

    def __init__(self, config: RuntimeConfig, store: RedisStore, feed: ChangeFeed) -> None:
        self.every_s = min(config.resync_seconds, config.predictions_ttl_seconds / 4)
        self._resync_s: Final = config.resync_seconds
        self._limit: Final = config.max_vehicle_batch
        self._store: Final = store
        self._feed: Final = feed
        self._known: dict[bytes, None] = {}
        self._waiting: dict[bytes, None] = {}
        self._beside: dict[bytes, None] = {}
        self._cursor: int | None = None  # of the search that is going on
        self._found: dict[bytes, None] = {}
        self._put_off: dict[bytes, None] = {}
        self._retry_at = inf
        self._routes: list[bytes] = []
        self._has_model = True
        self._scan_at = self._recheck_at = 0.0
        self._scanned_at = -inf
        self._interval_s: Final = max(config.poll_interval_seconds, MIN_SUM_S)
        self._sum_at = monotonic() + self._interval_s
        self._n_turns, self._duration_s = 0, 0.0
        self._counts: Counter[Status] = Counter()
        self._remarks: Counter[Remark] = Counter()

    def wait(self, stop: threading.Event) -> float | None:
        """See `Schedule`."""
        if not self._has_work and not self._has_model:
            due_s = min(self._scan_at, self._recheck_at, self._retry_at, self._sum_at) - monotonic()
            if due_s > 0 and not stop.is_set():
                self._feed.wait(min(due_s, MAX_WAIT_S))
        self.listen()
        now = monotonic()
        return 0.0 if self._has_work or now >= min(self._scan_at, self._recheck_at, self._retry_at) else None

    @property
    def _has_work(self) -> bool:
        return bool(self._waiting or self._beside or self._cursor)

    def take(self) -> list[bytes]:
        """See `Schedule`."""
        now = monotonic()
        if now >= self._retry_at:
            self._waiting.update(self._put_off)
            self._put_off, self._retry_at = {}, inf
        if self._cursor is not None or now >= self._scan_at:
            self._go_on_searching(now)
        elif now >= self._recheck_at:
            self._recheck_at = now + self.every_s
            self._beside.update(self._known)
        if self._limit is not None:  # then whoever has waited longest is served first
            self._waiting.update(self._beside)
            self._beside = {}
            return _first(self._waiting, self._limit)
        keys, self._waiting = self._waiting, {}
        if self._beside:
            keys.update(dict.fromkeys(_first(self._beside, BESIDE)))
        return list(keys)

    def _go_on_searching(self, now: float) -> None:
        cursor, keys = self._store.search_vehicle_keys(self._cursor or 0)
        if self._cursor is None:
            self._found = dict(self._waiting)
            self._scan_at, self._recheck_at, self._has_model = now + self._resync_s, now + self.every_s, True
            self._scanned_at = now
        found = dict.fromkeys(keys)
        self._beside.update(found)
        self._found.update(found)
        self._cursor = cursor or None
        if self._cursor is None:
            self._known, self._found = self._found, {}

    def listen(self) -> None:
        """See `Schedule`; the server need then not keep what it has announced."""
        changes = self._feed.take()
        if changes.vehicles:
            announced = dict.fromkeys(changes.vehicles)
            self._waiting.update(announced)
            self._known.update(announced)
            if self._cursor is not None:  # SCAN may pass over a key that is written meanwhile
                self._found.update(announced)
        self._routes += changes.routes
        self._has_model |= changes.models
        if changes.lost:
            self._search_again()

    def is_gone(self, keys: Sequence[bytes]) -> None:
        """See `Schedule`."""
        for key in keys:
            if key not in self._waiting:  # else it has been written since
                self._known.pop(key, None)
                self._found.pop(key, None)

    def put_off(self, keys: Sequence[bytes]) -> None:
        """See `Schedule`."""
        if keys and not self._put_off:
            self._retry_at = monotonic() + RETRY_S
        self._put_off.update(dict.fromkeys(keys))

    def take_routes(self) -> list[bytes]:
        """See `Schedule`."""
        routes, self._routes = self._routes, []
        return routes

    def take_model(self) -> bool:
        """When one was announced, and at every resync."""
        has_model, self._has_model = self._has_model, False
        return has_model

    def recheck(self) -> None:
        """See `Schedule`."""
        self._recheck_at = 0.0

    def restart(self) -> None:
        """See `Schedule`; after a failover the old server may still be there, with nothing to announce."""
        self._feed.reconnect()
        self._search_again()

    def _search_again(self) -> None:
        """Soon, for a connection that comes and goes shall not make us search all the time.

        A search that is going on is finished before the next one begins: else, if something is lost again and again,
        what SCAN finds last would never be reached.
        """
        self._scan_at = min(self._scan_at, self._scanned_at + min(self._interval_s, RETRY_S))
        self._has_model = True

    def sum_up(self, turn: PollResult | None, *, is_last: bool = False) -> PollResult | None:
        """The turns of one poll interval: whoever counts polls without a prediction sees what polling would show."""
        if turn is not None:
            self._n_turns += 1
            self._duration_s += turn.duration_s
            for status, n in turn.counts.items():
                self._counts[status] += n
            for remark, n in turn.remarks.items():
                self._remarks[remark] += n
        now = monotonic()
        if now < self._sum_at and not (is_last and self._n_turns):
            return None
        summed = PollResult(len(self._known), self._counts, self._duration_s, remarks=self._remarks)
        self._n_turns, self._duration_s = 0, 0.0
        self._counts, self._remarks = Counter(), Counter()
        self._sum_at = now + self._interval_s
        return summed

    def close(self) -> None:
        """See `Schedule`."""
        self._feed.close()


def _first(keys: dict[bytes, None], n: int) -> list[bytes]:
    """The first n keys, taken out."""
    taken = list(islice(keys, n))
    for key in taken:
        del keys[key]
    return taken


def open_schedule(config: RuntimeConfig, store: RedisStore) -> Schedule:
    """Open what the configuration asks for; where Redis does not announce changes, polling, and one line says why.

    Raises
    ------
    ConfigError, RedisUnavailableError
        If Redis cannot be used.
    """
    if config.snapshot_source == "events" or (config.snapshot_source == "auto" and not config.iterations):
        try:
            schedule = Announced(config, store, ChangeFeed(config))
        except TrackingUnavailableError as error:
            log.warning("%s; %s", error.message, error.hint)
        else:
            log.info("serving vehicles as Redis at %s announces their changes", store.where)
            return schedule
    return Polling(config, store)
