"""What the overrides in a sweep's directory may do: the directory may come from somebody else, so they are data and nothing more.

They set options of a point. They choose no folder of results, read no environment variable, and no file but those that were there when the
sweep began, with the content that they had then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simjax.disk.files import sha256_of
from simjax.errors import SimjaxError
from simjax.explore.from_config import base_of
from simjax.explore.points import Points
from simjax.explore.values import plain, read_override, shortened

_REFERENCE = re.compile(r"\$\{\.*\w+(\.\w+|\[\w+\])*\}")  # to another option; whatever else is interpolated reads more than that
_GROUPS = ("cluster", "scheduler", "workload")


def named_files(base: Sequence[str], points: Points) -> dict[str, str]:
    """The files and folders that the overrides of a sweep name, with the SHA-256 of their content.

    A word that is no path of an existing file, such as the name of a shipped model, is none of them; nor is a folder without a slash.
    """
    found = {}
    for text in sorted(_texts(base, points)):
        path = _path(text)
        if path is not None and (path.is_file() or path.is_dir()):
            found[text] = sha256_of(path)
    return found


def check_recorded(file: Path, info: Mapping[str, Any], points: Points) -> None:
    """Raise for overrides of a stored sweep that do more than set options of a point.

    Args:
        file: its `sweep.json`, for messages.
        info: the content of that file.
        points: its points.

    Raises:
        SimjaxError: an override sets an option of the output, interpolates anything but another option, or names a file that was not there
            when the sweep began, or has changed since.
    """
    base = info["base"]
    if others := [override for override in base if override not in base_of([override])]:
        raise SimjaxError(f"{file}: {shortened(others[0])}: this is no option of a point; a sweep's directory cannot choose it")
    for override in base:
        key, _, value = override.partition("=")
        if key.lstrip("+") in _GROUPS and ("@" in key or ".." in value or value.startswith("/")):
            raise SimjaxError(f"{file}: {shortened(override)}: presets are named, not given as paths")
    for text in sorted(_texts(base, points)):
        if "${" in _REFERENCE.sub("", text):
            raise SimjaxError(f"{file}: {shortened(text)!r} asks for more than another option; a sweep's directory cannot do that")
        path = _path(text)
        if path is None or not path.exists():
            continue  # whoever reads it says so
        if text not in info["files"] or not (path.is_file() or path.is_dir()):
            raise SimjaxError(f"{file}: it names {text}, which was not there when the sweep began; sweep anew, with the file or without it")
        if info["files"][text] != sha256_of(path):
            raise SimjaxError(f"{text}: changed since the sweep in {file.parent} began; put it back, or sweep anew in another directory")


def _texts(base: Sequence[str], points: Points) -> set[str]:
    """All texts in the values of overrides, as they are and as Hydra reads them."""
    values = [override.partition("=")[2] for override in base]
    read = [_value(override) for override in base]
    return {text for value in (values, read) for text in _within(value)} | {text for row in points.rows for text in _within(row)}


def _value(override: str) -> Any:
    try:
        return plain(read_override(override).value())
    except SimjaxError:
        return None  # it is reported where it is used


def _within(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _within(pair)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _within(inner)


def _path(text: str) -> Path | None:
    """The path that a text may be; None for words, and for texts that no file system takes as a name."""
    try:
        path = Path(text).expanduser()
        return path if path.exists() and (path.name != text or not path.is_dir()) else None
    except (OSError, ValueError, RuntimeError):
        return None
