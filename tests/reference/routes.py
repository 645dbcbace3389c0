"""Stops on a line, and which pattern a snapshot follows. Obvious, slow."""

from __future__ import annotations

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
    """Redis key of the stops that a snapshot follows, or None; `redis` is a dictionary of keys to values."""
    trip, route, direction = snapshot.get("trip_id"), snapshot["route_id"], snapshot.get("direction_id")
    if trip:
        pattern = redis.get(f"trip_pattern:{trip}")
        if pattern and f"pattern_stops:{pattern}" in redis:
            return f"pattern_stops:{pattern}"
    if direction is not None and f"route_stops:{route}:{direction}" in redis:
        return f"route_stops:{route}:{direction}"
    return f"route_stops:{route}" if f"route_stops:{route}" in redis else None
