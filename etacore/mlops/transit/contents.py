"""What a file is, told by what is in it and not by its name."""

from __future__ import annotations

import codecs
import gzip
import zlib
from enum import Enum
from pathlib import Path
from typing import Final

from etacore.errors import FeedError

_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEAD: Final = 4096
_FOREIGN: Final = (
    (b"PK\x03\x04", "a zip file: unpack it first"),
    (b"PK\x05\x06", "an empty zip file"),
    (b"BZh", "a bzip2 file: unpack it first"),
    (b"\xfd7zXZ\x00", "an xz file: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd file: unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"SQLite format 3", "an SQLite database: export its table as CSV or Parquet"),
    (b"ARROW1", "an Arrow file: save it as Parquet"),
    (b"\x89HDF", "an HDF5 file: save it as Parquet or CSV"),
    (b"\x80\x04\x95", "a Python pickle, which is never opened: save it as Parquet or CSV"),
    (b"\x80\x05\x95", "a Python pickle, which is never opened: save it as Parquet or CSV"),
)


class Kind(Enum):
    """What can be read, and what cannot."""

    PARQUET = "a Parquet file"
    JSON = "JSON"
    TABLE = "a table as text"
    TEXT = "other text"
    MESSAGE = "a GTFS-Realtime message"
    OTHER = "something else"


def read_content(path: Path) -> bytes:
    """What is in a file, unpacked if it is gzip; of a gzip file that was cut off, what is there.

    Raises
    ------
    FeedError
        If it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FeedError(f"{path} cannot be read ({error.strerror or error})") from None
    while content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except EOFError:
            return _beginning(content)
        except (OSError, zlib.error) as error:
            raise FeedError(f"{path} cannot be read ({error})") from None
    return content


def kind_of(content: bytes, names: frozenset[str]) -> Kind:
    """What it is, as far as its beginning tells; `names` are those of the columns that a table would have."""
    if content.startswith(b"PAR1"):
        return Kind.PARQUET
    # A message begins with its header, a piece of known length, and that with the version.
    if content[:1] == content[2:3] == b"\n" and content[1:2] != b"\n":
        return Kind.MESSAGE
    if _foreign(content):
        return Kind.OTHER
    head = _head(content)
    if head[:1] in (b"{", b"["):
        return Kind.JSON
    first_line = head.split(b"\n", 1)[0].decode("latin-1")
    columns = {name.strip().strip('"') for name in first_line.replace(";", ",").replace("\t", ",").split(",")}
    if columns & names:
        return Kind.TABLE
    if content[:1] in (b"\x0a", b"\x12"):
        return Kind.MESSAGE
    return Kind.TEXT if _is_text(head) else Kind.OTHER


def described(content: bytes) -> str:
    """In words, what something is that cannot be read."""
    if not content:
        return "an empty file"
    if known := _foreign(content):
        return known
    head = _head(content)
    if head.startswith(b"PAR1"):
        return "a Parquet file that was cut off"
    if _is_text(head):
        return f"text that begins with {head[:40].decode('latin-1')!r}"
    return f"{len(content)} bytes of something else, or was cut off"


def _head(content: bytes) -> bytes:
    """The beginning, as UTF-8 if it says that it is UTF-16."""
    head = content[:_HEAD]
    if head.startswith(_UTF16):
        head = head.decode("utf-16", "ignore").encode()
    return head.removeprefix(_BOM).lstrip()


def _is_text(head: bytes) -> bool:
    return bool(head) and not any(byte < 9 for byte in head)


def _foreign(content: bytes) -> str | None:
    for magic, words in _FOREIGN:
        if content.startswith(magic):
            return words
    head = _head(content).lower()
    if head.startswith((b"<!doctype html", b"<html")) or (head.startswith(b"<") and b"<html" in head):
        return "an HTML page, as servers send with an error or to log in"
    if head.startswith((b"<?xml", b"<siri", b"<soap")):
        return "an XML document (SIRI is not read): ask for the GTFS-Realtime feed"
    return None


def _beginning(content: bytes) -> bytes:
    """Of a gzip file that was cut off, what is there."""
    try:
        return zlib.decompressobj(wbits=31).decompress(content)
    except zlib.error:
        return b""
