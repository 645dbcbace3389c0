"""Holds recorded predictions against observed arrivals, beside a baseline that any spreadsheet could make."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore.accuracy import AccuracyReport, score
from etacore.mlops.transit.arrivals import NO_ARRIVAL, Arrivals
from etacore.mlops.transit.geodesy import distance_m
from etacore.mlops.transit.given_arrivals import arrivals_of_runs
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.positions import Positions
from etacore.mlops.transit.service import trip_index
from etacore.mlops.transit.tracks import Tracks
from etacore.schema import MAX_ETA_S

LABEL_KINDS: Final = (
    "interpolated between two fixes",
    "first fix within 50 m",
    "closest fix within 200 m",
)
"""How a label was made: by progress, else by `etacore.mlops.transit.arrivals.Rule`, whose numbers count on."""

_US: Final = 1_000_000


class Unscored(StrEnum):
    """Why a predicted stop has no score."""

    NO_TRIP = "the position names no trip of the feed"
    NO_ETA = "the document gives no ETA for the stop"
    OTHER_PATTERN = "the stop is not in the trip's pattern"
    FIRST_STOP = "first stop of a trip: vehicles wait there"
    NO_RUN = "the position is outside all runs of its trip"
    NOT_OBSERVED = "no arrival was observed at the stop"
    ALREADY_ARRIVED = "the vehicle had arrived before the position was sent"
    TOO_FAR_AHEAD = "the arrival was more than two hours ahead"


@dataclass(slots=True)
class Recording:
    """Predictions as they were read back, one entry per predicted stop.

    ``row`` is the row of the position that was predicted from; ``eta_s`` is
    seconds from that position's time, NaN where the document has none.
    """

    row: list[int] = field(default_factory=list)
    stop_id: list[str] = field(default_factory=list)
    stop_sequence: list[int] = field(default_factory=list)
    eta_s: list[float] = field(default_factory=list)

    def add(self, row: int, predictions: list[dict[str, Any]]) -> None:
        """Take the ``predictions`` of the document for one position."""
        for prediction in predictions:
            eta_s = prediction.get("eta_seconds")
            self.row.append(row)
            self.stop_id.append(str(prediction["stop_id"]))
            self.stop_sequence.append(int(prediction["stop_sequence"]))
            self.eta_s.append(float("nan") if eta_s is None else float(eta_s))

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Arrival times by run of a trip and stop: ascending keys and their times.

    Attributes
    ----------
    key : ndarray of int64, shape (n,)
        Run and stop in one number, made by `_keys`.
    label_us : ndarray of int64, shape (n,)
    kind : ndarray of int64, shape (n,)
        Index into `kinds`: how each label was made.
    kinds : tuple of str
    """

    key: npt.NDArray[np.int64]
    label_us: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    kinds: tuple[str, ...]

    def find(self, key: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Row of each key, -1 where there is no arrival."""
        if not len(self.key):
            return np.full(len(key), -1)
        row = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
        return np.where(self.key[row] == key, row, -1)


@dataclass(frozen=True, slots=True)
class Scores:
    """What `score_recording` found.

    Attributes
    ----------
    model, baseline : AccuracyReport
        Over the same predictions.
    baseline_speed_mps : float
        Speed of the baseline; NaN if nothing moved.
    unscored : dict
        Number of predicted stops without a score, by reason.
    labels : dict
        Number of scored predictions by how their label was made.
    """

    model: AccuracyReport
    baseline: AccuracyReport
    baseline_speed_mps: float
    unscored: dict[str, int]
    labels: dict[str, int]


def truth_of_arrivals(arrivals: Arrivals, feed: Feed) -> Truth:
    """Labels of our own observation: interpolated where possible, else by the 50 m / 200 m rule."""
    kind = np.where(arrivals.interp_us != NO_ARRIVAL, 0, arrivals.rule)
    return _truth(_keys(feed, arrivals.track_ix, arrivals.stop_ix), arrivals.label_us, kind, LABEL_KINDS)


def truth_of_frame(frame: pl.DataFrame, positions: Positions, feed: Feed, tracks: Tracks) -> Truth:
    """Labels of an arrivals file (`read_arrivals`): interpolated where it says so, else by its rule.

    Raises
    ------
    FeedError
        If none of its rows fits vehicle, trip, stop and runs of this recording and feed.
    """
    found = arrivals_of_runs(frame, positions, feed, tracks)
    key = _keys(feed, found["run"].to_numpy(), found["stop"].to_numpy())
    label_us = found.select(pl.coalesce("interp_us", "rule_us")).to_series().to_numpy()
    return _truth(key, label_us, np.zeros(len(key), dtype=np.int64), ("arrivals file",))


def score_recording(recording: Recording, positions: Positions, feed: Feed, tracks: Tracks, truth: Truth) -> Scores:
    """Score every recorded prediction whose arrival is known.

    The baseline is the distance along the route divided by one mean speed,
    that of all recorded runs between their second and last stop; it knows that
    speed in advance, so it is flattered a little. Where a position could not be
    matched to its route, it uses the straight line.
    """
    row = np.array(recording.row, dtype=np.int64)
    eta_s = np.array(recording.eta_s, dtype=np.float64)
    trip_ix = trip_index(positions, feed)[row]
    stop_ix = _stop_positions(recording, feed, trip_ix)
    time_us = positions.time_us[row]
    found = truth.find(_keys(feed, tracks.run_of_fix[row], stop_ix))
    actual_s = np.full(len(row), np.nan)
    actual_s[found >= 0] = (truth.label_us[found[found >= 0]] - time_us[found >= 0]) / _US
    reasons = (
        (Unscored.NO_TRIP, trip_ix < 0),
        (Unscored.NO_ETA, np.isnan(eta_s)),
        (Unscored.OTHER_PATTERN, stop_ix < 0),
        (Unscored.FIRST_STOP, stop_ix == 0),
        (Unscored.NO_RUN, tracks.run_of_fix[row] < 0),
        (Unscored.NOT_OBSERVED, found < 0),
        (Unscored.ALREADY_ARRIVED, actual_s <= 0),
        (Unscored.TOO_FAR_AHEAD, actual_s > MAX_ETA_S),
    )
    left = np.ones(len(row), dtype=bool)
    unscored = {}
    for reason, applies in reasons:
        if count := int((left & applies).sum()):
            unscored[str(reason)] = count
        left &= ~applies
    to_stop_m = _distance_along_m(positions, feed, tracks, row[left], trip_ix[left], stop_ix[left])
    speed_mps = mean_speed_mps(positions, tracks)
    baseline_s = np.clip(to_stop_m / speed_mps, 0.0, MAX_ETA_S) if np.isfinite(speed_mps) else np.zeros(left.sum())
    kinds = Counter(truth.kind[found[left]].tolist())
    return Scores(
        score(eta_s[left], actual_s[left]),
        score(baseline_s, actual_s[left]),
        speed_mps,
        unscored,
        {truth.kinds[kind]: count for kind, count in sorted(kinds.items())},
    )


def mean_speed_mps(positions: Positions, tracks: Tracks) -> float:
    """Metres along the route per second, over all runs, waits at both terminals left out; NaN if nothing moved."""
    travelled_m, taken_us = 0.0, 0
    times_us = positions.time_us[tracks.row]
    for track, (start, stop) in enumerate(zip(tracks.offset[:-1].tolist(), tracks.offset[1:].tolist(), strict=True)):
        stop_s_m = tracks.lines[int(tracks.pattern_ix[track])].stop_s_m
        progress_m = tracks.progress_m[start:stop]
        low, high = np.searchsorted(progress_m, (stop_s_m[1], stop_s_m[-1]))
        last = min(int(high), len(progress_m) - 1)
        if last > low:
            travelled_m += float(progress_m[last] - progress_m[low])
            taken_us += int(times_us[start + last] - times_us[start + low])
    return travelled_m / (taken_us / _US) if taken_us and travelled_m else float("nan")


def _stop_positions(recording: Recording, feed: Feed, trip_ix: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Position in the trip's pattern of each predicted stop, -1 if it is not in it."""
    lookup = _stop_lookup(feed)
    pattern_ix = np.where(trip_ix >= 0, feed.trips.pattern_ix[trip_ix], -1).tolist()
    stops = zip(pattern_ix, recording.stop_sequence, recording.stop_id, strict=True)
    return np.array([lookup.get(stop, -1) for stop in stops], dtype=np.int64)


def _stop_lookup(feed: Feed) -> dict[tuple[int, int, str], int]:
    return {
        (pattern_ix, sequence, stop_id): stop_ix
        for pattern_ix, pattern in enumerate(feed.patterns)
        for stop_ix, (sequence, stop_id) in enumerate(zip(pattern.stop_sequence.tolist(), pattern.stop_id, strict=True))
    }


def _keys(feed: Feed, run: npt.NDArray[Any], stop_ix: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Run and stop in one number; negative without a run, so that it matches nothing."""
    n_stops = max((pattern.n_stops for pattern in feed.patterns), default=1)
    key: npt.NDArray[np.int64] = run.astype(np.int64) * n_stops + stop_ix
    return key


def _truth(
    key: npt.NDArray[np.int64], label_us: npt.NDArray[np.int64], kind: npt.NDArray[Any], kinds: tuple[str, ...]
) -> Truth:
    order = np.argsort(key, kind="stable")
    return Truth(key[order], label_us[order], kind[order].astype(np.int64), kinds)


def _distance_along_m(
    positions: Positions,
    feed: Feed,
    tracks: Tracks,
    row: npt.NDArray[np.int64],
    trip_ix: npt.NDArray[np.int32],
    stop_ix: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    pattern_ix = feed.trips.pattern_ix[trip_ix]
    progress_m = np.full(len(positions), np.nan)
    progress_m[tracks.row] = tracks.progress_m
    ahead_m = np.full(len(row), np.nan)
    lat, lon = np.empty(len(row)), np.empty(len(row))
    for ix in np.unique(pattern_ix).tolist():
        mine = np.flatnonzero(pattern_ix == ix)
        lat[mine], lon[mine] = feed.patterns[ix].lat[stop_ix[mine]], feed.patterns[ix].lon[stop_ix[mine]]
        if ix in tracks.lines:
            ahead_m[mine] = tracks.lines[ix].stop_s_m[stop_ix[mine]] - progress_m[row[mine]]
    straight_m = distance_m(positions.lat[row], positions.lon[row], lat, lon)
    straight_m = np.nan_to_num(straight_m, nan=0.0)
    return np.where(np.isnan(ahead_m), straight_m, np.maximum(ahead_m, 0.0))
