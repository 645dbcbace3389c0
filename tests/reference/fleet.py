"""Slow twin of `etacore._kernels.fleet`: a dict of vehicles, one row after the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

OK, UNCHANGED, DUPLICATE, OUT_OF_ORDER, TRIP_FINISHED, DIRECTION_UNKNOWN = 0, 1, 16, 17, 22, 26
NO_TIME = -(2**63)


@dataclass
class Vehicle:
    time_us: int = NO_TIME
    valid_until_us: int = 0
    seen_s: int = 0
    run_key: int = 0
    pattern_ix: int = -1
    progress_m: float = math.nan
    strikes: int = 0
    next_stop: int = 0
    stop_since_us: int = 0
    speed_mps: float = math.nan
    known: bool = False
    fallback_m: float = math.nan


def seconds(time_us: int) -> int:
    return min(max(time_us // 1_000_000, 0), 2**32 - 1)


class Fleet:
    def __init__(self) -> None:
        self.vehicles: dict[bytes, Vehicle] = {}

    def at(self, vehicle_ix: int) -> Vehicle:
        return list(self.vehicles.values())[vehicle_ix]

    def lookup(self, ids: Sequence[bytes], status: Sequence[int]) -> tuple[list[int], list[int]]:
        vehicle_ix, is_new, asked = [], [], set()
        for vehicle_id, code in zip(ids, status, strict=True):
            if code != OK:
                vehicle_ix.append(-1)
                is_new.append(0)
                continue
            vehicle = self.vehicles.setdefault(vehicle_id, Vehicle())
            vehicle_ix.append(list(self.vehicles).index(vehicle_id))
            is_new.append(int(not vehicle.known and vehicle_id not in asked))
            asked.add(vehicle_id)
        return vehicle_ix, is_new

    def restore(
        self, vehicle_ix: Sequence[int], time_us: Sequence[int], valid_until_us: Sequence[int], max_time_us: int
    ) -> None:
        for ix, time, valid_until in zip(vehicle_ix, time_us, valid_until_us, strict=True):
            if ix < 0 or self.at(ix).known:
                continue
            self.at(ix).known = True
            if NO_TIME < time <= max_time_us:
                self.at(ix).time_us = time
                self.at(ix).valid_until_us = valid_until

    def screen(self, status: list[int], vehicle_ix: Sequence[int], time_us: Sequence[int], now_us: int) -> None:
        rows_of: dict[int, list[int]] = {}
        for row, ix in enumerate(vehicle_ix):
            if status[row] == OK and ix >= 0:
                rows_of.setdefault(ix, []).append(row)
        for ix, rows in rows_of.items():
            vehicle = self.at(ix)
            vehicle.seen_s = max(vehicle.seen_s, seconds(now_us))
            newest = max(rows, key=lambda row: (time_us[row], -row))
            for row in rows:
                if row != newest:
                    status[row] = DUPLICATE
            if time_us[newest] < vehicle.time_us:
                status[newest] = OUT_OF_ORDER
            elif time_us[newest] == vehicle.time_us and now_us < vehicle.valid_until_us:
                status[newest] = UNCHANGED

    def gather(
        self, vehicle_ix: Sequence[int], run_key: Sequence[int], pattern_ix: Sequence[int]
    ) -> list[tuple[float, int, int, int, int, float, float]]:
        found = []
        for ix, trip, pattern in zip(vehicle_ix, run_key, pattern_ix, strict=True):
            if ix >= 0 and pattern >= 0 and (self.at(ix).run_key, self.at(ix).pattern_ix) == (trip, pattern):
                v = self.at(ix)
                motion = v.next_stop, v.stop_since_us, v.speed_mps
                found.append((v.progress_m, v.time_us, v.strikes, *motion, v.fallback_m))
            else:
                found.append((math.nan, 0, 0, -1, 0, math.nan, math.nan))
        return found

    def commit(
        self,
        status: Sequence[int],
        vehicle_ix: Sequence[int],
        time_us: Sequence[int],
        valid_until_us: int,
        run_key: Sequence[int],
        pattern_ix: Sequence[int],
        progress_m: Sequence[float],
        strikes: Sequence[int],
        next_stop: Sequence[int],
        stop_since_us: Sequence[int],
        speed_mps: Sequence[float],
        fallback_m: Sequence[float],
    ) -> None:
        for row, ix in enumerate(vehicle_ix):
            if ix < 0 or status[row] not in (OK, TRIP_FINISHED, DIRECTION_UNKNOWN):
                continue
            if time_us[row] < self.at(ix).time_us:
                continue
            vehicle = self.at(ix)
            vehicle.time_us = time_us[row]
            vehicle.valid_until_us = valid_until_us if status[row] == OK else 0
            vehicle.run_key = run_key[row]
            vehicle.pattern_ix = pattern_ix[row]
            vehicle.progress_m = progress_m[row]
            vehicle.strikes = strikes[row]
            vehicle.next_stop = next_stop[row]
            vehicle.stop_since_us = stop_since_us[row]
            vehicle.speed_mps = speed_mps[row]
            vehicle.fallback_m = fallback_m[row]
            vehicle.known = True

    def forget_prediction(self, vehicle_ix: Sequence[int]) -> None:
        for ix in vehicle_ix:
            if ix >= 0:
                self.at(ix).valid_until_us = 0

    def evict(self, older_than_us: int) -> int:
        before = len(self.vehicles)
        self.vehicles = {key: v for key, v in self.vehicles.items() if v.seen_s >= seconds(older_than_us)}
        return before - len(self.vehicles)
