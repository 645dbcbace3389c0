"""The peer of the drop-in estimator: the same call in plain Python around XGBoost, with the model kept in memory.

The estimator it replaces read and unpickled the model for every stop; this
one is what remains when that is mended and nothing else is.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import xgboost

from benchmarks.peers.tuned_python import ModelFacts, eta_text
from etacore.schema import EARTH_RADIUS_M, MAX_ETA_S, MIN_ETA_S


class PythonEstimator:
    """Predicts the given stops of one vehicle.

    Parameters
    ----------
    booster : xgboost.Booster
        A regression over the seven base features, in their order.
    model : ModelFacts
    """

    def __init__(self, booster: xgboost.Booster, model: ModelFacts) -> None:
        booster.set_param({"nthread": 1})
        self.booster: Final = booster
        self.model: Final = model
        self.zone: Final = ZoneInfo(model.time_zone)

    def estimate_stop_times(
        self, vehicle: dict[str, Any], stops: list[dict[str, Any]], max_stops: int = 3
    ) -> dict[str, Any]:
        """Document of a vehicle; every stop has ``stop_sequence`` and ``total_stop_sequence``."""
        window = stops[:max_stops]
        time = datetime.fromisoformat(vehicle["timestamp"])
        local = time.astimezone(self.zone)
        day, hour = local.weekday(), local.hour
        peak = day < 5 and (7 <= hour <= 9 or 16 <= hour <= 19)
        lat, lon = vehicle["lat"], vehicle["lon"]
        rows, distances = [], []
        for stop, following in zip(window, [*window[1:], None], strict=True):
            distance = distance_m(lat, lon, stop["lat"], stop["lon"])
            progress = 0.0
            if following is not None:
                leg = distance_m(stop["lat"], stop["lon"], following["lat"], following["lon"])
                if leg > 0:
                    progress = min(max(1 - distance_m(lat, lon, following["lat"], following["lon"]) / leg, 0.0), 1.0)
            position = max(stop["stop_sequence"] - 1, 0) + progress
            ratio = min(max(position / max(stop["total_stop_sequence"], 1), 0.0), 1.0)
            rows.append((distance, progress, ratio, hour, day, day >= 5, peak))
            distances.append(distance)
        eta = np.clip(self.booster.inplace_predict(np.array(rows, dtype=np.float32)), MIN_ETA_S, MAX_ETA_S)
        return {
            "vehicle_id": vehicle["vehicle_id"],
            "route_id": vehicle["route"],
            "trip_id": vehicle["trip_id"],
            "computed_at": datetime.now(UTC).isoformat(),
            "model_key": self.model.key,
            "model_type": self.model.model_type,
            "model_scope": self.model.scope,
            "predictions": [
                {
                    "stop_id": stop["stop_id"],
                    "stop_sequence": stop["stop_sequence"],
                    "distance_to_stop_m": round(distance, 1),
                    "eta_seconds": round(seconds, 1),
                    "eta_minutes": round(seconds / 60, 2),
                    "eta_formatted": eta_text(int(seconds)),
                    "eta_timestamp": (time + timedelta(seconds=seconds)).isoformat(),
                }
                for stop, distance, seconds in zip(window, distances, eta.tolist(), strict=True)
            ],
        }


def distance_m(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Haversine distance; degrees in, metres out."""
    lat1, lon1, lat2, lon2 = map(math.radians, (lat1, lon1, lat2, lon2))
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(h, 1.0)))
