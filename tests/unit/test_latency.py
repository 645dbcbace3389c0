import csv
import io
import os
import threading
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from etacore.loop.latency import METRICS, Profiler

FILES = ["redis_fetch_times.csv", "eta_inference_times.csv", "redis_write_times.csv", "pipeline_latency_times.csv"]

EXPECTED = """\
metric,count,min_ms,max_ms,avg_ms
redis_fetch,4,1.000,11.000,4.875

bin_start_ms,bin_end_ms,count,percentage
1.000,2.000,2,50.00
2.000,3.000,0,0.00
3.000,4.000,0,0.00
4.000,5.000,0,0.00
5.000,6.000,0,0.00
6.000,7.000,1,25.00
7.000,8.000,0,0.00
8.000,9.000,0,0.00
9.000,10.000,0,0.00
10.000,11.000,1,25.00
"""


@pytest.fixture
def profiler():
    profiler = Profiler()
    for ms in (1.0, 1.0, 6.5, 11.0):
        profiler.record("redis_fetch", ms)
    return profiler


def test_csv_to_the_letter(profiler):
    assert profiler.csv_text("redis_fetch") == EXPECTED


def test_csv_of_an_empty_metric_is_valid():
    rows = list(csv.reader(io.StringIO(Profiler().csv_text("redis_write"))))
    assert rows[1] == ["redis_write", "0", "0.000", "0.000", "0.000"]
    assert rows[2] == []
    assert rows[4:] == [["0.000", "0.000", "0", "0.00"]] * 10


def test_csv_bins_add_up():
    profiler = Profiler()
    profiler.record_many("eta_inference", np.random.default_rng(2).lognormal(1, 1.5, 3000))
    rows = list(csv.reader(io.StringIO(profiler.csv_text("eta_inference"))))
    assert rows[1][1] == "3000"
    assert sum(int(row[2]) for row in rows[4:]) == 3000
    assert sum(float(row[3]) for row in rows[4:]) == pytest.approx(100, abs=0.05)
    assert [row[1] for row in rows[4:-1]] == [row[0] for row in rows[5:]], "a bin ends where the next begins"
    assert (rows[4][0], rows[-1][1]) == (rows[1][2], rows[1][3])


def test_markdown_has_the_same_cells(profiler):
    tables = profiler.markdown("redis_fetch").split("\n\n")
    cells = [[line.strip("| ").split(" | ") for line in table.strip().splitlines()] for table in tables]
    assert all(set(table[1]) == {"---"} for table in cells)
    rows = [row for table in cells for row in (table[0], *table[2:])]
    assert rows == [row for row in csv.reader(io.StringIO(EXPECTED)) if row]


def test_files_have_the_agreed_names(profiler, tmp_path):
    paths = profiler.write_csvs(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == FILES
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(FILES)
    assert paths[0].read_bytes() == EXPECTED.encode()
    profiler.record("redis_fetch", 3.0)
    profiler.write_csvs(tmp_path / "new" / "folder")
    assert paths[0].read_text().splitlines()[1].startswith("redis_fetch,5,")


def test_files_can_be_read_by_others(profiler, tmp_path):
    before = os.umask(0o022)
    try:
        path = profiler.write_csvs(tmp_path)[0]
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_no_draft(profiler, tmp_path, monkeypatch):
    profiler.write_csvs(tmp_path)

    def fail(draft, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    profiler.record("redis_fetch", 3.0)
    with pytest.raises(OSError, match="disk full"):
        profiler.write_csvs(tmp_path)
    assert (tmp_path / FILES[0]).read_text() == EXPECTED
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_snapshot_has_exact_extremes_and_close_percentiles():
    profiler = Profiler()
    profiler.record_many("pipeline_latency", np.arange(1, 1001) / 10)
    figures = profiler.snapshot()["pipeline_latency"]
    assert (figures.metric, figures.count, figures.min_ms, figures.max_ms) == ("pipeline_latency", 1000, 0.1, 100.0)
    assert figures.avg_ms == pytest.approx(50.05)
    assert (figures.p50_ms, figures.p95_ms, figures.p99_ms) == pytest.approx((50, 95, 99), rel=0.01)
    with pytest.raises(FrozenInstanceError):
        figures.count = 1


def test_windows_end_and_the_total_goes_on(profiler):
    ended = profiler.reset_window()
    assert list(ended) == list(METRICS)
    assert ended["redis_fetch"] == profiler.snapshot()["redis_fetch"]
    profiler.record("redis_fetch", 100.0, count=6)
    assert profiler.snapshot(window=True)["redis_fetch"].count == 6
    assert profiler.snapshot()["redis_fetch"].count == 10
    assert profiler.reset_window()["redis_fetch"].min_ms == 100.0
    assert profiler.snapshot(window=True)["redis_fetch"].count == 0


def test_windows_lose_nothing_to_another_thread():
    profiler, windows, done = Profiler(), [], threading.Event()

    def read():
        while not done.is_set():
            windows.append(profiler.reset_window()["redis_write"].count)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20_000):
        profiler.record("redis_write", 1.0)
    done.set()
    reader.join()
    windows.append(profiler.reset_window()["redis_write"].count)
    assert sum(windows) == profiler.snapshot()["redis_write"].count == 20_000


def test_unknown_metric_is_refused(profiler):
    for call in (profiler.csv_text, profiler.markdown):
        with pytest.raises(ValueError, match="no metric 'redis'"):
            call("redis")
    with pytest.raises(ValueError, match="no metric"):
        profiler.record("redis", 1.0)
    with pytest.raises(ValueError, match="no metric"):
        profiler.record_many("redis", np.ones(1))


@pytest.mark.parametrize("ms", [-1.0, float("nan"), float("inf")])
def test_bad_durations_leave_nothing(profiler, ms):
    with pytest.raises(ValueError, match="cannot record"):
        profiler.record("redis_fetch", ms)
    assert profiler.snapshot()["redis_fetch"].count == profiler.snapshot(window=True)["redis_fetch"].count == 4
