"""Files that are never left incomplete, and CSV tables as records of bytes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file such that at any moment it has either its old content or all of the new one.

    Raises:
        SimjaxError: the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    with writing(path):
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` in the block into a one-line `SimjaxError` with the path."""
    try:
        yield
    except OSError as error:
        raise SimjaxError(f"{path}: cannot write it: {error.strerror}") from error


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        SimjaxError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SimjaxError(f"{path}: cannot read it: {error.strerror}") from error


def append_whole(path: Path, content: bytes, header: bytes) -> None:
    """Append to a file, after a header if it is new or empty, and return once it is on disk. After an error the file is unchanged.

    Raises:
        SimjaxError: the file cannot be written.
    """
    with writing(path), path.open("ab", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        left = memoryview(content if start else header + content)
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except BaseException:  # a full disk, Ctrl-C
            file.truncate(start)
            raise


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
    """The cells of a record."""
    return next(csv.reader([record.decode(errors="replace")]))
