"""Tables of positions as people write them: the same rows, whatever the hand, and a bad one costs itself."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from etacore.errors import FeedError
from etacore.mlops.transit.positions import read_positions
from tests.transit import write_positions

HEADING = "vehicle_id,timestamp,lat,lon,route_id,trip_id"
ROWS = [
    {"vehicle_id": "b", "timestamp": 1_700_000_040, "lat": 1.0, "lon": 2.0, "route_id": "7", "trip_id": "t1"},
    {"vehicle_id": "b", "timestamp": 1_700_000_000, "lat": 1.5, "lon": 2.5, "route_id": "7", "trip_id": None},
    {"vehicle_id": "a", "timestamp": 1_700_000_000, "lat": None, "lon": 2.5, "route_id": "9", "trip_id": "t2"},
]


def _quoted_with_spaces(text: str) -> str:
    return "\n".join(" , ".join(f'"{field}"' for field in line.split(",")) for line in text.splitlines())


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.encode("utf-16"),
        lambda text: _quoted_with_spaces(text).encode(),
        lambda text: f",,,,,\n \n{text}".encode(),
        lambda text: text.replace(HEADING, HEADING.upper()).encode(),
        lambda text: gzip.compress(text.encode())[:-8],
    ],
    ids=["CR", "UTF-16", "spaces beside quotes", "empty rows before", "upper case", "gzip without its end"],
)
def test_a_table_in_another_hand_is_the_same_table(tmp_path: Path, written: Callable[[str], bytes]) -> None:
    text = write_positions(tmp_path / "p.csv", ROWS).read_text()
    (tmp_path / "q.csv").write_bytes(written(text))
    plain, other = read_positions(tmp_path / "p.csv"), read_positions(tmp_path / "q.csv")
    assert other.left_out == {}
    assert [other.vehicle_id[i] for i in range(3)] == [plain.vehicle_id[i] for i in range(3)]
    assert [other.trip_id[i] for i in range(3)] == [plain.trip_id[i] for i in range(3)]
    assert other.time_us.tolist() == plain.time_us.tolist()
    assert np.array_equal(other.lat, plain.lat, equal_nan=True)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_row_that_does_not_fit_costs_itself_wherever_it_stands(tmp_path: Path, at: int) -> None:
    for change in (lambda line: line + ",x", lambda line: '"' + line):
        lines = write_positions(tmp_path / "p.csv", ROWS).read_text().splitlines()
        lines[at] = change(lines[at])
        (tmp_path / "p.csv").write_text("\n".join(lines))
        positions = read_positions(tmp_path / "p.csv")
        assert (len(positions), positions.left_out) == (2, {"bad_row": 1})
        assert positions.examples["bad_row"].startswith(f"p.csv row {at - 1}: its fields")
    (tmp_path / "p.csv").write_text("\n".join([lines[0], *(line + ",x" for line in lines[1:])]))
    with pytest.raises(FeedError, match="no row whose fields fit the heading"):
        read_positions(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("\n".join(["# from a tool", *lines]))
    with pytest.raises(FeedError, match=r"has no column vehicle_id, .*has: # from a tool"):
        read_positions(tmp_path / "p.csv")


def test_lists_and_structures_in_parquet_are_no_values_and_bytes_are_texts(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS).with_columns(
        pl.concat_list("lat", "lon").alias("bearing"),
        pl.struct("lat", "lon").alias("speed"),
        pl.col("vehicle_id").cast(pl.Binary),
    )
    frame.write_parquet(tmp_path / "p.parquet")
    positions = read_positions(tmp_path / "p.parquet")
    plain = read_positions(write_positions(tmp_path / "plain.parquet", ROWS))
    assert positions.vehicle_id.values == plain.vehicle_id.values
    assert np.isnan(positions.bearing_deg).all()
    assert np.isnan(positions.speed_mps).all()
