"""Make tiny_model.json and own_calls.jsonl again: ``python -m tests.golden.record`` from the project's root.

The expected documents come from XGBoost's own ``inplace_predict`` and the plain Python below, which shares nothing
with the package. Read the differences before committing them.
"""

import json
import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

HERE = Path(__file__).parent
MODEL_KEY = "xgboost_tiny_spatial-temporal_global_20260101_000000_max_depth=3_n_estimators=12"
TIME_ZONE = "America/New_York"
FEATURES = (
    "distance_to_stop",
    "progress_on_segment",
    "progress_ratio",
    "hour",
    "day_of_week",
    "is_weekend",
    "is_peak_hour",
)


def train():
    import xgboost

    rng = np.random.default_rng(7)
    n = 4000
    day = rng.integers(0, 7, n)
    hour = rng.integers(0, 24, n)
    weekend = day >= 5
    peak = ~weekend & (((hour >= 7) & (hour <= 9)) | ((hour >= 16) & (hour <= 19)))
    x = np.column_stack([rng.exponential(900, n), rng.random(n), rng.random(n), hour, day, weekend, peak]).astype(
        np.float32
    )
    y = x[:, 0] / (7 - 2 * peak) + 25 * x[:, 1] + 15 * x[:, 2] + hour + 8 * weekend + rng.normal(0, 5, n)
    settings = {"max_depth": 3, "eta": 0.3, "seed": 42, "objective": "reg:squarederror", "nthread": 1}
    return xgboost.train(settings, xgboost.DMatrix(x, y, feature_names=list(FEATURES)), num_boost_round=12)


# -- the slow path -----------------------------------------------------------------------------------------------------


def first(item, *names):
    return next((item[name] for name in names if item.get(name) not in (None, "")), None)


def degrees(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def whole(value):
    return None if value is None else int(float(value))


def haversine_m(a, b):
    (lat1, lon1), (lat2, lon2) = [(math.radians(lat), math.radians(lon)) for lat, lon in (a, b)]
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6_371_000 * math.asin(math.sqrt(min(h, 1)))


def along_m(shape, point):
    """Metres along the shape to the place nearest to a point."""
    best, at, begun = math.inf, 0.0, 0.0
    for a, b in pairwise(shape):
        length = haversine_m(a, b)
        scale = math.cos(math.radians(a[0]))
        run, rise = (b[1] - a[1]) * scale, b[0] - a[0]
        t = ((point[1] - a[1]) * scale * run + (point[0] - a[0]) * rise) / (run * run + rise * rise)
        t = min(max(t, 0.0), 1.0)
        off = haversine_m(point, (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
        if off < best:
            best, at = off, begun + t * length
        begun += length
    return at


def moment(value):
    if isinstance(value, int | float):
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value / 1000 if value > 1e11 else value)
    found = datetime.fromisoformat(value)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def document(booster, vehicle, stops, shape=None, max_stops=3, route_id=None, trip_id=None, **_):
    place = (degrees(first(vehicle, "lat", "latitude")), degrees(first(vehicle, "lon", "longitude", "lng")))
    when = moment(vehicle["timestamp"])
    local = when.astimezone(ZoneInfo(TIME_ZONE))
    weekend = local.weekday() >= 5
    peak = not weekend and (7 <= local.hour <= 9 or 16 <= local.hour <= 19)
    window = stops[:max_stops]
    positions = []
    for stop in window:
        lat, lon = (
            degrees(first(stop, "lat", "latitude", "stop_lat")),
            degrees(first(stop, "lon", "longitude", "lng", "stop_lon")),
        )
        positions.append(None if lat is None or lon is None else (lat, lon))
    totals = [
        whole(stop[name])
        for stop in window
        for name in ("total_stop_sequence", "total_stops", "stop_sequence", "sequence")
        if stop.get(name) is not None
    ]
    predictions = []
    for i, (stop, position) in enumerate(zip(window, positions, strict=True)):
        sequence = whole(first(stop, "stop_sequence", "sequence", "stop_order"))
        total = whole(first(stop, "total_stop_sequence", "total_stops"))
        if total is None:
            total = max(totals) if totals else len(window)
        stop_id = first(stop, "stop_id", "stopId", "id")
        shown = {
            "stop_id": None if stop_id is None else str(stop_id),
            "stop_sequence": i + 1 if sequence is None else sequence,
            "distance_to_stop_m": None,
            "eta_seconds": None,
            "eta_minutes": None,
            "eta_formatted": None,
            "eta_timestamp": None,
        }
        if position is None:
            predictions.append(shown | {"error": "Stop without usable coordinates"})
            continue
        distance = haversine_m(place, position)
        if shape is not None:
            distance = max(along_m(shape, position) - along_m(shape, place), 0.0)
        if stop.get("shape_distance_to_stop") is not None:
            distance = float(stop["shape_distance_to_stop"])
        progress = 0.0
        successor = positions[i + 1] if i + 1 < len(window) else None
        if successor is not None and haversine_m(position, successor) > 0:
            progress = min(max(1 - haversine_m(place, successor) / haversine_m(position, successor), 0.0), 1.0)
        ratio = (max((1 if sequence is None else sequence) - 1, 0) + progress) / max(total, 1)
        row = [distance, progress, min(max(ratio, 0.0), 1.0), local.hour, local.weekday(), weekend, peak]
        y = float(np.clip(booster.inplace_predict(np.array([row], np.float32)), 0, 7200)[0])
        seconds = int(y)
        shown["distance_to_stop_m"] = round(distance, 1)
        shown["eta_seconds"] = round(y, 1)
        shown["eta_minutes"] = round(y / 60, 2)
        if seconds < 60:
            shown["eta_formatted"] = f"{seconds}s"
        elif seconds < 3600:
            shown["eta_formatted"] = f"{seconds // 60}m {seconds % 60}s"
        else:
            shown["eta_formatted"] = f"{seconds // 3600}h {seconds % 3600 // 60}m"
        shown["eta_timestamp"] = (when + timedelta(seconds=y)).astimezone(UTC).isoformat()
        predictions.append(shown)
    return identity(vehicle, route_id, trip_id) | {
        "model_key": MODEL_KEY,
        "model_type": "xgboost",
        "model_scope": "global",
        "predictions": predictions,
    }


def identity(vehicle, route_id=None, trip_id=None):
    vehicle = vehicle or {}
    nested = vehicle.get("vehicle") or {}
    vehicle_id = first(vehicle, "vehicle_id", "vehicleId", "id") or nested.get("id")
    route = route_id or first(vehicle, "route_id", "route", "routeId", "route_short_name")
    trip = trip_id or first(vehicle, "trip_id", "trip", "tripId")
    return {
        "vehicle_id": "unknown" if vehicle_id is None else str(vehicle_id),
        "route_id": None if route is None else str(route),
        "trip_id": None if trip is None else str(trip),
    }


# -- the calls ---------------------------------------------------------------------------------------------------------

BUS = {
    "vehicle_id": "BUS-1",
    "lat": 40.7,
    "lon": -74.0,
    "speed": 8.0,
    "timestamp": "2026-01-20T12:00:00+00:00",
    "route": "171",
}
LINE = [{"stop_id": f"S{i}", "lat": 40.7 + 0.004 * i, "lon": -74.0, "stop_sequence": i} for i in range(1, 8)]
CORNER = [(40.69, -74.0), (40.72, -74.0), (40.72, -73.96)]


def renamed(stop, **names):
    return {names.get(name, name): value for name, value in stop.items()}


def without(item, *names):
    return {name: value for name, value in item.items() if name not in names}


def calls():
    """(vehicle, stops, keyword arguments, error or None)."""
    good = [
        (BUS, LINE, {}),
        (BUS, LINE, {"max_stops": 7}),
        (BUS, LINE, {"max_stops": 1}),
        (BUS, LINE, {"max_stops": 0}),
        (BUS, LINE[:1], {"max_stops": 5}),
        (BUS, LINE, {"route_id": "9", "trip_id": "T-9"}),
        (BUS, LINE, {"model_key": MODEL_KEY}),
        (BUS | {"trip_id": "T-1"}, LINE, {"model_type": "xgboost", "prefer_route_model": False}),
        # sequences: zero, gaps, under other names, as text, none at all, more than the total
        (BUS, [stop | {"stop_sequence": i} for i, stop in enumerate(LINE)], {}),
        (BUS, [stop | {"stop_sequence": 10 * i} for i, stop in enumerate(LINE, 20)], {"max_stops": 4}),
        (BUS, [renamed(stop, stop_sequence="sequence") for stop in LINE], {}),
        (BUS, [renamed(stop, stop_sequence="stop_order") for stop in LINE], {}),
        (BUS, [stop | {"stop_sequence": str(i)} for i, stop in enumerate(LINE)], {}),
        (BUS, [without(stop, "stop_sequence") for stop in LINE], {}),
        (BUS, [without(LINE[0], "stop_sequence"), *LINE[1:]], {}),
        (BUS, [stop | {"total_stop_sequence": 40} for stop in LINE], {}),
        (BUS, [LINE[0], LINE[1] | {"total_stop_sequence": 40}, LINE[2]], {}),
        (BUS, [stop | {"total_stops": "3"} for stop in LINE[3:]], {}),
        # places: at the stop, two stops at one place, text, other names, far away, over the pole of nothing
        (BUS | {"lat": 40.704}, LINE, {}),
        (BUS, [LINE[0], LINE[0] | {"stop_id": "S1b", "stop_sequence": 2}, LINE[1]], {}),
        (BUS | {"lat": "40.7", "lon": " -74.0"}, [s | {"lat": str(s["lat"])} for s in LINE], {}),
        (
            renamed(BUS, lat="latitude", lon="lng"),
            [renamed(s, lat="stop_lat", lon="stop_lon", stop_id="id") for s in LINE],
            {},
        ),
        (BUS | {"lat": 0, "lon": 0}, LINE, {}),
        (BUS | {"lat": 40.706}, LINE, {"max_stops": 2}),
        (BUS, [LINE[0], without(LINE[1], "lat"), LINE[2]], {}),
        (BUS, [LINE[0] | {"lon": "east"}, LINE[1]], {}),
        (BUS, [{}, LINE[1] | {"stop_id": 77}], {}),
        # distances: along a shape, given by the caller, given and a shape
        (BUS, [{"stop_id": "far", "lat": 40.72, "lon": -73.97, "stop_sequence": 3}], {"shape": CORNER}),
        (
            BUS,
            [
                LINE[0],
                {"stop_id": "corner", "lat": 40.72, "lon": -74.0},
                {"stop_id": "end", "lat": 40.72, "lon": -73.96},
            ],
            {"shape": CORNER},
        ),
        (BUS, [stop | {"shape_distance_to_stop": 1000.05 * i} for i, stop in enumerate(LINE)], {}),
        (BUS, [LINE[0] | {"shape_distance_to_stop": 12}, LINE[1]], {"shape": CORNER}),
        # times: daylight saving begins and ends, weekend, peak, leap day, fractions, naive, POSIX
        *[
            (BUS | {"timestamp": when}, LINE, {"max_stops": 1})
            for when in (
                "2026-03-08T06:59:59.999999Z",
                "2026-03-08T07:00:00Z",
                "2025-11-02T05:30:00+00:00",
                "2025-11-02T06:30:00+00:00",
                "2026-01-24T23:59:59.123456-05:00",
                "2024-02-29T16:00:00.5-05:00",
                "2026-01-20T12:00:00",
                1768910400,
                1768910400.25,
                1768910400123,
            )
        ],
        # names of the vehicle
        (renamed(BUS, vehicle_id="vehicleId", route="routeId") | {"tripId": 12}, LINE, {"max_stops": 1}),
        (without(BUS, "vehicle_id", "route") | {"vehicle": {"id": 5}, "route_short_name": "M"}, LINE, {"max_stops": 1}),
        (without(BUS, "vehicle_id", "route"), LINE, {"max_stops": 1}),
    ]
    missing = "Missing vehicle position or stops"
    bad = [
        (None, LINE, {}, missing),
        ({}, LINE, {}, missing),
        (BUS, [], {}, missing),
        (BUS, None, {}, missing),
        (without(BUS, "lat"), LINE, {}, missing),
        (BUS, LINE, {"model_type": "ewma"}, "No trained models found for model_type"),
        (BUS, LINE, {"model_key": "nope"}, "Failed to load model metadata: 'Model nope not found in registry'"),
        (BUS | {"lat": 91}, LINE, {}, "Unusable vehicle position: (91, -74.0)"),
        (BUS | {"timestamp": "soon"}, LINE, {}, "Missing or unusable timestamp: 'soon'"),
        (without(BUS, "timestamp"), LINE, {}, "Missing or unusable timestamp: None"),
    ]
    return [(*call, None) for call in good] + bad


def record():
    import xgboost

    booster = train()
    path = HERE / "tiny_model.json"
    booster.save_model(path)
    booster = xgboost.Booster(model_file=path)
    with (HERE / "own_calls.jsonl").open("w") as out:
        for vehicle, stops, options, error in calls():
            if error is None:
                expected = document(booster, vehicle, stops, **options)
            else:
                chosen = None if error.startswith(("Missing vehicle", "Unusable vehicle", "No trained")) else MODEL_KEY
                expected = identity(vehicle) | {
                    "model_key": options.get("model_key", chosen),
                    "predictions": [],
                    "error": error,
                }
            call = {"vehicle_position": vehicle, "upcoming_stops": stops, "kwargs": options, "expected": expected}
            out.write(json.dumps(call, allow_nan=False) + "\n")


if __name__ == "__main__":
    record()
