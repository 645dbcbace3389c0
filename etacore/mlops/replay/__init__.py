"""Recorded positions through the real loop, and how good its predictions were."""
