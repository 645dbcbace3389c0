"""Which pattern a row follows: the kernel against its slow twin."""

from __future__ import annotations

import random

import orjson
import pytest

from etacore.pipeline.routes import RouteTable
from etacore.status import Status
from tests.reference import routes
from tests.reference.drive import EPOCH_US, columns_of, line_of_stops

ROUTES = ("1", "2", "1:0", "1:1", "1:0:1")
STARTS = (None, "07:05:00", "25:00:10")


def stops_of(rng, key):
    """Stops that say all, something or nothing of themselves."""
    stops = [{"stop_id": i, "lat": a, "lon": o, "stop_sequence": n} for i, a, o, n in line_of_stops(rng.choice((2, 3)))]
    kind, _, name = key.partition(":")
    parts = name.split(":")
    if rng.random() < 0.3:
        return orjson.dumps(stops)
    document = {"stops": stops}
    if rng.random() < 0.5:
        document["patterns"] = rng.choice((1, 2, 5))
    if kind == "direction_stops":
        document |= {"route_id": ":".join(parts[1:]), "direction_id": int(parts[0])}
    elif rng.random() < 0.5:
        document["route_id"] = name
    elif len(parts) > 1:
        document |= {"route_id": ":".join(parts[:-1]), "direction_id": int(parts[-1])}
    return orjson.dumps(document)


def a_redis(rng):
    """Keys to values, as several writers may have left them."""
    redis = {}
    for trip in "abcdef":
        if rng.random() < 0.6:
            redis[f"trip_pattern:{trip}"] = rng.choice("pqr")
    for route in ROUTES:
        for start in STARTS[1:]:
            for direction in "-01":
                if rng.random() < 0.2:
                    redis[f"run_pattern:{direction}:{start}:{route}"] = rng.choice("pqr")
    keys = ["pattern_stops:p", "pattern_stops:q"]
    keys += [f"route_stops:{route}" for route in (*ROUTES, "2:0", "2:1")]
    keys += [f"direction_stops:{direction}:{route}" for route in ROUTES for direction in (0, 1)]
    for key in keys:
        if rng.random() < 0.6:
            redis[key] = stops_of(rng, key)
    return redis


def a_snapshot(rng):
    snapshot = {
        "route_id": rng.choice(ROUTES),
        "trip_id": rng.choice([None, *"abcdef"]),
        "direction_id": rng.choice([None, 0, 1]),
        "start_time": rng.choice(STARTS),
    }
    return {name: value for name, value in snapshot.items() if value is not None}


@pytest.mark.parametrize("seed", range(60))
def test_resolve(seed):
    rng = random.Random(seed)
    table = RouteTable(guessed_patterns=seed % 2 == 0, refresh_s=10)
    for now_us in (EPOCH_US, EPOCH_US + 600_000_000):  # the second time everything has changed
        redis = a_redis(rng)
        values = {key.encode(): value if isinstance(value, bytes) else value.encode() for key, value in redis.items()}
        snapshots = [a_snapshot(rng) for _ in range(60)]
        columns = columns_of(snapshots)
        n_rounds, needed = 0, table.due(now_us) + table.missing(columns)
        while needed:
            assert len(set(needed)) == len(needed) or now_us > EPOCH_US
            needed = table.update(needed, [values.get(key) for key in needed], now_us)
            n_rounds += 1
        if now_us == EPOCH_US:
            assert n_rounds <= 2
            assert table.missing(columns) == []
        # What is in use again only now is due only after that.
        table.resolve_rest(columns)
        needed = table.due(now_us)
        while needed:
            needed = table.update(needed, [values.get(key) for key in needed], now_us)
        columns.status[:] = Status.OK
        table.resolve_rest(columns)
        for i, snapshot in enumerate(snapshots):
            key, other, is_guess = routes.resolve(snapshot, redis)
            status = Status.UNKNOWN_ROUTE if key is None else Status.OK
            if is_guess and seed % 2:
                status, key, other = Status.GUESSED_PATTERN, None, None
            assert columns.status[i] == status
            assert columns.is_guessed[i] == is_guess
            found = columns.pattern_ix[i], columns.other_pattern_ix[i]
            assert found == tuple(-1 if name is None else table.pattern_ix(name.encode()) for name in (key, other))
            assert (columns.run_key[i] == 0) == (not snapshot.get("trip_id") and not snapshot.get("start_time"))
