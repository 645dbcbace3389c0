"""Keeps a GTFS feed in Redis: looks for a new version, swaps it, and remembers what it wrote."""

from etacore.mlops.transit.seeding.seeder import RETIRED_S, Seeded, Seeder

__all__ = ["RETIRED_S", "Seeded", "Seeder"]
