"""Keys that are not worth fetching for a while."""

from __future__ import annotations

from collections import Counter
from random import uniform
from time import monotonic

from etacore.status import Status

SET_ASIDE_S = 10.0
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
