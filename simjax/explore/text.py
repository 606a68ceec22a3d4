"""What messages are made of: counts of things, numbers of points, options that can be pasted into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from hydra.core.override_parser.types import Quote, QuotedString

from simjax.errors import SimjaxError
from simjax.explore.values import parse_value

_RANGES = 8  # shown


def counted(count: int, things: str) -> str:
    """`1 point`, `2,048 points`; `things` is the plural, which ends in -s."""
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def ranges(numbers: Iterable[int]) -> str:
    """Different numbers in few words: `0-7, 9, 12-13`; the first eight ranges, and how many more there are."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    said = [str(first) if first == last else f"{first}-{last}" for first, last in found[:_RANGES]]
    return ", ".join([*said, *([f"and {len(found) - _RANGES:,} more ranges"] if len(found) > _RANGES else [])])


def option(key: str, text: str) -> str:
    """`key=text` as a word for a shell, in which Hydra finds this very text, whatever spaces, quotes or letters it has."""
    try:
        plain = parse_value(text) == text
    except SimjaxError:
        plain = False
    return shlex.quote(f"{key}={text if plain else QuotedString(text, Quote.double).with_quotes()}")
