"""What a reader of recordings did not take: counted by reason, the first of each kept as an example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

MEANING: Final[dict[str, str]] = {
    # a fix is lost
    "no_vehicle_id": "nothing names the vehicle",
    "no_time": "no time, nor has the message one",
    "bad_time": "neither POSIX seconds or milliseconds nor ISO 8601",
    "no_position": "no position",
    "bad_position": "latitude or longitude is no number",
    "no_route": "no route, nor a trip that the feed knows",
    "bad_entity": "lacks a field that GTFS-Realtime requires, or cannot be read",
    "bad_row": "a row with more fields than columns, or no JSON object",
    # nothing is lost
    "repeated_fix": "seen before, in another capture",
    "deleted_entity": "declared deleted",
    "shared_vehicle_id": "a vehicle id that two vehicles of one message had: named otherwise",
    "canceled_trip": "the trip is cancelled: kept without it",
    "bad_start": "start date or start time cannot be read: as if not given",
    "bad_value": "a value of an optional column cannot be read: as if not given",
    # files
    "unreadable_file": "files that cannot be read",
    "file_without_vehicles": "files without vehicle positions",
    "file_without_columns": "tables that lack a required column",
    "cut_off_file": "captures that end in the middle: what is whole was taken",
}
"""What the counters mean."""

ADVICE: Final[dict[str, str]] = {
    "bad_time": "write times as POSIX seconds, milliseconds or ISO 8601 (2025-03-04T07:00:00Z): others are not guessed",
    "no_route": "give the GTFS feed too: it knows the routes of the trips",
    "no_vehicle_id": "a fix needs a vehicle id, a trip or a label",
}
"""What to do about some of them."""

UNUSED_FILES: Final = ("unreadable_file", "file_without_vehicles", "file_without_columns")
_LOST_FIXES: Final = tuple(MEANING)[: tuple(MEANING).index("repeated_fix")]
_SHOWN: Final = 3
_MAX_CHARS: Final = 60


class LeftOut(Counter[str]):
    """Counts by reason.

    Attributes
    ----------
    examples : dict of str to str
        Of each reason the first: which file, which row or entity, what stood there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[str, str] = {}

    def add(self, reason: str, example: str, n: int = 1) -> None:
        """Count, and keep the example if it is the first."""
        self[reason] += n
        self.examples.setdefault(reason, example)

    def listed(self) -> str:
        """All reasons with their counts, for a message."""
        return ", ".join(f"{n} {reason}" for reason, n in self.items())


def quoted(value: Any) -> str:
    """Something from outside, fit to be shown."""
    text = repr(value)
    return text if len(text) <= _MAX_CHARS else f"{text[: _MAX_CHARS - 3]}..."


def lost_fixes(left_out: Mapping[str, int]) -> dict[str, int]:
    """Of what a reader left out, the reasons that cost fixes."""
    return {reason: left_out[reason] for reason in _LOST_FIXES if left_out.get(reason)}


def survival_warning(n_kept: int, n: int, lost: Mapping[str, int], examples: Mapping[str, str]) -> str | None:
    """A loud word where less than half of the fixes of a recording survived.

    Parameters
    ----------
    n_kept : int
        Fixes that were of use.
    n : int
        All that the recording had.
    lost : mapping of str to int
        The others by reason.
    examples : mapping of str to str
        An example of each reason, as far as there is one.

    Returns
    -------
    str or None
        Several lines, with the three largest reasons; None if half of the fixes or more survived.
    """
    if 2 * n_kept >= n:
        return None
    title = f"WARNING: only {n_kept:,} of {n:,} fixes could be used ({n_kept / n:.0%})"
    return _with_reasons(title, lost, examples)


def files_warning(n_files: int, left_out: Mapping[str, int], examples: Mapping[str, str]) -> str | None:
    """As `survival_warning`, where more than half of the files of a recording were of no use."""
    unused = {reason: left_out[reason] for reason in UNUSED_FILES if left_out.get(reason)}
    n_unused = sum(unused.values())
    if 2 * n_unused <= n_files:
        return None
    return _with_reasons(f"WARNING: {n_unused:,} of {n_files:,} files could not be used", unused, examples)


def _with_reasons(title: str, lost: Mapping[str, int], examples: Mapping[str, str]) -> str:
    lines = [title]
    for reason, count in sorted(lost.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]:
        meaning = f" ({MEANING[reason]})" if reason in MEANING else ""
        lines.append(f"  {count:,} {reason}{meaning}" + (f": {examples[reason]}" if reason in examples else ""))
    return "\n".join(lines)
