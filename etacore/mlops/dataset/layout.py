"""The dataset file: its columns, where it lies, and how it is read and written.

One Parquet file. The first 25 columns are those of the compatibility contract;
ours follow. What the rows were made with stands in the file's own metadata, so
that a dataset is complete in itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
import pyarrow.parquet as pq

from etacore.errors import DatasetError
from etacore.files import whole_file
from etacore.mlops.dataset.columns import COLUMNS, CONTRACT_COLUMNS, MORE_COLUMNS, NULLABLE, TIMESTAMP, check_frame

__all__ = [
    "COLUMNS",
    "CONTRACT_COLUMNS",
    "LABELS",
    "MORE_COLUMNS",
    "NULLABLE",
    "TIMESTAMP",
    "Dataset",
    "check_frame",
    "check_name",
    "dataset_path",
    "read_dataset",
    "read_metadata",
    "write_dataset",
]

FORMAT: Final = 1
METADATA_KEY: Final = b"etacore"
DATASET_DIR_VARIABLE: Final = "ETACORE_DATASET_DIR"
DEFAULT_DATASET_DIR: Final = "datasets"
SERVICE_DAY_STARTS_H: Final = 3
"""Where nothing says the service day, it is the local date of the time this many hours before."""

LABELS: Final = ("rule", "interpolated")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_ROWS_PER_GROUP: Final = 262_144
_US: Final = 1e6


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A dataset in memory.

    Attributes
    ----------
    name : str
    path : Path
    frame : polars.DataFrame
        `CONTRACT_COLUMNS`, then those of `MORE_COLUMNS` that the file has; ``service_date`` is always there.
    time_zone : str
        IANA name, of hour and day.
    holiday_region : str or None
    distance : str
        What ``distance_to_stop`` is: ``along_route`` or ``straight``.
    patterns : mapping of pattern id to stop ids
        In the order of the pattern; empty for a foreign file.
    sha256 : str
        Of the file, hexadecimal.
    metadata : mapping
        Everything that stands in the file's metadata; empty for a foreign file.
    """

    name: str
    path: Path
    frame: pl.DataFrame
    time_zone: str
    holiday_region: str | None
    distance: str
    patterns: Mapping[str, tuple[str, ...]]
    sha256: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    def label_seconds(self, label: str = "rule") -> pl.Series:
        """Seconds from each fix to the arrival.

        Parameters
        ----------
        label : str
            ``rule``: the arrival by the 50 m / 200 m rule. ``interpolated``: the moment at which the vehicle passed
            the stop between two fixes; where that is unknown or lies before the fix, the rule's.

        Returns
        -------
        polars.Series of float64, length n

        Raises
        ------
        DatasetError
            If the label is unknown, or the file has no interpolated times.
        """
        if label not in LABELS:
            raise DatasetError(f"label {label!r} is unknown", hint=f"known: {', '.join(LABELS)}")
        rule = self.frame["time_to_arrival_seconds"]
        if label == "rule":
            return rule
        if "interpolated_arrival" not in self.frame.columns:
            raise DatasetError(
                f"dataset {self.name} has no column interpolated_arrival", hint="use label rule with this dataset"
            )
        passed_s = (pl.col("interpolated_arrival") - pl.col("vp_ts")).dt.total_microseconds() / _US
        chosen = pl.when(passed_s >= 0).then(passed_s).otherwise(pl.col("time_to_arrival_seconds"))
        return self.frame.select(chosen.alias(rule.name)).to_series()


def dataset_path(name_or_path: str | Path, folder: str | Path | None = None) -> Path:
    """Where a dataset lies.

    Parameters
    ----------
    name_or_path : str or Path
        A path (it ends in ``.parquet`` or has a folder), else a name.
    folder : str or Path, optional
        Where names are looked up; default ``$ETACORE_DATASET_DIR``, else ``datasets`` below the working directory.

    Raises
    ------
    DatasetError
        If a name cannot be a file name.
    """
    text = str(name_or_path)
    if text.endswith(".parquet") or os.sep in text:
        return Path(text)
    check_name(text)
    home = folder if folder is not None else os.environ.get(DATASET_DIR_VARIABLE) or DEFAULT_DATASET_DIR
    return Path(home) / f"{text}.parquet"


def check_name(name: str) -> None:
    """Refuse what cannot be a dataset's name.

    Raises
    ------
    DatasetError
    """
    if not _NAME.fullmatch(name):
        raise DatasetError(
            f"dataset name {name!r} cannot be used", hint="letters, digits and _ . - only, at most 100 of them"
        )


def write_dataset(
    frame: pl.DataFrame,
    path: str | Path,
    *,
    name: str,
    time_zone: str,
    holiday_region: str | None = None,
    distance: str = "along_route",
    patterns: Mapping[str, Sequence[str]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write a dataset, whole or not at all. The same content gives the same bytes.

    Parameters
    ----------
    frame : polars.DataFrame
        With `COLUMNS` (those of `MORE_COLUMNS` may be absent); brought into their order.
    path : str or Path
        Its folder is made if need be; a file already there is replaced.
    name, time_zone, holiday_region, distance, patterns
        As in `Dataset`.
    facts : mapping, optional
        More for the file's metadata, as JSON takes it.

    Returns
    -------
    Path

    Raises
    ------
    DatasetError
        If the rows are not those of a dataset, or the file cannot be written.
    """
    path = Path(path)
    frame = check_frame(frame, str(path))
    document = {
        "format": FORMAT,
        "name": name,
        "time_zone": time_zone,
        "holiday_region": holiday_region,
        "distance": distance,
        **(facts or {}),
        "patterns": {pattern_id: list(stops) for pattern_id, stops in (patterns or {}).items()},
    }
    encoded = json.dumps(document, sort_keys=True, allow_nan=False).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft:
            _write_parquet(frame, draft, encoded)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written ({error.strerror or error})") from None
    return path


def _write_parquet(frame: pl.DataFrame, path: Path, metadata: bytes) -> None:
    oldest = pl.CompatLevel.oldest()
    schema = frame.clear().to_arrow(compat_level=oldest).schema.with_metadata({METADATA_KEY: metadata})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        # One group at a time: the copy that Arrow needs of the texts stays small.
        for start in range(0, len(frame), _ROWS_PER_GROUP):
            group = frame.slice(start, _ROWS_PER_GROUP).to_arrow(compat_level=oldest)
            writer.write_table(group.cast(schema).replace_schema_metadata(schema.metadata))


def read_dataset(
    path_or_name: str | Path, *, time_zone: str | None = None, folder: str | Path | None = None
) -> Dataset:
    """Read a dataset and check it.

    Parameters
    ----------
    path_or_name : str or Path
        See `dataset_path`.
    time_zone : str, optional
        Needed for a file that was not written here; of one that was, it must be the same.
    folder : str or Path, optional
        See `dataset_path`.

    Raises
    ------
    DatasetError
        If the file is absent, no Parquet file, lacks a column, has one of another type, no rows, a null where there
        may be none, or a number that is not finite. The message names what.
    """
    path = dataset_path(path_or_name, folder)
    metadata = read_metadata(path)
    zone = metadata.get("time_zone") or time_zone
    if zone is None:
        raise DatasetError(
            f"{path} does not say its time zone",
            hint="give it, for example America/New_York: hour and day depend on it",
        )
    if time_zone is not None and zone != time_zone:
        raise DatasetError(f"{path} was made with time zone {zone}, not {time_zone}")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise DatasetError(f"{path}: time zone {zone!r} is not known") from None
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DatasetError(f"{path} is no readable Parquet file ({str(error).splitlines()[0]})") from None
    frame = check_frame(frame, str(path))
    if "service_date" not in frame.columns:
        began = pl.col("vp_ts").dt.convert_time_zone(zone).dt.replace_time_zone(None)
        frame = frame.with_columns((began - pl.duration(hours=SERVICE_DAY_STARTS_H)).dt.date().alias("service_date"))
    patterns = metadata.get("patterns") or {}
    return Dataset(
        name=str(metadata.get("name") or path.stem),
        path=path,
        frame=frame,
        time_zone=zone,
        holiday_region=metadata.get("holiday_region"),
        distance=str(metadata.get("distance") or "straight"),
        patterns={pattern_id: tuple(stops) for pattern_id, stops in patterns.items()},
        sha256=_sha256(path),
        metadata=metadata,
    )


def read_metadata(path: Path) -> dict[str, Any]:
    """What a dataset file says of itself; empty if it was not written here.

    Raises
    ------
    DatasetError
        If there is no such file, it is no Parquet file, or it is of a later format.
    """
    if not path.is_file():
        known = sorted(entry.stem for entry in path.parent.glob("*.parquet")) if path.parent.is_dir() else []
        raise DatasetError(
            f"there is no dataset {path}",
            hint=f"{path.parent} holds {', '.join(known) or 'none'}; `etacore dataset build` makes one",
        )
    try:
        found = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is no readable Parquet file ({str(error).splitlines()[0]})") from None
    if found is None:
        return {}
    try:
        document = json.loads(found)
        version = document["format"]
    except (ValueError, KeyError, TypeError):
        raise DatasetError(f"{path}: its metadata is damaged") from None
    if version != FORMAT:
        raise DatasetError(f"{path} is of dataset format {version}; this version reads {FORMAT}")
    return dict(document)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
