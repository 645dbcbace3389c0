"""The drop-in call: one vehicle, its upcoming stops, one prediction document as a dict.

It computes with the kernels of the runtime: the same inputs give the same numbers.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np

from etacore._kernels.features import Vectorizer
from etacore._kernels.forest import Library
from etacore._kernels.window import (
    MISSING_INPUT,
    UnpredictableError,
    Window,
    environment,
    name_vehicle,
    now_text,
    text_or_none,
)
from etacore.errors import EtacoreError
from etacore.models.forest import Forest
from etacore.models.registry import Model, open_registry
from etacore.models.servable import TypicalLegs
from etacore.pipeline.calendar import Calendar
from etacore.pipeline.route_blobs import ShapePolyline

__all__ = ["ShapePolyline", "estimate_stop_times"]

NO_MODEL: Final = "No trained models found for model_type"
MODEL_NOT_LOADED: Final = "Failed to load model metadata: "

_ASKS_TYPICAL: Final = frozenset({"leg_left", "typical_travel_s"})

_MODEL_AGE_S: Final = 1.0
_MAX_CHOICES: Final = 4096
_MAX_KEPT_STOPS: Final = 64


class _Serving:
    # A model with what it asks of a window and of routes.
    __slots__ = ("asks_of_routes", "clip_s", "features", "library", "model", "route_codes", "typical")

    def __init__(self, model: Model) -> None:
        self.model = model
        calendar = Calendar(model.time_zone, model.holidays)
        self.features = Vectorizer(
            calendar.transitions_s,
            calendar.offset_s,
            calendar.holiday_days,
            model.feature_codes,
            math.nan if model.nan_fill is None else model.nan_fill,
        )
        self.library: Library | None = model.predictor.library if isinstance(model.predictor, Forest) else None
        self.clip_s = model.clip_s
        asks_typical = not _ASKS_TYPICAL.isdisjoint(model.features)
        self.typical: TypicalLegs | None = model.typical if asks_typical else None
        self.route_codes: dict[str, int] = {}
        if "route_code" in model.features:
            self.route_codes = {route: code for code, route in enumerate(model.routes)}
        self.asks_of_routes: bool = self.typical is not None or bool(self.route_codes)

    def of_route(self, route_id: str | None, stop_ids: Sequence[str | None]) -> dict[str, Any]:
        # What the model knows of the route of a call: keywords of `Window.vectorize`.
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
        self.registry = open_registry(path)
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
            raise UnpredictableError(f"{MODEL_NOT_LOADED}{error.message}") from None
        if key is None:
            raise UnpredictableError(NO_MODEL)
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
            raise UnpredictableError(f"{MODEL_NOT_LOADED}{error.args[0]!r}") from None
        except EtacoreError as error:
            raise UnpredictableError(f"{MODEL_NOT_LOADED}{error.message}") from None


_registries: Final[dict[str, _Models]] = {}
_registries_lock: Final = threading.Lock()


def _models() -> _Models:
    path = environment(b"MODEL_REGISTRY_DIR") or "models/trained"
    models = _registries.get(path)
    if models is None:
        with _registries_lock:
            models = _registries.setdefault(path, _Models(path))
    return models


_idle: Final[list[Window]] = []  # windows that no call uses just now


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
        "computed_at": now_text(),
        "model_key": None,
    }
    try:
        vehicle = name_vehicle(document, vehicle_position, route_id, trip_id, model_key)
        _predict(document, vehicle, upcoming_stops, model_type, prefer_route_model, max_stops, shape)
        return document
    except UnpredictableError as reason:
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
) -> None:
    n_stops = int(max_stops)
    stops = _first_stops(upcoming_stops, n_stops)
    if not stops:
        raise UnpredictableError(MISSING_INPUT)
    window = _borrow_window()
    window.read_position(vehicle)
    kind = text_or_none(model_type) or "xgboost"
    serving = _models().get(document["model_key"], kind, document["route_id"], bool(prefer_route_model))
    model = serving.model
    document["model_key"] = model.key
    window.read_motion(vehicle)
    window.read_stops(stops if n_stops > 0 else [])
    if shape is not None:
        if not isinstance(shape, ShapePolyline):
            raise UnpredictableError(f"shape has to be a ShapePolyline, not: {type(shape)!r}")
        window.measure(shape.distance_m)
    if serving.asks_of_routes and window.stop_ids:
        window.vectorize(serving.features, **serving.of_route(document["route_id"], window.stop_ids))
    else:
        window.vectorize(serving.features)
    if serving.library is not None:
        window.predict(serving.library, *serving.clip_s)
    else:
        window.predict_by(model.predict)
    document["model_type"] = model.model_type
    document["model_scope"] = model.scope
    document["predictions"] = window.predictions()
    if window.room <= _MAX_KEPT_STOPS:
        _idle.append(window)


def _borrow_window() -> Window:
    # A call that fails keeps it: the next one makes another.
    try:
        return _idle.pop()
    except IndexError:
        return Window()


def _first_stops(stops: Any, n: int) -> Sequence[Any]:
    """The stops to predict, and one even if none is wanted: it tells "none asked for" from "none there"."""
    n = max(n, 1)
    if type(stops) is list:
        return stops[:n]
    if not isinstance(stops, Iterable) or isinstance(stops, str | bytes | Mapping):
        return []
    return list(islice(stops, n))
