"""Stops on a line, and which pattern a snapshot follows. Obvious, slow."""

from __future__ import annotations

import json

from tests.reference.geo import cumulative_m, project


def place_stops(points, stops):
    """Non-decreasing places of the stops on the line with the least sum of squared distances.

    For every stop and piece the best way there is kept: (cost, place, places of all stops so far).
    """
    s_m = cumulative_m(points)
    pieces = range(len(points) - 1)
    ways = []
    for j in pieces:
        s, distance = project(points, s_m, j, stops[0])
        ways.append((distance**2, s, [s]))
    for stop in stops[1:]:
        new = []
        for j in pieces:
            best = None
            for k in range(j + 1):
                cost, before, places = ways[k]
                s, distance = project(points, s_m, j, stop)
                if k == j and s < before:
                    s, distance = project(points, s_m, j, stop, low_m=before)
                if best is None or cost + distance**2 < best[0] - 1e-3:
                    best = (cost + distance**2, s, [*places, s])
            new.append(best)
        ways = new
    best = ways[0]
    for way in ways:
        if way[0] < best[0] - 1e-3:
            best = way
    return best[2]


def resolve(snapshot, redis):
    """What a snapshot follows: the names of its stops and of the other direction's, and whether they are a guess.

    Names are Redis keys, a direction's always ``direction_stops:``, even if its stops lie under the older key; None
    where there is nothing. `redis` is a dictionary of keys to values.
    """
    trip, route, direction = snapshot.get("trip_id"), snapshot["route_id"], snapshot.get("direction_id")
    named = f"trip_pattern:{trip}" if trip else None
    if not trip and snapshot.get("start_time"):
        named = f"run_pattern:{'-' if direction is None else direction}:{snapshot['start_time']}:{route}"
    pattern = redis.get(named)
    if pattern and f"pattern_stops:{pattern}" in redis:
        return f"pattern_stops:{pattern}", None, False
    whole = {f"route_stops:{route}": blob} if (blob := _of_route(route, redis)) else {}
    if direction is not None:
        found = _of_direction(route, direction, redis) or whole
    else:
        both = {
            name: blob
            for each in (0, 1)
            for name, blob in _of_direction(route, each, redis).items()
            if name in redis or "route_id" in _says(blob)
        }
        found = both if len(both) == 2 else whole or both
    n_patterns = max([_says(blob).get("patterns", 0) for blob in found.values()], default=0)
    return *[*found, None, None][:2], n_patterns > (0 if trip else 1)


def _of_route(route, redis):
    blob = redis.get(f"route_stops:{route}")
    if blob and f"{_says(blob).get('route_id')}:{_says(blob).get('direction_id')}" == route:
        return None
    return blob


def _of_direction(route, direction, redis):
    name = f"direction_stops:{direction}:{route}"
    if name in redis:
        return {name: redis[name]}
    blob = redis.get(f"route_stops:{route}:{direction}")
    return {name: blob} if blob and _says(blob).get("route_id", route) == route else {}


def _says(blob):
    document = json.loads(blob)
    return document if isinstance(document, dict) else {}
