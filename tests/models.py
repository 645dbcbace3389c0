"""Tiny XGBoost models for tests, each trained or compiled once per session."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from etacore.models.bundle import Bundle
from etacore.models.facts import ModelFacts
from etacore.models.forest import CPU, PLATFORM, sha256_hex
from etacore.models.manifest import LibraryFile, Manifest, Parity, SourceFile
from etacore.schema import BASE_FEATURES

if TYPE_CHECKING:
    from etacore.mlops.bundling.compile import CompiledModel
    from etacore.models.registry import Registry

FOLDER = Path(tempfile.mkdtemp(prefix="etacore-tests-"))
PARITY = Parity(rows=1, max_abs_error=0.0, bound=1.0)
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def data(n_rows: int = 600, n_features: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows with some NaN, and positive targets of some hundred seconds."""
    rng = np.random.default_rng(seed)
    X = rng.random((n_rows, n_features)).astype(np.float32) * np.float32(20.0)
    y = 30 * X[:, 0] + 5 * X[:, 1] * (X[:, 2] > 10) + rng.random(n_rows)
    X[rng.random(X.shape) < 0.05] = np.nan
    return X, np.nan_to_num(y, nan=50.0) + 1.0


@functools.cache
def save(
    name: str = "tiny",
    *,
    rounds: int = 12,
    names: tuple[str, ...] | None = BASE_FEATURES,
    suffix: str = "json",
    **params: Any,
) -> Path:
    """A small model saved by XGBoost; more keywords are training parameters."""
    import xgboost

    n_features = len(names) if names else 7
    X, y = data(n_features=n_features)
    objective = params.get("objective", "reg:squarederror")
    fields: dict[str, Any] = {}
    if objective == "reg:logistic":
        y = y / (y.max() + 1.0)
    elif objective.startswith(("binary", "rank")):
        y = (y > np.median(y)).astype(np.float32)
    elif objective.startswith("multi"):
        y = np.arange(len(y)) % 3
    if objective.startswith("rank"):
        fields["qid"] = np.zeros(len(y), np.int32)
    if params.pop("targets", 1) == 2:
        y = np.c_[y, 2 * y]
    matrix = xgboost.DMatrix(X, y, feature_names=list(names) if names else None, **fields)
    booster = xgboost.train({"max_depth": 4, "seed": 3, "nthread": 2, **params}, matrix, rounds)
    path = FOLDER / f"{name}.{suffix}"
    booster.save_model(path)
    return path


@functools.cache
def compiled(path: Path) -> CompiledModel:
    """A model of `save`, compiled."""
    from etacore.mlops.bundling.compile import compile_model

    return compile_model(path)


def bundle(key: str, *, library: bytes | None = None, **changes: Any) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and files of a bundle; without `library`, one that cannot be mapped and is quick to make."""
    library = b"not a library" if library is None else library
    source = b'{"learner":{}}'
    named = LibraryFile("forest.so", sha256_hex(library), PLATFORM, CPU, "tl2cgen", "cc")
    fields: dict[str, Any] = {
        "model_type": "xgboost",
        "dataset": "d",
        "route_id": None,
        "saved_at": "2026-01-02T03:04:05+00:00",
        "features": BASE_FEATURES,
        "time_zone": "America/Costa_Rica",
        "source": SourceFile("model.json", sha256_hex(source)),
        "libraries": (named,),
        "parity": None,
        **changes,
    }
    return Manifest(model_key=key, **fields), {"model.json": source, "forest.so": library}


def add_table(registry: Registry, key: str, *, seconds: float = 60.0, **changes: Any) -> str:
    """A model that can be served and is quick to make: it always predicts `seconds`."""
    content = orjson.dumps({"kind": "mean_table", "keys": [], "values": [], "default": seconds})
    source = SourceFile("model.json", sha256_hex(content))
    manifest, _ = bundle(key, **{"source": source, "libraries": (), "predictor": "mean_table", **changes})
    return registry.add(Bundle(manifest, {"model.json": content}))


def add_predictor(
    registry: Registry,
    *,
    content: bytes,
    typical: bytes | None = None,
    model_key: str | None = None,
    saved_at: datetime | None = None,
    **facts: Any,
) -> str:
    """A polynomial or a table of means, bundled as training does it; more keywords are `ModelFacts`."""
    from etacore.mlops.bundling.saving import bundle_predictor

    bundle = bundle_predictor(content, ModelFacts(**facts), typical=typical, model_key=model_key, saved_at=saved_at)
    return registry.add(bundle)
