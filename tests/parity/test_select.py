"""Buses that drive: the kernel and its twin choose the same next stop at each fix, and mostly the true one."""

import functools
import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from etacore._kernels.select import SelectOptions
from etacore.status import Status
from tests import driving
from tests.reference import select as twin
from tests.reference.drive import Vehicle, shape_blob, stops_blob, table_of

SEEDS = range(64)
ROADS = [(kind, has_shape) for kind in driving.KINDS for has_shape in (True, False)]
BRANCHES = {
    "a new run on the first leg after the last",
    "a new run by strikes when confirmed",
    "a new run by strikes when unconfirmed",
    "a new run by strikes without a trip",
    "a new run after a silence",
    "a new run after more than reset_after_s",
    "a lap",
    "a lap after its begin",
    "hint followed",
    "hint unknown",
    "hint contradicted by distance",
    "hint contradicted by what was driven",
    "first stop not reached",
    "first stop not reached, beside the line",
    "first stop not reached, far from the line",
}


def agree(pattern, vehicle, fix, options, previous, has_trip):
    """What kernel and twin make of a fix, the same in all: (stop or Status, run to go on from, branches)."""
    got = vehicle.fix(**fix)
    wanted = [twin.select(pattern, fix, options, run, has_trip) for run in on_either_side(pattern, previous)]
    progress_m = pytest.approx(vehicle.progress_m, abs=1e-4)
    chosen = next(
        (each for each in wanted if (each.hint, each.run.progress_m) == (vehicle.hint, progress_m)), wanted[0]
    )
    assert vehicle.hint == chosen.hint
    if chosen.stop == twin.OFF_ROUTE:
        assert got == Status.OFF_ROUTE
        return got, previous, chosen.run.met
    assert chosen.run.progress_m == progress_m
    assert vehicle.strikes == chosen.run.packed
    fallback_m = math.nan if chosen.run.fallback_m is None else chosen.run.fallback_m
    assert vehicle.fallback_m == pytest.approx(fallback_m, abs=0.01, nan_ok=True)
    if min(abs(s_m - chosen.run.progress_m) for s_m in pattern.stop_s_m) > 1e-4:
        assert got == (Status.TRIP_FINISHED if chosen.stop == twin.FINISHED else chosen.stop)
    return got, chosen.run, chosen.run.met


def on_either_side(pattern, run):
    """A run; exactly at a stop, where the last bit of a double decides, also a micrometre before and beyond."""
    if run is None or min(abs(s_m - run.progress_m) for s_m in pattern.stop_s_m) > 1e-4:
        return [run]
    return [run, *(replace(run, progress_m=run.progress_m + aside_m) for aside_m in (-1e-6, 1e-6))]


@functools.cache
def driven(seed, kind, has_shape):
    """Branches that a drive met."""
    rng = random.Random(f"{seed} {kind} {has_shape}")
    road, met = driving.random_road(rng, kind, has_shape), Counter()
    options, drive, has_trip = SelectOptions(), driving.random_drive(rng), rng.random() < 0.8
    pattern, previous = road.pattern(), None
    vehicle = Vehicle(table_of(road.stops(), road.shape()), options, has_trip)
    for fix, _ in driving.reports(rng, drive, driving.random_runs(rng, road, drive.has_detour)):
        _, previous, branches = agree(pattern, vehicle, fix, options, previous, has_trip)
        met.update(branches)
    return met


@pytest.mark.parametrize(("kind", "has_shape"), ROADS)
@pytest.mark.parametrize("seed", SEEDS)
def test_kernel_and_twin_agree_all_the_way(seed, kind, has_shape):
    driven(seed, kind, has_shape)


def test_the_drives_met_every_branch():
    met = sum((driven(seed, *road) for seed in SEEDS for road in ROADS), Counter())
    assert {branch for branch, n in met.items() if n >= 5} == BRANCHES


# Without a bearing a bus on a line that comes back the way it went may have turned between two fixes or not, and a
# wrong one throws it on the way back.
TRUE_SHARE = {("out and back", "missing"): 0.94, ("out and back", "wrong"): 0.92}


@pytest.mark.parametrize("has_shape", [True, False])
@pytest.mark.parametrize("bearings", driving.BEARINGS)
@pytest.mark.parametrize("kind", ["line", "circle", "out and back"])
def test_the_next_stop_is_the_true_one(kind, bearings, has_shape):
    n = n_right = 0
    for seed in range(40):
        rng = random.Random(f"truth {seed} {kind} {has_shape}")
        road = driving.random_road(rng, kind, has_shape)
        vehicle = Vehicle(table_of(road.stops(), road.shape()), has_trip=rng.random() < 0.8)
        drive = driving.Drive(rng.choice([3.0, 8.0, 15.0]), rng.uniform(5, 90), bearings, "none", rng.random() < 0.2)
        for fix, moment in driving.reports(rng, drive, driving.random_runs(rng, road, drive.has_detour)):
            got = vehicle.fix(**fix)
            if (stop := driving.true_next_stop(moment)) is not None:
                n += 1
                n_right += got == stop
    assert n > 500
    assert n_right / n >= TRUE_SHARE.get((kind, bearings), 0.97), f"{n_right} of {n}"


OTHER_KEY = b"direction_stops:1:R"


def two_ways(rng):
    """Two directions of a line, and a vehicle that may be on either."""
    there = driving.random_road(rng, "line", rng.random() < 0.5)
    roads = [there, there.back(rng.choice([0.0, 50.0, 100.0, 200.0]))]
    table = table_of(there.stops(), there.shape())
    shape = roads[1].shape()
    table.set_pattern(OTHER_KEY, stops_blob(roads[1].stops()), shape_blob(shape) if shape else None)
    vehicle = Vehicle(table, has_trip=rng.random() < 0.3, other_key=OTHER_KEY)
    return roads, vehicle, {vehicle.pattern_ix: 0, vehicle.other_pattern_ix: 1}


@functools.cache
def driven_either_way(seed):
    """How the direction was found at each fix of a drive, and how often it was found, and found rightly."""
    rng = random.Random(f"direction {seed}")
    roads, vehicle, number_of = two_ways(rng)
    patterns, options, has_trip = [road.pattern() for road in roads], vehicle.options, vehicle.has_trip
    drive = driving.Drive(rng.choice([3.0, 8.0, 15.0, 40.0]), rng.uniform(5, 90), rng.choice(driving.BEARINGS))
    if rng.random() < 0.2:
        drive.hints = rng.choice(["wrong", "right sequence"])
    this, previous, is_chosen, met = 0, None, False, Counter()
    for fix, moment in driving.reports(rng, drive, driving.random_runs_there_and_back(rng, roads)):
        remembered = previous and (previous.progress_m, previous.time_us, is_chosen)
        wanted, how = twin.direction(patterns[this], patterns[1 - this], fix, options, remembered)
        if wanted is None:
            assert vehicle.fix(**fix) == Status.DIRECTION_UNKNOWN
            at_m, _ = patterns[this].nearest(fix, 0.0, math.inf, options, penalty=False)
            assert vehicle.progress_m == pytest.approx(at_m, abs=1e-4)
            previous, is_chosen = twin.Run(at_m, fix["time_us"], begins=False), False
            met["nothing"] += 1
            continue
        number = patterns.index(wanted)
        got, run, _ = agree(wanted, vehicle, fix, options, previous if number == this else None, has_trip)
        if got == Status.OFF_ROUTE:
            met["off route"] += 1
            continue
        assert number_of[vehicle.pattern_ix] == number
        assert vehicle.other_pattern_ix != vehicle.pattern_ix
        met["the same" if number == this else "another", "by", how, "chosen" if is_chosen else "in doubt"] += 1
        this, previous, is_chosen = number, run, True
        if driving.true_next_stop(moment) is not None:
            met["right" if roads[number] is moment.road else "wrong"] += 1
    return met, drive


@pytest.mark.parametrize("seed", range(120))
def test_kernel_and_twin_agree_on_the_direction(seed):
    driven_either_way(seed)


def test_the_drives_met_every_way_to_find_a_direction_and_found_the_right_one():
    drives = [driven_either_way(seed) for seed in range(120)]
    met = sum((met for met, _ in drives), Counter())
    for way in (
        *((which, "by", "movement", when) for which in ("the same", "another") for when in ("chosen", "in doubt")),
        *((which, "by", "bearing", "in doubt") for which in ("the same", "another")),
        "nothing",
    ):
        assert met[way] >= 5, way
    assert sum(n for way, n in met.items() if "distance" in way) >= 5
    fair = sum((met for met, drive in drives if drive.noise_m <= 15 and drive.hints == "none"), Counter())
    assert fair["right"] / (fair["right"] + fair["wrong"]) >= 0.98
