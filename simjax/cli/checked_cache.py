"""Compiled programs on disk with checksums: jax would run a damaged entry, or one that stands for another program."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from simjax.disk.files import write_file
from simjax.errors import SimjaxError

_MARK = b"simjax-sha256:"  # then 32 bytes; jax's own decompression ignores what follows an entry
_SUFFIX = "-cache"
_HASH = 32
_LENGTH = len(_MARK) + _HASH


def check_entries(own: bool) -> None:
    """Put a checksum on the entries of this process's compilation cache, and check those that it reads.

    Does nothing with a version of jax that has another cache, or one that limits the size of its cache.

    Args:
        own: whether only simjax writes into the folder; then an entry without a checksum is compiled anew, and programs of the engine are
            kept by `simjax.engine.executables`, not here.
    """
    try:
        from jax._src import compilation_cache

        from simjax.engine.executables import KEPT, keep_executables

        compilation_cache._initialize_cache()
        cache: Any = compilation_cache._cache
        if cache is not None and type(cache).__name__ == "LRUCache" and not cache.eviction_enabled:
            checked = CheckedCache(Path(str(cache.path)), own, f"jit_{KEPT}-" if own else None)
            compilation_cache._cache = checked  # pyright: ignore[reportAttributeAccessIssue]
            keep_executables(own)
    except (ImportError, AttributeError):
        return


class CheckedCache:
    """jax's `CacheInterface` over a folder with a file for each program, whose name is that of jax's own cache.

    Args:
        path: the folder.
        own: as in `check_entries`.
        elsewhere: beginning of the keys of programs that are kept elsewhere, and so are never found and never written here.

    Attributes:
        discarded: entries that were damaged, or stood under the name of another one; they are removed and compiled anew.
    """

    def __init__(self, path: Path, own: bool, elsewhere: str | None = None) -> None:
        self._path, self._own, self._elsewhere = path, own, elsewhere
        self.discarded = 0

    def get(self, key: str) -> bytes | None:
        """The entry under a key; None if there is none that can be trusted."""
        if self._is_elsewhere(key):
            return None
        file = self._path / f"{key}{_SUFFIX}"
        try:
            content = file.read_bytes()
        except OSError:
            return None
        entry, mark, digest = content[:-_LENGTH], content[-_LENGTH:-_HASH], content[-_HASH:]
        if mark == _MARK and digest == _digest(key, entry):
            return entry
        if mark != _MARK and not self._own and content:
            return content  # jax wrote it
        self._discard(file, told=mark == _MARK or not content)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Write an entry, also in the place of another one: jax asks for it only if that could not be used."""
        if self._is_elsewhere(key):
            return
        with suppress(SimjaxError):  # a full disk: the next process compiles
            write_file(self._path / f"{key}{_SUFFIX}", value + _MARK + _digest(key, value))

    def _is_elsewhere(self, key: str) -> bool:
        return self._elsewhere is not None and key.startswith(self._elsewhere)

    def _discard(self, file: Path, told: bool) -> None:
        with suppress(OSError):
            file.unlink()
        self.discarded += 1
        if told and self.discarded == 1:
            from simjax.cli.output import warn

            warn([f"{file.parent}: a compiled program in this cache was damaged; it is compiled anew"])


def _digest(key: str, value: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + value).digest()
