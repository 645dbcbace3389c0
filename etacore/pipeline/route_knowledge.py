"""What a model knows of routes, laid out for the patterns of a running engine: typical times of legs, route numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from etacore._kernels.batch import Batch, Part
from etacore._kernels.index import hash_bytes
from etacore._kernels.routes import PatternTable
from etacore.models.servable import TypicalLegs
from etacore.status import Status

__all__ = ["ROUTE_FEATURES", "LegTable", "RouteCodes", "RouteKnowledge"]

ROUTE_FEATURES: Final = frozenset({"typical_travel_s", "route_code"})
"""Features of `RouteKnowledge`."""

N_HOURS: Final = 24
_MIN_ROOM: Final = 4096
_UNSEEN: Final = -2
_UNKNOWN: Final = -1


class LegTable:
    """Typical seconds of the legs of the patterns seen so far, as the kernel reads them.

    A pattern is asked for once, with the route of the first vehicle that shows it. Pattern numbers are never given
    twice, so nothing is looked up again; the room of patterns that are gone is used again before more is taken.

    Parameters
    ----------
    typical : TypicalLegs
        The model's own table.
    patterns : PatternTable
        Whose patterns the numbers are.

    Attributes
    ----------
    seconds : ndarray of float32
        Blocks of 24 x n_stops, one for each known pattern.
    start : ndarray of int64
        Begin of the block of each pattern number; negative if there is none.
    """

    __slots__ = ("_blocks", "_patterns", "_typical", "_used", "seconds", "start")

    def __init__(self, typical: TypicalLegs, patterns: PatternTable) -> None:
        self._typical: Final = typical
        self._patterns: Final = patterns
        self._blocks: dict[int, int] = {}  # pattern number -> length
        self._used = 0
        self.seconds: NDArray[np.float32] = np.empty(_MIN_ROOM, np.float32)
        self.start: NDArray[np.int64] = np.full(64, _UNSEEN, np.int64)

    def unseen(self, pattern_ix: NDArray[np.int32]) -> NDArray[np.int64]:
        """First rows of the patterns that have not been asked for yet.

        Parameters
        ----------
        pattern_ix : ndarray of int32, shape (n,)
            Pattern of each row; negative is none.

        Returns
        -------
        ndarray of int64, shape (m,)
            One row for each such pattern.
        """
        most = int(pattern_ix.max(initial=-1))
        if most >= len(self.start):
            longer = np.full(max(most + 1, len(self.start) + len(self.start) // 2), _UNSEEN, np.int64)
            longer[: len(self.start)] = self.start
            self.start = longer
        rows = np.flatnonzero((self.start[pattern_ix] == _UNSEEN) & (pattern_ix >= 0))
        return rows[np.unique(pattern_ix[rows], return_index=True)[1]] if rows.size else rows

    def learn(self, pattern_ix: int, route_id: str) -> None:
        """Ask the model for the legs of a pattern that `unseen` found.

        Raises
        ------
        ValueError
            If the model's table answers with another number of stops.
        """
        self.start[pattern_ix] = _UNKNOWN
        ids = self._patterns.stop_ids(pattern_ix)
        if not ids:
            return
        block = np.asarray(self._typical.legs(route_id, [text.decode("utf-8", "replace") for text in ids]), np.float32)
        if block.shape != (N_HOURS, len(ids)):
            raise ValueError(f"typical times of {len(ids)} stops have the shape {block.shape}, not (24, {len(ids)})")
        if np.isnan(block[:, 1:]).all():
            return
        if self._used + block.size > len(self.seconds):
            self._rebuild(block.size)
        self.seconds[self._used : self._used + block.size] = block.ravel()
        self.start[pattern_ix] = self._used
        self._blocks[pattern_ix] = block.size
        self._used += block.size

    def _rebuild(self, n_more: int) -> None:
        """Close the gaps that patterns left which are gone, and take twice the room that is then in use."""
        alive = {ix: size for ix, size in self._blocks.items() if self._patterns.stop_ids(ix) is not None}
        self.start[[ix for ix in self._blocks if ix not in alive]] = _UNKNOWN
        seconds = np.empty(max(2 * (sum(alive.values()) + n_more), _MIN_ROOM), np.float32)
        used = 0
        for ix, size in alive.items():
            start = int(self.start[ix])
            seconds[used : used + size] = self.seconds[start : start + size]
            self.start[ix] = used
            used += size
        self.seconds, self._blocks, self._used = seconds, alive, used


class RouteCodes:
    """Numbers of a model's routes, found by the keys of their ids.

    Parameters
    ----------
    routes : sequence of str
        The model's routes in order.
    """

    __slots__ = ("_codes", "_keys")

    def __init__(self, routes: Sequence[str]) -> None:
        keys = np.array([text_key(route.encode()) for route in routes], np.uint64)
        order = np.argsort(keys, kind="stable")
        # 0 is the key of no text: it ends the search of a model without routes, and of what lies above all keys.
        self._keys: NDArray[np.uint64] = np.append(keys[order], np.uint64(0))
        self._codes: NDArray[np.int32] = np.append(order, -1).astype(np.int32)

    def of(self, route_key: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Position of each row's route among the model's, -1 for another one.

        Parameters
        ----------
        route_key : ndarray of uint64, shape (n,)
            From `Batch.text_keys`.

        Returns
        -------
        ndarray of int32, shape (n,)
        """
        at = np.searchsorted(self._keys[:-1], route_key)
        return np.where(self._keys[at] == route_key, self._codes[at], np.int32(-1))


class RouteKnowledge:
    """What a model knows of the routes of a batch.

    Parameters
    ----------
    features : sequence of str
        Columns of the model; nothing is looked up for one that it does not ask for.
    routes : sequence of str
        The model's routes in order.
    typical : TypicalLegs or None
        The model's own table.
    patterns : PatternTable
        Whose patterns the numbers are.
    """

    __slots__ = ("_codes", "_legs")

    def __init__(
        self, features: Sequence[str], routes: Sequence[str], typical: TypicalLegs | None, patterns: PatternTable
    ) -> None:
        asked = typical if "typical_travel_s" in features else None
        self._codes: Final = RouteCodes(routes) if "route_code" in features else None
        self._legs: Final = None if asked is None else LegTable(asked, patterns)

    def route_code(self, batch: Batch) -> NDArray[np.int32] | None:
        """Number of each row's route, shape (n,), -1 for another one; None if the model does not ask for it."""
        return None if self._codes is None else self._codes.of(batch.text_keys("route_id"))

    def legs(self, batch: Batch, part: Part) -> LegTable | None:
        """Typical times, those of the patterns that a part meets among them; None if the model does not ask for them.

        Parameters
        ----------
        batch : Batch
            IN: ``status``, ``pattern_ix``, ``part_ix``, ``route_id``.
        part : Part
            The rows that the model predicts.
        """
        if self._legs is None:
            return None
        own = (batch.status == Status.OK) & (batch.part_ix == part.ix)
        shown = np.where(own, batch.pattern_ix, np.int32(-1))
        for row in self._legs.unseen(shown).tolist():
            self._legs.learn(int(shown[row]), batch.text_at("route_id", row))
        return self._legs


def text_key(text: bytes) -> int:
    """The number that `Batch.text_keys` gives to one text (UTF-8)."""
    return hash_bytes(text) or 1 if text else 0
