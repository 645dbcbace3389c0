import os
from pathlib import Path

import pytest

from etacore.errors import ConfigError, FeedUnavailableError
from etacore.mlops.transit.seeding.feed_download import AddressSource
from etacore.mlops.transit.seeding.feed_place import FileSource, feed_source
from etacore.mlops.transit.seeding.feed_source import Version
from tests.transit import FILES, write_feed


def version(source: FileSource, known: Version | None = None) -> Version | None:
    with source.look(known) as found:
        return found.version if found else None


@pytest.fixture(params=["feed", "feed.zip"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_feed(tmp_path / request.param)


def test_the_same_content_has_the_same_digest_wherever_it_lies(path: Path, tmp_path: Path) -> None:
    first = version(FileSource(path))
    moved = path.rename(tmp_path / f"moved{path.suffix}")
    second = version(FileSource(moved))
    assert first is not None
    assert second is not None
    assert first.digest == second.digest
    assert first.stamp != second.stamp


def test_what_was_not_touched_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileSource(path)
    first = version(source)
    monkeypatch.setattr(FileSource, "_digest", lambda self: pytest.fail("was read"))
    assert version(source, first) is None


def test_other_content_is_another_version(path: Path, tmp_path: Path) -> None:
    source = FileSource(path, settle_s=0)
    first = version(source)
    changed = {"stops.txt": FILES["stops.txt"].replace("Alder", "Ash")}
    if path.is_dir():
        (path / "stops.txt").write_text(changed["stops.txt"])
        os.utime(path / "stops.txt", ns=(1, 1))
    else:
        write_feed(tmp_path / "new.zip", changed).replace(path)
    second = version(source, first)
    assert first is not None
    assert second is not None
    assert second.digest != first.digest


def test_files_beside_the_feed_are_not_the_feed(tmp_path: Path) -> None:
    path = write_feed(tmp_path / "feed")
    before = version(FileSource(path))
    (path / "README.md").write_text("hello")
    assert version(FileSource(path)) == before


def test_a_feed_that_is_being_written_is_not_taken(path: Path) -> None:
    source = FileSource(path)
    inside = path / "stops.txt" if path.is_dir() else path
    with pytest.raises(FeedUnavailableError, match="changes while it is read"), source.look(None):
        inside.write_bytes(inside.read_bytes() + b"\n")


def test_a_new_version_has_to_hold_still_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileSource(path)
    first = version(source)
    inside = path / "stops.txt" if path.is_dir() else path
    inside.write_bytes(inside.read_bytes() + b"\n")

    def goes_on(_seconds: float) -> None:
        inside.write_bytes(inside.read_bytes() + b"\n")

    monkeypatch.setattr("time.sleep", goes_on)
    with pytest.raises(FeedUnavailableError, match="rename"):
        version(source, first)


def test_a_file_that_is_not_there_may_come(tmp_path: Path) -> None:
    with pytest.raises(FeedUnavailableError, match=r"gtfs\.zip does not exist"):
        version(FileSource(tmp_path / "gtfs.zip"))


def test_what_was_typed_is_an_address_or_a_path(tmp_path: Path) -> None:
    assert isinstance(feed_source("HTTPS://agency.example/gtfs.zip"), AddressSource)
    for place in (str(tmp_path), "gtfs.zip", "feeds/http", "C:gtfs.zip"):
        assert isinstance(feed_source(place), FileSource)


@pytest.mark.parametrize("scheme", ["ftp", "file", "s3", "FTP"])
def test_only_http_is_fetched_and_the_password_is_not_shown(scheme: str) -> None:
    with pytest.raises(ConfigError) as error:
        feed_source(f"{scheme}://user:open-sesame@host/gtfs.zip")
    assert scheme.lower() in str(error.value)
    assert "sesame" not in str(error.value)
