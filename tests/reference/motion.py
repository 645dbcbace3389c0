"""Motion of one vehicle between two fixes. Obvious, slow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TAU_S = 60.0
MAX_SPEED_MPS = 40.0


@dataclass(frozen=True)
class Remembered:
    """What is kept of a vehicle's last fix on a trip and pattern."""

    progress_m: float
    time_us: int
    stop: int
    since_us: int
    speed_mps: float


def measure(before, progress_m, time_us, stop, reset_after_s=3600.0):
    """(speed_mps, since_us, since_s) of a fix; `before` is what is remembered, or None at the first fix."""
    if before is None or math.isnan(before.progress_m) or time_us - before.time_us > reset_after_s * 1e6:
        return math.nan, time_us, math.nan
    speed_mps = before.speed_mps
    elapsed_s = (time_us - before.time_us) / 1e6
    if elapsed_s > 0:
        measured = min(max((progress_m - before.progress_m) / elapsed_s, 0.0), MAX_SPEED_MPS)
        if math.isnan(before.speed_mps):
            speed_mps = measured
        else:
            alpha = 1 - math.exp(-elapsed_s / TAU_S)
            speed_mps = alpha * measured + (1 - alpha) * before.speed_mps
    since_us = before.since_us if stop == before.stop else time_us
    since_s = math.nan if math.isnan(speed_mps) else (time_us - since_us) / 1e6
    return float(np.float32(speed_mps)), since_us, since_s
