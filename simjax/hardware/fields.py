"""Fields of device and node files: numbers within their ranges, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.hardware.ranges import RANGES


def number(raw: dict[str, Any], key: str) -> float:
    """A number that is not negative.

    Raises:
        ValueError: it is none, or lies outside its range.
    """
    try:
        value = float(raw[key])
    except (TypeError, ValueError):
        value = -1.0
    if value < 0:
        raise ValueError(f"{key} must be a number that is not negative, got {raw[key]!r}")
    RANGES[key].check(key, value)
    return value


def optional(raw: dict[str, Any], key: str) -> float | None:
    """A number, None where it is left out."""
    return None if raw.get(key) is None else number(raw, key)


def key_of(name: str) -> str:
    """A name as it is looked up: case, spaces, `-` and `_` do not matter."""
    return "".join(c for c in name.lower() if c.isalnum())


def refuse_missing(where: str, missing: Iterable[str], example: str) -> None:
    """Raise for the fields that a file lacks, all of them at once.

    Args:
        where: the file, as in "device file mine.yaml".
        missing: the fields.
        example: a shipped file that has all of them, below `profiles/`.

    Raises:
        SimjaxError: there are such.
    """
    names = [f"'{name}'" for name in missing]
    if len(names) == 1:
        raise SimjaxError(f"{where}: field {names[0]} is missing")
    if names:
        raise SimjaxError(f"{where}: fields {', '.join(names)} are missing; profiles/{example} has all of them")


def file_named(text: str, beside: Path | None = None) -> Path | None:
    """The file that a text names, relative to another file where there is one; None for other names."""
    if not text.endswith((".yaml", ".yml")):
        return None
    return Path(text) if beside is None else beside.parent / text
