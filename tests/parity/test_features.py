import math
import random
from datetime import date

import numpy as np
import pytest

from etacore._kernels import features as _features
from etacore._kernels import resolve as _resolve
from etacore._kernels import routes as _routes
from etacore._kernels import select as _select
from etacore._kernels.select import SelectOptions
from etacore.pipeline.calendar import Calendar
from etacore.pipeline.route_blobs import ShapePolyline
from etacore.pipeline.route_knowledge import LegTable
from etacore.schema import WEATHER_FEATURES
from etacore.status import Status
from tests.reference import features as twin
from tests.reference import geo, motion, routes
from tests.reference import select as select_twin
from tests.reference.drive import EPOCH_US, KEY, Vehicle, table_of

SEEDS = range(40)
HOLIDAYS = (date(2016, 11, 24), date(2016, 12, 26))


def test_compiled_modules_are_loaded():
    for module in (_features, _resolve, _routes, _select):
        assert module.__file__.endswith((".so", ".pyd"))


def random_line(rng, n):
    """Points of a wandering line, sometimes turning back on itself or closing a loop."""
    lat, lon = rng.choice([(45.0, 7.0), (-33.1, 179.999), (64.2, -149.0)])
    points = [(lat, lon)]
    while len(points) < n:
        if len(points) > 2 and rng.random() < 0.15:
            points.append(points[rng.randrange(len(points))])
        else:
            lat, lon = points[-1]
            lat, lon = lat + rng.gauss(0, 0.004), lon + rng.gauss(0, 0.005)
            points.append((lat, geo.short_way(lon)))
    return points


def random_pattern(rng):
    """(twin pattern, table), with or without a shape."""
    points = random_line(rng, rng.randint(4, 14))
    if rng.random() < 0.5:
        chosen = sorted(rng.sample(range(len(points)), rng.randint(2, len(points))))
        places = [(points[i][0] + rng.gauss(0, 1e-4), points[i][1] + rng.gauss(0, 1e-4)) for i in chosen]
        places = [(lat, geo.short_way(lon)) for lat, lon in places]
        shape = [p for i, p in enumerate(points) if i == 0 or p != points[i - 1]]
    else:
        places, shape = points, None
    stops = [(rng.choice("ABCDEFGH"), lat, lon, 3 * i) for i, (lat, lon) in enumerate(places)]
    s_m = routes.place_stops(shape, places) if shape else None
    return select_twin.Pattern(stops, shape, s_m), table_of(stops, shape)


class Legs:
    """Typical times by the number of the stop in its pattern, some unknown."""

    def __init__(self, rng):
        numbers = np.random.default_rng(rng.randrange(2**32))
        self.seconds = numbers.gamma(4.0, 30.0, (24, 20)).astype(np.float32)
        self.seconds[:, 0] = 0.0
        self.seconds[numbers.random(self.seconds.shape) < 0.02] = np.nan

    def legs(self, route_id, stop_ids):
        assert route_id == "R"
        return self.seconds[:, : len(stop_ids)]

    def leg_m(self, route_id, stop_id):
        return 1.0


def learned(legs, table):
    """What the kernel reads of them, for the only pattern of the table."""
    known = LegTable(legs, table.patterns)
    pattern_ix = np.array([table.pattern_ix(KEY)], np.int32)
    for row in known.unseen(pattern_ix):
        known.learn(int(pattern_ix[row]), "R")
    return known


def random_fix(rng, pattern, time_us):
    i = rng.randrange(len(pattern.points) - 1)
    (lat_1, lon_1), (lat_2, lon_2), t = pattern.points[i], pattern.points[i + 1], rng.random()
    spread = rng.choice([1e-5, 1e-4, 2e-3, 0.05])
    fix = {
        "lat": lat_1 + t * (lat_2 - lat_1) + rng.gauss(0, spread),
        "lon": geo.short_way(lon_1 + t * geo.short_way(lon_2 - lon_1) + rng.gauss(0, spread)),
        "time_us": time_us,
        "speed": rng.choice([0.0, 7.25]),
    }
    if rng.random() < 0.4:
        fix["bearing"] = float(rng.randrange(360))
    if rng.random() < 0.15:
        fix["stop_id"] = rng.choice("ABCDEFGHX")
    if rng.random() < 0.15:
        fix["current_stop_sequence"] = rng.randrange(-2, 40)
    if rng.random() < 0.3:
        fix["current_status"] = rng.choice(["STOPPED_AT", "INCOMING_AT", "IN_TRANSIT_TO"])
    return fix


@pytest.mark.parametrize("seed", SEEDS)
def test_haversine(seed):
    rng = random.Random(seed)
    for spread in (1e-6, 1e-3, 1.0, 90.0):
        a = (rng.uniform(-80, 80), rng.uniform(-180, 180))
        b = (
            max(-90, min(90, a[0] + rng.gauss(0, spread))),
            geo.short_way(a[1] + max(-179, min(179, rng.gauss(0, spread)))),
        )
        stops = [("A", *a, 1), ("B", *b, 2)]
        table = table_of(stops)
        leg_m = table.patterns.describe(table.pattern_ix(KEY))["leg_m"][0]
        assert leg_m == pytest.approx(geo.haversine_m(*a, *b), rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_stops_on_a_shape(seed):
    rng = random.Random(seed)
    points = random_line(rng, rng.randint(2, 12))
    stops = [points[i] for i in sorted(rng.choices(range(len(points)), k=rng.randint(1, 6)))]
    stops = [(lat + rng.gauss(0, 2e-4), geo.short_way(lon + rng.gauss(0, 2e-4))) for lat, lon in stops]
    shape = [p for i, p in enumerate(points) if i == 0 or p != points[i - 1]]
    lat, lon = np.array(stops).T.copy()
    s_m, worst_m = ShapePolyline(points).line.place_stops(np.ascontiguousarray(lat), np.ascontiguousarray(lon))
    assert s_m.tolist() == pytest.approx(routes.place_stops(shape, stops), abs=1e-5)
    assert (np.diff(s_m) >= 0).all()
    assert worst_m < 5_000


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("has_trip", [True, False])
def test_select_and_vectorize(seed, has_trip):
    rng = random.Random(f"{seed}{has_trip}")
    options = SelectOptions(max_off_route_m=3000.0)
    calendar = Calendar("America/Toronto", HOLIDAYS)
    compared = 0
    for _ in range(5):
        pattern, table = random_pattern(rng)
        vehicle, previous, time_us = Vehicle(table, options, has_trip), None, EPOCH_US
        before, typical = None, Legs(rng)
        legs = learned(typical, table)
        for _ in range(12):
            time_us += rng.choice([1, 20, 60, 5000]) * 1_000_000 + rng.randrange(10**6)
            fix = random_fix(rng, pattern, time_us)
            got = vehicle.fix(**fix)
            chosen = select_twin.select(pattern, fix, options, previous, has_trip)
            assert vehicle.hint == chosen.hint
            if chosen.stop == select_twin.OFF_ROUTE:
                assert got == Status.OFF_ROUTE
                continue
            stop, progress_m = chosen.stop, chosen.run.progress_m
            assert vehicle.progress_m == pytest.approx(progress_m, abs=1e-4)
            assert vehicle.strikes == chosen.run.packed
            fallback_m = math.nan if chosen.run.fallback_m is None else chosen.run.fallback_m
            assert vehicle.fallback_m == pytest.approx(fallback_m, abs=0.01, nan_ok=True)
            # Exactly at a stop the last bit of a double decides.
            if min(abs(s - progress_m) for s in pattern.stop_s_m) > 1e-4:
                assert got == (Status.TRIP_FINISHED if stop == select_twin.FINISHED else stop)
            previous = chosen.run
            if chosen.run.begins:
                before = None
            next_stop = int(vehicle.batch.first_stop[0])
            speed_mps, since_us, since_s = motion.measure(before, vehicle.progress_m, time_us, next_stop)
            moved = vehicle.batch
            assert float(moved.recent_speed_mps[0]) == pytest.approx(speed_mps, rel=1e-6, abs=1e-6, nan_ok=True)
            assert int(moved.since_us[0]) == since_us
            assert float(moved.since_s[0]) == pytest.approx(since_s, rel=1e-12, nan_ok=True)
            before = motion.Remembered(
                vehicle.progress_m, time_us, next_stop, since_us, float(moved.recent_speed_mps[0])
            )
            if isinstance(got, Status):
                continue
            for along in (False, True):
                rows, distance_m, stop_ix = vehicle.rows(calendar, 4, along, legs=legs, route_code=rng.choice([-1, 7]))
                expected = twin.rows(
                    pattern, fix, got, vehicle.progress_m, 4, "America/Toronto", along, HOLIDAYS, typical.seconds
                )
                assert stop_ix == list(range(got, got + len(expected)))
                assert distance_m == pytest.approx([e["distance_to_stop"] for e in expected], abs=1e-4)
                for row, wanted in zip(rows, expected, strict=True):
                    found = {name: row[name] for name in wanted}
                    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-4, nan_ok=True)
                    measured = {"recent_speed_mps": speed_mps, "since_last_stop_s": since_s}
                    # A feature that the twin does not know is compared with nothing.
                    assert row.keys() == {*wanted, *measured, *WEATHER_FEATURES, "route_code"}
                    found = {name: row[name] for name in measured}
                    assert found == pytest.approx(measured, rel=1e-6, abs=1e-6, nan_ok=True)
                    assert math.isnan(row["route_code"]) or row["route_code"] == 7.0
                    assert math.isnan(row["temperature_c"])
                    compared += 1
    assert compared > 20
