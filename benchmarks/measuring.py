"""What the benchmarks say about themselves, for the report, and how documents are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal

import orjson

OURS: Final = "etacore"
Unit = Literal["us/vehicle", "us/row", "us/call", "s", "ms", "MB", "%"]
EDGE: Final = {"eta_seconds": 0.1, "eta_minutes": 0.01, "distance_to_stop_m": 0.1}
"""One unit in the last place of each rounded field: float32 sums may fall on either side of a rounding edge."""


def describe(benchmark: Any, stage: str, side: str, *, size: int = 1, unit: Unit = "us/vehicle") -> None:
    """Name what is measured: `side` does the work of `stage` on `size` units; the report divides by `size`."""
    benchmark.group = f"{stage} {size}"
    benchmark.extra_info.update(stage=stage, side=side, size=size, unit=unit)


def report_value(benchmark: Any, value: float) -> None:
    """Report this number instead of the measured time."""
    benchmark.extra_info["value"] = value


def differences(ours: Sequence[bytes], theirs: Sequence[bytes]) -> tuple[int, int]:
    """Compare documents; the latency they carry is left out.

    Returns
    -------
    n_fields : int
        Predicted stops compared.
    n_edges : int
        Stops in which a rounded number differs by one unit in the last place.

    Raises
    ------
    AssertionError
        If documents differ by more.
    """
    assert len(ours) == len(theirs)
    n_stops = n_edges = 0
    for mine, other in zip(map(_document, ours), map(_document, theirs), strict=True):
        assert list(mine) == list(other)
        my_stops, other_stops = mine.pop("predictions"), other.pop("predictions")
        assert mine == other
        assert len(my_stops) == len(other_stops)
        n_stops += len(my_stops)
        n_edges += sum(_is_edge(a, b) for a, b in zip(my_stops, other_stops, strict=True))
    return n_stops, n_edges


def _document(text: bytes) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(text)
    assert document.pop("prefect_pipeline_latency_ms") >= 0
    return document


def _is_edge(mine: dict[str, Any], other: dict[str, Any]) -> bool:
    assert list(mine) == list(other)
    if mine == other:
        return False
    assert (mine["stop_id"], mine["stop_sequence"]) == (other["stop_id"], other["stop_sequence"])
    for name, unit in EDGE.items():
        assert math.isclose(mine[name], other[name], rel_tol=0, abs_tol=1.001 * unit), (mine, other)
    # The text and the time follow the unrounded seconds, which differ by float32's own precision.
    times = [datetime.fromisoformat(stop["eta_timestamp"]).timestamp() for stop in (mine, other)]
    assert math.isclose(*times, rel_tol=0, abs_tol=1e-3), (mine, other)
    return any(mine[name] != other[name] for name in EDGE)
