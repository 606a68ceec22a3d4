"""Text files whatever their container: plain, gzip or zstd; UTF-8 or UTF-16; and the dialect of a CSV file."""

from __future__ import annotations

import csv
import gzip
import io
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from simjax.errors import SimjaxError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = (",", ";", "\t", "|")
_SNIFFED_LINES = 200  # comment lines before the header of a CSV file are among these
_SEP = re.compile(r"sep=(.)$")  # Excel's hint


@dataclass(frozen=True)
class Dialect:
    """The form of a CSV file.

    Attributes:
        names: names of the columns, as in the file.
        delimiter: character between fields.
        skip: number of physical lines before the header, or before the first row where the header is a comment.
        headed: whether the next line is the header.
    """

    names: tuple[str, ...]
    delimiter: str = ","
    skip: int = 0
    headed: bool = True

    @property
    def decimal_comma(self) -> bool:
        """Whether numbers may be written 1,5: spreadsheets choose the semicolon where the comma is the decimal mark."""
        return self.delimiter == ";"


def open_text(path: Path) -> IO[str]:
    """A text stream that keeps line ends for the csv module, without a byte-order mark; containers are told by their first bytes.

    Raises:
        SimjaxError: the file is zstd-compressed and pyarrow is missing.
    """
    raw: Any = _open_bytes(path)
    start = raw.peek(2)[:2]
    return io.TextIOWrapper(raw, encoding="utf-16" if start in _UTF16 else "utf-8-sig", newline="")


def is_comment(line: str) -> bool:
    """Whether a line of a text file is a comment."""
    return line.lstrip().startswith("#")


def dialect_of(lines: IO[str]) -> Dialect:
    """The dialect of a CSV file from its first lines.

    The header is the first line that is neither blank nor a comment, unless it holds only numbers and the comment before it has as many
    names (numpy's `savetxt` writes headers so).
    """
    comment, hinted = "", None
    for skip, line in enumerate(islice(lines, _SNIFFED_LINES)):
        text = line.strip("\r\n")
        if hint := _SEP.match(text):
            hinted = hint[1]
        elif is_comment(text):
            comment = text.lstrip("# \t")
        elif text.strip():
            delimiter = hinted or max(_DELIMITERS, key=text.count)
            fields, before = text.split(delimiter), [name.strip() for name in comment.split(delimiter)]
            if len(before) == len(fields) > 1 and all(map(_is_number, fields)):
                return Dialect(tuple(before), delimiter, skip, headed=False)
            return Dialect(_names(text, delimiter), delimiter, skip)
    return Dialect(())


def _names(header: str, delimiter: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in next(csv.reader([header], delimiter=delimiter)))


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _open_bytes(path: Path) -> Any:
    """The uncompressed bytes of a file, as a stream with `peek`."""
    with path.open("rb") as raw:
        start = raw.read(4)
    if start[:2] == _GZIP:
        return gzip.open(path, "rb")
    if start != _ZSTD:
        return path.open("rb")
    try:
        import pyarrow
    except ImportError:
        raise SimjaxError(f'{path}: reading zstd needs pyarrow: pip install "simjax[parquet]", or decompress it: zstd -d') from None
    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))  # type: ignore[arg-type]
