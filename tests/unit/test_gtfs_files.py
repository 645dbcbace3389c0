"""Where the files of a feed lie, and how their text is read."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from etacore.errors import FeedError
from etacore.mlops.transit.gtfs import Feed, read_feed
from tests.transit import FILES, write_feed

TIMES = FILES["stop_times.txt"]
TOWN = ("out", "back", "loop")


def zipped(path: Path, files: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def under(folder: str, files: Mapping[str, str] = FILES) -> dict[str, str]:
    return {f"{folder}{name}": text for name, text in files.items()}


def raw(tmp_path: Path, name: str, data: bytes) -> Feed:
    """The town with one file of these bytes."""
    folder = write_feed(tmp_path / "raw", {name: None})
    (folder / name).write_bytes(data)
    return read_feed(folder)


def told(feed: Feed) -> list[str]:
    """What is odd beyond the town's own stop without a time."""
    return [note for note in feed.notes if note != "stop_times.txt: 1 stops without a time"]


@pytest.mark.parametrize("folder", ["town/", "a/b/c/", "town\\", ".\\town\\feed\\"])
def test_the_files_lie_in_one_folder_of_the_zip(tmp_path: Path, folder: str) -> None:
    feed = read_feed(zipped(tmp_path / "feed.zip", under(folder)))
    assert feed.trips.trip_id == TOWN
    assert told(feed) == []


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_names_in_any_case(tmp_path: Path, suffix: str) -> None:
    files = {name.replace("stop", "Stop").replace(".txt", ".TXT"): text for name, text in FILES.items()}
    feed = read_feed(write_feed(tmp_path / f"feed{suffix}", {**files, **dict.fromkeys(FILES)}))
    assert feed.trips.trip_id == TOWN
    assert feed.shapes.keys() == {"line"}


def test_a_folder_in_a_folder_on_disk(tmp_path: Path) -> None:
    (tmp_path / "feed").mkdir()
    write_feed(tmp_path / "feed" / "inner")
    assert read_feed(tmp_path / "feed").trips.trip_id == TOWN


def test_a_zip_in_a_zip_says_so(tmp_path: Path) -> None:
    inner = write_feed(tmp_path / "google_transit.zip").read_bytes()
    outer = zipped(tmp_path / "outer.zip", {"readme.html": "x", "feeds/google_transit.zip": inner})
    with pytest.raises(
        FeedError, match=r"no text files of a feed, but other zip files: 'feeds/google_transit\.zip'"
    ) as error:
        read_feed(outer)
    assert error.value.hint == "unpack it and give the zip file inside"


def test_a_zip_without_a_feed_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"none of the text files of a feed .*it holds 'notes\.md', 'stops\.csv'"):
        read_feed(zipped(tmp_path / "other.zip", {"stops.csv": "x", "notes.md": "x"}))
    with pytest.raises(FeedError, match="it holds nothing"):
        read_feed(zipped(tmp_path / "empty.zip", {}))


def test_the_one_folder_that_is_whole_is_read_and_nothing_of_the_others(tmp_path: Path) -> None:
    part = {name: text.replace("A,", "Z,") for name, text in FILES.items() if name != "agency.txt"}
    feed = read_feed(zipped(tmp_path / "feed.zip", {**under("old/", part), **under("new/")}))
    assert feed.patterns[0].stop_id == tuple("ABCD")
    assert told(feed) == ["feed.zip: the feed is that of the folder 'new'; files of a feed in 'old' are not read"]


def test_the_top_of_a_zip_goes_before_its_folders(tmp_path: Path) -> None:
    other = {name: text.replace("A,", "Z,") for name, text in FILES.items()}
    feed = read_feed(zipped(tmp_path / "feed.zip", {**under("backup/", other), **FILES}))
    assert feed.patterns[0].stop_id == tuple("ABCD")
    assert told(feed) == ["feed.zip: the feed is that of the top; files of a feed in 'backup' are not read"]


def test_several_feeds_in_a_zip_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"several whole feeds: bus \(agency\.txt, .*; rail \(agency\.txt") as error:
        read_feed(zipped(tmp_path / "feed.zip", {**under("bus/"), **under("rail/")}))
    assert error.value.hint == "unpack it and give the folder that is meant"


def test_halves_of_feeds_are_not_put_together(tmp_path: Path) -> None:
    halves = {f"{'one' if n % 2 else 'two'}/{name}": text for n, (name, text) in enumerate(FILES.items())}
    with pytest.raises(FeedError, match=r"parts of a feed in several folders.*one \(routes\.txt.*two \(agency\.txt"):
        read_feed(zipped(tmp_path / "feed.zip", halves))


def test_what_an_apple_adds_is_no_feed(tmp_path: Path) -> None:
    assert told(read_feed(zipped(tmp_path / "feed.zip", {**under("__MACOSX/"), **FILES, "._stops.txt": "x"}))) == []


@pytest.mark.parametrize("name", ["stops.txt", "trips.txt", "stop_times.txt", "agency.txt", "calendar.txt"])
@pytest.mark.parametrize("blank", ["\n", "\n\n\n", "  \n", ",,,,\n", '"",""\n'])
def test_blank_rows_are_passed_over(tmp_path: Path, name: str, blank: str) -> None:
    heading, _, rows = FILES[name].partition("\n")
    feed = read_feed(write_feed(tmp_path / "feed", {name: f"{blank}{heading}\n{blank}{rows}{blank}"} if blank.isspace()
                                else {name: f"{heading}\n{blank}{rows}{blank}"}))  # fmt: skip
    assert feed.trips.trip_id == TOWN
    assert feed.trips.arrival_s[:4].tolist() == [28_800, 28_980, 29_160, 29_340]
    assert told(feed) == []


@pytest.mark.parametrize(
    "row",
    [
        'out,"08:00:00" ,08:00:00,"A" ,"10" ',
        ' "out", "08:00:00",08:00:00, "A",  "10"',
        "out , 08:00:00 ,08:00:00, A,10 ",
    ],
)
def test_spaces_beside_quotes_and_values(tmp_path: Path, row: str) -> None:
    text = TIMES.replace("out,08:00:00,08:00:00,A,10", row)
    feed = read_feed(write_feed(tmp_path / "feed", {"stop_times.txt": text}))
    assert feed.patterns[0].stop_id == tuple("ABCD")
    assert (feed.trips.arrival_s[0], feed.patterns[0].stop_sequence[0]) == (28_800, 10)
    assert told(feed) == []


def test_a_quoted_comma_after_a_space_stays_in_its_field(tmp_path: Path) -> None:
    trips = 'route_id,service_id,trip_id,trip_headsign,direction_id\nr1,S,"out","Quay, stop 4", "1"\n'
    feed = read_feed(write_feed(tmp_path / "feed", {"trips.txt": trips}))
    assert (feed.trips.trip_id, feed.patterns[0].direction_id) == (("out",), 1)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"Birch, north side"', "Birch, north side"),
        ('"Birch\n north"', "Birch\n north"),
        ('"Birch\n\n, ""north"""', 'Birch\n\n, "north"'),
        ('"Birch "north" side"', "Birch north side"),
        ('"Birch "north, side" x"', 'Birch "north, side" x'),
        ('Birch 5" pipe', 'Birch 5" pipe'),
        ('Birch "north" side', 'Birch "north" side'),
        ('" Birch "', "Birch"),
    ],
)
def test_quotes_as_they_are_written(tmp_path: Path, written: str, read: str) -> None:
    stops = FILES["stops.txt"].replace('"Birch, north side"', written)
    feed = read_feed(write_feed(tmp_path / "feed", {"stops.txt": stops}))
    assert feed.patterns[0].stop_name == ("Alder", read, "Cedar", "Dogwood")
    assert feed.patterns[0].lon.tolist() == [0.0, 0.01, 0.02, 0.03]
    assert told(feed) == []


def test_a_quote_that_nothing_closes_costs_its_row(tmp_path: Path) -> None:
    stops = FILES["stops.txt"] + 'E,"Elm,0.0,0.04\nF,Fir,0.0,0.05\n'
    times = TIMES + "far,10:00:00,10:00:00,A,1\nfar,10:09:00,10:09:00,F,2\n"
    trips = FILES["trips.txt"] + "r2,S,far,0,\n"
    feed = read_feed(write_feed(tmp_path / "feed", {"stops.txt": stops, "stop_times.txt": times, "trips.txt": trips}))
    assert feed.patterns[-1].stop_name == ("Alder", "Fir")
    assert told(feed) == ["stops.txt: 1 rows left out: their fields do not fit the heading (row 6)"]


def test_two_rows_that_lack_a_quote_swallow_nothing_between_them(tmp_path: Path) -> None:
    stops = FILES["stops.txt"] + 'E,"Elm,0.0,0.04\nF,Fir,0.0,0.05\nG,Gum",0.0,0.06\n'
    times = TIMES.replace("D,50", "F,50")
    feed = read_feed(write_feed(tmp_path / "feed", {"stops.txt": stops, "stop_times.txt": times}))
    assert feed.patterns[0].stop_name[-1] == "Fir"
    assert told(feed) == ["stops.txt: 1 rows left out: their fields do not fit the heading (row 6)"]


@pytest.mark.parametrize("row", ["out,08:09:00,08:09:00,D,50,more,and more", 'out,08:09:00,"08:09:00,D,50'])
def test_a_stop_time_that_does_not_fit_the_heading_costs_its_trip(tmp_path: Path, row: str) -> None:
    text = TIMES.replace("out,08:09:00,08:09:00,D,50", row)
    feed = read_feed(write_feed(tmp_path / "feed", {"stop_times.txt": text}))
    assert feed.trips.trip_id == ("back", "loop")
    reason = "rows that are no stop time: their fields do not fit the heading"
    assert told(feed)[0] == f"stop_times.txt: 1 trips left out: {reason} (trip 'out', row 5)"


def test_rows_that_are_too_long_or_too_short(tmp_path: Path) -> None:
    trips = FILES["trips.txt"].replace("r1,S,back,1,", "r1,S,back").replace("loop,0,", "loop,0,,,,")
    trips += "r1,S,odd,0,line,x\n"
    feed = read_feed(write_feed(tmp_path / "feed", {"trips.txt": trips}))
    assert feed.trips.trip_id == TOWN  # empty fields more, or fewer, than the heading: nothing is missing
    assert feed.patterns[1].direction_id == -1
    assert told(feed) == ["trips.txt: 1 rows left out: their fields do not fit the heading (row 5)"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_line_ends_and_marks(tmp_path: Path, end: str) -> None:
    for name in ("stops.txt", "stop_times.txt"):
        text = b"\xef\xbb\xbf" + FILES[name].replace("\n", end).encode()
        feed = raw(tmp_path, name, text)
        assert feed.trips.arrival_s[:4].tolist() == [28_800, 28_980, 29_160, 29_340]
        assert feed.patterns[0].stop_name[1] == "Birch, north side"
        assert told(feed) == []
        for file in (tmp_path / "raw").iterdir():
            file.unlink()
        (tmp_path / "raw").rmdir()


def test_headings_in_any_case_with_spaces_and_quotes(tmp_path: Path) -> None:
    stops = FILES["stops.txt"].replace("stop_id,stop_name,stop_lat", ' "Stop_ID" , STOP_NAME,"stop_lat "', 1)
    feed = read_feed(write_feed(tmp_path / "feed", {"stops.txt": stops}))
    assert feed.patterns[0].stop_name[0] == "Alder"


def test_of_a_heading_that_is_there_twice_the_first_column_counts(tmp_path: Path) -> None:
    stops = "\n".join(
        line + "," + ("stop_id" if n == 0 else "x") for n, line in enumerate(FILES["stops.txt"].splitlines())
    )
    assert read_feed(write_feed(tmp_path / "feed", {"stops.txt": stops})).patterns[0].stop_id == tuple("ABCD")


@pytest.mark.parametrize(("encoding", "name"), [("latin-1", "Cèdre"), ("cp1252", "Cèdre – œ")])
def test_bytes_of_windows_in_names(tmp_path: Path, encoding: str, name: str) -> None:
    text = FILES["stops.txt"].replace("Cedar", name).encode(encoding).replace(b"Dogwood", "Dögwood".encode())
    feed = raw(tmp_path, "stops.txt", text)
    assert feed.patterns[0].stop_name[2:] == (name, "Dögwood")
    assert told(feed) == ["stops.txt: not UTF-8, its other bytes are read as Windows-1252 (row 4)"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16(tmp_path: Path, encoding: str) -> None:
    feed = raw(tmp_path, "stops.txt", FILES["stops.txt"].replace("Cedar", "Cèdre").encode(encoding))
    assert feed.patterns[0].stop_name[2] == "Cèdre"
    assert told(feed) == ["stops.txt: UTF-16, where GTFS wants UTF-8"]


def test_a_heading_of_bytes_that_no_one_needs(tmp_path: Path) -> None:
    text = FILES["stops.txt"].replace("stop_lon\n", "stop_lon,größe\n").encode("latin-1")
    assert raw(tmp_path, "stops.txt", text).patterns[0].stop_id == tuple("ABCD")


def test_optional_files_that_are_empty_or_lack_a_column(tmp_path: Path) -> None:
    optional = ("shapes.txt", "calendar.txt", "calendar_dates.txt", "frequencies.txt", "routes.txt")
    feed = read_feed(write_feed(tmp_path / "empty", dict.fromkeys(optional, "\n \n")))
    assert feed.trips.trip_id == TOWN
    feed = read_feed(write_feed(tmp_path / "bad", {"shapes.txt": "shape_id,lat\nline,1\n"}))
    assert feed.shapes == {}
    assert told(feed)[0].startswith(
        "shapes.txt has no column shape_pt_lat, shape_pt_lon, shape_pt_sequence (has: shape_id"
    )


def test_a_zip_whose_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "feed.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
    data = bytearray(path.read_bytes())
    at = data.find(b"stops.txt") + len("stops.txt") + 4
    data[at : at + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(FeedError, match=r"stops\.txt cannot be unpacked"):
        read_feed(path)
