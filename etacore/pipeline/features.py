"""The next stops of each vehicle, and the feature rows that a model predicts from.

Training and serving call the same two kernels, `select_stops` and
`vectorize`, so what a model learned is what it is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from etacore._kernels import features as _features
from etacore._kernels import select as _select
from etacore.errors import ConfigError, RouteDataError
from etacore.pipeline.calendar import Calendar
from etacore.pipeline.motion import Motion
from etacore.pipeline.route_blobs import ShapePolyline
from etacore.pipeline.route_knowledge import LegTable
from etacore.pipeline.routes import RouteTable
from etacore.pipeline.snapshots import SnapshotColumns

__all__ = [
    "SelectOptions",
    "along_shape_distance",
    "count_rows",
    "select_stops",
    "vectorize",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectOptions:
    """How positions are matched to a pattern's line."""

    max_off_route_m: float = 2000.0
    """Farther from the line than this, a vehicle is off its route; from the part before the stop that it names, if it
    names one."""
    max_speed_mps: float = 40.0
    """Nothing drives faster; with the time since the last fix it bounds the way made."""
    slack_m: float = 300.0
    """Added to that bound."""
    tolerance_m: float = 50.0
    """How far behind its earlier progress a fix may lie by GPS noise; progress itself never goes back."""
    fit_m: float = 150.0
    """When nothing that the vehicle can have reached is nearer than this, everything ahead is looked at."""
    restart_fit_m: float = 100.0
    """A vehicle that is this near to an earlier part, and fits nowhere ahead, gets a strike."""
    restart_strikes: int = 3
    """After so many strikes in a row a vehicle without a trip id starts anew. 0: never. At most 15."""
    trip_strikes: int = 5
    """The same with a trip id: it was on its way to the start when it was first seen. 0: never. At most 15. Once three
    fixes fitted the line and each brought it 10 m forward, a vehicle is on its trip and never starts anew."""
    near_equal_m: float = 30.0
    """Passes of the line whose distances differ by less are equal; the earlier one is taken."""
    heading_penalty_m: float = 60.0
    """Counted as distance, in squares, where the line leads against the vehicle's bearing."""
    reset_after_s: float = 3600.0
    """A vehicle that was silent for longer starts anew."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be a finite number and not negative, not {value!r}")
        for name in ("restart_strikes", "trip_strikes"):
            if getattr(self, name) > 15:
                raise ConfigError(f"{name} must be at most 15, not {getattr(self, name)!r}")

    def as_tuple(self) -> tuple[float, float, float, float, float, float, float, float, int, int, int]:
        """The values in the order of the kernel."""
        return (
            self.max_off_route_m,
            self.max_speed_mps,
            self.slack_m,
            self.tolerance_m,
            self.fit_m,
            self.restart_fit_m,
            self.near_equal_m,
            self.heading_penalty_m,
            min(int(self.reset_after_s * 1e6), 2**62),
            self.restart_strikes,
            self.trip_strikes,
        )


_DEFAULT_OPTIONS: Final = SelectOptions()


def select_stops(
    columns: SnapshotColumns,
    table: RouteTable,
    pattern_ix: NDArray[np.int32],
    trip_key: NDArray[np.uint64],
    prev_progress_m: NDArray[np.float64],
    prev_time_us: NDArray[np.int64],
    prev_strikes: NDArray[np.uint8],
    *,
    options: SelectOptions = _DEFAULT_OPTIONS,
    first_stop: NDArray[np.int32],
    progress_m: NDArray[np.float64],
    strikes: NDArray[np.uint8],
    motion: Motion | None = None,
) -> None:
    """Choose the next stop of every vehicle and say how far along its pattern it is.

    What the vehicle reports counts first: its ``current_stop_sequence``, then its ``stop_id`` (the stop after it when
    it is ``STOPPED_AT``), then the first stop with a greater sequence; its place is then the nearest one between the
    stop before and that stop. Otherwise its position is projected on the line: not behind its earlier progress, not
    farther than it can have driven, on the earliest of equally near passes, and preferably where the line leads its
    way. Without such words progress on a trip never goes back, except that a vehicle that was given its trip too early
    may start anew until it is confirmed on it, see `SelectOptions.trip_strikes`.

    Parameters
    ----------
    columns : SnapshotColumns
        ``status`` of rows with status OK becomes ``OFF_ROUTE`` or ``TRIP_FINISHED`` where that is so.
    table : RouteTable
        Whose patterns the numbers are.
    pattern_ix : ndarray of int32, shape (n,)
        From `RouteTable.resolve`.
    trip_key : ndarray of uint64, shape (n,)
        0 for a vehicle without a trip id, which may begin its pattern anew.
    prev_progress_m : ndarray of float64, shape (n,)
        Metres along the pattern's line at the last fix of the same vehicle, trip and pattern; NaN if there is none.
    prev_time_us : ndarray of int64, shape (n,)
        Time of that fix.
    prev_strikes : ndarray of uint8, shape (n,)
        As this function gave them then.
    options : SelectOptions
        Thresholds.
    first_stop : ndarray of int32, shape (n,)
        Output: index of the next stop; the number of stops when the trip is finished, -1 without one.
    progress_m : ndarray of float64, shape (n,)
        Output: metres along the line; NaN for rows that were not OK.
    strikes : ndarray of uint8, shape (n,)
        Output: low four bits, fixes in a row that look like a new begin; high four bits, fixes that confirmed the
        vehicle on its trip. Both stop at 15.
    motion : Motion, optional
        From `VehicleState.gather`; its other columns are measured.

    Raises
    ------
    ValueError
        If an array is too short, or a stop id lies outside the arena.
    """
    _select.select(
        table.patterns,
        columns.text,
        columns.status,
        columns.stop_id,
        columns.stop_sequence,
        columns.current_status,
        columns.lat,
        columns.lon,
        columns.bearing_deg,
        columns.time_us,
        pattern_ix,
        trip_key,
        prev_progress_m,
        prev_time_us,
        prev_strikes,
        options.as_tuple(),
        first_stop,
        progress_m,
        strikes,
        None if motion is None else motion.pointers,
    )


def count_rows(
    status: NDArray[np.uint8],
    pattern_ix: NDArray[np.int32],
    first_stop: NDArray[np.int32],
    table: RouteTable,
    max_stops: int,
    row_offset: NDArray[np.int32],
) -> int:
    """Number the feature rows: ``min(max_stops, stops ahead)`` for each vehicle with status OK.

    Parameters
    ----------
    status : ndarray of uint8, shape (>= n,)
        Rows that are not OK get none.
    pattern_ix : ndarray of int32, shape (n,)
        From `RouteTable.resolve`.
    first_stop : ndarray of int32, shape (n,)
        From `select_stops`.
    table : RouteTable
        Whose patterns the numbers are.
    max_stops : int
        Most rows of one vehicle.
    row_offset : ndarray of int32, shape (>= n + 1,)
        Output: vehicle i has the rows ``row_offset[i]`` to ``row_offset[i + 1]``.

    Returns
    -------
    int
        Rows in all.
    """
    return _features.count_rows(table.patterns, status, pattern_ix, first_stop, max_stops, row_offset)


def vectorize(
    columns: SnapshotColumns,
    table: RouteTable,
    pattern_ix: NDArray[np.int32],
    first_stop: NDArray[np.int32],
    progress_m: NDArray[np.float64],
    row_offset: NDArray[np.int32],
    calendar: Calendar,
    feature_codes: NDArray[np.int32],
    *,
    motion: Motion | None = None,
    route_code: NDArray[np.int32] | None = None,
    legs: LegTable | None = None,
    along_route_distance: bool,
    nan_fill: float | None,
    X: NDArray[np.float32],  # noqa: N803
    distance_m: NDArray[np.float64],
    stop_ix: NDArray[np.int32],
) -> None:
    """Fill the feature rows of a batch, computed in double precision.

    With hav the haversine on a sphere of 6 371 000 m, i the position of a stop in its pattern (from 1) and N the
    pattern's length: progress on segment p = clip(1 - hav(vehicle, next stop) / hav(stop, next stop), 0, 1), 0 for
    the last stop; progress ratio = clip((i - 1 + p) / N, 0, 1). Hour, day and holiday are those of the snapshot's own
    time in the calendar's zone; peak is a weekday's hour 7-9 or 16-19.

    With s the places along the line and f the next stop, the share of the leg that is left is clip((s_f - progress) /
    (s_f - s_(f-1)), 0, 1), 1 before the first stop or on a leg without length. The typical travel time to stop j is
    that share, rounded to float32, times the typical seconds of the leg to f, plus those of the legs to f + 1 .. j,
    summed in this order in double precision.

    Parameters
    ----------
    columns : SnapshotColumns
        Positions, speeds and times; ``status`` is not looked at, the offsets say which rows count.
    table : RouteTable
        Whose patterns the numbers are.
    pattern_ix : ndarray of int32, shape (n,)
        From `RouteTable.resolve`.
    first_stop : ndarray of int32, shape (n,)
        From `select_stops`.
    progress_m : ndarray of float64, shape (n,)
        From `select_stops`.
    row_offset : ndarray of int32, shape (>= n + 1,)
        From `count_rows`.
    calendar : Calendar
        The model's.
    feature_codes : ndarray of int32, shape (k,)
        From `etacore.schema.feature_codes`.
    motion : Motion, optional
        Measured by `select_stops`; unknown if left out.
    route_code : ndarray of int32, shape (>= n,), optional
        Position of the route among the model's routes, negative for another one; unknown if left out.
    legs : LegTable, optional
        Typical times of the model, for the patterns at hand; unknown if left out.
    along_route_distance : bool
        Distances along the line, max(stop - progress, 0), instead of straight ones.
    nan_fill : float or None
        What stands for an unknown value; None leaves NaN.
    X : ndarray of float32, shape (>= rows, k)
        Output.
    distance_m : ndarray of float64, shape (>= rows,)
        Output: to the stop, as the model sees it.
    stop_ix : ndarray of int32, shape (>= rows,)
        Output: index of the stop in its pattern.

    Raises
    ------
    ValueError
        If shapes do not fit, a code is unknown, or rows and stops do not belong together.
    """
    _features.vectorize(
        table.patterns,
        columns.lat,
        columns.lon,
        columns.speed_mps,
        columns.time_us,
        pattern_ix,
        first_stop,
        progress_m,
        row_offset,
        calendar.transitions_s,
        calendar.offset_s,
        calendar.holiday_days,
        feature_codes,
        None if motion is None else motion.pointers,
        route_code,
        None if legs is None else legs.seconds,
        None if legs is None else legs.start,
        along_route_distance,
        math.nan if nan_fill is None else nan_fill,
        X,
        distance_m,
        stop_ix,
    )


def along_shape_distance(shape: ShapePolyline, lat: float, lon: float, stop_lat: float, stop_lon: float) -> float:
    """Metres along a shape from a vehicle to a stop.

    Vehicle and stop are projected on the shape, the vehicle on the earliest of equally near passes, the stop at or
    after the vehicle.

    Parameters
    ----------
    shape : ShapePolyline
        The line.
    lat, lon, stop_lat, stop_lon : float
        Degrees.

    Returns
    -------
    float
        At least 0.0; 0.0 for a stop that the vehicle has passed.

    Raises
    ------
    RouteDataError
        If a coordinate is not finite.
    """
    if not all(map(math.isfinite, (lat, lon, stop_lat, stop_lon))):
        raise RouteDataError("positions have to be finite")
    vehicle_m, _, stop_m, _ = _select.along(shape.line, lat, lon, stop_lat, stop_lon, _DEFAULT_OPTIONS.near_equal_m)
    return stop_m - vehicle_m
