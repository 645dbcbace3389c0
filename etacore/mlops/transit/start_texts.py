"""Which run of a trip a fix belongs to: start dates and start times, as recordings write them."""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import Final

_DATE: Final = re.compile(r"(\d{4})(-?)(\d\d)\2(\d\d)(?:\.0|[T ]00:00(?::00(?:\.0+)?)?Z?)?", re.ASCII)
_TIME: Final = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d))?", re.ASCII)


@lru_cache(maxsize=4096)
def parse_start_date(text: str) -> int | None:
    """YYYYMMDD as a number, of YYYYMMDD or an ISO date; None if it is no date."""
    if (found := _DATE.fullmatch(text.strip())) is None:
        return None
    year, month, day = int(found[1]), int(found[3]), int(found[4])
    try:
        date(year, month, day)
    except ValueError:
        return None
    return year * 10_000 + month * 100 + day


@lru_cache(maxsize=65_536)
def parse_start_time(text: str) -> int | None:
    """Seconds of H:MM[:SS], which may exceed 24 hours; None if it is no such time."""
    if (found := _TIME.fullmatch(text.strip())) is None:
        return None
    return int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3] or 0)
