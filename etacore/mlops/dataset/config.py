"""What a dataset is built with."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from etacore.errors import ConfigError
from etacore.mlops.dataset.layout import check_name
from etacore.mlops.transit.arrivals import CLOSEST_WITHIN_M, FIRST_WITHIN_M


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Settings of `etacore.mlops.dataset.build.build_dataset`.

    Attributes
    ----------
    name : str
        Of the dataset.
    time_zone : str or None
        Of hour and day; the feed's if None.
    holiday_region : str or None
        A code such as ``CR`` or ``CA-ON``; without one no day is a holiday.
    distance_threshold_m : float
        A vehicle has arrived with its first fix within this distance, else with the closest within 200 m.
    max_stops_ahead : int
        Rows per fix, at most.
    use_shapes : bool
        Whether ``distance_to_stop`` is measured along the route (its shape, else the chain of its stops) or straight.
    sample_every : int
        Rows for every n-th fix that a vehicle sent on a trip; the others move its state all the same.
    routes : tuple of str or None
        Route ids as the positions give them; None is all.
    start, end : date or None
        First and last service date, both included.
    days_back : int or None
        Without ``start``: so many service days up to ``end``, or up to the last one recorded.
    skip_first_stop : bool
        Leave out the first stop of each trip: vehicles wait there.
    under_way_only : bool
        Leave out fixes before the vehicle arrived at the second stop of its trip: when a bus that waits at the first
        will go, its position does not tell.

    Raises
    ------
    ConfigError, DatasetError
        If a value cannot work.
    """

    name: str
    time_zone: str | None = None
    holiday_region: str | None = None
    distance_threshold_m: float = FIRST_WITHIN_M
    max_stops_ahead: int = 5
    use_shapes: bool = True
    sample_every: int = 1
    routes: tuple[str, ...] | None = None
    start: date | None = None
    end: date | None = None
    days_back: int | None = None
    skip_first_stop: bool = False
    under_way_only: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if not (math.isfinite(self.distance_threshold_m) and 0 < self.distance_threshold_m <= 1000):
            raise ConfigError(
                f"distance_threshold_m is {self.distance_threshold_m}, but must be above 0 and up to 1000"
            )
        for field, value, most in (
            ("max_stops_ahead", self.max_stops_ahead, 1000),
            ("sample_every", self.sample_every, 10**6),
            ("days_back", 1 if self.days_back is None else self.days_back, 10**5),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{field} is {value!r}, but must be a whole number between 1 and {most}")
        if self.start and self.end and self.start > self.end:
            raise ConfigError(
                f"start {self.start} is after end {self.end}", hint="both are service dates, both included"
            )
        if self.routes is not None and not self.routes:
            raise ConfigError("routes is empty", hint="name one, or none at all for all routes")
        if self.time_zone is not None:
            try:
                ZoneInfo(self.time_zone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ConfigError(
                    f"time zone {self.time_zone!r} is not known", hint="an IANA name such as America/Costa_Rica"
                ) from None

    @property
    def closest_within_m(self) -> float:
        """Limit of the closest approach, never below the first limit."""
        return max(CLOSEST_WITHIN_M, self.distance_threshold_m)

    @property
    def distance(self) -> str:
        """What ``distance_to_stop`` is, in the words of a model's manifest."""
        return "along_route" if self.use_shapes else "straight"

    @property
    def rule_names(self) -> tuple[str, ...]:
        """``label_rule`` by the numbers of `etacore.mlops.transit.arrivals.Rule`."""
        first, closest = f"first_{self.distance_threshold_m:g}m", f"closest_{self.closest_within_m:g}m"
        return "none", first, closest, "interpolated"

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        plain = {key: value.isoformat() if isinstance(value, date) else value for key, value in asdict(self).items()}
        return plain | {"routes": None if self.routes is None else list(self.routes)}
