"""`etacore doctor`: what could keep the loop from running here, and what to do about it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Final

from etacore.config import RuntimeConfig
from etacore.errors import EtacoreError, ModelLoadError, ModelNotFoundError, SchemaError
from etacore.extras import absent_packages, install_hint, installed_xgboosts
from etacore.finding import Finding
from etacore.loop.explain import serving_models
from etacore.loop.sample import examine_sample
from etacore.models.choice import Models
from etacore.models.registry import open_registry
from etacore.models.short_ids import resolve_key
from etacore.store.changes import ChangeFeed
from etacore.store.store import RedisStore

DEFAULT_SAMPLE: Final = 200


def examine(config: RuntimeConfig, n_sample: int = DEFAULT_SAMPLE) -> Iterator[Finding]:
    """Look at Redis, so many of its vehicles, the registry, its bundles and the tools, and yield what was found."""
    yield from _redis(config, n_sample)
    yield from _models(config)
    yield _compiler()
    yield _tools()


def _redis(config: RuntimeConfig, n_sample: int) -> Iterator[Finding]:
    try:
        with RedisStore(config) as store:
            store.ping()
            version = store.server_version()
            yield Finding("redis", "", "ok", f"{store.where}, {version}" if version else store.where)
            keys = store.scan_vehicle_keys()
            if keys:
                yield Finding("vehicles", "", "ok", f"{len(keys)} keys match {config.keys.vehicle_pattern}")
                yield from _sample(config, store, keys, n_sample)
            else:
                yield Finding(
                    "vehicles",
                    "",
                    "warning",
                    f"no key matches {config.keys.vehicle_pattern}",
                    "start the producer, or check redis_db and the key pattern",
                )
    except EtacoreError as error:
        yield Finding("redis", "", "error", error.message, error.hint or "")
    else:
        yield _events(config)


def _sample(config: RuntimeConfig, store: RedisStore, keys: list[bytes], n_sample: int) -> Iterator[Finding]:
    if n_sample == 0:
        return
    try:
        models, notes = serving_models(config, store)
    except (ModelNotFoundError, ModelLoadError, SchemaError):
        models, notes = Models(None), []  # what is wrong with the named one is said of the registry
    for note in notes:
        yield Finding("serving", "", "warning", note)
    yield from examine_sample(config, store, models, keys, n_sample)


def _events(config: RuntimeConfig) -> Finding:
    try:
        ChangeFeed(config).close()
    except EtacoreError as error:
        return Finding("events", "", "warning", error.message, error.hint or "")
    return Finding("events", "", "ok", "client tracking works: changes are served as they come")


def _models(config: RuntimeConfig) -> Iterator[Finding]:
    registry = open_registry(config.model_registry_dir)
    try:
        keys = (
            [resolve_key(registry, config.model_key, advice="set model_key")] if config.model_key else registry.keys()
        )
    except EtacoreError as error:
        yield Finding("registry", "", "error", error.message, error.hint or "")
        return
    for key, reason in registry.refused().items():
        yield Finding("model", key, "error", reason)
    if not keys:
        yield Finding(
            "registry",
            "",
            "error",
            f"{registry.path} holds no model",
            "set MODEL_REGISTRY_DIR, or add one with `etacore compile MODEL`",
        )
        return
    yield Finding("registry", "", "ok", f"{registry.path}, {len(keys)} model{'s' if len(keys) > 1 else ''}")
    for key in keys:
        try:
            model = registry.load(key)
        except EtacoreError as error:
            yield Finding("model", key, "error", error.message, error.hint or "")
        else:
            yield Finding("model", key, "ok", f"hash and schema match, {len(model.features)} features, {model.scope}")


def _compiler() -> Finding:
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return Finding("compiler", "", "ok", path)
    return Finding(
        "compiler",
        "",
        "warning",
        "none found: models compiled elsewhere can be served, new ones cannot be compiled here",
        "apt-get install gcc libc6-dev",
    )


def _tools() -> Finding:
    if absent := absent_packages("xgboost", "treelite", "tl2cgen"):
        return Finding("training", "", "warning", f"{', '.join(absent)} not installed", install_hint("train"))
    if len(both := sorted(installed_xgboosts())) > 1:
        return Finding(
            "training",
            "",
            "error",
            f"{' and '.join(both)} are both installed, and one has overwritten files of the other",
            f"pip uninstall {' '.join(both)}, then install one of the extras train (xgboost-cpu), train-gpu (xgboost)",
        )
    return Finding("training", "", "ok", "xgboost, treelite and tl2cgen are installed")
