"""What takes long to prepare and depends on its inputs alone, kept on disk between processes under the content of those inputs.

Entries are in one folder, `SIMJAX_CACHE` or $XDG_CACHE_HOME/simjax/stored; `SIMJAX_CACHE=off` keeps none. The name of an entry is a hash of
its inputs, of simjax's sources and of the releases of Python and of the libraries whose objects it holds: a change of any of them makes
another entry, so nothing is ever out of date. The oldest ones go when all together exceed `LARGEST`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import platform
import re
import sys
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from simjax.disk.files import write_file
from simjax.errors import SimjaxError

_T = TypeVar("_T")

LARGEST = 256 * 2**20  # bytes of all entries together
LIBRARIES = ("numpy", "scipy", "jax", "jaxlib", "omegaconf", "hydra-core")
_HASH = 32


def stored(kind: str, inputs: Iterable[str | bytes], make: Callable[[], _T]) -> _T:
    """What `make()` returns, or an equal object that an earlier process has kept.

    Args:
        kind: first part of the name of the entry.
        inputs: everything that the object depends on, besides simjax itself.
        make: makes the object, which must be one that `pickle` can write; what it raises is not kept.
    """
    folder = _folder()
    if folder is None:
        return make()
    path = folder / f"{kind}-{_key(inputs)}.pickle"
    found = _read(path)
    if found is None:
        found = (make(),)
        _write(path, found)
    return found[0]


def keeps() -> bool:
    """Whether there is a folder for entries."""
    return _folder() is not None


@functools.cache
def processor() -> str:
    """Identity of the processor, on which compiled programs depend: hosts with different processors may share a home directory."""
    info = Path("/proc/cpuinfo")
    features = re.search(r"^(?:flags|Features)\s*:.*$", info.read_text(), re.MULTILINE) if info.exists() else None
    return f"{platform.machine()}-{zlib.crc32((features[0] if features else platform.processor()).encode()):08x}"


def _folder() -> Path | None:
    given = os.environ.get("SIMJAX_CACHE")
    if given == "off":
        return None
    try:
        return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simjax" / "stored"
    except RuntimeError:  # there is no home
        return None


def _key(inputs: Iterable[str | bytes]) -> str:
    found = hashlib.sha256(_surroundings())
    for part in inputs:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


@functools.cache
def _surroundings() -> bytes:
    """A hash of simjax's sources, of Python and of the libraries."""
    found = hashlib.sha256(sys.version.encode())
    for name in LIBRARIES:
        found.update(f"{name} {version(name)}\n".encode())
    package = Path(__file__).parent.parent
    for file in sorted(package.rglob("*.py")):
        found.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return found.digest()


def _read(path: Path) -> tuple[Any] | None:
    """The object of an entry; None if there is none, or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, data = content[:_HASH], content[_HASH:]
    if hashlib.sha256(data).digest() != digest:
        return None
    return pickle.loads(data)


def _write(path: Path, found: tuple[Any]) -> None:
    data = pickle.dumps(found, protocol=pickle.HIGHEST_PROTOCOL)
    with suppress(SimjaxError, OSError):  # a full disk, no permission: the next process makes it again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, hashlib.sha256(data).digest() + data)
        _tidy(path.parent)


def _tidy(folder: Path) -> None:
    """Remove the oldest entries beyond `LARGEST`."""
    total, entries = 0, []
    for entry in folder.glob("*.pickle"):
        with suppress(OSError):  # another process has removed it
            entries.append((entry.stat().st_mtime, entry.stat().st_size, entry))
    for _, size, entry in sorted(entries, reverse=True):
        total += size
        if total > LARGEST:
            entry.unlink(missing_ok=True)
