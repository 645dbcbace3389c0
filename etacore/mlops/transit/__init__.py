"""Recorded transit data: timetables, positions, arrivals, and what surrounds them."""
