"""The weather of a place at an hour, for the weather columns of a dataset.

Who knows the weather is a `WeatherProvider`: a file, or Open-Meteo's archive.
A row gets the values of the hour that had begun at its own time. They are
those of the hour's first minute: the temperature and the wind at that moment,
the precipitation of the sixty minutes before it. Nothing is from the future.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import polars as pl

from etacore.errors import DatasetError, FeedError
from etacore.files import whole_file
from etacore.mlops.transit.tables import numbers, read_table, times_us

GRID_DEG: Final = 0.25
"""Side of a cell in degrees: about what reanalyses resolve."""
WEATHER_COLUMNS: Final = ("temperature_c", "precipitation_mm", "wind_speed_kmh")
TIME: Final = pl.Datetime("us", "UTC")

ARCHIVE_URL: Final = "https://archive-api.open-meteo.com/v1/archive"
TIMEOUT_S: Final = 30.0
VARIABLES: Final = {
    "temperature_2m": "temperature_c",
    "precipitation": "precipitation_mm",
    "wind_speed_10m": "wind_speed_kmh",
}
"""What the archive calls our columns."""

_SCHEMA: Final = pl.Schema([("time", TIME), *((name, pl.Float64) for name in WEATHER_COLUMNS)])
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_WITHOUT_ARCHIVE: Final = "try again later, give the weather as a file, or build without weather"


class WeatherProvider(Protocol):
    """Whoever knows the weather."""

    def hourly(self, lat: float, lon: float, first: datetime, last: datetime) -> pl.DataFrame:
        """Weather of a place, hour by hour.

        Parameters
        ----------
        lat, lon : float
            Middle of a cell in degrees: multiples of `GRID_DEG`.
        first, last : datetime
            Whole hours, UTC, both included.

        Returns
        -------
        DataFrame
            ``time`` (Datetime us, UTC, whole hours, each at most once) and `WEATHER_COLUMNS` (Float64, null =
            unknown). Hours that are not known may be absent.

        Raises
        ------
        DatasetError
            If the weather cannot be had.
        """


def attach_weather(frame: pl.DataFrame, provider: WeatherProvider) -> pl.DataFrame:
    """Fill the weather columns of dataset rows.

    All weather is asked for before the first row is filled: an error leaves nothing half done.

    Parameters
    ----------
    frame : DataFrame
        With ``vp_ts`` (Datetime, UTC), ``vp_lat`` and ``vp_lon`` (degrees).
    provider : WeatherProvider
        Asked once for each cell.

    Returns
    -------
    DataFrame
        The same rows in the same order; `WEATHER_COLUMNS` (Float64) stand where they stood, else at the end. Null
        where the place or its weather is not known: `n_without_weather` counts those rows.

    Raises
    ------
    DatasetError
        If the provider fails.
    """
    cells = frame.select(
        pl.col("vp_ts").dt.truncate("1h").cast(TIME).alias("time"),
        *(_cell(pl.col(f"vp_{axis}")).alias(axis) for axis in ("lat", "lon")),
    )
    spans = (
        cells.drop_nulls()
        .group_by("lat", "lon")
        .agg(pl.col("time").min().alias("first"), pl.col("time").max().alias("last"))
        .sort("lat", "lon")
    )
    tables = [pl.DataFrame(schema={"lat": pl.Int32, "lon": pl.Int32, **_SCHEMA})]
    for lat, lon, first, last in spans.iter_rows():
        hours = provider.hourly(lat * GRID_DEG, lon * GRID_DEG, first, last).select(*_SCHEMA).cast(_SCHEMA)
        cell = (pl.lit(lat, pl.Int32).alias("lat"), pl.lit(lon, pl.Int32).alias("lon"))
        tables.append(hours.select(*cell, pl.all()))
    known = cells.join(pl.concat(tables), on=["lat", "lon", "time"], how="left", maintain_order="left", validate="m:1")
    return frame.with_columns(known.select(WEATHER_COLUMNS))


def _cell(degrees: pl.Expr) -> pl.Expr:
    return (degrees / GRID_DEG).round().cast(pl.Int32, strict=False)


def n_without_weather(frame: pl.DataFrame) -> int:
    """Rows in which a weather column is null."""
    return int(frame.select(pl.any_horizontal(pl.col(name).is_null() for name in WEATHER_COLUMNS).sum()).item())


class FileWeather:
    """Weather from a file.

    Parameters
    ----------
    path : str or Path
        Parquet or CSV with ``time`` (whole hours: a time type, ISO 8601 or POSIX seconds; without a zone it is UTC),
        `WEATHER_COLUMNS` and, if the weather differs from place to place, ``lat`` and ``lon`` in degrees, which are
        rounded to the grid. Without those it holds everywhere.

    Raises
    ------
    DatasetError
        If the file is absent or no table, lacks a column, or has a value that cannot be used: names the row, the first
        is 0.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Final = Path(path)
        frame = self._checked(read_table, self.path)
        absent = [name for name in ("time", *WEATHER_COLUMNS) if name not in frame.columns]
        if absent:
            raise DatasetError(f"{path} has no column {', '.join(absent)} (has: {', '.join(frame.columns)})")
        given = {"lat", "lon"} & set(frame.columns)
        if len(given) == 1:
            raise DatasetError(f"{path} has {given.pop()} alone", hint="give both lat and lon, or neither")
        self._is_everywhere: Final = not given
        places = {} if self._is_everywhere else {axis: self._cell(frame, axis) for axis in ("lat", "lon")}
        values = {name: self._numbers(frame, name) for name in WEATHER_COLUMNS}
        self._hours: Final = pl.DataFrame({**places, "time": self._times(frame), **values})
        again = self._hours.select(~pl.struct(*places, "time").is_first_distinct()).to_series()
        self._refuse(again, "repeats an hour of the same place")

    def hourly(self, lat: float, lon: float, first: datetime, last: datetime) -> pl.DataFrame:
        """See `WeatherProvider`."""
        known = self._hours.filter(pl.col("time").is_between(first, last))
        if not self._is_everywhere:
            at = [pl.col(axis) == round(value / GRID_DEG) for axis, value in (("lat", lat), ("lon", lon))]
            known = known.filter(*at).drop("lat", "lon")
        return known

    def _times(self, frame: pl.DataFrame) -> pl.Series:
        times = pl.Series(self._checked(times_us, self.path, frame["time"])).cast(TIME)
        self._refuse(times != times.dt.truncate("1h"), "has a time that is no whole hour")
        return times

    def _numbers(self, frame: pl.DataFrame, name: str) -> pl.Series:
        value: pl.Series = self._checked(numbers, self.path, frame[name], pl.Float64)
        self._refuse(~value.is_finite().fill_null(True), f"has a {name} that is no finite number")
        return value

    def _cell(self, frame: pl.DataFrame, axis: str) -> pl.Series:
        value = self._numbers(frame, axis)
        self._refuse(value.is_null() | (value.abs() > 180), f"has no {axis} in degrees")
        return (value / GRID_DEG).round().cast(pl.Int32)

    @staticmethod
    def _checked(step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except FeedError as error:
            raise DatasetError(error.message, hint="give a Parquet or CSV file of hourly weather") from None

    def _refuse(self, bad: pl.Series, reason: str) -> None:
        if bad.any():
            raise DatasetError(f"{self.path} row {int(bad.arg_true()[0])} {reason}")


class ArchiveWeather:
    """Weather of the past from Open-Meteo's archive, kept in a folder once it was fetched.

    The archive's hourly ``temperature_2m``, ``wind_speed_10m`` (of that moment) and ``precipitation`` (sum of the hour
    before); see https://open-meteo.com/en/docs/historical-weather-api. It is a few days behind.

    Parameters
    ----------
    cache_dir : str or Path
        Folder for what was fetched, one Parquet file a cell; made if absent.
    client : httpx.Client, optional
        For another transport or a proxy; made with a timeout of 30 s if not given.
    url : str
        Where the archive is.
    attempts : int
        How often one question is asked before giving up. Only outages and busy servers are asked again.
    wait : callable
        Called with the seconds to wait between two attempts: 1, 2, 4, ...

    Raises
    ------
    DatasetError
        From `hourly`, if the archive cannot be reached, refuses, or answers something else than weather.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        *,
        client: httpx.Client | None = None,
        url: str = ARCHIVE_URL,
        attempts: int = 4,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.cache_dir: Final = Path(cache_dir)
        self._client: Final = client or httpx.Client(timeout=TIMEOUT_S)
        self._url: Final = url
        self._attempts: Final = attempts
        self._wait: Final = wait

    def hourly(self, lat: float, lon: float, first: datetime, last: datetime) -> pl.DataFrame:
        """See `WeatherProvider`."""
        path = self.cache_dir / f"weather_{lat:.2f}_{lon:.2f}.parquet"
        known = self._cached(path)
        wanted = pl.datetime_range(first, last, "1h", time_zone="UTC", eager=True).cast(TIME)
        missing = wanted.filter(~wanted.is_in(known["time"].implode()))
        if len(missing):
            fetched = self._fetch(lat, lon, missing[0].date(), missing[-1].date())
            known = pl.concat((fetched, known)).unique("time", keep="first").sort("time")
            # An hour that the archive does not know yet is asked for again the next time.
            self._keep(path, known.drop_nulls())
        return known.filter(pl.col("time").is_between(first, last))

    def _cached(self, path: Path) -> pl.DataFrame:
        if not path.exists():
            return pl.DataFrame(schema=_SCHEMA)
        try:
            return pl.read_parquet(path, columns=list(_SCHEMA)).cast(_SCHEMA)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DatasetError(
                f"{path} is no weather that was kept ({str(error).splitlines()[0]})", hint="delete it"
            ) from None

    def _keep(self, path: Path, hours: pl.DataFrame) -> None:
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as draft:
                hours.write_parquet(draft)
        except OSError as error:
            raise DatasetError(
                f"{path} cannot be written ({error.strerror})", hint="name another cache folder"
            ) from None

    def _fetch(self, lat: float, lon: float, first: date, last: date) -> pl.DataFrame:
        question: dict[str, str] = {
            "latitude": f"{lat:.2f}",
            "longitude": f"{lon:.2f}",
            "start_date": first.isoformat(),
            "end_date": last.isoformat(),
            "hourly": ",".join(VARIABLES),
            "timezone": "UTC",
            "timeformat": "unixtime",
            "temperature_unit": "celsius",
            "precipitation_unit": "mm",
            "wind_speed_unit": "kmh",
        }
        what = f"the weather of {lat:.2f}, {lon:.2f} from {first} to {last}"
        answer = self._ask(question, what)
        try:
            hourly = answer.json()["hourly"]
            table = pl.DataFrame(
                {"time": hourly["time"], **{ours: hourly[theirs] for theirs, ours in VARIABLES.items()}},
                schema={"time": pl.Int64, **dict.fromkeys(WEATHER_COLUMNS, pl.Float64)},
            )
        except (ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
            raise DatasetError(
                f"{self._url} answered no weather to a question for {what}", hint=_WITHOUT_ARCHIVE
            ) from None
        return table.with_columns((pl.col("time") * 1_000_000).cast(TIME)).drop_nulls("time")

    def _ask(self, question: dict[str, str], what: str) -> httpx.Response:
        reason = ""
        for attempt in range(self._attempts):
            if attempt:
                self._wait(2.0 ** (attempt - 1))
            try:
                answer = self._client.get(self._url, params=question)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if answer.is_success:
                return answer
            reason = f"HTTP {answer.status_code}: {_reason(answer)}"
            if answer.status_code not in _BUSY:
                break
        raise DatasetError(f"{self._url} does not give {what} ({reason})", hint=_WITHOUT_ARCHIVE)


def _reason(answer: httpx.Response) -> str:
    """What the archive says is wrong, in one line."""
    try:
        return str(answer.json()["reason"])
    except (ValueError, KeyError, TypeError):
        return " ".join(answer.text.split())[:200] or "no reason given"
