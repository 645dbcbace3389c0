"""Drives the kernels one small batch at a time, for tests: snapshots as dictionaries in, plain values out."""

from __future__ import annotations

import numpy as np
import orjson

from etacore.pipeline.features import SelectOptions, count_rows, select_stops, vectorize
from etacore.pipeline.motion import Motion
from etacore.pipeline.routes import RouteTable
from etacore.pipeline.snapshots import SnapshotColumns, parse_snapshots
from etacore.schema import FEATURES, Status

EPOCH_US = 1_480_000_000_000_000
KEY = b"route_stops:R"


def columns_of(snapshots):
    """Parsed columns; `time_us` of a snapshot defaults to EPOCH_US, its route to "R"."""
    payloads = []
    for i, snapshot in enumerate(snapshots):
        item = {"vehicle_id": f"V{i}", "route_id": "R", "lat": 0.0, "lon": 0.0} | snapshot
        item["timestamp"] = item.pop("time_us", EPOCH_US) / 1e6
        payloads.append(orjson.dumps(item))
    columns = SnapshotColumns(max(len(payloads), 1))
    parse_snapshots(payloads, columns, now_us=2**61, max_future_us=0, max_age_us=0)
    # The division above may move a microsecond.
    columns.time_us[: len(payloads)] = [s.get("time_us", EPOCH_US) for s in snapshots]
    return columns


def stops_blob(stops):
    """JSON of (id, lat, lon, sequence)."""
    return orjson.dumps([{"stop_id": i, "lat": a, "lon": o, "stop_sequence": s} for i, a, o, s in stops])


def shape_blob(points):
    return orjson.dumps({"points": [{"shape_pt_lat": a, "shape_pt_lon": o} for a, o in points]})


def table_of(stops, points=None):
    table = RouteTable()
    table.set_pattern(KEY, stops_blob(stops), shape_blob(points) if points else None)
    return table


def line_of_stops(n, lat=45.0, lon=7.0, step_deg=0.01):
    """Stops S1, S2 ... northwards, about 1112 m apart."""
    return [(f"S{i + 1}", lat + i * step_deg, lon, i + 1) for i in range(n)]


class Vehicle:
    """One vehicle's fixes, one after another, with its state in between."""

    def __init__(self, table, options=None, has_trip=True, key=KEY):
        self.table, self.options, self.has_trip = table, options or SelectOptions(), has_trip
        self.pattern_ix = np.array([table.pattern_ix(key)], np.int32)
        self.progress_m, self.time_us, self.strikes = np.nan, 0, 0
        self.motion = Motion(1)

    def fix(self, **snapshot):
        """Index of the next stop, or the Status that the row got."""
        self.columns = columns_of([snapshot])
        self.first_stop, progress_m = np.empty(1, np.int32), np.empty(1)
        strikes = np.empty(1, np.uint8)
        select_stops(
            self.columns,
            self.table,
            self.pattern_ix,
            np.array([self.has_trip], np.uint64),
            np.array([self.progress_m]),
            np.array([self.time_us], np.int64),
            np.array([self.strikes], np.uint8),
            options=self.options,
            first_stop=self.first_stop,
            progress_m=progress_m,
            strikes=strikes,
            motion=self.motion,
        )
        status = Status(self.columns.status[0])
        if status in (Status.OK, Status.TRIP_FINISHED):
            self.progress_m, self.time_us = float(progress_m[0]), int(self.columns.time_us[0])
            self.strikes = int(strikes[0])
            self.motion.prev_stop[0] = self.first_stop[0]
            self.motion.prev_since_us[0] = self.motion.since_us[0]
            self.motion.prev_speed_mps[0] = self.motion.speed_mps[0]
        return int(self.first_stop[0]) if status == Status.OK else status

    def rows(self, calendar, max_stops=5, along=False, nan_fill=None, legs=None, route_code=None, features=FEATURES):
        """Feature dictionaries of the last fix, its distances and stops."""
        codes = np.array([feature.code for feature in features], np.int32)
        offset = np.empty(2, np.int32)
        n = count_rows(self.columns.status, self.pattern_ix, self.first_stop, self.table, max_stops, offset)
        matrix = np.full((n, len(codes)), -1.0, np.float32)
        distance_m, stop_ix = np.empty(n), np.empty(n, np.int32)
        vectorize(
            self.columns,
            self.table,
            self.pattern_ix,
            self.first_stop,
            np.array([self.progress_m]),
            offset,
            calendar,
            codes,
            motion=self.motion,
            legs=legs,
            route_code=None if route_code is None else np.array([route_code], np.int32),
            along_route_distance=along,
            nan_fill=nan_fill,
            X=matrix,
            distance_m=distance_m,
            stop_ix=stop_ix,
        )
        names = [feature.name for feature in features]
        return [dict(zip(names, row, strict=True)) for row in matrix.tolist()], distance_m.tolist(), stop_ix.tolist()
