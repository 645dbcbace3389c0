"""From files to a dataset file: what the command and the flow both do."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from etacore.errors import DatasetError
from etacore.mlops.dataset.build import BuiltDataset, build_dataset
from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.dataset.layout import dataset_path
from etacore.mlops.progress import Progress, silent
from etacore.mlops.transit.gtfs import read_feed
from etacore.mlops.transit.positions import read_positions

if TYPE_CHECKING:
    from etacore.config import RuntimeConfig
    from etacore.mlops.transit.weather import WeatherProvider

ARCHIVE: Final = "archive"
"""Instead of a weather file: ask the archive service."""


def split_output(output: str, folder: Path | None = None) -> tuple[str, Path | None]:
    """Name and folder of a dataset, of a name or a path that ends in ``.parquet``."""
    path = dataset_path(output, folder)
    return (path.stem, path.parent) if str(path) == output else (output, folder)


def build_from_files(
    positions: Sequence[Path],
    gtfs: Path,
    config: BuildConfig,
    *,
    folder: Path | None = None,
    weather: str | Path | None = None,
    arrivals: Path | None = None,
    seed: RuntimeConfig | None = None,
    progress: Progress = silent,
) -> tuple[Path, BuiltDataset]:
    """Read positions and feed, build the dataset and write it.

    Parameters
    ----------
    positions : sequence of Path
        See `read_positions`.
    gtfs : Path
        See `read_feed`.
    config : BuildConfig
        What to build.
    folder : Path, optional
        Where to; see `dataset_path`.
    weather : str or Path, optional
        A weather file, or `ARCHIVE`; what that gave is kept in a folder ``weather`` beside the dataset.
    arrivals : Path, optional
        Arrivals that somebody else observed.
    seed : RuntimeConfig, optional
        A Redis into which stops, shapes and patterns of the feed are written as well, once the dataset is there.
    progress : Progress, optional
        Told the stages.

    Returns
    -------
    (Path, BuiltDataset)

    Raises
    ------
    FeedError, DatasetError, RedisUnavailableError
        If something cannot be read, built, written or reached.
    """
    progress("reading feed and positions", 0, 2)
    feed = read_feed(gtfs)
    progress("reading feed and positions", 1, 2)
    fixes = read_positions(positions, feed=feed)
    progress("reading feed and positions", 2, 2)
    built = build_dataset(
        fixes, feed, config, weather=_weather(weather, config.name, folder), arrivals=arrivals, progress=progress
    )
    progress("writing", 0, 1)
    path = built.write(folder)
    progress("writing", 1, 1)
    if seed is not None:
        from etacore.mlops.transit.seed import seed_redis
        from etacore.store.store import connect

        with contextlib.closing(connect(seed)) as client:
            seed_redis(client, feed, keys=seed.keys, progress=progress)
    return path, built


def _weather(source: str | Path | None, name: str, folder: Path | None) -> WeatherProvider | None:
    if source is None:
        return None
    from etacore.mlops.transit.weather import ArchiveWeather, FileWeather

    if str(source) == ARCHIVE:
        return ArchiveWeather(dataset_path(name, folder).parent / "weather")
    if not Path(source).is_file():
        raise DatasetError(f"weather file {source} does not exist", hint=f"a file, or the word {ARCHIVE}")
    return FileWeather(source)
