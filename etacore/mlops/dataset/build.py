"""Builds a dataset from recorded positions and a timetable."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from etacore import __version__
from etacore.errors import CompileError, DatasetError
from etacore.files import write_whole
from etacore.mlops.dataset.assemble import assemble, n_past_midnight, why_dropped
from etacore.mlops.dataset.columns import run_columns
from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.dataset.difficulties import count_oddities
from etacore.mlops.dataset.features import NOT_PROCESSED, FeatureTap, compute_features
from etacore.mlops.dataset.labels import Labels, given_labels, observed_labels
from etacore.mlops.dataset.layout import check_frame, dataset_path, write_dataset
from etacore.mlops.dataset.plan import MAX_EXAMPLES, Plan, make_plan
from etacore.mlops.dataset.report import BuildReport
from etacore.mlops.dataset.show import days
from etacore.mlops.dataset.survival import build_warnings, examples_of_reasons
from etacore.mlops.progress import Progress, silent
from etacore.mlops.transit.gtfs import Feed
from etacore.mlops.transit.left_out import quoted
from etacore.mlops.transit.positions import Positions, from_us
from etacore.mlops.transit.tracks import Tracks
from etacore.status import Status

if TYPE_CHECKING:
    from etacore.mlops.transit.weather import WeatherProvider

_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class BuiltDataset:
    """A dataset that is not written yet.

    Attributes
    ----------
    frame : polars.DataFrame
        `etacore.mlops.dataset.layout.COLUMNS`, ordered by time, vehicle and stop.
    report : BuildReport
    config : BuildConfig
    time_zone : str
    patterns : dict of pattern id to stop ids
    """

    frame: pl.DataFrame
    report: BuildReport
    config: BuildConfig
    time_zone: str
    patterns: dict[str, tuple[str, ...]]

    def write(self, folder: str | Path | None = None) -> Path:
        """Write ``<name>.parquet``, and ``<name>.report.md`` beside it; returns the path of the former.

        Parameters
        ----------
        folder : str or Path, optional
            See `etacore.mlops.dataset.layout.dataset_path`.

        Raises
        ------
        DatasetError
            If that is not possible.
        """
        config = self.config
        path = dataset_path(config.name, folder)
        facts = {
            "distance_threshold_m": config.distance_threshold_m,
            "max_stops_ahead": config.max_stops_ahead,
            "sample_every": config.sample_every,
            "build": config.to_dict() | {"etacore": __version__},
            "report": self.report.to_dict(),
        }
        write_dataset(
            self.frame,
            path,
            name=config.name,
            time_zone=self.time_zone,
            holiday_region=config.holiday_region,
            distance=config.distance,
            patterns=self.patterns,
            facts=facts,
        )
        try:
            write_whole(path.with_name(f"{config.name}.report.md"), self.report.to_markdown().encode())
        except OSError as error:
            raise DatasetError(f"the report beside {path} cannot be written ({error.strerror})") from None
        return path


def build_dataset(
    positions: Positions,
    feed: Feed,
    config: BuildConfig,
    *,
    weather: WeatherProvider | None = None,
    arrivals: Path | None = None,
    progress: Progress = silent,
) -> BuiltDataset:
    """Build a dataset: one row for each stop ahead of each fix whose arrival was seen.

    The feature columns are what the engine computes for the same fixes in the same order, float32 widened to float64.
    One column says less than the engine: ``current_speed_kmh`` is null where the source gave no speed, and the engine
    takes 0.0 for it.

    Parameters
    ----------
    positions : Positions
        Sorted by time, as `read_positions` gives them.
    feed : Feed
        The timetable that their trip ids refer to.
    config : BuildConfig
        What to build.
    weather : WeatherProvider, optional
        Fills the weather columns; null without one.
    arrivals : Path, optional
        Arrivals that somebody else observed, see `given_labels`; else they are observed in the positions.
    progress : Progress, optional
        Told the stages.

    Raises
    ------
    DatasetError
        If positions and feed do not belong together, nothing is left of what was asked for, or no row has a label.
    FeedError
        If the arrivals cannot be used.
    """
    watch = _Watch(progress)
    with watch.stage("choosing fixes, matching them to trips"):
        plan = make_plan(positions, feed, config)
        zone = config.time_zone or feed.time_zone
        tap = FeatureTap(zone, _holidays(config, positions, plan), along_route_distance=config.use_shapes)
    with watch.stage("finding arrivals"):
        labels = _labels(positions.take(np.flatnonzero(plan.emit)), feed, plan.tracks, config, arrivals)
    watch.begin("computing features")
    rows = compute_features(
        positions,
        feed,
        tap,
        max_stops=config.max_stops_ahead,
        pattern_ix=plan.pattern_ix(feed),
        process=plan.process,
        emit=plan.emit,
        progress=progress,
    )
    watch.end()
    with watch.stage("joining labels"):
        sampled = plan.sampled(positions, rows.status, config.sample_every)
        dropped = why_dropped(rows, sampled, plan.run, labels, positions, config)
        kept = np.flatnonzero(dropped.reason == 0)
        if not kept.size:
            raise DatasetError(
                f"no row of dataset {config.name} has a label",
                hint=f"{len(rows.fix)} rows: {dropped.summary() or _set_aside(positions, rows.status)}",
            )
        frame = assemble(rows, kept, labels, plan, positions, feed, config)
    weather_counts: dict[str, int] = {}
    if weather is not None:
        with watch.stage("attaching weather"):
            from etacore.mlops.transit.weather import attach_weather, n_without_weather

            frame = attach_weather(frame, weather)
            weather_counts["rows_without_weather"] = n_without_weather(frame)
    frame = check_frame(frame, f"dataset {config.name}")
    with watch.stage("counting"):
        served = sorted(set(feed.trips.pattern_ix[np.unique(plan.trip_ix[rows.fix[kept]])].tolist()))
        patterns = {feed.patterns[ix].pattern_id: feed.patterns[ix].stop_id for ix in served}
        unseen = _stops_without_label(feed, labels)
        fixes = _fixes(plan, rows.status, sampled, np.unique(rows.fix[kept]), positions.left_out)
        engine = examples_of_reasons(positions, rows.status)
        unknown = {name: f"trip {quoted(found[0])}" for name, found in plan.examples.items() if found}
        warnings = build_warnings(fixes, positions, {**positions.examples, **engine, **unknown})
        report = BuildReport(
            name=config.name,
            recording=_recording(positions, frame, plan, feed),
            fixes=fixes,
            oddities=_oddities(positions, feed, plan)
            | {"far_in_time": plan.n_far_in_time, "rows_past_midnight": n_past_midnight(frame, zone)}
            | weather_counts,
            labels=labels.counts() | {"stops_without_label": len(unseen)},
            rows=dropped.counts() | {"other_pattern": rows.n_other_pattern, "written": len(frame)},
            examples=_not_empty({**plan.examples, "stops_without_label": unseen[:MAX_EXAMPLES]})
            | {f"unreadable: {reason}": [example] for reason, example in positions.examples.items()}
            | {reason: [example] for reason, example in engine.items()},
            warnings=warnings,
            feed_notes=feed.notes,
            days=days(frame),
            seconds=watch.seconds,
        )
    return BuiltDataset(frame, report, config, zone, patterns)


class _Watch:
    """Says what is being done, and remembers how long it took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage, self._since = "", 0.0
        self.seconds: dict[str, float] = {}

    def begin(self, stage: str) -> None:
        self._stage, self._since = stage, time.perf_counter()

    def end(self) -> None:
        self.seconds[self._stage] = round(time.perf_counter() - self._since, 2)

    def stage(self, stage: str) -> _Watch:
        self.begin(stage)
        return self

    def __enter__(self) -> None:
        self._progress(self._stage, 0, 1)

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.end()
            self._progress(self._stage, 1, 1)


def _holidays(config: BuildConfig, positions: Positions, plan: Plan) -> tuple[date, ...]:
    if config.holiday_region is None:
        return ()
    from etacore.mlops.transit.holiday_calendar import holiday_dates

    days = plan.day[plan.emit]
    first, last = ((_EPOCH + timedelta(int(day))).year for day in (days.min(), days.max()))
    try:
        return holiday_dates(config.holiday_region, first, (-1, last - first + 1))
    except CompileError as error:
        raise DatasetError(error.message, hint=error.hint) from None


def _labels(chosen: Positions, feed: Feed, tracks: Tracks, config: BuildConfig, arrivals: Path | None) -> Labels:
    if arrivals is not None:
        return given_labels(arrivals, chosen, feed, tracks)
    return observed_labels(
        chosen,
        feed,
        tracks,
        first_within_m=config.distance_threshold_m,
        closest_within_m=config.closest_within_m,
        rule_names=config.rule_names,
    )


def _set_aside(positions: Positions, status: npt.NDArray[np.uint8]) -> str:
    """Why the engine accepted no fix of a known trip, in words."""
    reasons = [
        f"{int((status == Status[name.upper()]).sum())} {name} ({example})"
        for name, example in examples_of_reasons(positions, status).items()
    ]
    return "; ".join(["the engine accepted no fix of a known trip", *reasons])


def _not_empty(examples: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: found for name, found in examples.items() if found}


def _oddities(positions: Positions, feed: Feed, plan: Plan) -> dict[str, int]:
    rows = np.flatnonzero(plan.process)
    return count_oddities(positions.take(rows), feed, plan.trip_ix[rows], plan.day[rows], plan.run[rows], plan.tracks)


def _stops_without_label(feed: Feed, labels: Labels) -> list[str]:
    seen: set[str] = set()
    all_stops: set[str] = set()
    pattern_ix = feed.trips.pattern_ix[labels.trip_ix]
    stop_ix = np.arange(len(labels.rule)) - np.repeat(labels.offset[:-1], np.diff(labels.offset))
    of_place = np.repeat(pattern_ix, np.diff(labels.offset))
    pairs = np.unique(np.stack([of_place, stop_ix, labels.rule > 0], axis=1), axis=0)
    for pattern, stop, has_label in pairs.tolist():
        stop_id = feed.patterns[pattern].stop_id[stop]
        all_stops.add(stop_id)
        if has_label:
            seen.add(stop_id)
    return sorted(all_stops - seen)


def _recording(positions: Positions, frame: pl.DataFrame, plan: Plan, feed: Feed) -> dict[str, Any]:
    sampling_s = positions.sampling_s()
    return {
        "first_fix": from_us(positions.time_us[0]).isoformat(),
        "last_fix": from_us(positions.time_us[-1]).isoformat(),
        "sampling_s": sampling_s if np.isfinite(sampling_s) else None,
        "match_rate": round(plan.match_rate, 4),
        "vehicles": frame["vehicle_id"].n_unique(),
        "trips": frame.select(run_columns(frame)).n_unique(),
        "routes": frame["route_id"].n_unique(),
        "service_days": frame["service_date"].n_unique(),
        "feed_trips": len(feed.trips),
        "feed_patterns": len(feed.patterns),
    }


def _fixes(
    plan: Plan,
    status: npt.NDArray[np.uint8],
    sampled: npt.NDArray[np.bool_],
    used: npt.NDArray[np.int32],
    left_out: Mapping[str, int],
) -> dict[str, int]:
    accepted = status == Status.OK
    by_status = np.bincount(status, minlength=256)
    named = {Status(code).label: int(by_status[code]) for code in range(1, len(Status)) if by_status[code]}
    wanted = accepted & plan.emit
    return {
        "read": len(status),
        **{f"unreadable: {reason}": n for reason, n in left_out.items()},
        "not_needed": int(by_status[NOT_PROCESSED]),
        **named,
        "accepted": int(accepted.sum()),
        "without_trip": int((accepted & (plan.trip_ix == -1) & ~plan.names_trip).sum()),
        "unknown_trip": int((accepted & (plan.trip_ix == -1) & plan.names_trip).sum()),
        "other_route_or_date": int((accepted & (plan.trip_ix >= 0) & ~plan.emit).sum()),
        "not_sampled": int((wanted & ~sampled).sum()),
        "without_rows": int((wanted & sampled).sum()) - len(used),
        "used": len(used),
    }
