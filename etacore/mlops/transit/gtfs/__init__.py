"""Reads a GTFS feed (zip file or folder) into columns."""

from etacore.mlops.transit.gtfs.calendar import Services
from etacore.mlops.transit.gtfs.feed import Feed, read_feed
from etacore.mlops.transit.gtfs.frequencies import Frequencies
from etacore.mlops.transit.gtfs.stop_times import NO_TIME
from etacore.mlops.transit.gtfs.trips import Trips

__all__ = ["NO_TIME", "Feed", "Frequencies", "Services", "Trips", "read_feed"]
