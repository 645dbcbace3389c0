"""Which models the loop serves: those it starts with, those that are announced, those that somebody asks for."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

from etacore.config import RuntimeConfig
from etacore.errors import EtacoreError, RegistryError
from etacore.models.choice import Models, choose_models
from etacore.models.model import Model
from etacore.models.registry import open_registry
from etacore.models.short_ids import resolve_key
from etacore.pipeline.engine import Engine
from etacore.store.announcement import announced_key
from etacore.store.store import RedisStore

log: Final = logging.getLogger("etacore.runtime")

RETRY_PROMOTION_S: Final = 5.0


class ModelSwitch:
    """Watches ``eta:active_model`` and serves requests; a model that does not load is refused, and the old one goes on.

    Parameters
    ----------
    config : RuntimeConfig
        With a ``model_key``, announcements are not looked at.
    store : RedisStore
    on_refusal : callable
        Told the key and the reason.
    """

    def __init__(self, config: RuntimeConfig, store: RedisStore, on_refusal: Callable[[str, str], None]) -> None:
        self._config: Final = config
        self._store: Final = store
        self._registry: Final = open_registry(config.model_registry_dir)
        self._on_refusal: Final = on_refusal
        self._announced: bytes | None = None
        self._refused: bytes | None = None
        self._retry_at = 0.0
        self._requested: Final[deque[str]] = deque(maxlen=1)

    def initial(self) -> Models:
        """What to start with.

        Raises
        ------
        ModelNotFoundError, ModelLoadError, SchemaError
            If no model can be served.
        """
        models = choose_models(self._registry, self._config.model_key)
        if self._config.model_key is None:
            announcement = self._store.active_model()
            if announcement and (model := self._load_announced(announcement)):
                return models.with_promoted(model)
        return models

    @property
    def is_due(self) -> bool:
        """Whether a refused announcement is to be tried again, which may be served once its files are there."""
        return self._refused is not None and monotonic() >= self._retry_at

    def look(self, engine: Engine) -> None:
        """Take over what is announced, if it is new."""
        if self._config.model_key is not None:
            return
        announcement = self._store.active_model()
        if not announcement or announcement == self._announced:
            self._refused = None  # nothing is left to be tried again
            return
        if announcement == self._refused and monotonic() < self._retry_at:
            return
        if model := self._load_announced(announcement):
            _take_over(engine, model)

    def _load_announced(self, announcement: bytes) -> Model | None:
        """The announced model; None if it cannot be served, which is said once and tried again later."""
        key = announced_key(announcement)
        try:
            if key is None:
                raise RegistryError(f"{self._config.keys.active_model} holds no announcement")
            model = self._registry.load(key)
        except EtacoreError as error:
            if announcement != self._refused:
                self._refuse(key or "?", error)
            self._refused, self._retry_at = announcement, monotonic() + RETRY_PROMOTION_S
            return None
        self._announced, self._refused = announcement, None
        return model

    def request(self, model_key: str) -> None:
        """Ask for another model, from any thread; of several requests the last one counts."""
        self._requested.append(model_key)

    def serve_request(self, engine: Engine) -> None:
        """Take over what was asked for, if anything was."""
        if not self._requested:
            return
        key = self._requested.popleft()
        try:
            _take_over(engine, self._registry.load(resolve_key(self._registry, key, advice="set model_key")))
        except EtacoreError as error:
            self._refuse(key, error)

    def _refuse(self, model_key: str, error: EtacoreError) -> None:
        log.error("refused model %s, the old one goes on: %s", model_key, error.message)
        self._on_refusal(model_key, error.message)


def _take_over(engine: Engine, model: Model) -> None:
    engine.models = engine.models.with_promoted(model)
    log.info("now serving %s", model.key)
