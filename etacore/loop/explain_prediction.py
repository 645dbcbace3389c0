"""What a vehicle would be predicted, and what Redis holds of it now."""

from __future__ import annotations

from typing import Any, Final

import orjson

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError
from etacore.loop.explain_place import Line
from etacore.loop.explain_snapshot import time_text
from etacore.loop.explanation import Explanation, FeatureShown, Prediction, StopPredicted, Stored
from etacore.loop.reasons import cut, quoted
from etacore.loop.rehearsal import document_of
from etacore.models.servable import Servable
from etacore.pipeline.engine import Batch
from etacore.pipeline.snapshots import parse_timestamp
from etacore.schema import FEATURES
from etacore.store.store import RedisStore

_US: Final = 1_000_000
_FEATURES: Final = {feature.name: feature for feature in FEATURES}


def predicted(batch: Batch, line: Line) -> Prediction | None:
    """What the loop would store for a batch of one, and the features of its next stop; None if it would not."""
    document = document_of(batch, 0)
    if document is None:
        return None
    (part,) = (part for part in batch.parts if part.n_rows)
    model: Servable = part.model
    features = [
        FeatureShown(name, float(value), _FEATURES[name].unit, _FEATURES[name].description)
        for name, value in zip(model.features, part.features[0], strict=True)
    ]
    zone = model.calendar_args[0]
    stops = []
    for ahead, stop in enumerate(document["predictions"]):
        eta_s = stop["eta_seconds"]
        arrival_us = None if eta_s is None else int(batch.time_us[0]) + round(eta_s * _US)
        shown = line.stop(int(batch.first_stop[0]) + ahead)
        stops.append(
            StopPredicted(
                stop["stop_id"],
                shown.name if shown else "",
                stop["distance_to_stop_m"],
                eta_s,
                None if arrival_us is None else time_text(arrival_us, zone),
            )
        )
    return Prediction(model.key, model.scope, zone, features, stops)


def stored_now(config: RuntimeConfig, store: RedisStore, explanation: Explanation, now_us: int) -> Stored | None:
    """What Redis holds for the vehicle now, beside what it would get."""
    fields = explanation.snapshot.fields if explanation.snapshot else []
    vehicle_id = next((str(each.value) for each in fields if each.name == "vehicle_id" and each.value), None)
    if vehicle_id is None:
        return None
    name = f"{config.keys.predictions}{vehicle_id}"
    (blob,) = store.fetch([name.encode()])
    shown = cut(name, 200)
    if blob is None:
        return Stored(shown, found=False)
    try:
        document = orjson.loads(blob)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        return Stored(shown, found=True, notes=["it is no prediction document"])
    try:
        expires_in_s = store.ttl_s(name.encode())
    except ConfigError:
        expires_in_s = None
    source, computed = (_text(document.get(field)) for field in ("source_timestamp", "computed_at"))
    time_us = parse_timestamp(document.get("source_timestamp"))
    return Stored(
        shown,
        found=True,
        source_timestamp=source,
        computed_at=computed,
        age_s=None if time_us is None else round((now_us - time_us) / _US, 1),
        expires_in_s=expires_in_s,
        notes=_differences(document, explanation.prediction),
    )


def _text(value: object) -> str | None:
    return None if value is None else cut(str(value))


def _differences(document: dict[str, Any], prediction: Prediction | None) -> list[str]:
    if prediction is None:
        return ["nothing new would be stored: it stays until it expires"]
    said = []
    if (key := document.get("model_key")) != prediction.model_key:
        said.append(f"it is of another model: {quoted(key)}")
    stops = document.get("predictions")
    first = stops[0] if isinstance(stops, list) and stops and isinstance(stops[0], dict) else {}
    ours = prediction.stops[0]
    if first.get("stop_id") != ours.stop_id:
        said.append(f"its next stop is {quoted(first.get('stop_id'))}, now it would be {quoted(ours.stop_id)}")
    elif isinstance(eta_s := first.get("eta_seconds"), (int, float)) and ours.eta_s is not None:
        said.append(f"its ETA at {cut(str(ours.stop_id))} is {eta_s:g} s, now it would be {ours.eta_s:g} s")
    return said
