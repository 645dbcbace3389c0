"""Distances on the sphere of the haversine formula, in columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from etacore.schema import EARTH_RADIUS_M


def distance_m(
    lat1: npt.NDArray[np.float64],
    lon1: npt.NDArray[np.float64],
    lat2: npt.NDArray[np.float64],
    lon2: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Haversine distance in metres between points in degrees, element by element."""
    phi1, phi2 = np.radians(lat1), np.radians(lat2)
    h = np.sin((phi2 - phi1) / 2) ** 2 + np.cos(phi1) * np.cos(phi2) * np.sin(np.radians(lon2 - lon1) / 2) ** 2
    metres: npt.NDArray[np.float64] = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(h, 1.0)))
    return metres


def leg_lengths_m(lat: npt.NDArray[np.float64], lon: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distances in metres between neighbours: n points in degrees give n - 1 legs."""
    return distance_m(lat[:-1], lon[:-1], lat[1:], lon[1:])
