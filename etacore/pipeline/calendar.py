"""The calendar of a model: local time and holidays, as the kernels read them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from etacore.errors import ConfigError

_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 2100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WEEK_S: Final = 7 * 86400


class Calendar:
    """Local time and holidays of a model.

    Parameters
    ----------
    time_zone : str
        IANA name, for example ``America/Costa_Rica``.
    holidays : sequence of date
        Local days that count as holidays.

    Attributes
    ----------
    transitions_s : ndarray of int64, shape (n_intervals,)
        POSIX seconds at which each interval of one offset begins. The first has no begin (least int64); the last
        has no end, so times after 2100 keep its offset.
    offset_s : ndarray of int32, shape (n_intervals,)
        Local time minus UTC, seconds.
    holiday_days : ndarray of int32, shape (n_holidays,)
        Days since 1970-01-01, ascending.

    Raises
    ------
    ConfigError
        If the time zone is not known on this machine.
    """

    __slots__ = ("holiday_days", "offset_s", "time_zone", "transitions_s")

    def __init__(self, time_zone: str, holidays: Sequence[date] = ()) -> None:
        self.time_zone: str = time_zone
        self.transitions_s: NDArray[np.int64]
        self.offset_s: NDArray[np.int32]
        self.transitions_s, self.offset_s = _transitions(time_zone)
        days = sorted({(date(day.year, day.month, day.day) - _EPOCH.date()).days for day in holidays})
        self.holiday_days: NDArray[np.int32] = np.array(days, np.int32)


@functools.lru_cache(maxsize=64)
def _transitions(time_zone: str) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"time zone {time_zone!r} is not known", hint="use an IANA name such as America/Costa_Rica"
        ) from None

    def offset_at(time_s: int) -> int:
        offset = (_EPOCH + timedelta(seconds=time_s)).astimezone(zone).utcoffset()
        return 0 if offset is None else round(offset.total_seconds())

    def changes() -> Iterator[tuple[int, int]]:
        # Sampled weekly; two samples that differ enclose a change, found by halving.
        first_s = int(datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp())
        last_s = int(datetime(_LAST_YEAR, 1, 1, tzinfo=UTC).timestamp())
        before_s, before = first_s, offset_at(first_s)
        yield -(2**63), before
        for sample_s in range(first_s + _WEEK_S, last_s + _WEEK_S, _WEEK_S):
            sample = offset_at(sample_s)
            if sample != before:
                low_s, high_s = before_s, sample_s
                while high_s - low_s > 1:
                    middle_s = (low_s + high_s) // 2
                    if offset_at(middle_s) == before:
                        low_s = middle_s
                    else:
                        high_s = middle_s
                yield high_s, sample
            before_s, before = sample_s, sample

    found = list(changes())
    return np.array([begin for begin, _ in found], np.int64), np.array([offset for _, offset in found], np.int32)
