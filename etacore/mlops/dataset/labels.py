"""When vehicles were at the stops, ready to be joined to feature rows.

Each run has a place for every stop of its trip's pattern, so that the label of a
row is found by arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from etacore.mlops.transit.arrivals import NO_ARRIVAL, Rule, observe_arrivals, with_interpolated
from etacore.mlops.transit.given_arrivals import GIVEN, arrivals_of_runs, read_arrivals
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.positions import Positions
from etacore.mlops.transit.tracks import Tracks

INTERPOLATED: Final = "interpolated"
"""The rule of a stop that the vehicle passed, though no fix was near enough for the others."""
MAX_GAP_S: Final = 7200.0
"""Fixes farther apart than the longest time that is predicted do not tell how sure an arrival is."""

_I4 = npt.NDArray[np.int32]
_I8 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Arrivals of runs, one place per run and stop of its pattern.

    Attributes
    ----------
    trip_ix, service_day, vehicle_code : ndarray of int32, shape (n_runs,)
        Of the runs, as in `etacore.mlops.transit.tracks.Tracks`.
    offset : ndarray of int64, shape (n_runs + 1,)
        Run i owns the places ``offset[i]:offset[i + 1]``, in order of the stops.
    label_us : ndarray of int64, shape (n_places,)
        Arrival by rule, else interpolated between fixes; `NO_ARRIVAL` where unknown.
    interp_us : ndarray of int64, shape (n_places,)
        Interpolated between fixes; `NO_ARRIVAL` where unknown.
    rule : ndarray of uint8, shape (n_places,)
        Index into `rule_names`.
    uncertainty_s : ndarray of float64, shape (n_places,)
        Half the time between the fixes around the arrival, see `half_gap_s`; NaN where unknown.
    rule_names : tuple of str
        The first is for places without a label.
    """

    trip_ix: _I4
    service_day: _I4
    vehicle_code: _I4
    offset: _I8
    label_us: _I8
    interp_us: _I8
    rule: npt.NDArray[np.uint8]
    uncertainty_s: npt.NDArray[np.float64]
    rule_names: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Places by how their label was made."""
        by_rule = dict(
            zip(self.rule_names, np.bincount(self.rule, minlength=len(self.rule_names)).tolist(), strict=True)
        )
        not_seen, passed = by_rule.pop(self.rule_names[0]), by_rule.pop(INTERPOLATED, 0)
        return {
            "runs": len(self.trip_ix),
            "stops_of_runs": len(self.rule),
            **{name: n for name, n in by_rule.items() if n},
            "passed_but_no_fix_near": passed,
            "not_seen": not_seen,
            "interpolated_too": int((self.interp_us != NO_ARRIVAL).sum()) - passed,
        }


def observed_labels(
    positions: Positions,
    feed: Feed,
    tracks: Tracks,
    *,
    first_within_m: float,
    closest_within_m: float,
    rule_names: tuple[str, ...],
) -> Labels:
    """Labels from the positions themselves, see `etacore.mlops.transit.arrivals`."""
    seen = observe_arrivals(positions, feed, tracks, first_within_m=first_within_m, closest_within_m=closest_within_m)
    place = _offset(feed, tracks)[seen.track_ix] + seen.stop_ix
    return _labels(positions, feed, tracks, place, (seen.rule_us, seen.interp_us, seen.rule), rule_names)


def given_labels(path: Path, positions: Positions, feed: Feed, tracks: Tracks) -> Labels:
    """Labels from an arrivals file, see `etacore.mlops.transit.given_arrivals`.

    Raises
    ------
    FeedError
        If the file is no Parquet file, lacks a column, or none of its rows fits.
    """
    found = arrivals_of_runs(read_arrivals(path), positions, feed, tracks)
    names = ("none", *sorted({*found["rule"].unique(), GIVEN} - {INTERPOLATED}), INTERPOLATED)
    place = _offset(feed, tracks)[found["run"].to_numpy()] + found["stop"].to_numpy()
    values = (
        found["rule_us"].fill_null(NO_ARRIVAL).to_numpy(),
        found["interp_us"].fill_null(NO_ARRIVAL).to_numpy(),
        found["rule"].replace_strict({name: ix for ix, name in enumerate(names)}).to_numpy().astype(np.uint8),
    )
    return _labels(positions, feed, tracks, place, values, names)


def _labels(
    positions: Positions,
    feed: Feed,
    tracks: Tracks,
    place: _I8,
    values: tuple[_I8, _I8, npt.NDArray[np.uint8]],
    rule_names: tuple[str, ...],
) -> Labels:
    offset = _offset(feed, tracks)
    n = int(offset[-1])
    rule_us, interp_us = np.full(n, NO_ARRIVAL), np.full(n, NO_ARRIVAL)
    rule = np.full(n, Rule.NONE, np.uint8)
    rule_us[place], interp_us[place], rule[place] = values
    label_us = with_interpolated(rule_us, interp_us, offset)
    rule[(rule_us == NO_ARRIVAL) & (label_us != NO_ARRIVAL)] = rule_names.index(INTERPOLATED)
    run_of_place = np.repeat(np.arange(len(tracks)), np.diff(offset))
    uncertainty_s = np.full(n, np.nan)
    labelled = np.flatnonzero(label_us != NO_ARRIVAL)
    vehicle_code = tracks.vehicle_code[run_of_place[labelled]]
    uncertainty_s[labelled] = half_gap_s(positions, vehicle_code, label_us[labelled])
    runs = tracks.trip_ix, tracks.service_day, tracks.vehicle_code
    return Labels(*runs, offset, label_us, interp_us, rule, uncertainty_s, rule_names)


def half_gap_s(positions: Positions, vehicle_code: _I4, time_us: _I8) -> npt.NDArray[np.float64]:
    """Half the time between a vehicle's last fix before a moment and its first fix at or after it.

    Returns
    -------
    ndarray of float64, shape (n,)
        Seconds; NaN where one of the two is missing, or they are more than `MAX_GAP_S` apart: before its first fix of a
        day a vehicle may have been silent for days.
    """
    distinct_us, rank = np.unique(positions.time_us, return_inverse=True)
    # A vehicle and a rank of time in one number, as times alone may be anything that a broken clock says.
    width = len(distinct_us) + 1
    fixes = positions.vehicle_id.codes.astype(np.int64) * width + rank
    order = np.argsort(fixes, kind="stable")
    fixes = fixes[order]
    wanted = vehicle_code.astype(np.int64) * width + np.searchsorted(distinct_us, time_us, side="left")
    after = np.searchsorted(fixes, wanted, side="left")
    before = after - 1
    inside = (after < len(fixes)) & (before >= 0)
    gap_s = np.full(len(time_us), np.nan)
    first, last = order[before[inside]], order[after[inside]]
    same = (positions.vehicle_id.codes[first] == vehicle_code[inside]) & (
        positions.vehicle_id.codes[last] == vehicle_code[inside]
    )
    gap_us = np.where(same, positions.time_us[last] - positions.time_us[first], np.nan)
    gap_s[inside] = np.where(gap_us <= MAX_GAP_S * 1e6, gap_us, np.nan) / 2e6
    return gap_s


def _offset(feed: Feed, tracks: Tracks) -> _I8:
    n_stops = np.array([pattern.n_stops for pattern in feed.patterns], np.int64)[tracks.pattern_ix]
    return np.concatenate(([0], np.cumsum(n_stops))).astype(np.int64)
