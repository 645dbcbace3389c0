"""Old name of `etacore.loop.runtime`."""

from __future__ import annotations

from etacore._moved import forwarded

__getattr__ = forwarded(__name__, "etacore.loop.runtime", {"announced_key": "etacore.store.announcement"})
