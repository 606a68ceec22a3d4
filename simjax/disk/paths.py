"""Directories of the shipped configuration and profiles, and those of the user's own.

The shipped ones are next to the modules if installed, in the checkout if editable. Own ones are named by `SIMJAX_CONFIG_DIR`, several with
the separator of `PATH` between them, and by `--config-dir`: `GROUP/NAME.yaml` in them is a preset, `hardware/NAME.yaml` a device,
`nodes/NAME.yaml` a type of node, `models/NAME.json` a model, and `latency/DEVICE/MODEL.yaml` a latency profile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simjax.errors import SimjaxError

_PACKAGE = Path(__file__).resolve().parent.parent
VARIABLE = "SIMJAX_CONFIG_DIR"


def _shipped(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


CONF = _shipped("conf")
PROFILES = _shipped("profiles")


def user_folders() -> tuple[Path, ...]:
    """The folders of the user's own files, the first of which that has a file wins.

    Raises:
        SimjaxError: one of them is no folder.
    """
    found = tuple(Path(name).expanduser() for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name)
    for folder in found:
        if not folder.is_dir():
            raise SimjaxError(f"{folder}: no such folder (--config-dir, {VARIABLE})")
    return found


def in_user_folders(name: str) -> Path | None:
    """The first file of that name, such as "hardware/mine.yaml", in the user's folders."""
    return next((path for folder in user_folders() if (path := folder / name).is_file()), None)


def user_files(pattern: str) -> list[Path]:
    """The files in the user's folders that match a pattern, such as "hardware/*.yaml", those of the first folder first."""
    return [path for folder in user_folders() for path in sorted(folder.glob(pattern))]


@contextmanager
def with_folders(folders: list[str]) -> Iterator[None]:
    """Look into these folders, too, and first; the processes that are started meanwhile do the same.

    Raises:
        SimjaxError: a folder does not exist.
    """
    before = os.environ.get(VARIABLE)
    if folders:
        os.environ[VARIABLE] = os.pathsep.join([*folders, *([before] if before else [])])
    try:
        user_folders()
        yield
    finally:
        if folders:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before
