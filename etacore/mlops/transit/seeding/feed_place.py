"""From what somebody typed to the source of a GTFS feed; files and folders are looked at here."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from etacore.errors import ConfigError, FeedUnavailableError
from etacore.mlops.progress import Progress, silent
from etacore.mlops.transit.seeding.feed_source import FeedSource, FoundFeed, Version, file_digest

FEED_SUFFIXES: Final = (".txt", ".geojson")
"""Of the files in a folder that are the feed."""
SETTLE_S: Final = 1.0

_SCHEME: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


def feed_source(place: str, *, stop: threading.Event | None = None, progress: Progress = silent) -> FeedSource:
    """Make a source of what somebody typed: a zip file, a folder, or an http(s) address.

    Parameters
    ----------
    place : str
        What was typed.
    stop : threading.Event, optional
        Once it is set, a download ends.
    progress : Progress, optional
        Told how much of a download has come.

    Raises
    ------
    ConfigError
        If it is an address of another kind.
    """
    scheme = _SCHEME.match(place)
    if scheme is None:
        return FileSource(Path(place))
    if scheme[1].lower() not in ("http", "https"):
        raise ConfigError(
            f"a feed is not fetched by {scheme[1].lower()}://", hint="give an http(s) address, a zip file or a folder"
        )
    from etacore.mlops.transit.seeding.feed_download import AddressSource

    return AddressSource(place, stop=stop, progress=progress)


class FileSource:
    """A zip file, or a folder with text files.

    Parameters
    ----------
    path : Path
        Of the file or folder.
    settle_s : float
        A version that follows another one is taken when it has not changed for this long: somebody may be copying it.
    """

    def __init__(self, path: Path, *, settle_s: float = SETTLE_S) -> None:
        self._path: Final = path
        self._settle_s: Final = settle_s

    @property
    def shown(self) -> str:
        """See `FeedSource`."""
        return str(self._path)

    @property
    def keeps_secrets(self) -> bool:
        """See `FeedSource`."""
        return False

    @contextmanager
    def look(self, known: Version | None) -> Iterator[FoundFeed | None]:
        """See `FeedSource`."""
        stamp = self._stamp()
        if known is not None and known.stamp is not None:
            if known.stamp == stamp:
                yield None
                return
            time.sleep(self._settle_s)
            self._must_be(stamp)
        yield FoundFeed(self._path, Version(digest=self._digest(), stamp=stamp))
        self._must_be(stamp)

    def _must_be(self, stamp: str) -> None:
        if self._stamp() != stamp:
            raise FeedUnavailableError(
                f"{self._path} changes while it is read",
                hint="try again when it is complete; best is to write it elsewhere and rename it",
            )

    def _files(self) -> list[Path]:
        if self._path.is_dir():
            return sorted(p for p in self._path.rglob("*") if p.suffix.lower() in FEED_SUFFIXES and p.is_file())
        if not self._path.exists():
            raise FeedUnavailableError(
                f"{self._path} does not exist", hint="give a GTFS zip file or a folder with its text files"
            )
        return [self._path]

    def _stamp(self) -> str:
        """Modification times and sizes."""
        with self._readable():
            stats = [(path, path.stat()) for path in self._files()]
        return "\n".join(f"{path} {stat.st_mtime_ns} {stat.st_size} {stat.st_ino}" for path, stat in stats)

    def _digest(self) -> str:
        with self._readable():
            files = self._files()
            if files == [self._path]:
                return file_digest(self._path)
            digest = hashlib.sha256()
            for path in files:
                digest.update(f"{path.relative_to(self._path)}\0{file_digest(path)}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FeedUnavailableError(f"{self._path} cannot be read ({error.strerror})") from None
