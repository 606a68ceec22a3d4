"""A lock file that admits one writer per directory, names its holder, and cannot be held by a dead process."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from simjax.disk.files import NO_FOLLOW, refuse_links, temporary
from simjax.errors import SimjaxError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class DirectoryLock:
    """A lock that is held from its creation until `release`, or until the process ends in any way.

    The file holds {"pid", "host"} of the holder. The lock itself is the operating system's lock on the open file (`flock`), which ends with
    its process: a file that a killed process left is taken over at once, even if another process has its id by now. Where the file system
    has no such locks, a file that names a live process of this host, or any process of another host, counts as locked.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            SimjaxError: another process holds it (the message names it), or the file cannot be written.
        """
        self.path = path
        try:
            self._file: int | None = self._take()
        except OSError as error:
            why = "it is a symbolic link; remove it" if path.is_symlink() else error.strerror
            raise SimjaxError(f"{path}: cannot write it: {why}") from error

    def _take(self) -> int:
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o644)
            try:
                if _same_file(file, self.path):
                    refuse_links(file, self.path)
                self._lock(file)
                if _same_file(file, self.path):  # else its holder removed it between our opening and locking
                    os.ftruncate(file, 0)
                    os.lseek(file, 0, os.SEEK_SET)
                    os.write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                    temporary.add(self.path)
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _lock(self, file: int) -> None:
        try:
            if fcntl is None:
                raise OSError
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._refusal(_holder(file), "wait for it, or stop it") from None
        except OSError:
            holder = _holder(file)
            if holder and not _is_dead(holder):
                raise self._refusal(holder, f"if that process has ended, remove {self.path}") from None

    def _refusal(self, holder: dict[str, Any], remedy: str) -> SimjaxError:
        who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        return SimjaxError(f"{self.path.parent}: {who} is running this sweep; {remedy}")

    def release(self) -> None:
        """Release the lock and remove its file; a second call has no effect."""
        if self._file is not None:
            with suppress(OSError):
                os.ftruncate(self._file, 0)  # where an open file cannot be removed, it must not name a holder
                self.path.unlink()  # before the lock ends: afterwards the file may belong to another process
            os.close(self._file)
            self._file = None
            temporary.discard(self.path)


def _same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _holder(file: int) -> dict[str, Any]:
    """The holder according to the file; empty if the file is empty or incomplete."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        found = json.loads(os.read(file, 1000))
        return {"pid": int(found["pid"]), "host": str(found["host"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder is known to have ended: a process id of this host that does not exist."""
    if holder["host"] != socket.gethostname() or os.name != "posix":
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # a process of another user
    return False
