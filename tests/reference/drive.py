"""Drives the kernels one small batch at a time, for tests: snapshots as dictionaries in, plain values out."""

from __future__ import annotations

import numpy as np
import orjson

from etacore._kernels.batch import Batch
from etacore._kernels.features import Vectorizer
from etacore._kernels.select import SelectOptions, select_stops
from etacore.pipeline.routes import RouteTable
from etacore.pipeline.snapshots import parse_snapshots
from etacore.schema import FEATURES
from etacore.status import Status, StopHint

EPOCH_US = 1_480_000_000_000_000
ALL_CODES = np.arange(len(FEATURES), dtype=np.int32)
KEY = b"route_stops:R"


def columns_of(snapshots):
    """A parsed batch; `time_us` of a snapshot defaults to EPOCH_US, its route to "R"."""
    payloads = []
    for i, snapshot in enumerate(snapshots):
        item = {"vehicle_id": f"V{i}", "route_id": "R", "lat": 0.0, "lon": 0.0} | snapshot
        item["timestamp"] = item.pop("time_us", EPOCH_US) / 1e6
        payloads.append(orjson.dumps(item))
    batch = Batch(max(len(payloads), 1))
    batch.start(2**61)
    parse_snapshots(batch, payloads, max_future_us=0, max_age_us=0)
    # The division above may move a microsecond.
    batch.time_us[:] = [s.get("time_us", EPOCH_US) for s in snapshots]
    return batch


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


def vectorizer_of(calendar, codes=ALL_CODES, *, nan_fill=None, along=False):
    """What a model asks for that has these features."""
    fill = np.nan if nan_fill is None else nan_fill
    return Vectorizer(calendar.transitions_s, calendar.offset_s, calendar.holiday_days, codes, fill, along)


class Vehicle:
    """One vehicle's fixes, one after another, with its state in between."""

    def __init__(self, table, options=None, has_trip=True, key=KEY, other_key=None):
        self.table, self.options, self.has_trip = table, options or SelectOptions(), has_trip
        self.pattern_ix = table.pattern_ix(key)
        self.other_pattern_ix = -1 if other_key is None else table.pattern_ix(other_key)
        self.progress_m, self.time_us, self.strikes, self.fallback_m = np.nan, 0, 0, np.nan
        self.before = (-1, 0, np.nan)  # next stop, since when, and speed at the last fix

    def fix(self, **snapshot):
        """Index of the next stop, or the Status that the row got."""
        self.batch = batch = columns_of([snapshot])
        batch.pattern_ix[0], batch.other_pattern_ix[0] = self.pattern_ix, self.other_pattern_ix
        batch.run_key[0] = self.has_trip
        batch.prev_progress_m[0], batch.prev_time_us[0] = self.progress_m, self.time_us
        batch.prev_strikes[0], batch.prev_fallback_m[0] = self.strikes, self.fallback_m
        batch.prev_stop[0], batch.prev_since_us[0], batch.prev_speed_mps[0] = self.before
        select_stops(batch, self.table.patterns, self.options)
        status = Status(batch.status[0])
        if status in (Status.OK, Status.TRIP_FINISHED, Status.DIRECTION_UNKNOWN):
            self.pattern_ix, self.other_pattern_ix = int(batch.pattern_ix[0]), int(batch.other_pattern_ix[0])
            self.progress_m, self.time_us = float(batch.progress_m[0]), int(batch.time_us[0])
            self.strikes, self.fallback_m = int(batch.strikes[0]), float(batch.fallback_m[0])
            # The fleet keeps 16 bits of the stop: an undecided direction has none.
            self.before = (int(batch.first_stop[0]) & 0xFFFF, batch.since_us[0], batch.recent_speed_mps[0])
        return int(batch.first_stop[0]) if status == Status.OK else status

    @property
    def hint(self):
        """What became of the stop that the last fix named."""
        return StopHint(self.batch.stop_hint[0])

    def rows(self, calendar, max_stops=5, along=False, nan_fill=None, legs=None, route_code=None, features=FEATURES):
        """Feature dictionaries of the last fix, its distances and stops."""
        codes = np.array([feature.code for feature in features], np.int32)
        self.batch.parts.clear()
        self.batch.progress_m[0] = self.progress_m
        part = self.batch.add_part(None)
        vectorizer = vectorizer_of(calendar, codes, nan_fill=nan_fill, along=along)
        vectorizer.count_rows(self.batch, part, self.table.patterns, max_stops)
        vectorizer.vectorize(
            self.batch,
            part,
            self.table.patterns,
            route_code=None if route_code is None else np.array([route_code], np.int32),
            leg_s=None if legs is None else legs.seconds,
            leg_start=None if legs is None else legs.start,
        )
        matrix, distance_m, stop_ix = part.features, part.distance_m, part.stop_ix
        names = [feature.name for feature in features]
        return [dict(zip(names, row, strict=True)) for row in matrix.tolist()], distance_m.tolist(), stop_ix.tolist()
