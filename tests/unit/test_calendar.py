import random
from datetime import UTC, date, datetime, timedelta

import pytest

from etacore.errors import ConfigError
from etacore.pipeline.calendar import Calendar
from tests.reference.drive import Vehicle, line_of_stops, table_of
from tests.reference.features import calendar_features

NAMES = ("hour", "day_of_week", "is_weekend", "is_peak_hour", "is_holiday")
ZONES = (
    "UTC",
    "America/Costa_Rica",
    "America/Toronto",
    "Europe/Dublin",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
)


def told(calendar, time_us):
    vehicle = Vehicle(table_of(line_of_stops(3)))
    vehicle.fix(lat=45.001, lon=7.0, time_us=time_us)
    return {name: vehicle.rows(calendar, 1)[0][0][name] for name in NAMES}


def us(*args):
    return round(datetime(*args, tzinfo=UTC).timestamp() * 1e6)


@pytest.mark.parametrize("zone", ZONES)
def test_random_times_agree_with_zoneinfo(zone):
    rng, calendar = random.Random(zone), Calendar(zone)
    for _ in range(60):
        time_us = rng.randrange(us(1970, 1, 2), us(2099, 1, 1))
        assert told(calendar, time_us) == calendar_features(time_us, zone)


@pytest.mark.parametrize("zone", ["America/Toronto", "Australia/Lord_Howe", "Africa/Casablanca"])
def test_both_sides_of_every_third_change(zone):
    calendar = Calendar(zone)
    assert len(calendar.transitions_s) > 50
    for begin_s in calendar.transitions_s[1::3].tolist():
        for time_us in (begin_s * 1_000_000 - 1, begin_s * 1_000_000):
            assert told(calendar, time_us) == calendar_features(time_us, zone)


def test_one_batch_that_jumps_between_offsets_and_days():
    calendar = Calendar("America/Toronto", [date(2016, 7, 1)])
    for time_us in (
        us(2016, 7, 1, 12),
        us(2016, 12, 1, 12),
        us(2016, 7, 1, 12),
        us(2016, 7, 2, 3, 59),
        us(2016, 7, 2, 4),
    ):
        assert told(calendar, time_us) == calendar_features(time_us, "America/Toronto", {date(2016, 7, 1)})


def test_before_1970_and_after_2100_keep_the_nearest_offset():
    calendar = Calendar("America/Costa_Rica")
    assert told(calendar, us(1969, 12, 28, 3))["hour"] == 21.0
    assert told(calendar, us(1969, 12, 28, 3))["day_of_week"] == 5.0
    assert told(calendar, us(2150, 6, 1, 12))["hour"] == 6.0


def test_holidays_are_local_days():
    calendar = Calendar("America/Costa_Rica", [date(2025, 12, 25), date(2025, 1, 1), date(2025, 12, 25)])
    assert calendar.holiday_days.tolist() == sorted(set(calendar.holiday_days.tolist()))
    assert told(calendar, us(2025, 12, 26, 5, 59, 59))["is_holiday"] == 1.0
    assert told(calendar, us(2025, 12, 26, 6))["is_holiday"] == 0.0
    assert told(calendar, us(2025, 12, 25, 5, 59, 59))["is_holiday"] == 0.0


@pytest.mark.parametrize("n", range(1, 10))
def test_of_any_number_of_holidays_each_is_found_the_first_and_the_last_too(n):
    first = date(2025, 4, 1)
    holidays = [first + timedelta(days=3 * i) for i in range(n)]
    calendar = Calendar("UTC", holidays[::-1])
    days = [first + timedelta(days=i) for i in range(-2, 3 * n + 2)]
    found = [told(calendar, us(day.year, day.month, day.day, 12))["is_holiday"] for day in days]
    assert found == [float(day in holidays) for day in days]


def test_the_last_moment_of_the_last_holiday_is_one():
    for zone, first_us in (("Pacific/Auckland", us(2025, 12, 30, 11)), ("Pacific/Honolulu", us(2025, 12, 31, 10))):
        calendar = Calendar(zone, [date(2025, 12, 25), date(2025, 12, 31)])
        moments = (first_us - 1, first_us, first_us + 86_400_000_000 - 1, first_us + 86_400_000_000)
        assert [told(calendar, time_us)["is_holiday"] for time_us in moments] == [0.0, 1.0, 1.0, 0.0]


def test_the_last_change_of_a_zone_and_what_comes_after_it():
    calendar = Calendar("Asia/Tokyo")  # summer time until 1951; before 1970 there is but one offset
    assert len(calendar.transitions_s) == 1
    assert told(calendar, us(2026, 6, 1, 14, 59, 59))["hour"] == 23.0
    samoa = Calendar("Pacific/Apia")
    last_s = int(samoa.transitions_s[-1])
    assert (len(samoa.transitions_s) > 5, samoa.offset_s[-1], samoa.offset_s[-2]) == (True, 13 * 3600, 14 * 3600)
    for time_us in (last_s * 1_000_000 - 1, last_s * 1_000_000, us(2090, 1, 1)):
        assert told(samoa, time_us) == calendar_features(time_us, "Pacific/Apia")


def test_peak_hours():
    calendar = Calendar("UTC")
    monday = datetime(2025, 6, 2, tzinfo=UTC)
    hours = [
        [told(calendar, us(*(monday + timedelta(days=d, hours=h)).timetuple()[:4]))["is_peak_hour"] for h in range(24)]
        for d in (0, 5)
    ]
    assert [h for h in range(24) if hours[0][h]] == [7, 8, 9, 16, 17, 18, 19]
    assert not any(hours[1])


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd"])
def test_unknown_zone(zone):
    with pytest.raises(ConfigError, match="time zone"):
        Calendar(zone)
