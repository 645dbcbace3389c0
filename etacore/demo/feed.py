"""The city's timetable as others read it: a GTFS feed on disk, and the keys that the loop reads."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from etacore.demo.city import TIME_ZONE, City
from etacore.demo.timetable import WEEKDAY, WEEKEND, Timetable, build_timetable
from etacore.mlops.transit import patterns as seeding
from etacore.schema import service_time_text

Row = Sequence[str | int | float]


def write_gtfs(city: City, path: Path, first_day: date, n_days: int = 28) -> Path:
    """Write the city as a GTFS feed.

    Parameters
    ----------
    city : City
        Its weekday and its weekend timetable are written.
    path : Path
        A folder, made if it is not there, or a file name that ends in ``.zip``.
    first_day : date
        First service day of the feed.
    n_days : int
        Days that it is valid.

    Returns
    -------
    Path
        `path`.
    """
    tables = dict(_tables(city, first_day, first_day + timedelta(days=n_days - 1)))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in tables.items():
                # A fixed time stamp: the same city is the same file.
                archive.writestr(zipfile.ZipInfo(f"{name}.txt"), text, zipfile.ZIP_DEFLATED)
    else:
        path.mkdir(parents=True, exist_ok=True)
        for name, text in tables.items():
            (path / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
    return path


def redis_pairs(city: City, timetable: Timetable) -> Iterator[tuple[str, bytes]]:
    """Keys and values that tell the loop about the stops: those of `etacore.mlops.transit.patterns.seed_pairs`.

    Parameters
    ----------
    city : City
        Its patterns are seeded under their own names.
    timetable : Timetable
        Its trips get a ``trip_pattern:`` each.
    """
    patterns, shapes = [], {}
    for pattern in city.patterns:
        stops = [city.stops[ix] for ix in pattern.stop_ix]
        shapes[pattern.pattern_id] = seeding.Shape(pattern.shape_lat, pattern.shape_lon)
        patterns.append(
            seeding.Pattern(
                pattern.pattern_id,
                pattern.route_id,
                pattern.direction_id,
                pattern.pattern_id,
                tuple(stop.stop_id for stop in stops),
                np.array([stop.lat for stop in stops]),
                np.array([stop.lon for stop in stops]),
                pattern.stop_sequence.astype(np.int32),
                tuple(stop.name for stop in stops),
            )
        )
    trips = {trip.trip_id: city.patterns[trip.pattern_ix].pattern_id for trip in timetable.trips}
    return seeding.seed_pairs(patterns, trips, shapes)


def _tables(city: City, first_day: date, last_day: date) -> Iterator[tuple[str, str]]:
    timetables = [build_timetable(city, service) for service in (WEEKDAY, WEEKEND)]
    period = (f"{first_day:%Y%m%d}", f"{last_day:%Y%m%d}")
    yield (
        "agency",
        _csv(
            "agency_id,agency_name,agency_url,agency_timezone,agency_lang",
            [("city", "City Buses", "https://example.org", TIME_ZONE, "en")],
        ),
    )
    yield (
        "feed_info",
        _csv(
            "feed_publisher_name,feed_publisher_url,feed_lang,feed_start_date,feed_end_date,feed_version",
            [("City Buses", "https://example.org", "en", *period, f"seed-{city.seed}")],
        ),
    )
    yield (
        "calendar",
        _csv(
            "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date",
            [(WEEKDAY, 1, 1, 1, 1, 1, 0, 0, *period), (WEEKEND, 0, 0, 0, 0, 0, 1, 1, *period)],
        ),
    )
    yield (
        "routes",
        _csv(
            "route_id,agency_id,route_short_name,route_long_name,route_type,route_color,route_text_color",
            [(r.route_id, "city", r.route_id.replace("_", ""), r.name, 3, r.color, "FFFFFF") for r in city.routes],
        ),
    )
    yield (
        "stops",
        _csv(
            "stop_id,stop_name,stop_lat,stop_lon",
            [(stop.stop_id, stop.name, f"{stop.lat:.6f}", f"{stop.lon:.6f}") for stop in city.stops],
        ),
    )
    yield "shapes", _csv("shape_id,shape_pt_lat,shape_pt_lon,shape_pt_sequence,shape_dist_traveled", _shapes(city))
    yield (
        "trips",
        _csv(
            "route_id,service_id,trip_id,trip_headsign,direction_id,block_id,shape_id",
            _trips(city, timetables),
        ),
    )
    yield (
        "stop_times",
        _csv(
            "trip_id,arrival_time,departure_time,stop_id,stop_sequence,shape_dist_traveled",
            _stop_times(city, timetables),
        ),
    )


def _shapes(city: City) -> Iterator[Row]:
    for pattern in city.patterns:
        line = zip(pattern.shape_lat, pattern.shape_lon, pattern.shape_s_m, strict=True)
        for sequence, (lat, lon, s_m) in enumerate(line, start=1):
            yield pattern.pattern_id, f"{lat:.6f}", f"{lon:.6f}", sequence, f"{s_m:.1f}"


def _trips(city: City, timetables: Iterable[Timetable]) -> Iterator[Row]:
    for timetable in timetables:
        for trip in timetable.trips:
            pattern = city.patterns[trip.pattern_ix]
            yield (
                pattern.route_id,
                timetable.service,
                trip.trip_id,
                pattern.headsign,
                pattern.direction_id,
                f"{timetable.service}-{trip.vehicle + 1}",
                pattern.pattern_id,
            )


def _stop_times(city: City, timetables: Iterable[Timetable]) -> Iterator[Row]:
    stop_ids = [stop.stop_id for stop in city.stops]
    for timetable in timetables:
        for trip in timetable.trips:
            pattern = city.patterns[trip.pattern_ix]
            columns = (pattern.stop_ix, pattern.stop_sequence, pattern.stop_s_m, trip.stop_times_s)
            for stop, sequence, s_m, at_s in zip(*(column.tolist() for column in columns), strict=True):
                at = service_time_text(int(at_s))
                yield trip.trip_id, at, at, stop_ids[stop], sequence, f"{s_m:.1f}"


def _csv(header: str, rows: Iterable[Row]) -> str:
    text = io.StringIO()
    text.write(header + "\r\n")
    csv.writer(text).writerows(rows)
    return text.getvalue()
