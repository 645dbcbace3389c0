"""Which stop comes next, for one vehicle at a time. Obvious, slow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from etacore.status import StopHint
from tests.reference.geo import cumulative_m, flat, haversine_m, nearest_pass

CONFIRM_M, CONFIRMED, MOST = 10.0, 3, 15
ENDS_MEET_M, LAST_PART = 150.0, 0.9
DIRECTION_M, MORE_ALONG = 25.0, 0.5
FINISHED, OFF_ROUTE = "finished", "off_route"


class Pattern:
    """Stops as (id, lat, lon, sequence), and the points of the line (the stops themselves without a shape)."""

    def __init__(self, stops, points=None, stop_s_m=None):
        self.stops = stops
        self.points = points or [(lat, lon) for _, lat, lon, _ in stops]
        self.line_s_m = cumulative_m(self.points)
        self.stop_s_m = stop_s_m or self.line_s_m

    def nearest(self, vehicle, low_m, high_m, options, penalty=True):
        return nearest_pass(
            self.points,
            self.line_s_m,
            (vehicle["lat"], vehicle["lon"]),
            vehicle.get("bearing"),
            low_m,
            high_m,
            options.near_equal_m,
            options.heading_penalty_m if penalty else 0.0,
        )

    def bracket(self, next_stop):
        low_m = self.stop_s_m[next_stop - 1] if next_stop > 0 else 0.0
        high_m = self.stop_s_m[next_stop] if next_stop < len(self.stops) else self.line_s_m[-1]
        return low_m, high_m

    def starts_over(self, s_m, run, elapsed_s, options):
        """Why a vehicle seen at an earlier place is on its next run, "" if it is not."""
        if elapsed_s > options.silence_s:
            return "a new run after a silence"
        if run.progress_m < max(self.stop_s_m[-2], LAST_PART * self.stop_s_m[-1]):
            return ""
        if s_m <= self.stop_s_m[1]:
            return "a new run on the first leg after the last"
        beyond_m = self.line_s_m[-1] + s_m
        return "a lap after its begin" if self.ends_meet() and beyond_m <= _reach_m(run, elapsed_s, options) else ""

    def to_stop_m(self, vehicle, i):
        return haversine_m(vehicle["lat"], vehicle["lon"], *self.stops[i][1:3])

    def ends_meet(self):
        return haversine_m(*self.stops[0][1:3], *self.stops[-1][1:3]) <= ENDS_MEET_M


@dataclass
class Run:
    """What is remembered of a vehicle on its run; `met` are the branches that its last fix took."""

    progress_m: float | None = None
    time_us: int = 0
    strikes: int = 0
    confirmations: int = 0
    fallback_m: float | None = None
    stop: int | None = None
    begins: bool = field(default=True, compare=False)
    met: set[str] = field(default_factory=set, compare=False)

    @property
    def packed(self):
        return 16 * self.confirmations + self.strikes


@dataclass
class Chosen:
    stop: int | str
    run: Run
    hint: StopHint


def select(pattern, vehicle, options, previous=None, has_trip=True):
    """Next stop of a vehicle, and what is remembered then; `previous` is the run after the last fix, or None."""
    run = Run(time_us=vehicle["time_us"])
    elapsed_s, left_first_stop = 0.0, False
    if previous is not None:
        elapsed_s = (vehicle["time_us"] - previous.time_us) / 1e6
        if elapsed_s <= options.reset_after_s:
            run = Run(
                previous.progress_m,
                vehicle["time_us"],
                previous.strikes,
                previous.confirmations,
                previous.fallback_m,
                begins=False,
            )
            left_first_stop = previous.stop is not None and previous.stop > 0
        else:
            run.met.add("a new run after more than reset_after_s")
    stop, place, hint = _by_words(pattern, vehicle, options, run, elapsed_s)
    if stop is not None:
        run.strikes, run.fallback_m = 0, None
        _confirm(run, run.progress_m, place, options)
        off_route = place[1] > options.max_off_route_m
    else:
        stop, place, off_route = _by_place(pattern, vehicle, options, run, elapsed_s, has_trip)
    if off_route:
        return Chosen(OFF_ROUTE, run, hint)
    if (
        stop > 0
        and not (left_first_stop and not run.begins)
        and (why := _before_begin(pattern, vehicle, stop, place, hint, options, has_trip))
    ):
        begin_m = pattern.stop_s_m[0] if run.progress_m is None else run.progress_m
        place = min(place[0], begin_m), place[1]
        run.confirmations = min(run.confirmations, 0 if previous is None else previous.confirmations)
        stop = 0
        run.met.add(why)
    run.progress_m, run.stop = place[0], stop
    return Chosen(stop if stop < len(pattern.stops) else FINISHED, run, hint)


def _before_begin(pattern, vehicle, stop, place, hint, options, has_trip):
    """Why a vehicle that did not leave the first stop yet is on its way there, "" if it is not."""
    beyond_m, beside_m = place[0] - pattern.stop_s_m[0], place[1]
    if beyond_m <= CONFIRM_M:
        is_before = pattern.to_stop_m(vehicle, 0) > options.reached_m
        return "first stop not reached" if is_before else ""
    if hint == StopHint.FOLLOWED or beside_m <= options.reached_m:
        return ""
    if stop == 1 and beside_m > beyond_m:
        return "first stop not reached, beside the line"
    low_m, high_m = pattern.bracket(stop)
    is_rough = len(pattern.points) <= len(pattern.stops)
    far_m = max(options.fit_m, 0.5 * (high_m - low_m)) if is_rough else options.fit_m
    is_far = has_trip and stop < len(pattern.stops) and beside_m > far_m
    return "first stop not reached, far from the line" if is_far else ""


def _begin(run, why):
    run.met.add(why)
    run.progress_m = run.fallback_m = None
    run.strikes = run.confirmations = 0
    run.begins = True


def _reach_m(run, elapsed_s, options):
    return run.progress_m + max(elapsed_s, 0.0) * options.max_speed_mps + options.slack_m


def _by_words(pattern, vehicle, options, run, elapsed_s):
    """(next stop or None, place, hint) by the vehicle's own words, as far as its position bears them out."""
    stands = vehicle.get("current_status") in ("STOPPED_AT", 1)
    sequence, stop_id = vehicle.get("current_stop_sequence"), vehicle.get("stop_id")
    named = []
    if sequence is not None:
        sequences = [stop[3] for stop in pattern.stops]
        named.append(lambda: sequences.index(sequence) if sequence in sequences else None)
    if stop_id:
        named.append(lambda: _visit(pattern, vehicle, stop_id, run.progress_m, stands, options))
    hint = StopHint.NONE
    for find in named:
        stop = find()
        if stop is None:
            hint = max(hint, StopHint.UNKNOWN)
            run.met.add("hint unknown")
            continue
        is_there = stands and pattern.to_stop_m(vehicle, stop) <= options.at_stop_m
        place = _borne_out(pattern, vehicle, stop + is_there, is_there, options, run, elapsed_s)
        if place is not None:
            run.met.add("hint followed")
            return stop + is_there, place, StopHint.FOLLOWED
        hint = StopHint.CONTRADICTED
    return None, None, hint


def _visit(pattern, vehicle, stop_id, progress_m, stands, options):
    visits = [i for i, stop in enumerate(pattern.stops) if stop[0] == stop_id]
    if len(visits) < 2:
        return visits[0] if visits else None
    if progress_m is not None:
        least_m = progress_m - (options.tolerance_m if stands else 0.0)
        ahead = [i for i in visits if pattern.stop_s_m[i] >= least_m]
        if ahead:
            return ahead[0]
    best, best_m = None, math.inf
    for i in visits:
        distance = pattern.nearest(vehicle, *pattern.bracket(i + stands), options)[1]
        if distance + options.near_equal_m < best_m:
            best, best_m = i, distance
    return best


def _borne_out(pattern, vehicle, stop, is_there, options, run, elapsed_s):
    """The place between the stop before and this one, or None if the vehicle's position contradicts it."""
    low_m, high_m = pattern.bracket(stop)
    if run.progress_m is not None and low_m - 1e-3 <= run.progress_m <= high_m + 1e-3:
        low_m = min(run.progress_m, high_m)
    place = pattern.nearest(vehicle, low_m, high_m, options)
    if not is_there and place[1] > options.hint_slack_m:
        free_m = pattern.nearest(vehicle, 0.0, math.inf, options, penalty=False)[1]
        if place[1] > free_m + max(options.hint_slack_m, 0.5 * free_m):
            run.met.add("hint contradicted by distance")
            return None
    if run.progress_m is None:
        return place
    if place[0] < run.progress_m - options.tolerance_m:
        if why := pattern.starts_over(place[0], run, elapsed_s, options):
            _begin(run, why)
            return place
        if run.confirmations < CONFIRMED:
            return place
    elif place[0] <= _reach_m(run, elapsed_s, options) or run.confirmations < CONFIRMED:
        return place
    reach = run.progress_m - options.tolerance_m, _reach_m(run, elapsed_s, options)
    other = pattern.nearest(vehicle, *reach, options, penalty=False)
    fits_as_well = other[1] <= options.fit_m and other[1] <= place[1] + options.near_equal_m
    if fits_as_well:
        run.met.add("hint contradicted by what was driven")
        return None
    return place


def _confirm(run, before_m, place, options):
    """One confirmation more if the vehicle is on the line and has come forward."""
    if before_m is not None and place[1] <= options.fit_m and place[0] >= before_m + CONFIRM_M:
        run.confirmations = min(run.confirmations + 1, MOST)


def _by_place(pattern, vehicle, options, run, elapsed_s, has_trip):
    """(next stop, place, off route) by projection."""
    before_m, place, is_struck = run.progress_m, None, False
    if before_m is not None:
        low_m = before_m - options.tolerance_m
        place = pattern.nearest(vehicle, low_m, _reach_m(run, elapsed_s, options), options)
        if place[1] > options.fit_m:
            ahead = pattern.nearest(vehicle, low_m, math.inf, options)
            if ahead[1] <= options.fit_m or place[1] > options.max_off_route_m:
                place = ahead
        if place[1] > options.fit_m and low_m > 0:
            behind = pattern.nearest(vehicle, 0.0, low_m, options)
            if behind[1] <= options.restart_fit_m:
                is_struck, place = True, (before_m, 0.0)
                _strike(pattern, behind[0], options, run, elapsed_s, has_trip)
                before_m = run.progress_m
    if not is_struck:
        run.strikes, run.fallback_m = 0, None
    if before_m is None:
        place = pattern.nearest(vehicle, 0.0, math.inf, options)
    _confirm(run, before_m, place, options)
    if place[1] > options.max_off_route_m:
        return None, place, True
    if before_m is not None:
        place = (max(place[0], before_m), place[1])
    stop = _stop_after(pattern, place[0])
    if stop == len(pattern.stops) and before_m is not None and pattern.ends_meet():
        _begin(run, "a lap")
        lap = pattern.nearest(vehicle, 0.0, pattern.stop_s_m[1], options)
        if lap[1] <= options.max_off_route_m:
            return _stop_after(pattern, lap[0]), lap, False
    return stop, place, False


def _strike(pattern, behind_m, options, run, elapsed_s, has_trip):
    is_confirmed = has_trip and run.confirmations >= CONFIRMED
    if not is_confirmed or run.fallback_m is None or behind_m >= run.fallback_m + CONFIRM_M:
        run.strikes = min(run.strikes + 1, MOST)
    elif behind_m < run.fallback_m - options.tolerance_m:
        run.strikes = 1
    run.fallback_m = behind_m
    limit, why = options.restart_strikes, "a new run by strikes without a trip"
    if is_confirmed:
        limit, why = options.run_strikes, "a new run by strikes when confirmed"
    elif has_trip:
        limit, why = options.trip_strikes, "a new run by strikes when unconfirmed"
    if starts_over := pattern.starts_over(behind_m, run, elapsed_s, options):
        limit, why = 1, starts_over
    if 0 < limit <= run.strikes:
        _begin(run, why)


def _stop_after(pattern, s_m):
    ahead = [i for i, stop_s_m in enumerate(pattern.stop_s_m) if stop_s_m > s_m]
    return ahead[0] if ahead else len(pattern.stops)


def direction(this, other, vehicle, options, previous=None):
    """Which of two patterns a vehicle without a direction follows, and by what: `this`, `other` or None.

    `previous` is (progress on `this`, time, whether it had been chosen) at the last fix, or None.
    """
    elapsed_s = 0.0 if previous is None else (vehicle["time_us"] - previous[1]) / 1e6
    if previous is not None and elapsed_s <= options.reset_after_s:
        before_m, _, is_chosen = previous
        window_m = max(elapsed_s, 0.0) * options.max_speed_mps + options.slack_m
        place = this.nearest(vehicle, before_m - window_m, before_m + window_m, options, penalty=False)
        if place[1] <= options.fit_m:
            moved_m = place[0] - before_m
            if moved_m >= DIRECTION_M or (is_chosen and moved_m > -options.tolerance_m):
                return this, "movement"
            if moved_m <= -options.tolerance_m or (not is_chosen and moved_m <= -DIRECTION_M):
                return other, "movement"
    places = [pattern.nearest(vehicle, 0.0, math.inf, options, penalty=False) for pattern in (this, other)]
    if min(place[1] for place in places) > options.max_off_route_m:
        return this, "nothing: off both"
    nearer_m = places[1][1] - places[0][1]
    if abs(nearer_m) > options.heading_penalty_m:
        return this if nearer_m > 0 else other, "distance"
    along = [_along(pattern, vehicle, place[0]) for pattern, place in zip((this, other), places, strict=True)]
    if abs(along[0] - along[1]) >= MORE_ALONG:
        return this if along[0] > along[1] else other, "bearing"
    return None, "nothing"


def _along(pattern, vehicle, s_m):
    """Cosine of the angle between the line and the vehicle's bearing."""
    bearing = vehicle.get("bearing")
    if bearing is None:
        return 0.0
    last = len(pattern.points) - 2
    i = max(i for i in range(last + 1) if pattern.line_s_m[i] <= s_m or i == 0)
    a, b = pattern.points[i], pattern.points[i + 1]
    east, north = flat(a, b, math.cos(math.radians((a[0] + b[0]) / 2)))
    length = math.hypot(east, north)
    return (
        (east * math.sin(math.radians(bearing)) + north * math.cos(math.radians(bearing))) / length if length else 0.0
    )
