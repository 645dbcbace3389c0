"""The time zone of a GTFS feed: agency.txt, and routes.txt where agencies have different ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import polars as pl

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs.files import FeedFiles, Notes, shown


def read_time_zone(files: FeedFiles, n_trips: Mapping[str, int], notes: Notes) -> str:
    """The zone in which most trips run.

    Parameters
    ----------
    files : FeedFiles
        Of the feed.
    n_trips : mapping of route id to int
        Trips of each route.
    notes : Notes
        Gets what was odd.

    Raises
    ------
    FeedError
        If no agency has a time zone that is known.
    """
    name = "agency.txt"
    frame = files.read(name, ("agency_timezone",), ("agency_id",))
    known = {text: _known_zone(text) for text in frame["agency_timezone"].unique().drop_nulls()}
    zone = pl.col("agency_timezone").replace_strict(known, default=None, return_dtype=pl.String)
    frame = frame.with_columns(zone.alias("zone"))
    if frame["zone"].null_count() == len(frame):
        if (given := frame.drop_nulls("agency_timezone")).is_empty():
            said = "; ".join(line for line in notes.lines if line.startswith(name))
            raise FeedError(f"{files.path}: {name} gives no agency_timezone", hint=said or None)
        text, row = given["agency_timezone"][0], given["row"][0]
        raise FeedError(
            f"{files.path}: {name} row {row}: agency_timezone {shown(text)} is not known",
            hint="write a name of the tz database, for example America/Toronto",
        )
    column = "agency_timezone"
    frame = notes.drop(name, frame, pl.col(column).is_null(), "agency_timezone is missing", "agency_id")
    frame = notes.drop(name, frame, pl.col("zone").is_null(), "agency_timezone is not known", column)
    for text, understood in known.items():
        if understood is not None and understood != text:
            notes.add(f"{name}: agency_timezone {shown(text)} is taken as {understood}")
    return str(frame["zone"][0]) if frame["zone"].n_unique() == 1 else _zone_of_most_trips(files, frame, n_trips, notes)


def _known_zone(text: str) -> str | None:
    """The name in the tz database, whatever the case of letters; None if it is in none."""
    try:
        return ZoneInfo(text).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        plain = text.replace(" ", "_").casefold()
        return next((zone for zone in sorted(available_timezones()) if zone.casefold() == plain), None)


def _zone_of_most_trips(files: FeedFiles, agencies: pl.DataFrame, n_trips: Mapping[str, int], notes: Notes) -> str:
    zones: list[str] = agencies["zone"].to_list()
    zone_of = dict(zip(reversed(agencies["agency_id"].to_list()), reversed(zones), strict=True))
    routes = files.read_optional("routes.txt", ("route_id",), ("agency_id",))
    count = Counter(dict.fromkeys(zones, 0))
    if routes is None:
        routes = pl.DataFrame(schema={"route_id": pl.String, "agency_id": pl.String})
    for route_id, agency_id in routes.unique("route_id", keep="first").select("route_id", "agency_id").iter_rows():
        zone = zones[0] if agency_id is None else zone_of.get(agency_id)
        if zone is not None:
            count[zone] += n_trips.get(route_id, 0)
    chosen = count.most_common(1)[0][0]
    listed = ", ".join(f"{zone} ({n} trips)" for zone, n in count.most_common())
    notes.add(f"agency.txt: several time zones, {listed}: all times are taken as those of {chosen}")
    return chosen
