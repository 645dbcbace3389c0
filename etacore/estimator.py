"""The drop-in call: one vehicle, its upcoming stops, one prediction document as a dict.

It computes with the kernels of the runtime: the same inputs give the same numbers.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from etacore._window import degrees, first, identifier, number, prediction_dicts, read_stops
from etacore.errors import EtacoreError
from etacore.features import Calendar, along_shape_distance, vectorize_window
from etacore.legs import TypicalLegs
from etacore.registry import Model, Registry
from etacore.routes import ShapePolyline
from etacore.snapshots import parse_timestamp

__all__ = ["ShapePolyline", "estimate_stop_times"]

MISSING_INPUT: Final = "Missing vehicle position or stops"
NO_MODEL: Final = "No trained models found for model_type"
MODEL_NOT_LOADED: Final = "Failed to load model metadata: "

_VEHICLE_ID: Final = ("vehicle_id", "vehicleId", "id")
_ROUTE_ID: Final = ("route_id", "route", "routeId", "route_short_name")
_TRIP_ID: Final = ("trip_id", "trip", "tripId")
_VEHICLE_LAT: Final = ("lat", "latitude")
_VEHICLE_LON: Final = ("lon", "longitude", "lng")

_ASKS_TYPICAL: Final = frozenset({"leg_left", "typical_travel_s"})

_MODEL_AGE_S: Final = 1.0
_MAX_CHOICES: Final = 4096
_MAX_KEPT_STOPS: Final = 64


class _UnpredictableError(Exception):
    # Ends a call with an error document.
    pass


class _Serving:
    # A model with the calendar made for it, and what it asks of routes.
    __slots__ = ("asks_of_routes", "calendar", "model", "n_features", "route_codes", "typical")

    def __init__(self, model: Model) -> None:
        self.model = model
        self.calendar = Calendar(model.time_zone, model.holidays)
        self.n_features = len(model.features)
        asks_typical = not _ASKS_TYPICAL.isdisjoint(model.features)
        self.typical: TypicalLegs | None = model.typical if asks_typical else None
        self.route_codes: dict[str, int] = {}
        if "route_code" in model.features:
            self.route_codes = {route: code for code, route in enumerate(model.routes)}
        self.asks_of_routes: bool = self.typical is not None or bool(self.route_codes)

    def of_route(self, route_id: str | None, stop_ids: Sequence[str | None]) -> dict[str, Any]:
        # What the model knows of the route of a call: keywords of `vectorize_window`.
        route = route_id or ""
        known: dict[str, Any] = {"route_code": self.route_codes.get(route, math.nan)}
        if self.typical is not None:
            ids = [stop_id or "" for stop_id in stop_ids]
            # The first stop of a pattern has no leg before it; that of a window has.
            known["leg_s"] = np.ascontiguousarray(self.typical.legs(route, ["", *ids])[:, 1:])
            known["leg_m"] = self.typical.leg_m(route, ids[0])
        return known


class _Models:
    # The models of one registry folder, chosen once a second at most for the same question.

    def __init__(self, path: str) -> None:
        self.registry = Registry(path)
        self.lock = threading.Lock()
        self.choices: dict[tuple[str | None, str, str | None, bool], tuple[float, _Serving]] = {}
        self.serving: dict[str, _Serving] = {}

    def get(self, key: str | None, model_type: str, route_id: str | None, prefer_route_model: bool) -> _Serving:
        question = (key, model_type, route_id, prefer_route_model)
        now = time.monotonic()
        known = self.choices.get(question)
        if known is not None and now < known[0]:
            return known[1]
        with self.lock:
            serving = self._load(key or self._choose(model_type, route_id, prefer_route_model))
            if len(self.choices) >= _MAX_CHOICES:
                self.choices.clear()
            self.choices[question] = (now + _MODEL_AGE_S, serving)
        return serving

    def _choose(self, model_type: str, route_id: str | None, prefer_route_model: bool) -> str:
        try:
            key = self.registry.choose(model_type, route_id, prefer_route_model)
        except EtacoreError as error:
            raise _UnpredictableError(f"{MODEL_NOT_LOADED}{error.message}") from None
        if key is None:
            raise _UnpredictableError(NO_MODEL)
        return key

    def _load(self, key: str) -> _Serving:
        try:
            model = self.registry.load(key)
            serving = self.serving.get(key)
            if serving is None or serving.model is not model:
                serving = self.serving[key] = _Serving(model)
            return serving
        except KeyError as error:
            # The quotes are those of a KeyError's text, which callers of the old system compare with.
            raise _UnpredictableError(f"{MODEL_NOT_LOADED}{error.args[0]!r}") from None
        except EtacoreError as error:
            raise _UnpredictableError(f"{MODEL_NOT_LOADED}{error.message}") from None


_registries: Final[dict[str, _Models]] = {}
_registries_lock: Final = threading.Lock()


def _models() -> _Models:
    path = os.environ.get("MODEL_REGISTRY_DIR") or "models/trained"
    models = _registries.get(path)
    if models is None:
        with _registries_lock:
            models = _registries.setdefault(path, _Models(path))
    return models


class _Window:
    # Arrays for n stops, kept per thread so that a call allocates none.
    __slots__ = ("X", "distance_m", "eta_s", "given_m", "lat", "lon", "sequence", "total")

    def __init__(self, n: int, n_features: int) -> None:
        self.lat: NDArray[np.float64] = np.empty(n)
        self.lon: NDArray[np.float64] = np.empty(n)
        self.sequence: NDArray[np.int64] = np.empty(n, np.int64)
        self.total: NDArray[np.int64] = np.empty(n, np.int64)
        self.given_m: NDArray[np.float64] = np.empty(n)
        self.distance_m: NDArray[np.float64] = np.empty(n)
        self.X: NDArray[np.float32] = np.empty((n, n_features), np.float32)
        self.eta_s: NDArray[np.float32] = np.empty(n, np.float32)


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.windows: dict[tuple[int, int], _Window] = {}

    def window(self, n: int, n_features: int) -> _Window:
        window = self.windows.get((n, n_features))
        if window is None:
            window = _Window(n, n_features)
            if n <= _MAX_KEPT_STOPS:
                self.windows[n, n_features] = window
        return window


_scratch: Final = _Scratch()


def estimate_stop_times(
    vehicle_position: Mapping[str, Any] | None,
    upcoming_stops: Sequence[Mapping[str, Any]] | None,
    route_id: str | None = None,
    trip_id: str | None = None,
    model_key: str | None = None,
    model_type: str | None = None,
    prefer_route_model: bool = True,
    max_stops: int = 3,
    shape: ShapePolyline | None = None,
) -> dict[str, Any]:
    """Predict when a vehicle reaches its next stops.

    Nothing that a caller hands over makes it raise: what cannot be computed is a document with ``error``, a stop
    that cannot be predicted an element with ``error``. May be called from several threads. Models are those below
    ``MODEL_REGISTRY_DIR`` (default ``models/trained``); they stay loaded, and a registry that changed on disk is
    noticed after a second at most.

    Parameters
    ----------
    vehicle_position : mapping
        ``vehicle_id``, ``lat``, ``lon`` (degrees), ``timestamp`` (ISO 8601, POSIX seconds, or a datetime; without
        a zone it is UTC), ``route`` and ``trip_id``, with the aliases of a snapshot in Redis.
    upcoming_stops : sequence of mapping
        The stops ahead in order: ``stop_id``, ``lat``, ``lon``, ``stop_sequence`` (or ``sequence``,
        ``stop_order``), ``total_stop_sequence``, ``shape_distance_to_stop`` (m; believed when given).
    route_id, trip_id : str, optional
        Instead of what the vehicle says.
    model_key : str, optional
        The model to use. Default: the best one of the route, else the best global one.
    model_type : str, optional
        Kind of model to choose from; default ``xgboost``.
    prefer_route_model : bool
        Whether a model of the route goes before a global one.
    max_stops : int
        How many stops are predicted.
    shape : ShapePolyline, optional
        Measures distances along this line instead of straight.

    Returns
    -------
    dict
        The prediction document up to ``predictions``; distances in m, times in s and min.
    """
    document: dict[str, Any] = {
        "vehicle_id": "unknown",
        "route_id": None,
        "trip_id": None,
        "computed_at": datetime.now(UTC).isoformat(),
        "model_key": None,
    }
    try:
        vehicle = _mapping(vehicle_position)
        document["vehicle_id"] = _vehicle_id(vehicle) or "unknown"
        document["route_id"] = identifier(route_id) or identifier(first(vehicle, _ROUTE_ID))
        document["trip_id"] = identifier(trip_id) or identifier(first(vehicle, _TRIP_ID))
        document["model_key"] = identifier(model_key)
        return _predict(document, vehicle, upcoming_stops, model_type, prefer_route_model, max_stops, shape)
    except _UnpredictableError as reason:
        error = str(reason)
    except Exception as reason:  # the promise above: whatever a caller's objects do, it ends in a document
        error = f"Prediction failed: {type(reason).__name__}: {reason}"
    for name in ("model_type", "model_scope"):
        document.pop(name, None)
    document["predictions"] = []
    document["error"] = error
    return document


def _predict(
    document: dict[str, Any],
    vehicle: Mapping[str, Any],
    upcoming_stops: Any,
    model_type: Any,
    prefer_route_model: Any,
    max_stops: Any,
    shape: Any,
) -> dict[str, Any]:
    lat, lon = first(vehicle, _VEHICLE_LAT), first(vehicle, _VEHICLE_LON)
    n_stops = max(int(max_stops), 0)
    stops = _first_stops(upcoming_stops, n_stops)
    if lat is None or lon is None or not stops:
        raise _UnpredictableError(MISSING_INPUT)
    stops = stops[:n_stops]
    lat_deg, lon_deg = degrees(lat, 90.0), degrees(lon, 180.0)
    if math.isnan(lat_deg + lon_deg):
        _refuse("Unusable vehicle position", (lat, lon))
    kind = identifier(model_type) or "xgboost"
    serving = _models().get(document["model_key"], kind, document["route_id"], bool(prefer_route_model))
    model = serving.model
    document["model_key"] = model.key
    given = vehicle.get("timestamp")
    time_us = parse_timestamp(given) if not isinstance(given, datetime) else _datetime_us(given)
    if time_us is None:
        _refuse("Missing or unusable timestamp", given)
    if shape is not None and not isinstance(shape, ShapePolyline):
        _refuse("shape has to be a ShapePolyline, not", type(shape))

    window = _scratch.window(len(stops), serving.n_features)
    stop_ids, sequences, errors = read_stops(
        stops, window.lat, window.lon, window.sequence, window.total, window.given_m
    )
    if shape is not None:
        _measure(shape, lat_deg, lon_deg, window, errors)
    of_route = serving.of_route(document["route_id"], stop_ids) if serving.asks_of_routes else {}
    vectorize_window(
        lat_deg,
        lon_deg,
        max(0.0, number(vehicle.get("speed"))),
        time_us,
        window.lat,
        window.lon,
        window.sequence,
        window.total,
        window.given_m,
        serving.calendar,
        model.feature_codes,
        **of_route,
        nan_fill=model.nan_fill,
        X=window.X,
        distance_m=window.distance_m,
    )
    for i, error in enumerate(errors):
        if error is not None:
            window.distance_m[i] = window.given_m[i]
    model.predict(window.X, window.eta_s)
    document["model_type"] = model.model_type
    document["model_scope"] = model.scope
    document["predictions"] = prediction_dicts(stop_ids, sequences, errors, window.distance_m, window.eta_s, time_us)
    return document


def _first_stops(stops: Any, n: int) -> list[Any]:
    """The stops to predict, and one even if none is wanted: it tells "none asked for" from "none there"."""
    if not isinstance(stops, Iterable) or isinstance(stops, str | bytes | Mapping):
        return []
    return list(islice(stops, max(n, 1)))


def _measure(shape: ShapePolyline, lat: float, lon: float, window: _Window, errors: Sequence[str | None]) -> None:
    # Distances along the shape, where the caller gave none.
    for i, error in enumerate(errors):
        if error is None and math.isnan(window.given_m[i]):
            window.given_m[i] = along_shape_distance(shape, lat, lon, float(window.lat[i]), float(window.lon[i]))


def _refuse(reason: str, given: object) -> NoReturn:
    raise _UnpredictableError(f"{reason}: {repr(given)[:80]}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if type(value) is dict or isinstance(value, Mapping) else {}


def _vehicle_id(vehicle: Mapping[str, Any]) -> str | None:
    return identifier(first(vehicle, _VEHICLE_ID)) or identifier(
        _mapping(vehicle.get("vehicle")).get("id") or vehicle.get("vehicle.id")
    )


def _datetime_us(moment: datetime) -> int | None:
    return parse_timestamp((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat())
