"""What a place has to offer that keeps a GTFS feed: its newest version, if that is not the one already known."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What tells one version of a feed from the next.

    Attributes
    ----------
    digest : str
        SHA-256 of the content, in hexadecimal digits.
    etag, last_modified : str or None
        What the server said of it, to be asked about again; None for files.
    stamp : str or None
        Modification times and sizes of files: the same stamp is the same content, without reading it.
    """

    digest: str
    etag: str | None = None
    last_modified: str | None = None
    stamp: str | None = None


@dataclass(frozen=True, slots=True)
class FoundFeed:
    """A version that lies on this machine: a zip file or a folder at ``path``."""

    path: Path
    version: Version


class FeedSource(Protocol):
    """A place that has one feed, in one version after another."""

    @property
    def shown(self) -> str:
        """The place for messages: no credentials."""

    @property
    def keeps_secrets(self) -> bool:
        """Whether the place holds more than `shown` tells."""

    def look(self, known: Version | None) -> AbstractContextManager[FoundFeed | None]:
        """Get the feed, unless it is a known version; it is there inside the context only.

        Parameters
        ----------
        known : Version, optional
            None gets whatever there is.

        Raises
        ------
        FeedError
            If there is nothing that could be a feed.
        FeedUnavailableError
            If the place does not answer; a later look may work.
        """


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
