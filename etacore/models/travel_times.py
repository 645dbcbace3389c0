"""Typical travel times between stops, as a model carries them: seconds of a leg by route, stop and hour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from etacore.errors import ModelLoadError
from etacore.models.json_reader import Reader, shown

MAX_BYTES: Final = 256 * 2**20
N_HOURS: Final = 24


class TypicalTimes:
    """Seconds of the leg that ends at a stop, for every hour of the local day.

    A leg is the stretch from the stop before to this one, on this route.

    Parameters
    ----------
    legs : mapping
        ``{route_id: {stop_id: (leg_m, seconds)}}`` with the length in metres (NaN: unknown) and 24 numbers.
    """

    __slots__ = ("_legs",)

    def __init__(self, legs: Mapping[str, Mapping[str, tuple[float, Sequence[float] | NDArray[np.float32]]]]) -> None:
        self._legs = {
            route: {stop: (float(leg_m), _hours(seconds)) for stop, (leg_m, seconds) in stops.items()}
            for route, stops in legs.items()
        }

    @property
    def routes(self) -> tuple[str, ...]:
        """Ids of the routes it knows, sorted."""
        return tuple(sorted(self._legs))

    def __len__(self) -> int:
        """Number of legs."""
        return sum(len(stops) for stops in self._legs.values())

    def legs(self, route_id: str, stop_ids: Sequence[str]) -> NDArray[np.float32]:
        """Seconds of the leg that ends at each stop of a pattern.

        Returns
        -------
        ndarray of float32, shape (24, n_stops)
            By local hour; 0 for the first stop of the pattern, NaN where unknown.
        """
        found = np.full((N_HOURS, len(stop_ids)), np.nan, np.float32)
        known = self._legs.get(route_id, {})
        for i, stop_id in enumerate(stop_ids):
            if i == 0:
                found[:, 0] = 0.0
            elif stop_id in known:
                found[:, i] = known[stop_id][1]
        return found

    def leg_m(self, route_id: str, stop_id: str) -> float:
        """Metres of the leg that ends at a stop; NaN if unknown."""
        leg = self._legs.get(route_id, {}).get(stop_id)
        return math.nan if leg is None else leg[0]

    def to_json(self) -> bytes:
        """``{"routes": {route_id: {stop_id: {"m": metres or null, "s": [24 seconds]}}}}``.

        The same table gives the same bytes.
        """
        routes = {
            route: {
                stop: {"m": None if math.isnan(leg_m) else leg_m, "s": seconds.tolist()}
                for stop, (leg_m, seconds) in sorted(stops.items())
            }
            for route, stops in sorted(self._legs.items())
        }
        return orjson.dumps({"routes": routes}, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_json(cls, content: bytes, name: str = "typical times") -> TypicalTimes:
        """Read what `to_json` wrote; nothing in it is trusted.

        Parameters
        ----------
        content : bytes
            The file.
        name : str
            What to call the file in errors.

        Raises
        ------
        ModelLoadError
            If it is not such a table; names the file and the field.
        """
        raw = _Reader.decode(content, name, MAX_BYTES)
        read = _Reader(raw if isinstance(raw, dict) else {}, name)
        if read.raw.keys() != {"routes"} or not isinstance(read.raw["routes"], dict):
            read.fail("routes", "is not an object, or not the only field")
        routes = read.inner("routes", read.raw["routes"])
        legs: dict[str, dict[str, tuple[float, list[float]]]] = {}
        for route in routes.raw:
            stops = routes.inner(route, routes.raw[route])
            legs[route] = {stop: stops.inner(stop, leg).leg() for stop, leg in stops.raw.items()}
        return cls(legs)


def _hours(seconds: Sequence[float] | NDArray[np.float32]) -> NDArray[np.float32]:
    hours = np.array(seconds, np.float32)
    if hours.shape != (N_HOURS,):
        raise ValueError(f"a leg has {hours.shape} numbers, not {N_HOURS}")
    return hours


class _Reader(Reader):
    error = ModelLoadError
    hint = "train the model again, or restore the bundle"

    def leg(self) -> tuple[float, list[float]]:
        self.only(("m", "s"))
        leg_m, seconds = self.raw["m"], self.raw["s"]
        if leg_m is not None and not _usable(leg_m):
            self.fail("m", f"is {shown(leg_m)}, not a length in metres or null")
        if not isinstance(seconds, list) or len(seconds) != N_HOURS or not all(map(_usable, seconds)):
            self.fail("s", f"is not a list of {N_HOURS} finite numbers from 0 on")
        return (math.nan if leg_m is None else leg_m), seconds


def _usable(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9
