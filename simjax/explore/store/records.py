"""Files that are never half there, and CSV tables as records of bytes."""

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
    """Write a file so that at any moment either its old content is there or all of the new one.

    Raises:
        SimjaxError: it cannot be written.
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
    """Tell an `OSError` inside in one line (`SimjaxError`) with the path."""
    try:
        yield
    except OSError as error:
        raise SimjaxError(f"{path}: cannot write it: {error.strerror}") from error


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        SimjaxError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SimjaxError(f"{path}: cannot read it: {error.strerror}") from error


def append_whole(path: Path, content: bytes, header: bytes) -> None:
    """Add to a file, after a header when it is new or empty, and return when it is on disk. After an error the file is as it was.

    Raises:
        SimjaxError: it cannot be written.
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
    """Rows as the lines of a CSV; floats as their repr, None as an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def records(content: bytes) -> Iterator[bytes]:
    """The records of a CSV as they stand, with their ends; a last one without its end is left out. Quoted cells may hold line breaks."""
    found = b""
    for line in io.BytesIO(content):
        found += line
        if line.endswith(b"\n") and found.count(b'"') % 2 == 0:
            yield found
            found = b""


def cells(record: bytes) -> list[str]:
    """The texts in a record."""
    return next(csv.reader([record.decode(errors="replace")]))
