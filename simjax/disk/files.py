"""Writing of files: every file that simjax writes goes through here, whole or not at all, and never through a link.

A file is written beside its target under a temporary name and then takes the target's place. A target that is a symbolic or hard link is
itself replaced: a folder of results from somebody else may hold links to files elsewhere, and these must not be touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.errors import SimjaxError

if TYPE_CHECKING:
    import pandas as pd

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has neither it nor links that everybody may make
_BINARY = getattr(os, "O_BINARY", 0)
_CHUNK = 2**20  # bytes read at once
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

temporary: set[Path] = set()
"""Files of this process that are not to outlive it."""


def write_file(path: str | Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write a file such that at any moment it has either its old content or all of the new one.

    Args:
        path: the file; a link of this name is replaced, not followed.
        content: its content; text is written as UTF-8 with the line ends that it has.
        sync: whether to wait until it is on disk, for files that must outlive a power failure.

    Raises:
        SimjaxError: the file cannot be written (a full disk, no permission); it is as it was.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with writing(path):
        mode = _mode_of(path)
        temporary.add(unfinished)
        try:
            unfinished.unlink(missing_ok=True)  # of a killed process that had this number
            file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW | _BINARY, 0o666)
            with os.fdopen(file, "wb") as out:
                out.write(data)
                out.flush()
                if sync:
                    os.fsync(out.fileno())
            if mode is not None:
                unfinished.chmod(mode)
            unfinished.replace(path)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            temporary.discard(unfinished)


def _mode_of(path: Path) -> int | None:
    """The permissions that a new file takes over from the one it replaces; None for those of any new file.

    Raises:
        PermissionError: the file is there and write-protected.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    if not os.access(path, os.W_OK):
        raise PermissionError(13, "it is write-protected", str(path))
    return stat.S_IMODE(found.st_mode)


def remove_temporary() -> None:
    """Remove the temporary files of this process, which is about to end at once."""
    for path in list(temporary):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def append_file(path: Path, content: bytes, header: bytes) -> None:
    """Append to a file, after a header if it is new or empty, and return once it is on disk. After an error the file is unchanged.

    Raises:
        SimjaxError: the file cannot be written, or is a link.
    """
    with writing(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | NO_FOLLOW | _BINARY, 0o666)
        with os.fdopen(file, "ab", buffering=0) as out:
            refuse_links(file, path)
            start = out.seek(0, os.SEEK_END)
            left = memoryview(content if start else header + content)
            try:
                while left:
                    left = left[out.write(left) :]
                os.fsync(out.fileno())
            except BaseException:  # a full disk, Ctrl-C
                out.truncate(start)
                raise


def refuse_links(file: int, path: Path) -> None:
    """Raise unless an open file is a regular one with a single name: what is written to it would also appear elsewhere.

    Raises:
        SimjaxError: the file has other names, or is a device or a pipe.
    """
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise SimjaxError(f"{path}: cannot write it: it is not a plain file; remove it")
    if found.st_nlink > 1:
        raise SimjaxError(f"{path}: cannot write it: it is a link to a file elsewhere; put a copy in its place")


def is_link(path: Path) -> bool:
    """Whether a path is a symbolic link, or one of several names of a file."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` in the block into a one-line `SimjaxError` with the path."""
    try:
        yield
    except OSError as error:
        linked = path.is_symlink() and not path.is_dir()
        why = "it is a symbolic link; put a copy of the file in its place" if linked else error.strerror or str(error)
        raise SimjaxError(f"{path}: cannot write it: {why}") from error


def make_folder(path: Path) -> None:
    """Create a folder and those above it; one that is there is left as it is.

    Raises:
        SimjaxError: it cannot be created.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        SimjaxError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SimjaxError(f"{path}: cannot read it: {error.strerror}") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, or of the files in a folder with their names.

    Raises:
        SimjaxError: a file cannot be read.
    """
    found = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(inner for inner in path.rglob("*") if inner.is_file()):
        if file != path:
            found.update(str(file.relative_to(path)).encode() + b"\0")
        try:
            with file.open("rb") as content:
                while chunk := content.read(_CHUNK):
                    found.update(chunk)
        except OSError as error:
            raise SimjaxError(f"{file}: cannot read it: {error.strerror}") from error
    return found.hexdigest()


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write strict JSON, one key a line; NaN and infinity raise ValueError, because they are a bug in the code that made the content."""
    write_file(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV without its index; floats with the fewest digits that read back to the same double, texts by `cell`."""
    texts = {name: column.map(cell) for name, column in table.items() if column.dtype == object or str(column.dtype) in ("string", "str")}
    write_file(path, table.assign(**{str(name): column for name, column in texts.items()}).to_csv(index=False, lineterminator="\n"))


def cell(value: Any) -> Any:
    """The cell of a value in a CSV table: a text that a spreadsheet would take for a formula gets an apostrophe in front.

    Numbers stay as they are. `text_of_cell` takes the apostrophe away again.
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value


def text_of_cell(text: str) -> str:
    """The text that `cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text, 1) and not _NUMBER.fullmatch(text[1:]) else text
