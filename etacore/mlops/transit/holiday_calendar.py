"""Public holidays that a model carries with it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Final

from etacore.errors import CompileError
from etacore.mlops.tools import check_tools

HOLIDAY_YEARS: Final = (-15, 10)
"""Years before and after the compilation whose holidays a bundle carries: recorded days are replayed too."""


def holiday_dates(region: str, year: int, span: tuple[int, int] = HOLIDAY_YEARS) -> tuple[date, ...]:
    """Public holidays of a region in the years around `year`, sorted.

    Parameters
    ----------
    region : str
        ISO country code, with a subdivision after a dash if any: ``CR``, ``CA-ON``.
    year : int
        The year in the middle.
    span : tuple of int
        First and last year, relative to `year`.

    Raises
    ------
    CompileError
        If the region is unknown, or the package ``holidays`` is absent.
    """
    check_tools("holidays")
    import holidays

    country, _, subdivision = region.partition("-")
    years = range(year + span[0], year + span[1] + 1)
    hint = "a country code such as CR, or CA-ON with a subdivision"
    if country not in holidays.list_supported_countries():
        raise CompileError(f"holiday region {region!r} is unknown", hint=hint)
    try:
        days: Iterable[date] = holidays.country_holidays(country, subdiv=subdivision or None, years=years)
    except NotImplementedError as err:
        raise CompileError(f"holiday region {region!r} is unknown: {err}", hint=hint) from None
    return tuple(sorted(days))
