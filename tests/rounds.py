"""What a table of routes asks for a batch, and the rounds in which it is answered."""

from __future__ import annotations

from etacore.schema import NO_START_DATE, NO_START_TIME
from etacore.status import Status


def direction_keys(direction, route="R"):
    """Keys of a direction's stops and shape, and those that older versions wrote."""
    names = (f"direction_%s:{direction}:{route}", f"route_%s:{route}:{direction}")
    return [(name % what).encode() for name in names for what in ("stops", "shape")]


def route_keys(route="R"):
    """Everything that a row asks for that names no direction, in order."""
    whole = [f"route_{what}:{route}".encode() for what in ("stops", "shape")]
    return whole + direction_keys(0, route) + direction_keys(1, route)


def fetch_all(table, columns, redis, now_us=0):
    """The rounds of one batch; returns (pattern_ix, keys asked in each round)."""
    rounds, needed = [], table.due(now_us) + table.missing(columns)
    while needed:
        rounds.append(sorted(needed))
        needed = table.update(needed, [redis.get(key) for key in needed], now_us)
    before = columns.status.copy()
    expected_keys = columns.text_keys("trip_id")
    expected_keys[before != Status.OK] = 0
    n_names = table._names.n_trips + table._names.n_sources
    table.resolve_rest(columns)
    pattern_ix = columns.pattern_ix.copy()
    no_start = (columns.start_time_s == NO_START_TIME) & (columns.start_date == NO_START_DATE)
    assert columns.run_key[no_start].tolist() == expected_keys[no_start].tolist()
    if table._names.n_trips + table._names.n_sources == n_names:
        # Nothing is missing any more, and nothing was forgotten, so the quick way gives the same.
        resolved, run_key = columns.status.copy(), columns.run_key.copy()
        columns.status[:] = before
        columns.pattern_ix[:], columns.run_key[:] = -7, 7
        assert table.resolve_known(columns)
        assert columns.pattern_ix.tolist() == pattern_ix.tolist()
        assert columns.status.tolist() == resolved.tolist()
        assert columns.run_key.tolist() == run_key.tolist()
    return pattern_ix.tolist(), rounds
