"""Old name of `etacore.models.registry`."""

from __future__ import annotations

from etacore._moved import forwarded

__getattr__ = forwarded(__name__, "etacore.models.registry")
