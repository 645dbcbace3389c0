from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from etacore.errors import DatasetError
from etacore.mlops.transit.weather import (
    WEATHER_COLUMNS,
    ArchiveWeather,
    FileWeather,
    attach_weather,
    n_without_weather,
)

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)


def rows(*places: tuple[datetime | None, float | None, float | None]) -> pl.DataFrame:
    schema = pl.Schema([("vp_ts", pl.Datetime("us", "UTC")), ("vp_lat", pl.Float64()), ("vp_lon", pl.Float64())])
    frame = pl.DataFrame(places, schema=schema, orient="row")
    empty = [pl.lit(None, dtype=pl.Float64).alias(name) for name in WEATHER_COLUMNS]
    return frame.with_columns(pl.int_range(pl.len()).alias("before"), *empty, pl.lit("x").alias("after"))


def hours_file(path: Path, *hours: dict[str, Any]) -> Path:
    frame = pl.DataFrame(hours)
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return path


def hour(time: Any = NOON, temperature_c: Any = 20.0, **more: Any) -> dict[str, Any]:
    return {"time": time, "temperature_c": temperature_c, "precipitation_mm": 0.5, "wind_speed_kmh": 10.0} | more


def test_a_row_gets_the_hour_that_had_begun(tmp_path: Path) -> None:
    path = hours_file(tmp_path / "w.parquet", hour(), hour(NOON + timedelta(hours=1), 30.0))
    frame = rows(
        (NOON + timedelta(minutes=59, seconds=59), 1.0, 2.0), (NOON, 1.0, 2.0), (NOON + timedelta(hours=1), 1.0, 2.0)
    )
    filled = attach_weather(frame, FileWeather(path))
    assert filled["temperature_c"].to_list() == [20.0, 20.0, 30.0]
    assert filled["precipitation_mm"].to_list() == [0.5] * 3
    assert filled["wind_speed_kmh"].to_list() == [10.0] * 3
    assert filled.columns == frame.columns
    assert filled.drop(WEATHER_COLUMNS).equals(frame.drop(WEATHER_COLUMNS))


def test_a_place_is_rounded_to_its_cell(tmp_path: Path) -> None:
    path = hours_file(tmp_path / "w.csv", hour(lat=1.01, lon=-2.1), hour(temperature_c=30.0, lat=1.25, lon=-2.0))
    frame = rows((NOON, 1.12, -2.0), (NOON, 1.13, -2.1), (NOON, 1.0, 2.0), (NOON, None, 2.0), (None, 1.0, -2.0))
    filled = attach_weather(frame, FileWeather(path))
    assert filled["temperature_c"].to_list() == [20.0, 30.0, None, None, None]
    assert n_without_weather(filled) == 3


def test_a_value_that_is_not_known_stays_null(tmp_path: Path) -> None:
    path = hours_file(tmp_path / "w.csv", hour(temperature_c=None), hour(NOON + timedelta(hours=2)))
    filled = attach_weather(
        rows((NOON, 1.0, 2.0), (NOON + timedelta(hours=1), 1.0, 2.0), (NOON + timedelta(hours=2), 1.0, 2.0)),
        FileWeather(path),
    )
    assert filled["temperature_c"].to_list() == [None, None, 20.0]
    assert filled["wind_speed_kmh"].to_list() == [10.0, None, 10.0]
    assert n_without_weather(filled) == 2


def test_no_rows_ask_nobody() -> None:
    class Nobody:
        def hourly(self, *place: Any) -> pl.DataFrame:
            raise AssertionError(place)

    assert len(attach_weather(rows(), Nobody())) == 0
    assert n_without_weather(attach_weather(rows((NOON, float("nan"), 1.0)), Nobody())) == 1


@pytest.mark.parametrize("time", [NOON, NOON.replace(tzinfo=None), "2024-01-02T12:00:00Z", NOON.timestamp()])
def test_kinds_of_time(tmp_path: Path, time: Any) -> None:
    provider = FileWeather(hours_file(tmp_path / "w.parquet", hour(time)))
    assert provider.hourly(0.0, 0.0, NOON, NOON)["time"].to_list() == [NOON]


@pytest.mark.parametrize(
    ("hours", "message"),
    [
        ([{"time": NOON, "temperature_c": 1.0}], "has no column precipitation_mm, wind_speed_kmh"),
        ([hour(lat=1.0)], "has lat alone"),
        ([hour(), hour()], "row 1 repeats an hour"),
        ([hour(NOON + timedelta(minutes=30))], "row 0 has a time that is no whole hour"),
        ([hour("noon")], "row 0: time 'noon' is neither"),
        ([hour("2024-01-02T12:00:00Z", "mild")], "row 0: temperature_c 'mild' is no number"),
        ([hour(temperature_c=float("inf"))], "row 0 has a temperature_c that is no finite number"),
        ([hour(lat=1.0, lon=None)], "row 0 has no lon in degrees"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_by_its_row(
    tmp_path: Path, hours: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DatasetError, match=rf"w\.parquet {message}"):
        FileWeather(hours_file(tmp_path / "w.parquet", *hours))


def test_a_file_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.csv does not exist"):
        FileWeather(tmp_path / "none.csv")


class Archive:
    """A stand-in for the service: each hour has its own temperature, hours from `unknown_from` on are not there yet."""

    def __init__(self, *failures: httpx.Response | Exception, unknown_from: datetime | None = None) -> None:
        self.failures = list(failures)
        self.unknown_from = unknown_from
        self.questions: list[dict[str, str]] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        question = dict(request.url.params)
        self.questions.append(question)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        first, last = (date.fromisoformat(question[name]) for name in ("start_date", "end_date"))
        began = datetime(first.year, first.month, first.day, tzinfo=UTC)
        times = [began + timedelta(hours=n) for n in range(24 * ((last - first).days + 1))]
        known = [self.unknown_from is None or t < self.unknown_from for t in times]
        values = [float(t.day * 100 + t.hour) if there else None for t, there in zip(times, known, strict=True)]
        hourly = {"time": [int(t.timestamp()) for t in times]} | dict.fromkeys(question["hourly"].split(","), values)
        return httpx.Response(200, json={"latitude": 1.0, "hourly": hourly})

    def weather(self, folder: Path, **options: Any) -> ArchiveWeather:
        client = httpx.Client(transport=httpx.MockTransport(self))
        return ArchiveWeather(folder, client=client, wait=self.waits.append, **options)


def test_the_archive_is_asked_once_for_each_cell_and_then_kept(tmp_path: Path) -> None:
    archive = Archive()
    frame = rows((NOON, 9.9, -84.1), (NOON + timedelta(days=1), 9.95, -84.05), (NOON, 10.2, -84.1))
    filled = attach_weather(frame, archive.weather(tmp_path / "cache"))
    assert filled["temperature_c"].to_list() == [212.0, 312.0, 212.0]
    assert [(q["latitude"], q["longitude"]) for q in archive.questions] == [("10.00", "-84.00"), ("10.25", "-84.00")]
    assert archive.questions[0] | {"latitude": "", "longitude": ""} == {
        "latitude": "",
        "longitude": "",
        "start_date": "2024-01-02",
        "end_date": "2024-01-03",
        "hourly": "temperature_2m,precipitation,wind_speed_10m",
        "timezone": "UTC",
        "timeformat": "unixtime",
        "temperature_unit": "celsius",
        "precipitation_unit": "mm",
        "wind_speed_unit": "kmh",
    }
    again = Archive()
    assert attach_weather(frame, again.weather(tmp_path / "cache")).equals(filled)
    assert again.questions == []
    attach_weather(rows((NOON + timedelta(days=2), 10.0, -84.0)), again.weather(tmp_path / "cache"))
    assert [(q["start_date"], q["end_date"]) for q in again.questions] == [("2024-01-04", "2024-01-04")]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [
        "weather_10.00_-84.00.parquet",
        "weather_10.25_-84.00.parquet",
    ]


def test_an_hour_that_the_archive_does_not_know_yet_is_asked_for_again(tmp_path: Path) -> None:
    frame = rows((NOON, 1.0, 2.0), (NOON + timedelta(hours=1), 1.0, 2.0))
    early = Archive(unknown_from=NOON + timedelta(hours=1))
    assert attach_weather(frame, early.weather(tmp_path))["temperature_c"].to_list() == [212.0, None]
    late = Archive()
    assert attach_weather(frame, late.weather(tmp_path))["temperature_c"].to_list() == [212.0, 213.0]
    assert len(late.questions) == 1


def test_outages_are_waited_out(tmp_path: Path) -> None:
    archive = Archive(httpx.ConnectError("no route"), httpx.Response(503), httpx.ReadTimeout("slow"))
    filled = attach_weather(rows((NOON, 1.0, 2.0)), archive.weather(tmp_path))
    assert filled["temperature_c"].to_list() == [212.0]
    assert archive.waits == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("failure", "n_questions", "message"),
    [
        (httpx.ConnectError("no route"), 3, "ConnectError: no route"),
        (httpx.Response(503, text="<b>busy</b>"), 3, "HTTP 503: <b>busy</b>"),
        (httpx.Response(400, json={"error": True, "reason": "end_date is too late"}), 1, "HTTP 400: end_date is too"),
        (httpx.Response(200, text="<html>"), 1, "answered no weather"),
        (httpx.Response(200, json={"hourly": {"time": [1]}}), 1, "answered no weather"),
        (httpx.Response(200, json=[1]), 1, "answered no weather"),
    ],
)
def test_a_service_that_fails_is_an_error_that_says_what_to_do(
    tmp_path: Path, failure: Any, n_questions: int, message: str
) -> None:
    archive = Archive(*[failure] * 3)
    with pytest.raises(DatasetError, match=message) as caught:
        attach_weather(rows((NOON, 1.0, 2.0)), archive.weather(tmp_path, attempts=3))
    assert len(archive.questions) == n_questions
    assert "1.00, 2.00 from 2024-01-02 to 2024-01-02" in caught.value.message
    assert "give the weather as a file" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_what_was_kept_and_is_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "weather_1.00_2.00.parquet").write_bytes(b"half")
    with pytest.raises(DatasetError, match=r"weather_1\.00_2\.00\.parquet is no weather(.|\n)*delete it"):
        attach_weather(rows((NOON, 1.0, 2.0)), Archive().weather(tmp_path))
