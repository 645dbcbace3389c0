"""A small dataset and models whose predictions can be worked out by hand, for the tests of evaluation."""

from __future__ import annotations

import functools
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from etacore.mlops.dataset.layout import Dataset
from etacore.models.registry import Registry
from tests import models, training_data
from tests.models import FOLDER
from tests.training_data import FIRST_DAY

N_DAYS = 6


def day(i: int) -> date:
    return FIRST_DAY + timedelta(days=i)


@functools.cache
def rows() -> pl.DataFrame:
    """Six days; seven of ten rows have a scheduled arrival, half a minute before the real one on average."""
    frame = training_data.frame(N_DAYS, {"r1": 6, "r2": 6})
    rng = np.random.default_rng(0)
    early_us = pl.lit(pl.Series(rng.normal(-30e6, 60e6, frame.height))).cast(pl.Int64)
    scheduled = pl.col("interpolated_arrival") + pl.duration(microseconds=early_us)
    return frame.with_columns(scheduled_arrival=pl.when(pl.Series(rng.random(frame.height) < 0.7)).then(scheduled))


@functools.cache
def dataset(name: str = "week", time_zone: str = "UTC") -> Dataset:
    return training_data.save(rows(), FOLDER / f"{name}.parquet", time_zone=time_zone)


def part(data: Dataset, days: tuple[date, ...], path: Path, **fields: Any) -> Dataset:
    """Some days of a dataset as one of their own."""
    return training_data.save(data.frame.filter(pl.col("service_date").is_in(days)), path, **fields)


_saved = 0


def linear(
    registry: Registry,
    data: Dataset,
    slope: float,
    offset_s: float = 0.0,
    *,
    features: tuple[str, ...] = ("distance_to_stop",),
    provenance: dict[str, Any] | None = None,
    trained_on: tuple[int, ...] = (0, 1, 2),
    **fields: Any,
) -> str:
    """A model of ``offset_s + slope * distance_to_stop``; saved a second after the one before."""
    global _saved
    _saved += 1
    content = {
        "kind": "polynomial",
        "intercept": offset_s,
        "terms": [{"feature": 0, "power": 1, "mean": 0.0, "scale": 1.0, "coefficient": slope}],
    }
    known = {
        "dataset_sha256": data.sha256,
        "label": "rule",
        "train_days": [day(i).isoformat() for i in trained_on],
        "validation_days": [day(3).isoformat()],
        "test_days": [day(4).isoformat(), day(5).isoformat()],
    }
    saved_at = datetime(2026, 4, 1, tzinfo=UTC) + timedelta(seconds=_saved)
    given = {
        "model_type": "polyreg_distance",
        "dataset": data.name,
        "time_zone": data.time_zone,
        "distance": data.distance,
        "saved_at": saved_at,
        "hyperparameters": {"degree": 1, "seed": _saved},
        **fields,
    }
    return models.add_predictor(
        registry,
        content=json.dumps(content).encode(),
        features=features,
        provenance=known if provenance is None else provenance,
        **given,
    )


def by_hand(data: Dataset, slope: float, offset_s: float = 0.0, *, days: tuple[int, ...] = (4, 5)) -> pl.DataFrame:
    """Held-out rows with what `linear` predicts for them."""
    frame = data.frame.filter(pl.col("service_date").is_in([day(i) for i in days]))
    return frame.with_columns(predicted=(offset_s + slope * pl.col("distance_to_stop")).clip(0, 7200))
