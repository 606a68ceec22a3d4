"""Words for messages: counts of things and ranges of numbers."""

from __future__ import annotations

from collections.abc import Iterable

_RANGES = 8  # ranges that are shown; the others are counted


def counted(count: int, things: str) -> str:
    """The count with its noun: `1 point`, `2,048 points`; `things` is the plural, which ends in -s."""
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def ranges(numbers: Iterable[int]) -> str:
    """Distinct numbers as ranges: `0-7, 9, 12-13`; the first eight ranges, and how many more there are."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    said = [str(first) if first == last else f"{first}-{last}" for first, last in found[:_RANGES]]
    return ", ".join([*said, *([f"and {len(found) - _RANGES:,} more ranges"] if len(found) > _RANGES else [])])


def printable(text: str) -> str:
    """A text whose control characters, which a terminal would obey, are written as escapes; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
