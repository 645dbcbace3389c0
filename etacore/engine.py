"""Old name of `etacore.pipeline.engine`."""

from __future__ import annotations

from etacore._moved import forwarded

__getattr__ = forwarded(
    __name__, "etacore.pipeline.engine", {"Models": "etacore.models.choice", "choose_models": "etacore.models.choice"}
)
