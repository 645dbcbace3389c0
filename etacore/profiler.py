"""Old name of `etacore.loop.latency`."""

from __future__ import annotations

from etacore._moved import forwarded

__getattr__ = forwarded(__name__, "etacore.loop.latency")
