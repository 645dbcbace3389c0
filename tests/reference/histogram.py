"""Slow twin of `etacore._kernels.histogram`: a sorted list of bucket edges, and the values themselves."""

import math
from bisect import bisect_right
from itertools import pairwise

EDGES = [float(us) for us in range(64)] + [float((64 + sub) << octave) for octave in range(25) for sub in range(64)]


class Histogram:
    def __init__(self) -> None:
        self.values: list[float] = []
        self.total = 0.0

    def record(self, value_us: float, count: int = 1) -> None:
        if not 0 <= value_us < math.inf or count < 0:
            raise ValueError
        self.values += [value_us] * count
        self.total += value_us * count

    def merge(self, other: "Histogram") -> None:
        self.values += other.values
        self.total += other.total

    def buckets(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for value in sorted(self.values):
            bucket = bisect_right(EDGES, value) - 1
            found[bucket] = found.get(bucket, 0) + 1
        return found

    def percentile(self, percent: float) -> float:
        if not self.values:
            return 0.0
        rank = math.ceil(percent * len(self.values) / 100)
        low, high = min(self.values), max(self.values)
        if rank <= 1:
            return low
        if rank >= len(self.values):
            return high
        bucket = bisect_right(EDGES, sorted(self.values)[rank - 1]) - 1
        if bucket == len(EDGES) - 1:
            return high
        return min(max((EDGES[bucket] + EDGES[bucket + 1]) / 2, low), high)

    def equal_bins(self, n_bins: int) -> tuple[list[float], list[int]]:
        if not self.values:
            return [0.0] * (n_bins + 1), [0] * n_bins
        low, high = min(self.values), max(self.values)
        edges = [low + (high - low) * (b / n_bins) for b in range(n_bins)] + [high]
        if low == high:
            return edges, [len(self.values)] + [0] * (n_bins - 1)
        # One minimum and one maximum stay where they are; the others lie evenly in their buckets.
        inner = self.buckets()
        for value in (low, high):
            inner[bisect_right(EDGES, value) - 1] -= 1
        below = [0]
        for edge in edges[1:-1]:
            n_below = 1
            for bucket, count in inner.items():
                end = EDGES[bucket + 1] if bucket + 1 < len(EDGES) else math.inf
                if end <= edge:
                    n_below += count
                elif EDGES[bucket] <= edge:
                    left, right = max(EDGES[bucket], low), min(end, high)
                    if right > left:
                        n_below += round(count * min(max((edge - left) / (right - left), 0.0), 1.0))
            below.append(n_below)
        below.append(len(self.values))
        return edges, [after - before for before, after in pairwise(below)]
