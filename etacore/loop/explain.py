"""`etacore explain`: what the loop would make of one vehicle, step by step, and why. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import orjson

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, EtacoreError
from etacore.loop.explain_place import (
    Line,
    asked_keys,
    chosen_pattern,
    length_text,
    place_on,
    why_no_stops,
    why_off_route,
)
from etacore.loop.explain_prediction import predicted, stored_now
from etacore.loop.explain_snapshot import as_it_stood, read_snapshot, why_unread
from etacore.loop.explanation import Earlier, Explanation
from etacore.loop.model_switch import ModelSwitch
from etacore.loop.reasons import REASONS, REMARKS, age_text, cut
from etacore.loop.rehearsal import REPEATED, Rehearsal, remarks_of
from etacore.models.choice import Models
from etacore.pipeline.encoding import iso_time
from etacore.pipeline.engine import Batch, summarize, system_clock_us
from etacore.pipeline.snapshots import parse_snapshots
from etacore.status import Status
from etacore.store.store import RedisStore

MAX_SIMILAR: Final = 5
MAX_COMPARED: Final = 5_000

_US: Final = 1_000_000
_NOT_A_SNAPSHOT: Final = (Status.TOO_LARGE, Status.INVALID_JSON, Status.NOT_AN_OBJECT)
_WITHOUT_STOPS: Final = (
    Status.UNKNOWN_ROUTE,
    Status.TOO_FEW_STOPS,
    Status.STOP_WITHOUT_COORDINATES,
    Status.GUESSED_PATTERN,
)


def explain_key(config: RuntimeConfig, name: str) -> Explanation:
    """Explain the vehicle under a key, or of an id, as it stands in Redis now.

    Raises
    ------
    ConfigError, RedisUnavailableError
        If Redis cannot be used.
    ModelNotFoundError, ModelLoadError, SchemaError
        If the named model cannot be served.
    """
    with RedisStore(config) as store:
        store.ping()
        key = vehicle_key(config, name)
        models, notes = serving_models(config, store)
        (payload,) = store.fetch([key])
        if payload is None:
            return _absent(config, store, key)
        rehearsal = Rehearsal(models, config, store.fetch, system_clock_us())
        explanation = explain_snapshots(config, rehearsal, [(key, payload)])
        if explanation.status == Status.UNKNOWN_ROUTE.label:
            explanation.details += _other_routes(config, store, explanation)
        explanation.notes += _other_key(config, store, rehearsal, explanation, (key, payload))
        explanation.stored = stored_now(config, store, explanation, rehearsal.now_us)
        if explanation.status == Status.UNCHANGED.label and explanation.stored and explanation.stored.expires_in_s:
            explanation.details.append(f"the stored one expires in {age_text(explanation.stored.expires_in_s)}")
    explanation.notes = [*notes, *explanation.notes, "one snapshot only: the loop may know more from earlier fixes"]
    return explanation


def explain_file(config: RuntimeConfig, content: bytes) -> list[Explanation]:
    """Explain snapshots of a file: one JSON object, or one a line; of each vehicle the last one in full.

    They are played in their order, each one second after its own time, to an engine that begins without memory; stops
    come from Redis, stored predictions are not looked at.

    Raises
    ------
    ConfigError
        If the file is empty, or Redis refuses.
    RedisUnavailableError
        If Redis cannot be used.
    ModelNotFoundError, ModelLoadError, SchemaError
        If the named model cannot be served.
    """
    payloads = split_snapshots(content)
    if not payloads:
        raise ConfigError("there is no snapshot to explain", hint="give one JSON object, or one a line")
    played: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for payload in payloads:
        key = vehicle_key(config, _peek(payload)[0] or "?")
        played.setdefault(key, []).append((key, payload))
    with RedisStore(config) as store:
        store.ping()
        models, notes = serving_models(config, store)
        predictions = config.keys.predictions.encode()

        def fetch(keys: Sequence[bytes]) -> list[bytes | None]:
            found = iter(store.fetch([key for key in keys if not key.startswith(predictions)]))
            return [None if key.startswith(predictions) else next(found) for key in keys]

        found = []
        for snapshots in played.values():
            explanation = explain_snapshots(config, Rehearsal(models, config, fetch, 0), snapshots, is_played=True)
            explanation.notes = [*notes, *explanation.notes]
            if len(snapshots) == 1:
                explanation.notes.append("one snapshot only: the loop may know more from earlier fixes")
            found.append(explanation)
    return found


def vehicle_key(config: RuntimeConfig, name: str) -> bytes:
    """The key that is meant by a key or a vehicle id."""
    before, star, after = config.keys.vehicle_pattern.partition("*")
    is_key = not star or (name.startswith(before) and name.endswith(after) and len(name) > len(before + after))
    return (name if is_key else f"{before}{name}{after}").encode(errors="surrogateescape")


def split_snapshots(content: bytes) -> list[bytes]:
    """One snapshot, or one a line where the first line is JSON by itself; blank lines are passed over."""
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if len(lines) < 2:
        return lines
    try:
        orjson.loads(lines[0])
    except orjson.JSONDecodeError:
        return [content.strip()]
    return lines


def serving_models(config: RuntimeConfig, store: RedisStore) -> tuple[Models, list[str]]:
    """The models that a loop would serve now, and what is to be said of them.

    Raises
    ------
    ModelNotFoundError, ModelLoadError, SchemaError
        If a model is named that cannot be served.
    """
    refused: list[str] = []
    try:
        switch = ModelSwitch(
            config, store, lambda key, text: refused.append(f"the promoted model {key} is refused: {text}")
        )
        return switch.initial(), refused
    except EtacoreError as error:
        if config.model_key is not None:
            raise
        said = f"no loop can start here: {error.message}" + (f" ({error.hint})" if error.hint else "")
        return Models(None), [*refused, said]


def explain_snapshots(
    config: RuntimeConfig, rehearsal: Rehearsal, snapshots: Sequence[tuple[bytes, bytes]], *, is_played: bool = False
) -> Explanation:
    """Play the snapshots of one vehicle, and say what becomes of the last one.

    Parameters
    ----------
    config : RuntimeConfig
        Of the loop.
    rehearsal : Rehearsal
        Of this vehicle alone, without memory.
    snapshots : sequence of (key, payload)
        At least one.
    is_played : bool, optional
        Each is read one second after its own time, instead of at the rehearsal's.
    """
    earlier: list[Earlier] = []
    real_us = system_clock_us()
    for n_played, (key, payload) in enumerate(snapshots, 1):
        if is_played:
            rehearsal.now_us = _played_at_us(payload, rehearsal.now_us, real_us)
        batch, (counted,) = rehearsal.run([key], [payload])
        if n_played < len(snapshots):
            earlier.append(_earlier(rehearsal, batch, counted, config))
            rehearsal.keep(batch, [counted])
    explanation = _words(config, rehearsal, batch, counted, payload)
    explanation.earlier = earlier
    for remark in remarks_of(batch, 0):
        explanation.remarks.append(remark.value)
        explanation.details.append(f"{REMARKS[remark].meaning}: {REMARKS[remark].advice}")
    if counted in _NOT_A_SNAPSHOT:
        explanation.snapshot = as_it_stood(payload)
        return explanation
    zone = _zone(rehearsal.engine.models, batch)
    explanation.snapshot = read_snapshot(batch, 0, payload, zone)
    if is_played and batch.time_us[0]:
        explanation.notes.append(_played_note(config, batch, real_us))
    reached = Status(int(batch.status[0]))
    if Status.EXPIRED <= reached <= Status.MISSING_ROUTE:
        return explanation
    probe = Rehearsal(rehearsal.engine.models, config, rehearsal.fetch, rehearsal.now_us)
    probe.look_up(key, payload)
    explanation.asked = asked_keys(probe, config.keys)
    if batch.pattern_ix[0] >= 0 and reached not in _WITHOUT_STOPS:
        line = Line(rehearsal, int(batch.pattern_ix[0]), config.keys)
        explanation.pattern = chosen_pattern(line, batch, 0, config.keys)
        explanation.place = place_on(line, batch, 0)
        explanation.prediction = predicted(batch, line)
        explanation.details += _why_not(reached, rehearsal, line, batch, config)
    elif reached in _WITHOUT_STOPS:
        explanation.details += why_no_stops(reached, probe, config.keys)
    if counted in REPEATED and reached != Status.OK:
        explanation.details.append(f"and otherwise it would be {reached.label}: {REASONS[reached].meaning}")
    return explanation


def _words(config: RuntimeConfig, rehearsal: Rehearsal, batch: Batch, counted: Status, payload: bytes) -> Explanation:
    reason = REASONS[counted]
    (counted_as,) = (name for name, n in summarize({counted: 1}).items() if n)
    details = why_unread(counted, batch, 0, payload, config)
    if counted in REPEATED:
        newest_us = rehearsal.engine.fleet.record(int(batch.vehicle_ix[0])).time_us
        said = f"what was served last is of {iso_time(newest_us)}, this snapshot of {iso_time(int(batch.time_us[0]))}"
        details.append(said)
        details.append("what follows is what the loop would make of it otherwise")
    key = cut(batch.keys[0].decode(errors="replace"), 200)
    return Explanation(key, counted.label, counted_as, reason.meaning, details, reason.advice)


def _why_not(reached: Status, rehearsal: Rehearsal, line: Line, batch: Batch, config: RuntimeConfig) -> list[str]:
    if reached == Status.OFF_ROUTE:
        return why_off_route(line, batch, 0, config)
    if reached == Status.TRIP_FINISHED:
        last = line.stop(line.n_stops - 1)
        return [] if last is None else [f"the last stop, {last.stop_id} {last.name}".rstrip() + ", is not ahead of it"]
    if reached == Status.DIRECTION_UNKNOWN:
        other = Line(rehearsal, int(batch.other_pattern_ix[0]), config.keys)
        lat, lon = float(batch.lat[0]), float(batch.lon[0])
        far = [(each.key, each.distance_m(lat, lon)) for each in (line, other)]
        return [
            f"{length_text(distance_m)} from the line of {key}" for key, distance_m in far if distance_m is not None
        ]
    if reached == Status.NO_MODEL:
        routes = sorted(cut(route.decode(errors="replace"), 40) for route in rehearsal.engine.models.by_route)
        return [f"there are models of the routes {', '.join(routes[:MAX_SIMILAR])} only"] if routes else []
    return []


def _zone(models: Models, batch: Batch) -> str:
    own = models.by_route.get(batch.text_at("route_id", 0).encode()) or models.default
    return own.calendar_args[0] if own else "UTC"


def _earlier(rehearsal: Rehearsal, batch: Batch, counted: Status, config: RuntimeConfig) -> Earlier:
    time = iso_time(int(batch.time_us[0])) if batch.time_us[0] else None
    if batch.status[0] not in (Status.OK, Status.TRIP_FINISHED) or counted in _NOT_A_SNAPSHOT:
        return Earlier(time, counted.label, None, None)
    stop = Line(rehearsal, int(batch.pattern_ix[0]), config.keys).stop(int(batch.first_stop[0]))
    return Earlier(time, counted.label, round(float(batch.progress_m[0]), 1), stop.stop_id if stop else None)


def _absent(config: RuntimeConfig, store: RedisStore, key: bytes) -> Explanation:
    """A key without a string."""
    (kind,) = store.kinds([key])
    status = Status.EXPIRED if kind == "none" else Status.WRONG_TYPE
    details = [f"it is a {kind}"] if status == Status.WRONG_TYPE else []
    if status == Status.EXPIRED:
        keys = store.scan_vehicle_keys()
        prefix = config.keys.vehicle_pattern.partition("*")[0]
        if similar := _similar(key.decode(errors="replace").removeprefix(prefix), keys, prefix):
            details.append(f"similar keys: {', '.join(similar)}")
        details.append(f"keys that match {config.keys.vehicle_pattern}: {len(keys)}")
    reason = REASONS[status]
    return Explanation(
        cut(key.decode(errors="replace"), 200), status.label, "rejected", reason.meaning, details, reason.advice
    )


def _other_key(
    config: RuntimeConfig,
    store: RedisStore,
    rehearsal: Rehearsal,
    explanation: Explanation,
    snapshot: tuple[bytes, bytes],
) -> list[str]:
    """What is to be said where a key is not that of the vehicle id in it; it may turn out to be a duplicate."""
    key, payload = snapshot
    vehicle_id, _ = _peek(payload)
    own_key = vehicle_key(config, vehicle_id)
    if not vehicle_id or own_key == key:
        return []
    said = [f"it is the snapshot of vehicle {cut(vehicle_id)}, whatever its key says"]
    (other,) = store.fetch([own_key])
    if other is None:
        return said
    both = Rehearsal(rehearsal.engine.models, config, rehearsal.fetch, rehearsal.now_us)
    _, (counted, _) = both.run([key, own_key], [payload, other])
    if counted != Status.DUPLICATE:
        return [*said, f"{cut(own_key.decode(), 200)} holds another one"]
    explanation.status, explanation.counted_as = counted.label, "rejected"
    explanation.meaning, explanation.advice = REASONS[counted].meaning, REASONS[counted].advice
    explanation.details = [f"{cut(own_key.decode(), 200)} holds a newer one", *explanation.details]
    return said


def _similar(name: str, keys: Sequence[bytes], prefix: str) -> list[str]:
    """Keys whose names are like `name`, shown with at most `MAX_SIMILAR`."""
    known = {key.decode(errors="replace")[len(prefix) :].casefold(): key for key in sorted(keys, reverse=True)}
    wanted = name.casefold()
    near = [other for other in known if wanted and (wanted in other or (len(other) > 1 and other in wanted))]
    near = near or get_close_matches(wanted, list(known)[:MAX_COMPARED], MAX_SIMILAR, 0.7)
    return [cut(known[other].decode(errors="replace"), 120) for other in sorted(near, key=len)[:MAX_SIMILAR]]


def _other_routes(config: RuntimeConfig, store: RedisStore, explanation: Explanation) -> list[str]:
    """Which routes there are in Redis, where that of a vehicle is not."""
    prefix = config.keys.route_stops
    keys = store.scan_keys(f"{prefix}*")
    if not keys:
        return [f"no key begins with {prefix}: no feed was seeded into this database"]
    fields = explanation.snapshot.fields if explanation.snapshot else []
    route_id = next((str(each.value) for each in fields if each.name == "route_id" and each.value), "")
    similar = _similar(route_id, keys, prefix) if route_id else []
    shown = f"similar: {', '.join(similar)}" if similar else f"such as {cut(min(keys).decode(errors='replace'))}"
    return [f"keys that begin with {prefix}: {len(keys)}, {shown}"]


def _peek(payload: bytes) -> tuple[str, int]:
    """Vehicle id and time of a snapshot, microseconds; empty and 0 where it does not say."""
    batch = Batch(1)
    batch.start(0)
    parse_snapshots(batch, [payload], max_future_us=0, max_age_us=0)
    return batch.text_at("vehicle_id", 0), int(batch.time_us[0])


def _played_at_us(payload: bytes, before_us: int, real_us: int) -> int:
    """One second after the snapshot's own time; never back, and never ahead of the real clock."""
    _, time_us = _peek(payload)
    return min(max(before_us, time_us + _US), real_us) if time_us else before_us or real_us


def _played_note(config: RuntimeConfig, batch: Batch, real_us: int) -> str:
    age_s = float(real_us - batch.time_us[0]) / _US
    said = f"read as if it were {age_text(float(batch.now_us - batch.time_us[0]) / _US)} after its time"
    if age_s > config.max_age_seconds > 0:
        said += f"; a loop that reads it now, {age_text(age_s)} after, rejects it: {Status.TOO_OLD.label}"
    return said
