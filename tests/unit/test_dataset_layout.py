import datetime as dt
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from etacore.errors import DatasetError
from etacore.mlops.dataset import layout as columns
from etacore.mlops.dataset.layout import (
    CONTRACT_COLUMNS,
    MORE_COLUMNS,
    check_frame,
    dataset_path,
    read_dataset,
    read_metadata,
    write_dataset,
)
from tests.transit import real_data

AT = dt.datetime(2024, 1, 2, 8, 0, tzinfo=dt.UTC)
ROW: dict[str, Any] = {
    "trip_id": "t",
    "route_id": "r",
    "vehicle_id": "v",
    "stop_id": "s",
    "stop_sequence": 40,
    "vp_ts": AT,
    "vp_lat": 0.0,
    "vp_lon": 0.0,
    "vp_bearing": None,
    "stop_lat": 0.0,
    "stop_lon": 0.01,
    "distance_to_stop": 1112.0,
    "progress_on_segment": 0.0,
    "progress_ratio": 0.5,
    "actual_arrival": AT + dt.timedelta(seconds=100),
    "time_to_arrival_seconds": 100.0,
    "hour": 8,
    "day_of_week": 1,
    "is_weekend": False,
    "is_holiday": False,
    "is_peak_hour": True,
    "current_speed_kmh": None,
    "temperature_c": None,
    "precipitation_mm": None,
    "wind_speed_kmh": None,
}
ZONE = "Africa/Abidjan"


def rows(n: int = 3, **changes: Any) -> pl.DataFrame:
    row = {**ROW, **changes}
    schema = {name: dtype for name, dtype in CONTRACT_COLUMNS.items() if name in row and name not in changes}
    return pl.DataFrame([row] * n, schema_overrides=schema)


def test_contract_columns_in_order_and_type() -> None:
    names = (
        "trip_id route_id vehicle_id stop_id stop_sequence vp_ts vp_lat vp_lon vp_bearing stop_lat stop_lon "
        "distance_to_stop progress_on_segment progress_ratio actual_arrival time_to_arrival_seconds hour day_of_week "
        "is_weekend is_holiday is_peak_hour current_speed_kmh temperature_c precipitation_mm wind_speed_kmh"
    )
    assert list(CONTRACT_COLUMNS) == names.split()
    more = (
        "along_route_distance_m stops_ahead stop_ordinal n_stops leg_left recent_speed_mps since_last_stop_s "
        "service_date pattern_id label_rule label_uncertainty_s interpolated_arrival scheduled_arrival run_number"
    )
    assert list(MORE_COLUMNS) == more.split()
    assert CONTRACT_COLUMNS["vp_ts"] == pl.Datetime("us", "UTC")


def test_round_trip_and_what_the_file_says_of_itself(tmp_path: Path) -> None:
    frame = rows().with_columns(service_date=dt.date(2024, 1, 1), n_stops=pl.lit(4, pl.Int64))
    path = write_dataset(
        frame.select(sorted(frame.columns)),
        tmp_path / "deep" / "d.parquet",
        name="d",
        time_zone=ZONE,
        holiday_region="CI",
        patterns={"p": ("A", "B")},
        facts={"sample_every": 2},
    )
    read = read_dataset(path)
    assert read.frame.columns == [*CONTRACT_COLUMNS, "n_stops", "service_date"]
    assert read.frame.equals(frame.select(read.frame.columns))
    assert (read.name, read.time_zone, read.holiday_region, read.distance) == ("d", ZONE, "CI", "along_route")
    assert read.patterns == {"p": ("A", "B")}
    assert read.metadata["sample_every"] == 2
    assert len(read.sha256) == 64
    assert json.loads(pq.read_schema(path).metadata[b"etacore"])["format"] == 1
    assert read_dataset("d", folder=tmp_path / "deep").frame.equals(read.frame)
    assert [entry.name for entry in path.parent.iterdir()] == ["d.parquet"]


def test_many_row_groups_are_one_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_ROWS_PER_GROUP", 2)
    path = write_dataset(rows(5), tmp_path / "d.parquet", name="d", time_zone=ZONE)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert len(read_dataset(path)) == 5


def test_same_content_same_bytes(tmp_path: Path) -> None:
    paths = [write_dataset(rows(), tmp_path / name, name="d", time_zone=ZONE) for name in ("a.parquet", "b.parquet")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dataset(rows(2), tmp_path / "d.parquet", name="d", time_zone=ZONE)
    before = path.read_bytes()
    monkeypatch.setattr(columns, "_ROWS_PER_GROUP", 2)
    written: list[Any] = []

    def full(self: pq.ParquetWriter, table: Any, *_: Any) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(table)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    for target in (path, tmp_path / "new.parquet"):
        written.clear()
        with pytest.raises(DatasetError, match="No space left"):
            write_dataset(rows(4), target, name="d", time_zone=ZONE)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["d.parquet"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        write_dataset(rows(), tmp_path / "file" / "d.parquet", name="d", time_zone=ZONE)


def test_foreign_file(tmp_path: Path) -> None:
    late = rows(vp_ts=dt.datetime(2024, 1, 3, 6, 30, tzinfo=dt.UTC), stop_sequence=710)
    foreign = late.with_columns(
        pl.col("vp_ts", "actual_arrival").dt.cast_time_unit("ns").dt.replace_time_zone(None),
        pl.col("stop_sequence", "hour").cast(pl.Int32),
        pl.col("vp_lat").cast(pl.Float32),
        pl.col("route_id").cast(pl.Categorical),
        pl.lit("x").alias("another"),
    )
    foreign.write_parquet(tmp_path / "f.parquet")
    with pytest.raises(DatasetError, match="does not say its time zone"):
        read_dataset(tmp_path / "f.parquet")
    read = read_dataset(tmp_path / "f.parquet", time_zone="America/New_York")
    assert read.frame.columns == [*CONTRACT_COLUMNS, "service_date"]
    assert read.frame.schema["vp_ts"] == pl.Datetime("us", "UTC")
    # half past one at night still belongs to the day before
    assert read.frame["service_date"].unique().to_list() == [dt.date(2024, 1, 2)]
    assert (read.name, read.patterns, read.metadata) == ("f", {}, {})
    with pytest.raises(DatasetError, match="no column interpolated_arrival"):
        read.label_seconds("interpolated")


def test_labels(tmp_path: Path) -> None:
    frame = rows(3).with_columns(
        interpolated_arrival=pl.Series([AT + dt.timedelta(seconds=90.5), None, AT - dt.timedelta(seconds=1)])
    )
    read = read_dataset(write_dataset(frame, tmp_path / "d.parquet", name="d", time_zone=ZONE))
    assert read.label_seconds().to_list() == [100.0, 100.0, 100.0]
    assert read.label_seconds("interpolated").to_list() == [90.5, 100.0, 100.0]
    with pytest.raises(DatasetError, match="label 'best' is unknown"):
        read.label_seconds("best")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (rows().drop("stop_id", "hour"), "has no column stop_id, hour"),
        (rows().clear(), "has no rows"),
        (rows(hour="8"), "column hour is String, not Int64"),
        (rows(vp_ts=1704182400), "column vp_ts is Int64, not Datetime"),
        (rows(distance_to_stop=float("nan")), "distance_to_stop is nan in row 0; 3 rows are not finite"),
        (rows(current_speed_kmh=float("inf")), "current_speed_kmh is inf"),
        (rows(trip_id=None).with_columns(pl.col("trip_id").cast(pl.String)), "trip_id is missing in 3 rows"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path: Path, frame: pl.DataFrame, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check_frame(frame, "d")
    frame.write_parquet(tmp_path / "d.parquet")
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path / "d.parquet", time_zone=ZONE)
    with pytest.raises(DatasetError, match=message):
        write_dataset(frame, tmp_path / "new.parquet", name="d", time_zone=ZONE)
    assert not (tmp_path / "new.parquet").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("trip_id,route_id\n")
    with pytest.raises(DatasetError, match="no readable Parquet"):
        read_dataset(tmp_path / "text.parquet", time_zone=ZONE)
    with pytest.raises(DatasetError, match=r"there is no dataset .*absent\.parquet\n.*holds text"):
        read_dataset("absent", folder=tmp_path)
    path = write_dataset(rows(), tmp_path / "d.parquet", name="d", time_zone=ZONE)
    with pytest.raises(DatasetError, match=f"was made with time zone {ZONE}, not UTC"):
        read_dataset(path, time_zone="UTC")
    table = pq.read_table(path)
    for content, message in ((b'{"format":2}', "dataset format 2"), (b"{", "metadata is damaged")):
        pq.write_table(table.replace_schema_metadata({b"etacore": content}), path)
        with pytest.raises(DatasetError, match=message):
            read_metadata(path)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(DatasetError, match="time zone 'Mars/Base' is not known"):
        read_dataset(path, time_zone="Mars/Base")


def test_where_datasets_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ETACORE_DATASET_DIR", raising=False)
    assert dataset_path("week") == Path("datasets/week.parquet")
    assert dataset_path("week", tmp_path) == tmp_path / "week.parquet"
    assert dataset_path("some/week.parquet", tmp_path) == Path("some/week.parquet")
    monkeypatch.setenv("ETACORE_DATASET_DIR", str(tmp_path))
    assert dataset_path("week") == tmp_path / "week.parquet"
    for name in ("", "a b", "..", ".hidden", "x" * 101, "a\n"):
        with pytest.raises(DatasetError, match="cannot be used"):
            dataset_path(name)


@pytest.mark.real_data
def test_a_dataset_of_another_system_is_read() -> None:
    read = read_dataset(real_data("mbta_green_2025", "dataset_25_columns.parquet"), time_zone="America/New_York")
    assert len(read) == 13_676
    assert read.frame["service_date"].unique().to_list() == [dt.date(2025, 10, 8)]
    assert read.frame["stop_sequence"].max() == 710
