"""Fetches a GTFS feed from an http(s) address, if it is another version than the one that is known."""

from __future__ import annotations

import html
import logging
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from etacore import __version__
from etacore.errors import ConfigError, FeedError, FeedUnavailableError, SeedingStoppedError
from etacore.mlops.progress import Progress, silent
from etacore.mlops.transit.seeding.feed_source import FoundFeed, Version, file_digest

MAX_FEED_BYTES: Final = 2**30
SILENCE_S: Final = 30.0
"""A server that says nothing for so long has failed."""
DOWNLOAD_S: Final = 900.0
"""All of a download."""
MAX_REDIRECTS: Final = 10
MAX_SHOWN: Final = 120
MIN_SECRET: Final = 4
"""Shorter parts of an address are no keys."""

_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_TITLE: Final = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_ZIP: Final = b"PK"
_HEAD_BYTES: Final = 4096
_STOPPED: Final = "stopped while the feed was fetched; nothing was written"
_LIKE: Final = "it looks like https://host/gtfs.zip"


def _is_no_request_line(record: logging.LogRecord) -> bool:
    """Keep httpx from logging every address, with the keys and passwords in it."""
    return record.levelno > logging.INFO


class AddressSource:
    """A feed behind an address; what comes is kept in a temporary folder while it is read.

    The server is asked with If-None-Match and If-Modified-Since, where it gave an ETag or a date before.

    Parameters
    ----------
    address : str
        http or https. A user and password in it are sent as basic authentication, and to no other host.
    max_bytes : int
        More than this is no feed.
    silence_s, download_s : float
        Seconds without an answer, and for all of a download.
    attempts : int
        How often an outage or a busy server is tried.
    wait_s : float
        Seconds between the first two attempts; twice as many after each further one.
    stop : threading.Event, optional
        Once it is set, a download ends.
    progress : Progress, optional
        Told how many megabytes have come.

    Raises
    ------
    ConfigError
        If it is no address.
    """

    def __init__(
        self,
        address: str,
        *,
        max_bytes: int = MAX_FEED_BYTES,
        silence_s: float = SILENCE_S,
        download_s: float = DOWNLOAD_S,
        attempts: int = 3,
        wait_s: float = 1.0,
        stop: threading.Event | None = None,
        progress: Progress = silent,
    ) -> None:
        try:
            self._url: Final = httpx.URL(address)
        except httpx.InvalidURL:
            raise ConfigError(
                "the address of the feed cannot be read", hint="it looks like https://host/gtfs.zip"
            ) from None
        if not self._url.host:
            raise ConfigError("the address of the feed names no host", hint="it looks like https://host/gtfs.zip")
        self._max_bytes: Final = max_bytes
        self._silence_s: Final = silence_s
        self._download_s: Final = download_s
        self._attempts: Final = attempts
        self._wait_s: Final = wait_s
        self._stop: Final = stop or threading.Event()
        self._progress: Final = progress
        logging.getLogger("httpx").addFilter(_is_no_request_line)

    @property
    def shown(self) -> str:
        """The address without user, password, query and fragment."""
        return shown_address(self._url)

    @property
    def keeps_secrets(self) -> bool:
        """Whether there is a user, a password or a query."""
        return bool(self._url.userinfo or self._url.query)

    @contextmanager
    def look(self, known: Version | None) -> Iterator[FoundFeed | None]:
        """See `etacore.mlops.transit.seeding.feed_source.FeedSource`."""
        with tempfile.TemporaryDirectory(prefix="etacore-feed-") as folder:
            path = Path(folder) / "feed.zip"
            yield self._fetch(path, known)

    def _fetch(self, path: Path, known: Version | None) -> FoundFeed | None:
        for attempt in range(1, self._attempts + 1):
            try:
                return self._download(path, known)
            except FeedUnavailableError:
                if attempt == self._attempts:
                    raise
                if self._stop.wait(self._wait_s * 2.0 ** (attempt - 1)):
                    raise SeedingStoppedError(_STOPPED) from None
        raise AssertionError("at least one attempt")

    def _download(self, path: Path, known: Version | None) -> FoundFeed | None:
        headers = {"User-Agent": f"etacore/{__version__}", "Accept": "application/zip, application/octet-stream, */*"}
        if known is not None and known.etag:
            headers["If-None-Match"] = known.etag
        if known is not None and known.last_modified:
            headers["If-Modified-Since"] = known.last_modified
        try:
            with (
                httpx.Client(timeout=self._silence_s, follow_redirects=True, max_redirects=MAX_REDIRECTS) as client,
                client.stream("GET", self._url, headers=headers) as answer,
            ):
                if answer.status_code == httpx.codes.NOT_MODIFIED and known is not None:
                    return None
                self._check_status(answer)
                head = self._receive(answer, path)
        except httpx.TooManyRedirects:
            raise FeedError(f"{self.shown} sends from one address to the next, {MAX_REDIRECTS} times") from None
        except httpx.UnsupportedProtocol:
            raise FeedError(f"{self.shown} sends to an address that is neither http nor https") from None
        except httpx.TimeoutException:
            raise self._unavailable(f"says nothing for {self._silence_s:g} s") from None
        except httpx.DecodingError:
            raise self._unavailable("sends what cannot be unpacked (Content-Encoding)") from None
        except httpx.RemoteProtocolError:
            raise self._unavailable("hung up before the end") from None
        except httpx.HTTPError as error:
            raise self._unavailable(f"cannot be reached: {self._cut(str(error)) or type(error).__name__}") from None
        if not head.startswith(_ZIP):
            raise FeedError(
                f"{self.shown} does not give a zip file but {self._what_it_is(head, answer)}",
                hint="open the address in a browser: it may ask for a key, or the feed may have moved",
            )
        version = Version(
            digest=file_digest(path),
            etag=answer.headers.get("ETag"),
            last_modified=answer.headers.get("Last-Modified"),
        )
        return FoundFeed(path, version)

    def _receive(self, answer: httpx.Response, path: Path) -> bytes:
        """Write the body to a file; returns its beginning."""
        head, n_bytes, deadline = b"", 0, time.monotonic() + self._download_s
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else 0
        if total > self._max_bytes:
            raise self._too_large()
        try:
            with path.open("wb") as file:
                for part in answer.iter_bytes():
                    n_bytes += len(part)
                    if n_bytes > self._max_bytes:
                        raise self._too_large()
                    if self._stop.is_set():
                        raise SeedingStoppedError(_STOPPED)
                    if time.monotonic() > deadline:
                        raise self._unavailable(f"has not sent everything after {self._download_s:g} s")
                    head += part[: _HEAD_BYTES - len(head)]
                    file.write(part)
                    self._progress("fetching the feed, MB", n_bytes // 10**6, total // 10**6)
        except OSError as error:
            raise FeedError(f"{path} cannot be written ({error.strerror})", hint="set TMPDIR") from None
        if not n_bytes:
            raise self._unavailable("gives nothing: the answer is empty")
        return head

    def _check_status(self, answer: httpx.Response) -> None:
        code = answer.status_code
        if answer.is_success:
            return
        said = f"answers {code} {answer.reason_phrase}".strip()
        if code in _BUSY:
            raise self._unavailable(said)
        if code in (401, 403, 407):
            raise FeedError(
                f"{self.shown} {said}", hint="it wants a key or a password: https://user:password@host/..., or ?key=..."
            )
        raise FeedError(f"{self.shown} {said}", hint="look the address up again where the agency publishes it")

    def _too_large(self) -> FeedError:
        return FeedError(f"{self.shown} gives more than {self._max_bytes / 1e6:g} MB: that is no GTFS feed")

    def _unavailable(self, what: str) -> FeedUnavailableError:
        return FeedUnavailableError(f"{self.shown} {what}", hint="try again later, or give a file")

    def _what_it_is(self, head: bytes, answer: httpx.Response) -> str:
        text = head.decode("utf-8", "replace")
        start = text.lstrip("\ufeff \t\r\n").lower()
        if start.startswith(("<!doctype html", "<html")) or "<title" in start:
            title = _TITLE.search(text)
            return "a web page" + (f" ({self._cut(html.unescape(title[1]))!r})" if title else "")
        if start.startswith(("{", "[")):
            return f"JSON ({self._cut(text)!r})"
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        return f"something else ({self._cut(kind)!r}, beginning with {head[:16]!r})"

    def _cut(self, text: str) -> str:
        """One short line of what others say, without the keys that we sent them."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, "...")
        line = " ".join(text.split())
        return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}..."

    def _secrets(self) -> set[str]:
        parts = {self._url.username, self._url.password, *self._url.params.values()}
        return {part for part in parts if len(part) >= MIN_SECRET} | ({self._url.query.decode()} - {""})


def shown_address(url: httpx.URL) -> str:
    """An address without user, password, query and fragment: they may hold keys."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None)) + ("?..." if url.query else "")
