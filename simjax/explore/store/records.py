"""CSV tables as records of bytes, each with a checksum in its last cell."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def encode(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV lines; floats as their repr, None as an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def records(content: bytes) -> Iterator[bytes]:
    """The records of a CSV, unparsed, with their line ends; an incomplete last one is left out. Quoted cells may hold line breaks."""
    found = b""
    for line in io.BytesIO(content):
        found += line
        if line.endswith(b"\n") and found.count(b'"') % 2 == 0:
            yield found
            found = b""


def cells(record: bytes) -> list[str]:
    """The cells of a record; none if it is no CSV."""
    try:
        return next(csv.reader([record.decode(errors="replace")]), [])
    except csv.Error:
        return []


CHECK = "crc32"
"""Header of the column of checksums."""


def sealed(record: bytes) -> bytes:
    """A record with a last cell for the checksum of the others: x and eight hexadecimal digits, which no reader takes for a number."""
    content = record.rstrip(b"\r\n")
    return b"%s,x%08x\n" % (content, zlib.crc32(content))


def unsealed(record: bytes) -> bytes | None:
    """A record of `sealed` without its checksum; None if the checksum is not that of the other cells.

    Quotes and line ends may be those of another program.
    """
    for read in (lambda: record, lambda: encode([cells(record)])):  # the second takes ten times as long
        content = read().rstrip(b"\r\n")
        found = content.rpartition(b",")[0]
        if sealed(found) == content + b"\n":
            return found + b"\n"
    return None
