"""Datasets: from recorded positions and a timetable to rows of features with the time of arrival."""
