"""The state of a fit on disk, from which the same command goes on after an interrupt and ends as if there had been none."""

from __future__ import annotations

import hashlib
import io
import logging
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from simjax.disk.files import read_bytes, write_file
from simjax.errors import SimjaxError

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
"""Seconds between two writes at least: a quick fit writes nothing."""
_HASH = 32
_PROBLEM = "problem"


class NoCheckpoint:
    """No state on disk: a fit begins anew."""

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays of an interrupted fit of the same problem; None if there is none."""
        return None

    def save(self, steps: int, **arrays: Any) -> None:
        """Keep the arrays of a fit after a number of trial steps, if the last ones are old enough."""

    def remove(self) -> None:
        """Forget the fit, which is done."""


class Checkpoint(NoCheckpoint):
    """A file that holds the arrays of a fit after their SHA-256."""

    def __init__(self, path: Path, problem: str) -> None:
        """For the fit that `problem`, a hash of its data and options, stands for."""
        self.path, self.problem = path, problem
        self._written = time.monotonic()

    def load(self) -> dict[str, np.ndarray] | None:
        """See `NoCheckpoint`; what is damaged or of another problem is said and not used."""
        if not self.path.is_file():
            return None
        content = read_bytes(self.path)
        if hashlib.sha256(content[_HASH:]).digest() != content[:_HASH]:
            logger.warning("%s: damaged; the fit begins anew", self.path)
            return None
        try:
            with np.load(io.BytesIO(content[_HASH:]), allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
        except (ValueError, OSError, zipfile.BadZipFile):
            logger.warning("%s: not the state of a fit; the fit begins anew", self.path)
            return None
        if str(arrays.pop(_PROBLEM, "")) != self.problem:
            logger.warning("%s: of other measurements, options or versions; the fit begins anew", self.path)
            return None
        logger.warning("%s: the interrupted fit goes on after %d steps", self.path, int(arrays["steps"]))
        return arrays

    def save(self, steps: int, **arrays: Any) -> None:
        """See `NoCheckpoint`."""
        if time.monotonic() - self._written < INTERVAL_S:
            return
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, steps=steps, **{_PROBLEM: np.array(self.problem)}, **arrays)
        content = packed.getvalue()
        write_file(self.path, hashlib.sha256(content).digest() + content, sync=True)
        self._written = time.monotonic()

    def remove(self) -> None:
        """See `NoCheckpoint`.

        Raises:
            SimjaxError: the file cannot be removed.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise SimjaxError(f"{self.path}: cannot remove it: {error.strerror}") from error
