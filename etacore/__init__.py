"""etacore: real-time arrival predictions for public transit."""

__version__ = "0.1.0"
