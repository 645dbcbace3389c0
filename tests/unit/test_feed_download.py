import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etacore.errors import ConfigError, FeedError, FeedUnavailableError, SeedingStoppedError
from etacore.mlops.transit.seeding.feed_download import AddressSource
from etacore.mlops.transit.seeding.feed_source import Version, file_digest
from tests.feed_server import Answer, FeedServer
from tests.transit import write_feed

SECRET = "open-sesame-42"
SINCE = "Mon, 01 Jan 2024 00:00:00 GMT"


@pytest.fixture
def server() -> Iterator[FeedServer]:
    with FeedServer() as server:
        yield server


@pytest.fixture
def zipped(tmp_path: Path) -> bytes:
    return write_feed(tmp_path / "feed.zip").read_bytes()


def fetch(address: str, known: Version | None = None, **options: Any) -> tuple[bytes, Version] | None:
    with AddressSource(address, **{"wait_s": 0, **options}).look(known) as found:
        return (found.path.read_bytes(), found.version) if found else None


def got(address: str, **options: Any) -> tuple[bytes, Version]:
    found = fetch(address, **options)
    assert found is not None
    return found


def test_the_feed_comes_with_what_the_server_says_of_it(server: FeedServer, zipped: bytes, tmp_path: Path) -> None:
    server.answers["/gtfs.zip"] = Answer(
        zipped, headers={"ETag": '"one"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    )
    body, version = got(server.url())
    assert body == zipped
    digest = file_digest(tmp_path / "feed.zip")
    assert version == Version(digest=digest, etag='"one"', last_modified=SINCE)


def test_nothing_is_left_behind(server: FeedServer, zipped: bytes) -> None:
    server.answers["/gtfs.zip"] = Answer(zipped)
    with AddressSource(server.url()).look(None) as found:
        assert found is not None
        assert found.path.exists()
    assert not found.path.parent.exists()


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_known_version_is_not_sent_again(header: str, server: FeedServer, zipped: bytes) -> None:
    server.answers["/gtfs.zip"] = Answer(zipped, headers={header: SINCE})
    _, version = got(server.url())
    assert fetch(server.url(), version) is None
    server.answers["/gtfs.zip"] = Answer(zipped, headers={header: "Tue, 02 Jan 2024 00:00:00 GMT"})
    assert fetch(server.url(), version) is not None


def test_not_modified_is_no_answer_to_whom_knows_nothing(server: FeedServer) -> None:
    server.answers["/gtfs.zip"] = Answer(status=304)
    with pytest.raises(FeedError, match="304"):
        fetch(server.url())


def test_redirects_and_compression_are_followed(server: FeedServer, zipped: bytes) -> None:
    server.answers["/"] = Answer(status=302, headers={"Location": "/moved"})
    server.answers["/moved"] = Answer(status=301, headers={"Location": server.url("/gtfs.zip")})
    server.answers["/gtfs.zip"] = Answer(zipped, gzipped=True)
    body, _ = got(server.url("/"))
    assert body == zipped


def test_credentials_are_sent_to_their_host_only(server: FeedServer, zipped: bytes) -> None:
    server.answers["/gtfs.zip"] = Answer(zipped)
    got(f"http://user:{SECRET}@{server.host}/gtfs.zip")
    with FeedServer() as other:
        other.answers["/gtfs.zip"] = Answer(status=302, headers={"Location": server.url()})
        got(f"http://user:{SECRET}@{other.host}/gtfs.zip")
        assert other.asked[0][1]["authorization"].startswith("Basic ")
    assert server.asked[0][1]["authorization"].startswith("Basic ")
    assert "authorization" not in server.asked[1][1]


PAGE = b"\n<!DOCTYPE html><html><head><title>Sign in\n &amp; agree</title></head></html>"
WRONG: dict[str, tuple[Answer, str]] = {
    "web page": (Answer(PAGE, headers={"Content-Type": "text/html"}), r"a web page \('Sign in & agree'\)"),
    "page that says it is a zip": (Answer(PAGE, headers={"Content-Type": "application/zip"}), "a web page"),
    "json": (Answer(b'{"error": "no such feed"}'), r"JSON \('\{\"error\": \"no such feed\"\}'\)"),
    "something": (Answer(b"Rar!\x1a\x07", headers={"Content-Type": "application/x-rar"}), "application/x-rar.*Rar!"),
    "nothing": (Answer(b""), "the answer is empty"),
    "missing": (Answer(b"gone", 404), "404 Not Found"),
    "forbidden": (Answer(b"", 403), "403 Forbidden.*\n.*key"),
    "no password": (Answer(b"", 401, {"WWW-Authenticate": "Basic"}), "401 Unauthorized"),
    "busy": (Answer(b"", 503), "503 Service Unavailable"),
    "endless redirect": (Answer(status=302, headers={"Location": "/gtfs.zip"}), "from one address to the next"),
    "redirect to a file": (Answer(status=302, headers={"Location": "file:///etc/passwd"}), "neither http nor https"),
    "redirect to ftp": (Answer(status=302, headers={"Location": "ftp://x/gtfs.zip"}), "neither http nor https"),
    "cut off": (Answer(b"PK" + b"x" * 1000, cut_off=True), "hung up before the end"),
    "no gzip": (Answer(b"PK", headers={"Content-Encoding": "gzip"}), "cannot be unpacked"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_feed_is_told_by_what_it_is(name: str, server: FeedServer) -> None:
    server.answers["/gtfs.zip"], reason = WRONG[name]
    with pytest.raises(FeedError, match=reason) as error:
        fetch(f"http://user:{SECRET}@{server.host}/gtfs.zip?key={SECRET}")
    assert server.host in str(error.value)
    assert SECRET not in str(error.value)


def test_a_server_that_repeats_the_key_does_not_spread_it(server: FeedServer) -> None:
    server.answers["/gtfs.zip"] = Answer(f'{{"error": "{SECRET} is no valid key"}}'.encode())
    with pytest.raises(FeedError, match="is no valid key") as error:
        fetch(server.url(f"/gtfs.zip?key={SECRET}"))
    assert SECRET not in str(error.value)


def test_too_large_is_said_before_and_while_it_comes(server: FeedServer, zipped: bytes) -> None:
    server.answers["/gtfs.zip"] = Answer(zipped, headers={"Content-Length": str(10**12)}, cut_off=True)
    with pytest.raises(FeedError, match=r"more than 1073\.74 MB"):
        fetch(server.url())
    server.answers["/gtfs.zip"] = Answer(b"PK" + b"0" * 100_000, gzipped=True)  # small on its way
    with pytest.raises(FeedError, match=r"more than 0\.05 MB"):
        fetch(server.url(), max_bytes=50_000)


def test_outages_and_busy_servers_are_tried_again(server: FeedServer, zipped: bytes) -> None:
    server.answers["/gtfs.zip"] = lambda n: Answer(zipped) if n == 3 else Answer(b"", 503)
    assert got(server.url())[0] == zipped
    assert len(server.asked) == 3


def test_a_feed_that_is_not_there_is_not_asked_for_again(server: FeedServer) -> None:
    with pytest.raises(FeedError, match="404"):
        fetch(server.url())
    assert len(server.asked) == 1


def test_a_silent_server_has_failed(server: FeedServer) -> None:
    goes_on = threading.Event()
    server.answers["/gtfs.zip"] = Answer(b"PK" + b"x" * 1000, wait_for=goes_on)
    with pytest.raises(FeedUnavailableError, match=r"says nothing for 0\.05 s"):
        fetch(server.url(), silence_s=0.05, attempts=1)
    goes_on.set()


def test_a_download_without_end_has_failed(server: FeedServer, zipped: bytes) -> None:
    server.answers["/gtfs.zip"] = Answer(zipped)
    with pytest.raises(FeedUnavailableError, match="not sent everything after -1 s"):
        fetch(server.url(), download_s=-1, attempts=1)


def test_a_download_can_be_stopped(server: FeedServer, zipped: bytes) -> None:
    stop = threading.Event()
    stop.set()
    server.answers["/gtfs.zip"] = Answer(zipped)
    with pytest.raises(SeedingStoppedError):
        fetch(server.url(), stop=stop)
    server.answers["/gtfs.zip"] = Answer(b"", 503)
    with pytest.raises(SeedingStoppedError):
        fetch(server.url(), stop=stop, wait_s=60)


def test_no_server_at_all() -> None:
    with pytest.raises(FeedUnavailableError, match=r"http://127\.0\.0\.1:1/gtfs\.zip cannot be reached"):
        fetch("http://127.0.0.1:1/gtfs.zip")


@pytest.mark.parametrize("address", ["http://", "https:///gtfs.zip", "http://host:port/", "http://[::1/"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="address of the feed"):
        AddressSource(address)


@pytest.mark.parametrize(
    ("address", "shown", "keeps_secrets"),
    [
        ("https://agency.example/a/gtfs.zip", "https://agency.example/a/gtfs.zip", False),
        (f"https://me:{SECRET}@agency.example:8443/gtfs.zip", "https://agency.example:8443/gtfs.zip", True),
        (f"https://{SECRET}@agency.example/gtfs.zip#x", "https://agency.example/gtfs.zip", True),
        (f"https://agency.example/gtfs?key={SECRET}", "https://agency.example/gtfs?...", True),
    ],
)
def test_an_address_is_shown_without_keys(address: str, shown: str, keeps_secrets: bool) -> None:
    source = AddressSource(address)
    assert (source.shown, source.keeps_secrets) == (shown, keeps_secrets)


def test_nobody_logs_the_address(server: FeedServer, zipped: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server.answers["/gtfs.zip"] = Answer(zipped)
    with caplog.at_level(logging.DEBUG):
        got(f"http://user:{SECRET}@{server.host}/gtfs.zip?key={SECRET}")
    assert SECRET not in caplog.text


def test_it_says_how_much_has_come(server: FeedServer) -> None:
    server.answers["/gtfs.zip"] = Answer(b"PK" + b"x" * 3_000_000)
    told: list[tuple[str, int, int]] = []
    got(server.url(), progress=lambda *what: told.append(what))
    assert told[-1] == ("fetching the feed, MB", 3, 3)
